"""Metrics of a training: metrics.jsonl, trackers, and warnings about the loss."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from blurcli.base import files
from blurcli.trackers.dispatch import Trackers
from blurcli.training.trainer import Trainer, learning_rate

_SPIKE = 3  # times the median of the recent losses
_RECENT_LOSSES = 20


@dataclass(frozen=True)
class Metrics:
    """The metrics of one log interval.

    Attributes:
        step: training steps done, skipped ones included.
        loss: mean over the steps since the last log; None if all of them were skipped.
        grad_norm: of the last step, before clipping; None if it was skipped.
        lr: learning rate of the last step.
        images_per_sec: since the last log.
        skipped: steps so far without a finite loss and gradient.
    """

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float
    images_per_sec: float
    skipped: int


class RunningMetrics:
    """Running sums of the metrics, on the device; only `read` waits for the device."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.skipped_before = int(trainer.skipped)
        self._reset()

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Add the result of one step."""
        self.steps += 1
        finite = loss.isfinite() & grad_norm.isfinite()
        self._loss += torch.where(finite, loss, 0)
        self._finite += finite
        self._grad_norm = grad_norm

    def read(self) -> Metrics:
        """The metrics since the last read."""
        finite, last = int(self._finite), self._grad_norm.item()
        loss = self._loss.item() / finite if finite else None
        images = self.steps * self._trainer.config.train.batch_size
        rate = images / (time.perf_counter() - self._started)
        lr = learning_rate(self._trainer.config, self._trainer.step - 1)
        grad_norm = last if math.isfinite(last) else None
        self.skipped_before = int(self._trainer.skipped)
        metrics = Metrics(self._trainer.step, loss, grad_norm, lr, rate, self.skipped_before)
        self._reset()
        return metrics

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the block from the time of training."""
        begun = time.perf_counter()
        yield
        self._started += time.perf_counter() - begun

    def _reset(self) -> None:
        self.steps = 0
        self._loss = torch.zeros((), device=self._trainer.device)
        self._finite = torch.zeros((), dtype=torch.int64, device=self._trainer.device)
        self._grad_norm = self._loss
        self._started = time.perf_counter()


class MetricsLogger:
    """Writes metrics to metrics.jsonl and the trackers, and warns of spikes, skipped steps and divergence.

    Args:
        path: metrics.jsonl.
        on_log: receives the metrics of every log interval.
        notify: receives warnings.
    """

    def __init__(self, path: Path, on_log: Callable[[Metrics], None], notify: Callable[[str], None]) -> None:
        self._path = path
        self._on_log = on_log
        self._notify = notify
        self._losses: deque[float] = deque(maxlen=_RECENT_LOSSES)

    def begin(self, step: int) -> None:
        """Start from `step`: drop the lines that a stopped run logged but did not save."""
        truncate_after(self._path, step, self._notify)

    def log(self, running: RunningMetrics, trainer: Trainer, trackers: Trackers) -> None:
        """Write the metrics since the last log."""
        steps, skipped_before = running.steps, running.skipped_before
        metrics = running.read()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")
        values = {name: value for name, value in asdict(metrics).items() if name != "step" and value is not None}
        trackers.metrics(metrics.step, values)
        self._on_log(metrics)
        if metrics.loss is not None:
            self._warn_of_spike(metrics.step, metrics.loss)
        if trainer.diverged:
            skips = int(trainer.consecutive_skips)
            self._notify(f"step {trainer.step}: the last {skips} steps had no finite loss and gradient")
        elif metrics.skipped > skipped_before:
            skips = metrics.skipped - skipped_before
            self._notify(
                f"step {trainer.step}: {skips} of the last {steps} steps were skipped: their loss or gradient was not finite"
            )

    def _warn_of_spike(self, step: int, loss: float) -> None:
        usual = median(self._losses) if len(self._losses) == _RECENT_LOSSES else math.inf
        if loss > _SPIKE * usual:
            self._notify(f"step {step}: the loss jumped to {loss:.4g}, from a median of {usual:.4g}")
        self._losses.append(loss)


def truncate_after(path: Path, step: int, notify: Callable[[str], None]) -> None:
    """Drop the lines of a JSON-lines file after a step: a stopped run logged but did not save them, and will repeat them.

    Lines damaged by a crash are dropped as well, and reported; all others are kept unchanged.
    """
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except FileNotFoundError:
        return
    steps = list(map(_step_of, lines))
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line, own in zip(lines, steps, strict=True) if own <= step))
    if damaged := sum(map(math.isnan, steps)):
        notify(f"{path}: dropped {damaged} of {len(lines)} lines, which cannot be read")


def _step_of(line: bytes) -> float:
    """The step of a line; NaN if it cannot be read."""
    try:
        return float(json.loads(line.decode("utf-8"))["step"])
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        return math.nan
