"""What the process that leads a training keeps of it: log, saved states and weights, looks at how it does."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blurcli import checkpoint, evaluate, files, fit, render
from blurcli.checkpoint import Classes, Weights
from blurcli.config import Config
from blurcli.core import HeatDissipation
from blurcli.data import Dataset, measure_starts
from blurcli.errors import UserError
from blurcli.model import Model, to_uint8
from blurcli.runs import Run
from blurcli.train import health
from blurcli.train.stops import Stopping, StopSignals
from blurcli.train.trainer import Trainer, learning_rate

_CALIBRATION_IMAGES = 32
_MOST_RESTORES = 3  # without a good save between them
_SPIKE = 3  # times the median of the logged losses before
_RECENT = 20  # logged losses that a spike is told from

Say = Callable[[str], None]


@dataclass(frozen=True)
class Metrics:
    """What a log step reports.

    Attributes:
        step: training steps done, skipped ones included.
        loss: mean over the steps since the last report; None if all of them were skipped.
        grad_norm: of the last step, before clipping; None if it was skipped.
        lr: learning rate of the last step.
        images_per_sec: since the last report.
        skipped: steps so far whose loss or gradient was not finite.
    """

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float
    images_per_sec: float
    skipped: int


class Meter:
    """Sums the losses on the device, which is asked for them, and so waited for, only when they are read."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.skipped_before = int(trainer.skipped)
        self._reset()

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Take in what a step gave."""
        self.steps += 1
        finite = loss.isfinite() & grad_norm.isfinite()
        self._loss += torch.where(finite, loss, 0)
        self._finite += finite
        self._grad_norm = grad_norm

    def read(self) -> Metrics:
        """What came in since it was read last."""
        finite, last = int(self._finite), self._grad_norm.item()
        loss = self._loss.item() / finite if finite else None
        images = self.steps * self._trainer.config.train.batch_size
        rate = images / (time.perf_counter() - self._started)
        lr = learning_rate(self._trainer.config.optim, self._trainer.step - 1)
        grad_norm = last if math.isfinite(last) else None
        self.skipped_before = int(self._trainer.skipped)
        metrics = Metrics(self._trainer.step, loss, grad_norm, lr, rate, self.skipped_before)
        self._reset()
        return metrics

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training."""
        begun = time.perf_counter()
        yield
        self._started += time.perf_counter() - begun

    def _reset(self) -> None:
        self.steps = 0
        self._loss = torch.zeros((), device=self._trainer.device)
        self._finite = torch.zeros((), dtype=torch.int64, device=self._trainer.device)
        self._grad_norm = self._loss
        self._started = time.perf_counter()


class Keeper:
    """Writes into the run folder what a training has come to, and says what a person should know.

    Args:
        run: the folder.
        dataset: the training images.
        judge: scores samples on the way; None for no scores.
        say: gets messages for a person.
        on_log: gets the metrics of every log step.
    """

    def __init__(
        self, run: Run, dataset: Dataset, judge: evaluate.Judge | None, say: Say, on_log: Callable[[Metrics], None]
    ) -> None:
        self._run = run
        self._dataset = dataset
        self._judge = judge
        self._say = say
        self._on_log = on_log
        self._losses: deque[float] = deque(maxlen=_RECENT)
        self._classes: Classes | None = None
        if dataset.labels is not None:
            counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
            self._classes = Classes(dataset.classes, tuple(counts.tolist()))
        self._blurred: Tensor | None = None
        self._saved = 0
        self._restores = 0
        self._diverged_at = 0

    @contextmanager
    def begin(self, trainer: Trainer) -> Iterator[None]:
        """Keep the steps that are made within the block, and forget those that a stopped run logged but did not save."""
        _forget_after(self._run.metrics_path, trainer.step)
        _forget_after(self._run.health_path, trainer.step)
        self._saved = trainer.step
        if trainer.step and not self._run.weights_path(trainer.step).exists():
            self._save_weights(trainer)  # the last run ended between state and weights
        with SummaryWriter(self._run.path, purge_step=trainer.step) as self._board:
            yield

    def report(self, meter: Meter, trainer: Trainer) -> None:
        """A line in the log, and a warning where it is due."""
        steps, skipped_before = meter.steps, meter.skipped_before
        metrics = meter.read()
        self._log(metrics)
        self._on_log(metrics)
        if metrics.loss is not None:
            usual = median(self._losses) if len(self._losses) == _RECENT else math.inf
            if metrics.loss > _SPIKE * usual:
                self._say(f"step {metrics.step}: the loss has jumped to {metrics.loss:.4g}, from a median of {usual:.4g}")
            self._losses.append(metrics.loss)
        if trainer.diverged:
            self._say(f"step {trainer.step}: the last {int(trainer.skipped_in_row)} steps had no finite loss and gradient")
        elif metrics.skipped > skipped_before:
            self._say(
                f"step {trainer.step}: {metrics.skipped - skipped_before} of the last {steps} steps were skipped: "
                "their loss or gradient was not finite"
            )

    def after_step(self, trainer: Trainer, stops: StopSignals) -> None:
        """Save, and look at how the training does, where that is due."""
        # A state in the middle of a row of skipped steps is no good one to come back to.
        if trainer.step % trainer.config.train.save_every_steps == 0 and not trainer.skipped_in_row:
            self.save(trainer)
        looks = [look for look, every in self._looks(trainer.config) if every and trainer.step % every == 0]
        if looks:
            with suppress(Stopping), stops.heeded_by(trainer.network, trainer.average):
                for look in looks:
                    look(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write state and weights, unless those of this step are there."""
        if trainer.step <= self._saved:
            return
        # The state first: after a signal there may be little time, and weights can be made from it.
        run = self._run
        checkpoint.save_state(run.state_path, trainer.state(self._dataset.fingerprint), run.previous_state_path)
        self._save_weights(trainer)
        if trainer.config.train.keep is not None:
            for path in run.all_weights()[: -trainer.config.train.keep]:
                path.unlink(missing_ok=True)
        if trainer.step > self._diverged_at:
            self._restores = 0
        self._saved = trainer.step

    def restore(self, trainer: Trainer) -> None:
        """Take the training back to the last good save, to go on with other random numbers than before.

        Raises:
            UserError: there is none, or going back has not helped.
        """
        advice = "lower optim.lr, raise optim.warmup_steps, or set train.precision to fp32"
        self._diverged_at = max(self._diverged_at, trainer.step)
        saved = self._run.saved_states()
        if not saved or self._restores >= _MOST_RESTORES:
            why = f"{self._restores} restored states did no better" if saved else "no state was saved before"
            raise UserError(
                f"{self._run.path}: the training has diverged, and {why}: begin anew in another folder (--run), and {advice}"
            )
        states = {path: checkpoint.load_state(path) for path in saved}
        good = [path for path, state in states.items() if not state.tensors.get("health.skipped_in_row")] or saved
        # The newest may be finite and yet too far gone.
        path = good[-1] if self._restores else good[0]
        restores = trainer.restores + 1
        trainer.load(states[path], path)
        trainer.restores = restores
        trainer.skipped_in_row.zero_()
        self._restores += 1
        self._say(f"going on from the state of step {trainer.step}, with other noise; if this happens again, {advice}")

    def _log(self, metrics: Metrics) -> None:
        with self._run.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")
        for name, value in asdict(metrics).items():
            if name != "step" and value is not None:
                self._board.add_scalar(name, value, metrics.step)

    def _save_weights(self, trainer: Trainer) -> None:
        network, moments = dict(trainer.average.state_dict()), (trainer.spectrum, trainer.mean)
        gain, path = self._gain(trainer), self._run.weights_path(trainer.step)
        weights = Weights(trainer.config, trainer.step, network, *moments, gain, path, **self._extras(trainer))
        checkpoint.save_weights(weights)

    def _looks(self, config: Config) -> Iterator[tuple[Callable[[Trainer], None], int | None]]:
        """Ways to see how a training does, and after how many steps each."""
        yield self._check_health, config.train.health_every_steps
        yield self._preview, config.train.preview_every_steps
        yield self._score, config.train.score_every_steps

    def _check_health(self, trainer: Trainer) -> None:
        losses = health.measure(trainer, self._dataset)
        health.record(self._run.health_path, losses, self._board)
        if losses.stale:
            self._say(f"step {trainer.step}: {losses.stale}")

    def _preview(self, trainer: Trainer) -> None:
        model = self._averaged(trainer, self._gain(trainer))
        images = torch.cat([to_uint8(x) for x in model.generate(trainer.config.train.preview_images, seed=0)]).numpy()
        render.save_grid(images, self._run.preview_path(trainer.step), scale=2)
        self._board.add_image("samples", render.tile(images), trainer.step, dataformats="HWC")

    def _score(self, trainer: Trainer) -> None:
        """Score samples, always of the same seeds, and say how they did."""
        judge = self._judge
        assert judge is not None
        model = self._averaged(trainer, self._gain(trainer))
        count = trainer.config.train.score_images
        protocol = evaluate.model_protocol(model, trainer.step, count, seed=0, solver=model.solver(None, None, None))
        score = judge.score_model(model, protocol, lambda done: None, name="training")
        evaluate.record(self._run.evaluations_path, score)
        self._board.add_scalar(judge.metric, score[judge.metric], trainer.step)
        self._say(
            f"step {trainer.step}: {judge.metric.upper()} {score[judge.metric]:.4f} ({judge.features.key}, {count:,} images)"
        )

    def _gain(self, trainer: Trainer) -> Tensor | None:
        """What the averaged network's estimates are worth, for the objective whose errors a division by alpha magnifies."""
        if trainer.config.objective != "eps":
            return None
        count = min(_CALIBRATION_IMAGES, len(self._dataset.images))
        return fit.errors(self._averaged(trainer), self._dataset.images, count, trainer.config.seed).gain

    def _starts(self, trainer: Trainer) -> Tensor | None:
        """What heat dissipation starts from; None for other processes."""
        if isinstance(trainer.process, HeatDissipation) and self._blurred is None:
            spectrum, opponent = trainer.learned_moments[0].cpu(), trainer.opponent is not None
            flip = trainer.config.data.flip
            self._blurred = measure_starts(self._dataset.images, flip, trainer.process, spectrum, opponent)
        return self._blurred

    def _averaged(self, trainer: Trainer, gain: Tensor | None = None) -> Model:
        moments = trainer.spectrum, trainer.mean
        return Model(trainer.config, trainer.average, *moments, trainer.device, gain, **self._extras(trainer))

    def _extras(self, trainer: Trainer) -> dict[str, Any]:
        """What some models have besides, and a weights file holds."""
        return {"opponent": trainer.opponent, "starts": self._starts(trainer), "classes": self._classes}


def training_judge(config: Config, dataset: Dataset, device: torch.device, say: Say) -> evaluate.Judge | None:
    """What scores samples against the training images on the way, where the preset wants that."""
    if config.train.score_every_steps is None:
        return None
    say("measuring the training images for scores")
    features = evaluate.load_features(config.train.score_features, config.score.mode, device)
    reference = evaluate.image_reference(dataset, "train", features, lambda done: None)
    judge = evaluate.Judge(features, reference, device)
    judge.check_enough(config.train.score_images, "train.score_images", "or set train.score_every_steps=null")
    return judge


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a stopped run logged but did not save: they will come again."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    with files.replacing(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short by a crash
        return math.inf
