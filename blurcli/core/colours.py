"""Opponent colours: one channel of brightness and two of colour, which are nearly uncorrelated in images of all kinds.

They are the orthonormal DCT-II over the channels (red, green, blue): their sum, red against blue, and green against both. Being
orthonormal, the change leaves noise, squared errors and the blur as they are; only the spectrum per channel tells more.
Images of one channel stay as they are.
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
    # Term by term: of a matrix product the last bits would depend on how many images there are.
    channels = x.unbind(-3)
    return torch.stack([torch.stack([w * c for w, c in zip(row, channels, strict=True)]).sum(0) for row in weights], -3)
