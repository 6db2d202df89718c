"""How a model sees photos: their colors, their size, and their noise."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.core.whitened import WhitenedSpace
from blurcli.core.windows import moments_at
from blurcli.data.photos import Photo
from blurcli.model.pipeline import Pipeline
from blurcli.model.scene import GRAY_LEVELS


class PhotoSpace:
    """Photos in the space of a model, and back.

    A gray model sees each color as an image; a color model sees a gray photo as three equal colors.

    Args:
        model: the pipeline.
    """

    def __init__(self, model: Pipeline) -> None:
        self._model = model
        self.channels = model.config.data.channels
        self.opponent = self.channels == 3 and model.moments.space.opponent

    @functools.lru_cache(maxsize=4)  # noqa: B019  it lives as long as its command
    def space(self, shape: tuple[int, ...]) -> WhitenedSpace:
        """The whitened space of the data at the size of a photo, (H, W)."""
        own, (height, width) = self._model.model.space, shape  # type: ignore[attr-defined]  # of this family
        moments = moments_at(own.mean, own.variance, (height, width))
        return WhitenedSpace(replace(own.process, image_size=(height, width)), *moments)

    def images(self, photo: Photo) -> int:
        """How many images a photo is."""
        return len(photo.pixels) if self.channels == 1 else 1

    def to_model(self, photo: Photo) -> Tensor:
        """The photo (B, C, h, w) in model space."""
        pixels = torch.from_numpy(photo.pixels).to(self._model.state_device) / GRAY_LEVELS - 1
        if self.channels == 3 and len(pixels) == 1:
            pixels = pixels.expand(3, -1, -1)
        return self._model.moments.to_model_space(pixels[:, None] if self.channels == 1 else pixels[None])

    def to_photo(self, x: Tensor, photo: Photo) -> NDArray[np.float64]:
        """Images of `to_model` as (C, H, W), gray levels."""
        rgb = (self._model.to_rgb(x).double() + 1) * GRAY_LEVELS
        pixels = rgb[:, 0] if self.channels == 1 else rgb[0]
        gray = len(photo.pixels) == 1 and self.channels == 3
        array: NDArray[np.float64] = (pixels.mean(0, keepdim=True) if gray else pixels).cpu().numpy()
        return array

    def per_level(self, photo: Photo) -> Tensor:
        """Units of model space per gray level of noise in the photo, (C,) float64."""
        units = torch.full((self.channels,), self._model.moments.space.scale / GRAY_LEVELS, dtype=torch.float64)
        if self.opponent and len(photo.pixels) == 1:
            units *= torch.tensor([3**0.5, 1, 1])  # all noise is in the sum of the three
        return units.to(self._model.state_device)

    def noise(self, photo: Photo, levels: float, color_levels: float) -> Tensor:
        """The noise in model space, (1, C) float64, of that of brightness and colors in gray levels."""
        shown = [levels] * self.channels
        if self.opponent:  # a gray photo has no noise of colors
            shown[1:] = [photo.least_noise if len(photo.pixels) == 1 else color_levels] * 2
        return torch.tensor([shown], dtype=torch.float64).to(self._model.state_device) * self.per_level(photo)
