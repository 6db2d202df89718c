"""Ranked scores as tables to read, and as records for other programs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blurcli.base.names import common_name
from blurcli.base.runs import RUNS
from blurcli.core.sampling_options import SAMPLING_OPTIONS
from blurcli.evaluate.metrics import METRICS, TITLES
from blurcli.evaluate.records import SAMPLING, Group, Score, is_number, sampling_title
from blurcli.evaluate.tables import heading, value_text

_SUBJECT = ("run", "name", "step", "sampler", "steps", "calls")
_OTHERS = tuple(one.name for one in SAMPLING_OPTIONS if one.name not in _SUBJECT)
SORT_KEYS = (*_SUBJECT, "n", "mean", "std", "min", "max", *TITLES, *_OTHERS)
"""The keys that rows can be sorted by."""

_RECORDED = (
    *("run", "name", "samples", "weights", "weights_sha256", "step", *SAMPLING, "calls", "temperature", "draws"),
    *("calibrated", "network_precision", "n", "mean", "std", "min", "max", "seeds", "trainings"),
)
_DISPENSABLE = ("kd", "kid", "restored_fd", "coverage", "name", "log_spectral_distance", "recall", "precision", "ssim")
_GAP = 2  # characters between two columns
_MOST_DECIMALS = 8


@dataclass(frozen=True)
class RankingTable:
    """The rows of one protocol, as text.

    Attributes:
        heading: the metric, the number of images and the reference.
        shared: what all rows have in common; empty for nothing.
        columns: titles of the columns.
        rows: a text per column.
        notes: the meaning of the sign ±, and the columns that are left out.
    """

    heading: str
    shared: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def ranking_table(group: Group, width: int) -> RankingTable:
    """The rows of a group; the mean and its spread are one column.

    What all rows have in common is in `shared` instead of a column. Other metrics and names are left out where the table would
    be wider than `width` characters; columns that tell rows apart never are.

    Args:
        group: from `over_trainings`.
        width: in characters.
    """
    parent = _parent(group)
    lines = _lines(group, parent)
    titles = {**{key: key for key in _SUBJECT}, group.metric: TITLES[group.metric], "n": "n", **TITLES}
    same = {key for key in _SUBJECT if len({line[key] for line in lines}) == 1 < len(lines)}
    if all(line["calls"] in (line["steps"], "") for line in lines):
        same.add("calls")
    if len({line["n"] for line in lines}) == 1:
        same.add("n")
    chosen = [key for key in titles if key not in same and any(line.get(key) for line in lines)]
    widths = {key: max(len(text) for text in (titles[key], *(line.get(key, "") for line in lines))) for key in chosen}
    left_out = []
    for key in _DISPENSABLE:
        if key in chosen and key != group.metric and sum(widths[one] + _GAP for one in chosen) - _GAP > width:
            chosen.remove(key)
            left_out.append(titles[key])
    return RankingTable(
        heading(group),
        _shared(group, lines[0], parent, same),
        [titles[key] for key in chosen],
        [[line.get(key, "") for key in chosen] for line in lines],
        list(filter(None, (_spread(group.rows), f"not shown: {', '.join(left_out)}" if left_out else ""))),
    )


def ranking_records(groups: Iterable[Group]) -> tuple[list[str], list[list[str]]]:
    """All rows of all groups under machine-readable names, at full precision.

    Returns:
        The columns, without empty ones, and the rows. `n` is the number of seeds that `mean` and `std` are over; the number of
        images is `images`.
    """
    protocols = list(dict.fromkeys(key for group in groups for key in group.protocol if key != "n"))
    columns = list(dict.fromkeys(("metric", "images", *protocols, *_RECORDED, *TITLES)))
    rows = [
        {**group.protocol, "metric": group.metric, **row, "images": group.protocol["n"], "run": run_label(row)}
        for group in groups
        for row in group.rows
    ]
    texts = [[_exact(row.get(key)) for key in columns] for row in rows]
    filled = [i for i in range(len(columns)) if any(line[i] for line in texts)]
    return [columns[i] for i in filled], [[line[i] for i in filled] for line in texts]


def run_label(row: Score, parent: str = "") -> str:
    """The name of what a row of `over_trainings` scores: stored images, a weights file, or its runs below `parent`."""
    if row["samples"] or row["run"] == str(RUNS):
        return value_text(row["samples"] or row["weights"])
    return value_text(common_name([Path(os.path.relpath(run, parent) if parent else run).as_posix() for run in row["runs"]]))


def sorted_by(group: Group, key: str) -> Group:
    """A group with its rows in another order: by a metric the best first, by another key ascending, without a value last.

    Args:
        group: from `over_trainings`.
        key: one of `SORT_KEYS`.
    """
    name = group.metric if key == "mean" else key
    descending = any(metric.name == name and metric.higher_is_better for metric in METRICS)

    def place(pair: tuple[Score, list[Score]]) -> tuple[bool, list[tuple[bool, float, str]]]:
        value = run_label(pair[0]) if name == "run" else pair[0].get(name)
        if is_number(value):
            return False, [(False, -value if descending else value, "")]
        words = re.findall(r"\d+|\D+", "" if value is None else str(value))  # b10 comes after b9
        return value is None, [(not word.isdecimal(), float(word) if word.isdecimal() else 0.0, word) for word in words]

    pairs = sorted(zip(group.rows, group.scores, strict=True), key=place)
    return replace(group, rows=[row for row, _ in pairs], scores=[own for _, own in pairs])


def _lines(group: Group, parent: str) -> list[dict[str, str]]:
    """The text of every column, by key, for each row."""
    usual = group.shared_settings
    if len(group.rows) == 1:
        usual = {"network_precision": usual["network_precision"]}
    mixed = {row["trainings"] > 1 for row in group.rows if row["n"] > 1} == {True, False}
    smallest = min((abs(row["mean"]) for row in group.rows if row["mean"]), default=1.0)
    decimals = max(4, 2 - math.floor(math.log10(smallest)))
    form = f".{decimals}f" if decimals <= _MOST_DECIMALS else ".3g"
    lines = []
    for row in group.rows:
        line = {key: value_text(row.get(key)) for key in (*_SUBJECT, "n", *TITLES)}
        line |= {"run": run_label(row, parent), "sampler": sampling_title(row, usual)}
        line[group.metric] = f"{row['mean']:{form}}" + ("" if row["std"] is None else f" ± {row['std']:{form}}")
        if mixed and row["n"] > 1:
            line["n"] += " trainings" if row["trainings"] > 1 else " samplings"
        lines.append(line)
    return lines


def _parent(group: Group) -> str:
    """The folder that all runs are below; empty if there is none, or if rows are no runs."""
    runs = [run for row in group.rows if not row["samples"] and row["run"] != str(RUNS) for run in row["runs"]]
    try:
        return str(os.path.commonpath([Path(run).parent for run in runs]))
    except ValueError:  # none, or on several drives
        return ""


def _shared(group: Group, line: dict[str, str], parent: str, same: set[str]) -> str:
    parts = [f"runs in {Path(parent).as_posix()}/"] if parent else []
    parts += [f"{key} {line[key]}" for key in ("run", "name", "step") if key in same and line[key]]
    if len(group.rows) > 1:
        usual = {key: value for key, value in group.shared_settings.items() if key != "sampler" or key in same}
        parts.append(sampling_title(usual, {"network_precision": usual.get("network_precision")}))
    if "steps" in same and line["steps"]:
        parts.append(f"{line['steps']} steps")
    if "calls" in same and line["calls"] not in ("", line["steps"]):
        parts.append(f"{line['calls']} network calls")
    return ", ".join(filter(None, parts))


def _spread(rows: Sequence[Score]) -> str:
    """What ± means, in a table of these rows; empty if no row has it."""
    kinds = {row["trainings"] > 1 for row in rows if row["n"] > 1}
    if not kinds:
        return ""
    number = str(rows[0]["n"]) if len({row["n"] for row in rows}) == 1 else "n"
    trainings = f"{number} trainings with different seeds"
    if kinds == {True, False}:
        trainings = "n trainings with different seeds, or n samplings of one"
    return f"±: standard deviation over {trainings if True in kinds else f'{number} seeds of sampling, of the same weights'}"


def _exact(value: object) -> str:
    if isinstance(value, list):
        return value_text("x".join(map(str, value)))
    return repr(value) if isinstance(value, float) else value_text(value)
