"""Samplers on problems with a known answer: Gaussian data, where the exact denoiser is linear, and a mixture."""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from blurcli.config import SampleConfig
from blurcli.core import BlurringDiffusion, dct2, encode, idct2, sample
from blurcli.core.samplers import SAMPLERS, names_for
from blurcli.core.sampling_options import SAMPLING_OPTIONS, SamplingConfig
from blurcli.core.whitened import WhitenedSpace


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


def response(denoiser: Gaussian, steps: int, sampler: str, **options: float) -> Tensor:
    """Variance per frequency of the result: the process is linear, so unit pulses of each noise tell it exactly.

    Image 0 of the batch starts from a pulse; image k gets one in step k.
    """
    noisy = sampler == "ancestral" or bool(options.get("eta"))
    batch = 1 + steps * noisy
    pulse = idct2(torch.ones(1, 1, *denoiser.process.shape, dtype=torch.float64))
    place = torch.arange(batch)[:, None, None, None]
    drawn = iter(range(1, steps + 1))
    result = sample(
        denoiser,
        denoiser.process,
        pulse * (place == 0),
        steps,
        sampler,
        denoiser.variance,
        noise=lambda z: pulse * (place == next(drawn)),
        **options,  # type: ignore[arg-type]
    )
    return (dct2(result) ** 2).sum((0, 1))


# The design's table for P = 60 / (1 + i^2 + j^2), blur 20: an independent prototype in NumPy, to two digits.
POWER_LAW_ERRORS = {
    20: {"ancestral": 1.1e-1, "ddim": 6.4e-2, "dpmpp-2m": 3.9e-3},
    35: {"ancestral": 5.0e-2, "ddim": 2.5e-2, "dpmpp-2m": 7.2e-4},
    50: {"ancestral": 2.8e-2, "ddim": 1.3e-2, "dpmpp-2m": 2.3e-4},
    100: {"ancestral": 8.4e-3, "ddim": 3.5e-3, "dpmpp-2m": 2.5e-5},
}


@pytest.mark.parametrize("steps", POWER_LAW_ERRORS)
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp-2m"])
def test_spectral_error_on_a_power_law(sampler: str, steps: int) -> None:
    denoiser = Gaussian(BlurringDiffusion(32), power_law())
    target = denoiser.final_variance()
    error = (response(denoiser, steps, sampler).sqrt() - target.sqrt()).square().sum() / target.sum()
    assert error.item() == pytest.approx(POWER_LAW_ERRORS[steps][sampler], rel=0.05)


@pytest.mark.parametrize("blur", [0.0, 20.0])
def test_ddim_with_eta_1_is_the_ancestral_sampler(blur: float) -> None:
    process = BlurringDiffusion(8, blur)
    denoiser, z = Gaussian(process, power_law(8)), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    results = []
    for sampler, eta in (("ancestral", 0.0), ("ddim", 1.0)):
        noise = iter(torch.randn(9, *z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(1)))
        results.append(sample(denoiser, process, z, 9, sampler, noise=lambda z, noise=noise: next(noise), eta=eta))
    ancestral, ddim = results
    torch.testing.assert_close(ddim, ancestral, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2])
def test_ddim_with_eta_1_is_finite_where_the_signal_vanishes(steps: int) -> None:
    process = BlurringDiffusion(32, 20.0, 1e-6, -13.0, 13.0)
    z = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    assert torch.isfinite(sample(Gaussian(process, power_law()), process, z, steps, "ddim", eta=1.0)).all()


def test_eta_lies_between_ddim_and_ancestral() -> None:
    denoiser = Gaussian(BlurringDiffusion(8, 5.0), power_law(8))
    target = denoiser.final_variance().sqrt()
    errors = [(response(denoiser, 20, "ddim", eta=eta).sqrt() - target).norm() for eta in (0.0, 0.5, 1.0)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("sampler", ["abm", "ab2", "euler"])
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


def test_without_a_spectrum_pixels_have_a_quarter_of_variance() -> None:
    process, z = BlurringDiffusion((8, 12)), torch.randn(1, 1, 8, 12, dtype=torch.float64)
    denoiser = Gaussian(process, power_law(12)[:8])
    flat = torch.full((8, 12), 0.25, dtype=torch.float64)
    for sampler in ("ab2", "euler"):
        assert torch.equal(sample(denoiser, process, z, 5, sampler), sample(denoiser, process, z, 5, sampler, flat))
    # The power of natural images falls as 1 / f^2, and so does the fallback of the default: far closer than a flat one.
    process, z = BlurringDiffusion(32), torch.randn(1, 1, 32, 32, dtype=torch.float64)
    denoiser, flat = Gaussian(process, power_law()), torch.full((32, 32), 0.25, dtype=torch.float64)
    exact = dct2(z) * denoiser.final_variance().sqrt()
    ours, theirs = ((dct2(sample(denoiser, process, z, 50, spectrum=p)) - exact).norm() for p in (None, flat))
    assert ours < theirs / 2


def test_phi_samplers_take_the_denoisers_spectrum_and_mean() -> None:
    process = BlurringDiffusion(8)
    denoiser = Gaussian(process, power_law(8), 2.0)
    noise = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    centre = torch.full((8, 8), 2.0, dtype=torch.float64)
    expected = sample(denoiser, process, noise, 3, "abm", power_law(8) + 4, mean=centre)
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


NOISE_RATIO = BlurringDiffusion(8, blur_schedule="noise-ratio", blur_noise_ratio=0.5)


@functools.cache
def solved(blur: float | BlurringDiffusion):  # type: ignore[no-untyped-def]
    """A mixture, and the images at the end of its paths."""
    process, denoiser, spectrum, noise = problem = clusters((8, 8), blur, share=0.5, count=3, seed=1)
    return problem, sample(denoiser, process, noise, 1000, "abm", spectrum=spectrum)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 0.95), ("ab2", 1.8), ("abm", 1.8)])
@pytest.mark.parametrize("blur", [0.0, 5.0, NOISE_RATIO])
def test_order_of_convergence_on_a_mixture(sampler: str, order: float, blur: float | BlurringDiffusion) -> None:
    (process, denoiser, spectrum, noise), exact = solved(blur)
    # Medians: an image that lies between two components has an error of its own.
    errors = [
        (sample(denoiser, process, noise, steps, sampler, spectrum=spectrum) - exact).square().sum((1, 2, 3)).median().sqrt()
        for steps in (64, 256)
    ]
    assert torch.log2(errors[0] / errors[1]).item() / 2 > order


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 0.95), ("dpmpp-2m", 1.8)])
def test_order_of_convergence_from_the_exact_marginal(sampler: str, order: float) -> None:
    """Between 128 and 512 steps, started from the exact state at t = 1, whose answer is known in closed form."""
    process = BlurringDiffusion(32)
    denoiser = Gaussian(process, power_law())
    one = torch.ones(1, dtype=torch.float64)
    state = idct2((process.alpha(one) ** 2 * denoiser.variance + process.sigma(one) ** 2).sqrt())
    exact = denoiser.final_variance().sqrt()
    errors = [(dct2(sample(denoiser, process, state, steps, sampler, start=1.0))[0, 0] - exact).norm() for steps in (128, 512)]
    assert torch.log2(errors[0] / errors[1]).item() / 2 > order


def clusters(
    shape: tuple[int, int], blur: float | BlurringDiffusion, share: float, count: int, seed: int, exponent: float = 1.0
) -> tuple[BlurringDiffusion, Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """A mixture whose component means hold `share` of the power; its denoiser, its spectrum, and starts."""
    generator = torch.Generator().manual_seed(seed)
    process = blur if isinstance(blur, BlurringDiffusion) else BlurringDiffusion(shape, blur)
    power = power_law(max(shape))[: shape[0], : shape[1]] ** exponent
    means = torch.randn(count, *shape, dtype=torch.float64, generator=generator) * (share * power).sqrt()
    means = means - means.mean(0)
    variance = (1 - share) * power
    noise = torch.randn(9, 1, *shape, dtype=torch.float64, generator=generator)
    return process, mixture(process, means, variance), variance + (means**2).mean(0), noise


@pytest.mark.parametrize("blur", [0.0, 5.0, 10.0, 20.0])
@pytest.mark.parametrize(
    ("shape", "share", "count", "exponent"),
    [((32, 48), 0.5, 6, 1.0), ((16, 16), 0.9, 3, 1.0), ((16, 16), 0.3, 12, 1.5), ((16, 24), 0.95, 2, 0.5)],
)
def test_the_default_has_at_most_half_the_error_of_ab2(
    blur: float, shape: tuple[int, int], share: float, count: int, exponent: float
) -> None:
    process, denoiser, spectrum, noise = clusters(shape, blur, share, count, seed=count, exponent=exponent)
    exact = sample(denoiser, process, noise, 300, "abm", spectrum=spectrum)

    def error(steps: int, *sampler: str) -> float:
        result = sample(denoiser, process, noise, steps, *sampler, spectrum=spectrum)
        return ((result - exact).square().sum((1, 2, 3)) / exact.square().sum((1, 2, 3))).median().item()

    assert error(5) < error(5, "ab2")
    for steps in (10, 20, 35):
        assert error(steps) < error(steps, "ab2") / 2


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("start", [1.0, 0.4])
def test_time_grid(steps: int, start: float) -> None:
    space = WhitenedSpace(BlurringDiffusion((8, 12)), torch.zeros(8, 12).double(), power_law(12)[:8])
    times = space.time_grid(steps, start)
    assert (times[0], times[-1], len(times)) == (start, 0.0, steps + 1)
    assert all(a > b for a, b in itertools.pairwise(times))
    # Blur makes fine frequencies turn early: half of the steps go where a uniform grid has a third of them.
    assert start < 1 or steps < 50 or sum(t < 1 / 3 for t in times) > steps / 2


def test_clock_moments_against_a_sum() -> None:
    """The integrals of (tau - t)^k dphi, by a plain Riemann sum."""
    space = WhitenedSpace(BlurringDiffusion(8, 5.0), torch.zeros(8, 8).double(), power_law(8))
    t, s = 0.7, 0.45
    tau = torch.linspace(t, s, 20_001, dtype=torch.float64)
    dphi = space.angle(tau).diff(dim=0)
    offset = ((tau[1:] + tau[:-1]) / 2 - t)[:, None, None, None]
    for k, moment in enumerate(space.clock_moments(t, s)):
        torch.testing.assert_close(moment[0], (offset**k * dphi).sum(0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("known", [True, False])
def test_encode_and_back_with_the_exact_denoiser(known: bool) -> None:
    process = BlurringDiffusion(32)
    denoiser = Gaussian(process, power_law())
    x = idct2(torch.randn(4, 3, 32, 32, dtype=torch.float64) * power_law().sqrt())
    spectrum = power_law() if known else None
    z = encode(denoiser, process, x, 100, spectrum)
    error = (sample(denoiser, process, z, 100, spectrum=spectrum) - x).square().mean()
    assert 10 * torch.log10(4 / error) > 45  # PSNR in dB, of a range of 2
    if known:
        torch.testing.assert_close(dct2(z), dct2(x) / denoiser.final_variance().sqrt(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("blur", [0.0, 20.0])
def test_encode_and_back_on_a_mixture(blur: float) -> None:
    process, denoiser, spectrum, noise = clusters((16, 16), blur, share=0.5, count=4, seed=3)
    x = sample(denoiser, process, noise, 200, spectrum=spectrum)
    z = encode(denoiser, process, x, 100, spectrum)
    assert (z - noise).square().mean() < 1e-3
    error = (sample(denoiser, process, z, 100, spectrum=spectrum) - x).square().mean() / x.square().mean()
    assert error < 1e-5


@pytest.mark.parametrize("sampler", names_for("diffusion"))
def test_start_goes_on_from_a_state(sampler: str) -> None:
    process = BlurringDiffusion(8, 3.0)
    denoiser = Gaussian(process, power_law(8))
    half = torch.tensor([0.5], dtype=torch.float64)
    x = idct2(torch.randn(1, 1, 8, 8, dtype=torch.float64) * power_law(8).sqrt())
    z = process.diffuse(x, half, torch.randn_like(x))
    times: list[float] = []
    result = sample(
        denoiser, process, z, 400, sampler, power_law(8), torch.zeros_like, lambda i, t, *_: times.append(t), start=0.5
    )
    assert times[0] == 0.5
    assert denoiser.calls == 400
    if sampler == "ancestral":
        return
    # The flow of Gaussian data scales every frequency by the ratio of its standard deviations.
    gain = (denoiser.final_variance() / (process.alpha(half) ** 2 * power_law(8) + process.sigma(half) ** 2)).sqrt()
    torch.testing.assert_close(dct2(result), gain * dct2(z), rtol=0, atol=0.02)


@pytest.mark.parametrize("sampler", ["abm", "ab2", "euler"])
def test_a_flat_spectrum_converges_to_the_same_images(sampler: str) -> None:
    process = BlurringDiffusion(8, 3.0)
    denoiser = Gaussian(process, power_law(8))
    noise = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    alpha, sigma = (f(torch.ones(1, dtype=torch.float64)) for f in (process.alpha, process.sigma))
    # Both start from the noise of their own spectrum at t = 1, which differs by less than 1% there.
    exact = noise_scaled = dct2(noise) * denoiser.final_variance().sqrt()
    errors = [
        (dct2(sample(denoiser, process, noise, steps, sampler)) - exact).norm() / noise_scaled.norm()
        for steps in (10, 100, 1000)
    ]
    assert errors[0] > errors[1] > errors[2]
    start = ((alpha**2 * 0.25 + sigma**2) / (alpha**2 * power_law(8) + sigma**2)).sqrt()
    assert errors[2] < (start - 1).abs().max() + (5e-3 if sampler == "euler" else 1e-3)


@pytest.mark.parametrize("sampler", names_for("diffusion"))
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
    assert denoiser.calls == steps * SAMPLERS[sampler].calls_per_step == SamplingConfig(sampler, steps).calls
    assert drawn == ([z.shape] * steps if sampler == "ancestral" else [])
    assert [(i, dtype, shape) for i, _, dtype, shape in seen] == [(i, torch.float32, z.shape) for i in range(steps)]
    assert seen[0][1] == 1
    assert sampler == "abm" or [t for _, t, *_ in seen] == pytest.approx([1 - i / steps for i in range(steps)])


@pytest.mark.parametrize("sampler", names_for("diffusion"))
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
    with pytest.raises(ValueError, match="unknown final 'clean': choose one of noisy, denoised"):
        sample(denoiser, process, z, 2, final="clean")
    with pytest.raises(ValueError, match="unknown sampler 'dimm': choose one of abm, ab2"):
        sample(denoiser, process, z, 2, "dimm")
    for call in (sample, encode):
        with pytest.raises(ValueError, match="do not fit"):
            call(denoiser, process, torch.randn(1, 1, 4, 8), 2)
    for sampler, eta in (("ddim", 1.5), ("ddim", -0.1), ("abm", 0.5)):
        with pytest.raises(ValueError, match="eta must be"):
            sample(denoiser, process, z, 2, sampler, eta=eta)
    with pytest.raises(ValueError, match="a mean needs the spectrum"):
        sample(denoiser, process, z, 2, mean=power_law(8))
    with pytest.raises(ValueError, match="spectrum of 3 channels does not fit images of 1"):
        sample(denoiser, process, z, 2, spectrum=power_law(8).expand(3, 8, 8))
    for start in (0.0, 1e-9, 1.1):
        with pytest.raises(ValueError, match="start must be"):
            sample(denoiser, process, z, 2, start=start)


def test_presets_and_the_command_line_offer_the_registry() -> None:
    for name, method in SAMPLERS.items():
        options = {"delta": 0.01} if "delta" in method.option_names() else {}
        assert SampleConfig(sampler=name, **options).sampler == name  # type: ignore[call-arg]
    assert SAMPLING_OPTIONS[0].choices == tuple(SAMPLERS)
    with pytest.raises(ValueError, match="should be one of 'ab2', 'abm'"):
        SampleConfig(sampler="heun")  # type: ignore[call-arg]
