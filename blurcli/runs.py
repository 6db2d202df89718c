"""Run folders: what lies where, and which run or weights file a command means."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blurcli import files
from blurcli.config import Config, load_config
from blurcli.errors import UsageError, UserError

RUNS = Path("runs")
_LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """The folder of one training."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The resolved preset, written before step 0."""
        return self.path / "config.yaml"

    @property
    def state_path(self) -> Path:
        """Everything for an exact continuation."""
        return self.path / "state.safetensors"

    @property
    def previous_state_path(self) -> Path:
        """What was at `state_path` before the last save: for when that file is damaged."""
        return self.path / "state.previous.safetensors"

    @property
    def damaged_state_path(self) -> Path:
        """Where a state goes that could not be read."""
        return self.path / "state.damaged.safetensors"

    def saved_states(self) -> list[Path]:
        """Those of the two that are there, the newer first."""
        return [path for path in (self.state_path, self.previous_state_path) if path.exists()]

    @property
    def metrics_path(self) -> Path:
        """One JSON line a log step."""
        return self.path / "metrics.jsonl"

    @property
    def health_path(self) -> Path:
        """One JSON line a look at the loss by time and frequency band."""
        return self.path / "health.jsonl"

    @property
    def evaluations_path(self) -> Path:
        """One JSON line a score."""
        return self.path / "evaluations.jsonl"

    def weights_path(self, step: int) -> Path:
        """EMA weights after `step` steps."""
        return self.path / "weights" / f"step-{step:08d}.safetensors"

    def preview_path(self, step: int) -> Path:
        """The grid of samples after `step` steps."""
        return self.path / "samples" / f"step-{step:08d}.png"

    def all_weights(self) -> list[Path]:
        """The weights files, those of the most steps last."""
        return sorted((self.path / "weights").glob("step-*.safetensors"))

    def newest_weights(self) -> Path:
        """The weights of the most steps; UsageError when there are none."""
        found = self.all_weights()
        if not found:
            reason = "has no weights yet" if self.path.is_dir() else "no such run folder"
            raise UsageError(f"{self.path}: {reason}; train it with: blurdiff train --run {self.path} --preset NAME")
        return found[-1]

    def is_empty(self) -> bool:
        """Whether the folder holds nothing but what a training leaves there that ended before it began."""
        return self.path.is_dir() and all(child.name.startswith((_LOCK, files.PARTIAL)) for child in self.path.iterdir())

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keeps other trainings out of the folder, which is made where it is missing.

        The lock is the system's, and ends with the process however that ends.

        Args:
            say: gets a warning where the file system knows no locks.

        Raises:
            UserError: another process has the lock, or the folder cannot be written.
        """
        with files.explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / _LOCK).open("a+", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                raise UserError(f"{self.path}: {holder} trains here already; wait for it, or name another folder") from None
            except OSError as error:
                say(f"warning: {self.path}: cannot be locked ({error.strerror}); see that nothing else trains there")
            with files.explained(self.path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            yield

    def config(self) -> Config:
        """The resolved preset of the run; UsageError where there is none."""
        if not self.config_path.is_file():
            raise UsageError(f"{self.path}: no such run folder (it would hold a {self.config_path.name})")
        return load_config(str(self.config_path.resolve()))


def newest_run() -> Run | None:
    """The run below `runs/` whose weights are the newest; None when there is none."""
    times = {path.parent.parent: path.stat().st_mtime for path in sorted(RUNS.glob("*/weights/step-*.safetensors"), key=_age)}
    return Run(max(times, key=lambda run: times[run])) if times else None


def _age(path: Path) -> float:
    return path.stat().st_mtime
