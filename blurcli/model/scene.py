"""A photo as a view of a scene: with the camera that took it, and a margin of the scene beyond its borders."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blurcli.core.camera import Camera, Exposure
from blurcli.core.colors import RGB, ModelSpace
from blurcli.data.photos import Photo, filled
from blurcli.model.restore_options import RestoreOptions, margin_px, optics_of

GRAY_LEVELS = 127.5
"""Gray levels of 0 to 255 per unit of images in [-1, 1]."""

_LIGHT_PX = 256  # side of the part of a photo from which its light is told


@dataclass(frozen=True)
class Scene:
    """What is restored of a photo.

    Attributes:
        photo: the photo.
        options: the known damage.
        blur_px: standard deviation of a Gaussian blur, where `options` give none.
        linear_light: whether the blur is of linear light.
        margin_px: width of the scene beyond the borders, in pixels of the photo.
    """

    photo: Photo
    options: RestoreOptions
    blur_px: float
    linear_light: bool
    margin_px: int

    @classmethod
    def of(cls, photo: Photo, options: RestoreOptions, blur_px: float, seen: tuple[int, ...], linear_light: bool) -> Scene:
        """The scene of a photo that a model sees by windows of a size (h, w).

        A photo of that size has no margin: such a model was trained on images with their borders. Nor has one that is enlarged:
        what the averages over boxes leave out matters more, and only without a margin their system is solved exactly.
        """
        size = tuple(options.enlarge * side for side in photo.pixels.shape[1:])
        whole = not options.cropped or size == tuple(seen) or options.only_fills or options.enlarge > 1
        return cls(photo, options, blur_px, linear_light, 0 if whole else margin_px(options, blur_px))

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the image, in its own pixels."""
        height, width = (self.options.enlarge * (side + 2 * self.margin_px) for side in self.photo.pixels.shape[1:])
        return height, width

    def camera(self, colors: ModelSpace) -> Camera:
        """How the photo was taken, in a space of colors."""
        return Camera(optics_of(self.options, self.shape, self.blur_px), self.linear_light, colors)

    def exposure(self, y: Tensor, noise: Tensor) -> Exposure:
        """The photo y, (B, C, h, w) in model space, with the margin; `noise` as in `core.restoration.Observation`."""
        mask, margin = self.options.mask, self.margin_px
        pixels = y.cpu().numpy()
        known = torch.ones(y.shape[-2:], dtype=torch.bool, device=y.device)
        if mask is not None:
            known, pixels = torch.from_numpy(~mask).to(y.device), filled(pixels, mask)
        padded = torch.from_numpy(np.pad(pixels, ((0, 0), (0, 0), *[(margin, margin)] * 2), "symmetric")).to(y)
        start = padded.repeat_interleave(self.options.enlarge, -2).repeat_interleave(self.options.enlarge, -1)
        return Exposure(padded, noise, functional.pad(known, [margin] * 4), start)

    def inside(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Images (..., H, W) without the margin."""
        margin = self.margin_px * self.options.enlarge
        return images[..., margin : images.shape[-2] - margin, margin : images.shape[-1] - margin]

    def residuals(self, draws: NDArray[np.float64], noise: float, part: tuple[int, ...]) -> tuple[float, float]:
        """The residual over the noise of the whole photo, and the largest one in parts (h, w) of it; see `Restored`.

        Args:
            draws: with the margin, (n, C, H, W), gray levels.
            noise: in gray levels.
            part: (h, w).
        """
        seen = self.camera(RGB).apply(torch.from_numpy(draws).double() / GRAY_LEVELS - 1)
        margin = self.margin_px
        inside = seen[..., margin : seen.shape[-2] - margin, margin : seen.shape[-1] - margin].numpy()
        again = ((inside + 1) * GRAY_LEVELS).clip(0, 255)
        squares: NDArray[np.float64] = ((again - self.photo.pixels) ** 2).mean((0, 1))
        mask = self.options.mask
        known = np.ones(squares.shape) if mask is None else (~mask).astype(np.float64)
        starts = [np.arange(0, max(side // own, 1)) * own for side, own in zip(squares.shape, part, strict=True)]

        def by_part(values: NDArray[np.float64]) -> NDArray[np.float64]:
            sums: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(values, starts[0], 0), starts[1], 1)
            return sums

        errors, counts = by_part(squares * known), by_part(known)
        worst = (errors / np.maximum(counts, 1))[counts >= math.prod(part) / 2]
        whole = float(errors.sum() / counts.sum())
        return math.sqrt(whole) / noise, math.sqrt(max(worst, default=whole)) / noise

    def busiest(self) -> Scene:
        """The part of at most 256x256 pixels with the most contrast."""
        height, width = self.photo.pixels.shape[1:]
        corners = [
            (top, left)
            for top in range(0, max(1, height - _LIGHT_PX + 1), _LIGHT_PX // 2)
            for left in range(0, max(1, width - _LIGHT_PX + 1), _LIGHT_PX // 2)
        ]

        def contrast(corner: tuple[int, int]) -> float:
            return float(self.photo.pixels[_part(corner)].var())

        place = _part(max(corners, key=contrast))
        mask = self.options.mask
        options = replace(self.options, mask=None if mask is None else mask[place[1:]])
        return replace(self, photo=replace(self.photo, pixels=self.photo.pixels[place]), options=options)


def _part(corner: tuple[int, int]) -> tuple[slice, slice, slice]:
    top, left = corner
    return slice(None), slice(top, top + _LIGHT_PX), slice(left, left + _LIGHT_PX)
