"""The trainings and scores of a study, and what of them is done."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blurcli.base import files
from blurcli.base.runs import Run

if TYPE_CHECKING:
    from blurcli.config import Config
    from blurcli.config.study import Variant

EQUAL_TIME = "equal time"
"""The label of scores after the training time of the base."""

MARK = "study"
"""The key of a score in evaluations.jsonl that identifies it."""

_FAILURE = "failure.json"


@dataclass(frozen=True)
class Cell:
    """One score: of a variant with a seed after a length of training.

    Attributes:
        variant: its name.
        seed: of training and samples.
        at: the length by which it is compared: training steps or images, or `EQUAL_TIME`.
        steps: its own training steps; None for those of a weights file or a distillation.
        number: of the score in the study.
        request: sampling options by name.
        guide: as of its variant.
        mark: identifies what is scored, and how, in evaluations.jsonl.
    """

    variant: str
    seed: int
    at: str
    steps: int | None
    number: int
    request: dict[str, Any]
    guide: str | tuple[str, int] | None
    mark: str


@dataclass(frozen=True)
class Task:
    """One training with its scores, or a weights file with its scores.

    Attributes:
        run: the folder.
        variant: the first variant that needs it.
        seed: of training and samples.
        config: of the training, and of the images of scores.
        cells: the scores.
        teacher: the training that it distills; None for others.
    """

    run: Run
    variant: Variant
    seed: int
    config: Config
    cells: tuple[Cell, ...]
    teacher: Task | None = None

    @property
    def lengths(self) -> list[int]:
        """The training steps after which there are scores, or that guides need."""
        return sorted({cell.steps for cell in self.cells if cell.steps is not None})

    @property
    def failure(self) -> str | None:
        """Why it cannot be done; None if nothing is known against it."""
        if self.teacher is not None and self.teacher.failure is not None and not self.run.config_path.exists():
            return f"its teacher failed: {self.teacher.failure}"
        path = self.run.path / _FAILURE
        if not path.exists():
            return None
        found = files.json_lines(path)
        return str(found[-1].get("error")) if found else "unknown"

    def fail(self, reason: str) -> None:
        """Record why it cannot be done; a repetition would fail again."""
        with files.replacing(self.run.path / _FAILURE) as temporary:
            temporary.write_text(json.dumps({"error": reason}) + "\n", encoding="utf-8")

    def scores(self) -> dict[str, dict[str, Any]]:
        """The recorded scores by their marks."""
        if not self.run.evaluations_path.exists():
            return {}
        lines = files.json_lines(self.run.evaluations_path)
        return {line[MARK]: line for line in lines if isinstance(line.get(MARK), str) and _is_score(line)}

    def missing(self) -> list[Cell]:
        """The scores that are not recorded, the shortest trainings first."""
        known = self.scores()
        return sorted((cell for cell in self.cells if cell.mark not in known), key=lambda cell: cell.steps or 0)


def _is_score(line: dict[str, Any]) -> bool:
    values = (line.get(key) for key in ("fid", "fd", "bits_per_dim"))
    return any(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values)
