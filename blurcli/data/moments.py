"""What a model must know of its data: mean and power per DCT frequency, and for heat dissipation the blurred images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blurcli.core.colours import to_opponent
from blurcli.core.dct import dct2
from blurcli.core.heat import HeatDissipation, lowest_frequencies
from blurcli.data.images import Images

_MAX_IMAGES = 50_000  # the error of a variance from so many is below 1%
_CHUNK = 1000
_MOST_START_BYTES = 1 << 25
# Variance of rounding to 8 bits, in units of [-1, 1]: real images have no less, and a constant frequency would divide by 0.
_ROUNDING_VARIANCE = (2 / 255) ** 2 / 12


def measure_moments(images: Images, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared (spectrum) and mean (mean) orthonormal DCT coefficient of images in [-1, 1].

    Args:
        images: (N, C, H, W) uint8; of more than 50,000, as many are taken, evenly spaced.
        flip: whether half of the images are mirrored, left to right, in training.

    Returns:
        spectrum and mean, (C, H, W) float64, with `spectrum > mean^2`, and the spectrum in opponent colours (`core.colours`).
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), _MAX_IMAGES)).astype(np.int64))
    sums, squares, opponent = (torch.zeros(images.shape[1:], dtype=torch.float64) for _ in range(3))
    for chunk in np.array_split(chosen, -(-len(chosen) // _CHUNK)):
        u = _frequencies(images[chunk])
        sums += u.sum(0)
        squares += (u**2).sum(0)
        opponent += (to_opponent(u) ** 2).sum(0)
    mean = sums / len(chosen)
    if flip:
        mean[..., 1::2] = 0  # mirroring turns the sign of every odd horizontal frequency, and leaves its square
    spectra = (
        torch.maximum(power / len(chosen), centre**2 + _ROUNDING_VARIANCE)
        for power, centre in ((squares, mean), (opponent, to_opponent(mean)))
    )
    spectrum, opponent_spectrum = spectra
    return spectrum, mean, opponent_spectrum


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
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), most)).astype(np.int64))
    scale = process.alpha(torch.ones(1, dtype=torch.float64))[..., :height, :width]
    parts = []
    for chunk in np.array_split(chosen, -(-len(chosen) // _CHUNK)):
        u = _frequencies(images[chunk])
        u = (to_opponent(u) if opponent_colours else u)[..., :height, :width]
        parts.append((scale * u).float())
    starts = torch.cat(parts)
    if flip:
        starts[1::2, ..., 1::2] *= -1
    return starts


def _frequencies(images: Images) -> Tensor:
    """The DCT of images, float64."""
    return dct2(torch.from_numpy(images).double() / 127.5 - 1)
