"""From images, features and a reference to a score, one line of evaluations.jsonl."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from blurcli.base.errors import UsageError, option
from blurcli.evaluate import distances
from blurcli.evaluate.environment import hardware, versions
from blurcli.evaluate.features import Features
from blurcli.evaluate.floor import floor_of
from blurcli.evaluate.metrics import Comparison, Metric, metrics_in
from blurcli.evaluate.reference import Reference
from blurcli.evaluate.scored_images import ScoredImages


@dataclass(frozen=True)
class Scorer:
    """Scores images with features against a reference.

    Attributes:
        features: the feature extractor.
        reference: the images that others are compared with.
        device: where networks run.
    """

    features: Features
    reference: Reference
    device: torch.device

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of a score; the first one ranks."""
        return metrics_in(self.features)

    @property
    def metric(self) -> str:
        """The name of the ranking metric: "fid", or "fd" in features other than Inception's."""
        return self.metrics[0].name

    @property
    def protocol(self) -> dict[str, Any]:
        """The keys of a score that identify features and reference."""
        return {
            "reference": self.reference.name,
            "reference_images": self.reference.statistics.count or None,
            "reference_hash": self.reference.hash,
            "split": self.reference.split,
            "features": self.features.key,
            "features_sha256": self.features.sha256,
            "mode": self.features.mode,
            "device": str(self.device),
        }

    def check_enough(
        self, count: int, key: str = option("n"), alternative: str = f"or score anyway with {option('force')}"
    ) -> None:
        """Check that the covariances of the scored and the reference images are not singular.

        Args:
            count: number of images to be scored.
            key: the option or key for the number of images, for the message.
            alternative: an alternative to more images, for the message.

        Raises:
            UsageError: there are at most as many images as features.
        """
        dimensions = len(self.reference.statistics.mean)
        known = self.reference.statistics.count
        for number, name in ((count, f"{key} {count}"), (known, f"{self.reference.name}: {known} images")):
            if 0 < number <= dimensions:
                raise UsageError(
                    f"{name}: too few for the {dimensions:,} features of {self.features.key}: the covariance of at most "
                    f"{dimensions:,} images is singular, and the distance far too high: use more images, {alternative}"
                )

    def score(self, images: ScoredImages, on_progress: Callable[[float], None], **labels: str) -> dict[str, Any]:
        """The score of images, with the complete protocol.

        Args:
            images: the images.
            on_progress: see `ScoredImages.measure`.
            labels: further keys of the score.

        Raises:
            UserError: features or images are not finite.
        """
        started = time.perf_counter()
        statistics = images.measure(self.features, on_progress)
        pair = Comparison(statistics, self.reference.statistics)
        floor = floor_of(self.reference, self.features.key, statistics.count)
        return {
            **{metric.name: metric.compute(pair) for metric in self.metrics if metric.compute is not None},
            "n": statistics.count,
            "floor": None if floor is None else asdict(floor),
            **labels,
            **images.protocol,
            **self.protocol,
            "seconds": round(time.perf_counter() - started, 1),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "hardware": hardware(self.device),
            "versions": versions(),
            "size": list(statistics.power.shape) if statistics.power is not None else None,
            "spectrum": _rounded(statistics.power),
            "reference_spectrum": _rounded(self.reference.statistics.power),
        }


def _rounded(power: Tensor | None) -> list[float] | None:
    """The radial power spectrum, rounded to the digits that a plot needs."""
    return None if power is None else [float(f"{value:.4g}") for value in distances.radial_spectrum(power)[0].tolist()]
