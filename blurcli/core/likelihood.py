"""The variational bound on the likelihood of images, in bits per dimension, per DCT frequency.

The process is diagonal in the DCT basis, so its variational bound (Kingma et al. 2021, arXiv 2107.00630) carries over with a
signal-to-noise ratio per frequency, `snr_f = (alpha_f / sigma)^2`:

    -log p(x) <= KL(q(z_1 | x) || p(z_1))                                                    prior
               + 1/2 sum over steps of sum_f (snr_f(s) - snr_f(t)) (x - x_hat(z_t))_f^2      diffusion, T steps
               - log p(x | z_0)                                                              reconstruction

where the sum over steps becomes `1/2 integral of sum_f -dsnr_f/dt (x - x_hat(z_t))_f^2 dt` in continuous time. p(z_1) is the
start of the sampler: the Gaussian with the data's moments in continuous time, N(0, I) for T steps of the ancestral sampler. The
reconstruction factorizes over pixels: a softmax over the 256 levels (ibid., equation 6). Blur at t = 0 (only with
`noise-ratio`, some thousandths of a pixel) counts as an error of z_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blurcli.core.bands import band_means, frequency_bands
from blurcli.core.colors import RGB, ModelSpace
from blurcli.core.dct import dct2, idct2
from blurcli.core.process import BlurringDiffusion
from blurcli.core.rng import ImageNoise
from blurcli.core.whitened import WhitenedSpace

BANDS_PER_OCTAVE = 1
_TABLE_CELLS = 1024
_LEVELS = 256


@dataclass(frozen=True)
class Bound:
    """The bound per image, in bits per dimension (a dimension is one channel of one pixel).

    Attributes:
        prior: (B,)
        diffusion: (B,)
        reconstruction: (B,)
        bands: prior and diffusion by frequency band, (B, bands), for the bands of `frequency_bands` at `BANDS_PER_OCTAVE`;
            they sum to prior + diffusion.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    bands: Tensor

    @property
    def total(self) -> Tensor:
        """(B,): the bound on -log2 p(x) per dimension."""
        return self.prior + self.diffusion + self.reconstruction


def variational_bound(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    space: WhitenedSpace,
    x: Tensor,
    noise: ImageNoise,
    *,
    calls: int = 32,
    steps: int | None = None,
    model_space: ModelSpace = RGB,
) -> Bound:
    """An unbiased estimate of the bound, from `calls` times per image.

    The times are stratified, and drawn in proportion to the contribution of a Gaussian with the data's moments. Its information
    about x at time t is `I(t) = 1/2 sum_f log(1 + V_f snr_f)`, so for Gaussian data the estimate hardly varies.

    Args:
        denoiser: `x_hat = denoiser(z, t)`; called `calls` times.
        space: process and moments of the data; the process is a `BlurringDiffusion`.
        x: images (B, C, H, W), float32 or float64, in model space.
        noise: one random stream per image; drawn from once for z_0 and once per call.
        calls: calls of the denoiser.
        steps: T, steps of the ancestral sampler; None for continuous time.
        model_space: the space of `x`; its `to_rgb` gives images of 256 uniform levels.

    Raises:
        ValueError: `calls` or `steps` below 1.
    """
    if calls < 1 or (steps is not None and steps < 1):
        raise ValueError(f"calls ({calls}) and steps ({steps}) must be at least 1")
    process, offset = space.process, noise.uniform()
    assert isinstance(process, BlurringDiffusion)
    x_dct = dct2(x.double())
    channels = x.shape[1]
    edges, information = _information(process, space.variance)
    diffusion = torch.zeros_like(x_dct)
    for k in range(calls):
        position = (k + offset.to(x.device, torch.float64)) / calls
        if steps is None:
            t, density = _invert(position, edges, information)
            difference = -process.snr(t)[1] / density[:, None, None, None]
        else:
            t, difference = _step_of(process, _invert(position, edges, information)[0], steps, edges, information)
        z = process.diffuse(x, t.to(x.dtype), noise(x))
        error = x_dct - dct2(denoiser(z, t.to(x.dtype)).double())
        diffusion += difference * error**2 / (2 * calls)

    prior = _prior(space, x_dct, exact=steps is None)
    band, _ = frequency_bands(*process.shape, BANDS_PER_OCTAVE)
    per_band = band_means(prior + diffusion, band.to(x.device)) * torch.bincount(band.flatten()).to(x.device) * channels
    nats = [part.sum((1, 2, 3)) for part in (prior, diffusion)]
    unit = math.log(2) * x[0].numel()
    return Bound(nats[0] / unit, nats[1] / unit, _reconstruction(process, x, noise, model_space) / unit, per_band / unit)


def _information(process: BlurringDiffusion, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending times from 0 to 1, and the fraction of the Gaussian's information that is lost at each, from 0 to 1."""
    # Uniform in the log-SNR, because information is lost at a rate of about 1 / t near t = 0.
    logsnr = torch.linspace(process.logsnr_max, process.logsnr_min, _TABLE_CELLS + 1, dtype=torch.float64)
    angle = torch.atan(torch.exp(-logsnr / 2))
    times = ((angle - angle[0]) / (angle[-1] - angle[0])).to(variance.device)
    kept = torch.cat([torch.log1p(variance * process.snr(t)[0]).mean().reshape(1) for t in torch.chunk(times, len(times))])
    return times, (kept[0] - kept) / (kept[0] - kept[-1])


def _invert(position: Tensor, times: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """The times at which fractions `position` of the information are lost, and the density of such times."""
    cell = torch.searchsorted(lost, position, right=True).clamp(1, len(lost) - 1)
    density = (lost[cell] - lost[cell - 1]) / (times[cell] - times[cell - 1])
    return times[cell - 1] + (position - lost[cell - 1]) / density, density


def _step_of(process: BlurringDiffusion, t: Tensor, steps: int, times: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the steps that contain the times `t`, and the changes of snr in these steps over their probabilities."""
    index = (t * steps).floor().clamp(max=steps - 1)
    start, end = index / steps, (index + 1) / steps
    probability = _interpolate(end, times, lost) - _interpolate(start, times, lost)
    return end, (process.snr(start)[0] - process.snr(end)[0]) / probability[:, None, None, None]


def _interpolate(t: Tensor, times: Tensor, lost: Tensor) -> Tensor:
    cell = torch.searchsorted(times, t, right=True).clamp(1, len(times) - 1)
    share = (t - times[cell - 1]) / (times[cell] - times[cell - 1])
    return torch.lerp(lost[cell - 1], lost[cell], share)


def _prior(space: WhitenedSpace, x_dct: Tensor, exact: bool) -> Tensor:
    """KL divergence per frequency, in nats, of q(z_1 | x) from the Gaussian of the data (`exact`), or from N(0, I)."""
    one = torch.ones(1, dtype=torch.float64, device=x_dct.device)
    alpha, sigma = space.process.alpha(one), space.process.sigma(one)
    variance = alpha**2 * space.variance + sigma**2
    center = space.mean
    if not exact:
        variance, center = torch.ones_like(variance), torch.zeros_like(center)
    ratio = sigma**2 / variance
    return (ratio - 1 - ratio.log() + (alpha * (x_dct - center)) ** 2 / variance) / 2


def _reconstruction(
    process: BlurringDiffusion, x: Tensor, noise: Callable[[Tensor], Tensor], model_space: ModelSpace
) -> Tensor:
    """-log p(x | z_0) per image, (B,), in nats: a softmax over the 256 levels of every pixel."""
    x = model_space.to_rgb(x)
    zero = torch.zeros(1, dtype=torch.float64, device=x.device)
    alpha, sigma = process.alpha(zero), process.sigma(zero).item() / model_space.scale
    fading = alpha[..., 0, 0].item()
    eps = noise(x).double() + idct2((alpha - fading) * dct2(x.double())) / sigma
    level = ((x.double() + 1) / 2 * (_LEVELS - 1)).round()
    spacing = 2 / (_LEVELS - 1) * fading / sigma  # of the levels, in standard deviations of z_0
    # Log-weight of level k relative to the true level: only a few matter, but all are summed.
    total = torch.full_like(eps, -math.inf)
    for k in range(_LEVELS):
        total = torch.logaddexp(total, -((eps + (level - k) * spacing) ** 2) / 2)
    return (total + eps**2 / 2).sum((1, 2, 3))
