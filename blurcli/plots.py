"""Plots of measurements, as PNG or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator
from torch import Tensor

from blurcli import files
from blurcli.errors import UsageError

_SUFFIXES = (".png", ".svg")
_DECADES = 2  # of relative error that the colours tell apart, on either side of 1


def check_plot(path: Path) -> None:
    """Raise the error of saving a plot now, rather than after the work."""
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--out {path}: the name of a plot must end in {' or '.join(_SUFFIXES)}")
    files.check_writable(path)


def save_sweep(rows: list[dict[str, Any]], metric: str, path: Path) -> None:
    """Score against steps, a line a sampler, with bars from the least to the largest over seeds.

    Args:
        rows: dictionaries with sampler, steps, mean, min, max.
        metric: name of the score, for the axis.
        path: .png or .svg.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        own = [row for row in rows if row["sampler"] == sampler]
        steps, mean, low, high = (np.array([row[key] for row in own]) for key in ("steps", "mean", "min", "max"))
        axes.errorbar(steps, mean, yerr=[mean - low, high - mean], label=sampler, marker="o", markersize=4, capsize=3)
    axes.set(xscale="log", yscale="log", xlabel="steps (network calls an image)", ylabel=metric)
    axes.set_xticks(sorted({row["steps"] for row in rows}))
    axes.xaxis.set_minor_locator(NullLocator())
    for ticks in (axes.xaxis, axes.yaxis):
        ticks.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2468" else "")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    _save(figure, path)


def save_errors(times: Tensor, relative: Tensor, bands: list[str], path: Path) -> None:
    """Relative squared error of x_hat by time and frequency band, on a colour scale about 1.

    Args:
        times: (T,), even.
        relative: (T, bands), positive.
        bands: their names.
        path: .png or .svg.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    shade = np.log10(relative.cpu().numpy().T.clip(10.0**-_DECADES, 10.0**_DECADES))
    half = float(times[1] - times[0]) / 2
    image = axes.imshow(
        shade,
        aspect="auto",
        cmap="RdBu_r",
        norm=TwoSlopeNorm(0, -_DECADES, _DECADES),
        extent=(-half, 1 + half, len(bands) - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.set(xlabel="t", ylabel="wavelength", yticks=range(len(bands)), yticklabels=bands)
    colours = figure.colorbar(image, label="squared error over that of the Wiener filter")
    ticks = range(-_DECADES, _DECADES + 1)
    colours.set_ticks(list(ticks), labels=[f"{10.0**k:g}" for k in ticks])
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
