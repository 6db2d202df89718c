"""The data's mean and power per DCT frequency, by which the network is preconditioned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blurcli.core.dct import dct2
from blurcli.data.images import Images

_MAX_IMAGES = 50_000  # the error of a variance from so many is below 1%
_CHUNK = 1000
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
