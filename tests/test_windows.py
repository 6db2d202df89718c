"""Large images by overlapping windows, and the moments of a model at their size."""

from typing import Any

import numpy as np
import pytest
import torch
from gaussian_photos import SIDE, moments
from torch import Tensor

from blurcli.core.windows import WindowedDenoiser, moments_at, window_count, window_places

T = torch.tensor([0.5, 0.7])


def states(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("window", [4, 5, 8, 16])
def test_windows_cover_a_side_evenly(window: int) -> None:
    for size in range(window, 6 * window):
        places = window_places(size, window)
        assert places[0] == 0
        assert places[-1] == size - window
        apart = np.diff(places)
        assert len(places) == 1 or (apart.min() >= 1 and apart.max() <= window - window // 4)
    assert window_places(window, window) == [0]


def test_an_image_of_the_models_size_is_one_plain_call() -> None:
    seen: list[Any] = []

    def denoiser(z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        seen.append((z, t, conditions))
        return z / 2

    z = states(8, 12)
    found = WindowedDenoiser(denoiser, (8, 12))(z, T, classes=torch.tensor([1, 2]))
    assert torch.equal(found, z / 2)
    assert len(seen) == 1
    assert seen[0][0] is z


@pytest.mark.parametrize("shape", [(9, 12), (20, 12), (8, 40), (37, 31)])
def test_what_all_windows_agree_on_has_no_seams(shape: tuple[int, int]) -> None:
    """A denoiser that changes nothing, a constant, and a gradient: the blend is what each window says."""
    z = states(*shape)
    slope = (torch.arange(shape[0])[:, None] * 0.01 + torch.arange(shape[1]) * 0.02).expand(2, 3, *shape)
    for image in (z, torch.full_like(z, 0.3), slope.contiguous()):
        found = WindowedDenoiser(lambda z, t: z, (8, 12))(image, T)
        torch.testing.assert_close(found, image, rtol=0, atol=1e-6)
    constant = WindowedDenoiser(lambda z, t: torch.full_like(z, 0.3), (8, 12))(z, T)
    torch.testing.assert_close(constant, torch.full_like(z, 0.3), rtol=0, atol=1e-6)


def test_windows_that_disagree_are_blended_without_a_step() -> None:
    """Of two neighbors that say 0 and 1, the blend rises as a squared sine over their overlap of 4 px: by at most pi / 8 per pixel."""
    calls = iter(range(100))
    z = torch.zeros(1, 1, 16, 64)
    found = WindowedDenoiser(lambda z, t: torch.full_like(z, next(calls) % 2), (16, 16), batch_size=1)(z, T[:1])[0, 0, 8]
    assert found.min() == 0
    assert found.max() > 0.95
    assert found.diff().abs().max() <= torch.pi / 8 + 1e-6


def test_windows_have_the_time_and_the_conditions_of_their_image() -> None:
    z, classes = states(20, 31), torch.tensor([3, 5])
    sizes = []

    def denoiser(z: Tensor, t: Tensor, classes: Tensor, scale: float) -> Tensor:
        sizes.append(len(z))
        return z * t[:, None, None, None] + classes[:, None, None, None] * scale

    expected = z * T[:, None, None, None] + classes[:, None, None, None] * 0.1
    count = 2 * window_count((20, 31), (8, 12))
    for batch_size in (1, 7, 1000):
        sizes.clear()
        found = WindowedDenoiser(denoiser, (8, 12), batch_size)(z, T, classes=classes, scale=0.1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert sum(sizes) == count
        assert max(sizes) == min(batch_size, count)


def test_the_batch_size_does_not_change_a_bit() -> None:
    z = states(33, 40)
    whole, ones = (WindowedDenoiser(lambda z, t: z.sin() + z.cumsum(-1), (8, 12), size)(z, T) for size in (64, 1))
    assert torch.equal(whole, ones)


@pytest.fixture
def known() -> tuple[Tensor, Tensor]:
    spectrum, mean = moments(3).in_model_space()
    mean = mean.clone()
    mean[:, 0, 0], mean[:, 0, 2] = 2.0, 0.1
    return mean, spectrum


def test_moments_at_their_own_size_are_themselves(known: tuple[Tensor, Tensor]) -> None:
    for found, own in zip(moments_at(*known, (SIDE, SIDE)), known, strict=True):
        assert torch.equal(found, own)


@pytest.mark.parametrize("shape", [(2 * SIDE, 2 * SIDE), (3 * SIDE, 2 * SIDE), (SIDE, 4 * SIDE)])
def test_variance_is_that_of_the_same_angular_frequency(known: tuple[Tensor, Tensor], shape: tuple[int, int]) -> None:
    mean, variance = known
    center, found = moments_at(mean, variance, shape)
    assert found.shape == (3, *shape)
    rows, columns = (side // SIDE for side in shape)
    torch.testing.assert_close(found[:, ::rows, ::columns][:, 1:, 1:], variance[:, 1:, 1:], rtol=1e-9, atol=0)
    torch.testing.assert_close(found[:, ::rows, ::columns][:, 2:, 0], variance[:, 2:, 0], rtol=1e-9, atol=0)
    pixels = rows * columns
    torch.testing.assert_close(found[:, 0, 0], variance[:, 0, 0] * pixels)  # of the mean brightness: of the pixels, the same
    torch.testing.assert_close(center[:, 0, 0], mean[:, 0, 0] * pixels**0.5)
    assert center.flatten(1)[:, 1:].abs().max() == 0


def test_below_the_lowest_frequency_the_spectrum_goes_on_as_a_power_law(known: tuple[Tensor, Tensor]) -> None:
    mean, variance = known
    _, found = moments_at(mean, variance, (8 * SIDE, 8 * SIDE))
    lowest = (variance[:, 0, 1] * variance[:, 1, 0]).sqrt()
    for part in (1, 2, 4):
        torch.testing.assert_close(found[:, 0, part], lowest * (8 / part) ** 2)
        torch.testing.assert_close(found[:, part, part], lowest * 32 / part**2)
    row = found[0, 0, 1:]
    assert (row.diff() <= 0).all()  # as that of the model falls
    assert found.isfinite().all()


def test_between_frequencies_the_spectrum_is_interpolated(known: tuple[Tensor, Tensor]) -> None:
    mean, variance = known
    _, found = moments_at(mean, variance, (2 * SIDE, 2 * SIDE))
    middle = (variance[:, 4, 5] * variance[:, 4, 6]).sqrt()
    torch.testing.assert_close(found[:, 8, 11], middle)
    torch.testing.assert_close(found[:, -1, -1], variance[:, -1, -1])


def test_the_given_moments_are_left_alone(known: tuple[Tensor, Tensor]) -> None:
    before = [tensor.clone() for tensor in known]
    moments_at(*known, (40, 50))
    assert all(torch.equal(*pair) for pair in zip(known, before, strict=True))
