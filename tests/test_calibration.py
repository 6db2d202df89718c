"""Errors by frequency band, and the correction by them, on denoisers whose errors are known."""

import pytest
import torch
from torch import Tensor

from blurcli.core import BlurringDiffusion, EpsDenoiser, dct2, idct2, sample
from blurcli.core.bands import band_means, band_names, frequency_bands
from blurcli.core.calibration import CALIBRATION_BANDS_PER_OCTAVE, CalibratedDenoiser, DenoiserErrors, measure_errors
from blurcli.core.whitened import WhitenedSpace

SIZE = (16, 16)
SPECTRUM = 60 / (1 + torch.arange(16.0)[:, None] ** 2 + torch.arange(16.0) ** 2).double()
PROCESS = BlurringDiffusion(SIZE, 10.0)

SPACE = WhitenedSpace(PROCESS, torch.zeros_like(SPECTRUM), SPECTRUM)


def exact(z: Tensor, t: Tensor) -> Tensor:
    """The Wiener filter of Gaussian data."""
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    return idct2(alpha * SPECTRUM * dct2(z) / (alpha**2 * SPECTRUM + sigma**2))


def images(count: int) -> Tensor:
    return idct2(torch.randn(count, 3, *SIZE, dtype=torch.float64) * SPECTRUM.sqrt())


@pytest.mark.parametrize("shape", [(16, 16), (8, 12), (4, 64), (5, 7)])
@pytest.mark.parametrize("per_octave", [1, 2])
def test_bands_hold_every_frequency_once(shape: tuple[int, int], per_octave: int) -> None:
    band, bands = frequency_bands(*shape, per_octave)
    assert band.shape == shape
    assert band.unique().tolist() == list(range(len(bands)))
    assert (band == 0).sum() == 1
    assert band[0, 0] == 0
    for i in range(shape[0]):
        for j in range(shape[1]):
            low, high = bands[band[i, j]]
            radius = ((i / shape[0]) ** 2 + (j / shape[1]) ** 2) ** 0.5 / 2
            assert low * (1 - 1e-6) <= radius <= high * (1 + 1e-6)
    assert len(band_names(bands)) == len(bands)


def test_names_are_wavelengths_in_pixels() -> None:
    names = band_names(frequency_bands(32, 32, 1)[1])
    assert names == ["mean", "64-32 px", "32-16 px", "16-8 px", "8-4 px", "4-2 px", "2-1.41 px"]


def test_band_means() -> None:
    band, bands = frequency_bands(*SIZE, 2)
    values = torch.rand(5, 3, *SIZE)
    means = band_means(values, band)
    assert means.shape == (5, len(bands))
    for k in range(len(bands)):
        torch.testing.assert_close(means[:, k], values[:, :, band == k].mean((1, 2)))


def test_errors_of_known_denoisers() -> None:
    x = images(200)
    for denoiser, relative in ((exact, 1.0), (lambda z, t: x, 0.0)):
        errors = measure_errors(denoiser, SPACE, x, torch.randn_like, times=5)
        assert errors.relative.shape == (5, len(frequency_bands(*SIZE, CALIBRATION_BANDS_PER_OCTAVE)[1]))
        torch.testing.assert_close(errors.relative, torch.full_like(errors.relative, relative), rtol=0, atol=1e-6)
    # Of Gaussian data nothing but the Wiener filter can be known: whatever a network adds is worth nothing, or harm.
    added = measure_errors(lambda z, t: exact(z, t) + 30 * torch.randn_like(z), SPACE, x, torch.randn_like, times=5)
    assert added.relative.min() > 1
    assert added.gain.max() < 0.1
    assert errors.gain.min() == pytest.approx(1)


def test_the_mean_of_measurements_is_that_of_their_images() -> None:
    x, eps = images(6), torch.randn(6, 3, *SIZE, dtype=torch.float64)
    measure = lambda part, noise: measure_errors(  # noqa: E731
        lambda z, t: 0.5 * z, SPACE, part, lambda like: noise, times=3
    )
    parts = [measure(x[:2], eps[:2]), measure(x[2:], eps[2:])]
    torch.testing.assert_close(DenoiserErrors.mean(parts, [2, 4]).relative, measure(x, eps).relative)


def test_gain_one_changes_nothing_and_gain_zero_is_the_wiener_filter() -> None:
    x = images(4)
    t = torch.tensor([0.0, 0.31, 0.77, 1.0], dtype=torch.float64)
    z = PROCESS.diffuse(x, t, torch.randn_like(x))
    raw = lambda z, t: 0.3 * z  # noqa: E731
    bands = len(frequency_bands(*SIZE, CALIBRATION_BANDS_PER_OCTAVE)[1])
    torch.testing.assert_close(CalibratedDenoiser(raw, PROCESS, torch.ones(5, bands), SPECTRUM)(z, t), raw(z, t))
    torch.testing.assert_close(CalibratedDenoiser(raw, PROCESS, torch.zeros(5, bands), SPECTRUM)(z, t), exact(z, t))
    # Between two times the gain is interpolated: 0.31 is 24% of the way from 0.25 to 0.5.
    ramp = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])[:, None].expand(5, bands)
    expected = exact(z, t) + 0.24 * (raw(z, t) - exact(z, t))
    torch.testing.assert_close(CalibratedDenoiser(raw, PROCESS, ramp, SPECTRUM)(z, t)[1], expected[1])


def test_calibration_makes_a_noise_predictor_usable() -> None:
    """A prediction of 95% of eps misses 5%, which is divided by an alpha of down to 1e-5; calibrated, that does no harm."""

    def network(z: Tensor, t: Tensor, /) -> Tensor:
        return 0.95 * (z - idct2(PROCESS.alpha(t) * dct2(exact(z, t)))) / PROCESS.sigma(t)

    raw = EpsDenoiser(network, PROCESS)
    errors = measure_errors(raw, SPACE, images(64), torch.randn_like)
    assert errors.relative.max() > 1e3
    calibrated = CalibratedDenoiser(raw, PROCESS, errors.gain, SPECTRUM)
    after = measure_errors(calibrated, SPACE, images(64), torch.randn_like)
    assert after.relative.max() < 1.1
    z = torch.randn(64, 3, *SIZE, dtype=torch.float64)
    for denoiser, usable in ((raw, False), (calibrated, True)):
        power = dct2(sample(denoiser, PROCESS, z, 10, spectrum=SPECTRUM)).square().mean((0, 1))
        # 64 images of 3 channels: a variance is known to 10%.
        assert bool(((power / SPECTRUM - 1).abs() < 0.6).all()) == usable


@pytest.mark.parametrize("gain", [torch.ones(3, 2), torch.ones(1, 9), torch.full((3, 9), 1.5), torch.full((3, 9), torch.nan)])
def test_refuses_an_impossible_gain(gain: Tensor) -> None:
    assert len(frequency_bands(8, 12, CALIBRATION_BANDS_PER_OCTAVE)[1]) == 9
    with pytest.raises(ValueError, match="gain of shape"):
        CalibratedDenoiser(exact, BlurringDiffusion((8, 12)), gain, torch.ones(8, 12))
