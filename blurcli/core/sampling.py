"""Sampling: from standard normal noise to images, per DCT frequency, for any denoiser; and the inverse, encoding.

State and coefficients are float64; the denoiser and the transforms around it use the dtype of the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from blurcli.core.dct import dct2, idct2
from blurcli.core.plans import Plan, integrate, make_plan, whitened_space
from blurcli.core.process import BlurringDiffusion, Process
from blurcli.core.samplers import SAMPLERS, Step, names_for
from blurcli.core.samplers.abm import AdamsBashforthMoulton
from blurcli.core.whitened import WhitenedSpace

Noise = Callable[[Tensor], Tensor]
"""`noise(z)`: standard normal noise like z."""

Observer = Callable[[int, float, Tensor, Tensor], None]
"""`on_step(i, t, z, x_hat)`, once per step, with the state z at time t and the estimate x_hat, (B, C, H, W)."""

Estimator = Callable[[Tensor, Tensor], Tensor]
"""`x_hat = denoiser(z, t)` with z (B, C, H, W) and t (B,)."""


def sample(
    denoiser: Estimator,
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
    final: str = "noisy",
    **options: float,
) -> Tensor:
    """Generate images: integrate the reverse process to t = 0.

    Args:
        denoiser: `x_hat = denoiser(z, t)` with z (B, C, H, W) and t (B,), called exactly `steps` times.
        process: the diffusion process.
        z: standard normal noise (B, C, H, W), float32 or float64; whitened samplers start from `w = DCT(z)`. With `start`, the
            state at that time.
        steps: steps of the sampler, at least 1: uniform in time, except for `abm` and `consistency`, which place them by the
            spectrum.
        sampler: a name in `core.samplers.SAMPLERS`.
        spectrum: P, (H, W) or (C, H, W), for whitened samplers; None for `denoiser.spectrum` and `denoiser.mean` or, without
            these, the power law of natural images for `abm` and a flat 0.25 for the others. Any positive P is correct in the
            limit of many steps; the data's own is the most accurate.
        noise: `noise(z)` gives standard normal noise like z; called once per step by `ancestral`, and by `ddim` with eta, in
            order; between steps by `consistency`; never by the others.
        on_step: called as `on_step(i, t, z, x_hat)` in each step, with the state at its start and the estimate.
        mean: M, the data's mean DCT coefficients, like `spectrum` and with it; None for 0.
        eta: for `ddim`, the share of the ancestral sampler's noise, in [0, 1]: 0 is deterministic, 1 is `ancestral`.
        start: the time, in [1e-6, 1], of a state `z` to start from, such as a diffused photo; None to start from noise.
        final: `noisy` ends at t = 0, where the process has noise of `exp(-logsnr_max / 2)`, 0.86 grey levels by default, as in
            the paper; `denoised` extends the last step to an image without noise.
        **options: other options of the sampler, which are its fields.

    Returns:
        The images at t = 0, or without noise, (B, C, H, W), about [-1, 1], in the dtype of `z`.

    Raises:
        ValueError: unknown sampler or `final`, `steps` below 1, `eta` or `start` out of range, `eta` without `ddim`, `mean`
            without `spectrum`, or shapes that do not fit.
    """
    known = names_for("diffusion", None)
    if sampler not in known:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(known)}")
    method = SAMPLERS[sampler]
    if eta and "eta" not in method.option_names():
        raise ValueError(f"eta must be 0 for {sampler}, which has no such option, not {eta}")
    _check(process, z)
    space = None
    if method.whitened:
        space = _space_of(denoiser, process, z, spectrum, mean, method.falling_spectrum)
    if "eta" in method.option_names():
        options["eta"] = eta
    plan = make_plan(method(**options), process, steps, z.device, start=start, space=space, final=final)
    return sample_by_plan(denoiser, plan, z, noise, on_step)


def sample_by_plan(
    denoiser: Estimator, plan: Plan, z: Tensor, noise: Noise | None = None, on_step: Observer | None = None
) -> Tensor:
    """Images (B, C, H, W) at t = 0 from one batch of noise, or of states at the start of the plan; see `sample`."""
    u = dct2(z).double()
    if plan.space is not None and plan.from_noise:
        u = plan.space.unwhiten(u, torch.ones(1, dtype=torch.float64, device=z.device))
    draw = noise or torch.randn_like
    return idct2(integrate(plan, u, _estimate(denoiser, z, on_step), lambda: dct2(draw(z).double()))).to(z.dtype)


def encode(
    denoiser: Estimator,
    process: BlurringDiffusion,
    x: Tensor,
    steps: int = 100,
    spectrum: Tensor | None = None,
    mean: Tensor | None = None,
) -> Tensor:
    """The noise z from which `abm`, or `ab2` and `euler` with the same spectrum, generate the images x: `abm` reversed in time.

    As DDIM inversion (Song et al. 2021, arXiv 2010.02502, section 5.4), but in the whitened space.

    Args:
        denoiser: as for `sample`; called exactly `steps` times.
        process: the diffusion process.
        x: images (B, C, H, W) in [-1, 1], float32 or float64.
        steps: at least 1; with more steps, `sample` reproduces x more closely.
        spectrum: as for `sample`, which must get the same one.
        mean: likewise.

    Returns:
        z (B, C, H, W), approximately standard normal for x from the data: `sample(denoiser, process, z, steps)` is close to x.

    Raises:
        ValueError: `steps` below 1, or shapes that do not fit.
    """
    _check(process, x)
    space = _space_of(denoiser, process, x, spectrum, mean, falling=True)
    forward = make_plan(AdamsBashforthMoulton(), process, steps, x.device, space=space)
    plan = dataclasses.replace(forward, times=forward.times[::-1])
    u = integrate(plan, dct2(x).double(), _estimate(denoiser, x), lambda: torch.zeros_like(x))
    return idct2(space.whiten(u, torch.ones(1, dtype=torch.float64, device=x.device))).to(x.dtype)


def _estimate(denoiser: Estimator, like: Tensor, on_step: Observer | None = None) -> Callable[[Step, Tensor, float], Tensor]:
    """The denoiser per DCT frequency, for `integrate`; the state at the start of each step, and its estimate, are observed."""

    def estimate(step: Step, u: Tensor, t: float) -> Tensor:
        z_t = idct2(u.to(like.dtype))
        x_hat = denoiser(z_t, torch.full((len(like),), t, dtype=like.dtype, device=like.device))
        if on_step is not None and t == step.t:
            on_step(step.number, t, z_t, x_hat)
        return dct2(x_hat).double()

    return estimate


def _space_of(
    denoiser: Estimator, process: Process, like: Tensor, spectrum: Tensor | None, mean: Tensor | None, falling: bool
) -> WhitenedSpace:
    if spectrum is None and mean is None:
        spectrum, mean = getattr(denoiser, "spectrum", None), getattr(denoiser, "mean", None)
    space = whitened_space(process, spectrum, mean, like.device, falling)
    if space.variance.ndim == 3 and len(space.variance) not in (1, like.shape[1]):
        raise ValueError(f"a spectrum of {len(space.variance)} channels does not fit images of {like.shape[1]}")
    return space


def _check(process: Process, z: Tensor) -> None:
    if z.ndim != 4 or tuple(z.shape[-2:]) != process.shape:
        raise ValueError(f"images of shape {tuple(z.shape)} do not fit (B, C, {process.shape[0]}, {process.shape[1]})")
