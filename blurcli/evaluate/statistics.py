"""Statistics of a set of images, in one pass and in constant memory."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blurcli.base import files
from blurcli.base.distributed import SINGLE_PROCESS, DistributedContext
from blurcli.base.errors import UserError, option
from blurcli.base.parallel import ahead
from blurcli.base.threads import own_cores
from blurcli.core.dct import dct2
from blurcli.data.images import Pixels
from blurcli.evaluate.distances import NEIGHBORS, manifold_radii
from blurcli.evaluate.features import Features

BATCH = 64
_BATCH_BYTES = 1 << 26
KEPT = 10_000  # images with stored features, for metrics that need more than moments
_MAX_WORKERS = 8


@dataclass(frozen=True)
class Statistics:
    """Statistics of N images with D features each.

    Attributes:
        count: N; 0 if it is unknown.
        mean: mean of the features, (D,) float64.
        covariance: unbiased covariance of the features, (D, D) float64.
        features: features of at most 10,000 images, evenly spaced, (K, D) float32; None if only moments are known.
        radii: `manifold_radii` of these features, (K,) float32; None for fewer than four.
        power: mean squared DCT coefficient, over channels, of the images in [-1, 1], (H, W) float64; None if only moments are
            known.

    Raises:
        ValueError: shapes that disagree, or a number that is not finite.
    """

    count: int
    mean: Tensor
    covariance: Tensor
    features: Tensor | None = None
    radii: Tensor | None = None
    power: Tensor | None = None

    def __post_init__(self) -> None:
        d = self.mean.numel()
        kept = 0 if self.features is None else len(self.features)
        shapes = {"mean": (d,), "covariance": (d, d), "features": (kept, d), "radii": (kept,)}
        for name, tensor in vars(self).items():
            if isinstance(tensor, Tensor) and (
                tuple(tensor.shape) != shapes.get(name, tensor.shape) or not tensor.isfinite().all()
            ):
                raise ValueError(f"{name} of shape {tuple(tensor.shape)} is not finite, or does not fit {d} features")

    def save(self, path: Path) -> None:
        """Write an .npz file, atomically."""
        arrays: dict[str, Any] = {name: value.numpy() for name, value in vars(self).items() if isinstance(value, Tensor)}
        with files.replacing(path) as temporary:
            np.savez(temporary, **arrays, count=np.int64(self.count))

    @classmethod
    def load(cls, path: Path) -> Statistics | None:
        """The statistics that `save` wrote; None if the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "count"}
                return cls(int(arrays["count"]), **tensors)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
            return None


class RunningMoments:
    """Mean and covariance of features, from running sums in float64.

    The mean of the first batch is subtracted before squaring, so that a large common offset costs no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._sum = self._outer = torch.empty(0)

    def add(self, features: Tensor) -> None:
        """Add features (B, D)."""
        features = features.double()
        if not self.count:
            self._shift = features.mean(0)
            self._sum = torch.zeros_like(self._shift)
            self._outer = torch.zeros(len(self._shift), len(self._shift), dtype=torch.float64)
        centred = features - self._shift
        self.count += len(features)
        self._sum += centred.sum(0)
        self._outer.addmm_(centred.T, centred)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D); ValueError below two images."""
        if self.count < 2:
            raise ValueError("a covariance needs at least two images")
        offset = self._sum / self.count
        covariance = (self._outer - self.count * torch.outer(offset, offset)) / (self.count - 1)
        return self._shift + offset, covariance


Part = tuple[Tensor, Tensor]
"""At most `BATCH` images: features (B, D) float64, and the sum of the squared DCT coefficients, (H, W) float64."""


@torch.inference_mode()
def measure(
    batches: Iterable[Tensor],
    count: int,
    features: Features,
    on_batch: Callable[[int], None] = lambda done: None,
    distributed: DistributedContext = SINGLE_PROCESS,
    size: int = 0,
) -> Statistics:
    """The statistics of images. They depend neither on the batches nor on the number of processes.

    Args:
        batches: this process's images, uint8 (B, C, H, W), in batches of any size.
        count: number of images, over all processes.
        features: the feature extractor.
        on_batch: receives the number of images done.
        distributed: the processes that share the work; all but the main process `contribute`.
        size: with several processes, images of every batch but the last, a multiple of `part_size`.

    Raises:
        UserError: features that are not finite.
        ValueError: `batches` do not have `count` images.
    """
    moments = RunningMoments()
    wanted = torch.zeros(count, dtype=torch.bool)
    wanted[torch.from_numpy(np.linspace(0, count - 1, min(count, KEPT)).astype(np.int64))] = True
    kept, filled = torch.empty(0), 0
    power = torch.zeros(())
    parts = _parts(batches, features)
    for embedded, part_power in parts if distributed.size == 1 else _gathered(parts, count, distributed, size):
        chosen = embedded[wanted[moments.count : moments.count + len(embedded)]]
        if not moments.count:
            kept = torch.empty(min(count, KEPT), embedded.shape[1])
        kept[filled : filled + len(chosen)] = chosen
        filled += len(chosen)
        moments.add(embedded)
        power = power + part_power
        on_batch(moments.count)
    if moments.count != count:
        raise ValueError(f"the batches have {moments.count} images instead of {count}")
    radii = manifold_radii(kept) if len(kept) > NEIGHBORS else None
    return Statistics(count, *moments.finish(), kept, radii, power / count)


@torch.inference_mode()
def contribute(batches: Iterable[Tensor], features: Features, distributed: DistributedContext) -> None:
    """Send the main process this process's part of a measurement: every `distributed.size`-th batch."""
    for part in _parts(batches, features):
        distributed.send(*part)


def part_size(shape: Sequence[int]) -> int:
    """The number of images of shape (C, H, W) that are measured at a time."""
    return max(1, min(BATCH, _BATCH_BYTES // math.prod(shape)))


def _parts(batches: Iterable[Tensor], features: Features) -> Iterator[Part]:
    def prepare(batch: Tensor) -> Part:
        return features.prepare(batch), _power(batch)

    workers = min(_MAX_WORKERS, own_cores())
    for prepared, power in ahead(prepare, _rebatched(batches), workers=workers, waiting_per_worker=1):
        embedded = features.embed(prepared)
        if not embedded.float().isfinite().all():
            raise UserError(f"{features.name}: features of some images are not finite; score with other {option('features')}")
        yield embedded, power


def _gathered(own: Iterator[Part], count: int, distributed: DistributedContext, size: int) -> Iterator[Part]:
    """The parts of all processes in the order of the images, so that sums equal those of one process bit for bit."""
    part = 0
    embedded = power = torch.empty(0)
    for number, first in enumerate(range(0, count, size)):
        rank, left = number % distributed.size, min(size, count - first)
        while left:
            if rank == 0:
                embedded, power = next(own)
                part = part or len(embedded)
            else:
                like = embedded.new_empty(min(left, part), embedded.shape[1])
                embedded, power = distributed.receive(rank, like, power)
            left -= len(embedded)
            yield embedded, power


def array_batches(images: Pixels) -> Iterator[Tensor]:
    """The batches of an array (N, C, H, W) uint8."""
    for first in range(0, len(images), BATCH):
        yield torch.from_numpy(np.array(images[first : first + BATCH]))


def _power(images: Tensor) -> Tensor:
    """Squared DCT coefficients, summed over images and averaged over channels, (H, W) float64."""
    return dct2(images.float() / 127.5 - 1).square().mean(1).sum(0, dtype=torch.float64)


def _rebatched(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same images in parts of a fixed size, because the last digits of a sum depend on its grouping."""
    waiting = torch.empty(0)
    for batch in batches:
        waiting = torch.cat([waiting, batch]) if len(waiting) else batch
        *full, waiting = torch.split(waiting, part_size(waiting.shape[1:]))
        yield from full
    yield waiting
