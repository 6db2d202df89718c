"""The evidence bound and the prediction errors of inverse heat dissipation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blurcli.core.bands import band_means, frequency_bands
from blurcli.core.colors import RGB, ModelSpace
from blurcli.core.dct import dct2, idct2
from blurcli.core.heat import HeatDissipation, Predictor
from blurcli.core.likelihood import BANDS_PER_OCTAVE, Bound
from blurcli.core.rng import ImageNoise

_HALF_LEVEL = 1 / 255  # of the 256 levels in [-1, 1]


def heat_bound(
    predictor: Predictor,
    x: Tensor,
    noise: ImageNoise,
    blurred_bank: Tensor,
    delta: float,
    *,
    calls: int = 32,
    model_space: ModelSpace = RGB,
    **conditions: Any,
) -> Bound:
    """An unbiased estimate of the evidence bound of the paper (section 3) in bits per dimension, with 256 levels.

    The prior, from which the sampler starts, is the mixture of all blurred training images with the training noise. The paper
    uses densities. Here the last step, from level 1 to the image, gives the probability of the gray level of every pixel, so
    that the bound is comparable with `variational_bound`.

    Args:
        predictor: called `calls` + 1 times.
        x: images (B, C, H, W), float32 or float64, in model space.
        noise: one random stream per image; drawn from once per call of the predictor and once for the prior.
        blurred_bank: DCT of the blurred training images, their lowest frequencies only, (N, C, h, w); all others are 0.
        delta: standard deviation of the sampler's noise, above 0, in model space.
        calls: levels, from 2 on, drawn per image.
        model_space: the space of `x`; its `to_rgb` gives images of 256 uniform levels.
        conditions: keyword arguments of the network.

    Raises:
        ValueError: `calls` below 1, or `delta` not above 0.
    """
    if calls < 1 or not delta > 0:
        raise ValueError(f"calls ({calls}) must be at least 1, and delta ({delta}) above 0")
    process, offset = predictor.process, noise.uniform()
    x_dct = dct2(x.double())
    levels, ratio = process.levels, process.noise / delta
    diffusion = torch.zeros_like(x_dct)
    for k in range(calls):
        position = (k + offset.to(x.device, torch.float64)) / calls
        level = 2 + (position * (levels - 1)).floor()
        t, s = (level / levels).to(x.dtype), ((level - 1) / levels).to(x.dtype)
        z = process.diffuse(x, t, noise(x))
        error = (predictor(z, t, s, **conditions).double() - process.alpha(s.double()) * x_dct) / delta
        diffusion += (levels - 1) / calls * (error**2 + ratio**2 - 1 - 2 * math.log(ratio)) / 2

    prior = _mixture_prior(process, x_dct, noise(x).double(), blurred_bank)
    first = torch.full((len(x),), 1 / levels, dtype=x.dtype, device=x.device)
    last = idct2(predictor(process.diffuse(x, first, noise(x)), first, torch.zeros_like(first), **conditions).double())
    x_rgb, last_rgb = model_space.to_rgb(x.double()), model_space.to_rgb(last)
    reconstruction = -_level_log_probability(x_rgb, last_rgb, delta / model_space.scale).sum((1, 2, 3))

    band, bands = frequency_bands(*process.shape, BANDS_PER_OCTAVE)
    per_band = band_means(diffusion, band.to(x.device)) * torch.bincount(band.flatten()).to(x.device) * x.shape[1]
    # The mixture prior is one number. It is spread over the lowest frequencies, where the blurred images differ.
    spread = torch.bincount(band[: blurred_bank.shape[-2], : blurred_bank.shape[-1]].flatten(), minlength=len(bands)).to(
        x.device
    )
    per_band += prior[:, None] * spread / spread.sum()
    unit = math.log(2) * x[0].numel()
    return Bound(prior / unit, diffusion.sum((1, 2, 3)) / unit, reconstruction / unit, per_band / unit)


def _mixture_prior(process: HeatDissipation, x_dct: Tensor, eps: Tensor, blurred_bank: Tensor) -> Tensor:
    """One draw per image of `log q(u_K | x) - log p(u_K)`, (B,) nats; p is the mixture of N(blurred_bank, noise^2)."""
    one = torch.ones(1, dtype=torch.float64, device=x_dct.device)
    blurred = process.alpha(one) * x_dct
    height, width = blurred_bank.shape[-2:]
    kept = blurred[..., :height, :width]
    # Beyond the kept frequencies all components are 0, and the divergence is exact.
    beyond = ((blurred**2).sum((1, 2, 3)) - (kept**2).sum((1, 2, 3))) / (2 * process.noise**2)
    u = (kept + process.noise * eps[..., :height, :width]).flatten(1)
    distance = torch.cdist(u, blurred_bank.to(u).flatten(1), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    own = (eps[..., :height, :width] ** 2).sum((1, 2, 3)) / 2
    log_p: Tensor = torch.logsumexp(-distance / (2 * process.noise**2), 1) - math.log(len(blurred_bank))
    return beyond - own - log_p


def _level_log_probability(x: Tensor, mean: Tensor, delta: float) -> Tensor:
    """Log-probability of x under N(mean, delta^2) rounded to 256 levels; the outermost levels take the tails."""
    upper = torch.where(x > 1 - _HALF_LEVEL, math.inf, (x + _HALF_LEVEL - mean) / delta)
    lower = torch.where(x < -1 + _HALF_LEVEL, -math.inf, (x - _HALF_LEVEL - mean) / delta)
    # The difference of two tails is accurate on the left side only.
    mirrored = lower + upper > 0
    lower, upper = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    log_probability: Tensor = log_upper + torch.log1p(-torch.exp(log_lower - log_upper))
    return log_probability


def prediction_errors(
    predictor: Predictor, x: Tensor, noise: Callable[[Tensor], Tensor], times: int, per_octave: int, **conditions: Any
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the less blurred images in units of the noise, per level and frequency band.

    Args:
        predictor: called once per level.
        x: clean images (B, C, H, W) in [-1, 1].
        noise: `noise(x)` gives standard normal noise like x; called once per level.
        times: number of levels, uniform from 1 to K.
        per_octave: bands per octave.
        conditions: keyword arguments of the network.

    Returns:
        times (T,) and errors (T, bands).
    """
    process = predictor.process
    band = frequency_bands(*process.shape, per_octave)[0].to(x.device)
    grid = process.level_above(torch.linspace(0, 1, times, dtype=torch.float64, device=x.device))
    x_dct, rows = dct2(x.double()), []
    for t in torch.chunk(grid, times):
        s = t - 1 / process.levels
        later, earlier = (one.clamp(min=0).to(x.dtype).expand(len(x)) for one in (t, s))
        found = predictor(process.diffuse(x, later, noise(x)), later, earlier, **conditions).double()
        error = (found - process.alpha(earlier.double()) * x_dct) / process.noise
        rows.append(band_means((error**2).mean(0), band))
    return grid, torch.stack(rows)
