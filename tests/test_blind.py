"""Blur and noise estimated from photos whose blur and noise are known."""

import math

import numpy as np
import pytest
import torch
from gaussian_photos import damaged, drawn, moments, tensor_of
from numpy.typing import NDArray
from scipy import ndimage

from blurcli.core import BlurringDiffusion, dct2, idct2
from blurcli.core.blind import Degradation, estimate
from blurcli.core.kernels import motion, response
from blurcli.core.measurements import Convolution
from blurcli.core.schedules import laplacian
from blurcli.core.whitened import WhitenedSpace
from blurcli.core.windows import moments_at

SIZE = (96, 128)
LEAST = 0.29 / 127.5
UNCLIPPED = torch.ones(SIZE, dtype=torch.bool)


def space_of(channels: int = 1) -> WhitenedSpace:
    spectrum, mean = moments(channels).in_model_space()
    return WhitenedSpace(BlurringDiffusion(SIZE, blur_sigma_max=2.0), *moments_at(mean, spectrum - mean**2, SIZE))


def found(pixels: NDArray[np.float64], unclipped: torch.Tensor = UNCLIPPED) -> Degradation:
    return estimate(tensor_of(pixels), space_of(), LEAST, unclipped)


def levels(noise: float) -> float:
    return noise * 127.5


def test_blur_and_noise_of_the_assumed_photos_are_found() -> None:
    """Within 15%, and in the 90% intervals mostly; a noise below what sharp photos hold themselves is only in its interval."""
    inside = []
    for blur in (0.0, 1.0, 3.0):
        for noise in (2.0, 6.0):
            for seed in (0, 1):
                seen = found(damaged(drawn(SIZE, 1, seed), blur, noise, seed))
                assert seen.blur_px.value == pytest.approx(blur, rel=0.15), (blur, noise, seed)
                if blur or noise > 2:
                    assert levels(seen.noise.value) == pytest.approx(noise, rel=0.15), (blur, noise, seed)
                inside.append(seen.blur_px.low <= blur <= seen.blur_px.high)
                inside.append(levels(seen.noise.low) <= noise <= levels(seen.noise.high))
    assert np.mean(inside) > 0.85
    assert not seen.blur_px.low == seen.blur_px.value == seen.blur_px.high


@pytest.mark.parametrize(("contrast", "slope"), [(0.4, 0.0), (2.0, 0.0), (1.0, 1.0), (1.0, -1.0)])
def test_photos_have_a_contrast_and_a_slope_of_their_own(contrast: float, slope: float) -> None:
    frequency = laplacian(*SIZE, torch.device("cpu")).sqrt()
    frequency[0, 0] = frequency[0, 1]
    own = contrast * (frequency / frequency.log().mean().exp()) ** (-slope / 2)
    pixels = idct2(dct2(torch.from_numpy(drawn(SIZE, 1) - 127.5)) * own).numpy() + 127.5
    seen = found(damaged(pixels, 2.0, 2.0))
    assert seen.blur_px.value == pytest.approx(2, rel=0.15)
    assert levels(seen.noise.value) == pytest.approx(2, rel=0.15)


def test_what_is_known_is_not_estimated() -> None:
    pixels = damaged(drawn(SIZE, 1), 2.0, 4.0)
    seen = estimate(tensor_of(pixels), space_of(), LEAST, UNCLIPPED, noise=4 / 127.5)
    assert seen.noise.low == seen.noise.value == seen.noise.high == 4 / 127.5
    assert seen.blur_px.value == pytest.approx(2, rel=0.15)
    kernel = motion(9, 30)
    shaken = Convolution(kernel).apply(torch.from_numpy(drawn(SIZE, 1))[None])[0].numpy()
    noisy = tensor_of(damaged(shaken, noise=1.0))
    seen = estimate(noisy, space_of(), LEAST, UNCLIPPED, response(kernel, SIZE))
    assert (seen.blur_px.low, seen.blur_px.value, seen.blur_px.high) == (0, 0, 0)
    assert levels(seen.noise.value) == pytest.approx(1, rel=0.1)


def test_all_channels_count() -> None:
    """Those of color photos, and of gray ones that a color model sees."""
    pixels = np.concatenate([damaged(drawn(SIZE, 1, seed), 1.0, 6.0, seed) for seed in range(3)])
    seen = found(pixels)
    assert seen.blur_px.value == pytest.approx(1, rel=0.15)
    assert levels(seen.noise.value) == pytest.approx(6, rel=0.15)
    pixels[1:] = 128 + 2 * np.random.default_rng(0).standard_normal((2, *SIZE))
    assert levels(found(pixels).noise.value) < 4.5  # the mean of their variances is 14.7


def test_a_texture_is_no_noise_where_a_quiet_part_shows_the_noise() -> None:
    random = np.random.default_rng(0)
    texture = 128 + 12 * random.standard_normal((1, *SIZE))
    assert levels(found(texture).noise.value) == pytest.approx(12, rel=0.15)
    texture[:, :40, :40] = 128 + 2 * random.standard_normal((1, 40, 40))
    seen = found(texture)
    assert levels(seen.noise.high) < 2 * 1.3  # the limit has a margin


def test_clipped_parts_are_not_quiet() -> None:
    """A white sky has no noise, as it was cut off; what is not white has it."""
    pixels = damaged(np.full((1, *SIZE), 128.0), noise=6.0)
    pixels[:, :48] = 255
    unclipped = torch.from_numpy(pixels[0] < 255)
    known, unknown = found(pixels, unclipped), found(pixels)
    assert levels(unknown.noise.high) < 0.35
    assert 3 < levels(known.noise.value) < 7  # the power is that of all the photo, of which a half has noise


def test_where_nearly_all_is_clipped_that_counts_after_all() -> None:
    pixels = np.full((1, *SIZE), 255.0)
    pixels[:, :8, :8] = 100
    unclipped = torch.from_numpy(pixels[0] < 255)
    assert levels(found(pixels, unclipped).noise.value) < 0.4


@pytest.mark.parametrize("value", [0.0, 127.0, 255.0])
def test_an_empty_photo_has_the_noise_of_rounding(value: float) -> None:
    pixels = np.full((1, *SIZE), value)
    seen = found(pixels, torch.full(SIZE, 0 < value < 255))
    numbers = [seen.blur_px.low, seen.blur_px.value, seen.blur_px.high, seen.noise.low, seen.noise.value, seen.noise.high]
    assert all(map(math.isfinite, numbers))
    assert seen.noise.low >= LEAST * (1 - 1e-9)
    assert levels(seen.noise.high) < 0.35
    assert (seen.blur_px.low, seen.blur_px.value) == (0, 0)


@pytest.mark.parametrize("noise", [1.0, 6.0])
def test_of_an_empty_photo_only_the_noise_is_known(noise: float) -> None:
    """Whatever the blur was: it is none, which invents nothing."""
    seen = found(damaged(np.full((1, *SIZE), 128.0), noise=noise))
    assert (seen.blur_px.low, seen.blur_px.value) == (0, 0)
    assert levels(seen.noise.value) == pytest.approx(noise, rel=0.15)


def test_a_faint_gradient_is_an_empty_photo() -> None:
    rising = np.broadcast_to(120 + 0.1 * np.arange(SIZE[0])[:, None], (1, *SIZE))
    seen = found(damaged(rising, noise=1.0))
    assert (seen.blur_px.low, seen.blur_px.value) == (0, 0)


@pytest.mark.parametrize("noise", [1.0, 6.0])
def test_a_large_blur_is_not_taken_for_an_empty_photo(noise: float) -> None:
    assert found(damaged(drawn(SIZE, 1), 6.0, noise)).blur_px.value == pytest.approx(6, rel=0.25)


def test_a_blur_that_cannot_be_told_from_none_is_none() -> None:
    seen = found(damaged(drawn(SIZE, 1), 0.15, 2.0))
    assert (seen.blur_px.low, seen.blur_px.value) == (0, 0)
    assert 0.15 < seen.blur_px.high < 0.6


def test_a_box_is_about_the_gaussian_of_its_variance() -> None:
    boxed = ndimage.uniform_filter(drawn(SIZE, 1), (0, 5, 5), mode="reflect")
    assert found(damaged(boxed, noise=2.0)).blur_px.value == pytest.approx(math.sqrt(24 / 12), rel=0.25)
