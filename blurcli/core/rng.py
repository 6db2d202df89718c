"""Random streams per image: image i does not depend on the batch, the order or the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class NoiseSource(Protocol):
    """A source of randomness for a batch of images."""

    def __call__(self, like: Tensor) -> Tensor:
        """The next standard normal noise, (B, C, H, W), in the dtype and on the device of `like`."""
        ...

    def pick(self, bank: Tensor) -> Tensor:
        """The next random rows of `bank` (N, ...): (B, ...)."""
        ...


class ImageNoise:
    """Standard normal noise with one random stream per image (as in edm's StackedRandomGenerator).

    Args:
        seed: seed of the whole set of images, in [0, 2**64).
        indices: index of the image at each position of the batch, in [0, 2**64).
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        # A key of two words instead of a hash of both: no two images can share a stream.
        self._streams = [np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64))) for index in indices]

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, (B, C, H, W), in the dtype and on the device of `like`; B is the number of indices."""
        rows = [stream.standard_normal(tuple(like.shape[1:]), dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(rows)).to(like)

    def uniform(self) -> Tensor:
        """The next uniform number in [0, 1) of every stream, (B,) float64."""
        return torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64)

    def pick(self, bank: Tensor) -> Tensor:
        """The next random row of `bank` (N, ...) of every stream: (B, ...)."""
        return bank[(self.uniform() * len(bank)).long().to(bank.device)]


class InterpolatedNoise:
    """Spherical interpolation between two streams (Shoemake 1985): image k is at k / (count - 1) of the way.

    Normal noise concentrates on a sphere, which a straight line would leave. The first image has exactly the noise of `start`,
    the last exactly that of `end`, which must be another stream.

    Args:
        start: (seed, index) of the first stream.
        end: (seed, index) of the last stream.
        count: number of images, ends included; at least 2.
        indices: index of the image at each position of the batch.
    """

    def __init__(self, start: tuple[int, int], end: tuple[int, int], count: int, indices: Sequence[int]) -> None:
        self._start, self._end = ImageNoise(start[0], [start[1]]), ImageNoise(end[0], [end[1]])
        self._fraction = torch.tensor([index / (count - 1) for index in indices], dtype=torch.float64)

    def pick(self, bank: Tensor) -> Tensor:
        """Linear interpolation between the rows of `bank` (N, ...) that the two streams pick: (B, ...)."""
        fraction = self._fraction.to(bank).reshape(-1, *[1] * (bank.ndim - 1))
        return torch.lerp(self._start.pick(bank), self._end.pick(bank), fraction)

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, as `ImageNoise` gives it."""
        one = torch.empty(1, *like.shape[1:], dtype=torch.float64)
        start, end = self._start(one), self._end(one)
        angle = torch.acos((start * end).sum() / (start.norm() * end.norm()))
        fraction = self._fraction[:, None, None, None]
        return ((torch.sin((1 - fraction) * angle) * start + torch.sin(fraction * angle) * end) / torch.sin(angle)).to(like)


class SharedNoise:
    """The first noise from one source, all later noise from another: many images share the start, or the noise of the steps.

    Args:
        first: gives the noise from which the images start.
        rest: gives the noise of the steps; its first draw, which would be a start, is discarded.
    """

    def __init__(self, first: ImageNoise, rest: ImageNoise) -> None:
        self._first: ImageNoise | None = first
        self._rest = rest

    def pick(self, bank: Tensor) -> Tensor:
        """The row of `bank` (N, ...) that the first source picks: (B, ...)."""
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


def draw_classes(counts: Sequence[int], seed: int, indices: Sequence[int]) -> list[int]:
    """The class of every image of a seed, drawn with the frequencies of the classes in the training data.

    Args:
        counts: number of training images of each class.
        seed: seed of the whole set of images.
        indices: index of every image.
    """
    cumulative = np.cumsum(counts) / sum(counts)
    draws = [np.random.default_rng([seed, index]).random() for index in indices]
    chosen: list[int] = np.searchsorted(cumulative, draws, side="right").tolist()
    return chosen


def step_seed(seed: int, step: int, attempt: int = 0) -> int:
    """The seed of a training step: everything random in a step follows from it, so a resumed run needs no random state.

    Args:
        seed: seed of the training.
        step: training steps done before.
        attempt: how often the training returned to a saved state; each attempt draws other numbers.
    """
    words = [seed, step, attempt] if attempt else [seed, step]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
