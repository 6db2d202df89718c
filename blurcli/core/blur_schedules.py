"""How the blur grows with time: a registry of schedules. Imports no torch, so that a preset can be checked without it.

To add a schedule, define its two functions and enter them in `BLUR_SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_HALF_PI = math.pi / 2

Curve = Callable[["Tensor", float, float], "Tensor"]
"""`curve(t, sigma_max, power)`: times of any shape, float64, to values of that shape."""


@dataclass(frozen=True)
class BlurCurve:
    """One schedule: the standard deviation of the blur over time.

    Attributes:
        formula: for help texts.
        sigma: the standard deviation in pixels, 0 at t = 0 and `sigma_max` at t = 1.
        rate: its derivative by t.
        has_power: whether it depends on `power`.
    """

    formula: str
    sigma: Curve
    rate: Curve
    has_power: bool = False


def _cos(t: Tensor) -> Tensor:
    # At t = 1 rounding leaves a trace of it, possibly a negative one.
    return (_HALF_PI * t).cos().clamp(min=0)


def _power_rate(t: Tensor, sigma_max: float, power: float) -> Tensor:
    turn = _HALF_PI * power * (_HALF_PI * t).sin()
    return sigma_max * turn * _cos(t) ** (power - 1)


BLUR_SCHEDULES = {
    "sin2": BlurCurve(
        "sin^2(pi t / 2) (the paper's, section 4): slow at both ends",
        lambda t, sigma_max, power: sigma_max * (_HALF_PI * t).sin() ** 2,
        lambda t, sigma_max, power: _power_rate(t, sigma_max, 2.0),
    ),
    "linear": BlurCurve(
        "t: fine detail goes at once",
        lambda t, sigma_max, power: sigma_max * t,
        lambda t, sigma_max, power: t.new_full(t.shape, sigma_max),
    ),
    "cosine-power": BlurCurve(
        "1 - cos^p(pi t / 2): p = 2 is sin2, a larger p blurs earlier, a smaller one later",
        lambda t, sigma_max, power: sigma_max * (1 - _cos(t) ** power),
        _power_rate,
        has_power=True,
    ),
}


@dataclass(frozen=True)
class BlurSchedule:
    """Standard deviation of the blur over time, in pixels, from 0 at t = 0 to `sigma_max` at t = 1.

    Args:
        name: one of `BLUR_SCHEDULES`.
        sigma_max: in pixels, at least 0.
        power: p of `cosine-power`, at least 1: below 1 the blur would end with infinite rate.

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
        """Standard deviation of the blur in pixels at times `t` of any shape, float64."""
        return BLUR_SCHEDULES[self.name].sigma(t, self.sigma_max, self.power)

    def rate(self, t: Tensor) -> Tensor:
        """The derivative of `sigma` by t."""
        return BLUR_SCHEDULES[self.name].rate(t, self.sigma_max, self.power)
