"""The space in which a network works: opponent colors or red, green and blue, in [-1, 1] or [0, 1].

Opponent colors: one channel of brightness and two of color, which are nearly uncorrelated in natural images.

They are the orthonormal DCT-II over the channels (red, green, blue): the sum, red against blue, and green against both. An
orthonormal transform changes neither white noise, nor squared errors, nor the blur; only the spectrum per channel becomes
more informative. Images of one channel are unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blurcli.core.dct import dct_matrix


def to_opponent(x: Tensor) -> Tensor:
    """Images (..., C, H, W), or their DCT, from red, green and blue; float32 or float64."""
    return _mixed(x, dct_matrix(x.shape[-3], x.device, x.dtype))


def from_opponent(x: Tensor) -> Tensor:
    """The inverse of `to_opponent`."""
    return _mixed(x, dct_matrix(x.shape[-3], x.device, x.dtype).T)


@dataclass(frozen=True)
class ModelSpace:
    """The map from images in [-1, 1], in red, green and blue, to the space of the process and the network.

    Attributes:
        opponent: whether in opponent colors.
        centered: whether in [-1, 1]; else in [0, 1], where the same noise leaves less of an image.
    """

    opponent: bool = False
    centered: bool = True

    @property
    def scale(self) -> float:
        """The contrast in model space over that in [-1, 1]."""
        return 1.0 if self.centered else 0.5

    def from_rgb(self, x: Tensor) -> Tensor:
        """Images (..., C, H, W) in [-1, 1] to model space."""
        return self.colors(x if self.centered else (x + 1) / 2)

    def to_rgb(self, x: Tensor) -> Tensor:
        """The inverse of `from_rgb`."""
        x = self.colors_to_rgb(x)
        return x if self.centered else 2 * x - 1

    def dct_from_rgb(self, u: Tensor) -> Tensor:
        """The orthonormal DCT of images, (..., C, H, W), as `from_rgb` maps the images."""
        if not self.centered:
            u = u / 2
            u[..., 0, 0] += math.sqrt(u.shape[-2] * u.shape[-1]) / 2
        return self.colors(u)

    def colors(self, x: Tensor) -> Tensor:
        """Differences of images, or noise, (..., C, H, W): the change of the colors alone."""
        return to_opponent(x) if self.opponent else x

    def colors_to_rgb(self, x: Tensor) -> Tensor:
        """The inverse of `colors`."""
        return from_opponent(x) if self.opponent else x


RGB = ModelSpace()
"""Images as they are: in red, green and blue, in [-1, 1]."""


def _mixed(x: Tensor, weights: Tensor) -> Tensor:
    # Term by term: the last bits of a matrix product depend on the number of images.
    channels = x.unbind(-3)
    return torch.stack([torch.stack([w * c for w, c in zip(row, channels, strict=True)]).sum(0) for row in weights], -3)
