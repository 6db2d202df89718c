"""What all figures share: their formats, texts, numbers and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from blurcli.base import files
from blurcli.base.errors import OptionError, one_line
from blurcli.data.outputs import mark

_SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path, name: str = "out") -> None:
    """Raise, before the work, the errors of saving a plot.

    Args:
        path: the file.
        name: name of the option, for messages.

    Raises:
        OptionError: the suffix is none of .png, .svg and .pdf.
        UserError: the file cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise OptionError(
            name, path, f"unknown format of a plot; end the name in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
        )
    files.check_writable(path)


def thinned(points: Sequence[tuple[float, float]], most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The x and y of at most `most` points of a line: means over groups of neighbors."""
    starts = np.arange(0, len(points), -(-len(points) // most))
    counts = np.diff(np.append(starts, len(points)))
    x, y = np.add.reduceat(np.array(points, np.float64), starts).T / counts
    return x, y


def literal(text: str) -> str:
    """A text that Matplotlib shows literally: without formulas, control characters and undecodable bytes."""
    return one_line(text).encode(errors="backslashreplace").decode().replace("$", r"\$")


def plain_numbers(axes: Axes) -> None:
    """Plain numbers instead of powers of ten on a logarithmic y axis, and a grid."""
    low, high = axes.get_ylim()
    if high < 10 * low:  # A range below a decade has too few default ticks.
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2468" else "")
    axes.grid(visible=True, which="both", alpha=0.3)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix."""
    with files.replacing(path) as temporary:
        if path.suffix.lower() == ".png":
            figure.savefig(temporary, dpi=150, pil_kwargs=mark("PNG"))
        else:
            figure.savefig(temporary, dpi=150)
