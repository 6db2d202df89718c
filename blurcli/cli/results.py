"""`blurdiff results`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.cli.common import JsonOption
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from blurcli.evaluate import Group

_TITLES = {
    "fid": "FID",
    "fd": "FD",
    "bits_per_dim": "bits/dim",
    "kid": "KID",
    "kd": "KD",
    "precision": "precision",
    "recall": "recall",
    "log_spectral_distance": "log-spectral",
}


def results(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or evaluations.jsonl files. [default: all below runs/]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show recorded scores, the best first, in one table for each protocol: unlike scores are not ranked together."""
    from dataclasses import asdict

    from blurcli import console, evaluate
    from blurcli.runs import RUNS

    places = runs or sorted(RUNS.glob("**/evaluations.jsonl"))
    scores: list[dict[str, Any]] = []
    paths: dict[Path, Path] = {}
    for place in places:
        path = place / "evaluations.jsonl" if place.is_dir() else place
        if not path.is_file():
            raise UsageError(f"{path}: no such file; blurdiff fid --run {path.parent} takes a score")
        paths.setdefault(path.resolve(), path)
    for path in paths.values():
        scores += [{**score, "run": str(path.parent)} for score in evaluate.recorded(path)]
    groups = evaluate.comparable(scores)
    if as_json:
        console.result_json({"groups": [asdict(group) for group in groups]})
        return
    if not groups:
        raise UsageError("no scores yet: blurdiff fid takes one")
    for number, group in enumerate(groups):
        if number:
            console.result("")
        console.result(_heading(group))
        console.table(*_table(group))


def _heading(group: Group) -> str:
    protocol = group.protocol
    if group.metric == "bits_per_dim":
        time = f"{protocol['steps']} ancestral steps" if protocol["steps"] else "continuous time"
        how = f"in {time}, {protocol['calls']} calls, seed {protocol['seed']}"
    else:
        how = f"in {protocol['features']}"
    reference = f"{protocol['reference']} ({str(protocol['reference_hash'])[:8]})"
    return f"{_TITLES[group.metric]} {how}: {protocol['n']:,} images, reference {reference}"


def _table(group: Group) -> tuple[list[str], list[list[str]]]:
    from blurcli.runs import RUNS

    others = [key for key in _TITLES if key != group.metric and any(key in row for row in group.rows)]
    columns = ["run", "name", "step", "sampler", "steps", _TITLES[group.metric], "+-", "seeds", *(_TITLES[k] for k in others)]
    rows = []
    for row in group.rows:
        subject = row["samples"] or (row["weights"] if row["run"] == str(RUNS) else row["run"])
        sampler = _text(row["sampler"]) + (f" eta {row['eta']}" if row["eta"] else "")
        sampler += f" {row['label']}" * bool(row["label"]) + f" guidance {row['guidance']}" * ((row["guidance"] or 1) != 1)
        sampler += f" delta {row['delta']}" * bool(row["delta"])
        sampler += " calibrated" if row["calibrated"] else ""
        rows.append(
            [
                _text(subject),
                _text(row["name"] or ""),
                _text(row["step"]),
                sampler,
                _text(row["steps"]),
                _text(row[group.metric]),
                _text(row["std"]),
                str(row["seeds"]),
                *(_text(row.get(key)) for key in others),
            ]
        )
    filled = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return [columns[i] for i in filled], [[row[i] for i in filled] for row in rows]


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value).encode(errors="replace").decode()  # a line of the file may say anything
    return f"{value:.4f}" if abs(value) >= 0.1 else f"{value:.3g}"
