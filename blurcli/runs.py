"""Run folders: what lies where, and which run or weights file a command means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blurcli.config import Config, load_config
from blurcli.errors import UsageError

RUNS = Path("runs")


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
    def metrics_path(self) -> Path:
        """One JSON line a log step."""
        return self.path / "metrics.jsonl"

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

    def newest_weights(self) -> Path:
        """The weights of the most steps; UsageError when there are none."""
        found = sorted((self.path / "weights").glob("step-*.safetensors"))
        if not found:
            reason = "has no weights yet" if self.path.is_dir() else "no such run folder"
            raise UsageError(f"{self.path}: {reason}; train it with: blurdiff train --run {self.path} --preset NAME")
        return found[-1]

    def config(self) -> Config:
        """The resolved preset of the run."""
        return load_config(str(self.config_path.resolve()))


def newest_run() -> Run:
    """The run below `runs/` whose weights are the newest; UsageError when there is none."""
    times = {path.parent.parent: path.stat().st_mtime for path in sorted(RUNS.glob("*/weights/step-*.safetensors"), key=_age)}
    if not times:
        raise UsageError(
            f"no run with weights in {RUNS}/: name one with --run or --weights, or train: blurdiff train --preset shapes-blur"
        )
    return Run(max(times, key=lambda run: times[run]))


def _age(path: Path) -> float:
    return path.stat().st_mtime
