"""Monitoring of a training: losses by time and frequency band, previews, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blurcli import evaluate
from blurcli.base import files
from blurcli.base.runs import Run
from blurcli.config import Config, TrainConfig
from blurcli.core import UNet
from blurcli.core.bands import band_names, frequency_bands
from blurcli.data import Dataset
from blurcli.data.outputs import mark
from blurcli.evaluate.denoising import MeasuredImages, denoising_errors
from blurcli.families import ModelData
from blurcli.model.inference import evaluation_mode
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.model.weights import Classes, Weights, save_weights
from blurcli.trackers.dispatch import Trackers
from blurcli.training.logging import truncate_after
from blurcli.training.signals import GracefulShutdown, Stopping
from blurcli.training.trainer import Trainer

HEALTH_IMAGES = 32
HEALTH_TIMES = 9
_HEALTH_POINTS = 8  # measurements of a training, by default
_HEALTH_STEPS = (100, 1000)  # smallest and largest interval: a measurement takes about as long as six steps
_CALIBRATION_IMAGES = 32
_PREVIEW_SCALE = 2
# Ratio to the network's loss. EMAs that keep up had 0.93 to 1.00 on shapes, an EMA frozen at its start 1.03.
_STALE_EMA = 1.02

DrawPreview = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Images (N, C, H, W) uint8 to one picture (height, width, C) uint8."""


class Snapshots:
    """Pipelines of a training's networks, and its weights files.

    Args:
        dataset: the training images.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._extras: dict[str, Tensor] | None = None
        self._classes: Classes | None = None
        self._newest: tuple[int, Pipeline | None] = (-1, None)
        if dataset.labels is not None:
            counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
            self._classes = Classes(dataset.classes, tuple(counts.tolist()))

    def ema_pipeline(self, trainer: Trainer) -> Pipeline:
        """The EMA of the network as a pipeline, calibrated if the objective is; one for all that is due in a step."""
        step, pipeline = self._newest
        if pipeline is None or step != trainer.step:
            data = self._data(trainer, self._gain(trainer))
            pipeline = Pipeline(trainer.config, trainer.ema, data, trainer.device, self._classes)
            self._newest = trainer.step, pipeline
        return pipeline

    def save_weights(self, trainer: Trainer, path: Path) -> None:
        """Write the EMA of the network and everything needed for sampling."""
        network, data = dict(trainer.ema.state_dict()), self.ema_pipeline(trainer).model.data
        save_weights(Weights(trainer.config, trainer.step, network, data, path, self._classes))

    def losses(self, trainer: Trainer, network: UNet) -> tuple[Tensor, Tensor]:
        """Losses of one of the trainer's networks, on the same images and noise at every step; see `TrainingLoss.by_band`."""
        times, by_band = trainer.loss.by_band(*self._measured(trainer, network, HEALTH_IMAGES), HEALTH_TIMES)
        return times.cpu(), by_band.cpu()

    def _data(self, trainer: Trainer, gain: Tensor | None) -> ModelData:
        if self._extras is None:
            self._extras = trainer.family.measure_extras(self._dataset.images, trainer.moments)
        return ModelData(trainer.moments, gain, self._extras)

    def _gain(self, trainer: Trainer) -> Tensor | None:
        """The gain of the EMA's estimates, for objectives that amplify errors by a division by alpha."""
        if not trainer.family.objective.calibrated:
            return None
        return denoising_errors(*self._measured(trainer, trainer.ema, _CALIBRATION_IMAGES)).gain

    def _measured(self, trainer: Trainer, network: UNet, most: int) -> tuple[Pipeline, MeasuredImages]:
        """One of the trainer's networks, uncalibrated, and at most so many training images with their classes."""
        pipeline = Pipeline(trainer.config, network, ModelData(trainer.moments), trainer.device, self._classes)
        images, labels = self._dataset.images, self._dataset.labels
        return pipeline, MeasuredImages(images, min(most, len(images)), trainer.config.seed, labels)


@dataclass(frozen=True)
class Health:
    """Losses by time and frequency band, of the network and of its EMA, on the same images and noise.

    Attributes:
        step: training steps done.
        times: (T,) in [0, 1].
        bands: frequency bands named by their wavelengths.
        network: losses of the network, (T, bands).
        ema: losses of its EMA, likewise.
    """

    step: int
    times: list[float]
    bands: list[str]
    network: Tensor
    ema: Tensor

    @classmethod
    def measure(cls, trainer: Trainer, snapshots: Snapshots) -> Health:
        """Measure both networks of a trainer, without dropout."""
        with evaluation_mode(trainer.network):
            times, network = snapshots.losses(trainer, trainer.network)
        _, ema = snapshots.losses(trainer, trainer.ema)
        bands = band_names(frequency_bands(*trainer.family.process.shape, 1)[1])
        return cls(trainer.step, times.tolist(), bands, network, ema)

    @property
    def warning(self) -> str:
        """A warning if the EMA does not keep up with the network; else an empty string."""
        network, ema = float(self.network.mean()), float(self.ema.mean())
        if ema <= _STALE_EMA * network:
            return ""
        return f"the loss of the EMA is {ema / network:.3g} times the loss of the network: lower optim.ema_decay"

    @property
    def record(self) -> dict[str, Any]:
        """One line of health.jsonl."""
        tables = {"loss": self.network.tolist(), "average_loss": self.ema.tolist()}
        return {"step": self.step, "times": self.times, "bands": self.bands, **tables}


class Monitor:
    """Checks a training at the intervals of its preset: health, previews, scores.

    Args:
        run: the folder.
        snapshots: pipelines of the networks.
        scorer: scores samples; None for no scores.
        draw_preview: draws previews; None for no previews.
        notify: receives messages.
    """

    def __init__(
        self,
        run: Run,
        snapshots: Snapshots,
        scorer: evaluate.Scorer | None,
        draw_preview: DrawPreview | None,
        notify: Callable[[str], None],
    ) -> None:
        self._run = run
        self._snapshots = snapshots
        self._scorer = scorer
        self._draw_preview = draw_preview
        self._notify = notify

    def begin(self, step: int) -> None:
        """Start from `step`: drop the lines of health.jsonl that a stopped run wrote but did not save."""
        truncate_after(self._run.health_path, step, self._notify)

    def run_if_due(self, trainer: Trainer, trackers: Trackers, shutdown: GracefulShutdown) -> None:
        """Run the checks that are due; a signal stops them."""
        last = trainer.step == trainer.config.train.steps
        due = [
            check
            for check, every in self._checks(trainer.config)
            if every and (trainer.step % every == 0 or (last and check in (self._check_health, self._preview)))
        ]
        if due:
            with suppress(Stopping), shutdown.interrupts(trainer.network, trainer.ema):
                for check in due:
                    check(trainer, trackers)

    def _checks(self, config: Config) -> Iterator[tuple[Callable[[Trainer, Trackers], None], int | None]]:
        """The checks, and their intervals in steps."""
        yield self._check_health, health_interval(config.train)
        if self._draw_preview is not None:
            yield self._preview, config.train.preview_every_steps
        yield self._score, config.train.score_every_steps

    def _check_health(self, trainer: Trainer, trackers: Trackers) -> None:
        health = Health.measure(trainer, self._snapshots)
        with self._run.health_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(health.record) + "\n")
        by_time = zip(health.times, health.network.mean(1).tolist(), strict=True)
        by_band = zip(health.bands, health.network.mean(0).tolist(), strict=True)
        values = {f"loss_by_time/{t:g}": loss for t, loss in by_time} | {f"loss_by_band/{band}": loss for band, loss in by_band}
        trackers.metrics(health.step, values)
        if health.warning:
            self._notify(f"step {trainer.step}: {health.warning}")

    def _preview(self, trainer: Trainer, trackers: Trackers) -> None:
        assert self._draw_preview is not None
        pipeline = self._snapshots.ema_pipeline(trainer)
        images = torch.cat([to_uint8(x) for x in pipeline.generate(trainer.config.train.preview_images, seed=0)])
        picture = self._draw_preview(images.numpy())
        trackers.image(trainer.step, "samples", picture)
        image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        size = image.width * _PREVIEW_SCALE, image.height * _PREVIEW_SCALE
        with files.replacing(self._run.preview_path(trainer.step)) as temporary:
            image.resize(size, Image.Resampling.NEAREST).save(temporary, format="PNG", **mark("PNG"))

    def _score(self, trainer: Trainer, trackers: Trackers) -> None:
        """Score samples, always of the same seeds."""
        scorer = self._scorer
        assert scorer is not None
        pipeline, count = self._snapshots.ema_pipeline(trainer), trainer.config.train.score_images
        images = evaluate.ModelImages(pipeline, trainer.step, count, seed=0, sampling=pipeline.sampling())
        score = scorer.score(images, lambda done: None, name="training")
        evaluate.record(self._run.evaluations_path, score)
        trackers.metrics(trainer.step, {scorer.metric: score[scorer.metric]})
        metric = f"{scorer.metric.upper()} {score[scorer.metric]:.4f}"
        self._notify(f"step {trainer.step}: {metric} ({scorer.features.key}, {count:,} images)")


def health_interval(train: TrainConfig) -> int | None:
    """Steps between two measurements of health; None for none. Trainings of minutes get a curve as well."""
    least, most = _HEALTH_STEPS
    every = train.health_every_steps
    return max(least, min(most, math.ceil(train.steps / _HEALTH_POINTS))) if every == "auto" else every


def training_scorer(
    config: Config, dataset: Dataset, device: torch.device, notify: Callable[[str], None]
) -> evaluate.Scorer | None:
    """A scorer against the training images, if the preset requests scores during training; else None."""
    if config.train.score_every_steps is None:
        return None
    notify("measuring the training images for scores")
    features = evaluate.load_features(config.train.score_features, config.score.mode, device)
    reference = evaluate.image_reference(dataset, "train", features, lambda done: None)
    scorer = evaluate.Scorer(features, reference, device)
    scorer.check_enough(config.train.score_images, "train.score_images", "or set train.score_every_steps=null")
    return scorer
