"""Randomness that depends on what is asked for, not on the order or the batch in which it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class ImageNoise:
    """Standard normal noise with one random stream an image: image i is the same in any batch, on any device.

    Args:
        seed: of the whole set of images, in [0, 2**64).
        indices: which image stands at each place of the batch.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        # A key of two words, not a hash of both: no two images can share a stream.
        self._streams = [np.random.Generator(np.random.Philox(key=[seed, index])) for index in indices]

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, (B, C, H, W), in the dtype and on the device of `like`; B is the number of indices."""
        rows = [stream.standard_normal(tuple(like.shape[1:]), dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(rows)).to(like)


def step_seed(seed: int, step: int) -> int:
    """A seed for training step `step`: everything random in a step follows from it, so a resumed run needs no random state."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
