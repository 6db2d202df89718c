"""Consistency models of blurring diffusion: the loss of their distillation, and their sampler."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from blurcli.core import BlurringDiffusion, ConsistencyModel, SpectralDenoiser, dct2, idct2, sample
from blurcli.core.samplers.consistency import Consistency
from blurcli.core.whitened import WhitenedSpace

PROCESS = BlurringDiffusion(8, blur_sigma_max=4.0)
VARIANCE = (torch.arange(64, dtype=torch.float64).reshape(8, 8) / 7 + 0.1).flip(0, 1)


def angles(t: Tensor) -> Tensor:
    return WhitenedSpace(PROCESS, torch.zeros_like(VARIANCE), VARIANCE).angle(t)


def chord(x: Tensor, t: Tensor) -> Tensor:
    """For Gaussian data w does not move, so it is the whitened end of its path: `w = sin(phi) w + cos(phi) F`."""
    phi = angles(t)
    return idct2((1 - phi.sin()) / phi.cos() * dct2(x.double())).to(x)


def nothing(x: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(x)


def batch(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=generator)
    return idct2(white * VARIANCE.sqrt()), torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("times", [(0.9, 0.6), (0.5, 0.45), (0.3, 0.0)])
def test_the_exact_consistency_model_of_gaussian_data_has_no_loss(times: tuple[float, float]) -> None:
    """F = 0 is the exact teacher, whose estimate at time 0 is not the state there, but differs by the noise that is left."""
    x, eps = batch()
    t, s = (torch.full((len(x),), time, dtype=torch.float64) for time in times)
    teacher, exact = SpectralDenoiser(nothing, PROCESS, VARIANCE), ConsistencyModel(chord, PROCESS, VARIANCE)
    loss = float(exact.distillation_loss(teacher, x, (t, s), eps).mean())
    assert loss < 1e-9  # sigma(0)^4
    wrong = float(ConsistencyModel(nothing, PROCESS, VARIANCE).distillation_loss(teacher, x, (t, s), eps).mean())
    assert wrong > 1e-3


def test_the_teacher_leads_along_its_own_path() -> None:
    """Across an ODE that turns all frequencies by the same slope: Heun's step is exact for a constant F."""
    x, eps = batch(4)
    slope = torch.full_like(x, 0.3)

    def steady(z: Tensor, t: Tensor) -> Tensor:
        return slope

    t, s = torch.full((4,), 0.8, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)
    seen: list[tuple[Tensor, Tensor]] = []

    def student(z: Tensor, t: Tensor) -> Tensor:
        seen.append((dct2(z), t))
        return torch.zeros_like(z)

    teacher, model = SpectralDenoiser(steady, PROCESS, VARIANCE), ConsistencyModel(student, PROCESS, VARIANCE)
    model.distillation_loss(teacher, x, (t, s), eps)
    (later, at_s), (first, at_t) = seen
    assert torch.equal(at_s, s)
    assert torch.equal(at_t, t)
    torch.testing.assert_close(later - first, (angles(s) - angles(t)) * dct2(slope))


def test_at_the_end_the_teacher_decides() -> None:
    """Otherwise a network that always answers the same would agree with itself."""
    x, eps = batch(4)
    t, s = torch.full((4,), 0.3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    losses = []
    for other in (0.0, 5.0):  # the student's estimate at the end
        student = ConsistencyModel(lambda z, t, other=other: torch.full_like(z, other if t[0] == 0 else 1.0), PROCESS, VARIANCE)
        losses.append(student.distillation_loss(SpectralDenoiser(nothing, PROCESS, VARIANCE), x, (t, s), eps))
    assert torch.equal(*losses)


def test_the_target_has_no_gradient() -> None:
    x, eps = batch(2)
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    model = ConsistencyModel(lambda z, t: factor * z, PROCESS, VARIANCE)
    t, s = torch.full((2,), 0.8, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    teacher = SpectralDenoiser(nothing, PROCESS, VARIANCE)
    (found,) = torch.autograd.grad(model.distillation_loss(teacher, x, (t, s), eps).sum(), factor)

    still = ConsistencyModel(lambda z, t: 0.5 * z, PROCESS, VARIANCE)
    moved = ConsistencyModel(lambda z, t: (factor if t[0] > 0.7 else factor.detach()) * z, PROCESS, VARIANCE)
    (expected,) = torch.autograd.grad(moved.distillation_loss(teacher, x, (t, s), eps).sum(), factor)
    torch.testing.assert_close(found, expected)
    assert found != 0
    assert not still.distillation_loss(teacher, x, (t, s), eps).requires_grad


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_sampler_gives_the_distribution_of_the_data(steps: int) -> None:
    """With the exact consistency model of Gaussian data, at every number of steps."""
    model = ConsistencyModel(chord, PROCESS, VARIANCE)
    z = torch.randn(4000, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    draws = 0

    def noise(like: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.randn(like.shape, dtype=like.dtype)

    images = sample(model, PROCESS, z, steps, "consistency", noise=noise, final="denoised")
    found = dct2(images).square().mean((0, 1))
    assert (found / VARIANCE - 1).abs().max() < 0.08
    assert draws == steps - 1


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_noisy_end_has_the_noise_of_time_0(steps: int) -> None:
    model = ConsistencyModel(chord, PROCESS, VARIANCE)
    z = torch.randn(50, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = []
    for final in ("noisy", "denoised"):
        generator = torch.Generator().manual_seed(2)

        def noise(like: Tensor, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(like.shape, dtype=like.dtype, generator=generator)

        ends.append(sample(model, PROCESS, z, steps, "consistency", noise=noise, final=final))
    left = float((ends[0] - ends[1]).std())
    assert left == pytest.approx(float(PROCESS.sigma(torch.zeros(1, dtype=torch.float64))), rel=0.02)


def test_conditions_reach_both_networks() -> None:
    x, eps = batch(4)
    seen: list[tuple[str, Tensor]] = []

    def network(name: str) -> Callable[..., Tensor]:
        def call(z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            seen.append((name, labels))
            return torch.zeros_like(z)

        return call

    t, s = torch.full((4,), 0.8, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)
    teacher = SpectralDenoiser(network("teacher"), PROCESS, VARIANCE)
    labels = torch.arange(4)
    ConsistencyModel(network("student"), PROCESS, VARIANCE).distillation_loss(teacher, x, (t, s), eps, labels=labels)
    assert [name for name, _ in seen] == ["teacher", "teacher", "student", "student"]
    assert all(torch.equal(found, labels) for _, found in seen)


@pytest.mark.parametrize(("steps", "start"), [(1, 1.0), (2, 1.0), (4, 1.0), (3, 0.5)])
def test_noise_is_renewed_on_the_last_part_of_the_path(steps: int, start: float) -> None:
    space = WhitenedSpace(PROCESS, torch.zeros_like(VARIANCE), VARIANCE)
    times = Consistency().times(space, steps, start)
    assert (times[0], times[-1], len(times)) == (start, 0.0, steps + 1)
    path = space.time_grid(60, start)
    for i, time in enumerate(times[1:]):
        share = 0.6 * (1 - i / (steps - 1)) if steps > 1 else 0.0
        assert time == pytest.approx(path[round(60 * (1 - share))], abs=1e-9)
