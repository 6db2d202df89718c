"""The transforms of `core.dct`, by FFT where that is faster: for large images on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from blurcli.core import dct

_LARGE_PX = 192  # of the shorter side, from which on SciPy is faster than two matrix products


def dct2(x: Tensor) -> Tensor:
    """See `core.dct.dct2`; without gradients of large images."""
    return _by_scipy("dctn", x) if _is_large(x) else dct.dct2(x)


def idct2(u: Tensor) -> Tensor:
    """See `core.dct.idct2`; without gradients of large images."""
    return _by_scipy("idctn", u) if _is_large(u) else dct.idct2(u)


def _is_large(x: Tensor) -> bool:
    return x.device.type == "cpu" and min(x.shape[-2:]) >= _LARGE_PX


def _by_scipy(name: str, x: Tensor) -> Tensor:
    from scipy import fft

    found = getattr(fft, name)(x.numpy(), axes=(-2, -1), norm="ortho", workers=torch.get_num_threads())
    return torch.from_numpy(found)
