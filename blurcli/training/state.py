"""The saved state of a training, from which it resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blurcli.base import checkpoint, files
from blurcli.base.checkpoint import Tensors
from blurcli.base.errors import UserError, option
from blurcli.base.runs import Run
from blurcli.config import Config, from_json, to_json


@dataclass(frozen=True)
class TrainingState:
    """Everything needed for an exact resume; all random numbers follow from the seed and the step.

    Attributes:
        config: the resolved preset.
        step: training steps done.
        data: fingerprint of the training images.
        tensors: parameters, their EMA, the state of the optimizer and the moments of the data, by name.
    """

    config: Config
    step: int
    data: str
    tensors: Tensors


def save_state(path: Path, state: TrainingState, keep: Path) -> None:
    """Write a training state atomically; the previous file at `path` goes to `keep`."""
    metadata = {"config": to_json(state.config), "step": str(state.step), "data": state.data}
    checkpoint.write(path, "state", state.tensors, metadata, keep)


def load_state(path: Path) -> TrainingState:
    """Read a training state.

    Raises:
        UsageError: there is no such file, or it is not a state of blurdiff.
        UserError: it is damaged.
    """
    metadata, tensors = checkpoint.read(path, "state")
    with checkpoint.naming_version(metadata, Run(path.parent)):
        config, step = from_json(metadata["config"], str(path)), checkpoint.read_step(metadata, path)
    return TrainingState(config, step, metadata.get("data", ""), tensors)


def newest_state(run: Run, notify: Callable[[str], None]) -> tuple[TrainingState, Path]:
    """The newest saved state of a run and its file; the previous state if the newest is damaged.

    Raises:
        UserError: all are damaged, or the newest is a link to a missing file.
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
            # Otherwise the next save would replace the good state with the damaged one.
            with files.explained(run.state_path):
                run.state_path.replace(run.damaged_state_path)
        return state, path
    raise UserError("; ".join(errors) + f"; start again in another folder ({option('run')})")
