"""The loop around a training step, and how a training begins, goes on and ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from blurcli import checkpoint, files
from blurcli.checkpoint import State
from blurcli.config import Config, differing_keys, to_yaml
from blurcli.data import Batches, Dataset, measure_moments
from blurcli.distributed import ALONE, Team
from blurcli.errors import UsageError, UserError
from blurcli.runs import Run
from blurcli.train.keeper import Keeper, Meter, Metrics, Say, training_judge
from blurcli.train.stops import Interrupted, StopSignals
from blurcli.train.trainer import Trainer


def train(
    config: Config,
    run: Run,
    dataset: Dataset,
    device: torch.device,
    say: Say = lambda text: None,
    on_log: Callable[[Metrics], None] = lambda metrics: None,
    team: Team = ALONE,
) -> Path:
    """Train to `config.train.steps`, from the run's saved state where there is one; returns the final weights file.

    Args:
        say: gets messages for a person.
        on_log: gets the metrics of every log step.
        team: the processes that train together; the first one alone has to do with the run folder.

    Raises:
        UsageError: the folder holds a run that learns something else, or is no run; a batch that cannot be shared evenly.
        UserError: somebody else trains there, the training diverged for good, or a file cannot be written.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    if config.train.batch_size % team.size:
        raise UsageError(
            f"train.batch_size {config.train.batch_size}: cannot be shared evenly by {team.size} processes; choose a multiple"
        )
    with _deterministic(config.train.deterministic):
        if not team.leads:
            return run.weights_path(_follow(config, dataset, device, team))
        begun = run.config_path.exists() or run.saved_states()
        if run.path.exists() and not begun and not run.is_empty():
            raise UsageError(f"{run.path}: is no run folder, and not empty; name another one with --run")
        with run.locked(say):
            files.remove_partial(run.path)
            if run.config_path.exists():
                _check_agreement(run.config(), config, run)
            judge = training_judge(config, dataset, device, say)
            trainer = _prepare(config, run, dataset, device, team, say)
            millions = trainer.network.parameter_count() / 1e6
            where = f"{team.size} x {device.type}" if team.size > 1 else device.type
            say(f"{millions:.2f} M parameters, {len(dataset.images):,} images ({dataset.name}), on {where}")
            keeper = Keeper(run, dataset, judge, say, on_log)
            with files.explained(run.metrics_path), StopSignals() as stops:
                while True:
                    trainer.follow()
                    with keeper.begin(trainer):
                        stopped = _steps(trainer, dataset, stops, keeper)
                    if not trainer.diverged:
                        break
                    keeper.restore(trainer)
    return run.weights_path(_end(trainer, stopped))


def _follow(config: Config, dataset: Dataset, device: torch.device, team: Team) -> int:
    """Train along with the process that leads; returns the last step, or raises Interrupted."""
    unknown = torch.zeros(config.data.channels, *config.data.image_size, dtype=torch.float64)
    trainer = Trainer(config, unknown, unknown, device, team)
    with StopSignals() as stops:
        while True:
            trainer.follow()
            stopped = _steps(trainer, dataset, stops, None)
            if not trainer.diverged:
                return _end(trainer, stopped)


def _steps(trainer: Trainer, dataset: Dataset, stops: StopSignals, keeper: Keeper | None) -> int:
    """Train until the last step, until the training has diverged, or until a signal comes to any process: its number, or 0."""
    settings, team, stopped = trainer.config.train, trainer.team, 0
    batches = Batches(
        dataset.images,
        settings.batch_size,
        trainer.config.seed,
        trainer.config.data.flip,
        trainer.device,
        team.share(settings.batch_size),
        dataset.labels if trainer.config.data.classes is not None else None,
    )
    meter = Meter(trainer)
    while trainer.step < settings.steps and not (stopped := team.most(stops.number or 0)):
        meter.add(*trainer.train_step(batches(trainer.step), batches.labels(trainer.step)))
        if trainer.step % settings.log_every_steps == 0:
            if keeper is not None:
                keeper.report(meter, trainer)
            if trainer.diverged:
                return 0
        if keeper is not None:
            with meter.paused():
                keeper.after_step(trainer, stops)
    if keeper is not None:
        if meter.steps:
            keeper.report(meter, trainer)
        if not trainer.diverged:
            keeper.save(trainer)
    return stopped


def _end(trainer: Trainer, stopped: int) -> int:
    if stopped and trainer.step < trainer.config.train.steps:
        raise Interrupted(stopped, trainer.step)
    return trainer.step


def _prepare(config: Config, run: Run, dataset: Dataset, device: torch.device, team: Team, say: Say) -> Trainer:
    """A trainer for a new run, whose folder is begun, or for one that goes on."""
    if run.saved_states():
        state, path = _newest_state(run, say)
        _check_agreement(state.config, config, run)
        if state.data != dataset.fingerprint:
            raise UsageError(
                f"{run.path}: was trained on other images than {dataset.name}; give the same ones, or another --run"
            )
        trainer = Trainer.resume(state, config, path, device, team, say)
        say(f"continuing {run.path} from step {trainer.step}")
        if trainer.step >= config.train.steps and run.weights_path(trainer.step).exists():
            raise UsageError(
                f"{run.path}: is trained already ({trainer.step} steps); to go on: --set train.steps={2 * trainer.step}"
            )
    else:
        say("measuring the spectrum of the data")
        spectrum, mean, opponent = measure_moments(dataset.images, config.data.flip)
        coloured = config.objective == "spectral" and config.data.channels > 1
        trainer = Trainer(config, spectrum, mean, device, team, say, opponent if coloured else None)
    with files.replacing(run.config_path) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    return trainer


def _newest_state(run: Run, say: Say) -> tuple[State, Path]:
    """The newer of the two saved states and its file, or the one before it where that is damaged."""
    errors = []
    for path in run.saved_states():
        try:
            state = checkpoint.load_state(path)
        except UserError as error:
            errors.append(str(error))
            continue
        if errors:
            say(f"{errors[0]}; going on from the state before it")
            # Or the next save would put the damaged one in the place of the good one.
            with files.explained(run.state_path):
                run.state_path.replace(run.damaged_state_path)
        return state, path
    raise UserError("; ".join(errors) + "; begin anew in another folder (--run)")


def _check_agreement(old: Config, new: Config, run: Run) -> None:
    if different := differing_keys(old, new):
        raise UsageError(
            f"{run.path}: holds a run with another configuration; name another folder with --run, or use its values:\n  "
            + "\n  ".join(different)
        )


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms while the block runs, where they are wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
