"""A training from beginning to end: build, run, close."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from blurcli.base import files
from blurcli.base.distributed import SINGLE_PROCESS, DistributedContext
from blurcli.base.errors import UsageError, option
from blurcli.base.runs import Run, other_version
from blurcli.config import Config, differing_keys, flatten, load_run_config, to_yaml
from blurcli.core.moments import DataMoments
from blurcli.core.objectives import OBJECTIVES
from blurcli.data import Batches, Dataset
from blurcli.evaluate.environment import hardware, platform_versions, versions
from blurcli.families import family_of
from blurcli.model.inference import resolve_precision
from blurcli.model.weights import Weights, save_weights
from blurcli.trackers import check_installed
from blurcli.trackers.dispatch import Trackers
from blurcli.training.checkpointing import Checkpointer
from blurcli.training.logging import Metrics, MetricsLogger, RunningMetrics
from blurcli.training.monitoring import DrawPreview, Monitor, Snapshots, training_scorer
from blurcli.training.signals import GracefulShutdown, Interrupted
from blurcli.training.state import newest_state
from blurcli.training.trainer import Trainer


class Reporter(Protocol):
    """Receives what a training reports. The methods do nothing unless they are overridden.

    Attributes:
        draw_preview: draws previews; None for no previews.
    """

    draw_preview: DrawPreview | None

    def notify(self, text: str) -> None:
        """Show a message."""
        return

    def on_step(self, step: int) -> None:
        """Show the number of steps done: called before the first step, and after every step."""
        return

    def on_log(self, metrics: Metrics) -> None:
        """Show the metrics of a log interval."""
        return


class SilentReporter(Reporter):
    """Shows nothing."""

    draw_preview = None


_SILENT = SilentReporter()


def train(
    config: Config,
    run: Run,
    dataset: Dataset,
    device: torch.device,
    reporter: Reporter = _SILENT,
    distributed: DistributedContext = SINGLE_PROCESS,
    teacher: Weights | None = None,
) -> Path:
    """Train to `config.train.steps`, from the run's saved state if there is one.

    Args:
        config: the resolved preset.
        run: the run folder; only the main process uses it.
        dataset: the training images.
        device: where it runs.
        reporter: receives messages and metrics, and draws previews.
        distributed: the processes that train together.
        teacher: for objective consistency, the model to distill; its file is copied into the run folder.

    Returns:
        The final weights file.

    Raises:
        UsageError: the folder holds a run with another configuration, or is not a run; the batch size is not divisible by the
            number of processes; a tracker's package is missing; objective consistency without a teacher, or with images of
            other classes than the teacher's.
        UserError: another process trains there, the training diverged beyond recovery, or a file cannot be written.
        Interrupted: SIGINT or SIGTERM was received; the state was saved.
    """
    if (teacher is None) == OBJECTIVES[config.objective].predicts_endpoint:
        raise UsageError(f"objective {config.objective}: tunes a trained model; use blurdiff distill MODEL")
    if teacher is not None and teacher.classes is not None and teacher.classes.names != tuple(dataset.classes):
        raise UsageError(
            f"{dataset.name}: has the classes {', '.join(dataset.classes)}, and {teacher.name} knows "
            f"{', '.join(teacher.classes.names)}; use images of the same classes"
        )
    if config.train.batch_size % distributed.size:
        raise UsageError(
            f"train.batch_size {config.train.batch_size}: is not divisible by {distributed.size} processes; use a multiple"
        )
    with _deterministic(config.train.deterministic):
        if distributed.is_main:
            return run.weights_path(_lead(config, run, dataset, device, reporter, distributed, teacher))
        return run.weights_path(_follow(config, dataset, device, distributed, teacher))


def _lead(
    config: Config,
    run: Run,
    dataset: Dataset,
    device: torch.device,
    reporter: Reporter,
    distributed: DistributedContext,
    teacher: Weights | None,
) -> int:
    """Train on the main process; returns the last step."""
    notify = reporter.notify
    check_installed(config.train.trackers)
    begun = run.config_path.exists() or run.saved_states()
    if run.path.exists() and not begun and not run.is_empty():
        raise UsageError(f"{run.path}: exists, is not empty and is not a run folder; use another one with {option('run')}")
    with files.locked(run.path, "training", notify):
        files.remove_partial(run.path)
        if run.config_path.exists():
            _check_agreement(load_run_config(run.config_path), config, run)
        scorer = training_scorer(config, dataset, device, notify)
        trainer = _prepare(config, run, dataset, device, distributed, notify, teacher)
        millions = trainer.network.parameter_count() / 1e6
        where = f"{distributed.size} x {device.type}" if distributed.size > 1 else device.type
        notify(f"{millions:.2f} M parameters, {len(dataset.images):,} images ({dataset.name}), on {where}")
        snapshots = Snapshots(dataset)
        duties = _MainDuties(
            Checkpointer(run, dataset.fingerprint, snapshots.save_weights, notify),
            MetricsLogger(run.metrics_path, reporter.on_log, notify),
            Monitor(run, snapshots, scorer, reporter.draw_preview, notify),
            Trackers(config.train.trackers, run, flatten(config), notify),
            reporter.on_step,
        )
        _record_session(run, trainer, dataset, teacher)
        reporter.on_step(trainer.step)
        with _closing(duties.trackers), files.explained(run.metrics_path), GracefulShutdown() as shutdown:
            while True:
                trainer.synchronize()
                duties.begin(trainer)
                stopped = _run_steps(trainer, dataset, shutdown, duties)
                if not trainer.diverged:
                    return _last_step(trainer, stopped)
                duties.checkpointer.restore(trainer)


@contextmanager
def _closing(trackers: Trackers) -> Iterator[None]:
    """End the trackers' runs after the block, with its outcome as the status."""
    try:
        yield
    except Interrupted:
        trackers.end("interrupted")
        raise
    except Exception:
        trackers.end("failed")
        raise
    except BaseException:  # a second signal
        trackers.end("interrupted", wait=False)
        raise
    trackers.end("finished")


def _follow(
    config: Config, dataset: Dataset, device: torch.device, distributed: DistributedContext, teacher: Weights | None
) -> int:
    """Train on a process that is not the main one; returns the last step."""
    unknown = torch.zeros(config.data.channels, *config.data.image_size, dtype=torch.float64)
    moments = DataMoments(unknown, unknown, centered=config.data.centered) if teacher is None else teacher.data.moments
    trainer = Trainer(config, moments, device, distributed, teacher=teacher)
    with GracefulShutdown() as shutdown:
        while True:
            trainer.synchronize()
            stopped = _run_steps(trainer, dataset, shutdown, _Duties())
            if not trainer.diverged:
                return _last_step(trainer, stopped)


class _Duties:
    """What a process does besides the steps; all but the main process have nothing to do."""

    def log(self, running: RunningMetrics, trainer: Trainer) -> None:
        """Log the metrics since the last log."""

    def after_step(self, trainer: Trainer, shutdown: GracefulShutdown) -> None:
        """Report the step; save and run checks where they are due."""

    def save(self, trainer: Trainer) -> None:
        """Save the training."""


@dataclass
class _MainDuties(_Duties):
    """Logs, saves, checks and reports."""

    checkpointer: Checkpointer
    logger: MetricsLogger
    monitor: Monitor
    trackers: Trackers
    on_step: Callable[[int], None]

    def begin(self, trainer: Trainer) -> None:
        """Start from the trainer's step; what a stopped run logged but did not save is dropped."""
        self.logger.begin(trainer.step)
        self.monitor.begin(trainer.step)
        self.checkpointer.begin(trainer)
        self.trackers.rewind(trainer.step)

    def log(self, running: RunningMetrics, trainer: Trainer) -> None:
        self.logger.log(running, trainer, self.trackers)

    def after_step(self, trainer: Trainer, shutdown: GracefulShutdown) -> None:
        self.on_step(trainer.step)
        self.checkpointer.save_if_due(trainer)
        self.monitor.run_if_due(trainer, self.trackers, shutdown)

    def save(self, trainer: Trainer) -> None:
        self.checkpointer.save(trainer)


def _run_steps(trainer: Trainer, dataset: Dataset, shutdown: GracefulShutdown, duties: _Duties) -> int:
    """Train until the last step, divergence, or a signal to any process; returns the signal's number, or 0."""
    settings, distributed, stopped = trainer.config.train, trainer.distributed, 0
    batches = Batches(
        dataset.images,
        settings.batch_size,
        trainer.config.seed,
        trainer.config.data.flip,
        trainer.device,
        distributed.share(settings.batch_size),
        dataset.labels if trainer.config.data.classes is not None else None,
    )
    running = RunningMetrics(trainer)
    while trainer.step < settings.steps and not (stopped := distributed.max(shutdown.signal or 0)):
        running.add(*trainer.train_step(batches(trainer.step), batches.labels(trainer.step)))
        if trainer.step % settings.log_every_steps == 0:
            duties.log(running, trainer)
            if trainer.diverged:
                return 0
        with running.paused():
            duties.after_step(trainer, shutdown)
    if running.steps:
        duties.log(running, trainer)
    if not trainer.diverged:
        duties.save(trainer)
    return stopped


def _last_step(trainer: Trainer, stopped: int) -> int:
    if stopped and trainer.step < trainer.config.train.steps:
        raise Interrupted(stopped, trainer.step)
    return trainer.step


def _prepare(
    config: Config,
    run: Run,
    dataset: Dataset,
    device: torch.device,
    distributed: DistributedContext,
    notify: Callable[[str], None],
    teacher: Weights | None,
) -> Trainer:
    """A trainer for a new run, which creates its folder, or for a run to continue."""
    if run.saved_states():
        state, path = newest_state(run, notify)
        _check_agreement(state.config, config, run)
        if state.data != dataset.fingerprint:
            raise UsageError(
                f"{run.path}: was trained on other images than {dataset.name}; use the same images, or another {option('run')}"
            )
        trainer = Trainer.resume(state, config, path, device, distributed, notify, teacher)
        notify(f"continuing {run.path} from step {trainer.step}")
        if trainer.step >= config.train.steps and run.weights_path(trainer.step).exists():
            raise UsageError(
                f"{run.path}: is already trained ({trainer.step} steps); continue with "
                f"{option('set')} train.steps={2 * trainer.step}"
            )
    elif teacher is not None:
        trainer = Trainer(config, teacher.data.moments, device, distributed, notify, teacher)
        guidance = teacher.config.sample.guidance
        if guidance != config.sample.guidance:
            notify(f"sample.guidance {guidance:g} of {teacher.name} is dropped: sampling uses {config.sample.guidance:g}")
    else:
        notify("measuring the spectrum of the data")
        moments = family_of(config).measure_moments(dataset.images)
        trainer = Trainer(config, moments, device, distributed, notify)
    with files.replacing(run.config_path) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    if teacher is not None:
        notify(f"distilling {teacher.name}")
        if teacher.path != run.teacher_path:
            save_weights(replace(teacher, path=run.teacher_path))
    return trainer


def _record_session(run: Run, trainer: Trainer, dataset: Dataset, teacher: Weights | None) -> None:
    """Append a line to sessions.jsonl: the first step, the machine and the number of images of this session."""
    session = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": trainer.step,
        "images": len(dataset.images),
        "device": trainer.device.type,
        "processes": trainer.distributed.size,
        "hardware": hardware(trainer.device),
        "precision": resolve_precision(trainer.config, trainer.device),
        "versions": versions() | platform_versions(),
    }
    if teacher is not None:
        session["teacher"] = teacher.digest
    files.append_json_line(run.sessions_path, session)


def _check_agreement(old: Config, new: Config, run: Run) -> None:
    if different := differing_keys(old, new):
        raise UsageError(
            f"{run.path}: holds a run with another configuration; use another {option('run')}, continue it as it began with "
            f"{option('run')} alone, or use its values:\n  " + "\n  ".join(different) + other_version(run.version)
        )


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Use deterministic algorithms while the block runs, if wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    if before or not wanted:  # the switch imports the compiler, which takes seconds
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
