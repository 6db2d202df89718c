"""`blurdiff results`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blurcli.base.errors import UsageError, did_you_mean, quoted
from blurcli.cli import completion
from blurcli.cli.common import JsonOption

if TYPE_CHECKING:
    from blurcli.evaluate import Group, Training

_PRINTED_WIDTH = 80  # characters of a table in Markdown or LaTeX


def results(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders, folders of runs, or evaluations.jsonl files. [default: all below runs/]",
            autocompletion=completion.runs,
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Show and rank by this one: fd, precision, ... [default: each that ranks]")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Metric or column: fd, run, step, calls, ... [default: the metric]")
    ] = None,
    form: Annotated[
        Literal["table", "csv", "markdown", "latex", "json"],
        typer.Option("--format", help="table, markdown or latex; csv or json: complete, at full precision."),
    ] = "table",
    as_json: JsonOption = False,
) -> None:
    """Show recorded scores, the best first, in one table per protocol.

    Scores of different protocols are not comparable. Trainings that differ only in their seed, and seeds of sampling, are one
    row: mean ± standard deviation.
    """
    from blurcli import evaluate
    from blurcli.base import console
    from blurcli.base.tables import write_table

    if as_json and form not in ("table", "json"):
        raise UsageError(f"--json --format {form}: give one of them, not both")
    by = None if metric is None else _known("--metric", metric, evaluate.TITLES)
    order = "mean" if sort is None else _known("--sort", sort, evaluate.SORT_KEYS)
    scores, trainings = _recorded(runs)
    groups = [evaluate.over_trainings(group, trainings) for group in evaluate.comparable(scores, by)]
    groups = [evaluate.sorted_by(group, order) for group in groups]
    if as_json or form == "json":
        shown = [
            {"metric": group.metric, "protocol": group.protocol, "rows": list(map(_with_label, group.rows))} for group in groups
        ]
        console.result_json({"groups": shown})
    elif not scores:
        console.notify("no scores yet; score the newest run with: blurdiff fid")
    elif not groups:
        console.notify(f"no scores with {by or 'a metric that ranks, a number of images and a reference'}")
    elif form == "csv":
        console.result(write_table(*evaluate.ranking_records(groups), "csv").rstrip("\n"))
    else:
        for number, group in enumerate(groups):
            if number:
                console.result("")
            _show(group, form)


def _recorded(runs: Sequence[Path] | None) -> tuple[list[dict[str, Any]], dict[str, Training]]:
    """The scores of the runs, or of all, with their `run`; and what these were trained with, where it is known."""
    from blurcli import evaluate
    from blurcli.base import console, files
    from blurcli.base.runs import RUNS, Run, resolve_run, similar_run

    paths: dict[Path, Path] = {}
    for path in [] if runs else sorted(RUNS.glob("**/evaluations.jsonl")):
        if reason := files.unreadable(path):
            console.notify(f"skipped {path}: {reason}")
        else:
            paths.setdefault(path.resolve(), path)
    for given in runs or ():
        found = resolve_run(given).path
        path = found / "evaluations.jsonl" if found.is_dir() else found
        if found.is_dir() and not path.exists() and (below := sorted(found.glob("**/evaluations.jsonl"))):
            paths |= {own.resolve(): own for own in below if not files.unreadable(own)}
            continue
        if not (found.exists() or found.is_symlink()):
            raise UsageError(f"{given}: no such run folder or file of scores{similar_run(given)}")
        if reason := files.unreadable(path):
            raise UsageError(f"{path}: {reason}; score the run with: blurdiff fid --run {quoted(found)}")
        paths.setdefault(path.resolve(), path)
    scores, trainings = [], {}
    for path in paths.values():
        run = Run(path.parent)
        scores += [{**score, "run": str(run.path)} for score in evaluate.recorded(path)]
        if path == run.evaluations_path and run.config_path.exists():
            try:
                trainings[str(run.path)] = evaluate.Training.of(run)
            except UsageError as error:
                console.notify(f"the seeds of {run.path} stay rows of their own: {error.text}")
    return scores, trainings


def _known(flag: str, given: str, known: Iterable[str]) -> str:
    """A key, in capitals or not."""
    if given.lower() in known:
        return given.lower()
    raise UsageError(f"{flag} {given}: unknown{did_you_mean(given.lower(), known)} (known: {', '.join(known)})")


def _with_label(row: dict[str, Any]) -> dict[str, Any]:
    from blurcli.evaluate import run_label

    return row | {"run": run_label(row)} if len(row["runs"]) > 1 else row


def _show(group: Group, form: str) -> None:
    from blurcli import evaluate
    from blurcli.base import console
    from blurcli.base.tables import write_table

    table = evaluate.ranking_table(group, console.width() if form == "table" else _PRINTED_WIDTH)
    above = [text for text in (table.heading, table.shared) if text]
    if form == "table":
        console.result("\n".join(above))
        console.table(table.columns, table.rows)
        for note in table.notes:
            console.result(note)
    elif form == "latex":
        above, below = ([f"% {text}" for text in texts] for texts in (above, table.notes))
        console.result("\n".join([*above, write_table(table.columns, table.rows, form).rstrip("\n"), *below]))
    else:
        body = write_table(table.columns, table.rows, form).rstrip("\n")
        console.result("\n\n".join([*above, body, *table.notes]))
