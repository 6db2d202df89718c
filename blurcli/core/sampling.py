"""Samplers: from standard normal noise to images, per DCT frequency, for any denoiser.

The process is diagonal in the DCT basis, so each frequency follows its own clock, and a solver for ordinary diffusion
carries over frequency by frequency. Every step has one form, `(u, X, t, s) -> u_s`: the DCT `u` of the state and `X` of the
estimate x_hat at time t, to the state at the earlier time s. State and coefficients are float64; the denoiser alone
sees the dtype of the caller.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blurcli.core.dct import dct2, idct2
from blurcli.core.denoiser import reference_gaussian
from blurcli.core.process import BlurringDiffusion

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Noise = Callable[[Tensor], Tensor]
Observer = Callable[[int, float, Tensor, Tensor], None]

SAMPLERS = ("ab2", "euler", "ancestral", "ddim", "dpmpp-2m")
FLAT_SPECTRUM = 0.25  # variance of pixels in [-1, 1] that are neither flat nor extreme


def sample(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    process: BlurringDiffusion,
    z: Tensor,
    steps: int = 20,
    sampler: str = "ab2",
    spectrum: Tensor | None = None,
    noise: Noise | None = None,
    on_step: Observer | None = None,
    mean: Tensor | None = None,
) -> Tensor:
    """Generate images: integrate the reverse process from t = 1 to t = 0 on a uniform grid.

    Args:
        denoiser: `x_hat = denoiser(z, t)` with z (B, C, H, W) and t (B,), called exactly `steps` times.
        process: the diffusion process.
        z: standard normal noise (B, C, H, W), float32 or float64; `ab2` and `euler` start from `w = DCT(z)`.
        steps: steps of the sampler, at least 1.
        sampler: one of `SAMPLERS`.
        spectrum: P, (H, W) or (C, H, W), for `ab2` and `euler`; when None, `denoiser.spectrum` with `denoiser.mean`, else
            0.25 flat. Any positive P is correct in the limit of many steps; the data's own is the most accurate.
        noise: `noise(z)` gives standard normal noise like z; called once a step by `ancestral`, in order, never by the others.
        on_step: called as `on_step(i, t, z, x_hat)` after each call of the denoiser, with the state that it saw.
        mean: M, the data's mean DCT coefficients, like `spectrum` and with it; None for 0.

    Returns:
        The images at t = 0, (B, C, H, W), about [-1, 1], in the dtype of `z`.

    Raises:
        ValueError: unknown sampler, `steps` below 1, or shapes that do not fit.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if z.ndim != 4 or tuple(z.shape[-2:]) != process.shape:
        raise ValueError(f"z of shape {tuple(z.shape)} does not fit (B, C, {process.shape[0]}, {process.shape[1]})")
    u = dct2(z).double()
    step: Step
    if sampler in ("ab2", "euler"):
        if spectrum is None:
            spectrum, mean = getattr(denoiser, "spectrum", None), getattr(denoiser, "mean", None)
        if spectrum is None:
            spectrum = torch.full(process.shape, FLAT_SPECTRUM)
        centre, variance = (tensor.to(z.device) for tensor in reference_gaussian(process, spectrum, mean))
        alpha, sigma = process.alpha(_times(1.0, z)), process.sigma(_times(1.0, z))
        u = alpha * centre + u * torch.sqrt(alpha**2 * variance + sigma**2)
        step = _phi_step(process, centre, variance, second_order=sampler == "ab2")
    elif sampler in ("ddim", "dpmpp-2m"):
        step = _exponential_step(process, second_order=sampler == "dpmpp-2m")
    elif sampler == "ancestral":
        step = _ancestral_step(process, noise or torch.randn_like, z)
    else:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")

    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        z_t = idct2(u).to(z.dtype)
        x_hat = denoiser(z_t, torch.full((len(z),), t, dtype=z.dtype, device=z.device))
        if on_step is not None:
            on_step(i, t, z_t, x_hat)
        u = step(u, dct2(x_hat.double()), _times(t, z), _times(s, z))
    return idct2(u).to(z.dtype)


def _phi_step(process: BlurringDiffusion, mean: Tensor, variance: Tensor, second_order: bool) -> Step:
    """The probability-flow ODE in the whitened space, `dw/dphi = F` (see `SpectralDenoiser`), per frequency.

    Euler, or Adams-Bashforth of second order: `w += dphi (F + r/2 (F - F_prev))`, `r = dphi / dphi_prev`. Exact in one step
    for Gaussian data of this mean and variance, where F = 0. The first step is Euler.
    """
    root_v = variance.sqrt()
    previous: tuple[Tensor, Tensor] | None = None

    def step(u: Tensor, x_dct: Tensor, t: Tensor, s: Tensor) -> Tensor:
        nonlocal previous
        alpha_t, sigma_t, alpha_s, sigma_s = process.alpha(t), process.sigma(t), process.alpha(s), process.sigma(s)
        signal_t, signal_s = alpha_t * root_v, alpha_s * root_v
        root_s_t, root_s_s = torch.hypot(signal_t, sigma_t), torch.hypot(signal_s, sigma_s)
        w = (u - alpha_t * mean) / root_s_t
        f = ((x_dct - mean) / root_v - signal_t / root_s_t * w) * root_s_t / sigma_t
        dphi = torch.atan2(signal_s, sigma_s) - torch.atan2(signal_t, sigma_t)
        slope = f
        if second_order and previous is not None:
            f_previous, dphi_previous = previous
            # Late frequencies start with vanishing steps: unlimited, the ratio would extrapolate far below 10 steps.
            slope = f + torch.clamp(dphi / dphi_previous, max=2.0) / 2 * (f - f_previous)
        previous = f, dphi
        return alpha_s * mean + (w + dphi * slope) * root_s_s

    return step


def _exponential_step(process: BlurringDiffusion, second_order: bool) -> Step:
    """DDIM (Song et al. 2021, arXiv 2010.02502) and DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095), per frequency.

    Exponential integrators in the half log-SNR `l = log(alpha / sigma)` of each frequency, with `h = l_s - l_t`:
    `u_s = (sigma_s / sigma_t) u_t + alpha_s (1 - e^-h) X + alpha_s phi_2 (X - X_prev) h / h_prev`,
    `phi_2 = (e^-h - 1) / h + 1`; DDIM, and the first step of 2M, have no last term.
    """
    previous: tuple[Tensor, Tensor] | None = None

    def step(u: Tensor, x_dct: Tensor, t: Tensor, s: Tensor) -> Tensor:
        nonlocal previous
        alpha_s, sigma_s, sigma_t = process.alpha(s), process.sigma(s), process.sigma(t)
        h = torch.log(alpha_s / process.alpha(t) * sigma_t / sigma_s)
        decay = -torch.expm1(-h)
        u_s = sigma_s / sigma_t * u + alpha_s * decay * x_dct
        if second_order and previous is not None:
            x_previous, h_previous = previous
            u_s = u_s + alpha_s * (1 - decay / h) * h / h_previous * (x_dct - x_previous)
        previous = x_dct, h
        return u_s

    return step


def _ancestral_step(process: BlurringDiffusion, noise: Noise, like: Tensor) -> Step:
    """The paper's sampler, a draw from `q(u_s | u_t, x = x_hat)` (Hoogeboom and Salimans 2023).

    Without blur it is that of DDPM (Ho et al. 2020, arXiv 2006.11239).
    """

    def step(u: Tensor, x_dct: Tensor, t: Tensor, s: Tensor) -> Tensor:
        mean, variance = process.posterior(u, x_dct, t, s)
        return mean + variance.sqrt() * dct2(noise(like).double())

    return step


def _times(t: float, like: Tensor) -> Tensor:
    return torch.tensor([t], dtype=torch.float64, device=like.device)
