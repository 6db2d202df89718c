"""How the blur grows with time: a registry of schedules. Imports no torch, so that a preset can be checked without it.

To add a schedule, define its two functions and enter them in `BLUR_SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blurcli.core.noise_schedule import CosineSchedule

if TYPE_CHECKING:
    from torch import Tensor

_HALF_PI = math.pi / 2

Curve = Callable[["Tensor", "BlurSchedule"], "Tensor"]
"""`curve(t, schedule)`: times of any shape, float64, to values of that shape."""


@dataclass(frozen=True)
class BlurCurve:
    """One schedule: the standard deviation of the blur over time.

    Attributes:
        title: for display, with placeholders for the arguments of `BlurSchedule`.
        formula: for help texts.
        sigma: the standard deviation in pixels, never falling with t.
        rate: its derivative by t.
        option: the argument of `BlurSchedule` that only this schedule takes, if any.
        needs_limit: whether `sigma` is a fraction of `sigma_max`, which must then be finite.
    """

    title: str
    formula: str
    sigma: Curve
    rate: Curve
    option: str | None = None
    needs_limit: bool = True


@dataclass(frozen=True)
class BlurSchedule:
    """Standard deviation of the blur over time, in pixels.

    Args:
        name: one of `BLUR_SCHEDULES`.
        sigma_max: largest blur in pixels, at least 0; infinite only for `noise-ratio`.
        power: p of `power` and `cosine-power`, at least 1: below 1 the rate would be infinite at one end.
        ratio: r of `noise-ratio` in pixels, above 0 and finite.
        noise: the noise over time; `noise-ratio` is proportional to it.

    Raises:
        ValueError: an unknown name, a number out of its range, or a missing or superfluous ratio.
    """

    name: str
    sigma_max: float
    power: float = 2.0
    ratio: float | None = None
    noise: CosineSchedule = field(default_factory=CosineSchedule)

    def __post_init__(self) -> None:
        if self.name not in BLUR_SCHEDULES:
            raise ValueError(f"unknown blur schedule {self.name!r}: choose one of {', '.join(BLUR_SCHEDULES)}")
        if not self.sigma_max >= 0:
            raise ValueError(f"blur_sigma_max must be at least 0 pixels, not {self.sigma_max}")
        if self._curve.needs_limit and math.isinf(self.sigma_max):
            raise ValueError(f"blur_sigma_max must be finite for the blur schedule {self.name}")
        if not self.power >= 1:
            raise ValueError(f"blur_power must be at least 1, not {self.power}")
        if (self.ratio is None) == (self._curve.option == "ratio"):
            raise ValueError(
                f"blur_noise_ratio is for the blur schedule noise-ratio, which needs it: {self.name}, {self.ratio}"
            )
        if self.ratio is not None and not 0 < self.ratio < math.inf:
            raise ValueError(f"blur_noise_ratio must be above 0 and finite, not {self.ratio}; blur_sigma_max=0 is no blur")

    @property
    def title(self) -> str:
        """A short description of the blur."""
        if not self.sigma_max:
            return "plain diffusion, no blur"
        limit = "" if self._curve.needs_limit or math.isinf(self.sigma_max) else f", at most {self.sigma_max:g} px"
        return self._curve.title.format(sigma_max=self.sigma_max, power=self.power, ratio=self.ratio) + limit

    @property
    def _curve(self) -> BlurCurve:
        return BLUR_SCHEDULES[self.name]

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the blur in pixels at times `t` of any shape, float64; 0 where there is no noise."""
        return self._curve.sigma(t if self.ratio else t.clamp(min=0), self)

    def rate(self, t: Tensor) -> Tensor:
        """The derivative of `sigma` by t."""
        return self._curve.rate(t, self)


def _cos(t: Tensor) -> Tensor:
    # At t = 1 rounding leaves a tiny value, possibly a negative one.
    return (_HALF_PI * t).cos().clamp(min=0)


def _power_rate(t: Tensor, sigma_max: float, power: float) -> Tensor:
    turn = _HALF_PI * power * (_HALF_PI * t).sin()
    return sigma_max * turn * _cos(t) ** (power - 1)


def _unlimited(t: Tensor, blur: BlurSchedule) -> tuple[Tensor, Tensor]:
    """The blur r tan(theta), and the square of its ratio to `sigma_max`."""
    assert blur.ratio is not None
    sigma = blur.ratio * blur.noise.angle(t).tan()
    # Without any blur the ratio is infinite even where there is no noise.
    return sigma, (sigma / blur.sigma_max) ** 2 if blur.sigma_max else sigma.new_full(sigma.shape, math.inf)


def _ratio_sigma(t: Tensor, blur: BlurSchedule) -> Tensor:
    sigma, excess = _unlimited(t, blur)
    return sigma / (1 + excess).sqrt()


def _ratio_rate(t: Tensor, blur: BlurSchedule) -> Tensor:
    _, excess = _unlimited(t, blur)
    assert blur.ratio is not None
    return blur.ratio * blur.noise.speed / blur.noise.angle(t).cos() ** 2 / (1 + excess) ** 1.5


BLUR_SCHEDULES = {
    "sin2": BlurCurve(
        "the paper's blur, up to {sigma_max:g} px",
        "sin^2(pi t / 2) (the paper's, section 4): slow at both ends",
        lambda t, blur: blur.sigma_max * (_HALF_PI * t).sin() ** 2,
        lambda t, blur: _power_rate(t, blur.sigma_max, 2.0),
    ),
    "linear": BlurCurve(
        "blur linear in t, up to {sigma_max:g} px",
        "t: fine detail goes at once",
        lambda t, blur: blur.sigma_max * t,
        lambda t, blur: t.new_full(t.shape, blur.sigma_max),
    ),
    # With p = 2.5 the path of Lee et al. (arXiv 2207.11192); their blur at 64x64 ends at 2.1 pixels.
    "power": BlurCurve(
        "blur as t^{power:g}, up to {sigma_max:g} px",
        "t^p: a larger p blurs later",
        lambda t, blur: blur.sigma_max * t**blur.power,
        lambda t, blur: blur.sigma_max * blur.power * t.clamp(min=0) ** (blur.power - 1),
        option="power",
    ),
    "cosine-power": BlurCurve(
        "blur as 1 - cos^{power:g}(pi t / 2), up to {sigma_max:g} px",
        "1 - cos^p(pi t / 2): p = 2 is sin2, a larger p blurs earlier, a smaller one later",
        lambda t, blur: blur.sigma_max * (1 - _cos(t) ** blur.power),
        lambda t, blur: _power_rate(t, blur.sigma_max, blur.power),
        option="power",
    ),
    # Warm Diffusion (Hsueh, Yen, Peng and Huang, arXiv 2511.16904) keeps the ratio of blur to noise (BNR) constant. The unit,
    # pixels per noise over signal, the limit and the ratios of the presets are this project's.
    "noise-ratio": BlurCurve(
        "blur {ratio:g} px per noise/signal",
        "r noise / signal, r tan(theta): each frequency is blurred away when noise has hidden it",
        _ratio_sigma,
        _ratio_rate,
        option="ratio",
        needs_limit=False,
    ),
}
