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
"""A name, and what writes a file."""


def plot(
    run: Annotated[Path | None, typer.Argument(help="Run folder. [default: the newest run]")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the plots. [default: plots/ in the run folder]")] = None,
    kind: Annotated[Literal["png", "svg", "both"], typer.Option("--format", help="What to write.")] = "both",
    as_json: JsonOption = False,
) -> None:
    """Plot what a run has recorded: loss, scores over training, power spectra, and samplers against their steps."""
    from blurcli import console, files
    from blurcli.runs import RUNS, Run, newest_run

    chosen = Run(run) if run is not None else newest_run()
    if chosen is None:
        raise UsageError(f"no run with weights in {RUNS}/: name one, or train: blurdiff train --preset shapes-blur")
    if not chosen.path.is_dir():
        raise UsageError(f"{chosen.path}: no such run folder")
    folder = out or chosen.path / "plots"
    plots = [*_losses(chosen), *_scores(chosen)]
    if not plots:
        raise UsageError(
            f"{chosen.path}: nothing is recorded yet; blurdiff train writes {chosen.metrics_path.name}, blurdiff fid scores"
        )
    files.check_writable(folder / plots[0][0])
    paths = []
    for name, save in plots:
        for suffix in ("png", "svg") if kind == "both" else (kind,):
            paths.append(folder / f"{name}.{suffix}")
            save(paths[-1])
    if as_json:
        console.result_json({"plots": [str(path) for path in paths]})
    else:
        for path in paths:
            console.result(str(path))


def _losses(run: Run) -> Iterator[Plot]:
    from blurcli import console, files
    from blurcli.plots import save_loss

    lines = [line for line in files.json_lines(run.metrics_path) if _numbers([line.get("step"), line.get("loss")])]
    if not lines:
        console.say(f"no plot of the loss: {run.metrics_path} is not there, or empty")
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
    from blurcli.plots import save_scores, save_spectrum, save_sweep

    scores = [score for score in evaluate.recorded(run.evaluations_path) if _numbers([score.get("step"), score.get("steps")])]
    groups = [group for group in evaluate.comparable(scores) if group.metric in ("fid", "fd")]
    for number, group in enumerate(groups):
        name = f"{group.metric}-{group.protocol['features']}-n{group.protocol['n']}" + f"-{number}" * (number > 0)
        title = f"{group.metric.upper()} ({group.protocol['features']}, {group.protocol['n']:,} images)"
        over_training, over_steps = _over_training(group), _over_steps(group)
        if over_training:
            yield name, partial(save_scores, over_training, title)
        else:
            console.say(f"no plot of {title} over training: it takes scores of two weights files, or train.score_every_steps")
        if over_steps:
            yield f"sweep-{name}", partial(save_sweep, over_steps, title)
        else:
            console.say(f"no plot of {title} against the sampler's steps: blurdiff sweep takes such scores")
    with_spectra = [score for score in scores if _has_spectra(score)]
    if with_spectra:
        newest = max(with_spectra, key=lambda score: float(score["step"]))
        yield "spectrum", partial(save_spectrum, newest)
    else:
        console.say("no plot of the power spectra: blurdiff fid measures them")


def _numbers(values: object) -> TypeGuard[list[float]]:
    """Whether they are finite numbers, one at least: a line of a file may say anything."""
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


def _sampler(row: dict[str, Any]) -> str:
    marks = {"eta": row["eta"], "class": row["label"], "guidance": row["guidance"] if row["guidance"] != 1 else None}
    return " ".join([str(row["sampler"]), *(f"{name} {value}" for name, value in marks.items() if value)])


def _over_training(group: Group) -> dict[str, list[tuple[int, float, float, float]]]:
    """The scores of each sampler by training steps; nothing where there is one number of these only."""
    lines: dict[str, list[tuple[int, float, float, float]]] = {}
    for row in sorted(group.rows, key=lambda row: int(row["step"])):
        name = f"{_sampler(row)}, {row['steps']} steps"
        lines.setdefault(name, []).append((row["step"], row[group.metric], row["min"], row["max"]))
    return {name: points for name, points in lines.items() if len(points) > 1}


def _over_steps(group: Group) -> list[dict[str, Any]]:
    """The scores of the newest weights by steps of the sampler; nothing where there is one number of these only."""
    newest = max(int(row["step"]) for row in group.rows)
    rows = [
        {"sampler": _sampler(row), "steps": row["steps"], "mean": row[group.metric], "min": row["min"], "max": row["max"]}
        for row in group.rows
        if row["step"] == newest
    ]
    several = len({row["steps"] for row in rows}) > 1
    return sorted(rows, key=lambda row: (row["sampler"], row["steps"])) if several else []
