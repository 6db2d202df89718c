"""Scores as readable tables, one per protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from blurcli.core.sampling_options import SAMPLING_OPTIONS
from blurcli.evaluate.metrics import TITLES
from blurcli.evaluate.records import Group, Score, comparable, is_number

# Keys of a score with their titles, in the order of the columns; keys with one value in all rows are shown once.
_SUBJECT = {"samples": "samples", "step": "step"}
_SETTINGS = {
    **{one.name: one.title for one in SAMPLING_OPTIONS},
    "guide": "guide",
    "calls": "calls",
    "temperature": "temperature",
    "draws": "draws",
    "calibrated": "calibrated",
    "network_precision": "precision of the network",
    "seed": "seed",
}
_PROTOCOL = {
    "n": "images",
    "images": "indices of the images",
    "features": "features",
    "features_sha256": "SHA-256 of the features' network",
    "mode": "mode of clean-fid",
    "reference": "reference",
    "reference_images": "reference images",
    "reference_hash": "hash of the reference",
    "split": "split",
    "size": "image size",
    "weights_sha256": "hash of the weights",
    "name": "name",
    "device": "device",
    "hardware": "hardware",
    "versions": "versions",
    "time": "time",
}
_ALWAYS = ("step", "sampler", "steps", "final", "seed")  # columns even where all rows agree
_MOST_VALUES = 8  # per row, such as seeds


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one protocol.

    Attributes:
        heading: the metric, the number of images and the reference.
        shared: names and values that are the same for all rows.
        columns: titles of the columns.
        rows: one per subject, the best first; means over seeds.
    """

    heading: str
    shared: list[tuple[str, str]]
    columns: list[str]
    rows: list[list[str]]


def heading(group: Group, shown: Callable[[str], str] = str) -> str:
    """The metric, its protocol, the number of images and the reference.

    Args:
        group: the scores.
        shown: converts the name of the reference, which can be a path, for display.
    """
    protocol = group.protocol
    if "damage" in protocol:
        how = f"in dB, of images restored after {protocol['damage']}, seed {protocol['seed']}"
    elif "calls" in protocol:
        time = f"{protocol['steps']} ancestral steps" if protocol["steps"] else "continuous time"
        bound = "by blur levels" if protocol["by_levels"] else f"in {time}"
        how = f"{bound}, {protocol['calls']} calls, seed {protocol['seed']}"
    else:
        how = f"in {protocol['features']}"
    reference = f"{shown(str(protocol['reference']))} ({str(protocol['reference_hash'])[:8]})"
    return f"{TITLES[group.metric]} {how}: {protocol['n']:,} images, reference {reference}"


def value_text(value: object) -> str:
    """A value of a score, for a table."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value).encode(errors="replace").decode()  # lines of a file can hold anything
    return f"{value:.4f}" if abs(value) >= 0.1 else f"{value:.3g}"


def tabulate(titles: Mapping[str, str], rows: Iterable[Mapping[str, object]]) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of text, from titles by key and rows of values by key; empty columns are left out."""
    texts = [{key: value_text(row.get(key)) for key in titles} for row in rows]
    filled = [key for key in titles if any(text[key] for text in texts)]
    return [titles[key] for key in filled], [[text[key] for key in filled] for text in texts]


def score_tables(scores: Iterable[Score], shown: Callable[[str], str] = str) -> list[ScoreTable]:
    """All scores, one table per protocol.

    Args:
        scores: lines of evaluations.jsonl.
        shown: converts a path of images for display.
    """
    tables = []
    for group in comparable(scores):
        ranked = {group.metric: TITLES[group.metric], "std": "+-"}
        others = {key: title for key, title in TITLES.items() if key != group.metric}
        lines = []
        for row, own in zip(group.rows, group.scores, strict=True):
            recorded = {key: _values(own, key, shown) for key in (*_SUBJECT, *_SETTINGS, *_PROTOCOL)}
            lines.append(recorded | {key: value_text(row.get(key)) for key in (*ranked, *others)})
        tables.append(_table(heading(group, shown), lines, _SUBJECT | ranked | _SETTINGS | others | _PROTOCOL))
    return tables


def _table(title: str, lines: list[dict[str, str]], names: dict[str, str]) -> ScoreTable:
    same = {key for key in names if len({line[key] for line in lines}) == 1} - {*_ALWAYS, "std", *TITLES}
    shared = [(names[key], lines[0][key]) for key in names if key in same and lines[0][key]]
    return ScoreTable(title, shared, *tabulate({key: names[key] for key in names if key not in same}, lines))


def _values(scores: list[Score], key: str, shown: Callable[[str], str]) -> str:
    """The different values of a key, as text."""
    found = [_described(key, score.get(key), shown) for score in scores]
    values = [value for value in dict.fromkeys(found) if value]
    return ", ".join(values[:_MOST_VALUES]) + (", ..." if len(values) > _MOST_VALUES else "")


def _described(key: str, value: object, shown: Callable[[str], str]) -> str:
    if value is None:
        return ""
    if key in ("samples", "reference"):
        return shown(value_text(value))
    if key == "weights_sha256":
        return value_text(value)[:8]
    if key == "time" and isinstance(value, str):
        return value[:16].replace("T", " ")
    if key == "size" and isinstance(value, list):
        return "x".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name} {version}" for name, version in value.items())
    if key in ("n", "reference_images") and is_number(value):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else value_text(value)
