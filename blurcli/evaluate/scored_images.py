"""Images to be scored: stored, or made by a model while they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from blurcli.base.distributed import SINGLE_PROCESS, DistributedContext
from blurcli.core.sampling_options import SamplingConfig
from blurcli.evaluate.features import Features
from blurcli.evaluate.statistics import Statistics, contribute, measure, part_size
from blurcli.model.pipeline import Pipeline, to_uint8


class ScoredImages(Protocol):
    """Images to be scored."""

    @property
    def protocol(self) -> dict[str, Any]:
        """The keys of a score that identify the images, so that they can be made or found again."""

    def measure(self, features: Features, on_progress: Callable[[float], None]) -> Statistics:
        """Their statistics; `on_progress` receives the number of images done, with fractions for unfinished ones."""


@dataclass(frozen=True)
class StoredImages:
    """Images from files.

    Attributes:
        batches: the images, (B, C, H, W) uint8.
        count: their number.
        protocol: see `ScoredImages`.
    """

    batches: Iterable[Tensor]
    count: int
    protocol: dict[str, Any]

    def measure(self, features: Features, on_progress: Callable[[float], None]) -> Statistics:
        """See `ScoredImages`."""
        return measure(self.batches, self.count, features, on_progress)


@dataclass(frozen=True)
class ModelImages:
    """Images 0 to count - 1 of a seed, made by a model while they are measured.

    Attributes:
        pipeline: the model.
        step: its training steps.
        count: number of images.
        seed: seed of the images.
        sampling: from `Pipeline.sampling`.
        batch_size: images per batch; None for the pipeline's.
        distributed: the processes that share the work: the main process measures, the others `contribute`.
    """

    pipeline: Pipeline
    step: int
    count: int
    seed: int
    sampling: SamplingConfig
    batch_size: int | None = None
    distributed: DistributedContext = SINGLE_PROCESS

    @property
    def protocol(self) -> dict[str, Any]:
        """See `ScoredImages`."""
        return {
            "n": self.count,
            "weights_sha256": self.pipeline.digest,
            "step": self.step,
            **self.sampling.record,
            "calibrated": self.pipeline.calibrated,
            "network_precision": self.pipeline.precision,
            "seed": self.seed,
            "images": f"0-{self.count - 1}",
        }

    def measure(self, features: Features, on_progress: Callable[[float], None]) -> Statistics:
        """See `ScoredImages`; on the main process. Sampling takes the time, so it reports the progress."""
        size = self._shared_batch_size()
        return measure(self._batches(size, on_progress), self.count, features, distributed=self.distributed, size=size)

    def contribute(self, features: Features) -> None:
        """Make and send this process's share of the images that the main process measures."""
        contribute(self._batches(self._shared_batch_size()), features, self.distributed)

    def _shared_batch_size(self) -> int:
        """Images per batch: the same in all processes; with several processes, a multiple of the part size of measurements."""
        size = self.batch_size or self.pipeline.batch_size
        processes = self.distributed.size
        if processes == 1:
            return size
        data = self.pipeline.config.data
        part = part_size((data.channels, *data.image_size))
        return part * max(1, min(self.distributed.min(size), -(-self.count // processes)) // part)

    def _batches(self, batch_size: int, on_progress: Callable[[float], None] = lambda images: None) -> Iterator[Tensor]:
        images = self.pipeline.generate(
            self.count,
            self.seed,
            self.sampling,
            batch_size=batch_size,
            on_progress=on_progress,
            distributed=self.distributed,
        )
        return map(to_uint8, images)
