"""Restoration on problems with a known answer: Gaussian data, a mixture of Gaussians, and small systems solved directly."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_sampling import Gaussian, power_law
from torch import Tensor

from blurcli.core import BlurringDiffusion, dct2, idct2, restoration
from blurcli.core.measurements import (
    Chain,
    Convolution,
    DctFilter,
    Mask,
    Measurement,
    defocus,
    even_kernel,
    gaussian_blur,
    is_even,
)
from blurcli.core.restoration import Observation, conjugate_gradients, restore
from blurcli.core.whitened import WhitenedSpace

SIZE = (8, 12)
COMET = torch.tensor([[0.0, 0.1, 0.4, 0.0, 0.0], [0.0, 0.2, 0.0, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
KNOWN = torch.rand(SIZE, generator=torch.Generator().manual_seed(3)) < 0.4
MEASUREMENTS: dict[str, Measurement] = {
    "noise alone": DctFilter(torch.ones(SIZE, dtype=torch.float64)),
    "blur": gaussian_blur(SIZE, 1.3),
    "a blur per image": gaussian_blur(SIZE, torch.tensor([0.5, 1.0, 2.0])),
    "defocus": defocus(SIZE, 2.3),
    "boxes": DctFilter(torch.ones(SIZE, dtype=torch.float64), box=2),
    "mask": Mask(KNOWN),
    "a mask per image": Mask(torch.stack([KNOWN, ~KNOWN, KNOWN.flip(0)])[:, None]),
    "kernel": Convolution(COMET),
    "blurred, then reduced": DctFilter(gaussian_blur(SIZE, 0.8).response, box=4),
    "blurred, then partly missing": Chain((gaussian_blur(SIZE, 0.8), Mask(KNOWN))),
    "kernel, then partly missing": Chain((Convolution(COMET), Mask(KNOWN))),
    "kernel, then reduced": Chain((Convolution(COMET), DctFilter(torch.ones(SIZE, dtype=torch.float64), box=2))),
}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def space_of(process: BlurringDiffusion, mean: Tensor | None = None) -> WhitenedSpace:
    index = [torch.arange(size, dtype=torch.float64) for size in process.shape]
    variance = 60 / (1 + index[0][:, None] ** 2 + index[1] ** 2)
    return WhitenedSpace(process, torch.zeros_like(variance) if mean is None else mean, variance)


def matrix_of(measurement: Measurement, count: int) -> Tensor:
    """A of every image of a batch, from its effect on every pixel: (B, h w, H W)."""
    pixels = math.prod(SIZE)
    columns = [measurement.apply(pixel.reshape(1, 1, *SIZE).expand(count, 1, *SIZE)) for pixel in torch.eye(pixels).double()]
    return torch.stack([column.flatten(1) for column in columns], -1)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_transpose_is_one(name: str) -> None:
    measurement, x = MEASUREMENTS[name], noise(3, 2, *SIZE)
    seen = measurement.apply(x)
    y = noise(*seen.shape)
    torch.testing.assert_close((seen * y).sum((1, 2, 3)), (x * measurement.transpose(y)).sum((1, 2, 3)))


@pytest.mark.parametrize("kernel", [COMET, COMET.T, torch.ones(7, 3).double() / 21], ids=["comet", "turned", "box"])
def test_convolution_is_scipys(kernel: Tensor) -> None:
    x = noise(2, 1, *SIZE)
    expected = [ndimage.convolve(image[0].numpy(), kernel.numpy(), mode="reflect") for image in x]
    np.testing.assert_allclose(Convolution(kernel).apply(x)[:, 0], expected, atol=1e-12)
    if is_even(kernel):
        np.testing.assert_allclose(even_kernel(SIZE, kernel).apply(x)[:, 0], expected, atol=1e-12)
    else:
        with pytest.raises(ValueError, match="even in rows and in columns"):
            even_kernel(SIZE, kernel)


def test_gaussian_blur_is_scipys() -> None:
    x = noise(1, 1, 32, 40)
    expected = ndimage.gaussian_filter(x[0, 0].numpy(), 2.0, mode="reflect", truncate=10)
    np.testing.assert_allclose(gaussian_blur((32, 40), 2.0).apply(x)[0, 0], expected, atol=1e-4)  # SciPy's is sampled


@pytest.mark.parametrize("radius", [0.0, 0.4, 1.0, 3.6])
def test_defocus_is_a_disk(radius: float) -> None:
    """The share of a million random points of a disk in each pixel; a disk within a pixel leaves the image alone."""
    pulse = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    pulse[..., 7, 7] = 1
    random = np.random.default_rng(0)
    distance, angle = radius * np.sqrt(random.random(1_000_000)), 2 * np.pi * random.random(1_000_000)
    edges = np.arange(16) - 7.5
    points, *_ = np.histogram2d(distance * np.cos(angle), distance * np.sin(angle), [edges, edges])
    np.testing.assert_allclose(defocus((15, 15), radius).apply(pulse)[0, 0], points / 1e6, atol=2e-3)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_an_estimate_is_conditioned_as_a_gaussian(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`X_y` against the normal equations, solved directly."""
    monkeypatch.setattr(restoration, "_TOLERANCE", 1e-12)
    measurement, count = MEASUREMENTS[name], 3
    process = BlurringDiffusion(SIZE, blur_sigma_max=2.0)
    r, x = space_of(process).variance * 0.1, noise(count, 1, *SIZE)
    y = measurement.apply(noise(count, 1, *SIZE).flip(0))
    s = torch.tensor([0.1, 0.3, 1.0], dtype=torch.float64)
    matrix = matrix_of(measurement, count)
    basis = dct2(torch.eye(math.prod(SIZE), dtype=torch.float64).reshape(-1, *SIZE)).flatten(1)  # rows: the DCT of each pixel
    prior = basis @ torch.diag(r.flatten()) @ basis.T
    inner = matrix @ prior @ matrix.mT + (s**2)[:, None, None] * torch.eye(matrix.shape[1])
    error = (y.flatten(1) - (matrix @ x.flatten(1)[..., None])[..., 0])[..., None]
    expected = x.flatten(1) + (prior @ matrix.mT @ torch.linalg.solve(inner, error))[..., 0]
    found = idct2(Observation(y, measurement, s).condition(dct2(x), r, 300)).flatten(1)
    precise = isinstance(measurement, DctFilter | Mask)  # others are solved in float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 if precise else 1e-4)


@pytest.mark.parametrize(("missing", "limit"), [("scattered", 0.02), ("margin", 0.2)])
def test_blurred_photos_with_missing_pixels_need_few_iterations(missing: str, limit: float) -> None:
    """With the spectrum of photos: by a system in the pixels, 30 iterations leave an error as large as the change itself."""
    known = torch.zeros(48, 48, dtype=torch.float64)
    known[4:-4, 4:-4] = 1
    if missing == "scattered":
        known = (torch.rand(48, 48, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    index = torch.arange(48, dtype=torch.float64)
    variance = 60 / (1 + index[:, None] ** 2 + index**2)
    x, measurement = idct2(noise(1, 1, 48, 48) * variance.sqrt()), Chain((gaussian_blur((48, 48), 1.0), Mask(known)))
    photo = Observation(measurement.apply(x) + 0.02 * known * noise(1, 1, 48, 48), measurement, torch.tensor([0.02]))
    start = torch.zeros_like(x)
    exact = photo.condition(start, variance, 2000)
    assert (photo.condition(start, variance, 60) - exact).norm() < limit * exact.norm()


def test_conjugate_gradients_solve_each_image_by_itself() -> None:
    """An image with the solution 0, or solved at once, does not disturb the others."""
    scale = torch.tensor([1.0, 1e6, 1.0]).double()[:, None, None, None] * torch.linspace(1, 40, 20).double().reshape(1, 1, 4, 5)
    right = noise(3, 1, 4, 5) * torch.tensor([1.0, 1e-3, 0.0]).double()[:, None, None, None]
    found = conjugate_gradients(lambda v: scale * v, right)
    torch.testing.assert_close(found, right / scale, rtol=1e-4, atol=1e-12)
    alone = conjugate_gradients(lambda v: scale[:1] * v, right[:1])
    torch.testing.assert_close(found[:1], alone, rtol=0, atol=0)


@pytest.mark.parametrize("blur", [0.0, 4.0])
@pytest.mark.parametrize("sampler", ["abm", "ab2", "euler"])
@pytest.mark.parametrize("steps", [1, 3])
def test_one_step_draws_from_the_posterior_of_gaussian_data(sampler: str, blur: float, steps: int) -> None:
    """The map from w to the image is affine: its value at 0 is the mean, and its slopes are the standard deviations."""
    process = BlurringDiffusion(SIZE, blur_sigma_max=blur)
    space = space_of(process, mean=torch.full(SIZE, 0.3, dtype=torch.float64))
    widths, s = torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([0.05, 0.2, 1.0]).double()
    photos = Observation(noise(3, 1, *SIZE), gaussian_blur(SIZE, widths), s)
    denoiser = Gaussian(process, space.variance, space.mean)
    zero = torch.zeros(3, 1, *SIZE, dtype=torch.float64)
    at_zero = restore(denoiser, space, photos, zero, steps, sampler)
    slopes = dct2(restore(denoiser, space, photos, zero + idct2(torch.ones(SIZE).double()), steps, sampler) - at_zero)
    precise = [(torch.pi * torch.arange(size, dtype=torch.float64) / size) ** 2 for size in SIZE]
    h = torch.exp(-(precise[0][:, None] + precise[1]) * widths[:, None, None, None] ** 2 / 2)
    precision = 1 / space.variance + h**2 / s[:, None, None, None] ** 2
    mean = (space.mean / space.variance + h * dct2(photos.photo) / s[:, None, None, None] ** 2) / precision
    torch.testing.assert_close(dct2(at_zero), mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(slopes, precision**-0.5, rtol=0, atol=1e-10)


def test_photos_do_not_disturb_each_other() -> None:
    process = BlurringDiffusion(SIZE, blur_sigma_max=2.0)
    space, w = space_of(process), noise(3, 2, *SIZE)
    y, s = noise(3, 2, *SIZE).flip(0), torch.tensor([0.1, 0.3, 1.0]).double()
    denoiser = Gaussian(process, power_law(12)[:8])  # of other data, so that steps matter
    for name in ("a blur per image", "a mask per image"):
        measurement = MEASUREMENTS[name]
        whole = restore(denoiser, space, Observation(y, measurement, s), w, 4, "abm")
        own = (
            {"response": measurement.response[1:2]} if isinstance(measurement, DctFilter) else {"known": measurement.known[1:2]}
        )  # type: ignore[attr-defined]
        alone = restore(denoiser, space, Observation(y[1:2], type(measurement)(**own), s[1:2]), w[1:2], 4, "abm")
        torch.testing.assert_close(whole[1:2], alone, rtol=0, atol=1e-12)


def test_the_residual_tells_a_wrong_noise() -> None:
    x = noise(2, 3, *SIZE)
    blur = gaussian_blur(SIZE, 1.0)
    y = blur.apply(x) + 0.1 * noise(2, 3, *SIZE).flip(0)
    assert Observation(y, blur, torch.tensor([0.1, 0.05])).residual(x).tolist() == pytest.approx([1, 2], rel=0.1)


@pytest.mark.parametrize("sampler", ["ancestral", "consistency", "no-such"])
def test_other_samplers_are_refused(sampler: str) -> None:
    space = space_of(BlurringDiffusion(SIZE, blur_sigma_max=2.0))
    photos = Observation(noise(1, 1, *SIZE), gaussian_blur(SIZE, 1.0), torch.ones(1))
    with pytest.raises(ValueError, match=f"restored by .*abm.*, not by '{sampler}'"):
        restore(lambda z, t: z, space, photos, noise(1, 1, *SIZE), sampler=sampler)


class Mixture:
    """Three Gaussians per DCT frequency, the denoiser of their states, and their posterior given a photo."""

    def __init__(self, process: BlurringDiffusion) -> None:
        random = torch.Generator().manual_seed(0)
        index = [torch.arange(size, dtype=torch.float64) for size in process.shape]
        spread = 20 / (1 + index[0][:, None] ** 2 + index[1] ** 2)
        shape = 3, *process.shape
        self.process, self.weights = process, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        self.means = torch.randn(shape, generator=random).double() * spread.sqrt()
        self.variances = 0.3 * spread * (1 + torch.rand(shape, generator=random).double())
        weight = self.weights[:, None, None]
        mean = (weight * self.means).sum(0)
        self.space = WhitenedSpace(process, mean, (weight * (self.variances + self.means**2)).sum(0) - mean**2)

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.alpha(t)[:, :, None], self.process.sigma(t)[:, :, None]
        variance = alpha**2 * self.variances + sigma**2
        distance = dct2(z)[:, :, None] - alpha * self.means
        likelihood = self.weights.log() - 0.5 * (variance.log() + distance**2 / variance).sum((-1, -2))
        estimates = self.means + self.variances * alpha / variance * distance
        return idct2((likelihood.softmax(-1)[..., None, None] * estimates).sum(2))

    def posterior(self, photo: Tensor, measurement: Measurement, s: float) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the DCT of the image given a photo (1, 1, h, w)."""
        pixels = math.prod(self.process.shape)
        images = idct2(torch.eye(pixels, dtype=torch.float64).reshape(pixels, 1, *self.process.shape))
        matrix = measurement.apply(images).reshape(pixels, -1).T
        means, covariances, likelihoods = [], [], []
        for weight, mean, variance in zip(self.weights, self.means, self.variances, strict=True):
            prior = torch.diag(variance.flatten())
            inner = matrix @ prior @ matrix.T + s**2 * torch.eye(len(matrix))
            error = photo.flatten() - matrix @ mean.flatten()
            gain = prior @ matrix.T @ torch.linalg.inv(inner)
            means.append(mean.flatten() + gain @ error)
            covariances.append(prior - gain @ matrix @ prior)
            likelihoods.append(weight.log() - 0.5 * (torch.logdet(inner) + error @ torch.linalg.solve(inner, error)))
        shares = torch.stack(likelihoods).softmax(0)
        mean = torch.einsum("k,kd->d", shares, torch.stack(means))
        second = sum(
            share * (covariance + torch.outer(one, one))
            for share, covariance, one in zip(shares, covariances, means, strict=True)
        )
        return mean, second - torch.outer(mean, mean)


@pytest.mark.parametrize("name", ["blur", "boxes"])
@pytest.mark.parametrize("blur", [0.0, 3.0])
def test_draws_of_a_mixture_converge_and_are_near_its_posterior(name: str, blur: float) -> None:
    """The error of a step falls with its square; what remains is that errors of the denoiser count as a Wiener filter's."""
    mixture, measurement, s, count = Mixture(BlurringDiffusion(SIZE, blur_sigma_max=blur)), MEASUREMENTS[name], 0.3, 400
    random = torch.Generator().manual_seed(3)
    image = idct2(mixture.means[1] + mixture.variances[1].sqrt() * torch.randn(SIZE, generator=random).double())
    photo = measurement.apply(image[None, None])
    photo = photo + s * torch.randn(photo.shape, generator=random).double()
    observation = Observation(photo.expand(count, -1, -1, -1), measurement, torch.tensor([s]))
    w = torch.randn(count, 1, *SIZE, generator=random).double()
    draws = {steps: dct2(restore(mixture, mixture.space, observation, w, steps)).flatten(1) for steps in (20, 40, 80)}
    apart = [(draws[steps] - draws[2 * steps]).square().mean().sqrt() for steps in (20, 40)]
    assert math.log2(apart[0] / apart[1]) > 1.7
    mean, covariance = mixture.posterior(photo, measurement, s)
    assert (draws[20].mean(0) - mean).norm() < 0.4 * covariance.trace() ** 0.5
    assert 0.7 < draws[20].var(0).sum() / covariance.trace() < 1.5
    given = mixture.space.variance.sum()
    assert covariance.trace() < 0.4 * given  # or agreement would be worth nothing
