"""The plan of a study: which trainings and scores it needs, where they are kept, and what of it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base import files
from blurcli.base.errors import OptionError, UsageError, option
from blurcli.base.runs import RUNS, Run
from blurcli.core.sampling_options import SAMPLING_OPTIONS

if TYPE_CHECKING:
    from blurcli.config import Config
    from blurcli.config.study import Study, StudyScore, Variant

EQUAL_TIME = "equal time"
"""The label of scores after the training time of the base."""

_FAILURE = "failure.json"
LOCKS = ".locks"
"""The folder of the locks of trainings."""

RECORD = "study.yaml"
"""A copy of the file of the study, in its folder."""

_MARK = "study"  # the key of a score in evaluations.jsonl


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
    def group(self) -> Path:
        """The folder of the training on which it depends: these are done by one process."""
        return (self.teacher or self).run.path

    @property
    def failure(self) -> str | None:
        """Why it cannot be done; None if nothing is known against it."""
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
        return {line[_MARK]: line for line in files.json_lines(self.run.evaluations_path) if isinstance(line.get(_MARK), str)}

    def missing(self) -> list[Cell]:
        """The scores that are not recorded, the shortest trainings first."""
        known = self.scores()
        return sorted((cell for cell in self.cells if cell.mark not in known), key=lambda cell: cell.steps or 0)


@dataclass(frozen=True)
class Plan:
    """Everything that a study needs.

    Attributes:
        study: the study.
        folder: where it is kept.
        tasks: the trainings, teachers before their distillations.
    """

    study: Study
    folder: Path
    tasks: tuple[Task, ...]

    @cached_property
    def cells(self) -> list[tuple[Cell, Task]]:
        """All scores with their tasks, in the order of variants, lengths, scores and seeds."""
        names = [one.name for one in self.study.variants]
        ats = [*map(str, self.study.lengths), EQUAL_TIME]
        pairs = [(cell, task) for task in self.tasks for cell in task.cells]
        return sorted(
            pairs, key=lambda pair: (ats.index(pair[0].at), names.index(pair[0].variant), pair[0].number, pair[0].seed)
        )

    def part(self, index: int, count: int) -> list[Task]:
        """The tasks of part `index` of `count`, from 1."""
        groups = list(dict.fromkeys(task.group for task in self.tasks))
        own = set(groups[index - 1 :: count])
        return [task for task in self.tasks if task.group in own]

    def rows(self) -> list[dict[str, Any]]:
        """The recorded scores as plain dictionaries, one per variant, length, score and seed.

        Keys: variant, seed, at (the length by which it is compared), train_steps (its own), score (the number of the study's
        score), run, and those of the line in evaluations.jsonl.
        """
        known = {task.run: task.scores() for task in self.tasks}
        rows = []
        for cell, task in self.cells:
            if line := known[task.run].get(cell.mark):
                own = {"variant": cell.variant, "seed": cell.seed, "at": cell.at, "train_steps": line.get("step")}
                rows.append({**line, **own, "score": cell.number, "run": str(task.run.path)})
        return rows

    def failures(self) -> list[str]:
        """The trainings that failed, with the reason."""
        return [f"{task.variant.name}, seed {task.seed}: {reason}" for task in self.tasks if (reason := task.failure)]

    def trainings(self) -> list[Task]:
        """The tasks that train."""
        return [task for task in self.tasks if task.variant.weights is None]


def folder_of(study: Study, out: Path | None) -> Path:
    """The folder of a study: `out`, or one in `runs/` with the name of its file."""
    return out or RUNS / study.path.stem


def check_is_study(folder: Path) -> None:
    """Refuse a folder that has something else in it; UsageError."""
    if folder.exists() and not (folder / RECORD).exists() and not files.is_empty(folder):
        raise UsageError(f"{folder}: exists, and is not the folder of a study; use another one with {option('out')}")


def training_digest(config: Config) -> str:
    """Identifies a training, without its seed and length."""
    keys = {key: value for key, value in _keys(config).items() if key != "seed"}
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]


def make_plan(study: Study, folder: Path, features: Path | None, equal_time_steps: dict[str, int] | None = None) -> Plan:
    """Plan a study.

    Args:
        study: the study.
        folder: where it is kept.
        features: the network of scores with `features: file`.
        equal_time_steps: the steps of each trained variant in the training time of the base; None if that is not wanted.

    Raises:
        UsageError: the folder holds trainings of other variants, or a file is missing.
    """
    digest = _digest_of(features, study.scores)
    tasks: dict[tuple[int, str], Task] = {}  # by seed and what is trained
    for seed in study.seeds:
        by_name: dict[str, Task] = {}
        for one in sorted(study.variants, key=lambda variant: variant.distilled is not None):
            key = seed, _training(one)
            if key not in tasks:
                teacher = None if one.distilled is None else by_name[one.distilled]
                config = _with_seed(study, one, seed) if teacher is None else teacher.config
                tasks[key] = Task(_run_of(folder, study, one, seed), one, seed, config, (), teacher)
            cells = _cells(study, one, seed, digest, equal_time_steps)
            tasks[key] = replace(tasks[key], cells=(*tasks[key].cells, *cells))
            by_name[one.name] = tasks[key]
    plan = Plan(study, folder, tuple(tasks.values()))
    _check_folder(plan)
    return plan


def parse_part(text: str | None) -> tuple[int, int]:
    """`I/N` as numbers; (1, 1) for None.

    Raises:
        OptionError: it is something else.
    """
    index, _, count = (text or "1/1").partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise OptionError("part", text, "must be I/N, such as 2/8: the second of eight parts")
    return int(index), int(count)


def record_study(plan: Plan) -> None:
    """Create the folder, and keep a copy of the study's file there."""
    files.check_writable(plan.folder / RECORD)
    content = plan.study.path.read_text(encoding="utf-8")
    with files.replacing(plan.folder / RECORD) as temporary:
        temporary.write_text(content, encoding="utf-8")


def record_mark(cell: Cell) -> dict[str, str]:
    """The labels of a score in evaluations.jsonl."""
    return {"name": cell.variant, _MARK: cell.mark}


def _keys(config: Config) -> dict[str, Any]:
    from blurcli.config.study import training_keys

    return training_keys(config)


def _training(variant: Variant) -> str:
    """What a variant trains, besides the seed: equal for variants that share it."""
    if variant.weights is not None:
        return variant.weights
    keys = _keys(variant.config) if variant.distilled is None else {"of": variant.distilled, **variant.assigned}
    return json.dumps(keys)


def _with_seed(study: Study, variant: Variant, seed: int) -> Config:
    steps = study.steps_of(variant, study.lengths[-1])
    # The weights of every length are needed.
    train = variant.config.train.model_copy(update={"steps": steps, "keep": None})
    return variant.config.model_copy(update={"seed": seed, "train": train})


def _run_of(folder: Path, study: Study, variant: Variant, seed: int) -> Run:
    """The run of a variant: that of the first variant with the same training that exists, if one does."""
    from blurcli.config.study import slug

    own = _training(variant)
    runs = [Run(folder / slug(one.name) / f"seed-{seed}") for one in study.variants if _training(one) == own]
    return next((run for run in runs if run.config_path.exists()), runs[0])


def _cells(
    study: Study, variant: Variant, seed: int, digest: str | None, equal_time_steps: dict[str, int] | None
) -> list[Cell]:
    trains = variant.weights is None and variant.distilled is None
    lengths = study.lengths if variant.distilled is None else study.lengths[-1:]
    points = [(str(length), study.steps_of(variant, length) if trains else None) for length in lengths]
    if equal_time_steps is not None and trains:
        points.append((EQUAL_TIME, equal_time_steps[variant.name]))
    cells = []
    for at, steps in points:
        for number, score in enumerate(study.scores):
            request = _request(variant, score)
            mark = _mark(variant, seed, steps, score, request, digest)
            cells.append(Cell(variant.name, seed, at, steps, number, request, variant.guide, mark))
    return cells


def _request(variant: Variant, score: StudyScore) -> dict[str, Any]:
    """The sampling options of a score: the variant's, the score's, and the preset's, each before the next."""
    if score.likelihood is not None:
        return score.sampling
    chosen = {**score.sampling, **variant.sampling}
    if variant.weights is not None or variant.distilled is not None:
        return chosen  # over those of the model
    sample = variant.config.sample
    usual: dict[str, Any] = {"sampler": sample.sampler, "steps": sample.steps}
    if chosen.get("sampler", sample.sampler) == sample.sampler:
        values = {one: getattr(sample, one.name, None) for one in SAMPLING_OPTIONS}
        usual |= {one.name: value for one, value in values.items() if value not in (None, one.neutral)}
    return usual | chosen


def _mark(
    variant: Variant, seed: int, steps: int | None, score: StudyScore, request: dict[str, Any], digest: str | None
) -> str:
    """Identifies a score within its folder: what differs between those of one training."""
    shown = score.model_dump(exclude={"name", "metrics", "sampling"}, exclude_none=True)
    usual = variant.config.score.model_dump()
    shown = {key: usual.get(key) for key in ("features", "n", "split", "mode")} | shown if score.likelihood is None else shown
    own = {"score": shown, "request": request, "guide": variant.guide, "steps": steps, "seed": seed}
    if score.features == "file":
        own["network"] = digest
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _digest_of(features: Path | None, scores: Iterable[StudyScore]) -> str | None:
    wanted = any(score.features == "file" for score in scores)
    if wanted and features is None:
        raise UsageError(
            f"scores: features: file: name the network's file with {option('features')} FILE (code: it is executed)"
        )
    if features is None:
        return None
    if not wanted:
        raise UsageError(f"{option('features')} {features}: no score of the study has features: file; leave it out")
    if problem := files.unreadable(features):
        raise UsageError(f"{option('features')} {features}: {problem}")
    return hashlib.sha256(features.read_bytes()).hexdigest()[:16]


def _check_folder(plan: Plan) -> None:
    """Refuse a folder that holds other trainings under the names of this study's."""
    from blurcli.config import flatten, load_run_config

    for task in plan.tasks:
        if not task.run.config_path.exists() or task.teacher is not None:
            continue
        old, new = (flatten(config) for config in (load_run_config(task.run.config_path), task.config))
        # The training itself compares the images; they may have been moved.
        keys = [key for key in _keys(task.config) if key != "data.source"]
        if different := [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]:
            raise UsageError(
                f"{task.run.path}: holds a training of another study, or of an earlier version of {task.variant.name!r}; use "
                f"another folder with {option('out')}, or remove it:\n  " + "\n  ".join(different)
            )
        newest = task.run.newest_step()
        for steps in task.lengths:
            if (
                steps < newest
                and not task.run.weights_path(steps).exists()
                and any(cell.steps == steps for cell in task.missing())
            ):
                raise UsageError(
                    f"{task.run.path}: was trained to step {newest}, and the weights of step {steps}, which the study asks for "
                    f"now, were not kept; use another folder with {option('out')}, or leave {steps} out of steps"
                )
