"""Files of sampled images: a grid, an array, or a folder of single images."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from blurcli.base import files
from blurcli.base.errors import OptionError, UsageError
from blurcli.data.images import Pixels
from blurcli.visualize.grids import save_grid
from blurcli.visualize.image_folder import ImageFolder


class ImageWriter(Protocol):
    """A file or folder that takes images as they come."""

    def claimed(self, count: int) -> AbstractContextManager[Sequence[int]]:
        """Keep other commands from writing while the block runs; yields the indices below `count` of the images to make.

        Raises:
            UserError: the file or folder cannot be written.
        """

    def write(self, images: Pixels, indices: Sequence[int]) -> None:
        """Write the images (B, C, H, W) of these indices, ascending, inside `claimed`."""


class GridFile:
    """All images as a grid in one PNG; `scale` and `titles` as in `grid_picture`."""

    def __init__(self, path: Path, scale: int | None = None, titles: Sequence[str] = ()) -> None:
        self._path, self._scale, self._titles = path, scale, titles
        self._batches: list[Pixels] = []

    @contextmanager
    def claimed(self, count: int) -> Iterator[Sequence[int]]:
        """See `ImageWriter`; the file is written when the block ends without an error."""
        files.check_writable(self._path)
        yield range(count)
        save_grid(np.concatenate(self._batches), self._path, self._scale, self._titles)

    def write(self, images: Pixels, indices: Sequence[int]) -> None:
        """See `ImageWriter`."""
        self._batches.append(images)


class ArrayFile:
    """The array `arr_0` (N, H, W, C) uint8 in an .npz file, the layout of evaluation scripts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._array: IO[bytes]

    @contextmanager
    def claimed(self, count: int) -> Iterator[Sequence[int]]:
        """See `ImageWriter`; the file appears when the block ends without an error."""
        files.check_writable(self._path)
        with (
            files.replacing(self._path) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as self._array,
        ):
            self._count = count
            yield range(count)

    def write(self, images: Pixels, indices: Sequence[int]) -> None:
        """See `ImageWriter`; every batch goes to the disk at once."""
        rows = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        if indices[0] == 0:
            header = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *rows.shape[1:])}
            np.lib.format.write_array_header_1_0(self._array, header)
        self._array.write(rows.data)


def image_writer(
    path: Path,
    settings: dict[str, Any],
    notify: Callable[[str], None],
    scale: int | None = None,
    titles: Sequence[str] = (),
) -> ImageWriter:
    """The writer for the suffix of a path.

    Args:
        path: .png for a grid, .npz for an array, without a suffix for a folder of single images.
        settings: what decides the images, for the record of a folder, see `RecordedFolder`.
        notify: receives messages.
        scale: enlargement of a grid by whole pixels; None for a suitable one.
        titles: of the columns of a grid.

    Raises:
        UsageError: another suffix, or a scale for something else than a grid.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return GridFile(path, scale, titles)
    if suffix not in ("", ".npz"):
        raise UsageError(f"{path}: unknown suffix; use .png (a grid), .npz (an array), or a folder for single images")
    if scale is not None:
        raise OptionError("scale", scale, "enlarges a grid (.png); arrays and single images stay as they are")
    return ArrayFile(path) if suffix else ImageFolder(path, settings, notify)
