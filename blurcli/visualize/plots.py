"""Plots of measurements, as PNG, SVG or PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator
from torch import Tensor

from blurcli.core.bands import frequency_bands
from blurcli.evaluate.distances import BANDS_PER_OCTAVE
from blurcli.visualize.figures import literal, plain_numbers, save_figure, thinned

_WIDTH_IN = 7.0
_MOST_POINTS = 2_000  # per line: more are not visible
_MOST_MARKERS = 150
_COLOR_RANGES = (2, 3, 5, 10, 30, 100)  # of relative errors, as factors on either side of 1


def save_sweep(rows: list[dict[str, Any]], metric: str, path: Path, width: float = _WIDTH_IN) -> None:
    """Plot the score against network calls: a line per sampler, with bars from the smallest to the largest score over seeds.

    Args:
        rows: dictionaries with the keys sampler, calls (per image), mean, min and max.
        metric: name of the score, the label of the axis.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.subplots()
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        own = [row for row in rows if row["sampler"] == sampler]
        calls, mean, low, high = (np.array([row[key] for row in own]) for key in ("calls", "mean", "min", "max"))
        axes.errorbar(calls, mean, yerr=[mean - low, high - mean], label=literal(sampler), marker="o", markersize=4, capsize=3)
    axes.set(xscale="log", yscale="log", xlabel="network calls per image", ylabel=literal(metric))
    axes.set_xticks(sorted({row["calls"] for row in rows}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    plain_numbers(axes)
    axes.legend()
    save_figure(figure, path)


def save_loss(
    steps: list[int],
    losses: list[float],
    by_time: dict[float, list[tuple[int, float]]],
    path: Path,
    width: float = _WIDTH_IN,
) -> None:
    """Plot the training loss, and below it the loss at several times, measured on fixed images and noise.

    Long lines show means over neighboring points.

    Args:
        steps: training steps.
        losses: the weighted loss at each step.
        by_time: for each time t, pairs (step, unweighted loss); empty for no second panel.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    figure = Figure(figsize=(width, 7 if by_time else 4), layout="constrained")
    panels = figure.subplots(1 + bool(by_time), sharex=True, squeeze=False)[:, 0]
    marker = "o" if len(steps) == 1 else ""  # a line of one point is invisible
    panels[0].plot(*thinned(list(zip(steps, losses, strict=True)), _MOST_POINTS), linewidth=1, marker=marker)
    panels[0].set(yscale="log", ylabel="training loss (weighted)")
    if by_time:
        for t, points in by_time.items():
            panels[1].plot(
                *thinned(points, _MOST_MARKERS),
                label=f"t = {t:.3g}",
                marker="o",
                markersize=3,
                color=colormaps["viridis"](t * 0.9),
            )
        panels[1].set(yscale="log", ylabel="mean squared error (noise variance = 1)")
        panels[1].legend(ncols=3, fontsize="small")
    panels[-1].set_xlabel("training steps")
    plain_numbers(panels[0])
    panels[-1].grid(visible=True, alpha=0.3)
    save_figure(figure, path)


def save_bands(by_band: dict[str, list[tuple[int, float]]], path: Path, width: float = _WIDTH_IN) -> None:
    """Plot the loss over training, a line per frequency band, measured on fixed images and noise; see `save_loss`.

    Args:
        by_band: for each band, the lowest frequencies first, pairs (step, unweighted loss).
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (band, points) in enumerate(by_band.items()):
        color = colormaps["plasma"](0.9 * number / len(by_band))
        axes.plot(*thinned(points, _MOST_MARKERS), label=literal(band), marker="o", markersize=3, color=color)
    axes.set(yscale="log", xlabel="training steps", ylabel="mean squared error (noise variance = 1)")
    plain_numbers(axes)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    save_figure(figure, path)


def save_scores(
    lines: dict[str, list[tuple[int, float, float, float]]], metric: str, path: Path, width: float = _WIDTH_IN
) -> None:
    """Plot the score over training: a line per sampler, with bars from the smallest to the largest score over seeds.

    Args:
        lines: for each sampler, tuples (training steps, mean, smallest, largest).
        metric: name of the score, the label of the axis.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        steps, mean, low, high = np.array(points).T
        axes.errorbar(steps, mean, yerr=[mean - low, high - mean], label=literal(name), marker="o", markersize=4, capsize=3)
    axes.set(yscale="log", xlabel="training steps", ylabel=literal(metric))
    plain_numbers(axes)
    axes.legend()
    save_figure(figure, path)


def save_errors(times: Tensor, relative: Tensor, bands: list[str], path: Path, width: float = _WIDTH_IN) -> None:
    """Plot the squared error of x_hat relative to the Wiener filter, by time and frequency band.

    The color scale is centered at 1 and covers the errors, at most from 1/100 to 100.

    Args:
        times: (T,), uniform in [0, 1], at least 2.
        relative: relative errors (T, bands), positive.
        bands: names of the bands.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.subplots()
    logs = np.log10(relative.cpu().numpy().T)
    largest = next((most for most in _COLOR_RANGES if np.abs(logs).max() <= np.log10(most) + 1e-6), _COLOR_RANGES[-1])
    end = np.log10(largest)
    shade = logs.clip(-end, end)
    half = float(times[1] - times[0]) / 2
    image = axes.imshow(
        shade,
        aspect="auto",
        cmap="RdBu_r",
        norm=TwoSlopeNorm(0, -end, end),
        extent=(-half, 1 + half, len(bands) - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.set(xlabel="time t, from image to noise", ylabel="wavelength", yticks=range(len(bands)), yticklabels=bands)
    scale = figure.colorbar(image, label="squared error / squared error of the Wiener filter")
    ticks = np.linspace(-end, end, 5)
    scale.set_ticks(list(ticks), labels=[f"{float(f'{10.0**k:.2g}'):g}" for k in ticks])
    save_figure(figure, path)


def save_spectrum(score: dict[str, Any], path: Path, width: float = _WIDTH_IN) -> None:
    """Plot radial power spectra of samples and data against wavelength, and below them their ratio in dB.

    Args:
        score: a line of evaluations.jsonl with spectrum, reference_spectrum (None if it is unknown), size and reference.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    bands = frequency_bands(score["size"][0], score["size"][1], BANDS_PER_OCTAVE)[1][1:]
    wavelength = np.array([2 / (low + high) for low, high in bands])
    ours = np.array(score["spectrum"][1:])
    figure = Figure(figsize=(width, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    if score["reference_spectrum"] is not None:
        reference = np.array(score["reference_spectrum"][1:])
        upper.plot(wavelength, reference, label=literal(f"data: {score['reference']}"), color="black", marker="o", markersize=3)
        lower.plot(wavelength, 10 * np.log10(ours / reference), color="C1", marker="o", markersize=3)
    upper.plot(wavelength, ours, label="samples", color="C1", marker="o", markersize=3)
    lower.axhline(0, color="black", linewidth=1)
    upper.set(xscale="log", yscale="log", ylabel="mean squared DCT coefficient")
    upper.invert_xaxis()
    upper.legend()
    lower.set(xlabel="wavelength (px)", ylabel="samples over data (dB)")
    lower.set_xticks([2.0**k for k in range(1, int(np.log2(wavelength[0])) + 1)])
    lower.xaxis.set_minor_locator(NullLocator())
    lower.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    for axes in (upper, lower):
        axes.grid(visible=True, which="both", alpha=0.3)
    save_figure(figure, path)


def save_variants(panels: dict[str, dict[str, tuple[list[float], float | None]]], path: Path, width: float = _WIDTH_IN) -> None:
    """Plot metrics of variants: a point per seed, the mean, and its interval.

    A panel that lacks a variant is of differences to that one, and has a line at 0.

    Args:
        panels: for each metric, and each variant: the values by seed, and half the width of the mean's interval or None.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(width, lines * (0.9 + 0.35 * len(names))), layout="constrained")
    every = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for axes, (metric, rows) in zip(every, panels.items(), strict=False):
        for name, (values, half_width) in rows.items():
            row = names.index(name)
            axes.plot(values, [row] * len(values), "o", markersize=4, color="C0", alpha=0.5)
            axes.errorbar(np.mean(values), row, xerr=half_width, fmt="D", markersize=5, color="black", capsize=3)
        if len(rows) < len(names):  # differences to the one that is missing
            axes.axvline(0, color="black", linewidth=1)
        axes.set(xlabel=literal(metric), yticks=range(len(names)), yticklabels=[literal(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=True, alpha=0.3)
    save_figure(figure, path)


def save_variant_curves(
    panels: dict[str, dict[str, list[tuple[int, float, float]]]], unit: str, path: Path, width: float = _WIDTH_IN
) -> None:
    """Plot metrics of variants over training, with the intervals of their means over seeds.

    Args:
        panels: for each metric, and each variant: tuples (length of training, mean, half the width of the interval).
        unit: of the lengths.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    figure = Figure(figsize=(width, 3.2 * len(panels) + 0.8), layout="constrained")
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, lines) in zip(every, panels.items(), strict=True):
        for name, points in lines.items():
            steps, mean, half_width = np.array(points).T
            axes.errorbar(steps, mean, yerr=half_width, label=literal(name), marker="o", markersize=4, capsize=3)
        if all(mean > half_width for points in lines.values() for _, mean, half_width in points):
            axes.set(yscale="log")
            plain_numbers(axes)
        axes.set_ylabel(literal(metric))
        axes.grid(visible=True, alpha=0.3)
    every[0].legend(fontsize="small")
    every[-1].set_xlabel(unit)
    save_figure(figure, path)
