import pytest
import scipy.fft
import torch

from blurcli.core import dct2, fast_dct, idct2
from blurcli.core.dct import dct_matrix


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 9), (32, 48), (28, 28)])
def test_equals_scipy_and_inverts(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"))
    # Sums of at most 48 products of order 1: a few hundred times the rounding of float64.
    torch.testing.assert_close(dct2(x), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(idct2(dct2(x)), x, rtol=0, atol=1e-13)


def test_keeps_energy() -> None:
    x = torch.randn(1, 1, 11, 6, dtype=torch.float64)
    torch.testing.assert_close(dct2(x).square().sum(), x.square().sum())


def test_matrix_first_made_in_inference_mode_can_be_trained_through() -> None:
    dct_matrix.cache_clear()
    with torch.inference_mode():
        dct2(torch.zeros(1, 1, 6, 6))
    x = torch.ones(1, 1, 6, 6, requires_grad=True)
    dct2(x).sum().backward()
    assert x.grad is not None


def test_autocast_does_not_lower_its_precision() -> None:
    x = torch.randn(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dct2(x), dct2(x.clone()))
        inside = dct2(x)
    assert torch.equal(inside, dct2(x))


def test_refuses_low_precision() -> None:
    with pytest.raises(TypeError, match=r"float32 or float64, not torch.bfloat16"):
        dct2(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize("size", [(191, 300), (200, 192)])
def test_large_images_have_the_same_transforms(size: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(fast_dct.dct2(x), dct2(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(fast_dct.idct2(x), idct2(x), rtol=0, atol=1e-12)
