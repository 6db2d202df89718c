"""`blurdiff plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blurcli.base.errors import UsageError
from blurcli.cli import completion
from blurcli.cli.common import JsonOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blurcli.base.runs import Run
    from blurcli.visualize.records import Plot


def plot(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder. [default: the newest run]", autocompletion=completion.runs)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the plots. [default: plots/ in the run folder]")] = None,
    file_format: Annotated[Literal["png", "svg", "both"], typer.Option("--format", help="File format.")] = "both",
    as_json: JsonOption = False,
) -> None:
    """Plot the records of a run: losses, scores, power spectra.

    Scores are plotted over training, and samplers against their steps.
    """
    from blurcli.base import console, files
    from blurcli.base.runs import RUNS, missing_run, newest_run, resolve_run

    chosen = resolve_run(run) if run is not None else newest_run(console.notify)
    if chosen is None:
        raise UsageError(f"no run with weights in {RUNS}/: name one, or train one with: blurdiff train --preset shapes-blur")
    if not chosen.path.is_dir():
        raise UsageError(f"{chosen.path}: {missing_run(chosen.path)}")
    folder = out or chosen.path / "plots"
    plots = list(_plots(chosen))
    if not plots:
        raise UsageError(f"{chosen.path}: nothing is recorded yet; record losses with blurdiff train, scores with blurdiff fid")
    files.check_writable(folder / plots[0].name)
    paths = []
    for one in plots:
        for suffix in ("png", "svg") if file_format == "both" else (file_format,):
            paths.append(folder / f"{one.name}.{suffix}")
            one.save(paths[-1])
    if as_json:
        console.result_json({"plots": [str(path) for path in paths]})
    else:
        for path in paths:
            console.result(str(path))


def _plots(run: Run) -> Iterator[Plot]:
    from functools import partial

    from blurcli.base import console
    from blurcli.visualize import plots
    from blurcli.visualize.records import Plot, loss_plots, newest_spectra, score_plots

    yield from loss_plots(run, console.notify)
    yield from score_plots(run, console.notify)
    spectra = newest_spectra(run)
    if spectra is not None:
        yield Plot("spectrum", "Power spectra", partial(plots.save_spectrum, spectra))
    else:
        console.notify("no plot of the power spectra: measure them with blurdiff fid")
