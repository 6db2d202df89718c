"""`blurdiff results`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.base.errors import UsageError, quoted
from blurcli.cli import completion
from blurcli.cli.common import JsonOption

if TYPE_CHECKING:
    from blurcli.evaluate import Group


def results(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders, or evaluations.jsonl files. [default: all below runs/]", autocompletion=completion.runs
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show recorded scores, the best first, in one table per protocol.

    Scores of different protocols are not comparable.
    """
    from blurcli import evaluate
    from blurcli.base import console, files
    from blurcli.base.runs import RUNS, resolve_run, similar_run

    scores: list[dict[str, Any]] = []
    paths: dict[Path, Path] = {}
    for path in [] if runs else sorted(RUNS.glob("**/evaluations.jsonl")):
        if reason := files.unreadable(path):
            console.notify(f"skipped {path}: {reason}")
        else:
            paths.setdefault(path.resolve(), path)
    for given in runs or ():
        found = resolve_run(given).path
        path = found / "evaluations.jsonl" if found.is_dir() else found
        if not (found.exists() or found.is_symlink()):
            raise UsageError(f"{given}: no such run folder or file of scores{similar_run(given)}")
        if reason := files.unreadable(path):
            raise UsageError(f"{path}: {reason}; score the run with: blurdiff fid --run {quoted(found)}")
        paths.setdefault(path.resolve(), path)
    for path in paths.values():
        scores += [{**score, "run": str(path.parent)} for score in evaluate.recorded(path)]
    groups = evaluate.comparable(scores)
    if as_json:
        shown = [{"metric": group.metric, "protocol": group.protocol, "rows": group.rows} for group in groups]
        console.result_json({"groups": shown})
        return
    if not groups:
        console.notify("no scores yet; score the newest run with: blurdiff fid")
    for number, group in enumerate(groups):
        if number:
            console.result("")
        console.result(evaluate.heading(group))
        console.table(*_table(group))


def _table(group: Group) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows, without empty columns."""
    from blurcli.base.runs import RUNS
    from blurcli.evaluate import TITLES, value_text

    others = [key for key in TITLES if key != group.metric and any(key in row for row in group.rows)]
    columns = ["run", "name", "step", "sampler", "steps", TITLES[group.metric], "+-", "seeds", *(TITLES[k] for k in others)]
    rows = []
    for row in group.rows:
        subject = row["samples"] or (row["weights"] if row["run"] == str(RUNS) else row["run"])
        labels = [subject, row["name"] or "", row["step"], group.title(row), row["steps"]]
        values = [row[group.metric], row["std"], row["seeds"], *(row.get(key) for key in others)]
        rows.append([value_text(value) for value in (*labels, *values)])
    filled = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return [columns[i] for i in filled], [[row[i] for i in filled] for row in rows]
