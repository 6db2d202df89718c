"""Samplers: from standard normal noise to images, per DCT frequency, for any denoiser; and the way back.

The process is diagonal in the DCT basis, so each frequency follows its own clock, and a solver for ordinary diffusion
carries over frequency by frequency. Every step has one form, `(u, X, t, s) -> u_s`: the DCT `u` of the state and `X` of the
estimate x_hat at time t, to the state at the next time s. State and coefficients are float64; the denoiser and the
transforms to and from it have the dtype of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blurcli.core.dct import dct2, idct2
from blurcli.core.denoiser import reference_gaussian
from blurcli.core.process import BlurringDiffusion
from blurcli.core.schedule import laplacian
from blurcli.core.whitened import WhitenedSpace

Step = Callable[[Tensor, Tensor, float, float], Tensor]
Noise = Callable[[Tensor], Tensor]
Observer = Callable[[int, float, Tensor, Tensor], None]
Estimate = Callable[[Tensor, Tensor], Tensor]

SAMPLERS = ("abm", "ab2", "euler", "ancestral", "ddim", "dpmpp-2m")
_EARLIEST_START = 1e-6  # any nearer to 0, the times of a grid could not be told apart
PIXEL_VARIANCE = 0.25  # of pixels in [-1, 1] that are neither flat nor extreme


def sample(
    denoiser: Estimate,
    process: BlurringDiffusion,
    z: Tensor,
    steps: int = 20,
    sampler: str = "abm",
    spectrum: Tensor | None = None,
    noise: Noise | None = None,
    on_step: Observer | None = None,
    mean: Tensor | None = None,
    *,
    eta: float = 0.0,
    start: float | None = None,
) -> Tensor:
    """Generate images: integrate the reverse process to t = 0.

    Args:
        denoiser: `x_hat = denoiser(z, t)` with z (B, C, H, W) and t (B,), called exactly `steps` times.
        process: the diffusion process.
        z: standard normal noise (B, C, H, W), float32 or float64; `abm`, `ab2` and `euler` start from `w = DCT(z)`. With
            `start`, the state at that time.
        steps: steps of the sampler, at least 1: evenly in time, but for `abm`, which places them by the spectrum.
        sampler: one of `SAMPLERS`.
        spectrum: P, (H, W) or (C, H, W), for `abm`, `ab2` and `euler`; when None, `denoiser.spectrum` with `denoiser.mean`;
            else the power law of natural images for `abm`, and 0.25 flat for the others. Any positive P is correct in the
            limit of many steps; the data's own is the most accurate.
        noise: `noise(z)` gives standard normal noise like z; called once a step by `ancestral`, and by `ddim` with eta, in
            order; never by the others.
        on_step: called as `on_step(i, t, z, x_hat)` after each call of the denoiser, with the state that it saw.
        mean: M, the data's mean DCT coefficients, like `spectrum` and with it; None for 0.
        eta: for `ddim`, the share of the ancestral sampler's noise, in [0, 1]: 0 is deterministic, 1 is `ancestral`.
        start: the time, in [1e-6, 1], of a state `z` from which to go on, such as a diffused photo; None to begin with noise.

    Returns:
        The images at t = 0, (B, C, H, W), about [-1, 1], in the dtype of `z`.

    Raises:
        ValueError: unknown sampler, `steps` below 1, `eta` or `start` out of range, `eta` without `ddim`, `mean` without
            `spectrum`, or shapes that do not fit.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise ValueError(f"eta must be in [0, 1], and 0 but for ddim, not {eta} for {sampler}")
    if start is not None and not _EARLIEST_START <= start <= 1:
        raise ValueError(f"start must be in [{_EARLIEST_START:g}, 1], not {start}")
    _check(process, z, steps)
    u = dct2(z).double()
    first = 1.0 if start is None else start
    times = [first * (1 - i / steps) for i in range(steps + 1)]
    if sampler in ("abm", "ab2", "euler"):
        space = _whitened_space(denoiser, process, z, spectrum, mean, power_law=sampler == "abm")
        if start is None:
            u = space.unwhiten(u, _time(1.0, z))
        if sampler == "abm":
            times = space.time_grid(steps, first)
            step = _abm_step(space, end=0.0)
        else:
            step = _ab2_step(space, second_order=sampler == "ab2")
    elif sampler == "dpmpp-2m":
        step = _dpmpp_step(process)
    elif sampler == "ddim":
        step = _ddim_step(process, eta, noise or torch.randn_like, z)
    else:
        step = _ancestral_step(process, noise or torch.randn_like, z)
    return idct2(_integrate(denoiser, u, times, step, z, on_step)).to(z.dtype)


def encode(
    denoiser: Estimate,
    process: BlurringDiffusion,
    x: Tensor,
    steps: int = 100,
    spectrum: Tensor | None = None,
    mean: Tensor | None = None,
) -> Tensor:
    """The noise z from which `abm`, or `ab2` and `euler` with the same spectrum, make the images x: `abm` backwards in time.

    As DDIM inverts images (Song et al. 2021, arXiv 2010.02502, section 5.4), but in the whitened space.

    Args:
        denoiser: as for `sample`; called exactly `steps` times.
        process: the diffusion process.
        x: images (B, C, H, W) in [-1, 1], float32 or float64.
        steps: at least 1; the more, the closer `sample` comes back to x.
        spectrum: as for `sample`, and the same.
        mean: as for `sample`, and the same.

    Returns:
        z (B, C, H, W), like standard normal noise where x is like the data: `sample(denoiser, process, z, steps)` is about x.

    Raises:
        ValueError: `steps` below 1, or shapes that do not fit.
    """
    _check(process, x, steps)
    space = _whitened_space(denoiser, process, x, spectrum, mean, power_law=True)
    times = space.time_grid(steps, 1.0)[::-1]
    u = _integrate(denoiser, dct2(x).double(), times, _abm_step(space, end=1.0), x, None)
    return idct2(space.whiten(u, _time(1.0, x))).to(x.dtype)


def _integrate(
    denoiser: Estimate, u: Tensor, times: Sequence[float], step: Step, like: Tensor, on_step: Observer | None
) -> Tensor:
    for i in range(len(times) - 1):
        t, s = times[i], times[i + 1]
        z_t = idct2(u.to(like.dtype))
        x_hat = denoiser(z_t, torch.full((len(like),), t, dtype=like.dtype, device=like.device))
        if on_step is not None:
            on_step(i, t, z_t, x_hat)
        u = step(u, dct2(x_hat).double(), t, s)
    return u


class _Taken(NamedTuple):
    """A step that was taken, from time t: its state, F there, F's divided difference before it, and its clock moments."""

    t: float
    w: Tensor
    f: Tensor
    change: tuple[Tensor, float] | None  # the divided difference, and the time at its other end
    moments: tuple[Tensor, Tensor, Tensor]


def _abm_step(space: WhitenedSpace, end: float) -> Step:
    """Adams-Bashforth-Moulton for `dw/dphi = F` with F a polynomial in t, per frequency, one call of the denoiser a step.

    With the moments `m_k = integral of (tau - t)^k dphi` of a step and Newton's divided differences of F,

        predict   w_s = w_t + m_0 F_t + m_1 [t, before] F                                                      order 2
        correct   w_t = w_before + m_0 F_before + m_1 [t, before] F + (m_2 - (t - before) m_1) [t, before, earlier] F    order 3

    where the correction of a step waits for the F at its end, which the next step needs anyway (the mode PEC: predict,
    evaluate, correct). The last step, which nothing will correct, does not extrapolate.
    """
    before: _Taken | None = None

    def step(u: Tensor, x_dct: Tensor, t: float, s: float) -> Tensor:
        nonlocal before
        w = space.whiten(u, _time(t, u))
        f = space.slope(w, x_dct, _time(t, u))
        moments = space.clock_moments(t, s)
        change = None
        if before is not None:
            h = t - before.t
            difference = (f - before.f) / h
            m_0, m_1, m_2 = before.moments
            w = before.w + m_0 * before.f + m_1 * difference
            if before.change is not None:
                difference_before, earliest = before.change
                w = w + (m_2 - h * m_1) * (difference - difference_before) / (t - earliest)
            change = difference, before.t
        before = _Taken(t, w, f, change, moments)
        w = w + moments[0] * f
        if change is not None and s != end:
            w = w + moments[1] * change[0]
        return space.unwhiten(w, _time(s, u))

    return step


def _ab2_step(space: WhitenedSpace, second_order: bool) -> Step:
    """Euler's method for `dw/dphi = F` per frequency, or Adams-Bashforth of second order in each frequency's own clock.

    `w += dphi (F + r/2 (F - F_prev))`, `r = dphi / dphi_prev`. Exact in one step for Gaussian data of this mean and variance,
    where F = 0. The first step is Euler's.
    """
    previous: tuple[Tensor, Tensor] | None = None

    def step(u: Tensor, x_dct: Tensor, t: float, s: float) -> Tensor:
        nonlocal previous
        w = space.whiten(u, _time(t, u))
        f = space.slope(w, x_dct, _time(t, u))
        dphi = space.angle(_time(s, u)) - space.angle(_time(t, u))
        slope = f
        if second_order and previous is not None:
            f_previous, dphi_previous = previous
            # Late frequencies start with vanishing steps: unlimited, the ratio would extrapolate far below 10 steps.
            slope = f + torch.clamp(dphi / dphi_previous, max=2.0) / 2 * (f - f_previous)
        previous = f, dphi
        return space.unwhiten(w + dphi * slope, _time(s, u))

    return step


def _dpmpp_step(process: BlurringDiffusion) -> Step:
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095), per frequency.

    An exponential integrator in the half log-SNR `l = log(alpha / sigma)` of each frequency, with `h = l_s - l_t` and X linear
    in l, integrated exactly (algorithm 2 there has (1 - e^-h) / 2 for phi_2, which agrees to second order):
    `u_s = (sigma_s / sigma_t) u_t + alpha_s (1 - e^-h) X + alpha_s phi_2 (X - X_prev) h / h_prev`,
    `phi_2 = (e^-h - 1) / h + 1`; the first step, which has no last term, is that of DDIM.
    """
    previous: tuple[Tensor, Tensor] | None = None

    def step(u: Tensor, x_dct: Tensor, t: float, s: float) -> Tensor:
        nonlocal previous
        alpha_s, sigma_s, sigma_t = process.alpha(_time(s, u)), process.sigma(_time(s, u)), process.sigma(_time(t, u))
        h = torch.log(alpha_s / process.alpha(_time(t, u)) * sigma_t / sigma_s)
        decay = -torch.expm1(-h)
        u_s = sigma_s / sigma_t * u + alpha_s * decay * x_dct
        if previous is not None:
            x_previous, h_previous = previous
            u_s = u_s + alpha_s * (1 - decay / h) * h / h_previous * (x_dct - x_previous)
        previous = x_dct, h
        return u_s

    return step


def _ddim_step(process: BlurringDiffusion, eta: float, noise: Noise, like: Tensor) -> Step:
    """DDIM (Song et al. 2021, arXiv 2010.02502, equation 12), per frequency.

    `u_s = alpha_s X + sqrt(sigma_s^2 - eta^2 v) eps_hat + eta sqrt(v) noise`, v the variance of the posterior q(u_s | u_t, x).
    """

    def step(u: Tensor, x_dct: Tensor, t: float, s: float) -> Tensor:
        alpha_t, sigma_t = process.alpha(_time(t, u)), process.sigma(_time(t, u))
        alpha_s, sigma_s = process.alpha(_time(s, u)), process.sigma(_time(s, u))
        eps_hat = (u - alpha_t * x_dct) / sigma_t
        if not eta:
            return alpha_s * x_dct + sigma_s * eps_hat
        _, variance = process.posterior(u, x_dct, _time(t, u), _time(s, u))
        # sigma_s^2 - eta^2 v, without the difference of near equals where the signal vanishes
        kept = sigma_s * (1 - eta**2 + (eta * alpha_t / alpha_s * sigma_s / sigma_t) ** 2).sqrt()
        return alpha_s * x_dct + kept * eps_hat + eta * variance.sqrt() * dct2(noise(like).double())

    return step


def _ancestral_step(process: BlurringDiffusion, noise: Noise, like: Tensor) -> Step:
    """The paper's sampler, a draw from `q(u_s | u_t, x = x_hat)` (Hoogeboom and Salimans 2023).

    Without blur it is that of DDPM (Ho et al. 2020, arXiv 2006.11239).
    """

    def step(u: Tensor, x_dct: Tensor, t: float, s: float) -> Tensor:
        mean, variance = process.posterior(u, x_dct, _time(t, u), _time(s, u))
        return mean + variance.sqrt() * dct2(noise(like).double())

    return step


def _whitened_space(
    denoiser: Estimate, process: BlurringDiffusion, like: Tensor, spectrum: Tensor | None, mean: Tensor | None, power_law: bool
) -> WhitenedSpace:
    if spectrum is None:
        if mean is not None:
            raise ValueError("a mean needs the spectrum that it belongs to")
        spectrum, mean = getattr(denoiser, "spectrum", None), getattr(denoiser, "mean", None)
    if spectrum is None:
        spectrum = torch.full(process.shape, PIXEL_VARIANCE, dtype=torch.float64, device="cpu")
        if power_law:
            lowest = (torch.pi / max(process.shape)) ** 2
            falling = 1 / (laplacian(*process.shape, torch.device("cpu")) + lowest)
            spectrum *= falling / falling.mean()
    if spectrum.ndim == 3 and spectrum.shape[0] not in (1, like.shape[1]):
        raise ValueError(f"a spectrum of {spectrum.shape[0]} channels does not fit images of {like.shape[1]}")
    centre, variance = reference_gaussian(process, spectrum, mean)
    return WhitenedSpace(process, centre.to(like.device), variance.to(like.device))


def _check(process: BlurringDiffusion, z: Tensor, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if z.ndim != 4 or tuple(z.shape[-2:]) != process.shape:
        raise ValueError(f"images of shape {tuple(z.shape)} do not fit (B, C, {process.shape[0]}, {process.shape[1]})")


def _time(t: float, like: Tensor) -> Tensor:
    return torch.tensor([t], dtype=torch.float64, device=like.device)
