"""Measure the moments of a data set per DCT frequency."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.core.colors import to_opponent
from blurcli.core.dct import dct2
from blurcli.core.moments import DataMoments

if TYPE_CHECKING:
    from blurcli.data.images import Pixels

_MAX_IMAGES = 50_000  # a variance from this many has an error below 1%
_ENOUGH_IMAGES = 5_000  # and from this many 2%: enough for large images, which have a slow DCT
_MAX_VALUES = _MAX_IMAGES * 3 * 64 * 64
_CHUNK_VALUES = 1 << 18  # transformed at a time; more than the caches hold takes four times as long
# Variance of rounding to 8 bits, in units of [-1, 1]: a lower bound for real images, and against division by 0.
_ROUNDING_VARIANCE = (2 / 255) ** 2 / 12


def measure_moments(images: Pixels, flip: bool) -> DataMoments:
    """The moments of images in [-1, 1], with the spectrum in opponent colors.

    Args:
        images: (N, C, H, W) uint8; at most 50,000 are used (fewer from 64x64 on, down to 5,000), evenly spaced.
        flip: whether training flips half of the images, left to right.

    Returns:
        Tensors (C, H, W) float64, with `second_moment > mean^2`.
    """
    most = min(_MAX_IMAGES, max(_ENOUGH_IMAGES, _MAX_VALUES // images[0].size))
    chosen = evenly_spaced(len(images), most)
    sums, squares, opponent = (torch.zeros(images.shape[1:], dtype=torch.float64) for _ in range(3))
    for u in dct_chunks(images, chosen):
        sums += u.sum(0)
        squares += (u**2).sum(0)
        opponent += (to_opponent(u) ** 2).sum(0)
    mean = sums / len(chosen)
    if flip:
        mean[..., 1::2] = 0  # a flip changes the sign of every odd horizontal frequency, but not its square

    def floored(power: Tensor, center: Tensor) -> Tensor:
        return torch.maximum(power / len(chosen), center**2 + _ROUNDING_VARIANCE)

    return DataMoments(floored(squares, mean), mean, floored(opponent, to_opponent(mean)))


def evenly_spaced(total: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the indices below `total`, evenly spaced."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))


def dct_chunks(images: Pixels, chosen: NDArray[np.int64]) -> Iterator[Tensor]:
    """The DCT of chosen images in [-1, 1], float64, in chunks (n, C, H, W)."""
    chunk = max(1, _CHUNK_VALUES // images[0].size)
    for first in range(0, len(chosen), chunk):
        yield dct2(torch.from_numpy(images[chosen[first : first + chunk]]).double() / 127.5 - 1)
