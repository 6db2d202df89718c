"""The Python interface of sampled images: an array, pictures, a grid."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, ImageShow

from blurcli import visualize
from blurcli.base import console, files
from blurcli.base.errors import UserError


class Images:
    """A batch of images: converts to a NumPy array, and shows as a grid in a notebook.

    Args:
        array: (N, H, W, C) uint8, 0..255, C 1 or 3.
        source: their origin, for scores, such as the sampling options.
        titles: names of the columns of a grid, such as classes.
        record: for images 0, 1, ... of a model, the settings that determine them; see `save`.

    Attributes:
        array: as given.
        source: as given.
        titles: as given.

    Raises:
        ValueError: an array of another shape or type.
    """

    def __init__(
        self,
        array: NDArray[np.uint8],
        source: dict[str, Any] | None = None,
        titles: Sequence[str] = (),
        record: dict[str, Any] | None = None,
    ) -> None:
        if array.ndim != 4 or array.shape[-1] not in (1, 3) or array.dtype != np.uint8 or not array.size:
            raise ValueError(f"images must be (N, H, W, 1 or 3) uint8, not {array.shape} {array.dtype}")
        self.array = array
        self.source = source or {}
        self.titles = tuple(titles)
        self._record = record

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return self.array.shape

    @property
    def images(self) -> list[Image.Image]:
        """The images as Pillow images."""
        return [visualize.picture(pixels) for pixels in self.array]

    def grid(self, columns: int | None = None, scale: int | None = None) -> Image.Image:
        """All images in one picture, filled row by row, with black lines between them.

        Args:
            columns: images per row; None for nearly square.
            scale: enlargement by whole pixels; None for a suitable size.
        """
        return visualize.grid_picture(self._rows, columns, scale, self.titles)

    def show(self) -> None:
        """Show the grid: in a notebook below the cell, elsewhere in the system's image viewer.

        Raises:
            UserError: there is no such viewer.
        """
        if "ipykernel" in sys.modules:
            importlib.import_module("IPython.display").display(self)
        elif not ImageShow.show(self.grid()):
            raise UserError("images: no image viewer is installed; write a file with save('grid.png')")

    def save(self, path: str | Path, scale: int | None = None) -> Path:
        """Write a grid (`.png`), the array `arr_0` (`.npz`), or a folder of single images (no suffix).

        The files are the same as by `blurdiff sample --out`, byte for byte. Images as sampled from a model continue a folder of
        the same settings; slices and other images need a new folder.

        Args:
            path: the file or folder; an existing file is replaced.
            scale: enlargement of a grid; None for a suitable size.

        Raises:
            UsageError: another suffix, a scale for something else than a grid, or a folder with other content.
            UserError: it cannot be written, or another process writes into the folder.
        """
        path = Path(path).expanduser()
        writer = visualize.image_writer(path, self._record or {}, console.notify, scale, self.titles)
        if not path.suffix and self._record is None:
            files.check_new_folder(path)
        with writer.claimed(len(self)) as missing:
            writer.write(self._rows[missing], missing)
        return path

    @property
    def _rows(self) -> NDArray[np.uint8]:
        """(N, C, H, W)."""
        return np.ascontiguousarray(self.array.transpose(0, 3, 1, 2))

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Images:
        if isinstance(index, slice):
            return Images(self.array[index], self.source)
        return visualize.picture(self.array[index])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if dtype is None or np.dtype(dtype) == np.uint8:
            return self.array.copy() if copy else self.array
        if copy is False:
            raise ValueError("images of another type than uint8 need a copy")
        return self.array.astype(dtype)

    def __repr__(self) -> str:
        count, height, width, channels = self.shape
        return f"Images({count} of {height}x{width}{', gray' if channels == 1 else ''})"

    def _repr_png_(self) -> bytes:
        self.grid().save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()
