"""Images from files: folders, zip archives and npz arrays, decoded to uint8 of one size."""

from __future__ import annotations

import io
import os
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from blurcli.errors import UsageError, UserError

_LARGEST_FILE = 1 << 28  # bytes of one image file
_LARGE = 1 << 24  # pixels of an image that is decoded alone, whatever the number of threads
_one_large = threading.Lock()
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see `decoding`

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Range = tuple[float, float]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder or an archive, in the order of their names."""

    place: Path
    names: tuple[str, ...]
    open: Callable[[str], IO[bytes]]
    size: Callable[[str], int]

    def read(self, name: str) -> bytes:
        """The content of one of them; UserError naming it when it cannot be read."""
        try:
            if self.size(name) > _LARGEST_FILE:
                raise ValueError(f"longer than {_LARGEST_FILE >> 20} MiB")
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
        yield _image_files(path, names, lambda name: (path / name).open("rb"), lambda name: (path / name).stat().st_size)
    elif path.is_file() and path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                yield _image_files(path, archive.namelist(), archive.open, lambda name: archive.getinfo(name).file_size)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path}: not a readable zip file ({error}); it may be cut short: fetch it again") from None
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        yield ImageFiles(path.parent, (path.name,), lambda name: path.open("rb"), lambda name: path.stat().st_size)
    elif path.exists():
        raise UsageError(f"{path}: neither a folder, a .zip file nor an image ({', '.join(SUFFIXES)})")
    else:
        raise UsageError(f"{path}: no such file or folder")


def _image_files(place: Path, names: list[str], open_: Callable[[str], IO[bytes]], size: Callable[[str], int]) -> ImageFiles:
    # Hidden files and the resource forks that macOS puts into archives look like images by their names only.
    usable = [
        n for n in names if n.lower().endswith(SUFFIXES) and not any(p.startswith((".", "__MACOSX")) for p in n.split("/"))
    ]
    if not usable:
        raise UsageError(f"{place}: no images in it (looked for {', '.join(SUFFIXES)}, in sub-folders too)")
    return ImageFiles(place, tuple(sorted(usable)), open_, size)


def decode_all(files: ImageFiles, out: Images, value_range: Range | None, max_broken: int, progress: Progress) -> list[int]:
    """Decode every file into `out`, (N, C, H, W) uint8, in several threads (Pillow decodes outside Python's lock).

    Returns:
        which files are broken; their places in `out` hold nothing of use.

    Raises:
        UserError: more than `max_broken` of them are; the text names the first ones.
    """
    channels, height, width = out.shape[1:]

    def job(i: int) -> UserError | None:
        name = files.names[i]
        try:
            out[i] = decode(files.read(name), f"{files.place / name}", height, width, channels, value_range)
        except UserError as error:
            return error
        return None

    broken: dict[int, UserError] = {}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for i, error in enumerate(pool.map(job, range(len(files.names)))):
            if error is not None:
                broken[i] = error
                if len(broken) > max_broken:
                    raise UserError("; ".join(map(str, broken.values())) + _allowance(max_broken))
            progress(i + 1, len(files.names))
    finally:
        # After one broken file too many, the rest need not be read.
        pool.shutdown(cancel_futures=True)
    if len(broken) == len(files.names):
        raise UserError(f"{files.place}: none of its {len(broken)} images can be read; the first: {broken[0]}")
    return list(broken)


def _allowance(max_broken: int) -> str:
    if max_broken:
        return f" (more than data.max_broken, {max_broken})"
    return ", or skip such files with --set data.max_broken=N; blurdiff data lists them"


def decode(content: bytes, name: str, height: int, width: int, channels: int, value_range: Range | None = None) -> Images:
    """One image file as (C, H, W) uint8: turned upright, resized with antialiasing and cropped about its centre.

    An image that already has the size keeps its exact pixels. Transparency is laid over white. Of an animation the first
    frame is taken.

    Args:
        content: of the file.
        name: of the file, for messages.
        height: in pixels.
        width: in pixels.
        channels: 1 for grey, 3 for colour.
        value_range: the values that become 0 and 255 in grey images of more than 8 bits, those beyond being clipped; None for
            (0, 65535). 8-bit images are taken as they are.

    Raises:
        UserError: the content is no readable image; the text has `name`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image, decoding(image):
            ImageOps.exif_transpose(image, in_place=True)
            return fit(_eight_bit(image, value_range), height, width, channels)
    except Exception as error:  # on damaged content decoders raise nearly anything
        raise UserError(f"{name}: not a readable image ({reason(error)}); repair or remove the file") from None


def reason(error: Exception) -> str:
    """What a decoder has to say of a broken image."""
    if isinstance(error, UnidentifiedImageError):  # whose text names only an address in memory
        return f"none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__


@contextmanager
def decoding(image: Image.Image) -> Iterator[None]:
    """To decode an image in; ValueError where it has more pixels than Pillow deems safe, of which Pillow only warns.

    Large images are decoded one at a time, since every thread would need the memory for one.
    """
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS or sys.maxsize
    if pixels > limit:
        raise ValueError(f"{image.width}x{image.height} pixels are more than the limit of {limit:,}")
    with _one_large if pixels > _LARGE else nullcontext():
        yield


def fit(image: Image.Image, height: int, width: int, channels: int) -> Images:
    """An 8-bit image as (C, H, W) uint8, resized with antialiasing, cropped about its centre, and laid over white."""
    wanted = "L" if channels == 1 else "RGB"
    if image.has_transparency_data:
        small = _fit(image if image.mode == "RGBA" else image.convert("RGBA"), height, width)
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert(wanted)
    else:
        small = _fit(image if image.mode == wanted else image.convert(wanted), height, width)
    pixels = np.asarray(small)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def is_deep(image: Image.Image) -> bool:
    """Whether its values are grey levels of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _eight_bit(image: Image.Image, value_range: Range | None) -> Image.Image:
    if not is_deep(image):
        return image
    if value_range is None and image.mode == "F":
        raise ValueError("floating-point values have no known range: give it with data.value_range")
    low, high = value_range or (0, 65535)
    values = np.array(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("some of its values are not finite")
    values -= low
    values *= 255 / (high - low)
    return Image.fromarray(np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8))
