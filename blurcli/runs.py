"""Run folders: their files, and the newest run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blurcli import files
from blurcli.errors import UsageError, option

RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """The folder of one training.

    Attributes:
        path: the folder.
    """

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
        """The state before the last save, in case the newest is damaged."""
        return self.path / "state.previous.safetensors"

    @property
    def damaged_state_path(self) -> Path:
        """Where an unreadable state is moved."""
        return self.path / "state.damaged.safetensors"

    @property
    def distilled(self) -> Run:
        """The run in which the model of this one is distilled unless another is named; itself if it is a distillation."""
        if self.teacher_path.exists():
            return self
        path = self.path if self.path.name not in ("", "..") else self.path.resolve()
        return Run(path.with_name(path.name + "-distilled"))

    def saved_states(self) -> list[Path]:
        """The existing state files, the newest first."""
        return [path for path in (self.state_path, self.previous_state_path) if path.exists()]

    @property
    def teacher_path(self) -> Path:
        """In the run of a distilled model: the weights that it is tuned from."""
        return self.path / "teacher.safetensors"

    @property
    def sessions_path(self) -> Path:
        """One JSON line per start of the training: machine, versions and number of images."""
        return self.path / "sessions.jsonl"

    @property
    def metrics_path(self) -> Path:
        """One JSON line per log interval."""
        return self.path / "metrics.jsonl"

    @property
    def health_path(self) -> Path:
        """One JSON line per measurement of the loss by time and frequency band."""
        return self.path / "health.jsonl"

    @property
    def evaluations_path(self) -> Path:
        """One JSON line per score."""
        return self.path / "evaluations.jsonl"

    @property
    def trackers_path(self) -> Path:
        """A folder with the identity of the run in each experiment tracker, and what trackers print and store."""
        return self.path / "trackers"

    def weights_path(self, step: int) -> Path:
        """EMA weights after `step` steps."""
        return self.path / "weights" / f"step-{step:08d}.safetensors"

    def preview_path(self, step: int) -> Path:
        """The grid of samples after `step` steps."""
        return self.path / "samples" / f"step-{step:08d}.png"

    def all_weights(self) -> list[Path]:
        """The weights files by their steps, the last ones last."""
        return sorted((self.path / "weights").glob("step-*.safetensors"))

    def newest_weights(self) -> Path:
        """The weights after the most steps; UsageError where there are none."""
        found = self.all_weights()
        if not found:
            reason = "has no weights yet" if self.path.is_dir() else "no such run folder"
            command = f"blurdiff train {option('run')} {self.path} {option('preset')} NAME"
            raise UsageError(f"{self.path}: {reason}; train it with: {command}")
        return found[-1]

    def newest_step(self) -> int:
        """The number of steps after which the newest weights were saved; 0 where there are none."""
        found = self.all_weights()
        return int(found[-1].stem.removeprefix("step-")) if found else 0

    def is_empty(self) -> bool:
        """Whether the folder exists and holds nothing but what a training leaves that was stopped before it began."""
        return self.path.is_dir() and files.is_empty(self.path)


def newest_run() -> Run | None:
    """The run below `runs/` with the newest weights; None where there is none."""
    times = {path.parent.parent: path.stat().st_mtime for path in sorted(RUNS.glob("*/weights/step-*.safetensors"), key=_age)}
    return Run(max(times, key=lambda run: times[run])) if times else None


def _age(path: Path) -> float:
    return path.stat().st_mtime
