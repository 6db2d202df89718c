"""Lines of several runs in one plot, readable in print: fonts of one size, colors and markers that differ without color."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from blurcli.visualize.figures import literal, plain_numbers, save_figure

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's, for the color-blind
_MARKERS = "os^Dv*PX"  # one more than colors, so that pairs repeat late
_STYLES = ("-", "--", ":", "-.")
_NARROW_IN = 5.0  # below this, a column of a paper
_LETTER_IN = 0.068  # mean width of a letter of the small font
_HANDLE_IN = 0.55  # of the line beside a legend entry, with its gaps
_ROW_IN = 0.17
_MARGIN_IN = 0.3  # beside the caption


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: its entry in the legend.
        color: number of its color and marker.
        style: number of its dashes.
        points: x, mean, smallest and largest y, (N, 4) float64.
    """

    label: str
    color: int
    style: int
    points: NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """Lines with what describes them.

    Attributes:
        caption: what they were measured on; above the lines.
        x: label of the x axis.
        y: label of the y axis, which is logarithmic.
        legend: title of the legend; empty for none.
        lines: at least one.
        by_count: whether x is a small number, on a logarithmic axis with a tick for each.
        marked: whether points have markers, as measurements apart from each other.
    """

    caption: str
    x: str
    y: str
    legend: str
    lines: list[Line]
    by_count: bool = False
    marked: bool = True


@contextmanager
def printed(width: float) -> Iterator[None]:
    """Within the block, plots have fonts for a column of `width` inches, and PDF files those that publishers accept."""
    with rc_context({"font.size": 8 if width < _NARROW_IN else 10, "pdf.fonttype": 42}):
        yield


def save_chart(chart: Chart, path: Path, width: float) -> None:
    """Plot lines with bands from the smallest to the largest value, and a legend below them.

    Args:
        chart: what to draw.
        path: .png, .svg or .pdf.
        width: of the figure, in inches.
    """
    labels = ["\n".join(_wrapped(line.label, width - _HANDLE_IN)) for line in chart.lines]
    longest = max(len(part) for label in labels for part in label.split("\n"))
    columns = max(1, min(len(labels), int(width / (_HANDLE_IN + _LETTER_IN * longest))))
    caption = _wrapped(chart.caption, width - _MARGIN_IN)
    rows = -(-sum(label.count("\n") + 1 for label in labels) // columns) + bool(chart.legend) + len(caption)
    figure = Figure(figsize=(width, 0.6 * width + _ROW_IN * rows), layout="constrained")
    axes = figure.subplots()
    for line, label in zip(chart.lines, labels, strict=True):
        x, mean, low, high = line.points.T
        color = _COLORS[line.color % len(_COLORS)]
        marker = _MARKERS[line.color % len(_MARKERS)] if chart.marked or len(x) == 1 else ""
        axes.plot(
            x,
            mean,
            label=label,
            color=color,
            marker=marker,
            linestyle=_STYLES[line.style % len(_STYLES)],
            markersize=4,
            linewidth=1.2,
        )
        if len(x) > 1:
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        else:
            axes.errorbar(x, mean, yerr=[mean - low, high - mean], color=color, capsize=2)
    axes.set(yscale="log", xlabel=chart.x, ylabel=literal(chart.y))
    if chart.by_count:
        axes.set_xscale("log")
        axes.set_xticks(sorted({float(x) for line in chart.lines for x in line.points[:, 0]}))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5 if width < _NARROW_IN else 8, steps=(1, 2, 2.5, 5, 10), integer=True))
    plain_numbers(axes)
    axes.set_title("\n".join(caption), fontsize="small")
    figure.legend(
        loc="outside lower center", ncols=columns, fontsize="small", title=chart.legend or None, title_fontsize="small"
    )
    save_figure(figure, path)


def _wrapped(text: str, width: float) -> list[str]:
    """The lines of a text in the small font, about `width` inches wide, broken after commas where that is possible."""
    joined = re.sub("(?<!,) ", "\N{NO-BREAK SPACE}", text)
    most = max(20, int(width / _LETTER_IN))
    fitting = joined if max(map(len, joined.split(" "))) <= most else text
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(literal(fitting), most)]
