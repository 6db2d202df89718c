"""Pictures of a restored photo beside the given one, and of the spread of draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blurcli.base import files
from blurcli.data.images import Range
from blurcli.data.outputs import mark
from blurcli.data.photos import Photo, photo_format
from blurcli.visualize.grids import grid_picture

_WHITE_LEVELS = 32  # gray levels of spread that are white
_PER_LEVEL = 256  # values of 16 bits
_DESCRIPTION = 0x010E  # EXIF


def save_comparison(given: Photo, restored: Photo, spread: NDArray[np.float64], path: Path, truth: Photo | None = None) -> None:
    """Write a photo, its restored form and the spread of draws side by side, in one PNG.

    Args:
        given: the photo.
        restored: of the same size, or larger by a whole factor.
        spread: in gray levels, of the size of `restored`.
        path: .png.
        truth: the undamaged photo, if it is known.
    """
    height, width = restored.pixels.shape[1:]
    scale = height // given.pixels.shape[1]
    panels = {
        "given": given.pixels.repeat(scale, 1).repeat(scale, 2),
        "restored": restored.pixels,
        f"spread (white: {_WHITE_LEVELS} gray levels)": (spread * 255 / _WHITE_LEVELS)[None],
    }
    if truth is not None:
        panels["the undamaged photo"] = truth.pixels
    levels = [np.broadcast_to(np.rint(panel).clip(0, 255), (3, height, width)) for panel in panels.values()]
    picture = grid_picture(np.stack(levels).astype(np.uint8), scale=1, titles=tuple(panels))
    with files.replacing(path) as temporary:
        picture.save(temporary, format="PNG", **mark("PNG"))


def save_spread(spread: NDArray[np.float64], path: Path, value_range: Range) -> None:
    """Write the spread of draws; the file says its unit.

    Args:
        spread: in gray levels, (H, W).
        path: a TIFF gets 32-bit floats in the photo's own values, .png 16 bits with 256 values per gray level.
        value_range: the photo's own values of gray levels 0 and 255.
    """
    form, (low, high) = photo_format(path), value_range
    text, marks = "Standard deviation of the draws in each pixel: ", mark(form)
    if form == "TIFF":
        values = (spread * ((high - low) / 255)).astype(np.float32)
        marks["exif"][_DESCRIPTION] = f"{text}in values of the photo, black {low:.10g} and white {high:.10g}"
    else:
        values = np.rint(spread * _PER_LEVEL).clip(0, 65535).astype(np.uint16)
        marks["pnginfo"].add_text("Comment", f"{text}{_PER_LEVEL} per gray level, white 255 gray levels")
    with files.replacing(path) as temporary:
        Image.fromarray(values).save(temporary, format=form, **marks)
