"""evaluations.jsonl: one line a score, with its whole protocol; and which scores may be compared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blurcli import files

Score = dict[str, Any]

# What must agree for two scores to be comparable, for each metric.
_PROTOCOLS = {
    "fid": ("features", "reference_hash", "size", "n"),
    "fd": ("features", "reference_hash", "size", "n"),
    "bits_per_dim": ("reference_hash", "n", "steps", "calls", "seed"),
}
# What tells one row of a table from another; scores that differ in the seed alone are one row.
_SUBJECT = (
    "run",
    "name",
    "samples",
    "weights",
    "weights_sha256",
    "step",
    "sampler",
    "steps",
    "eta",
    "delta",
    "label",
    "guidance",
    "calibrated",
)
_LARGEST = 1e300
MEASURES = ("fid", "fd", "bits_per_dim", "kid", "kd", "precision", "recall", "log_spectral_distance")


@dataclass(frozen=True)
class Group:
    """Scores by one protocol.

    Attributes:
        metric: what they are ranked by; lower is better.
        protocol: what they share; `reference` is how one of them calls it.
        rows: one for every subject, the best first: what it is, the mean of every measure over its seeds, `std` of the metric
            (None for one seed), `min`, `max` and `seeds`.
    """

    metric: str
    protocol: dict[str, Any]
    rows: list[dict[str, Any]]


def record(path: Path, score: Score) -> None:
    """Append a score with its whole protocol to evaluations.jsonl, as one line in one write."""
    with files.explained(path), path.open("a+b") as file:
        # A line that a crash cut short must not take this one with it.
        file.seek(max(0, file.tell() - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(score).encode() + b"\n")


def recorded(path: Path) -> list[Score]:
    """The scores in an evaluations.jsonl, oldest first; none when there is no such file. Lines cut short are left out."""
    return files.json_lines(path)


def comparable(scores: Iterable[Score]) -> list[Group]:
    """Scores in groups of one protocol each, ranked within them only."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        for metric, keys in _PROTOCOLS.items():
            if _is_number(score.get(metric)) and _is_number(score.get("n")) and score.get("reference_hash"):
                groups.setdefault((metric, _values(score, keys)), []).append(score)
    return [
        Group(metric, {key: members[0].get(key) for key in ("reference", *_PROTOCOLS[metric])}, _rows(metric, members))
        for (metric, _), members in groups.items()
    ]


def _is_number(value: object) -> bool:
    """Whether a line of the file, which may be anybody's, has a measure there."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _values(score: Score, keys: Iterable[str]) -> str:
    """The values of some keys, as something that can be a key itself, whatever a line in the file says."""
    return json.dumps([score.get(key) for key in keys])


def _rows(metric: str, scores: list[Score]) -> list[dict[str, Any]]:
    subjects: dict[str, dict[str, Score]] = {}
    for score in scores:
        # Taken twice, the later score counts.
        subjects.setdefault(_values(score, _SUBJECT), {})[_values(score, ["seed"])] = score
    rows = []
    for by_seed in subjects.values():
        first = next(iter(by_seed.values()))
        values = {name: [s[name] for s in by_seed.values() if _is_number(s.get(name))] for name in MEASURES}
        own = values[metric]
        rows.append(
            {
                **{key: first.get(key) for key in _SUBJECT},
                **{name: statistics.fmean(found) for name, found in values.items() if found},
                "std": statistics.stdev(own) if len(own) > 1 else None,
                "min": min(own),
                "max": max(own),
                "seeds": len(own),
            }
        )
    return sorted(rows, key=lambda row: float(row[metric]))
