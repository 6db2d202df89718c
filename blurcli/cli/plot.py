"""`blurdiff plot`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blurcli.base.errors import UsageError
from blurcli.cli import completion
from blurcli.cli.common import JsonOption

if TYPE_CHECKING:
    from blurcli.base.runs import Run
    from blurcli.visualize.records import Plot


def plot(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders, or folders of runs: several are compared. [default: the newest run]",
            autocompletion=completion.runs,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the plots. [default: plots/ in the run folder; of several, in their parent]"),
    ] = None,
    file_format: Annotated[
        Literal["png", "svg", "pdf", "both"], typer.Option("--format", help="png, svg or pdf; both: png and svg.")
    ] = "both",
    width: Annotated[
        float, typer.Option("--width", min=2, max=20, help="Width in inches; a column of a paper has about 3.3.")
    ] = 7.0,
    as_json: JsonOption = False,
) -> None:
    """Plot the records of a run: losses, scores, power spectra. Or compare the losses and scores of several.

    Scores are plotted over training, and samplers against their network calls. Several runs are named by what differs between
    their configurations; runs that differ only in their seed are one line, with a band from the smallest to the largest value.
    """
    from blurcli.base import console, files
    from blurcli.visualize.comparison_plots import printed

    if out is not None and out.suffix.lower() in (".png", ".svg", ".pdf"):
        raise UsageError(
            f"--out {out}: is the folder of several plots; choose their format with --format {out.suffix[1:].lower()}"
        )
    chosen = _chosen(runs or ())
    folder = out or _common_folder(chosen) / "plots"
    plots = list(_plots(chosen))
    if not plots and len(chosen) == 1:
        raise UsageError(
            f"{chosen[0].path}: nothing is recorded yet; record losses with blurdiff train, scores with blurdiff fid"
        )
    if not plots:
        raise UsageError("the runs have no losses, and no scores to compare; score them with blurdiff fid or blurdiff sweep")
    files.check_writable(folder / plots[0].name)
    paths = []
    with printed(width):
        for one in plots:
            for suffix in ("png", "svg") if file_format == "both" else (file_format,):
                paths.append(folder / f"{one.name}.{suffix}")
                one.save(paths[-1], width=width)
    if as_json:
        console.result_json({"plots": [str(path) for path in paths]})
    else:
        for path in paths:
            console.result(str(path))


def _chosen(given: Sequence[Path]) -> list[Run]:
    """The runs to plot, each once: the named ones, and those below named folders of runs; or the newest."""
    from blurcli.base import console
    from blurcli.base.runs import RUNS, missing_run, newest_run, resolve_run, runs_below
    from blurcli.visualize.run_comparison import has_records

    if not given:
        newest = newest_run(console.notify)
        if newest is None:
            raise UsageError(
                f"no run with weights in {RUNS}/: name one, or train one with: blurdiff train --preset shapes-blur"
            )
        return [newest]
    chosen: dict[Path, Run] = {}
    for path in given:
        named = resolve_run(path)
        if not named.path.is_dir():
            raise UsageError(f"{named.path}: {missing_run(named.path)}")
        below = runs_below(named.path)
        recorded = [run for run in below if has_records(run)]
        if below and not recorded:
            raise UsageError(f"{named.path}: its {len(below)} runs have no records yet; name runs that have trained")
        for run in below:
            if run not in recorded:
                console.notify(f"skipped {run.path}: nothing is recorded yet")
        for run in recorded or [named]:
            if (same := chosen.setdefault(run.path.resolve(), run)) is not run:
                raise UsageError(f"{run.path}: is named twice (also as {same.path}); name each run once")
    return list(chosen.values())


def _common_folder(runs: Sequence[Run]) -> Path:
    """The run folder, or the folder that all runs are below."""
    if len(runs) == 1:
        return runs[0].path
    parents = [run.path.parent.resolve() for run in runs]
    common = Path(os.path.commonpath(parents))
    return next((run.path.parent for run, parent in zip(runs, parents, strict=True) if parent == common), common)


def _plots(runs: Sequence[Run]) -> Iterator[Plot]:
    from functools import partial

    from blurcli.base import console
    from blurcli.visualize import plots
    from blurcli.visualize.records import Plot, loss_plots, newest_spectra, score_plots
    from blurcli.visualize.run_comparison import comparison_plots

    if len(runs) > 1:
        yield from comparison_plots(runs, console.notify)
        return
    run = runs[0]
    yield from loss_plots(run, console.notify)
    yield from score_plots(run, console.notify)
    spectra = newest_spectra(run)
    if spectra is not None:
        yield Plot("spectrum", "Power spectra", partial(plots.save_spectrum, spectra))
    else:
        console.notify("no plot of the power spectra: measure them with blurdiff fid")
