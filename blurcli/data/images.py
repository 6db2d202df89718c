"""Images from files: folders, zip archives and npz arrays, decoded to uint8 of one size."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from blurcli.errors import UsageError, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

Images = NDArray[np.uint8]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder or an archive, in the order of their names."""

    place: Path
    names: tuple[str, ...]
    open: Callable[[str], IO[bytes]]

    def read(self, name: str) -> bytes:
        """The content of one of them; UserError naming it when it cannot be read."""
        try:
            with self.open(name) as file:
                return file.read()
        except Exception as error:  # encrypted, compressed in some strange way, damaged, not permitted
            raise UserError(f"{self.place / name}: cannot be read ({error}); repair or remove the file") from None


@contextmanager
def open_images(path: Path) -> Iterator[ImageFiles]:
    """The images below a folder, in a .zip file, or the one image file at `path`.

    Raises:
        UsageError: there is no such folder or file, or no image in it.
        UserError: a damaged archive.
    """
    if path.is_dir():
        names = [str(p.relative_to(path).as_posix()) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        yield _image_files(path, names, lambda name: (path / name).open("rb"))
    elif path.is_file() and path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                yield _image_files(path, archive.namelist(), archive.open)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path}: not a readable zip file ({error}); it may be cut short: fetch it again") from None
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        yield ImageFiles(path.parent, (path.name,), lambda name: path.open("rb"))
    elif path.exists():
        raise UsageError(f"{path}: neither a folder, a .zip file nor an image ({', '.join(SUFFIXES)})")
    else:
        raise UsageError(f"{path}: no such file or folder")


def _image_files(place: Path, names: list[str], open_: Callable[[str], IO[bytes]]) -> ImageFiles:
    # Hidden files and the resource forks that macOS puts into archives look like images by their names only.
    usable = [
        n for n in names if n.lower().endswith(SUFFIXES) and not any(p.startswith((".", "__MACOSX")) for p in n.split("/"))
    ]
    if not usable:
        raise UsageError(f"{place}: no images in it (looked for {', '.join(SUFFIXES)}, in sub-folders too)")
    return ImageFiles(place, tuple(sorted(usable)), open_)


def decode_all(files: ImageFiles, out: Images, progress: Progress) -> None:
    """Decode every file into `out`, (N, C, H, W) uint8, in several threads (Pillow decodes outside Python's lock)."""
    channels, height, width = out.shape[1:]

    def job(i: int) -> None:
        name = files.names[i]
        out[i] = decode(files.read(name), f"{files.place / name}", height, width, channels)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done, _ in enumerate(pool.map(job, range(len(files.names))), start=1):
            progress(done, len(files.names))
    finally:
        # After a broken file, the rest need not be read.
        pool.shutdown(cancel_futures=True)


def decode(content: bytes, name: str, height: int, width: int, channels: int) -> Images:
    """One image file as (C, H, W) uint8: turned upright, resized with antialiasing and cropped about its centre.

    An image that already has the size keeps its exact pixels. Transparency is laid over white; 16-bit grey is scaled
    from 0..65535 to 0..255.

    Raises:
        UserError: the content is no readable image; the text has `name`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return fit(_eight_bit(ImageOps.exif_transpose(image)), height, width, channels)
    except Exception as error:  # on damaged content decoders raise nearly anything
        raise UserError(f"{name}: not a readable image ({error}); repair or remove the file") from None


def fit(image: Image.Image, height: int, width: int, channels: int) -> Images:
    """An 8-bit image as (C, H, W) uint8, resized with antialiasing and cropped about its centre."""
    pixels = np.asarray(ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BICUBIC))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image, dtype=np.float64).clip(0, 65535) / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image
