"""How much noise and how much blur at which time. All of it in float64: a cast at the end loses nothing that matters."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class BlurSchedule:
    """Standard deviation of the blur over time, in pixels, from 0 at t = 0 to `sigma_max` at t = 1.

    | name | | |
    |---|---|---|
    | `sin2` | `sigma_max sin^2(pi t / 2)` | ibid., section 4: slow at both ends |
    | `linear` | `sigma_max t` | fine detail goes at once |
    | `cosine-power` | `sigma_max (1 - cos^p(pi t / 2))` | p = 2 is sin2; a larger p blurs earlier, a smaller one later |

    Args:
        name: one of `BLUR_SCHEDULES`.
        sigma_max: in pixels, at least 0.
        power: p of `cosine-power`, at least 1: below, the blur would end with infinite speed.

    Raises:
        ValueError: an unknown name, or a number out of its range.
    """

    name: str
    sigma_max: float
    power: float = 2.0

    def __post_init__(self) -> None:
        if self.name not in BLUR_SCHEDULES:
            raise ValueError(f"unknown blur schedule {self.name!r}: choose one of {', '.join(BLUR_SCHEDULES)}")
        if not self.sigma_max >= 0:
            raise ValueError(f"blur_sigma_max must be at least 0 pixels, not {self.sigma_max}")
        if not self.power >= 1:
            raise ValueError(f"blur_power must be at least 1, not {self.power}")

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the blur at times `t`, any shape, in pixels."""
        if self.name == "linear":
            return self.sigma_max * t
        if self.name == "sin2":
            return self.sigma_max * torch.sin(torch.pi / 2 * t) ** 2
        return self.sigma_max * (1 - _cosine(t) ** self.power)

    def speed(self, t: Tensor) -> Tensor:
        """The derivative of `sigma` by t."""
        if self.name == "linear":
            return torch.full_like(t, self.sigma_max)
        power = 2.0 if self.name == "sin2" else self.power
        turn = torch.pi / 2 * power * torch.sin(torch.pi / 2 * t)
        return self.sigma_max * turn * _cosine(t) ** (power - 1)


BLUR_SCHEDULES = ("sin2", "linear", "cosine-power")


def _cosine(t: Tensor) -> Tensor:
    # At t = 1 rounding would leave a trace of it, maybe a negative one.
    return torch.cos(torch.pi / 2 * t).clamp(min=0)


def frequency_scaling(t: Tensor, height: int, width: int, blur: BlurSchedule, min_scale: float) -> Tensor:
    """The factor d_t by which the blur scales every DCT frequency (ibid., section 4): 1 at t = 0.

    Args:
        t: (B,) in [0, 1], float64.

    Returns:
        (B, 1, H, W) in [min_scale, 1].
    """
    return (1 - min_scale) * dissipation(blur.sigma(t), height, width) + min_scale


def frequency_scaling_rate(t: Tensor, height: int, width: int, blur: BlurSchedule, min_scale: float) -> Tensor:
    """The derivative of `frequency_scaling` by t: `-lambda sigma_B sigma_B' (d_t - min_scale)`, (B, 1, H, W)."""
    rate = (blur.sigma(t) * blur.speed(t))[:, None, None, None]
    scaling = frequency_scaling(t, height, width, blur, min_scale)
    return -laplacian(height, width, t.device) * rate * (scaling - min_scale)


def dissipation(blur_sigma: Tensor, height: int, width: int) -> Tensor:
    """What the heat equation leaves of every DCT frequency, `exp(-lambda tau)` with `tau = blur_sigma^2 / 2`.

    Args:
        blur_sigma: standard deviations of the blur in pixels, (B,) float64.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    dissipation_time = (blur_sigma**2 / 2)[:, None, None, None]
    return torch.exp(-laplacian(height, width, blur_sigma.device) * dissipation_time)


def variance_left(spectrum: Tensor, blur_sigma: float) -> float:
    """The share of the variance within images that a blur leaves.

    Args:
        spectrum: mean squared DCT coefficient, (..., H, W); that of the images' mean does not count.
        blur_sigma: standard deviation of the blur, in pixels.
    """
    within = spectrum.double().clone()
    within[..., 0, 0] = 0
    left = dissipation(torch.tensor([blur_sigma], dtype=torch.float64), *spectrum.shape[-2:])[0, 0] ** 2
    return float((left.to(within.device) * within).sum() / within.sum())


def blur_that_leaves(spectrum: Tensor, share: float) -> float:
    """The standard deviation of the blur, in pixels, that leaves a share in (0, 1) of the variance within images.

    Args:
        spectrum: as for `variance_left`.
        share: of the variance. The paper's 20 px leave 0.005 of CIFAR-10 (measured).
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
        rows = (torch.pi / height * torch.arange(height, dtype=torch.float64)) ** 2
        columns = (torch.pi / width * torch.arange(width, dtype=torch.float64)) ** 2
        return (rows[:, None] + columns[None, :]).to(device)
