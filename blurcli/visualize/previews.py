"""The previews of a run: grids of samples, as files and as images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blurcli.base.files import listed
from blurcli.base.runs import Run
from blurcli.data.images import Pixels
from blurcli.visualize.grids import GAP_PX

_LARGEST_PX = 1 << 26  # of a file that is read


@dataclass(frozen=True)
class Preview:
    """One preview.

    Attributes:
        step: training steps.
        image: the grid, as drawn by `tile`, without enlargement.
    """

    step: int
    image: Image.Image

    def cells(self, image_size: tuple[int, int]) -> Pixels | None:
        """Its images (N, C, H, W) uint8, without empty cells at the end; None if it is not a grid of images of this size."""
        pixels = np.atleast_3d(np.asarray(self.image))
        (height, width), (rows, columns) = image_size, self.grid(image_size)
        if not (rows and columns):
            return None
        padded = np.pad(pixels, ((0, GAP_PX), (0, GAP_PX), (0, 0)))
        split = padded.reshape(rows, height + GAP_PX, columns, width + GAP_PX, -1)[:, :height, :, :width]
        images = split.transpose(0, 2, 4, 1, 3).reshape(rows * columns, -1, height, width)
        filled = np.flatnonzero(images.reshape(len(images), -1).any(1))
        return images[: filled[-1] + 1] if len(filled) else None

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of its images; zeros if it is not a grid of images of this size."""
        counts = [divmod(size + GAP_PX, one + GAP_PX) for size, one in zip(self.image.size[::-1], image_size, strict=True)]
        return (0, 0) if any(rest for _, rest in counts) else (counts[0][0], counts[1][0])

    def corner(self, rows: int, columns: int, image_size: tuple[int, int]) -> Image.Image:
        """The upper left `rows` x `columns` images of the grid."""
        height, width = (count * (one + GAP_PX) - GAP_PX for count, one in zip((rows, columns), image_size, strict=True))
        return self.image.crop((0, 0, min(width, self.image.width), min(height, self.image.height)))


def preview_files(run: Run) -> list[tuple[int, Path]]:
    """The steps and files of all previews, by step."""
    found = [(re.fullmatch(r"step-(\d+)\.png", path.name), path) for path in listed(run.preview_path(0).parent)]
    return sorted((int(match[1]), path) for match, path in found if match)


def read_preview(step: int, path: Path) -> Preview | None:
    """A preview from its file, without the enlargement of the file; None if it cannot be read."""
    try:
        with Image.open(path, formats=("PNG",)) as file:
            if file.width * file.height > _LARGEST_PX:
                return None
            image = file.convert("L" if file.mode == "L" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    pixels = np.asarray(image)
    return Preview(step, Image.fromarray(pixels[::2, ::2]) if _is_doubled(pixels) else image)


def evenly_chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []


def _is_doubled(pixels: NDArray[np.uint8]) -> bool:
    """Whether every pixel appears twice in both directions."""
    if pixels.shape[0] % 2 or pixels.shape[1] % 2:
        return False
    return bool(np.array_equal(pixels[::2], pixels[1::2]) and np.array_equal(pixels[:, ::2], pixels[:, 1::2]))
