"""`blurdiff plot`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from blurcli.runs import Run, newest_run

    chosen = Run(run) if run is not None else newest_run()
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

    lines = [line for line in files.json_lines(run.metrics_path) if {"step", "loss"} <= line.keys()]
    if not lines:
        console.say(f"no plot of the loss: {run.metrics_path} is not there, or empty")
        return
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    by_time: dict[float, list[tuple[int, float]]] = {}
    for line in files.json_lines(run.health_path):
        for t, bands in zip(line["times"], line["loss"], strict=True):
            by_time.setdefault(t, []).append((line["step"], sum(bands) / len(bands)))
    yield "loss", partial(save_loss, steps, losses, by_time)


def _scores(run: Run) -> Iterator[Plot]:
    from blurcli import console, evaluate
    from blurcli.plots import save_scores, save_spectrum, save_sweep

    scores = [score for score in evaluate.recorded(run.evaluations_path) if score.get("step") is not None]
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
    with_spectra = [score for score in scores if {"spectrum", "reference_spectrum", "size"} <= score.keys()]
    if with_spectra:
        newest = max(with_spectra, key=lambda score: int(score["step"]))
        yield "spectrum", partial(save_spectrum, newest)
    else:
        console.say("no plot of the power spectra: blurdiff fid measures them")


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
