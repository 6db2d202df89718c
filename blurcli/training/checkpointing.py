"""When a training saves its state and weights, and how it returns to a good state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blurcli.base.errors import DivergedError, option
from blurcli.base.runs import Run
from blurcli.training.state import load_state, save_state
from blurcli.training.trainer import Trainer

_MAX_RESTORES = 3  # without a good save between them
_ADVICE = "lower optim.lr, raise optim.warmup_steps, or set train.precision to fp32"


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
        """Start from the trainer's state, which is saved; write its weights if a stopped run did not."""
        self._saved_step = trainer.step
        path = self._run.weights_path(trainer.step)
        if trainer.step and not path.exists():
            self._save_weights(trainer, path)

    def save_if_due(self, trainer: Trainer) -> None:
        """Save at the interval of the preset."""
        # A state within a series of skipped steps is not a good state to return to.
        if trainer.step % trainer.config.train.save_every_steps == 0 and not trainer.consecutive_skips:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write state and weights, unless this step is already saved."""
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
            DivergedError: there is no good state, or restoring has not helped.
        """
        self._diverged_at = max(self._diverged_at, trainer.step)
        saved = self._run.saved_states()
        if not saved or self._restores >= _MAX_RESTORES:
            why = f"{self._restores} restored states diverged too" if saved else "no state was saved before"
            raise DivergedError(
                f"{self._run.path}: the training diverged, and {why}: start again with another {option('run')}, and {_ADVICE}"
            )
        states = {path: load_state(path) for path in saved}
        good = [path for path, state in states.items() if not state.tensors.get("health.skipped_in_row")] or saved
        # The newest state may be finite and still beyond recovery.
        path = good[-1] if self._restores else good[0]
        restores = trainer.restores + 1
        trainer.load(states[path], path)
        trainer.restores = restores
        trainer.consecutive_skips.zero_()
        self._restores += 1
        self._notify(f"continuing from the state of step {trainer.step} with other noise; if this happens again, {_ADVICE}")
