"""Opponent colors: one channel of brightness and two of color, which are nearly uncorrelated in natural images.

They are the orthonormal DCT-II over the channels (red, green, blue): the sum, red against blue, and green against both. An
orthonormal transform changes neither white noise, nor squared errors, nor the blur; only the spectrum per channel becomes
more informative. Images of one channel are unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blurcli.core.dct import dct_matrix


def to_opponent(x: Tensor) -> Tensor:
    """Images (..., C, H, W), or their DCT, from red, green and blue; float32 or float64."""
    return _mixed(x, dct_matrix(x.shape[-3], x.device, x.dtype))


def from_opponent(x: Tensor) -> Tensor:
    """The inverse of `to_opponent`."""
    return _mixed(x, dct_matrix(x.shape[-3], x.device, x.dtype).T)


def _mixed(x: Tensor, weights: Tensor) -> Tensor:
    # Term by term: the last bits of a matrix product depend on the number of images.
    channels = x.unbind(-3)
    return torch.stack([torch.stack([w * c for w, c in zip(row, channels, strict=True)]).sum(0) for row in weights], -3)
