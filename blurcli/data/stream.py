"""Streams of existing images: decoded on demand, in constant memory."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blurcli.base.errors import UsageError, UserError, option
from blurcli.base.parallel import ahead
from blurcli.data.archives import open_images
from blurcli.data.images import SIDEWAYS, Pixels, decode, opened, orientation, read_array_header, upright
from blurcli.data.notes import count_by_reason

_CHUNK = 64
_CHUNK_BYTES = 1 << 26
_MAX_SIDE = 4096  # pixels, as for the images of a model

Chosen = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Images of one size.

    Attributes:
        path: their location.
        count: number of images.
        shape: (C, H, W) of an image.
        read: `read(indices)` gives the images of ascending indices, in batches (B, C, H, W) uint8.
        skipped: files that are not read, counted by reason; None if there are none.
    """

    path: Path
    count: int
    shape: tuple[int, int, int]
    read: Callable[[Chosen], Iterator[Pixels]]
    skipped: str | None = None

    def batches(self, n: int) -> Iterator[Pixels]:
        """`n` of the images, evenly spaced, because files are often sorted by class."""
        return self.read(np.linspace(0, self.count - 1, n).astype(np.int64))


def open_stream(path: Path, channels: int, size: tuple[int, int] | None = None) -> Stream:
    """The images of a folder, a .zip file or an .npz file.

    Args:
        path: the folder or file.
        channels: image files are converted to 1 (gray) or 3 (color); an .npz file has its own.
        size: image files are resized and cropped to this (height, width); None for their own size, which must be the same.

    Raises:
        UsageError: there are no images, images of several sizes, or an array of another kind.
        UserError: an unreadable file.
    """
    if path.suffix.lower() == ".npz":
        if size is not None:
            raise UsageError(f"{option('size')}: applies to image files; {path} is an array: resize it where it is created")
        count, shape = _array_header(path)
        return Stream(path, count, shape, partial(_read_array, path))
    with open_images(path) as files:
        count, ignored = len(files.names), count_by_reason(files.skipped)
    height, width = size or _common_size(path)
    return Stream(path, count, (channels, height, width), partial(_read_files, path, (channels, height, width)), ignored)


def _common_size(path: Path) -> tuple[int, int]:
    sizes: dict[tuple[int, int], str] = {}
    with open_images(path) as files:
        for name in files.names:
            with files.opening(name) as file, opened(file, str(files.place / name)) as image:
                # Before decoding, formats report different sizes for a rotated image.
                width, height = (upright(image) if orientation(image) >= SIDEWAYS else image).size
                sizes.setdefault((height, width), name)
            if len(sizes) > 1:
                (a, first), (b, second) = sizes.items()
                raise UsageError(
                    f"{path}: all scored images must have one size: {first} has {a}, {second} has {b}; "
                    f"use {option('size')} {min(a)} to resize and crop them"
                )
    return next(iter(sizes))


def _read_files(path: Path, shape: tuple[int, int, int], chosen: Chosen) -> Iterator[Pixels]:
    channels, height, width = shape
    with open_images(path) as files:

        def decoded(name: str) -> Pixels:
            return decode(files.read(name), f"{files.place / name}", height, width, channels)

        names = [files.names[i] for i in chosen]
        with closing(ahead(decoded, names, lambda name: files.bytes_of(name) + math.prod(shape))) as images:
            while part := list(islice(images, _chunk(shape))):
                yield np.stack(part)


def _chunk(shape: tuple[int, ...]) -> int:
    """Number of images of a shape that are read at a time."""
    return max(1, min(_CHUNK, _CHUNK_BYTES // int(np.prod(shape))))


@dataclass(frozen=True)
class _Member:
    """The only array of an .npz file: its name and shape."""

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
                raise UsageError(f"{path}: holds {len(names)} arrays ({', '.join(names)}); it must hold one array of images")
            with archive.open(names[0]) as file:
                shape, by_columns, dtype = read_array_header(file)
                present = archive.getinfo(names[0]).file_size - file.tell()
    except UsageError:
        raise
    except Exception as error:  # NumPy parses the header as Python, which can fail in many ways
        raise UserError(f"{path}: not a readable .npz file ({error})") from None
    if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3))) or not all(shape):
        raise UsageError(f"{path}: holds {dtype} {shape}; it must hold uint8 images (N, H, W, 1 or 3)")
    if math.prod(shape) > present:
        raise UserError(f"{path}: not a readable .npz file (it is truncated)")
    if max(shape[1:3]) > _MAX_SIDE:
        raise UsageError(f"{path}: holds images of {shape[1]}x{shape[2]} pixels; the limit is {_MAX_SIDE} per side")
    if by_columns:
        raise UsageError(f"{path}: holds its array in Fortran order; save numpy.ascontiguousarray of it")
    return _Member(names[0], shape)


def _read_array(path: Path, chosen: Chosen) -> Iterator[Pixels]:
    member = _member(path)
    image_shape = (*member.shape[1:], 1)[:3]
    image_bytes = int(np.prod(image_shape))
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member.name) as file:
            read_array_header(file)
            chunk = _chunk(image_shape)
            for first in range(0, member.shape[0], chunk):
                wanted = chosen[(chosen >= first) & (chosen < first + chunk)] - first
                size = min(chunk, member.shape[0] - first) * image_bytes
                content = file.read(size)
                if len(content) < size:
                    raise ValueError("it is truncated")
                if len(wanted):
                    images = np.frombuffer(content, np.uint8).reshape(-1, *image_shape)[wanted]
                    yield np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable .npz file ({error})") from None
