"""An animation of a restoration: the photo, the estimates of a draw, and the draw."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blurcli.base import files
from blurcli.data.photos import Photo
from blurcli.visualize.animations import Timing, check_animation, save_animation
from blurcli.visualize.frames import captioned, default_scale

if TYPE_CHECKING:
    from blurcli.model.restorer import OnEstimate

_TIMING = Timing(fps=4.0, hold_sec=3.0)
_GIVEN_FRAMES = 4  # of the photo: a second
_WIDTH_PX = 512  # up to which small photos are enlarged
_LARGEST_PX = 1024  # above which large ones are reduced


class RestorationAnimation:
    """Frames of how a photo is restored, each with a caption, and their file.

    Photos are enlarged or reduced by whole factors: to about 512 px if they are smaller, to at most 1024 px if they are larger.

    Args:
        path: ends in a key of `PICTURE_FORMATS`.
        steps: of the restoration.

    Raises:
        UsageError: the suffix is unknown.
        UserError: the file cannot be written, or a package is missing.
    """

    def __init__(self, path: Path, steps: int) -> None:
        check_animation(path, _TIMING)
        files.check_writable(path)
        self._path, self._steps = path, steps
        self._photo: Photo | None = None
        self._estimates: list[Image.Image] = []

    def started(self, photo: Photo) -> OnEstimate:
        """Begin with a photo; returns what receives the estimates of every step."""
        self._photo, self._estimates = photo, []
        return lambda i, x_hat: self._estimates.append(self._frame(x_hat))

    def save(self, result: NDArray[np.float64]) -> None:
        """Write the animation, which ends with the result: (C, H, W) in gray levels, of the size of the estimates."""
        assert self._photo is not None
        given = self._photo.pixels
        factor = result.shape[1] // given.shape[1]
        pictures = [
            *[self._frame(given.repeat(factor, 1).repeat(factor, 2))] * _GIVEN_FRAMES,
            *self._estimates,
            self._frame(result),
        ]
        captions = [
            *["the photo as given"] * _GIVEN_FRAMES,
            *(f"step {i} of {self._steps}" for i in range(1, len(self._estimates) + 1)),
            "the result: one of many",
        ]
        save_animation(captioned(pictures, captions), self._path, _TIMING)

    def _frame(self, pixels: NDArray[np.float64]) -> Image.Image:
        """Pixels (C, H, W) in gray levels as a picture of 8 bits, transparency over white, at the size of the animation."""
        assert self._photo is not None
        image = replace(self._photo, deep=False).with_pixels(pixels).picture()
        if self._photo.alpha is not None:
            mode = "L" if len(pixels) == 1 else "RGB"
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert(mode)
        scale = default_scale(1, (image.height, image.width), _WIDTH_PX)
        if scale > 1:
            return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        return image.reduce(max(1, math.ceil(max(image.size) / _LARGEST_PX)))
