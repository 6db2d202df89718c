"""The registry of metrics. To add one, append a `Metric` to `METRICS`: scores, tables and rankings follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from blurcli.evaluate import distances
from blurcli.evaluate.features import Features
from blurcli.evaluate.statistics import Statistics

_IMAGES = ("features", "reference_hash", "size", "n")
_RESTORATION = ("damage", "features", "reference_hash", "n", "seed")
_LIKELIHOOD = ("by_levels", "reference_hash", "n", "steps", "calls", "seed")


@dataclass(frozen=True)
class Comparison:
    """Two sets of images, with distances that several metrics share.

    Attributes:
        ours: statistics of the scored images.
        reference: statistics of the reference images, in the same features.
    """

    ours: Statistics
    reference: Statistics

    @property
    def frechet(self) -> float:
        """The squared Frechet distance of the features."""
        ours, reference = self.ours, self.reference
        return distances.frechet_distance(ours.mean, ours.covariance, reference.mean, reference.covariance)

    @cached_property
    def kernel(self) -> tuple[float | None, float | None]:
        """The kernel distance and its standard deviation; None if only moments are known."""
        ours, reference = self.ours, self.reference
        if ours.features is None or reference.features is None:
            return None, None
        return distances.kernel_distance(ours.features, reference.features)

    @cached_property
    def precision_recall(self) -> tuple[float | None, float | None]:
        """Precision and recall; None if only moments are known, or for fewer than four images."""
        ours, reference = self.ours, self.reference
        if ours.features is None or ours.radii is None or reference.features is None or reference.radii is None:
            return None, None
        return distances.precision_recall(ours.features, ours.radii, reference.features, reference.radii)

    @property
    def log_spectral(self) -> float | None:
        """The log-spectral distance; None if a spectrum is unknown, or the sizes differ."""
        ours, reference = self.ours.power, self.reference.power
        if ours is None or reference is None or ours.shape != reference.shape:
            return None
        return distances.log_spectral_distance(ours, reference)


@dataclass(frozen=True)
class Metric:
    """One number of a score.

    Attributes:
        name: its key in a score.
        title: its name in tables; empty if it is only recorded.
        compute: gives the value, or None if the statistics do not allow it; None for a metric not computed from statistics.
        inception: True: only in Inception's features; False: only in others; None: in any.
        higher_is_better: the direction in which tables are sorted.
        protocol: keys that must agree for two scores to be ranked by this metric; empty: it does not rank.
    """

    name: str
    title: str
    compute: Callable[[Comparison], float | None] | None = None
    inception: bool | None = None
    higher_is_better: bool = False
    protocol: tuple[str, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric("fid", "FID", lambda pair: pair.frechet, inception=True, protocol=_IMAGES),
    Metric("fd", "FD", lambda pair: pair.frechet, inception=False, protocol=_IMAGES),
    Metric("bits_per_dim", "bits/dim", protocol=_LIKELIHOOD),
    Metric("psnr", "PSNR", higher_is_better=True, protocol=_RESTORATION),
    Metric("ssim", "SSIM", higher_is_better=True),
    Metric("restored_fd", "FD to the undamaged"),
    Metric("coverage", "coverage of 90%", higher_is_better=True),
    Metric("kid", "KID", lambda pair: pair.kernel[0], inception=True),
    Metric("kid_std", "", lambda pair: pair.kernel[1], inception=True),
    Metric("kd", "KD", lambda pair: pair.kernel[0], inception=False),
    Metric("kd_std", "", lambda pair: pair.kernel[1], inception=False),
    Metric("precision", "precision", lambda pair: pair.precision_recall[0], higher_is_better=True),
    Metric("recall", "recall", lambda pair: pair.precision_recall[1], higher_is_better=True),
    Metric("log_spectral_distance", "log-spectral distance", lambda pair: pair.log_spectral),
)

TITLES: dict[str, str] = {metric.name: metric.title for metric in METRICS if metric.title}
"""The metrics that tables show, with their titles."""

RANKING: tuple[Metric, ...] = tuple(metric for metric in METRICS if metric.protocol)
"""The metrics by which scores are ranked."""


def metrics_in(features: Features) -> list[Metric]:
    """The metrics that are computed in these features; the first one ranks."""
    inception = features.mode is not None
    return [metric for metric in METRICS if metric.compute is not None and metric.inception in (None, inception)]
