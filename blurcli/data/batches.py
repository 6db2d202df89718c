"""Training batches as a pure function of (seed, step)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.data.images import Labels, Pixels

_RESIDENT_SHARE = 0.25  # largest share of the free GPU memory for the images


class Batches:
    """Batches of an endless sequence of epochs, each with its own random order, without replacement.

    Args:
        images: (N, C, H, W) uint8; copied to a GPU if they fit into a quarter of its free memory, else read as needed.
        batch_size: images per batch; may exceed N.
        seed: seed of the order and the flips.
        flip: mirror each image, left to right, with probability 1/2.
        device: device of the batches.
        share: the slice of every batch for this process.
        labels: the class of every image, (N,), or None.
    """

    def __init__(
        self,
        images: Pixels,
        batch_size: int,
        seed: int,
        flip: bool,
        device: torch.device,
        share: slice = slice(None),
        labels: Labels | None = None,
    ) -> None:
        self._labels = labels
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._flip = flip
        self._device = device
        self._share = share
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._resident: Tensor | None = None
        if device.type == "cuda" and images.nbytes <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._resident = torch.from_numpy(np.array(images)).to(device)

    def __call__(self, step: int) -> Tensor:
        """This process's share of batch `step`, counted from 0: (B, C, H, W) float32 in [-1, 1]."""
        indices = self.indices(step)[self._share]
        resident = self._resident
        pixels = self._to_device(self._images[indices]) if resident is None else resident[self._to_device(indices)]
        if self._flip:
            mirrored = np.random.default_rng([self._seed, 1, step]).random(self._batch_size)[self._share] < 0.5
            pixels = torch.where(self._to_device(mirrored)[:, None, None, None], pixels.flip(-1), pixels)
        return pixels.float() / 127.5 - 1

    def labels(self, step: int) -> Tensor | None:
        """The classes of the images of batch `step`, int64 (B,), or None."""
        return None if self._labels is None else self._to_device(self._labels[self.indices(step)[self._share]])

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        """An array on the device; the copy to a GPU is asynchronous."""
        tensor = torch.from_numpy(array)
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Indices of the images in batch `step`, (B,)."""
        positions = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, offsets = np.divmod(positions, len(self._images))
        return np.concatenate([self._permutation(epoch)[offsets[epochs == epoch]] for epoch in np.unique(epochs)])

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._images))
        return self._order
