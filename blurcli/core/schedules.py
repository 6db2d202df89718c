"""The frequency scaling of the blur as a function of time, in float64."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from blurcli.core.blur_schedules import BlurSchedule


def frequency_scaling(t: Tensor, height: int, width: int, blur: BlurSchedule, min_scale: float) -> Tensor:
    """The factor d_t by which the blur scales every DCT frequency (the paper, section 4): 1 without blur.

    Args:
        t: (B,) in [0, 1], float64.

    Returns:
        (B, 1, H, W) in [min_scale, 1].
    """
    return (1 - min_scale) * dissipation(blur.sigma(t), height, width) + min_scale


def frequency_scaling_rate(t: Tensor, height: int, width: int, blur: BlurSchedule, min_scale: float) -> Tensor:
    """The derivative of `frequency_scaling` by t: `-lambda sigma_B sigma_B' (d_t - min_scale)`, (B, 1, H, W)."""
    rate = (blur.sigma(t) * blur.rate(t))[:, None, None, None]
    scaling = frequency_scaling(t, height, width, blur, min_scale)
    return -laplacian(height, width, t.device) * rate * (scaling - min_scale)


def dissipation(blur_sigma: Tensor, height: int, width: int) -> Tensor:
    """The factor of every DCT frequency under the heat equation, `exp(-lambda tau)` with `tau = blur_sigma^2 / 2`.

    Args:
        blur_sigma: standard deviations of the blur in pixels, (B,) float64.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    dissipation_time = (blur_sigma**2 / 2)[:, None, None, None]
    # The eigenvalue is a sum over the two directions, so the factor is a product: H + W exponentials instead of H x W.
    rows, columns = _eigenvalues(height, blur_sigma.device), _eigenvalues(width, blur_sigma.device)
    return torch.exp(-rows[:, None] * dissipation_time) * torch.exp(-columns * dissipation_time)


def variance_left(spectrum: Tensor, blur_sigma: float) -> float:
    """The fraction of the variance within images that remains after a blur, in [0, 1].

    Args:
        spectrum: mean squared DCT coefficient, (..., H, W); the coefficient of the image mean is ignored.
        blur_sigma: standard deviation of the blur, in pixels.
    """
    within = spectrum.double().clone()
    within[..., 0, 0] = 0
    left = dissipation(torch.tensor([blur_sigma], dtype=torch.float64), *spectrum.shape[-2:])[0, 0] ** 2
    return float((left.to(within.device) * within).sum() / within.sum())


def blur_that_leaves(spectrum: Tensor, share: float) -> float:
    """The standard deviation of the blur, in pixels, after which a fraction of the variance within images remains.

    Args:
        spectrum: as for `variance_left`.
        share: the fraction, in (0, 1). The paper's 20 px leave 0.005 of CIFAR-10 (measured).
    """
    low, high = 0.0, 100.0 * max(spectrum.shape[-2:])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if variance_left(spectrum, middle) > share else (low, middle)
    return high


@functools.lru_cache(maxsize=64)
def laplacian(height: int, width: int, device: torch.device) -> Tensor:
    """Eigenvalues `lambda_ij = (pi i / H)^2 + (pi j / W)^2` of the negative Laplacian in the DCT basis, (H, W) float64."""
    with torch.inference_mode(False):  # cached: see dct_matrix
        return _eigenvalues(height, device)[:, None] + _eigenvalues(width, device)


@functools.lru_cache(maxsize=64)
def _eigenvalues(size: int, device: torch.device) -> Tensor:
    """`(pi i / size)^2`, (size,) float64."""
    with torch.inference_mode(False):  # cached: see dct_matrix
        return ((torch.pi / size * torch.arange(size, dtype=torch.float64)) ** 2).to(device)
