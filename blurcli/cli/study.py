"""`blurdiff study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.base.errors import UsageError
from blurcli.cli import common

if TYPE_CHECKING:
    from blurcli.workflows.study import Worker
    from blurcli.workflows.study_plan import Plan
    from blurcli.workflows.study_report import Report
    from blurcli.workflows.study_setup import Cost


def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of the study; see docs/studies.")],
    data: Annotated[str | None, typer.Option("--data", help="Images instead of the file's, as for train.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the study. [default: runs/<file>]")] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            help="Network for scores with features: file, a TorchScript or torch.export file (code: it is executed).",
        ),
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="I/N: only part I of N, for several machines with one disk. [default: all]")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes on this machine.")] = 1,
    device: common.DeviceOption = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print trainings, time and disk, and stop.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Compare variants of a preset over several seeds.

    Trainings with paired seeds, scores, a table with intervals, and plots.
    What is done is not done again: Ctrl-C and the same command continue; more seeds, variants, lengths or scores in the file
    extend it. The same command can run several times at once: each training is done by one process.
    """
    from blurcli.workflows.study import Worker
    from blurcli.workflows.study_plan import parse_part
    from blurcli.workflows.study_report import report_of
    from blurcli.workflows.study_setup import costs, plan_study, run_jobs

    index, count = parse_part(part)
    plan = plan_study(file, data, out, features, device)
    if dry_run:
        _show_costs(costs(plan, device), plan, as_json)
        return
    if jobs > 1:
        if any(plan.left(task) for task in plan.tasks):
            arguments = ["study", str(file), "--out", str(plan.folder), "--device", device, "--part", f"{index}/{count}"]
            given = {"--data": data, "--features": features}
            arguments += [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
            run_jobs(arguments, jobs, plan, device)
    else:
        _work(Worker(plan, device, features), index, count)
    report = report_of(plan)
    if not report.rows:
        raise UsageError(f"{plan.folder}: no score yet" + "".join(f"\nfailed: {one}" for one in plan.failures()))
    _show(report, as_json)


def _work(worker: Worker, index: int, count: int) -> None:
    from blurcli.base import console
    from blurcli.training import Interrupted

    try:
        worker.work(worker.plan.part(index, count))
    except Interrupted as stop:
        console.notify(f"{stop}; the same command continues")
        raise typer.Exit(stop.exit_code) from None


def _show(report: Report, as_json: bool) -> None:
    from blurcli.base import console

    paths = report.write()
    if as_json:
        files = [str(path) for path in paths]
        console.result_json(
            {"folder": str(report.plan.folder), "summary": report.summary(), "rows": report.rows, "files": files}
        )
        return
    console.table(*report.table())
    for line in report.caption():
        console.result(line)
    for path in paths:
        console.notify(str(path))


def _show_costs(found: list[Cost], plan: Plan, as_json: bool) -> None:
    from dataclasses import asdict

    from blurcli.base import console
    from blurcli.base.pace import duration

    seconds, mib = (sum(getattr(one, key) for one in found) for key in ("seconds", "mib"))
    if as_json:
        console.result_json(
            {"folder": str(plan.folder), "variants": [asdict(one) for one in found], "seconds": seconds, "mib": mib}
        )
        return
    titles = ["variant", "trainings", "done", "steps", "time left", "disk"]
    rows = [
        [
            *(one.variant, str(one.trainings), str(one.done), "" if one.steps is None else f"{one.steps:,}"),
            *(duration(one.seconds), f"{one.mib:,.0f} MiB"),
        ]
        for one in found
    ]
    console.table(titles, rows)
    console.result(
        f"{plan.folder}: {sum(one.trainings for one in found)} trainings, {len(plan.cells)} scores; about {duration(seconds)} "
        f"left by one process, {mib:,.0f} MiB"
    )
