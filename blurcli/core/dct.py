"""Orthonormal two-dimensional DCT-II as two small matrix products: any height and width, exact inverse, no FFT."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=64)
def dct_matrix(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The orthonormal DCT-II matrix, (n, n): `C[k, m] = sqrt((2 - [k = 0]) / n) cos(pi (m + 1/2) k / n)`.

    Computed in float64, then cast. Its inverse is its transpose.
    """
    # An inference tensor cannot be used in training, and the cache would return it there.
    with torch.inference_mode(False):
        k = torch.arange(n, dtype=torch.float64)
        matrix: Tensor = torch.cos(torch.pi / n * k[:, None] * (k[None, :] + 0.5)) * (2 / n) ** 0.5
        matrix[0] /= 2**0.5
        return matrix.to(device=device, dtype=dtype)


def dct2(x: Tensor) -> Tensor:
    """DCT-II coefficients of images, orthonormal over the last two dimensions.

    Args:
        x: (..., H, W), float32 or float64.

    Returns:
        (..., H, W) in the dtype of `x`; `sum(dct2(x)**2) == sum(x**2)`.
    """
    rows, columns = _matrices(x)
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x @ columns.T


def idct2(u: Tensor) -> Tensor:
    """The inverse of `dct2`: images (..., H, W) from their orthonormal DCT-II coefficients."""
    rows, columns = _matrices(u)
    with torch.autocast(u.device.type, enabled=False):
        return rows.T @ u @ columns


def _matrices(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the DCT needs float32 or float64, not {x.dtype}")
    height, width = x.shape[-2:]
    return dct_matrix(height, x.device, x.dtype), dct_matrix(width, x.device, x.dtype)
