"""What a model must know of its data: mean and power per DCT frequency, and for heat dissipation the blurred images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.core.colours import to_opponent
from blurcli.core.dct import dct2
from blurcli.core.heat import HeatDissipation, lowest_frequencies
from blurcli.data.images import Images

_MAX_IMAGES = 50_000  # the error of a variance from so many is below 1%
_ENOUGH_IMAGES = 5_000  # and from so many 2%: for large images, whose DCT takes its time
_MAX_VALUES = _MAX_IMAGES * 3 * 64 * 64
_CHUNK_VALUES = 1 << 23  # that are transformed at a time
_MOST_START_BYTES = 1 << 25
# Variance of rounding to 8 bits, in units of [-1, 1]: real images have no less, and a constant frequency would divide by 0.
_ROUNDING_VARIANCE = (2 / 255) ** 2 / 12


def measure_moments(images: Images, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared (spectrum) and mean (mean) orthonormal DCT coefficient of images in [-1, 1].

    Args:
        images: (N, C, H, W) uint8; of more than 50,000 (fewer from 64x64 on, down to 5,000), as many are taken, evenly spaced.
        flip: whether half of the images are mirrored, left to right, in training.

    Returns:
        spectrum and mean, (C, H, W) float64, with `spectrum > mean^2`, and the spectrum in opponent colours (`core.colours`).
    """
    most = min(_MAX_IMAGES, max(_ENOUGH_IMAGES, _MAX_VALUES // images[0].size))
    chosen = _spread(len(images), most)
    sums, squares, opponent = (torch.zeros(images.shape[1:], dtype=torch.float64) for _ in range(3))
    for u in _frequencies(images, chosen):
        sums += u.sum(0)
        squares += (u**2).sum(0)
        opponent += (to_opponent(u) ** 2).sum(0)
    mean = sums / len(chosen)
    if flip:
        mean[..., 1::2] = 0  # mirroring turns the sign of every odd horizontal frequency, and leaves its square

    def floored(power: Tensor, centre: Tensor) -> Tensor:
        return torch.maximum(power / len(chosen), centre**2 + _ROUNDING_VARIANCE)

    return floored(squares, mean), mean, floored(opponent, to_opponent(mean))


def measure_starts(
    images: Images, flip: bool, process: HeatDissipation, spectrum: Tensor, opponent_colours: bool = False
) -> Tensor:
    """What heat dissipation starts from: the DCT of training images blurred as at t = 1, the few frequencies that are left.

    Args:
        images: (N, C, H, W) uint8; more than 50,000, or than 32 MiB of frequencies, are thinned out evenly.
        flip: whether half of the images are mirrored, left to right, in training; then every second one is here.
        process: the heat dissipation.
        spectrum: P of the data, (C, H, W), in the colours that are wanted.
        opponent_colours: whether these are those of `core.colours`.

    Returns:
        (N', C, h, w) float32.
    """
    height, width = lowest_frequencies(process, spectrum)
    most = min(_MAX_IMAGES, max(1, _MOST_START_BYTES // (4 * images.shape[1] * height * width)))
    chosen = _spread(len(images), most)
    scale = process.alpha(torch.ones(1, dtype=torch.float64))[..., :height, :width]
    parts = []
    for u in _frequencies(images, chosen):
        u = (to_opponent(u) if opponent_colours else u)[..., :height, :width]
        parts.append((scale * u).float())
    starts = torch.cat(parts)
    if flip:
        starts[1::2, ..., 1::2] *= -1
    return starts


def _spread(total: int, most: int) -> NDArray[np.int64]:
    """At most so many of all indices, evenly spaced."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))


def _frequencies(images: Images, chosen: NDArray[np.int64]) -> Iterator[Tensor]:
    """The DCT of some images, float64, in parts."""
    chunk = max(1, _CHUNK_VALUES // images[0].size)
    for first in range(0, len(chosen), chunk):
        yield dct2(torch.from_numpy(images[chosen[first : first + chunk]]).double() / 127.5 - 1)
