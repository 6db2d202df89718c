"""The bound on the likelihood, against likelihoods that are known exactly."""

import math

import pytest
import torch
from conftest import SeededDraws
from torch import Tensor

from blurcli.core import BlurringDiffusion, dct2, idct2
from blurcli.core.colors import ModelSpace
from blurcli.core.likelihood import Bound, variational_bound
from blurcli.core.whitened import WhitenedSpace

SIZE = (8, 12)
VARIANCE = 0.3 / (1 + torch.arange(8.0)[:, None] ** 2 + torch.arange(12.0) ** 2).double() ** 0.75 + 0.01
LEVEL = 2 / 255


def wiener(process: BlurringDiffusion, z: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = process.alpha(t), process.sigma(t)
    return idct2(alpha * VARIANCE * dct2(z) / (alpha**2 * VARIANCE + sigma**2))


def gaussian_images(count: int) -> Tensor:
    """Images of Gaussian data of variance VARIANCE, rounded to 256 levels; none reaches the ends of the range."""
    x = idct2(torch.randn(count, 1, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * VARIANCE.sqrt())
    x = ((x + 1) / LEVEL).round() * LEVEL - 1
    return x[x.abs().amax((1, 2, 3)) <= 1]


def noise_ratio(ratio: float) -> BlurringDiffusion:
    return BlurringDiffusion(SIZE, blur_schedule="noise-ratio", blur_noise_ratio=ratio)


def bound(blur: float | BlurringDiffusion, x: Tensor, seed: int = 0, **options: int) -> Bound:
    process = blur if isinstance(blur, BlurringDiffusion) else BlurringDiffusion(SIZE, blur)
    space = WhitenedSpace(process, torch.zeros_like(VARIANCE), VARIANCE)
    draws = SeededDraws(len(x), seed)
    return variational_bound(lambda z, t: wiener(process, z, t), space, x, draws, **options)  # type: ignore[arg-type]


def exact_bits(x: Tensor) -> Tensor:
    # The probability of a level is the density times its width: the width is far below every standard deviation.
    density = (dct2(x) ** 2 / VARIANCE + torch.log(2 * math.pi * VARIANCE)).sum((1, 2, 3)) / 2
    return (density - x[0].numel() * math.log(LEVEL)) / x[0].numel() / math.log(2)


@pytest.mark.parametrize("blur", [0.0, 3.0, 20.0, noise_ratio(0.5), noise_ratio(2.0)])
def test_bound_of_gaussian_data_is_their_negative_log_likelihood(blur: float | BlurringDiffusion) -> None:
    x = gaussian_images(1000)
    exact = exact_bits(x)
    ours = bound(blur, x, calls=32)
    assert ours.total.mean().item() == pytest.approx(exact.mean().item(), rel=0.005)
    # Image by image, too: an unlikely one has a high bound.
    assert torch.corrcoef(torch.stack([ours.total, exact]))[0, 1] > 0.5
    assert ours.prior.max() < 1e-3


def test_bound_of_images_in_0_1() -> None:
    """Their levels are half as far apart, and the network's images have another mean and variance."""
    x = gaussian_images(1000)
    process, model_space = BlurringDiffusion(SIZE, 3.0), ModelSpace(centered=False)
    mean = dct2(torch.full((1, *SIZE), 0.5, dtype=torch.float64))
    space = WhitenedSpace(process, mean, VARIANCE / 4)

    def denoiser(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + 4 * sigma**2)
        return idct2(mean + gain * (dct2(z) - alpha * mean))

    ours = variational_bound(denoiser, space, (x + 1) / 2, SeededDraws(len(x), 0), model_space=model_space)
    assert ours.total.mean().item() == pytest.approx(exact_bits(x).mean().item(), rel=0.005)


def test_blur_that_is_left_at_the_end_does_not_make_it_less_than_a_bound() -> None:
    """With 20 px per noise over signal, 0.13 px are left at t = 0."""
    x = gaussian_images(1000)
    assert bound(noise_ratio(20.0), x, calls=32).total.mean() > exact_bits(x).mean()


def test_more_steps_bound_tighter_and_tend_to_continuous_time() -> None:
    x = gaussian_images(300)
    totals = [bound(5.0, x, calls=16, steps=steps).total.mean().item() for steps in (20, 100, 1000, 100_000)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] == pytest.approx(bound(5.0, x, calls=16).total.mean().item(), rel=0.005)


def test_discrete_bound_against_the_sum_over_all_steps() -> None:
    """Kingma et al. 2021, equation 13, written out: every step, no importance sampling."""
    process, x, steps = BlurringDiffusion(SIZE, 5.0), gaussian_images(400), 10
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(len(x), dtype=torch.float64)
    for i in range(1, steps + 1):
        t, s = (torch.full((len(x),), k / steps, dtype=torch.float64) for k in (i, i - 1))
        z = process.diffuse(x, t, torch.randn(x.shape, dtype=x.dtype, generator=generator))
        true, guess = (process.posterior(dct2(z), dct2(y), t, s) for y in (x, wiener(process, z, t)))
        total += ((true[0] - guess[0]) ** 2 / (2 * true[1])).sum((1, 2, 3))
    expected = total.mean().item() / x[0].numel() / math.log(2)
    assert bound(5.0, x, calls=10, steps=steps).diffusion.mean().item() == pytest.approx(expected, rel=0.02)


def test_the_number_of_calls_does_not_shift_the_estimate() -> None:
    x = gaussian_images(500)
    few, many = (bound(3.0, x, seed=calls, calls=calls).diffusion for calls in (1, 16))
    error = (few.std() / len(x) ** 0.5).item()
    assert few.mean().item() == pytest.approx(many.mean().item(), abs=4 * error)
    assert many.std() < few.std()


def test_bands_sum_to_prior_and_diffusion() -> None:
    parts = bound(3.0, gaussian_images(20), calls=4)
    torch.testing.assert_close(parts.bands.sum(1), parts.prior + parts.diffusion)
    torch.testing.assert_close(parts.total, parts.prior + parts.diffusion + parts.reconstruction)


def test_noise_is_less_likely_than_data() -> None:
    noise = (torch.randint(0, 256, (50, 1, *SIZE)).double() * LEVEL) - 1
    assert bound(5.0, noise, calls=8).total.min() > bound(5.0, gaussian_images(50), calls=8).total.max()


@pytest.mark.parametrize("options", [{"calls": 0}, {"calls": 2, "steps": 0}])
def test_refuses_no_calls_and_no_steps(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        bound(0.0, gaussian_images(2), **options)
