"""The result of a restoration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blurcli.base.errors import option
from blurcli.core.blind import Interval
from blurcli.data.photos import ROUNDING
from blurcli.model.restore_options import LIGHTS

_MISFIT = 1.5  # residual over noise from which on blur, noise or model do not fit
_CLEAN = 1.0  # gray levels of noise that nobody sees


@dataclass(frozen=True)
class Restored:
    """A restored photo.

    Attributes:
        draws: the draws, (n, C, H, W) float64, gray levels, not clipped.
        blur_px: standard deviation of a Gaussian blur, with its interval where it was estimated; 0 where the blur is of another
            kind.
        noise: that of the photo, in gray levels, likewise.
        linear_light: whether the blur is taken to be of linear light; else of the stored values.
        estimated: names of what was estimated.
        residual: root mean square of the difference between photo and degraded result, over the noise: about 1 where all fits.
        worst_residual: the largest one in a part of the photo, of the size of the model's images.
        comment: what a file of it says: that it is restored, and how.
        temperature: see `RestoreOptions`.
        calls: of the network, per draw and window.
    """

    draws: NDArray[np.float64]
    blur_px: Interval
    noise: Interval
    linear_light: bool
    estimated: tuple[str, ...]
    residual: float
    worst_residual: float
    comment: str
    temperature: float
    calls: int

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of the draws, each clipped to 0 to 255: (C, H, W)."""
        mean: NDArray[np.float64] = self.draws.clip(0, 255).mean(0)
        return mean

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviation of the draws, root mean square over the channels, in gray levels: (H, W)."""
        spread: NDArray[np.float64] = np.sqrt(self.draws.clip(0, 255).var(0, ddof=1).mean(0))
        return spread

    @property
    def description(self) -> str:
        """What was found in the photo, and what to do where it is wrong."""
        noise = f"noise {_shown(self.noise)} gray levels"
        if "blur" not in self.estimated:
            found = noise if self.noise.value > ROUNDING else "no noise"
        elif not self.blur_px.value:
            clean = self.noise.value < _CLEAN
            found = f"as sharp as the training photos{' and clean' if clean else ''} ({noise})"
        else:
            found = f"blur {_shown(self.blur_px)} px{' of linear light' if self.linear_light else ''}, {noise}"
        if self.estimated:
            found += f"; use {' and '.join(map(option, self.estimated))} to change it"
        if self.residual > _MISFIT:
            found += (
                f"; warning: the result does not fit the photo (residual {self.residual:.1f} times the noise, 1 is expected): "
                "another blur, more noise, or a photo unlike the training images"
            )
            return found
        worst = f" (worst part {self.worst_residual:.1f})" if self.worst_residual > _MISFIT else ""
        return f"{found}; residual {self.residual:.2f}{worst}"

    @property
    def facts(self) -> dict[str, Any]:
        """What was found, in plain types."""
        return {
            "blur": self.blur_px.value,
            "blur_interval": [self.blur_px.low, self.blur_px.high] if "blur" in self.estimated else None,
            "noise": self.noise.value,
            "noise_interval": [self.noise.low, self.noise.high] if "noise" in self.estimated else None,
            "light": LIGHTS[0 if self.linear_light else 1],
            "estimated": list(self.estimated),
            "residual_over_noise": self.residual,
            "worst_residual_over_noise": self.worst_residual,
            "temperature": self.temperature,
            "calls": self.calls,
        }


def _shown(interval: Interval) -> str:
    known = f"{interval.value:.2g}"
    return known if interval.low == interval.high else f"{known} ({interval.low:.2g} to {interval.high:.2g})"
