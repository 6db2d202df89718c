"""Existing images that are looked at once: decoded as they are needed, in memory that does not grow with their number."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageOps

from blurcli.data.images import FORMATS, Images, decode, decoding, reason
from blurcli.data.places import open_images
from blurcli.errors import UsageError, UserError

_CHUNK = 64
_CHUNK_BYTES = 1 << 26
_LARGEST_SIDE = 4096  # pixels, as of a model's images
_ORIENTATION = 0x0112  # EXIF
_TURNED = 5  # from this value of it on, rows are columns

Chosen = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Images of one size.

    Attributes:
        path: where they are.
        count: how many there are.
        shape: of one, (C, H, W).
        read: the images of rising indices, in batches (B, C, H, W) uint8.
    """

    path: Path
    count: int
    shape: tuple[int, int, int]
    read: Callable[[Chosen], Iterator[Images]]

    def batches(self, n: int) -> Iterator[Images]:
        """`n` of the images, evenly spaced, since files are often sorted by class."""
        return self.read(np.linspace(0, self.count - 1, n).astype(np.int64))


def open_stream(path: Path, channels: int, size: tuple[int, int] | None = None) -> Stream:
    """The images of a folder, a .zip file or an .npz file.

    Args:
        path: of the three.
        channels: 1 (grey) or 3 (colour), to which image files are converted; an .npz file has its own.
        size: (height, width), to which image files are resized and cropped; by default their own, which must then be one.

    Raises:
        UsageError: nothing there, images of several sizes, or an array of another kind.
        UserError: a broken file.
    """
    if path.suffix.lower() == ".npz":
        if size is not None:
            raise UsageError(f"--size: resizes image files; {path} is an array: resize it where it is made")
        count, shape = _array_header(path)
        return Stream(path, count, shape, partial(_read_array, path))
    with open_images(path) as files:
        count = len(files.names)
    height, width = size or _common_size(path)
    return Stream(path, count, (channels, height, width), partial(_read_files, path, (channels, height, width)))


def _common_size(path: Path) -> tuple[int, int]:
    sizes: dict[tuple[int, int], str] = {}
    with open_images(path) as files:
        for name in files.names:
            try:
                with files.open(name) as file, Image.open(file, formats=FORMATS) as image, decoding(image):
                    # Formats differ in what they say of the size of a turned image before it is decoded.
                    turned = image.getexif().get(_ORIENTATION, 1) >= _TURNED
                    width, height = (ImageOps.exif_transpose(image) if turned else image).size
                    sizes.setdefault((height, width), name)
            except Exception as error:  # on damaged content decoders raise nearly anything
                raise UserError(f"{path / name}: not a readable image ({reason(error)}); repair or remove the file") from None
            if len(sizes) > 1:
                (a, first), (b, second) = sizes.items()
                raise UsageError(
                    f"{path}: all images to be scored must have one size: {first} has {a}, {second} has {b}; "
                    f"--size {min(a)} resizes and crops all"
                )
    return next(iter(sizes))


def _read_files(path: Path, shape: tuple[int, int, int], chosen: Chosen) -> Iterator[Images]:
    channels, height, width = shape
    with open_images(path) as files, ThreadPoolExecutor(os.cpu_count()) as pool:

        def job(i: int) -> Images:
            name = files.names[i]
            return decode(files.read(name), f"{files.place / name}", height, width, channels)

        chunk = _chunk(shape)
        for first in range(0, len(chosen), chunk):
            yield np.stack(list(pool.map(job, chosen[first : first + chunk])))


def _chunk(shape: tuple[int, ...]) -> int:
    """How many images of a shape are read at a time."""
    return max(1, min(_CHUNK, _CHUNK_BYTES // int(np.prod(shape))))


@dataclass(frozen=True)
class _Member:
    """The only array of an .npz file: how it is called there, and its form."""

    name: str
    shape: tuple[int, ...]


def _array_header(path: Path) -> tuple[int, tuple[int, int, int]]:
    count, height, width, *channels = _member(path).shape
    return count, (channels[0] if channels else 1, height, width)


def _member(path: Path) -> _Member:
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise UsageError(f"{path}: holds {len(names)} arrays ({', '.join(names)}); one array of images is needed")
            with archive.open(names[0]) as file:
                shape, by_columns, dtype = _read_header(file)
                present = archive.getinfo(names[0]).file_size - file.tell()
    except UsageError:
        raise
    except Exception as error:  # NumPy parses the header as Python, and may stumble in many ways
        raise UserError(f"{path}: not a readable .npz file ({error})") from None
    if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3))) or not all(shape):
        raise UsageError(f"{path}: holds {dtype} {shape}; uint8 images (N, H, W, 1 or 3) are needed")
    if math.prod(shape) > present:
        raise UserError(f"{path}: not a readable .npz file (it is cut short)")
    if max(shape[1:3]) > _LARGEST_SIDE:
        raise UsageError(f"{path}: holds images of {shape[1]}x{shape[2]} pixels; at most {_LARGEST_SIDE} a side can be scored")
    if by_columns:
        raise UsageError(f"{path}: holds its array column by column; save numpy.ascontiguousarray of it")
    return _Member(names[0], shape)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.uint8]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    return shape, by_columns, dtype


def _read_array(path: Path, chosen: Chosen) -> Iterator[Images]:
    member = _member(path)
    image_shape = (*member.shape[1:], 1)[:3]
    image_bytes = int(np.prod(image_shape))
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member.name) as file:
            _read_header(file)
            chunk = _chunk(image_shape)
            for first in range(0, member.shape[0], chunk):
                wanted = chosen[(chosen >= first) & (chosen < first + chunk)] - first
                size = min(chunk, member.shape[0] - first) * image_bytes
                content = file.read(size)
                if len(content) < size:
                    raise ValueError("it is cut short")
                if len(wanted):
                    images = np.frombuffer(content, np.uint8).reshape(-1, *image_shape)[wanted]
                    yield np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable .npz file ({error})") from None
