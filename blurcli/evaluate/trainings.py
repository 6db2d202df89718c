"""Trainings that differ only in their seed: recognized by their configurations, with their scores in one row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blurcli.base import checkpoint, files
from blurcli.base.runs import Run
from blurcli.config import FREE_KEYS, Config, flatten, from_json, load_run_config
from blurcli.evaluate.metrics import METRICS, TITLES
from blurcli.evaluate.records import Group, Score, is_number, subject_of


@dataclass(frozen=True)
class Training:
    """What a run was trained with.

    Attributes:
        config: its resolved configuration.
        teacher: configuration and step of the model that it was distilled from, or the digest of a lost one; None for none.
    """

    config: Config
    teacher: tuple[Config, str] | str | None = None

    @classmethod
    def of(cls, run: Run) -> Training:
        """The training of a run.

        Raises:
            UsageError: a configuration is missing or damaged.
        """
        config = load_run_config(run.config_path)
        known = checkpoint.read_metadata(run.teacher_path)
        if "config" in known:
            return cls(config, (from_json(known["config"], str(run.teacher_path)), known.get("step", "")))
        teachers = [str(session["teacher"]) for session in files.json_lines(run.sessions_path) if session.get("teacher")]
        return cls(config, teachers[-1] if teachers else None)

    def identity(self, ignored: Collection[str]) -> str:
        """Everything but the ignored keys, of the teacher, too, as JSON."""

        def kept(config: Config) -> dict[str, Any]:
            return {key: value for key, value in flatten(config).items() if key not in ignored}

        teacher = (kept(self.teacher[0]), self.teacher[1]) if isinstance(self.teacher, tuple) else self.teacher
        return json.dumps([kept(self.config), teacher], sort_keys=True)


def same_but_for_the_seed(trainings: Mapping[str, Training]) -> list[list[str]]:
    """The runs in groups that differ in the seed, and in no other key that changes what is learned.

    Where a seed occurs twice, all other keys must agree, too; where that does not separate the two, each run is alone.

    Args:
        trainings: by run.

    Returns:
        Groups in the order of their first runs; within a group, by seed.
    """
    found = list(_split(list(trainings), trainings, ({"seed", *FREE_KEYS}, {"seed"})))
    order = {run: number for number, run in enumerate(trainings)}
    return sorted(found, key=lambda members: min(order[run] for run in members))


def _split(runs: Sequence[str], trainings: Mapping[str, Training], ignored: Sequence[Collection[str]]) -> Iterator[list[str]]:
    alike: dict[str, list[str]] = {}
    for run in runs:
        alike.setdefault(trainings[run].identity(ignored[0]), []).append(run)
    for members in alike.values():
        seeds = {trainings[run].config.seed for run in members}
        if len(seeds) == len(members):
            yield sorted(members, key=lambda run: trainings[run].config.seed)
        elif len(ignored) > 1:
            yield from _split(members, trainings, ignored[1:])
        else:
            yield from ([run] for run in members)


def over_trainings(group: Group, trainings: Mapping[str, Training]) -> Group:
    """A group with one row for all trainings that differ only in their seed, at the same step and with the same sampling.

    Args:
        group: from `comparable`; its scores have the key `run`.
        trainings: by run; scores of other runs stay in rows of their own.

    Returns:
        The same, ranked again. Every row has four more keys: its `runs`, the number of `trainings`, the `mean` of the metric,
        and `n`: the trainings or, for a single one, the seeds of sampling. In a row of several trainings all numbers are over
        the means of the trainings, `seeds` counts all scores, and labels and settings that differ are None.
    """
    number = {run: i for i, runs in enumerate(same_but_for_the_seed(trainings)) for run in runs}
    together: dict[object, list[int]] = {}
    runs = [_run(row, own, trainings) for row, own in zip(group.rows, group.scores, strict=True)]
    for i, (row, run) in enumerate(zip(group.rows, runs, strict=True)):
        of_a_run = run in number and row["weights_sha256"] and not row["samples"]
        together.setdefault((number[run], subject_of(row, across=("weights_sha256",))) if of_a_run else i, []).append(i)
    merged = []
    for members in together.values():
        # Two models of one run at one step: it was trained twice, and which of them belongs to the others is unknown.
        parts = [members] if len({runs[i] for i in members}) == len(members) else [[i] for i in members]
        for part in parts:
            part.sort(key=lambda i: trainings[runs[i]].config.seed if runs[i] in trainings else 0)
            row = _merged(group.metric, [group.rows[i] for i in part])
            row |= {"runs": [runs[i] for i in part], "run": runs[part[0]] if len(part) == 1 else None}
            merged.append((row, [score for i in part for score in group.scores[i]]))
    higher_is_better = next(metric.higher_is_better for metric in METRICS if metric.name == group.metric)
    merged.sort(key=lambda pair: float(pair[0]["mean"]), reverse=higher_is_better)
    return replace(group, rows=[row for row, _ in merged], scores=[own for _, own in merged])


def _run(row: Score, scores: Sequence[Score], trainings: Mapping[str, Training]) -> str:
    """The run of a row: of its scores, those in a run folder tell what was trained."""
    return str(next((score["run"] for score in scores if score.get("run") in trainings), row["run"]))


def _merged(metric: str, rows: Sequence[Score]) -> Score:
    first, means = rows[0], [row[metric] for row in rows]
    if len(rows) == 1:
        return first | {"trainings": 1, "mean": first[metric], "n": first["seeds"]}
    same = {key: value if all(row.get(key) == value for row in rows) else None for key, value in first.items()}
    values = {name: [row[name] for row in rows if is_number(row.get(name))] for name in TITLES}
    return {
        **{key: value for key, value in same.items() if key not in TITLES},
        **{name: statistics.fmean(found) for name, found in values.items() if found},
        "mean": statistics.fmean(means),
        "std": statistics.stdev(means),
        "min": min(means),
        "max": max(means),
        "seeds": sum(row["seeds"] for row in rows),
        "trainings": len(rows),
        "n": len(rows),
    }
