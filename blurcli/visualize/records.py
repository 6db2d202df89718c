"""The records of a run as plots: losses, scores over training and against network calls, power spectra."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from blurcli import evaluate
from blurcli.base import files
from blurcli.base.runs import Run
from blurcli.core.bands import frequency_bands
from blurcli.evaluate import is_number
from blurcli.evaluate.distances import BANDS_PER_OCTAVE
from blurcli.evaluate.records import Score
from blurcli.visualize import plots

Points = list[tuple[int, float]]
"""Pairs (training step, value)."""


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: for the name of a file.
        title: its title.
        save: `save(path)` or `save(path, width=inches)` writes it to a .png, .svg or .pdf.
    """

    name: str
    title: str
    save: Callable[..., None]


def loss_plots(run: Run, notify: Callable[[str], None]) -> Iterator[Plot]:
    """The loss over training, if it is recorded; `notify` receives the reason if it is not."""
    points = losses_of(run)
    if not points:
        notify(f"no plot of the loss: {run.metrics_path} is missing or empty; blurdiff train writes it")
        return
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    by_time: dict[float, Points] = {}
    for step, times, rows, _ in _health(run):
        for t, bands in zip(times, rows, strict=False):
            if are_numbers(bands):
                by_time.setdefault(t, []).append((step, sum(bands) / len(bands)))
    by_time = {t: points for t, points in by_time.items() if len(points) > 1}  # a single measurement shows no change
    if not by_time:
        notify("no plot of the loss by time: it needs two measurements; train.health_every_steps sets their interval")
    yield Plot("loss", "Loss over training", partial(plots.save_loss, steps, losses, by_time))


def band_plots(run: Run) -> Iterator[Plot]:
    """The loss by frequency band over training, if it is recorded."""
    by_band: dict[str, Points] = {}
    for step, _, rows, names in _health(run):
        if names and all(are_numbers(row) and len(row) == len(names) for row in rows):
            for name, column in zip(names, zip(*rows, strict=True), strict=True):
                by_band.setdefault(name, []).append((step, sum(column) / len(column)))
    by_band = {band: points for band, points in by_band.items() if len(points) > 1}
    if by_band:
        yield Plot("loss-by-band", "Loss by frequency band", partial(plots.save_bands, by_band))


def score_plots(run: Run, notify: Callable[[str], None]) -> Iterator[Plot]:
    """Scores over training and against network calls, if there are at least two; `notify` receives the reason if not."""
    groups = [group for group in evaluate.comparable(model_scores(run)) if "features" in group.protocol]
    for number, group in enumerate(groups):
        name = score_plot_name(group, number)
        title = f"{evaluate.TITLES[group.metric]} ({group.protocol['features']}, {group.protocol['n']:,} images)"
        over_training, over_calls = _over_training(group), _over_calls(group)
        if over_training:
            yield Plot(name, f"{title} over training", partial(plots.save_scores, over_training, title))
        else:
            notify(f"no plot of {title} over training: it needs scores of two weights files; set train.score_every_steps")
        if over_calls:
            yield Plot(f"sweep-{name}", f"{title} against network calls", partial(plots.save_sweep, over_calls, title))
        else:
            notify(f"no plot of {title} against network calls: record them with blurdiff sweep")


def score_plot_name(group: evaluate.Group, number: int) -> str:
    """The name of the file of a plot of scores, the `number`-th of a run, from 0 on."""
    name = f"{group.metric}-{group.protocol['features']}-n{group.protocol['n']}" + f"-{number}" * (number > 0)
    return re.sub(r"[^\w.-]", "_", name)  # lines of a file can hold anything


def newest_spectra(run: Run) -> dict[str, Any] | None:
    """The score with power spectra of the newest weights and most images, for `save_spectrum`; None if there is none."""
    with_spectra = filter(_has_spectra, model_scores(run))
    return max(with_spectra, key=lambda score: (score["step"], is_number(score.get("n")) and score["n"]), default=None)


def are_numbers(values: object) -> TypeGuard[list[float]]:
    """Whether a value is a non-empty list of finite numbers: lines of a file can hold anything."""
    return isinstance(values, list) and bool(values) and all(map(is_number, values))


def losses_of(run: Run) -> Points:
    """The logged training losses of a run by step; lines without both are skipped."""
    lines = files.json_lines(run.metrics_path)
    return [(line["step"], line["loss"]) for line in lines if are_numbers([line.get("step"), line.get("loss")])]


def model_scores(run: Run) -> list[Score]:
    """The scores of images that the model of a run made; those of stored images have no step."""
    return [score for score in evaluate.recorded(run.evaluations_path) if are_numbers([score.get("step"), score.get("steps")])]


def _health(run: Run) -> Iterator[tuple[int, list[float], list[Any], list[str]]]:
    """Step, times, losses by time and band, and names of the bands of the readable lines of health.jsonl."""
    for line in files.json_lines(run.health_path):
        times, rows, names = line.get("times"), line.get("loss"), line.get("bands")
        if is_number(line.get("step")) and are_numbers(times) and isinstance(rows, list):
            named = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
            yield line["step"], times, rows, named


def _has_spectra(score: Score) -> bool:
    """Whether a score can be plotted by `save_spectrum`."""
    size, ours, reference = score.get("size"), score.get("spectrum"), score.get("reference_spectrum")
    if not (are_numbers(size) and len(size) == 2 and 1 <= min(size) <= max(size) <= 4096 and are_numbers(ours)):
        return False
    if reference is not None and not are_numbers(reference):
        return False
    bands = len(frequency_bands(int(size[0]), int(size[1]), BANDS_PER_OCTAVE)[1])
    return bands > 1 and len(ours) == bands and (reference is None or len(reference) == bands)


def _over_training(group: evaluate.Group) -> dict[str, list[tuple[int, float, float, float]]]:
    """The scores of each sampler and settings by training steps, if there are at least two."""
    lines: dict[str, list[Score]] = {}
    for row in sorted(group.rows, key=lambda row: int(row["step"])):
        lines.setdefault(evaluate.subject_of(row, across=("weights_sha256", "step")), []).append(row)
    return {
        f"{group.title(rows[0])}, {rows[0]['steps']} steps": [
            (row["step"], row[group.metric], row["min"], row["max"]) for row in rows
        ]
        for rows in lines.values()
        if len(rows) > 1
    }


def _over_calls(group: evaluate.Group) -> list[dict[str, Any]]:
    """The scores of the newest weights by network calls per image, if there are at least two numbers of calls."""
    newest = max(int(row["step"]) for row in group.rows)
    rows = [row for row in group.rows if row["step"] == newest and row["calls"] is not None]
    several = len({str(row["weights_sha256"]) for row in rows}) > 1
    points = [
        {
            "sampler": group.title(row) + f" {row['weights_sha256']}" * several,
            "calls": row["calls"],
            "mean": row[group.metric],
            "min": row["min"],
            "max": row["max"],
        }
        for row in rows
    ]
    return sorted(points, key=lambda row: (row["sampler"], row["calls"])) if len({row["calls"] for row in rows}) > 1 else []
