"""Samplers on problems with a known answer: Gaussian data, where the exact denoiser is linear, and a mixture."""

import pytest
import torch
from torch import Tensor

from blurcli.config import SampleConfig
from blurcli.core import SAMPLERS, BlurringDiffusion, dct2, idct2, sample

DETERMINISTIC = [name for name in SAMPLERS if name != "ancestral"]


def power_law(size: int = 32) -> Tensor:
    index = torch.arange(size, dtype=torch.float64)
    return 60 / (1 + index[:, None] ** 2 + index[None, :] ** 2)


class Gaussian:
    """The exact denoiser of Gaussian data with variance `spectrum` (and mean `mean`) per DCT frequency."""

    def __init__(self, process: BlurringDiffusion, spectrum: Tensor, mean: Tensor | float = 0.0) -> None:
        self.process, self.variance, self.centre = process, spectrum, mean
        self.calls = 0

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return idct2((self.centre + gain * (dct2(z) - alpha * self.centre)).to(z.dtype))

    def final_variance(self) -> Tensor:
        zero = torch.zeros(1, dtype=torch.float64)
        return (self.process.alpha(zero) ** 2 * self.variance + self.process.sigma(zero) ** 2)[0, 0]


def response(denoiser: Gaussian, steps: int, sampler: str) -> Tensor:
    """Variance per frequency of the result: the process is linear, so unit pulses of each noise tell it exactly."""
    pulse = idct2(torch.ones(1, 1, *denoiser.process.shape, dtype=torch.float64))
    silence = torch.zeros_like(pulse)
    spectrum = denoiser.variance
    variance = dct2(sample(denoiser, denoiser.process, pulse, steps, sampler, spectrum, noise=lambda z: silence)) ** 2
    for k in range(steps if sampler == "ancestral" else 0):
        draws = iter([silence] * k + [pulse] + [silence] * (steps - k - 1))
        variance += dct2(sample(denoiser, denoiser.process, silence, steps, sampler, noise=lambda z, d=draws: next(d))) ** 2
    return variance[0, 0]


@pytest.mark.parametrize(("sampler", "expected"), [("ancestral", 1.1e-1), ("ddim", 6.4e-2), ("dpmpp-2m", 3.9e-3)])
def test_error_of_20_steps_on_a_power_law(sampler: str, expected: float) -> None:
    """Expected: errors of an independent prototype in NumPy, given to two digits, so 5% is the rounding."""
    denoiser = Gaussian(BlurringDiffusion(32), power_law())
    target = denoiser.final_variance()
    error = (response(denoiser, 20, sampler).sqrt() - target.sqrt()).square().sum() / target.sum()
    assert error.item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("sampler", ["ab2", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_phi_samplers_are_exact_for_gaussian_data(sampler: str, steps: int, mean: float) -> None:
    process = BlurringDiffusion((8, 12))
    spectrum = power_law(12)[:8]
    denoiser = Gaussian(process, spectrum, mean)
    centre = torch.full((8, 12), mean, dtype=torch.float64)
    noise = torch.randn(1, 2, 8, 12, dtype=torch.float64)
    result = dct2(sample(denoiser, process, noise, steps, sampler, spectrum + centre**2, mean=centre))
    alpha = process.alpha(torch.zeros(1, dtype=torch.float64))
    expected = alpha * centre + dct2(noise) * denoiser.final_variance().sqrt()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


def test_phi_samplers_take_the_denoisers_spectrum_and_mean() -> None:
    process = BlurringDiffusion(8)
    denoiser = Gaussian(process, power_law(8), 2.0)
    noise = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    centre = torch.full((8, 8), 2.0, dtype=torch.float64)
    expected = sample(denoiser, process, noise, 3, "ab2", power_law(8) + 4, mean=centre)
    denoiser.spectrum, denoiser.mean = power_law(8) + 4, centre  # type: ignore[attr-defined]
    assert torch.equal(sample(denoiser, process, noise, 3), expected)


def mixture(process: BlurringDiffusion, means: Tensor, variance: Tensor):  # type: ignore[no-untyped-def]
    """The exact, nonlinear denoiser of a mixture of Gaussians with equal weights, in DCT space."""

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, u = process.alpha(t), process.sigma(t), dct2(z)
        total = alpha**2 * variance + sigma**2
        offset = u - alpha * means
        weight = torch.softmax(-(offset**2 / total).sum((-1, -2), keepdim=True) / 2, dim=1)
        return idct2((weight * (means + alpha * variance / total * offset)).sum(1, keepdim=True))

    return denoise


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("ddim", 1), ("ab2", 2), ("dpmpp-2m", 2)])
@pytest.mark.parametrize("blur", [0.0, 5.0])
def test_order_of_convergence_on_a_mixture(sampler: str, order: int, blur: float) -> None:
    process = BlurringDiffusion(8, blur)
    generator = torch.Generator().manual_seed(1)
    variance = power_law(8) / 2
    means = torch.randn(3, 8, 8, dtype=torch.float64, generator=generator) * variance.sqrt()
    denoiser = mixture(process, means, variance)
    noise = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=generator)
    results = [sample(denoiser, process, noise, steps, sampler, spectrum=2 * variance) for steps in (128, 256, 4096)]
    # Medians: an image that lies between two components has an error of its own.
    errors = [(result - results[2]).square().sum((1, 2, 3)).median().sqrt() for result in results[:2]]
    assert torch.log2(errors[0] / errors[1]).item() > order - 0.25


def test_a_flat_spectrum_converges_to_the_same_images() -> None:
    process = BlurringDiffusion(8, 3.0)
    denoiser = Gaussian(process, power_law(8))
    noise = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    alpha, sigma = (f(torch.ones(1, dtype=torch.float64)) for f in (process.alpha, process.sigma))
    # Both start from the noise of their own spectrum at t = 1, which differs by less than 1% there.
    exact = noise_scaled = dct2(noise) * denoiser.final_variance().sqrt()
    errors = [
        (dct2(sample(denoiser, process, noise, steps, "ab2")) - exact).norm() / noise_scaled.norm() for steps in (10, 100, 1000)
    ]
    assert errors[0] > errors[1] > errors[2]
    start = ((alpha**2 * 0.25 + sigma**2) / (alpha**2 * power_law(8) + sigma**2)).sqrt()
    assert errors[2] < (start - 1).abs().max() + 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_calls_dtypes_and_observer(sampler: str, steps: int) -> None:
    process = BlurringDiffusion(8)
    denoiser = Gaussian(process, power_law(8).float())
    z = torch.randn(3, 2, 8, 8)
    drawn, seen = [], []

    def noise(like: Tensor) -> Tensor:
        drawn.append(like.shape)
        return torch.zeros_like(like)

    result = sample(
        denoiser, process, z, steps, sampler, noise=noise, on_step=lambda i, t, z, x: seen.append((i, t, z.dtype, x.shape))
    )
    assert result.shape == z.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert denoiser.calls == steps
    assert drawn == ([z.shape] * steps if sampler == "ancestral" else [])
    assert seen == [(i, pytest.approx(1 - i / steps), torch.float32, z.shape) for i in range(steps)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_float32_agrees_with_float64(sampler: str) -> None:
    process = BlurringDiffusion(16)
    denoiser = Gaussian(process, power_law(16))
    z = torch.randn(1, 1, 16, 16)
    single = sample(denoiser, process, z, 20, sampler, noise=torch.ones_like)
    double = sample(denoiser, process, z.double(), 20, sampler, noise=torch.ones_like)
    assert (single - double).norm() / double.norm() < 1e-4


def test_default_noise_is_random() -> None:
    process = BlurringDiffusion(8)
    denoiser, z = Gaussian(process, power_law(8)), torch.randn(1, 1, 8, 8)
    assert not torch.equal(sample(denoiser, process, z, 2, "ancestral"), sample(denoiser, process, z, 2, "ancestral"))


def test_refusals() -> None:
    process = BlurringDiffusion(8)
    denoiser, z = Gaussian(process, power_law(8)), torch.randn(1, 1, 8, 8)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        sample(denoiser, process, z, 0)
    with pytest.raises(ValueError, match="unknown sampler 'dimm': choose one of ab2"):
        sample(denoiser, process, z, 2, "dimm")
    with pytest.raises(ValueError, match="does not fit"):
        sample(denoiser, process, torch.randn(1, 1, 4, 8), 2)


def test_presets_know_the_same_samplers() -> None:
    assert set(SampleConfig.model_json_schema()["properties"]["sampler"]["enum"]) == set(SAMPLERS)
