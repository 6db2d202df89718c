"""Blur kernels: motion, normalization of a measured kernel, and the response per frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_SAMPLES_PER_PX = 16  # along a line
# The picture of a kernel has a background where this share of its border has one value, up to this deviation relative to the
# largest value. A background has less than half of the largest value: otherwise the kernel reaches the border, as a box does. A
# small kernel is all border.
_BACKGROUND_SHARE, _BACKGROUND_DEVIATION, _MOST_BACKGROUND, _LEAST_SIDE = 0.75, 0.03, 0.5, 5
_NOISE_DEVIATIONS = 3  # of the noise of a background: smaller values of the kernel are taken for noise
_DEVIATION_PER_MEDIAN = 1.4826  # standard deviation of normal noise over the median of its absolute values
_MOST_CUT = 0.5  # share of the mass of a kernel that may be below 0


def motion(length_px: float, angle_deg: float) -> Tensor:
    """The kernel of a straight motion: a line through the center, (h, w) with odd sides and sum 1.

    Args:
        length_px: of the line.
        angle_deg: counterclockwise from the horizontal.
    """
    reach = math.ceil(length_px / 2) + 1
    along = torch.linspace(-0.5, 0.5, max(2, math.ceil(length_px * _SAMPLES_PER_PX)), dtype=torch.float64) * length_px
    angle = math.radians(angle_deg)
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    places = (reach - along * math.sin(angle), reach + along * math.cos(angle))
    (y, y_share), (x, x_share) = ((place.floor().long(), place - place.floor()) for place in places)
    for down, weight_y in ((0, 1 - y_share), (1, y_share)):
        for right, weight_x in ((0, 1 - x_share), (1, x_share)):
            kernel.index_put_((y + down, x + right), weight_y * weight_x, accumulate=True)
    return _trimmed(kernel / kernel.sum())


def normalize_kernel(kernel: Tensor) -> tuple[Tensor, list[str]]:
    """Normalize a kernel as read from a file, (h, w) of any values: odd sides, sum 1, and its centroid in the center pixel.

    Returns:
        The kernel, float64, and a phrase for each change.

    Raises:
        ValueError: it is empty, or most of it is negative or a constant.
    """
    kernel, done = kernel.double(), list[str]()
    if not kernel.isfinite().all() or not kernel.any():
        raise ValueError("it is empty" if kernel.isfinite().all() else "some of its values are not finite")
    background, noise = _background(kernel)
    if background:
        kernel = kernel - background
        done.append("its border is subtracted")
    if noise:  # else what is positive in it would add up to a wide kernel of its own
        kernel = kernel.where(kernel.abs() > _NOISE_DEVIATIONS * noise, 0)
        done.append("values within its noise are 0")
    mass, cut = kernel.abs().sum(), -kernel.clamp(max=0).sum()
    if cut > _MOST_CUT * mass or not mass:
        raise ValueError("it is flat, or most of it is below 0: a kernel is bright on black")
    if (kernel < 0).any():
        kernel = kernel.clamp(min=0)
        done.append("values below 0 are cut")
    if any(side % 2 == 0 for side in kernel.shape):
        kernel = functional.pad(kernel, (0, 1 - kernel.shape[1] % 2, 0, 1 - kernel.shape[0] % 2))
        done.append("its sides are made odd")
    kernel = kernel / kernel.sum()
    moves = []
    for axis in (0, 1):
        place = torch.arange(kernel.shape[axis], dtype=torch.float64)
        centroid = float((kernel.sum(1 - axis) * place).sum())
        moves.append(kernel.shape[axis] // 2 - math.floor(centroid + 0.5 + 1e-9))
    if any(moves):
        padded = functional.pad(kernel, [abs(moves[1])] * 2 + [abs(moves[0])] * 2)
        kernel = padded.roll((moves[0], moves[1]), (0, 1))
        done.append("it is centered")
    return _trimmed(kernel), done


def _background(kernel: Tensor) -> tuple[float, float]:
    """The value of the border of a kernel and the standard deviation of its noise, where it is background; else 0."""
    if min(kernel.shape) < _LEAST_SIDE:
        return 0.0, 0.0
    border, most = torch.cat([kernel[0], kernel[-1], kernel[1:-1, 0], kernel[1:-1, -1]]), float(kernel.max())
    level = float(border.median())
    flat = float(((border - level).abs() <= _BACKGROUND_DEVIATION * most).double().mean())
    if not 0 < level < _MOST_BACKGROUND * most or flat < _BACKGROUND_SHARE:
        return 0.0, 0.0
    return level, _DEVIATION_PER_MEDIAN * float((border - level).abs().median())


def response(kernel: Tensor, shape: tuple[int, int]) -> Tensor:
    """The factor of a kernel on the amplitude at each DCT frequency, averaged over directions of equal frequency, (H, W)."""
    total = torch.zeros(shape, dtype=torch.float64)
    for mirrored in (kernel, kernel.flip(0)):
        rows, columns = (
            torch.exp(
                torch.pi * 1j / size * torch.arange(size, dtype=torch.float64)[:, None] * (torch.arange(side) - side // 2)
            )
            for side, size in zip(kernel.shape, shape, strict=True)
        )
        total += (rows @ mirrored.to(rows) @ columns.T).abs() ** 2 / 2
    return total.sqrt()


def _trimmed(kernel: Tensor) -> Tensor:
    """A kernel without empty rows and columns at its border; its center stays in the center."""
    for axis in (0, 1):
        filled = torch.where(kernel.sum(1 - axis) > 0)[0]
        center = kernel.shape[axis] // 2
        reach = int(max(center - filled.min(), filled.max() - center))
        kernel = kernel.narrow(axis, center - reach, 2 * reach + 1)
    return kernel
