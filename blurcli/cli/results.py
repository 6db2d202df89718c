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
    from blurcli.base.runs import RUNS
    from blurcli.evaluate import TITLES, tabulate

    def subject(row: dict[str, Any]) -> Any:
        return row["samples"] or (row["weights"] if row["run"] == str(RUNS) else row["run"])

    labels = {key: key for key in ("run", "name", "step", "sampler", "steps")}
    titles = {**labels, group.metric: TITLES[group.metric], "std": "+-", "seeds": "seeds", **TITLES}
    return tabulate(titles, ({**row, "run": subject(row), "sampler": group.title(row)} for row in group.rows))
