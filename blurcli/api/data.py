"""Images in memory as a data set: an archive in the cache, named by its content, so that a repeated call finds it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from blurcli.api.images import Images
from blurcli.base import console, files
from blurcli.base.cache import cache_folder
from blurcli.base.errors import UsageError, UserError, one_line, option

TrainingImages: TypeAlias = Any
"""A folder, .zip or dataset's name; or images: an array (N, H, W, 1 or 3) uint8, `Images`, or a list or torch `Dataset` of
Pillow images, arrays, tensors or files, each perhaps with the number of its class."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")  # the others become TIFF
_WANTED = "a Pillow image, a file, or (H, W, 1 or 3) uint8"


def source_of(data: TrainingImages | None) -> str | None:
    """The source of training images: text and paths unchanged, images as an archive of them.

    Raises:
        UsageError: another type.
        UserError: an image cannot be read, or the cache cannot be written.
    """
    if data is None or isinstance(data, (str, Path)):
        return None if data is None else str(data)
    items = data.array if isinstance(data, Images) else data
    dimensions = getattr(items, "ndim", 4)
    if not all(hasattr(items, name) for name in ("__len__", "__getitem__")) or isinstance(items, dict) or dimensions != 4:
        shape = f" {tuple(items.shape)}" if hasattr(items, "shape") else ""
        raise UsageError(
            f"{option('data')}: is {_kind(data)}{shape}; give a folder, a .zip file, an array (N, H, W, 1 or 3) uint8, or a "
            "list or torch Dataset of images"
        )
    if not len(items):
        raise UsageError(f"{option('data')}: has no images")
    folder = cache_folder() / "arrays"
    files.check_writable(folder / "images.zip")
    with files.temporary(folder / "images.zip") as partial:
        path = folder / _write(items, partial) / "images.zip"
        if not path.exists():
            with files.replacing(path) as temporary:
                partial.replace(temporary)
    return str(path)


def _write(items: Any, path: Path) -> str:
    """Write images into an archive; returns the hash of its content."""
    digest = hashlib.blake2b(digest_size=16)
    with zipfile.ZipFile(path, "w") as archive, console.progress("storing images", len(items)) as update:
        for number in range(len(items)):
            name, content = _member(items[number], number)
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            with files.explained(path):
                archive.writestr(zipfile.ZipInfo(name), content)
            update(number + 1)
    return digest.hexdigest()


def _member(item: Any, number: int) -> tuple[str, bytes]:
    """Name and content of the file of an image, in a sub-folder for its class if it has one."""
    folder = ""
    if isinstance(item, (tuple, list)) and len(item) == 2:
        item, label = item
        if isinstance(label, int) or (getattr(label, "ndim", None) == 0 and np.asarray(label).dtype.kind in "iu"):
            folder = f"{int(label)}/"
    suffix, content = _encoded(item, number)
    return f"{folder}{number:08d}{suffix}", content


def _encoded(item: Any, number: int) -> tuple[str, bytes]:
    """Suffix and content of the file of one image, lossless."""
    if isinstance(item, (str, Path)):
        path = Path(item).expanduser()
        try:
            return path.suffix.lower(), path.read_bytes()
        except OSError as error:
            raise UsageError(f"{one_line(str(path))}: cannot be read ({error.strerror})") from None
    content = io.BytesIO()
    if isinstance(item, Image.Image):
        try:
            if item.mode == "YCbCr":  # some versions of Pillow write TIFF files of it that they cannot read
                item = item.convert("RGB")
            suffix, form = (".png", "PNG") if item.mode in _PNG_MODES else (".tif", "TIFF")
            item.save(content, form)
        except Exception as error:  # images are decoded lazily, and damaged files raise nearly any type
            raise UserError(f"{option('data')}: image {number} cannot be read ({error})") from None
        return suffix, content.getvalue()
    npy.write_array(content, _pixels(item, number), allow_pickle=False)
    return ".npy", content.getvalue()


def _pixels(item: Any, number: int) -> NDArray[np.uint8]:
    """An array or tensor as (H, W) or (H, W, C); tensors may have their channels first."""
    try:
        pixels = np.asarray(item)
    except Exception as error:  # the type of the item can raise anything
        raise UsageError(f"{option('data')}: image {number} is {_kind(item)} ({error}); it must be {_WANTED}") from None
    shape = pixels.shape
    if pixels.ndim == 3 and shape[2] not in (1, 3) and shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if (
        pixels.dtype != np.uint8
        or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3)))
        or not pixels.size
    ):
        hint = "; leave out transforms such as ToTensor()" if np.issubdtype(pixels.dtype, np.floating) else ""
        raise UsageError(
            f"{option('data')}: image {number} is {_kind(item)} {shape} of {pixels.dtype}; it must be {_WANTED}{hint}"
        )
    return np.ascontiguousarray(pixels)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
