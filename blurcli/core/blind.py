"""Blur and noise of a photo, estimated from the photo alone.

The DCT coefficients Y of a photo with blur and noise are, per frequency, about normal with variance

    v = c |w|^-a H^2 V + s^2

where V is the variance of the training data, c the photo's contrast, and a an exponent that makes its spectrum fall faster or
more slowly than that of the data. The power in rings of equal frequency |w| thus gives a likelihood of blur, noise, c and a. It
is evaluated on a grid of blur and noise; c and a are fitted by Fisher scoring and integrated out by Laplace's approximation.

A photo differs from the training data in more than c and a. Every ring therefore counts as one measurement with a relative
error, however many frequencies it has. A texture has the spectrum of noise; but noise is everywhere, so the quiet parts of a
photo limit it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blurcli.core.fast_dct import dct2
from blurcli.core.schedules import laplacian
from blurcli.core.whitened import WhitenedSpace

_RINGS = 48
_DEVIATION = 0.25  # relative, of the power in a ring from the training data's, after c and a are fitted
_SLOPE_DEVIATION, _CONTRAST_DEVIATION = 0.6, 2.0  # of a and of log c over photos
_SCORING_STEPS = 25
_BLURS_PX = torch.cat([torch.linspace(0, 1, 21)[:-1], torch.logspace(0, math.log10(8), 37)]).double()
_NOISES = 61  # levels on the grid, from the smallest to the limit
_SHARP_PX = 0.3  # the smallest blur that can be detected
_VISIBLE = 4.0  # standard deviations above the power of noise: from there on a ring has signal
_LOST = 2.0  # least noises: of smaller coefficients rounding leaves nothing
# White noise that harms as much as the error of quantization, which grows with the frequency: where blur is undone, and where a
# photo of quality 95 must not lose detail.
_AS_WHITE, _AS_WHITE_SHARP = 1.3, 0.6
_FEW_RINGS = 8  # with signal: a photo with fewer is empty, such as a clear sky
_BLOCK_PX = 8
_WHOLE = 0.9  # smallest share of unclipped pixels in a block
_FEW_BLOCKS = 8
_QUIET = 0.03  # quantile of the variance in blocks that is taken as the noise ...
_QUIET_OF_NOISE = 0.7  # ... and its ratio to the variance of pure noise
_MARGIN = 1.1  # factor on the limit, for its error
_MEDIAN = 0.4549  # of the square of a standard normal number
_INTERVAL = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Interval:
    """A number with its uncertainty: the median, and the bounds of the central 90%."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Degradation:
    """The degradation of a photo.

    Attributes:
        blur_px: standard deviation of a Gaussian blur in pixels; 0 where no blur is detected.
        noise: standard deviation of the noise, in the units of the photo.
        color_noise: that of the colors, where it is known apart.
        blur_range: smallest and largest blur of parts of the photo, where they differ.
    """

    blur_px: Interval
    noise: Interval
    color_noise: float | None = None
    blur_range: tuple[float, float] | None = None


def estimate(
    photo: Tensor,
    space: WhitenedSpace,
    least_noise: float,
    unclipped: Tensor,
    response: Tensor | None = None,
    noise: float | None = None,
    step: Tensor | None = None,
) -> Degradation:
    """Blur and noise of a photo.

    Args:
        photo: (C, H, W) in the space of the network, without channels that carry no information about the noise.
        space: the whitened space of the data at the size of the photo, with variances of these channels, (C, H, W).
        least_noise: the smallest noise that an image can have, such as that of rounding.
        unclipped: (H, W) bool, false at pixels of the smallest or largest value, where noise is clipped.
        response: H of a known blur, (H, W); None for an unknown Gaussian one.
        noise: the known noise, in the units of the photo; None for unknown noise.
        step: the step of quantization per frequency, in the units of the photo, (H, W); None for none.
    """
    y = photo.double()
    rings = _Rings.of(dct2(y), space, response, torch.zeros(y.shape[-2:]) if step is None else step, least_noise)
    if noise is None:
        most = max(_noise_limit(y, unclipped), least_noise * _MARGIN)
        noises = torch.logspace(math.log10(least_noise), math.log10(most), _NOISES, dtype=torch.float64, device=y.device)
    else:
        noises = torch.tensor([noise], dtype=torch.float64, device=y.device)
    blurs = _BLURS_PX.to(y.device) if response is None else torch.zeros(1, dtype=torch.float64, device=y.device)
    likelihood = rings.log_likelihood(blurs, noises)
    widths = torch.gradient(blurs)[0] if len(blurs) > 1 else torch.ones_like(blurs)
    posterior = torch.softmax((likelihood + widths.log()[:, None]).flatten(), 0).reshape(likelihood.shape)
    blur = _interval(posterior.sum(1), blurs)
    empty = rings.visible(_interval(posterior.sum(0), noises).value) < _FEW_RINGS
    if blur.low < _SHARP_PX / 2 or blur.value < _SHARP_PX or empty:
        # As sharp as the training photos, or without detail that a blur would change: the noise is estimated without blur.
        posterior = posterior[:1] + 1e-300
        most = float(blurs[-1]) if empty else blur.high  # without detail, any blur is possible
        blur = Interval(0, 0, most if len(blurs) > 1 else 0)
    found = _interval(posterior.sum(0), noises)
    if noise is None and step is not None:
        error = rings.quantization * (_AS_WHITE if blur.value else _AS_WHITE_SHARP)
        found = Interval(*(math.hypot(value, error) for value in (found.low, found.value, found.high)))
    return Degradation(blur, found)


@dataclass(frozen=True)
class _Rings:
    """Rings of frequency: the number of coefficients in each, their mean and typical power, V H^2, lambda, the squared step.

    The typical power is that of a normal distribution with the same median, which ignores a few large coefficients, such as
    those of a pattern. Rings from the first one on whose coefficients are mostly rounded to 0 are left out: they say nothing of
    the blur.
    """

    count: Tensor
    power: Tensor
    typical: Tensor
    variance: Tensor
    rate: Tensor
    squared_step: Tensor

    @classmethod
    def of(cls, y_dct: Tensor, space: WhitenedSpace, response: Tensor | None, step: Tensor, least_noise: float) -> _Rings:
        rate = laplacian(*y_dct.shape[-2:], y_dct.device)
        variance = space.variance if response is None else space.variance * response.to(space.variance) ** 2
        # Evenly spaced in the root of the frequency, because the lowest rings have few coefficients.
        root = rate.flatten()[1:] ** 0.25
        place = ((root - root.min()) / (root.max() - root.min()) * _RINGS).long().clamp(max=_RINGS - 1)

        def summed(values: Tensor) -> Tensor:
            per_frequency = values.expand_as(y_dct).reshape(len(y_dct), -1)[:, 1:].sum(0)
            return torch.zeros(_RINGS, dtype=torch.float64, device=rate.device).index_add_(0, place, per_frequency)

        count = summed(torch.ones_like(rate))
        found = torch.where(count > 0)[0]
        power, *others = (summed(values)[found] / count[found] for values in (y_dct**2, variance, rate, step.to(rate) ** 2))
        squares = y_dct.flatten(1)[:, 1:] ** 2
        typical = torch.stack([squares[:, place == ring].median() for ring in found]) / _MEDIAN
        floor = torch.maximum(others[-1] / 4, torch.tensor(_LOST * least_noise).to(rate) ** 2)
        full = typical > floor
        full[:_FEW_RINGS] = True  # of few coefficients, which may be small by chance
        kept = full.long().cumprod(0) > 0
        return cls(*(values[kept] for values in (count[found], power, typical, *others)))

    @property
    def quantization(self) -> float:
        """The standard deviation of the error of quantization, which is at most that of the coefficients."""
        error = torch.minimum(self.squared_step / 12, self.typical)
        return math.sqrt(float(error.mean())) if len(error) else 0.0

    def visible(self, noise: float) -> int:
        """The number of rings that typically have signal."""
        limit = noise**2 * (1 + _VISIBLE / (self.count / 2).sqrt())
        return int((self.typical > limit).sum())

    def log_likelihood(self, blurs: Tensor, noises: Tensor) -> Tensor:
        """The log-likelihood of every pair of blur and noise, with c and a fitted, (blurs, noises)."""
        weight = 1 / (1 / self.count + _DEVIATION**2 / 2)
        octave = self.rate.log() / 2
        octave = octave - octave.mean()
        signal = (torch.exp(-self.rate * blurs[:, None] ** 2) * self.variance)[:, None]
        noise = (noises**2)[None, :, None]
        contrast = torch.zeros(len(blurs), len(noises), 1, dtype=torch.float64, device=signal.device)
        slope = torch.zeros_like(contrast)
        for step in range(_SCORING_STEPS + 1):
            seen = torch.exp(contrast - slope * octave) * signal
            total = seen + noise
            share, error = seen / total, self.power / total - 1
            by_contrast, by_slope, both = (
                (0.5 * weight * share**2 * factor).sum(-1, keepdim=True) for factor in (1.0, octave**2, -octave)
            )
            by_contrast, by_slope = by_contrast + 1 / _CONTRAST_DEVIATION**2, by_slope + 1 / _SLOPE_DEVIATION**2
            determinant = by_contrast * by_slope - both**2
            if step == _SCORING_STEPS:
                break
            pull = (0.5 * weight * share * error).sum(-1, keepdim=True) - contrast / _CONTRAST_DEVIATION**2
            tilt = (-0.5 * weight * share * error * octave).sum(-1, keepdim=True) - slope / _SLOPE_DEVIATION**2
            contrast = contrast + ((by_slope * pull - both * tilt) / determinant).clamp(-1, 1)
            slope = slope + ((by_contrast * tilt - both * pull) / determinant).clamp(-0.5, 0.5)
        likelihood = -0.5 * (weight * (total.log() + self.power / total)).sum(-1)
        prior = (contrast / _CONTRAST_DEVIATION) ** 2 + (slope / _SLOPE_DEVIATION) ** 2
        return likelihood - 0.5 * (prior + determinant.log())[..., 0]


def _noise_limit(y: Tensor, unclipped: Tensor) -> float:
    """The largest noise that a photo (C, H, W) can have: that of its quiet parts."""
    # A filter that passes noise unchanged, but of an image only what varies in both directions.
    rough = (y[:, :-1, :-1] - y[:, 1:, :-1] - y[:, :-1, 1:] + y[:, 1:, 1:]) / 2
    height, width = rough.shape[-2:]
    block = min(_BLOCK_PX, max(4, min(height, width) // 4), height, width)

    def per_block(values: Tensor) -> Tensor:
        rows, columns = height // block, width // block
        return values[: rows * block, : columns * block].reshape(rows, block, columns, block).mean((1, 3)).flatten()

    variance, whole = per_block(rough.square().mean(0)), per_block(unclipped.double()[1:, 1:]) > _WHOLE
    known = variance[whole] if int(whole.sum()) >= _FEW_BLOCKS else variance
    return _MARGIN * math.sqrt(float(torch.quantile(known, _QUIET)) / _QUIET_OF_NOISE)


def _interval(weights: Tensor, values: Tensor) -> Interval:
    """Median and bounds of values with these weights."""
    shares = weights / weights.sum()
    done = (shares.cumsum(0) - shares / 2).cpu().numpy()
    return Interval(*(float(np.interp(quantile, done, values.cpu().numpy())) for quantile in _INTERVAL))
