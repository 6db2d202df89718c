"""`blurdiff plot`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard

import typer

from blurcli.cli.common import JsonOption
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from blurcli.evaluate import Group
    from blurcli.runs import Run

Plot = tuple[str, Callable[[Path], None]]
"""The name of a plot, and the function that writes it to a file."""


def plot(
    run: Annotated[Path | None, typer.Argument(help="Run folder. [default: the newest run]")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the plots. [default: plots/ in the run folder]")] = None,
    file_format: Annotated[Literal["png", "svg", "both"], typer.Option("--format", help="File format.")] = "both",
    as_json: JsonOption = False,
) -> None:
    """Plot the records of a run: loss, scores over training, power spectra, and samplers against their steps."""
    from blurcli import console, files
    from blurcli.runs import RUNS, Run, newest_run

    chosen = Run(run) if run is not None else newest_run()
    if chosen is None:
        raise UsageError(f"no run with weights in {RUNS}/: name one, or train one with: blurdiff train --preset shapes-blur")
    if not chosen.path.is_dir():
        raise UsageError(f"{chosen.path}: no such run folder")
    folder = out or chosen.path / "plots"
    plots = [*_losses(chosen), *_scores(chosen)]
    if not plots:
        raise UsageError(f"{chosen.path}: nothing is recorded yet; record losses with blurdiff train, scores with blurdiff fid")
    files.check_writable(folder / plots[0][0])
    paths = []
    for name, save in plots:
        for suffix in ("png", "svg") if file_format == "both" else (file_format,):
            paths.append(folder / f"{name}.{suffix}")
            save(paths[-1])
    if as_json:
        console.result_json({"plots": [str(path) for path in paths]})
    else:
        for path in paths:
            console.result(str(path))


def _losses(run: Run) -> Iterator[Plot]:
    from blurcli import console, files
    from blurcli.visualize.plots import save_loss

    lines = [line for line in files.json_lines(run.metrics_path) if _numbers([line.get("step"), line.get("loss")])]
    if not lines:
        console.notify(f"no plot of the loss: {run.metrics_path} is missing or empty; blurdiff train writes it")
        return
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    by_time: dict[float, list[tuple[int, float]]] = {}
    for line in files.json_lines(run.health_path):
        times, rows = line.get("times"), line.get("loss")
        if _numbers([line.get("step")]) and _numbers(times) and isinstance(rows, list):
            for t, bands in zip(times, rows, strict=False):
                if _numbers(bands):
                    by_time.setdefault(t, []).append((line["step"], sum(bands) / len(bands)))
    yield "loss", partial(save_loss, steps, losses, by_time)


def _scores(run: Run) -> Iterator[Plot]:
    from blurcli import console, evaluate
    from blurcli.visualize.plots import save_scores, save_spectrum, save_sweep

    scores = [score for score in evaluate.recorded(run.evaluations_path) if _numbers([score.get("step"), score.get("steps")])]
    groups = [group for group in evaluate.comparable(scores) if "features" in group.protocol]
    for number, group in enumerate(groups):
        name = f"{group.metric}-{group.protocol['features']}-n{group.protocol['n']}" + f"-{number}" * (number > 0)
        title = f"{evaluate.TITLES[group.metric]} ({group.protocol['features']}, {group.protocol['n']:,} images)"
        over_training, over_steps = _over_training(group), _over_steps(group)
        if over_training:
            yield name, partial(save_scores, over_training, title)
        else:
            console.notify(
                f"no plot of {title} over training: it needs scores of two weights files; set train.score_every_steps"
            )
        if over_steps:
            yield f"sweep-{name}", partial(save_sweep, over_steps, title)
        else:
            console.notify(f"no plot of {title} against the sampler's steps: record them with blurdiff sweep")
    with_spectra = [score for score in scores if _has_spectra(score)]
    if with_spectra:
        newest = max(with_spectra, key=lambda score: float(score["step"]))
        yield "spectrum", partial(save_spectrum, newest)
    else:
        console.notify("no plot of the power spectra: measure them with blurdiff fid")


def _numbers(values: object) -> TypeGuard[list[float]]:
    """Whether the values are at least one finite number each: lines of a file can hold anything."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )


def _has_spectra(score: dict[str, Any]) -> bool:
    """Whether a score can be plotted by `save_spectrum`."""
    from blurcli.core.bands import frequency_bands
    from blurcli.evaluate.distances import BANDS_PER_OCTAVE

    size, ours, reference = score.get("size"), score.get("spectrum"), score.get("reference_spectrum")
    if not (_numbers(size) and len(size) == 2 and min(size) >= 1 and _numbers(ours)):
        return False
    if reference is not None and not _numbers(reference):
        return False
    bands = len(frequency_bands(int(size[0]), int(size[1]), BANDS_PER_OCTAVE)[1])
    return bands > 1 and len(ours) == bands and (reference is None or len(reference) == bands)


def _over_training(group: Group) -> dict[str, list[tuple[int, float, float, float]]]:
    """The scores of each sampler with its settings by training steps, where there are at least two."""
    from blurcli.evaluate import sampling_title, subject_of

    lines: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(group.rows, key=lambda row: int(row["step"])):
        lines.setdefault(subject_of(row, across=("weights_sha256", "step")), []).append(row)
    return {
        f"{sampling_title(rows[0])}, {rows[0]['steps']} steps": [
            (row["step"], row[group.metric], row["min"], row["max"]) for row in rows
        ]
        for rows in lines.values()
        if len(rows) > 1
    }


def _over_steps(group: Group) -> list[dict[str, Any]]:
    """The scores of the newest weights by steps of the sampler, where there are at least two numbers of steps."""
    from blurcli.evaluate import sampling_title

    newest = max(int(row["step"]) for row in group.rows)
    rows = [row for row in group.rows if row["step"] == newest]
    several = len({str(row["weights_sha256"]) for row in rows}) > 1
    points = [
        {
            "sampler": sampling_title(row) + f" {row['weights_sha256']}" * several,
            "steps": row["steps"],
            "mean": row[group.metric],
            "min": row["min"],
            "max": row["max"],
        }
        for row in rows
    ]
    return sorted(points, key=lambda row: (row["sampler"], row["steps"])) if len({row["steps"] for row in rows}) > 1 else []
