"""The plan of a study: which trainings and scores it needs, where they are kept, and what of it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base import files
from blurcli.base.errors import OptionError, UsageError, UserError, option
from blurcli.base.runs import RUNS, Run
from blurcli.core.sampling_options import SAMPLING_OPTIONS
from blurcli.workflows.study_tasks import EQUAL_TIME, MARK, Cell, Task

if TYPE_CHECKING:
    from blurcli.config import Config
    from blurcli.config.study import Study, Variant
    from blurcli.config.study_schema import StudyScore

LOCKS = ".locks"
"""The folder of the locks of trainings."""

RECORD = "study.yaml"
"""A copy of the file of the study, in its folder."""


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
        """The tasks of part `index` of `count`, from 1. Those that need each other are in one part."""
        groups: list[set[Run]] = []
        for task in self.tasks:
            needed = {task.run} if task.teacher is None else {task.run, task.teacher.run}
            needed |= {guide[0].run for cell in task.cells if (guide := self.guide_of(cell)) is not None}
            joined = [group for group in groups if group & needed]
            groups = [group for group in groups if group not in joined] + [needed.union(*joined)]
        places = {task.run: i for i, task in enumerate(self.tasks)}
        groups.sort(key=lambda group: min(places[run] for run in group))
        own = {run for group in groups[index - 1 :: count] for run in group}
        return [task for task in self.tasks if task.run in own]

    def guide_of(self, cell: Cell) -> tuple[Task, Path] | None:
        """The task that trains the guide of a score, and the weights; None for no guide, and for that of a file."""
        if not isinstance(cell.guide, tuple):
            return None
        name, length = cell.guide
        steps = self.study.steps_of(self.study.variant(name), length)
        task = next(
            task
            for task in self.tasks
            if task.seed == cell.seed and any(one.variant == name and one.steps in (steps, None) for one in task.cells)
        )
        return task, task.run.weights_path(steps)

    def guide_failure(self, cell: Cell) -> str | None:
        """Why a score's guide will never be there; None if nothing is known against it."""
        if (guide := self.guide_of(cell)) is None:
            return None
        task, path = guide
        return f"its guide failed: {task.failure}" if task.failure is not None and not path.exists() else None

    def left(self, task: Task) -> list[Cell]:
        """The scores of a task that are missing and not known to be impossible."""
        return [] if task.failure is not None else [cell for cell in task.missing() if self.guide_failure(cell) is None]

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
        """The trainings and guides that failed, with the reason."""
        found = {(task.variant.name, task.seed): task.failure for task in self.tasks}
        found |= {(cell.variant, cell.seed): reason for cell, _ in self.cells if (reason := self.guide_failure(cell))}
        return [f"{name}, seed {seed}: {reason}" for (name, seed), reason in found.items() if reason]


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
    tasks: dict[tuple[int, str, int | None], Task] = {}  # by seed, what is trained, and its length if that changes the rest
    for seed in study.seeds:
        by_name: dict[str, Task] = {}
        for one in sorted(study.variants, key=lambda variant: variant.distilled is not None):
            teacher = None if one.distilled is None else by_name[one.distilled]
            for steps, cells in _by_training(one, _cells(study, one, seed, digest, equal_time_steps)).items():
                key = seed, _training(study, one), steps
                if key not in tasks:
                    config = _with_seed(study, one, seed, steps) if teacher is None else teacher.config
                    tasks[key] = Task(_run_of(folder, study, one, seed, steps), one, seed, config, (), teacher)
                tasks[key] = replace(tasks[key], cells=(*tasks[key].cells, *cells))
                if cells[0].at != EQUAL_TIME:
                    by_name[one.name] = tasks[key]  # in the end that of the greatest length
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
    return {"name": cell.variant, MARK: cell.mark}


def _keys(config: Config) -> dict[str, Any]:
    from blurcli.config.study import training_keys

    return training_keys(config)


def _training(study: Study, variant: Variant) -> str:
    """What a variant trains, besides the seed: equal for variants that share it."""
    if variant.weights is not None:
        return variant.weights
    if variant.distilled is None:
        return json.dumps(_keys(variant.config))
    teacher = study.variant(variant.distilled)
    steps = study.steps_of(teacher, study.lengths[-1])
    return json.dumps(["distillation", _keys(teacher.config), steps, variant.assigned])


def _by_training(variant: Variant, cells: Iterable[Cell]) -> dict[int | None, list[Cell]]:
    """The scores of a variant by the length of their training, or None where one training has all of them on its way."""
    cooled = variant.weights is None and variant.distilled is None and variant.config.optim.cooldown > 0
    groups: dict[int | None, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.steps if cooled else None, []).append(cell)
    return groups


def _with_seed(study: Study, variant: Variant, seed: int, steps: int | None) -> Config:
    steps = steps or study.steps_of(variant, study.lengths[-1])
    # The weights of every length are needed.
    train = variant.config.train.model_copy(update={"steps": steps, "keep": None})
    return variant.config.model_copy(update={"seed": seed, "train": train})


def _run_of(folder: Path, study: Study, variant: Variant, seed: int, steps: int | None) -> Run:
    """The run of a variant: that of the first variant with the same training that exists, if one does."""
    from blurcli.config.study import slug

    own = _training(study, variant)
    # A distillation of another teacher, or with other keys, is another one.
    end = "" if variant.distilled is None else f"-{hashlib.sha256(own.encode()).hexdigest()[:8]}"
    place = f"seed-{seed}" if steps is None else f"seed-{seed}-steps-{steps}"
    runs = [Run(folder / (slug(one.name) + end) / place) for one in study.variants if _training(study, one) == own]
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
            if score.likelihood is not None and variant.distilled is not None:
                continue  # a distilled model has no bound
            request = _request(variant, score)
            mark = _mark(study, variant, seed, steps, score, request, digest)
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
    study: Study, variant: Variant, seed: int, steps: int | None, score: StudyScore, request: dict[str, Any], digest: str | None
) -> str:
    """Identifies a score within its folder: what differs between those of one training, or of weights of one name."""
    shown = score.model_dump(exclude={"name", "metrics", "sampling"}, exclude_none=True)
    usual = study.config.score.model_dump()
    keys = ("split",) if score.likelihood is not None else ("features", "n", "split", "mode")
    shown = {key: usual.get(key) for key in keys} | shown
    own = {"score": shown, "request": request, "guide": variant.guide, "steps": steps, "seed": seed}
    if score.features == "file":
        own["network"] = digest
    named = {"weights": variant.weights, "guided by": variant.guide}
    own |= {key: _content(study, variant, name) for key, name in named.items() if isinstance(name, str)}
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]


@lru_cache
def _hash_of(path: Path, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _content(study: Study, variant: Variant, name: str) -> str:
    """What identifies the model of a name: the content of a file, or the name of one elsewhere."""
    from blurcli.workflows.session import resolve_weights

    where = f"{study.path}: variants: {variant.name}: {name}"
    if name in [one.name for one in study.variants]:
        raise UsageError(f"{where}: is a variant, whose weights as a guide are written as {name}@{study.lengths[-1]}")
    try:
        path, _ = resolve_weights(name)
    except UserError as error:
        raise UsageError(f"{where}: {error.text}") from None
    if isinstance(path, str):
        return path
    if problem := files.unreadable(path):
        raise UsageError(f"{where}: {problem}")
    return _hash_of(path, path.stat().st_mtime_ns)


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
