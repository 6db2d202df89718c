"""Several runs in one plot: losses, scores over training and against network calls, named by what differs between the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blurcli import evaluate
from blurcli.base.errors import UsageError
from blurcli.base.names import common_name
from blurcli.base.runs import Run
from blurcli.config import Config, distinguish, flatten
from blurcli.config.repeat import without_folder
from blurcli.evaluate import Group, Training
from blurcli.evaluate.records import Score
from blurcli.visualize.comparison_plots import Chart, Line, save_chart
from blurcli.visualize.figures import thinned
from blurcli.visualize.records import Plot, Points, losses_of, model_scores, score_plot_name

_MOST_POINTS = 150  # of a line of losses
_IMAGES = ("data.source", "data.image_size", "data.channels")
_STEP, _CALLS = "training steps", "network calls per image"


@dataclass(frozen=True)
class _Compared:
    """Runs in sets that differ in more than the seed.

    Attributes:
        legend: the only key that differs; empty for several.
        labels: what distinguishes each set.
        sets: the runs of each, by seed.
        configs: the configuration of the first run of each.
        averaged: the trainings whose seeds are averaged, by run; none where the seeds are what differs.
    """

    legend: str
    labels: list[str]
    sets: list[list[str]]
    configs: list[Config]
    averaged: dict[str, Training]


def comparison_plots(runs: Sequence[Run], notify: Callable[[str], None]) -> Iterator[Plot]:
    """The plots of several runs: their losses, and their scores over training and against network calls.

    Runs that differ only in their seed are one line, with a band from the smallest to the largest value. Losses of different
    objectives, and scores of different protocols, are plots of their own.

    Args:
        runs: at least two.
        notify: receives what is missing, and why.

    Raises:
        UsageError: a run without a configuration or records, or runs of different images.
    """
    for run in runs:
        if not has_records(run):
            raise UsageError(
                f"{run.path}: nothing is recorded yet; record losses with blurdiff train, scores with blurdiff fid, or leave "
                "this run out"
            )
    compared = _compare({str(run.path): Training.of(run) for run in runs})
    yield from _loss_plots(compared, notify)
    scores = [score | {"run": str(run.path)} for run in runs for score in model_scores(run)]
    groups = [group for group in evaluate.comparable(scores) if "features" in group.protocol]
    for number, group in enumerate(groups):
        yield from _score_plots(compared, evaluate.over_trainings(group, compared.averaged), number, notify)


def has_records(run: Run) -> bool:
    """Whether a run has losses or scores."""
    return bool(losses_of(run) or model_scores(run))


def _compare(trainings: dict[str, Training]) -> _Compared:
    _check_images(trainings)
    sets, averaged = evaluate.same_but_for_the_seed(trainings), trainings
    if len(sets) == 1:  # the seeds are what differs
        sets, averaged = [[run] for run in sets[0]], {}
    configs = [trainings[runs[0]].config for runs in sets]
    legend, labels = distinguish(configs)
    if "" in labels or len(set(labels)) < len(labels):  # the folders are all that differs
        names = [common_name([Path(run).resolve().name for run in runs]) for runs in sets]
        labels = [f"{label} ({name})" if label else name for label, name in zip(labels, names, strict=True)]
    return _Compared(legend, labels, sets, configs, averaged)


def _check_images(trainings: dict[str, Training]) -> None:
    """Refuse runs of different images; the same folder may have another path."""
    first, *others = trainings
    known = flatten(trainings[first].config)
    for other in others:
        flat = flatten(trainings[other].config)
        for key in _IMAGES:
            own, expected = (without_folder(one[key]) if key == "data.source" else one[key] for one in (flat, known))
            if own != expected:
                raise UsageError(
                    f"{other}: was trained with {key} {own}, and {first} with {expected}: their losses and scores are not "
                    "comparable; plot them apart"
                )


def _loss_plots(compared: _Compared, notify: Callable[[str], None]) -> Iterator[Plot]:
    """The losses, a plot per kind: different processes, objectives, weights and times have different losses."""
    kinds: dict[tuple[str, ...], list[tuple[Line, int]]] = {}
    for number, runs in enumerate(compared.sets):
        found = [points for run in runs if (points := losses_of(Run(Path(run))))]
        if not found:
            notify(f"no loss of {common_name(runs)}: metrics.jsonl is missing or empty; blurdiff train writes it")
            continue
        config = compared.configs[number]
        optim = config.optim
        kind = (str(config.process.kind), config.objective, optim.loss_weight, str(optim.time_sampling))
        kinds.setdefault(kind, []).append((Line(compared.labels[number], number, 0, _averaged(found)), len(found)))
    for (process, objective, weight, times), members in kinds.items():
        described = f"objective {objective}, loss weight {weight}, times {times}" if len(kinds) > 1 else ""
        caption = filter(None, (described, _spread([count for _, count in members])))
        lines = [line for line, _ in members]
        chart = Chart(", ".join(caption), _STEP, "training loss (weighted)", compared.legend, lines, marked=False)
        name = f"loss-{process}-{objective}-{weight}-{times}" if len(kinds) > 1 else "loss"
        yield Plot(name, "Loss over training", partial(save_chart, chart))


def _averaged(lines: Sequence[Points]) -> NDArray[np.float64]:
    """Mean, smallest and largest of lines at the x of the longest, (N, 4); each counts from its beginning to its end."""
    fewer = [thinned(points, _MOST_POINTS) for points in lines]
    x, _ = max(fewer, key=lambda line: float(line[0][-1]))
    values = np.array([np.interp(x, own, y, left=np.nan, right=np.nan) for own, y in fewer])
    return np.stack([x, np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)], axis=1)


def _score_plots(compared: _Compared, group: Group, number: int, notify: Callable[[str], None]) -> Iterator[Plot]:
    place = {run: i for i, runs in enumerate(compared.sets) for run in runs}
    name, title = score_plot_name(group, number), evaluate.TITLES[group.metric]
    over_training, over_calls = _over_training(group, place), _over_calls(group, place)
    if over_training:
        chart = _score_chart(compared, group, over_training, "step")
        yield Plot(name, f"{title} over training", partial(save_chart, chart))
    else:
        notify(f"no plot over training of {evaluate.heading(group)}: it needs scores at two steps; set train.score_every_steps")
    if over_calls:
        chart = _score_chart(compared, group, over_calls, "calls")
        yield Plot(f"sweep-{name}", f"{title} against network calls", partial(save_chart, chart))
    else:
        notify(f"no plot against network calls of {evaluate.heading(group)}: record them with blurdiff sweep")


_Curve = tuple[int, list[Score]]
"""The number of a set of runs, and rows."""


def _over_training(group: Group, place: dict[str, int]) -> list[_Curve]:
    """The rows of each set and sampling by training step, where there are at least two."""
    curves: dict[tuple[int, str], list[Score]] = {}
    for row in sorted(group.rows, key=lambda row: int(row["step"])):
        subject = evaluate.subject_of(row, across=("weights_sha256", "step"))
        curves.setdefault((place[row["runs"][0]], subject), []).append(row)
    return sorted(((i, rows) for (i, _), rows in curves.items() if len(rows) > 1), key=lambda curve: curve[0])


def _over_calls(group: Group, place: dict[str, int]) -> list[_Curve]:
    """The rows of each set and sampling by network calls; none if nowhere there are two.

    Of each set, at the newest step among those that the most of its runs have scores of.
    """
    by_set: dict[int, list[Score]] = {}
    for row in group.rows:
        if row["calls"] is not None:
            by_set.setdefault(place[row["runs"][0]], []).append(row)
    curves: dict[tuple[int, str], list[Score]] = {}
    for i, rows in sorted(by_set.items()):
        _, newest = max((row["trainings"], row["step"]) for row in rows)
        for row in sorted(rows, key=lambda row: int(row["calls"])):
            if row["step"] == newest:
                subject = evaluate.subject_of(row, across=("weights_sha256", "step", "steps", "calls"))
                curves.setdefault((i, subject), []).append(row)
    several = any(len({row["calls"] for row in rows}) > 1 for rows in curves.values())
    return [(i, rows) for (i, _), rows in curves.items()] if several else []


def _score_chart(compared: _Compared, group: Group, curves: list[_Curve], key: str) -> Chart:
    """A chart of rows by `step` or `calls`; what all have in common is in its caption, and in no entry of the legend."""
    drawn = replace(group, rows=[row for _, rows in curves for row in rows])
    usual = drawn.shared_settings
    other = "steps" if key == "step" else "step"
    same = len({row[other] for row in drawn.rows}) == 1
    styles: dict[str, int] = {}
    lines = []
    for i, rows in curves:
        row = rows[0]
        sampling = evaluate.sampling_title({**row, "sampler": None if "sampler" in usual else row["sampler"]}, usual)
        settings = ", ".join(filter(None, (sampling, "" if same else _counted(other, row[other]))))
        style = styles.setdefault(settings, len(styles))
        points = np.array([[one[key], one["mean"], one["min"], one["max"]] for one in rows], np.float64)
        lines.append(Line(", ".join(filter(None, (compared.labels[i], settings))), i, style, points))
    parts = [
        evaluate.heading(group, without_folder),
        evaluate.sampling_title(usual, {"network_precision": usual.get("network_precision")}),
        _counted(other, drawn.rows[0][other]) if same else "",
        _spread([row["n"] for row in drawn.rows], "" if any(row["trainings"] > 1 for row in drawn.rows) else " of sampling"),
    ]
    x = _STEP if key == "step" else _CALLS
    return Chart(
        ", ".join(filter(None, parts)), x, evaluate.TITLES[group.metric], compared.legend, lines, by_count=key == "calls"
    )


def _spread(counts: Sequence[int], of: str = "") -> str:
    """What lines and bands are over so many seeds each, for a caption; empty if all are single."""
    number = f"{counts[0]} " if len(set(counts)) == 1 else ""
    return f"mean and range over {number}seeds{of}" if max(counts) > 1 else ""


def _counted(key: str, value: object) -> str:
    return f"{value} steps" if key == "steps" else f"training step {value:,}"
