"""Randomness that depends on what is asked for, not on the order or the batch in which it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Noises(Protocol):
    """A source of randomness for a batch of images."""

    def __call__(self, like: Tensor) -> Tensor:
        """The next standard normal noise, (B, C, H, W), in the dtype and on the device of `like`."""
        ...

    def pick(self, bank: Tensor) -> Tensor:
        """The next choice among the rows of `bank` (N, ...): (B, ...)."""
        ...


class ImageNoise:
    """Standard normal noise with one random stream an image: image i is the same in any batch, on any device.

    Args:
        seed: of the whole set of images, in [0, 2**64).
        indices: which image stands at each place of the batch.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        # A key of two words, not a hash of both: no two images can share a stream.
        self._streams = [np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64))) for index in indices]

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, (B, C, H, W), in the dtype and on the device of `like`; B is the number of indices."""
        rows = [stream.standard_normal(tuple(like.shape[1:]), dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(rows)).to(like)

    def uniform(self) -> Tensor:
        """The next uniform number in [0, 1) of every stream, (B,) float64."""
        return torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64)

    def pick(self, bank: Tensor) -> Tensor:
        """The next choice of every stream among the rows of `bank` (N, ...): (B, ...)."""
        return bank[(self.uniform() * len(bank)).long().to(bank.device)]


class InterpolatedNoise:
    """Noise on the great circles from one stream to another (Shoemake 1985): image k stands at k / (count - 1) of the way.

    A straight line would leave the sphere on which normal noise lies. The first image's noise is exactly that of `start`,
    the last one's that of `end`, which must be another stream.

    Args:
        start: (seed, index) of the stream at the beginning.
        end: the same at the end.
        count: images from the one to the other, ends included; at least 2.
        indices: which of them stand at each place of the batch.
    """

    def __init__(self, start: tuple[int, int], end: tuple[int, int], count: int, indices: Sequence[int]) -> None:
        self._start, self._end = ImageNoise(start[0], [start[1]]), ImageNoise(end[0], [end[1]])
        self._way = torch.tensor([index / (count - 1) for index in indices], dtype=torch.float64)

    def pick(self, bank: Tensor) -> Tensor:
        """Between the choices of the two streams among the rows of `bank` (N, ...), in a straight line: (B, ...)."""
        way = self._way.to(bank).reshape(-1, *[1] * (bank.ndim - 1))
        return torch.lerp(self._start.pick(bank), self._end.pick(bank), way)

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, as `ImageNoise` gives it."""
        one = torch.empty(1, *like.shape[1:], dtype=torch.float64)
        start, end = self._start(one), self._end(one)
        angle = torch.acos((start * end).sum() / (start.norm() * end.norm()))
        way = self._way[:, None, None, None]
        return ((torch.sin((1 - way) * angle) * start + torch.sin(way * angle) * end) / torch.sin(angle)).to(like)


class SharedNoise:
    """The first noise of one source and all later noise of another: one start for many images, or one path from many.

    Args:
        first: gives the noise from which the images start.
        rest: gives the noise of the steps; its first draw, which belongs to a start, is left out.
    """

    def __init__(self, first: ImageNoise, rest: ImageNoise) -> None:
        self._first: ImageNoise | None = first
        self._rest = rest

    def pick(self, bank: Tensor) -> Tensor:
        """The choice of the first source among the rows of `bank` (N, ...): (B, ...)."""
        assert self._first is not None
        self._rest.pick(bank)
        return self._first.pick(bank)

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, as `ImageNoise` gives it."""
        rest = self._rest(like)
        if self._first is None:
            return rest
        first, self._first = self._first(like), None
        return first


def step_seed(seed: int, step: int, attempt: int = 0) -> int:
    """A seed for training step `step`: everything random in a step follows from it, so a resumed run needs no random state.

    `attempt` counts how often the training went back, and would run into the same trouble with the same numbers.
    """
    words = [seed, step, attempt] if attempt else [seed, step]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
