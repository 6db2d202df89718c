"""The features and the reference of a score, with progress and messages on the console."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import OptionError, UsageError, option
from blurcli.workflows.session import load_images, training_source

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from blurcli.base.runs import Run
    from blurcli.config import Config
    from blurcli.data import Dataset
    from blurcli.evaluate import Features, Reference, ScoredImages, Scorer


@dataclass(frozen=True)
class ScoringOptions:
    """The user's options of scoring; None means the preset's value.

    Attributes:
        features: --features.
        mode: --mode.
        split: --split.
        data: --data; None for the run's own data.
        published: --reference; None to measure images.
        inception: --inception.
        device: --device.
    """

    features: str | None
    mode: str | None
    split: str | None
    data: str | None
    published: str | None
    inception: Path | None
    device: str

    def load_features(self, config: Config) -> Features:
        """The feature extractor, with a progress bar while a network is downloaded.

        Raises:
            UsageError: a mode of other features than Inception's, or a file is missing.
        """
        from blurcli.model.inference import choose_device

        name, mode = self.features or config.score.features, self.mode or config.score.mode
        if self.mode is not None and name != "inception":
            raise OptionError("mode", self.mode, f"is for {option('features')} inception, not {name}; leave it out")
        return fetch_features(name, mode, choose_device(self.device), self.inception)

    def scorer(self, config: Config | None, run: Run | None, shape: tuple[int, int, int]) -> Scorer:
        """The scorer, with a progress bar while its reference is measured.

        Args:
            config: the model's; None for stored images without a run.
            run: the run folder, which names the training data; None for no run.
            shape: (C, H, W) of the images to be scored.

        Raises:
            UsageError: no reference, or more than one.
        """
        from blurcli import evaluate
        from blurcli.base import console
        from blurcli.config import Config
        from blurcli.model.inference import choose_device

        if self.published is not None and self.data is not None:
            raise UsageError(f"{option('reference')} and {option('data')}: both name a reference; use one of them")
        if self.published is None and self.data is None and config is None:
            raise UsageError(
                f"{option('samples')}: no reference; name one with {option('data')}, {option('reference')}, or "
                f"{option('run')} for that run's data"
            )
        known = config or Config()
        split = self.split or known.score.split
        # Find problems with local images before a download of Inception.
        dataset = self._reference_images(known, run, split, shape) if self.published is None else None
        features = self.load_features(known)
        if dataset is not None:
            with console.progress("reference", len(dataset.images)) as update:
                reference = evaluate.image_reference(dataset, split, features, update)
        else:
            assert self.published is not None
            reference = fetch_reference(self.published, features, shape[1], split)
        if self.split not in (None, reference.split):
            raise UsageError(
                f"{option('split')} {self.split}: {self.published} is of the split {reference.split}; leave "
                f"{option('split')} out"
            )
        return evaluate.Scorer(features, reference, choose_device(self.device))

    def _reference_images(self, config: Config, run: Run | None, split: str, shape: tuple[int, int, int]) -> Dataset:
        channels, *size = shape
        data = config.data.model_copy(update={"image_size": tuple(size), "channels": channels})
        from blurcli.config import resolve_source

        source = resolve_source(self.data) if self.data is not None else training_source(config, run, "data")
        return load_images(config.model_copy(update={"data": data}), source, split)


def fetch_features(name: str, mode: str, device: torch.device, inception: Path | None) -> Features:
    """A feature extractor, with a progress bar for downloads; prints its warning."""
    from blurcli import evaluate
    from blurcli.base import console

    with console.progress("downloading Inception (MiB)") as update:
        features = evaluate.load_features(name, mode, device, inception, _in_units(update, 20))
    if features.warning:
        console.notify(f"warning: {features.warning}")
    return features


def fetch_reference(published: str, features: Features, height: int, split: str) -> Reference:
    """Published statistics, with a progress bar while they are downloaded."""
    from blurcli import evaluate
    from blurcli.base import console

    with console.progress("downloading statistics (KiB)") as update:
        return evaluate.published_reference(published, features, height, split, _in_units(update, 10))


def _in_units(update: Callable[..., None], shift: int) -> Callable[[int, int], None]:
    """A receiver of bytes for a progress bar in units of 2^shift bytes; a total of 0 is unknown."""
    return lambda done, total: update(done >> shift, (total >> shift) or None)


def score_images(scorer: Scorer, images: ScoredImages, count: int, title: str = "", **labels: str) -> dict[str, Any]:
    """The score of `count` images, with a progress bar; `labels` are further keys of the score."""
    from blurcli.base import console

    with console.progress(title or f"scoring {count:,} images", count) as update:
        return scorer.score(images, update, **labels)


def check_enough(scorer: Scorer, count: int, force: bool) -> None:
    """Refuse fewer images than a covariance of these features needs; with `force`, only warn."""
    from blurcli.base import console

    try:
        scorer.check_enough(count)
    except UsageError as error:
        if not force:
            raise
        console.notify(f"warning: {error.text}")


def evaluations_path(run: Run | None) -> Path:
    """The file of a run's scores; without a run, runs/evaluations.jsonl."""
    from blurcli.base.runs import RUNS

    return run.evaluations_path if run is not None else RUNS / "evaluations.jsonl"
