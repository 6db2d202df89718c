"""Blur and noise of a photo, estimated from the photo alone.

The DCT coefficients Y of a photo with blur and noise are, per frequency, about normal with variance

    v = c |w|^-a H^2 V + s^2

with the variance V of the training data, the photo's own contrast c, and an exponent a by which its spectrum falls faster or
more slowly than theirs. So the power in rings of equal frequency |w| is a likelihood of blur, noise, c and a. It is evaluated
on a grid of blur and noise, with c and a at their best, by Fisher scoring (Laplace's approximation takes the place of
integrals).

A photo differs from the training data in more than c and a: every ring counts as a measurement with a relative error of its
own, however many frequencies are in it. A texture has the spectrum of noise; but noise is everywhere, and a photo has quiet
parts, which set a limit to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blurcli.core.dct import dct2
from blurcli.core.schedules import laplacian
from blurcli.core.whitened import WhitenedSpace

_RINGS = 48
_DEVIATION = 0.25  # of the power in a ring from that of the training data, as a fraction, after c and a
_SLOPE_DEVIATION, _CONTRAST_DEVIATION = 0.6, 2.0  # of a and of log c over photos
_SCORING_STEPS = 25
_BLURS_PX = torch.cat([torch.linspace(0, 1, 21)[:-1], torch.logspace(0, math.log10(8), 37)]).double()
_NOISES = 61  # levels on the grid, from the least to the limit
_SHARP_PX = 0.3  # the least blur that can be told from none
_VISIBLE = 4.0  # standard deviations of the power of noise in a ring above which there is more than noise
_FEW_RINGS = 8  # with more than noise: fewer are an empty photo, such as a clear sky
_BLOCK_PX = 8
_WHOLE = 0.9  # share of the pixels of a block that are not clipped
_FEW_BLOCKS = 8
_QUIET = 0.03  # quantile of the variance in blocks that stands for the noise ...
_QUIET_OF_NOISE = 0.7  # ... which in noise alone is so much of its variance
_MARGIN = 1.1  # of the limit, for its own error
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
    """What was done to a photo.

    Attributes:
        blur_px: standard deviation of a Gaussian blur in pixels; 0 where none can be told from the photo.
        noise: standard deviation of the noise, in the units of the photo.
    """

    blur_px: Interval
    noise: Interval


def estimate(
    photo: Tensor,
    space: WhitenedSpace,
    least_noise: float,
    unclipped: Tensor,
    response: Tensor | None = None,
    noise: float | None = None,
) -> Degradation:
    """Blur and noise of a photo.

    Args:
        photo: (C, H, W) in the space of the network; channels that say nothing about the noise are left out.
        space: of the data at the size of the photo, with variances of these channels, (C, H, W).
        least_noise: of what an image can have, such as that of rounding.
        unclipped: (H, W) bool, false at pixels that are as dark or bright as a pixel can be, where the noise is cut off.
        response: H of a known blur, (H, W); None for an unknown Gaussian one.
        noise: the known noise, in the units of the photo; None for unknown noise.
    """
    y = photo.double()
    rings = _Rings.of(dct2(y), space, response)
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
        # As sharp as the training photos, or without anything that could be blurred; then the noise is that of no blur.
        posterior = posterior[:1] + 1e-300
        blur = Interval(0, 0, blur.high if len(blurs) > 1 else 0)
    return Degradation(blur, _interval(posterior.sum(0), noises))


@dataclass(frozen=True)
class _Rings:
    """Rings of frequency: the number of coefficients in each, their mean and typical power, V H^2 and lambda.

    The typical power is that of a normal distribution with the same median: a few large coefficients, such as those of a smooth
    slope, do not count in it.
    """

    count: Tensor
    power: Tensor
    typical: Tensor
    variance: Tensor
    rate: Tensor

    @classmethod
    def of(cls, y_dct: Tensor, space: WhitenedSpace, response: Tensor | None) -> _Rings:
        rate = laplacian(*y_dct.shape[-2:], y_dct.device)
        variance = space.variance if response is None else space.variance * response.to(space.variance) ** 2
        # The roots of the frequencies evenly: the lowest have few coefficients.
        root = rate.flatten()[1:] ** 0.25
        place = ((root - root.min()) / (root.max() - root.min()) * _RINGS).long().clamp(max=_RINGS - 1)

        def summed(values: Tensor) -> Tensor:
            per_frequency = values.expand_as(y_dct).reshape(len(y_dct), -1)[:, 1:].sum(0)
            return torch.zeros(_RINGS, dtype=torch.float64, device=rate.device).index_add_(0, place, per_frequency)

        count = summed(torch.ones_like(rate))
        found = torch.where(count > 0)[0]
        power, *others = (summed(values)[found] / count[found] for values in (y_dct**2, variance, rate))
        squares = y_dct.flatten(1)[:, 1:] ** 2
        medians = torch.stack([squares[:, place == ring].median() for ring in found])
        return cls(count[found], power, medians / _MEDIAN, *others)

    def visible(self, noise: float) -> int:
        """In how many rings there is typically more than noise."""
        limit = noise**2 * (1 + _VISIBLE / (self.count / 2).sqrt())
        return int((self.typical > limit).sum())

    def log_likelihood(self, blurs: Tensor, noises: Tensor) -> Tensor:
        """For every pair of blur and noise, with c and a at their best, (blurs, noises)."""
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
    """The most noise that a photo (C, H, W) can have: that of its quiet parts."""
    # A filter that passes noise as it is, and of an image only what changes in both directions.
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
