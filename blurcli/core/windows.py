"""Denoising images larger than a model, by overlapping windows; and what its moments say of them.

The windows are denoised one by one and their estimates are blended. Blur and noise at a time t are the same in an image of any
size, so that a window of its state is a state of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_OVERLAP = 4  # a quarter of a window: with a half, photos measure the same to 0.02 dB and take twice as long
_POWER = 2.0  # of natural images: the variance falls as the frequency to the power of -2


class WindowedDenoiser:
    """A denoiser of images of one size, for images at least as large.

    Args:
        denoiser: `x_hat = denoiser(z, t)` of images (B, C, h, w).
        size: (h, w).
        batch_size: windows per call.
        on_windows: receives the number of windows of every call.
    """

    def __init__(
        self,
        denoiser: Callable[..., Tensor],
        size: tuple[int, int],
        batch_size: int = 64,
        on_windows: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._denoiser, self._size, self._batch_size, self._on_windows = denoiser, size, batch_size, on_windows

    def __call__(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """The estimate for images (B, C, H, W) at times (B,), with conditions (B, ...) as the denoiser takes them."""
        height, width = self._size
        if z.shape[-2:] == self._size:
            self._on_windows(len(z))
            return self._denoiser(z, t, **conditions)
        blend = _taper(height)[:, None].to(z) * _taper(width).to(z)
        places = [
            (image, y, x)
            for image in range(len(z))
            for y in window_places(z.shape[-2], height)
            for x in window_places(z.shape[-1], width)
        ]
        total, weight = torch.zeros_like(z), z.new_zeros(len(z), 1, *z.shape[-2:])
        for first in range(0, len(places), self._batch_size):
            part = places[first : first + self._batch_size]
            images = torch.tensor([image for image, _, _ in part], device=z.device)
            own = {name: value[images] if isinstance(value, Tensor) else value for name, value in conditions.items()}
            self._on_windows(len(part))
            windows = torch.stack([z[image, :, y : y + height, x : x + width] for image, y, x in part])
            for (image, y, x), estimate in zip(part, self._denoiser(windows, t[images], **own), strict=True):
                total[image, :, y : y + height, x : x + width] += blend * estimate
                weight[image, :, y : y + height, x : x + width] += blend
        return total / weight


def window_places(size: int, window: int) -> list[int]:
    """Where windows begin along a side: from 0 to the end, evenly, overlapping by at least a quarter."""
    last = size - window
    count = math.ceil(last / (window - window // _OVERLAP)) + 1
    return [round(i * last / max(1, count - 1)) for i in range(count)]


def window_count(shape: tuple[int, int], size: tuple[int, int]) -> int:
    """How many windows of a size a denoiser sees of an image (H, W)."""
    return math.prod(len(window_places(*sides)) for sides in zip(shape, size, strict=True))


def moments_at(mean: Tensor, variance: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """M and V of images of another size, from those of the same kind of images.

    V is that of the same angular frequency; below the lowest it is continued by the power law of natural images. Of M, only the
    mean brightness and color are the same in images of any size.

    Args:
        mean: M per DCT frequency, (C, h, w) float64.
        variance: V, like `mean`.
        shape: (H, W), at least (h, w).

    Returns:
        M and V, (C, H, W).
    """
    small = tuple(mean.shape[-2:])
    if small == tuple(shape):
        return mean, variance
    lowest = (variance[..., 0, 1] * variance[..., 1, 0]).sqrt()
    logs = variance.log()
    logs[..., 0, 0] = lowest.log() + _POWER * math.log(2)
    for axis, (own, wanted) in zip((-2, -1), zip(small, shape, strict=True), strict=True):
        place = (torch.arange(wanted, dtype=torch.float64, device=mean.device) * own / wanted).clamp(max=own - 1)
        below = place.long().clamp(max=own - 2)
        share = place - below
        share = share[:, None] if axis == -2 else share
        logs = torch.lerp(logs.index_select(axis, below), logs.index_select(axis, below + 1), share)
    rows, columns = (torch.arange(side, dtype=torch.float64, device=mean.device) / side for side in shape)
    radius = torch.hypot(rows[:, None], columns) * max(small)
    radius[0, 0] = 1
    scaled = torch.where(radius < 1, lowest[..., None, None] * radius**-_POWER, logs.exp())
    pixels = math.prod(shape) / math.prod(small)
    scaled[..., 0, 0] = variance[..., 0, 0] * pixels
    center = torch.zeros_like(scaled)
    center[..., 0, 0] = mean[..., 0, 0] * pixels**0.5
    return center, scaled


def _taper(size: int) -> Tensor:
    """1, falling as a squared sine over the overlap at both ends: such weights of two neighbors add up to 1."""
    overlap = max(1, size // _OVERLAP)
    places = torch.arange(size, dtype=torch.float64)
    to_edge = torch.minimum(places, size - 1 - places) + 0.5
    return torch.sin(torch.pi / 2 * (to_edge / overlap).clamp(max=1)) ** 2
