"""The result of a restoration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blurcli.base.errors import option
from blurcli.base.version import __version__
from blurcli.core.blind import Degradation, Interval
from blurcli.data.images import Range
from blurcli.data.photos import ROUNDING
from blurcli.model.degradation import differ
from blurcli.model.restore_options import LIGHTS, RestoreOptions

_MISFIT = 1.5  # residual over noise from which on blur, noise or model do not fit
_WHOLE = 100  # numbers from here on are shown without decimals
_CLEAN = 1.0  # gray levels of noise that nobody sees


@dataclass(frozen=True)
class Restored:
    """A restored photo.

    Attributes:
        draws: the draws, (n, C, H, W) float64, gray levels, not clipped.
        found: blur and noise of the photo, in its pixels and gray levels, with intervals where they were estimated; a blur of
            another kind counts as 0.
        compressed: whether the photo is a JPEG, whose rounding is counted as noise.
        linear_light: whether the blur is taken to be of linear light; else of the stored values.
        estimated: names of what was estimated.
        residual: root mean square of the difference between photo and degraded result, over the noise: about 1 where all fits.
        worst_residual: the largest one in a part of the photo, of the size of the model's images.
        options: how it was restored.
        weights: digest of the model, and precision of its network.
        value_range: the photo's own values of gray levels 0 and 255.
    """

    draws: NDArray[np.float64]
    found: Degradation
    compressed: bool
    linear_light: bool
    estimated: tuple[str, ...]
    residual: float
    worst_residual: float
    options: RestoreOptions
    weights: str
    value_range: Range

    @property
    def blur_px(self) -> Interval:
        """Standard deviation of a Gaussian blur."""
        return self.found.blur_px

    @property
    def noise(self) -> Interval:
        """Standard deviation of the noise, of brightness where that of colors is another."""
        return self.found.noise

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
        own = f" of 255 ({self._in_own_values(self.noise.value)})" if self.value_range != (0, 255) else ""
        noise = f"noise {_shown(self.noise)} gray levels{own}"
        if self.found.color_noise and differ(self.found.color_noise, self.noise.value):
            noise += f", of colors {self.found.color_noise:.2g}"
        if "blur" not in self.estimated:
            low, high = self.value_range
            found = noise if self.noise.value > ROUNDING * 255 / (high - low) else "no noise"
        elif not self.blur_px.value:
            clean = self.noise.value < _CLEAN
            found = f"as sharp as the training photos{' and clean' if clean else ''} ({noise})"
        else:
            found = f"blur {_shown(self.blur_px)} px{' of linear light' if self.linear_light else ''}, {noise}"
        if self.estimated and self.compressed:
            found = f"compressed; {found}"
        if self.found.blur_range:
            least, most = self.found.blur_range
            found += f"; the blur differs over the photo ({least:.2g} to {most:.2g} px): that of the sharpest part is undone"
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
    def methods(self) -> str:
        """A sentence for the methods section of a paper: version, weights, damage and options."""
        options, found = self.options, dict[str, str]()
        if self.blur_px.value or "blur" in self.estimated:
            found["blur"] = f"Gaussian blur {self.blur_px.value:.3g} px{' of linear light' if self.linear_light else ''}"
        if other := replace(options, blur=None, noise=None, light=None).damage:  # a light needs a blur
            found["other"] = other
        if not options.only_fills:
            found["noise"] = f"noise {self._in_own_values(self.noise.value)}"
        damage = ", ".join(f"estimated {text}" if name in self.estimated else text for name, text in found.items())
        # Without a mean, every file has one draw, with the same text however many there are.
        draws = f"mean of {options.count} draws" if options.mean else "draws"
        how = [
            f"{options.steps} network calls",
            f"temperature {options.chosen_temperature:g}",
            *([f"{draws} with seed {options.seed}"] if options.chosen_temperature else []),
            *([f"strength {options.strength:g}"] if options.strength < 1 else []),
        ]
        return f"Restored with blurdiff {__version__} (weights {self.weights}; {damage}; {', '.join(how)})."

    @property
    def comment(self) -> str:
        """What a file of it says: that it is restored, how to repeat it, and the sentence of `methods`."""
        return (
            "Restored by a generative model: one of many images that agree with the photo; not evidence.\n"
            f"blurdiff {__version__} restore {self.options.flags}\n{self.methods}"
        )

    def _in_own_values(self, levels: float) -> str:
        """A difference in gray levels in the photo's own values, and how many there are."""
        low, high = self.value_range
        own = levels * (high - low) / 255
        return f"{f'{own:,.0f}' if own >= _WHOLE else f'{own:.3g}'} gray levels of {high - low:,.10g}"

    @property
    def facts(self) -> dict[str, Any]:
        """What was found, in plain types."""
        return {
            "blur": self.blur_px.value,
            "blur_interval": [self.blur_px.low, self.blur_px.high] if "blur" in self.estimated else None,
            "blur_range": list(self.found.blur_range) if self.found.blur_range else None,
            "noise": self.noise.value,
            "color_noise": self.found.color_noise,
            "noise_interval": [self.noise.low, self.noise.high] if "noise" in self.estimated else None,
            "light": LIGHTS[0 if self.linear_light else 1],
            "estimated": list(self.estimated),
            "residual_over_noise": self.residual,
            "worst_residual_over_noise": self.worst_residual,
            "temperature": self.options.chosen_temperature,
            "calls": self.options.steps,
            "value_range": list(self.value_range),
            "methods": self.methods,
        }


def _shown(interval: Interval) -> str:
    known = f"{interval.value:.2g}"
    return known if interval.low == interval.high else f"{known} ({interval.low:.2g} to {interval.high:.2g})"
