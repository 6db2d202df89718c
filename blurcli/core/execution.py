"""How a network is executed in sampling: the device of the states, and the number of images per call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from blurcli.core.denoiser import Network

# On a CPU the last bits of a matrix product depend on the batch size, so the network always gets the same number of images.
# Small networks are bound by the overhead of a call, which many images share. Large networks and large images are bound by
# arithmetic, so padding costs as much as images.
_CALL_IMAGES_SMALL, _CALL_IMAGES_LARGE = 32, 8
_SMALLEST_CALL = 4  # images; products of fewer rows use other kernels and give other bits
_LARGE_PARAMETERS = 10_000_000
_CALL_PIXELS = 64 * 64  # largest images for which these numbers hold; larger images need fewer


@functools.cache
def state_device(device: torch.device) -> torch.device:
    """The device where schedules and states are computed in float64: the network's, or the CPU where that has no float64.

    Apple's GPUs have none. Copying images is cheap beside the work of the network.
    """
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.device("cpu")
    return device


class FixedBatches:
    """A network that is called on a fixed number of images, with padding, so that no output depends on other images.

    Args:
        network: the network.
        count: images per call.
        agrees: `agrees(size)` tells whether calls of `size` images give the same bits as calls of `count` images; then the last
            call is padded to that size only. Called once per size.
    """

    def __init__(self, network: Network, count: int, agrees: Callable[[int], bool] = lambda size: False) -> None:
        self._network, self._count, self._agrees = network, count, agrees
        self._known = {count: True}

    def __call__(self, x: Tensor, t: Tensor, /, **conditions: Any) -> Tensor:
        """The output for images (B, C, H, W) at times (B,)."""
        parts = []
        for first in range(0, len(x), self._count):
            part = slice(first, first + self._count)
            given = len(x[part])
            size = self._count if given == self._count else self._fitting(given)

            def padded(tensor: Tensor, part: slice = part, size: int = size, given: int = given) -> Tensor:
                return torch.cat([tensor[part], tensor[:1].expand(size - given, *tensor.shape[1:])])

            own = {name: padded(value) if isinstance(value, Tensor) else value for name, value in conditions.items()}
            # A CUDA graph returns every output in the same memory.
            parts.append(self._network(padded(x), padded(t), **own)[:given].clone())
        return torch.cat(parts)

    def _fitting(self, given: int) -> int:
        """The smallest power of two that holds the given images and gives the bits of full calls."""
        size = max(_SMALLEST_CALL, 1 << (given - 1).bit_length())
        while size < self._count:
            if size not in self._known:
                self._known[size] = self._agrees(size)
            if self._known[size]:
                return size
            size *= 2
        return self._count


def images_per_call(parameters: int, pixels: int) -> int:
    """Images per call of a network on a CPU.

    Args:
        parameters: number of its parameters.
        pixels: pixels per image.
    """
    most = _CALL_IMAGES_LARGE if parameters > _LARGE_PARAMETERS else _CALL_IMAGES_SMALL
    return max(1, min(most, most * _CALL_PIXELS // pixels))


def agreement(network: Network, count: int, shape: Sequence[int]) -> Callable[[int], bool]:
    """`agrees` for `FixedBatches`: whether calls of a size give the bits of calls of `count` images.

    Kernels are chosen by shapes, so one example is enough.

    Args:
        network: the network.
        count: images per call.
        shape: of an image, (C, H, W).
    """

    @torch.inference_mode()
    def agrees(size: int) -> bool:
        x = torch.randn((count, *shape), generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0, 1, count)
        return torch.equal(network(x[:size], t[:size]), network(x, t)[:size])

    return agrees
