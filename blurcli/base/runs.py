"""Run folders: their files, and the newest run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blurcli.base import files
from blurcli.base.errors import UsageError, UserError, did_you_mean, one_line, option, quoted
from blurcli.base.filenames import fitting
from blurcli.base.version import __version__

RUNS = Path("runs")
_NO_RUN, _NO_WEIGHTS = "no such run folder", "has no weights yet"
_WEIGHTS = re.compile(r"step-\d{8,}\.safetensors")


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
        """The default run for distilling the model of this run."""
        path = self.path if self.path.name not in ("", "..") else self.path.resolve()
        return Run(fitting(path.with_name(path.name + "-distilled")))

    def saved_states(self) -> list[Path]:
        """The existing state files, newest first, including links to missing files."""
        return [path for path in (self.state_path, self.previous_state_path) if path.is_symlink() or path.exists()]

    @property
    def teacher_path(self) -> Path:
        """The weights of the teacher, in the run of a distilled model."""
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
        """A folder with the identity of the run in each experiment tracker, and the output and files of trackers."""
        return self.path / "trackers"

    @property
    def version(self) -> str | None:
        """The version of blurdiff that last trained in the folder; None if unknown."""
        try:
            sessions = files.json_lines(self.sessions_path)
        except UserError:
            return None
        known = [session["versions"].get("blurdiff") for session in sessions if isinstance(session.get("versions"), dict)]
        return known[-1] if known and isinstance(known[-1], str) else None

    def weights_path(self, step: int) -> Path:
        """EMA weights after `step` steps."""
        return self.path / "weights" / f"step-{step:08d}.safetensors"

    def preview_path(self, step: int) -> Path:
        """The grid of samples after `step` steps."""
        return self.path / "samples" / f"step-{step:08d}.png"

    def all_weights(self) -> list[Path]:
        """The weights files in the order of their steps, without copies under other names."""
        return [path for path in files.listed(self.path / "weights") if _WEIGHTS.fullmatch(path.name)]

    def newest_weights(self) -> Path:
        """The weights after the most steps.

        Raises:
            UsageError: there are none, or they cannot be read.
        """
        path = self.last_weights()
        if path is None:
            raise UsageError(f"{self.path}: {self._why_no_weights()}")
        if problem := files.unreadable(path):
            raise UsageError(f"{path}: {problem}, or name other weights with {option('weights')}")
        return path

    def _why_no_weights(self) -> str:
        if not self.path.is_dir():
            reason = missing_run(self.path)
        elif self.has_begun() or self.is_empty():
            reason = _NO_WEIGHTS
        else:
            reason = "not a run folder"
        if reason not in (_NO_WEIGHTS, _NO_RUN):
            return reason
        preset = "" if self.config_path.is_file() else f" {option('preset')} NAME"
        return f"{reason}; train it with: blurdiff train {option('run')} {quoted(self.path)}{preset}"

    def last_weights(self) -> Path | None:
        """The weights after the most steps, readable or not."""
        for _ in range(2):  # a training may remove all that were listed
            for path in reversed(self.all_weights()):
                if path.is_symlink() or path.exists():
                    return path
        return None

    def newest_step(self) -> int:
        """The step of the newest weights; 0 if there are none."""
        found = self.all_weights()
        return int(found[-1].stem.removeprefix("step-")) if found else 0

    def has_begun(self) -> bool:
        """Whether the folder belongs to a training, or has scores of one."""
        return any(os.path.lexists(path) for path in (self.config_path, self.path / "weights", self.evaluations_path))

    def is_empty(self) -> bool:
        """Whether the folder exists and has nothing but the leftovers of a training that was stopped at once."""
        return self.path.is_dir() and files.is_empty(self.path)


def resolve_run(name: Path) -> Run:
    """Resolve the name of a run: a run folder, or else the run with this name in `runs/`.

    The second case matters because a run has the name of the folder of images that it was trained on.
    """
    here, inside = Run(name), Run(RUNS / name)
    known = inside.path.is_dir() or inside.path.is_symlink()
    elsewhere = len(name.parts) == 1 and known and not (here.has_begun() or here.is_empty())
    return inside if elsewhere else here


def runs_below(folder: Path) -> list[Run]:
    """The runs in a folder that is none itself, at any depth and by name; none in a run, or in what is no folder."""
    if Run(folder).has_begun() or not folder.is_dir():
        return []
    configs = (Run(Path(parent)) for parent, _, names in sorted(os.walk(folder)) if Run(folder).config_path.name in names)
    return [run for run in configs if run.path != folder]


def missing_run(path: Path) -> str:
    """Why a path is no folder, to follow its name in a message: what is there instead, or a run with a similar name."""
    if path.is_symlink() and (problem := files.unreadable(path)):
        return problem
    return "a file, not a run folder" if path.exists() else f"{_NO_RUN}{similar_run(path)}"


def similar_run(name: Path) -> str:
    """`"; did you mean 'x'?"` for a run in `runs/` with a similar name, else an empty string."""
    return did_you_mean(str(name), [path.name for path in files.listed(RUNS)])


def newest_run(notify: Callable[[str], None]) -> Run | None:
    """The run below `runs/` with the newest readable weights; None if there is none.

    Args:
        notify: receives a message per newer run that is skipped.

    Raises:
        UsageError: there are runs, but none with readable weights.
    """
    readable: dict[Run, float] = {}
    others: dict[str, float] = {}
    for run in map(Run, files.listed(RUNS)):
        try:
            if (path := run.last_weights()) is None:
                continue
            reason, time = files.unreadable(path), path.lstat().st_mtime
        except FileNotFoundError:  # it has just gone
            continue
        except OSError as error:
            path, reason, time = run.path, f"cannot be read ({error.strerror})", math.inf
        if reason is None:
            readable[run] = time
        else:
            others[f"{path}: {reason}"] = time
    newest = max(readable, key=lambda run: readable[run], default=None)
    for reason in [reason for reason, time in others.items() if newest is None or time > readable[newest]]:
        if newest is None:
            raise UsageError(f"{reason}, or name a run with {option('run')}")
        notify(f"skipped {reason}")
    return newest


def other_version(version: object) -> str:
    """The end of a message about a file that another version of blurdiff wrote; else an empty string."""
    if not isinstance(version, str) or version == __version__:
        return ""
    install = quoted(f"blurdiff=={version}")
    return f"; blurdiff {one_line(version)} wrote it, and this is {__version__}: use that version (pip install {install})"
