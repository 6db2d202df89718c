"""Images as a grid in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blurcli.base import files
from blurcli.base.errors import one_line
from blurcli.data.images import Pixels
from blurcli.data.outputs import mark

GAP_PX = 1
"""Pixels between images, before enlargement."""

_LINE_PX, _TEXT_PX = 18, 13  # of titles
_GRID_PX = 512  # approximate longer side of a grid without a given scale


def tile(images: Pixels, columns: int | None = None) -> Pixels:
    """A grid of images, filled row by row.

    Args:
        images: (N, C, H, W) uint8.
        columns: images per row; None for nearly square.

    Returns:
        One picture (height, width, C), with a black line between images.
    """
    count, channels, height, width = images.shape
    columns = columns or _nearly_square(count)
    canvas = np.zeros((*tiled_size(count, (height, width), columns), channels), np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + GAP_PX), i % columns * (width + GAP_PX)
        canvas[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return canvas


def tiled_size(count: int, image_size: tuple[int, ...], columns: int | None = None) -> tuple[int, int]:
    """Height and width of `tile` for `count` images of a size (height, width)."""
    height, width = image_size
    columns = columns or _nearly_square(count)
    rows = -(-count // columns)
    return rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX


def _nearly_square(count: int) -> int:
    return math.ceil(math.sqrt(count))


def picture(pixels: Pixels, scale: int = 1) -> Image.Image:
    """An array (height, width, 1 or 3) uint8 as a Pillow image; each pixel is repeated `scale` times in both directions."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def grid_picture(
    images: Pixels, columns: int | None = None, scale: int | None = None, titles: Sequence[str] = ()
) -> Image.Image:
    """Images (N, C, H, W) uint8 as a grid.

    Args:
        images: the images.
        columns: images per row; None for one per title, or nearly square without titles.
        scale: enlargement by whole pixels; None for `grid_scale`.
        titles: names of the columns, such as classes, to write above them.
    """
    titles = titles[: len(images)]
    pixels = tile(images, columns or len(titles) or None)
    scale = scale or grid_scale(len(images), pixels.shape[:2])
    grid = picture(pixels, scale)
    if not titles or columns not in (None, len(titles)):
        return grid
    titled = Image.new(grid.mode, (grid.width, grid.height + _LINE_PX))
    titled.paste(grid, (0, _LINE_PX))
    width = images.shape[-1] * scale
    for number, title in enumerate(titles):
        label = Image.new("L", (width, _LINE_PX))
        ImageDraw.Draw(label).text((2, 2), one_line(title), 255, ImageFont.load_default(_TEXT_PX))
        titled.paste(label.convert(grid.mode), (number * (width + GAP_PX * scale), 0))
    return titled


def grid_scale(count: int, size: tuple[int, ...]) -> int:
    """A suitable enlargement, by whole pixels, for a grid of a size (height, width); 1 for a single image."""
    return 1 if count == 1 else max(1, round(_GRID_PX / max(size)))


def save_grid(images: Pixels, path: Path, scale: int | None = None, titles: Sequence[str] = ()) -> None:
    """Write images (N, C, H, W) uint8 as a grid in one PNG; `scale` and `titles` as in `grid_picture`."""
    with files.replacing(path) as temporary:
        grid_picture(images, scale=scale, titles=titles).save(temporary, format="PNG", **mark("PNG"))
