"""Blur kernels: lines of motion, kernels of files put right, and what they do per frequency."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from blurcli.core import dct2
from blurcli.core.kernels import motion, normalize_kernel, response
from blurcli.core.measurements import Convolution, even_kernel, gaussian_blur


def pixels(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def framed(kernel: Tensor, height: int, width: int) -> Tensor:
    """A kernel in the middle of ones."""
    frame, (h, w) = torch.ones(height, width, dtype=torch.float64), kernel.shape
    frame[height // 2 : height // 2 + h, width // 2 : width // 2 + w] = kernel
    return frame


def gaussian(sigma: float, side: int) -> Tensor:
    line = torch.exp(-((torch.arange(side).double() - side // 2) ** 2) / (2 * sigma**2))
    return line[:, None] * line


def spread_of(kernel: Tensor) -> tuple[list[float], np.ndarray]:
    """Centroid from the center pixel, and covariance, in x (right) and y (up)."""
    height, width = kernel.shape
    y, x = torch.meshgrid(height // 2 - torch.arange(height).double(), torch.arange(width).double() - width // 2, indexing="ij")
    places = torch.stack([x, y]).flatten(1)
    weights = kernel.flatten() / kernel.sum()
    mean = places @ weights
    return mean.tolist(), ((places * weights) @ places.T - mean[:, None] * mean).numpy()


@pytest.mark.parametrize("length", [0.0, 1.0, 5.0, 9.5, 30.0])
@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 135.0, -60.0, 400.0])
def test_motion_is_a_line_around_the_center(length: float, angle: float) -> None:
    """Its covariance is that of a line, length^2 / 12 in its direction, and of the pixels between which it is shared."""
    kernel = motion(length, angle)
    assert all(side % 2 == 1 for side in kernel.shape)
    assert max(kernel.shape) <= length + 4
    assert float(kernel.sum()) == pytest.approx(1)
    assert (kernel >= 0).all()
    mean, covariance = spread_of(kernel)
    assert mean == pytest.approx([0, 0], abs=1e-6)
    direction = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    across = np.array([-direction[1], direction[0]])
    assert direction @ covariance @ direction == pytest.approx(length**2 / 12, abs=0.3 + 0.03 * length)
    assert across @ covariance @ across < 0.3


def test_motion_without_a_length_is_no_blur() -> None:
    assert motion(0, 30).tolist() == [[1]]


def test_straight_motions() -> None:
    assert motion(4, 0).shape[0] == 1
    assert motion(4, 90).shape[1] == 1
    rising = motion(9, 45)
    assert rising[0, -1] > 0
    assert rising[0, 0] == 0


@pytest.mark.parametrize(
    ("given", "expected", "done"),
    [
        (pixels([0, 0, 0], [0, 4, 0], [0, 0, 0]), pixels([1]), []),
        (pixels([0, 2, 0], [2, 4, 2], [0, 2, 0]), pixels([0, 2, 0], [2, 4, 2], [0, 2, 0]) / 12, []),
        (framed(pixels([9, 5]), 5, 7), pixels([0, 8, 4]) / 12, ["its border is subtracted"]),
        (framed(pixels([9], [5]), 6, 5), pixels([0], [8], [4]) / 12, ["its border is subtracted", "odd"]),
        (pixels([1, 2, 1], [2, 4, 2], [1, 2, 1]), pixels([1, 2, 1], [2, 4, 2], [1, 2, 1]) / 16, []),
        (pixels([1, 1, 1], [1, 4, 1], [1, 1, 1]), pixels([1, 1, 1], [1, 4, 1], [1, 1, 1]) / 12, []),
        (pixels([1, 3, 1]), pixels([1, 3, 1]) / 5, []),
        (gaussian(2.0, 7), gaussian(2.0, 7) / gaussian(2.0, 7).sum(), []),
        (pixels([0, 0, 0], [-1, 8, 0], [0, 0, 0]), pixels([1]), ["values below 0 are cut"]),
        (pixels([1, 1], [1, 1]), pixels([1, 1, 0], [1, 1, 0], [0, 0, 0]) / 4, ["its sides are made odd"]),
        (pixels([0, 0, 0, 0, 0], [0, 0, 0, 3, 1]), pixels([0, 3, 1]) / 4, ["odd", "it is centered"]),
        (pixels([3], [1], [0]), pixels([0], [3], [1]) / 4, ["it is centered"]),
        (torch.full((3, 5), 7.0).double(), torch.ones(3, 5).double() / 15, []),
    ],
    ids=[
        "pulse",
        "cross",
        "border",
        "border of even sides",
        "small",
        "small and flat",
        "line",
        "cut",
        "negative",
        "even",
        "aside",
        "at the edge",
        "box",
    ],
)
def test_kernels_are_put_right(given: Tensor, expected: Tensor, done: list[str]) -> None:
    found, said = normalize_kernel(given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert len(said) == len(done)
    assert all(words in text for words, text in zip(done, said, strict=True))
    again, nothing = normalize_kernel(found)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-12)
    assert nothing == []


def test_empty_margins_do_not_count() -> None:
    """A dot in a large black picture is as small a kernel as without the black."""
    large = torch.zeros(101, 101)
    large[50, 49:53] = 1
    assert normalize_kernel(large)[0].shape[0] == 1
    assert normalize_kernel(large)[0].shape[1] <= 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 3), "empty"),
        (torch.zeros(0, 3), "empty"),
        (torch.tensor([[0.0, math.nan, 0.0]]), "not finite"),
        (torch.tensor([[1.0, math.inf, 0.0]]), "not finite"),
        (-torch.eye(3), "below 0"),
        (torch.tensor([[0.0, 0, 0], [-3, 2, 0], [0, 0, 0]]), "below 0"),
    ],
)
def test_what_is_no_kernel_is_refused(given: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize_kernel(given)


def test_the_response_of_an_even_kernel_is_its_filter() -> None:
    kernel = torch.tensor([[1.0, 2, 1], [3, 6, 3], [1, 2, 1]]).double() / 20
    torch.testing.assert_close(response(kernel, (8, 12)), even_kernel((8, 12), kernel).response.abs())
    wide = gaussian(2.0, 25)
    expected = gaussian_blur((32, 40), 2.0).response
    torch.testing.assert_close(response(wide / wide.sum(), (32, 40)), expected, rtol=0, atol=1e-3)


def test_a_shift_changes_no_amplitude() -> None:
    kernel = torch.zeros(5, 7, dtype=torch.float64)
    kernel[1, 5] = 1
    torch.testing.assert_close(response(kernel, (8, 12)), torch.ones(8, 12).double())


def test_the_response_is_the_power_that_a_convolution_leaves() -> None:
    """Of white images, on the mean of a diagonal motion and of frequencies around; its DCT is not diagonal."""
    kernel, shape = motion(5, 30), (32, 32)
    white = torch.randn(400, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    power = dct2(Convolution(kernel).apply(white)).square().mean((0, 1))
    expected = response(kernel, shape) ** 2
    blocks = [one.reshape(8, 4, 8, 4).mean((1, 3)) for one in (power, expected)]
    torch.testing.assert_close(blocks[0], blocks[1], rtol=0.1, atol=0.02)
