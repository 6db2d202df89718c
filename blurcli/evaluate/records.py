"""evaluations.jsonl: one line per score with its protocol; scores grouped by subject and by protocol."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from blurcli.base import files
from blurcli.core.samplers import SAMPLERS
from blurcli.core.sampling_options import SAMPLING_OPTIONS, SamplingConfig
from blurcli.evaluate.metrics import METRICS, RANKING, TITLES, Metric

Score = dict[str, Any]

SAMPLING = (*(one.name for one in SAMPLING_OPTIONS), "guide")
"""The keys of a score that hold its `SamplingConfig`."""

_EXECUTION = ("calibrated", "network_precision")
_RESTORATION = ("temperature", "draws")
_SUBJECT = (
    *("weights_sha256", "step", *SAMPLING, *_EXECUTION, "features", "reference_hash", "size", "n", "calls"),
    *("damage", *_RESTORATION),
)
# The values for missing keys of a score.
_NEUTRAL: Score = {one.name: one.neutral for one in SAMPLING_OPTIONS} | {"calibrated": False, "final": "noisy"}
_LABELS = ("run", "name", "samples", "weights")
_ROW_KEYS = (*_LABELS, "weights_sha256", "step", *SAMPLING, *_EXECUTION, *_RESTORATION)
_LARGEST = 1e300


@dataclass(frozen=True)
class Group:
    """Scores with one protocol.

    Attributes:
        metric: name of the metric by which they are ranked.
        protocol: the shared keys, and the name of the `reference`.
        rows: one per subject, the best first: its labels and settings, network `calls` per image (None if unknown), the mean
            of every metric over its seeds, `std` of the ranking metric (None for one seed), `min`, `max`, and the number of
            `seeds`.
        scores: for each row, the scores behind it, one per seed.
    """

    metric: str
    protocol: Score
    rows: list[Score]
    scores: list[list[Score]]

    def title(self, row: Score) -> str:
        """`sampling_title` of a row, with the precision of the network only if rows differ in it."""
        return sampling_title(row, {"network_precision": self.shared_settings.get("network_precision")})

    @property
    def shared_settings(self) -> Score:
        """The settings of sampling and restoration that have one value in all rows."""
        keys = (*SAMPLING, *_EXECUTION, *_RESTORATION)
        return {key: self.rows[0].get(key) for key in keys if len({repr(_setting(row, key)) for row in self.rows}) == 1}


def record(path: Path, score: Score) -> None:
    """Append a score to evaluations.jsonl, as one line in one write.

    Raises:
        UserError: the file cannot be written.
    """
    files.append_json_line(path, score)


def recorded(path: Path) -> list[Score]:
    """The scores in an evaluations.jsonl, oldest first; none if the file is missing. Truncated lines are skipped."""
    return files.json_lines(path)


def subject_of(score: Score, across: Collection[str] = ()) -> str:
    """Identify what was scored, and how. Scores with equal subjects differ only in their random seeds.

    A model is identified by the SHA-256 of its weights; their path, the run folder and --name are labels. Images from files are
    identified by their path and --name. A missing key counts as the neutral value of that setting.

    Args:
        score: a line of evaluations.jsonl, or a row of a `Group`.
        across: keys that may differ, such as ("weights_sha256", "step") for a curve over training.

    Returns:
        The identity, as JSON.
    """
    values = {key: _setting(score, key) for key in _SUBJECT}
    values["weights_sha256"] = _source(score)
    return json.dumps([value for key, value in values.items() if key not in across])


def sampling_title(score: Score, usual: Score | None = None) -> str:
    """The sampler and its settings, such as "ddim eta 0.5 guidance 2".

    Args:
        score: a line of evaluations.jsonl, or a row of a `Group`.
        usual: settings that are not mentioned; None for the neutral ones.
    """
    parts = [] if score.get("sampler") is None else [str(score["sampler"])]
    titles = {one.name: one.title for one in SAMPLING_OPTIONS if one.name not in ("sampler", "steps")}
    for key, title in (titles | {"guide": "by", "temperature": "temperature", "draws": "mean of"}).items():
        value = _setting(score, key)
        if value is not None and value != _setting(usual or {}, key):
            parts.append(f"{title} {value:g}" if is_number(value) else f"{title} {value}")
    if bool(_setting(score, "calibrated")) != bool(_setting(usual or {}, "calibrated")):
        parts.append("calibrated" if _setting(score, "calibrated") else "uncalibrated")
    if score.get("network_precision") not in (None, (usual or {}).get("network_precision")):
        parts.append(str(score["network_precision"]))
    return " ".join(parts)


def network_calls(score: Score) -> int | None:
    """Network calls per image, over all draws of a restored one; those of a likelihood are recorded. None if unknown."""
    draws = score.get("draws")
    calls, sampler, steps, guidance = (score.get(key) for key in ("calls", "sampler", "steps", "guidance"))
    if calls is None and isinstance(sampler, str) and sampler in SAMPLERS and is_number(steps):
        named = {key: score.get(key) for key in ("label", "guide")}
        calls = SamplingConfig(sampler, int(steps), guidance=guidance if is_number(guidance) else 1.0, **named).calls
    total = int(calls) * (int(draws) if is_number(draws) else 1) if is_number(calls) else 0
    return total if 0 < total < _LARGEST else None


def comparable(scores: Iterable[Score], by: str | None = None) -> list[Group]:
    """Scores grouped by protocol, and ranked within each group.

    Args:
        scores: lines of evaluations.jsonl.
        by: name of a metric: only scores that have it, ranked by it, in the groups of the metrics that rank; None for all.
    """
    ranking = [metric for metric in RANKING if metric.name == by] or RANKING
    groups: dict[tuple[Metric, str], list[Score]] = {}
    for score in scores:
        for metric in ranking:
            numbers = (metric.name, by or metric.name, "n")
            if all(is_number(score.get(key)) for key in numbers) and score.get("reference_hash"):
                protocol = json.dumps([_protocol_value(score, key) for key in metric.protocol])
                groups.setdefault((metric, protocol), []).append(score)
    chosen = next((metric for metric in METRICS if metric.name == by), None)
    return [
        Group(
            (chosen or metric).name,
            {key: _protocol_value(members[0], key) for key in ("reference", *metric.protocol)},
            *_rows(chosen or metric, members),
        )
        for (metric, _), members in groups.items()
    ]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _setting(score: Score, key: str) -> Any:
    """A value in normalized form: 1 as 1.0, and the neutral value for a missing key."""
    value = score.get(key)
    if value is None:
        value = _NEUTRAL.get(key)
    return float(value) if is_number(value) else value


def _source(score: Score) -> Any:
    if score.get("weights_sha256"):
        return score["weights_sha256"]
    return [score.get(key) for key in (("samples", "name") if score.get("samples") else ("weights", "run", "name"))]


def _protocol_value(score: Score, key: str) -> Any:
    """A value that decides whether scores are comparable; a bound over levels (it has a delta) differs from one over time."""
    return score.get("delta") is not None if key == "by_levels" else score.get(key)


def _rows(metric: Metric, scores: list[Score]) -> tuple[list[Score], list[list[Score]]]:
    subjects: dict[str, dict[str, Score]] = {}
    for score in scores:
        # The last of repeated scores counts.
        subjects.setdefault(subject_of(score), {})[json.dumps(score.get("seed"))] = score
    members = [list(by_seed.values()) for by_seed in subjects.values()]
    rows = [_row(metric.name, own) for own in members]
    order = sorted(range(len(rows)), key=lambda i: float(rows[i][metric.name]), reverse=metric.higher_is_better)
    return [rows[i] for i in order], [members[i] for i in order]


def _row(metric: str, scores: list[Score]) -> Score:
    values = {name: [score[name] for score in scores if is_number(score.get(name))] for name in TITLES}
    names = dict.fromkeys(str(score["name"]) for score in scores if score.get("name"))
    ranked = values[metric]
    return {
        **{key: scores[0].get(key) for key in _ROW_KEYS},
        "calls": network_calls(scores[0]),
        "name": ", ".join(names) or scores[0].get("name"),
        **{name: statistics.fmean(found) for name, found in values.items() if found},
        "std": statistics.stdev(ranked) if len(ranked) > 1 else None,
        "min": min(ranked),
        "max": max(ranked),
        "seeds": len(ranked),
    }
