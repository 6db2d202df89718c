"""Without blur the samplers from the literature must be those of `diffusers`, an independent implementation.

Each scheduler is put on our grid: its timestep k is our time k / steps, and it goes from k = steps down to 0.
"""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

from blurcli.core import BlurringDiffusion, sample

Scheduler = DDPMScheduler | DDIMScheduler | DPMSolverMultistepScheduler

PROCESS = BlurringDiffusion(8, blur_sigma_max=0.0)
SHAPE = (2, 3, 8, 8)
TOLERANCE = 1e-4  # of the largest difference, over the root mean square of the result; both sides are float32

at_steps = pytest.mark.parametrize("steps", [4, 20, 50])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixture(z: Tensor, t: Tensor) -> Tensor:
    """The exact denoiser of three Gaussians, in pixel space: nonlinear where the noise lets them overlap."""
    means, variance = 0.3 * normal(3, *SHAPE[1:], seed=0), 0.1
    alpha, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
    total = alpha**2 * variance + sigma**2
    offset = z[:, None] - alpha * means
    weight = torch.softmax(-(offset**2 / total).sum((-1, -2, -3), keepdim=True) / 2, dim=1)
    return (weight * (means + alpha * variance / total * offset)).sum(1)


def set_alphas(scheduler: Scheduler, steps: int) -> None:
    """Give our alphas to a scheduler, in float64: made from betas in float32, it would lose digits of sigma near t = 0."""
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    scheduler.alphas_cumprod = PROCESS.alpha(times)[:, 0, 0, 0] ** 2


def walk(scheduler: Scheduler, z: Tensor, steps: int, eta: float = 0.0, noise: Tensor | None = None) -> Tensor:
    """Sample with a scheduler, from z as the state at t = 1."""
    for i, k in enumerate(range(steps, 0, -1)):
        x_hat = mixture(z, torch.full((len(z),), k / steps))
        options = {} if noise is None else {"eta": eta, "variance_noise": noise[i]}
        z = scheduler.step(x_hat, k, z, **options).prev_sample
    return z


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype == torch.float32
    assert (ours - theirs).abs().max() < TOLERANCE * theirs.square().mean().sqrt()


@at_steps
def test_ancestral_is_ddpm(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, noise = normal(*SHAPE, seed=1), normal(steps, *SHAPE, seed=2)
    scheduler = DDPMScheduler(steps + 1, variance_type="fixed_small", prediction_type="sample", clip_sample=False)
    set_alphas(scheduler, steps)
    scheduler.set_timesteps(steps + 1)  # with the one from k = 0 to alpha = 1, which our process never reaches
    # step() takes no noise, only a generator.
    theirs, ours = iter(noise), iter(noise)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(theirs))
    expected = walk(scheduler, z, steps)
    assert_same(sample(mixture, PROCESS, z, steps, "ancestral", noise=lambda _: next(ours)), expected)


@at_steps
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(steps: int, eta: float) -> None:
    z, noise = normal(*SHAPE, seed=1), normal(steps, *SHAPE, seed=2)
    scheduler = DDIMScheduler(steps + 1, prediction_type="sample", clip_sample=False)
    set_alphas(scheduler, steps)
    scheduler.set_timesteps(steps + 1)  # as above; a step goes from k to k - (steps + 1) // (steps + 1)
    expected = walk(scheduler, z, steps, eta, noise)
    ours = iter(noise)
    assert_same(sample(mixture, PROCESS, z, steps, "ddim", noise=lambda _: next(ours), eta=eta), expected)


@at_steps
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers hands a tensor to np.array
def test_dpmpp_2m(steps: int) -> None:
    z = normal(*SHAPE, seed=1)
    # Ours is "heun" of diffusers: x_hat linear in the half log-SNR, integrated exactly, which gives its slope the factor
    # (e^-h - 1) / h + 1. "midpoint", algorithm 2 of the paper, has (1 - e^-h) / 2 there: the same up to O(h^2) only.
    scheduler = DPMSolverMultistepScheduler(
        steps + 1,
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="heun",
        lower_order_final=False,
        euler_at_final=False,
        final_sigmas_type="sigma_min",  # that of k = 0; its default goes on to alpha = 1
    )
    set_alphas(scheduler, steps)
    scheduler.set_timesteps(steps)  # steps, ..., 1, and the end
    assert_same(sample(mixture, PROCESS, z, steps, "dpmpp-2m"), walk(scheduler, z, steps))
