"""What a model must know of its data: mean and power per DCT frequency, and for heat dissipation the blurred images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blurcli.core.dct import dct2
from blurcli.core.heat import HeatDissipation, lowest_frequencies
from blurcli.data.images import Images

_MAX_IMAGES = 50_000  # the error of a variance from so many is below 1%
_CHUNK = 1000
_MOST_START_BYTES = 1 << 25
# Variance of rounding to 8 bits, in units of [-1, 1]: real images have no less, and a constant frequency would divide by 0.
_ROUNDING_VARIANCE = (2 / 255) ** 2 / 12


def measure_moments(images: Images, flip: bool) -> tuple[Tensor, Tensor]:
    """Mean squared (spectrum) and mean (mean) orthonormal DCT coefficient of images in [-1, 1].

    Args:
        images: (N, C, H, W) uint8; of more than 50,000, as many are taken, evenly spaced.
        flip: whether half of the images are mirrored, left to right, in training.

    Returns:
        spectrum and mean, (C, H, W) float64, with `spectrum > mean^2`.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), _MAX_IMAGES)).astype(np.int64))
    squares = torch.zeros(images.shape[1:], dtype=torch.float64)
    sums = torch.zeros_like(squares)
    for chunk in np.array_split(chosen, -(-len(chosen) // _CHUNK)):
        u = dct2(torch.from_numpy(images[chunk]).double() / 127.5 - 1)
        sums += u.sum(0)
        squares += (u**2).sum(0)
    mean, spectrum = sums / len(chosen), squares / len(chosen)
    if flip:
        mean[..., 1::2] = 0  # mirroring turns the sign of every odd horizontal frequency, and leaves its square
    return torch.maximum(spectrum, mean**2 + _ROUNDING_VARIANCE), mean


def measure_starts(images: Images, flip: bool, process: HeatDissipation, spectrum: Tensor) -> Tensor:
    """What heat dissipation starts from: the DCT of training images blurred as at t = 1, the few frequencies that are left.

    Args:
        images: (N, C, H, W) uint8; more than 50,000, or than 32 MiB of frequencies, are thinned out evenly.
        flip: whether half of the images are mirrored, left to right, in training; then every second one is here.
        process: the heat dissipation.
        spectrum: P of the data, (C, H, W).

    Returns:
        (N', C, h, w) float32.
    """
    height, width = lowest_frequencies(process, spectrum)
    most = min(_MAX_IMAGES, max(1, _MOST_START_BYTES // (4 * images.shape[1] * height * width)))
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), most)).astype(np.int64))
    scale = process.alpha(torch.ones(1, dtype=torch.float64))[..., :height, :width]
    parts = []
    for chunk in np.array_split(chosen, -(-len(chosen) // _CHUNK)):
        u = dct2(torch.from_numpy(images[chunk]).double() / 127.5 - 1)[..., :height, :width]
        parts.append((scale * u).float())
    starts = torch.cat(parts)
    if flip:
        starts[1::2, ..., 1::2] *= -1
    return starts
