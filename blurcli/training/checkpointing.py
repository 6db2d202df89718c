"""Checkpoints of a training: states for an exact resume, weights, and going back to a good state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blurcli.base import checkpoint, files
from blurcli.base.checkpoint import Tensors
from blurcli.base.errors import UserError, option
from blurcli.base.runs import Run
from blurcli.config import Config, from_json, to_json

if TYPE_CHECKING:
    from blurcli.training.trainer import Trainer

_MAX_RESTORES = 3  # without a good save between them
_ADVICE = "lower optim.lr, raise optim.warmup_steps, or set train.precision to fp32"


@dataclass(frozen=True)
class State:
    """Everything that an exact continuation needs; randomness follows from the seed and the step.

    Attributes:
        config: the resolved preset.
        step: training steps done.
        data: fingerprint of the training images.
        tensors: parameters, their EMA, the moments of Adam and those of the data, by name.
    """

    config: Config
    step: int
    data: str
    tensors: Tensors


def save_state(path: Path, state: State, keep: Path) -> None:
    """Write a training state atomically; the previous file at `path` goes to `keep`."""
    metadata = {"config": to_json(state.config), "step": str(state.step), "data": state.data}
    checkpoint.write(path, "state", state.tensors, metadata, keep)


def load_state(path: Path) -> State:
    """Read a training state.

    Raises:
        UsageError: there is no such file, or it is not a state of blurdiff.
        UserError: it is damaged.
    """
    metadata, tensors = checkpoint.read(path, "state")
    with checkpoint.naming_version(metadata, Run(path.parent)):
        config, step = from_json(metadata["config"], str(path)), checkpoint.read_step(metadata, path)
    return State(config, step, metadata.get("data", ""), tensors)


def newest_state(run: Run, notify: Callable[[str], None]) -> tuple[State, Path]:
    """The newest saved state of a run and its file; the one before it where the newest is damaged.

    Raises:
        UserError: all are damaged, or the newest is somewhere else: a link to a missing file.
    """
    errors = []
    for path in run.saved_states():
        if reason := files.unreadable(path):
            raise UserError(f"{path}: {reason}")
        try:
            state = load_state(path)
        except UserError as error:
            errors.append(error.text)
            continue
        if errors:
            notify(f"{errors[0]}; continuing from the state before it")
            # Otherwise the next save would replace the good state by the damaged one.
            with files.explained(run.state_path):
                run.state_path.replace(run.damaged_state_path)
        return state, path
    raise UserError("; ".join(errors) + f"; start again in another folder ({option('run')})")


class Checkpointer:
    """Saves states and weights of a training into its run folder, and restores a good state after divergence.

    Args:
        run: the folder.
        fingerprint: of the training images.
        save_weights: writes the weights of a trainer to a path.
        notify: receives messages.
    """

    def __init__(
        self, run: Run, fingerprint: str, save_weights: Callable[[Trainer, Path], None], notify: Callable[[str], None]
    ) -> None:
        self._run = run
        self._fingerprint = fingerprint
        self._save_weights = save_weights
        self._notify = notify
        self._saved_step = 0
        self._restores = 0
        self._diverged_at = 0

    def begin(self, trainer: Trainer) -> None:
        """Start from the trainer's state, which is saved; write its weights where a stopped run did not."""
        self._saved_step = trainer.step
        path = self._run.weights_path(trainer.step)
        if trainer.step and not path.exists():
            self._save_weights(trainer, path)

    def save_if_due(self, trainer: Trainer) -> None:
        """Save at the interval of the preset."""
        # A state within a series of skipped steps is not a good one to return to.
        if trainer.step % trainer.config.train.save_every_steps == 0 and not trainer.consecutive_skips:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write state and weights, unless this step is saved."""
        if trainer.step <= self._saved_step:
            return
        # The state first: after a signal there may be little time, and weights can be made from it.
        save_state(self._run.state_path, trainer.state(self._fingerprint), self._run.previous_state_path)
        self._save_weights(trainer, self._run.weights_path(trainer.step))
        if trainer.config.train.keep is not None:
            for path in self._run.all_weights()[: -trainer.config.train.keep]:
                path.unlink(missing_ok=True)
        if trainer.step > self._diverged_at:
            self._restores = 0
        self._saved_step = trainer.step

    def restore(self, trainer: Trainer) -> None:
        """Return the training to the last good state, to continue with other random numbers.

        Raises:
            UserError: there is none, or restoring has not helped.
        """
        self._diverged_at = max(self._diverged_at, trainer.step)
        saved = self._run.saved_states()
        if not saved or self._restores >= _MAX_RESTORES:
            why = f"{self._restores} restored states diverged too" if saved else "no state was saved before"
            raise UserError(
                f"{self._run.path}: the training diverged, and {why}: start again with another {option('run')}, and {_ADVICE}"
            )
        states = {path: load_state(path) for path in saved}
        good = [path for path, state in states.items() if not state.tensors.get("health.skipped_in_row")] or saved
        # The newest may be finite and yet beyond recovery.
        path = good[-1] if self._restores else good[0]
        restores = trainer.restores + 1
        trainer.load(states[path], path)
        trainer.restores = restores
        trainer.consecutive_skips.zero_()
        self._restores += 1
        self._notify(f"continuing from the state of step {trainer.step} with other noise; if this happens again, {_ADVICE}")
