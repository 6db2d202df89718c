"""Inverse heat dissipation (Rissanen, Heinonen and Solin 2023, arXiv 2206.13397): images come out of blur instead of noise.

| code | paper | meaning |
|---|---|---|
| `levels` | K | blur levels, log-spaced in pixels; level k is the time t = k / K, level 0 the image |
| `alpha` | F(t_k) in the DCT basis | `exp(-lambda tau_k)`, what the heat equation leaves of every frequency |
| `noise` | sigma | standard deviation of the noise on every blurred image in training |
| `delta` | delta | standard deviation of the noise that every step of the sampler adds |

The paper's images are in [0, 1]; here they are in [-1, 1], so that its 0.01 and 0.0125 are 0.02 and 0.025.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from blurcli.core.bands import band_means, frequency_bands
from blurcli.core.dct import dct2, idct2
from blurcli.core.denoiser import Denoiser, Network, weighted_mean
from blurcli.core.likelihood import BANDS_PER_OCTAVE, Bound
from blurcli.core.process import Process
from blurcli.core.schedule import dissipation

_HALF_LEVEL = 1 / 255  # of the 256 levels in [-1, 1]


@dataclass(frozen=True)
class HeatDissipation(Process):
    """Images that the heat equation blurs, under a little noise of constant strength.

    Args:
        image_size: side of the square images, or (height, width), in pixels.
        blur_sigma_max: standard deviation of the blur at level K, in pixels.
        levels: K.
        blur_sigma_min: that at level 1; between 0 and level 1 it grows linearly.
        noise: standard deviation of the noise, for images in [-1, 1].

    Raises:
        ValueError: an argument is out of its range.
    """

    image_size: int | tuple[int, int]
    blur_sigma_max: float = 24.0
    levels: int = 200
    blur_sigma_min: float = 0.5
    noise: float = 0.02

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"image_size must be positive, not {self.image_size}")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")
        if not 0 < self.blur_sigma_min < self.blur_sigma_max:
            raise ValueError(f"blur_sigma_min ({self.blur_sigma_min}) must be above 0 and below blur_sigma_max")
        if not self.noise > 0:
            raise ValueError(f"noise must be above 0, not {self.noise}")

    def blur_sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the blur in pixels, at times `t` in [0, 1] of any shape (float64)."""
        level = t * self.levels
        octaves = math.log(self.blur_sigma_max / self.blur_sigma_min) * (level - 1) / (self.levels - 1)
        return torch.where(level < 1, level * self.blur_sigma_min, self.blur_sigma_min * torch.exp(octaves))

    def alpha(self, t: Tensor) -> Tensor:
        """What is left of every DCT frequency, `exp(-lambda tau)`: (B,) in [0, 1] -> (B, 1, H, W), in the dtype of `t`."""
        return dissipation(self.blur_sigma(self._times(t)), *self.shape).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        """The noise, the same at all times: (B,) -> (B, 1, 1, 1), in the dtype of `t`."""
        return torch.full_like(t, self.noise)[:, None, None, None]

    def logsnr(self, t: Tensor) -> Tensor:
        """log (1 / noise)^2, the same at all times `t`, of any shape (float64)."""
        return torch.full_like(t, -2 * math.log(self.noise))

    def level_above(self, t: Tensor) -> Tensor:
        """The time of the next level at or above times `t`, and at least that of level 1."""
        return (t * self.levels).ceil().clamp(min=1) / self.levels


class Predictor(Protocol):
    """What the sampler and the bound ask: an image at an earlier time."""

    def __call__(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The DCT (B, C, H, W) of the expected image, blurred as at times `s` (B,), given the state `z` at later times `t`."""
        ...


class ResidualPredictor:
    """The published network: the less blurred image, of one level before, is `z + net(z, t)`.

    Args:
        net: predicts the difference, from (z, t).
        process: the heat dissipation.
    """

    def __init__(self, net: Network, process: HeatDissipation) -> None:
        self.net = net
        self.process = process

    def __call__(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See `Predictor`; `s` must be one level before `t`."""
        return dct2(z + self.net(z, t))

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None) -> Tensor:
        """Squared error of the less blurred image in units of the noise, (B,): the paper's loss.

        Arguments are those of `Denoiser.loss`; `t` must lie on levels from 1 on.
        """
        z = self.process.diffuse(x, t, eps)
        target = self.process.alpha((t - 1 / self.process.levels).clamp(min=0)).to(x.dtype) * dct2(x)
        return weighted_mean((self(z, t, t) - target) / self.process.noise, weight)


class DenoiserPredictor:
    """The less blurred image, of any earlier level, from an estimate of the clean one: `E[F(s) x | z] = F(s) E[x | z]`.

    Args:
        denoiser: `x_hat = denoiser(z, t)`. The loss of a `SpectralDenoiser` is the paper's, times `(alpha(t) / alpha(s))^2` per
            frequency, which is near 1 wherever there is any signal, the levels being so close.
        process: the heat dissipation.
    """

    def __init__(self, denoiser: Denoiser, process: HeatDissipation) -> None:
        self.denoiser = denoiser
        self.process = process

    def __call__(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See `Predictor`."""
        return self.process.alpha(s).to(z.dtype) * dct2(self.denoiser(z, t))

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None) -> Tensor:
        """That of the denoiser."""
        return self.denoiser.loss(x, t, eps, weight)


def sample_heat(
    predictor: Predictor,
    process: HeatDissipation,
    z: Tensor,
    steps: int,
    delta: float,
    noise: Callable[[Tensor], Tensor] | None = None,
    on_step: Callable[[int, float, Tensor, Tensor], None] | None = None,
    *,
    start: float = 1.0,
) -> Tensor:
    """Sharpen blurred images: algorithm 2 of the paper, `u_s = E[F(s) x | u_t] + delta noise`.

    Args:
        predictor: called exactly `steps` times.
        process: the heat dissipation.
        z: the states (B, C, H, W) at time `start`: blurred images with noise; float32 or float64.
        steps: at least 1; even in time, so that for K steps from t = 1 each goes down one level.
        delta: standard deviation of the noise that every step but the last adds, for images in [-1, 1].
        noise: `noise(z)` gives standard normal noise like z; called once a step but the last, in order.
        on_step: called as `on_step(i, t, z, x_hat)` after each prediction, x_hat being the less blurred image.
        start: the time in (0, 1] of `z`.

    Returns:
        The images at t = 0, (B, C, H, W), about [-1, 1], in the dtype of `z`.

    Raises:
        ValueError: `steps` below 1, `delta` below 0 or `start` out of range.
    """
    if steps < 1 or delta < 0 or not 0 < start <= 1:
        raise ValueError(f"steps ({steps}) must be at least 1, delta ({delta}) at least 0, and start ({start}) in (0, 1]")
    noise = noise or torch.randn_like
    for i in range(steps):
        t, s = (torch.full((len(z),), start * (1 - k / steps), dtype=z.dtype, device=z.device) for k in (i, i + 1))
        less_blurred = idct2(predictor(z, t, s.clamp(min=0)))
        if on_step is not None:
            on_step(i, start * (1 - i / steps), z, less_blurred)
        z = less_blurred + delta * noise(less_blurred) if i + 1 < steps else less_blurred
    return z


def heat_bound(
    predictor: Predictor,
    process: HeatDissipation,
    x: Tensor,
    noise: Callable[[Tensor], Tensor],
    offset: Tensor,
    starts: Tensor,
    delta: float,
    *,
    calls: int = 32,
    to_pixels: Callable[[Tensor], Tensor] = lambda x: x,
) -> Bound:
    """An unbiased estimate of the evidence bound of the paper (section 3) in bits per dimension, with 256 levels.

    The prior, from which the sampler starts, is the mixture of all blurred training images under the training noise. Where
    the paper takes densities, the last step, from level 1 to the image, is asked for the probability of the grey level of
    every pixel, so that the figure compares with that of `variational_bound`.

    Args:
        predictor: called `calls` + 1 times.
        process: the heat dissipation.
        x: images (B, C, H, W), float32 or float64, such that `to_pixels(x)` are of 256 even levels in [-1, 1].
        noise: `noise(x)` gives standard normal noise like x; called once a call of the predictor, and once for the prior.
        offset: (B,) uniform in [0, 1): where the stratified levels of each image begin.
        starts: DCT of the blurred training images, their lowest frequencies only, (N, C, h, w); all others are 0.
        delta: standard deviation of the noise of the sampler, above 0, for images in [-1, 1].
        calls: levels from 2 on that are drawn for each image.
        to_pixels: an orthonormal change of the colours of `x`.

    Raises:
        ValueError: `calls` below 1, or `delta` not above 0.
    """
    if calls < 1 or not delta > 0:
        raise ValueError(f"calls ({calls}) must be at least 1, and delta ({delta}) above 0")
    x_dct = dct2(x.double())
    levels, ratio = process.levels, process.noise / delta
    diffusion = torch.zeros_like(x_dct)
    for k in range(calls):
        position = (k + offset.to(x.device, torch.float64)) / calls
        level = 2 + (position * (levels - 1)).floor()
        t, s = (level / levels).to(x.dtype), ((level - 1) / levels).to(x.dtype)
        z = process.diffuse(x, t, noise(x))
        error = (predictor(z, t, s).double() - process.alpha(s.double()) * x_dct) / delta
        diffusion += (levels - 1) / calls * (error**2 + ratio**2 - 1 - 2 * math.log(ratio)) / 2

    prior = _mixture_prior(process, x_dct, noise(x).double(), starts)
    first = torch.full((len(x),), 1 / levels, dtype=x.dtype, device=x.device)
    last = idct2(predictor(process.diffuse(x, first, noise(x)), first, torch.zeros_like(first)).double())
    reconstruction = -_level_log_probability(to_pixels(x.double()), to_pixels(last), delta).sum((1, 2, 3))

    band, bands = frequency_bands(*process.shape, BANDS_PER_OCTAVE)
    per_band = band_means(diffusion, band.to(x.device)) * torch.bincount(band.flatten()).to(x.device) * x.shape[1]
    # The blurred images differ in the lowest frequencies only, of which the mixture makes one number.
    spread = torch.bincount(band[: starts.shape[-2], : starts.shape[-1]].flatten(), minlength=len(bands)).to(x.device)
    per_band += prior[:, None] * spread / spread.sum()
    unit = math.log(2) * x[0].numel()
    return Bound(prior / unit, diffusion.sum((1, 2, 3)) / unit, reconstruction / unit, per_band / unit)


def _mixture_prior(process: HeatDissipation, x_dct: Tensor, eps: Tensor, starts: Tensor) -> Tensor:
    """One draw for each image of `log q(u_K | x) - log p(u_K)`, (B,) nats; p is the mixture of N(starts, noise^2)."""
    one = torch.ones(1, dtype=torch.float64, device=x_dct.device)
    blurred = process.alpha(one) * x_dct
    height, width = starts.shape[-2:]
    kept = blurred[..., :height, :width]
    # Beyond the kept frequencies all components are 0: there the divergence is exact.
    beyond = ((blurred**2).sum((1, 2, 3)) - (kept**2).sum((1, 2, 3))) / (2 * process.noise**2)
    u = (kept + process.noise * eps[..., :height, :width]).flatten(1)
    distance = torch.cdist(u, starts.to(u).flatten(1), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    own = (eps[..., :height, :width] ** 2).sum((1, 2, 3)) / 2
    log_p: Tensor = torch.logsumexp(-distance / (2 * process.noise**2), 1) - math.log(len(starts))
    return beyond - own - log_p


def _level_log_probability(x: Tensor, mean: Tensor, delta: float) -> Tensor:
    """log of the probability that N(mean, delta^2), rounded to 256 levels of which the outermost take all beyond, gives x."""
    upper = torch.where(x > 1 - _HALF_LEVEL, math.inf, (x + _HALF_LEVEL - mean) / delta)
    lower = torch.where(x < -1 + _HALF_LEVEL, -math.inf, (x - _HALF_LEVEL - mean) / delta)
    # The difference of two tails is exact on the left side only.
    mirrored = lower + upper > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    log_probability: Tensor = log_upper + torch.log1p(-torch.exp(log_lower - log_upper))
    return log_probability


def prediction_errors(
    predictor: Predictor,
    process: HeatDissipation,
    x: Tensor,
    noise: Callable[[Tensor], Tensor],
    times: int,
    per_octave: int,
) -> tuple[Tensor, Tensor]:
    """How wrong the less blurred images are: mean squared errors in units of the noise, by level and frequency band.

    Args:
        predictor: called once a level.
        process: the heat dissipation.
        x: clean images (B, C, H, W) in [-1, 1].
        noise: `noise(x)` gives standard normal noise like x; called once a level.
        times: how many levels, even from 1 to K.
        per_octave: bands an octave.

    Returns:
        times (T,) and errors (T, bands).
    """
    band = frequency_bands(*process.shape, per_octave)[0].to(x.device)
    grid = process.level_above(torch.linspace(0, 1, times, dtype=torch.float64, device=x.device))
    x_dct, rows = dct2(x.double()), []
    for t in torch.chunk(grid, times):
        s = t - 1 / process.levels
        later, earlier = (one.clamp(min=0).to(x.dtype).expand(len(x)) for one in (t, s))
        found = predictor(process.diffuse(x, later, noise(x)), later, earlier).double()
        error = (found - process.alpha(earlier.double()) * x_dct) / process.noise
        rows.append(band_means((error**2).mean(0), band))
    return grid, torch.stack(rows)


def lowest_frequencies(process: HeatDissipation, spectrum: Tensor) -> tuple[int, int]:
    """Height and width of the corner of the DCT that holds all that a blurred image has at t = 1.

    Args:
        process: the heat dissipation.
        spectrum: P of the data, (C, H, W) or (H, W).
    """
    one = torch.ones(1, dtype=torch.float64, device=spectrum.device)
    alive = (process.alpha(one)[0] * spectrum.double().sqrt() > process.noise / 100).reshape(-1, *process.shape).any(0)
    alive[0, 0] = True  # the mean is never blurred
    rows, columns = alive.any(1).nonzero(), alive.any(0).nonzero()
    return int(rows.max()) + 1, int(columns.max()) + 1
