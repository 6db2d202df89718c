"""How the noise grows with time: the variance-preserving cosine schedule. Imports no torch, see `blur_schedules`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CosineSchedule:
    """The angle theta of the cosine schedule with limits: `a_t = cos(theta)`, `sigma_t = sin(theta)`.

    `theta = a t + b`, `b = atan(exp(-logsnr_max / 2))`, `a = atan(exp(-logsnr_min / 2)) - b`, so that the log-SNR
    `-2 log tan(theta)` falls from `logsnr_max` at t = 0 to `logsnr_min` at t = 1 (Hoogeboom and Salimans 2023, appendix A).

    Args:
        logsnr_min: log signal-to-noise ratio at t = 1.
        logsnr_max: the same at t = 0.

    Raises:
        ValueError: `logsnr_min` is not below `logsnr_max`.
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __post_init__(self) -> None:
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(f"logsnr_min ({self.logsnr_min}) must be below logsnr_max ({self.logsnr_max})")

    @property
    def start(self) -> float:
        """The angle at t = 0."""
        return math.atan(math.exp(-self.logsnr_max / 2))

    @property
    def speed(self) -> float:
        """The derivative of the angle by t, a constant."""
        return math.atan(math.exp(-self.logsnr_min / 2)) - self.start

    @property
    def clean_time(self) -> float:
        """The time, a little below 0, at which the angle, and thus the noise, would be 0."""
        return -self.start / self.speed

    def angle(self, t: Tensor) -> Tensor:
        """theta at times `t` in [`clean_time`, 1] of any shape, float64."""
        return (self.start + self.speed * t).clamp(min=0)
