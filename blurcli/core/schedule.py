"""How much noise and how much blur at which time. All of it in float64: a cast at the end loses nothing that matters."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def cosine_angle(t: Tensor, logsnr_min: float, logsnr_max: float) -> Tensor:
    """The angle theta of the variance-preserving cosine schedule: `a_t = cos(theta)`, `sigma_t = sin(theta)`.

    `theta = a t + b`, `b = atan(exp(-logsnr_max / 2))`, `a = atan(exp(-logsnr_min / 2)) - b`, so that the log-SNR
    `-2 log tan(theta)` falls from `logsnr_max` at t = 0 to `logsnr_min` at t = 1 (Hoogeboom and Salimans 2023, appendix A).

    Args:
        t: times in [0, 1], any shape, float64.
    """
    start = math.atan(math.exp(-logsnr_max / 2))
    end = math.atan(math.exp(-logsnr_min / 2))
    return start + (end - start) * t


def blur_sigma(t: Tensor, blur_sigma_max: float) -> Tensor:
    """Standard deviation of the blur at time t, in pixels: `blur_sigma_max sin^2(pi t / 2)` (ibid., section 4)."""
    return blur_sigma_max * torch.sin(torch.pi / 2 * t) ** 2


def frequency_scaling(t: Tensor, height: int, width: int, blur_sigma_max: float, min_scale: float) -> Tensor:
    """The factor d_t by which the blur scales every DCT frequency (ibid., section 4): 1 at t = 0.

    Args:
        t: (B,) in [0, 1], float64.

    Returns:
        (B, 1, H, W) in [min_scale, 1].
    """
    dissipation_time = (blur_sigma(t, blur_sigma_max) ** 2 / 2)[:, None, None, None]
    return (1 - min_scale) * torch.exp(-laplacian(height, width, t.device) * dissipation_time) + min_scale


def frequency_scaling_rate(t: Tensor, height: int, width: int, blur_sigma_max: float, min_scale: float) -> Tensor:
    """The derivative of `frequency_scaling` by t: `-lambda sigma_B sigma_B' (d_t - min_scale)`, (B, 1, H, W)."""
    speed = blur_sigma_max * torch.pi / 2 * torch.sin(torch.pi * t)
    rate = (blur_sigma(t, blur_sigma_max) * speed)[:, None, None, None]
    scaling = frequency_scaling(t, height, width, blur_sigma_max, min_scale)
    return -laplacian(height, width, t.device) * rate * (scaling - min_scale)


@functools.lru_cache(maxsize=64)
def laplacian(height: int, width: int, device: torch.device) -> Tensor:
    """Eigenvalues `lambda_ij = (pi i / H)^2 + (pi j / W)^2` of the negative Laplacian in the DCT basis, (H, W) float64."""
    with torch.inference_mode(False):  # cached: see dct_matrix
        rows = (torch.pi / height * torch.arange(height, dtype=torch.float64)) ** 2
        columns = (torch.pi / width * torch.arange(width, dtype=torch.float64)) ** 2
        return (rows[:, None] + columns[None, :]).to(device)
