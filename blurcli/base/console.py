"""Messages, progress and errors on stderr, results on stdout. The only user of rich."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

from blurcli.base.errors import spelled
from blurcli.base.pace import Lines, Pace

_stderr = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
_speaker = ""  # name of a process that prints only errors
_quiet = False  # whether only errors and results are printed
_UNLIMITED = 10_000  # characters per line
_stdout = Console(soft_wrap=True, highlight=False, emoji=False)

# Options with a flag of another name.
_FLAGS = {"label": "--class", "purpose": "--for", "hold_sec": "--hold", "calibrated": "--no-calibration"}


def flag(name: str) -> str:
    """The flag of an option."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def notify(text: str) -> None:
    """Print a message, which is not part of the result."""
    if not (_speaker or _quiet):
        _stderr.print(escape(spelled(text, flag)))


def error(text: str) -> None:
    """Print the error that ends the command without a result."""
    _stderr.print(f"{escape(_speaker)}[bold red]error:[/] {escape(spelled(text, flag))}")


def silence(speaker: str) -> None:
    """Print only errors from now on, prefixed with `speaker`."""
    global _speaker
    _speaker = f"{speaker}: "


def be_quiet(wanted: bool = True) -> None:
    """Print only errors and results; with `wanted` false, messages and progress again."""
    global _quiet
    _quiet = wanted


def traceback() -> None:
    """Print the exception being handled, in full."""
    _stderr.print_exception()


def result(text: str) -> None:
    """Print a result as text."""
    if not _speaker:
        _stdout.print(escape(text))


def result_json(value: dict[str, Any]) -> None:
    """Print a result as one line of JSON; numbers that JSON cannot express become null."""
    if not _speaker:
        print(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


def width() -> int:
    """Characters per line of the terminal that results are printed on; elsewhere 80, or $COLUMNS."""
    return _stdout.width


def table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a result as a table."""
    drawn = Table(box=None, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")  # a cut number would be another number
    for row in rows:
        drawn.add_row(*map(escape, row))
    # A pipe gets every digit; on a terminal the width is limited.
    Console(highlight=False, emoji=False, width=None if _stdout.is_terminal else _UNLIMITED).print(drawn)


@contextmanager
def progress(description: str, total: int | None = None, pace: Pace | None = None) -> Iterator[Callable[..., None]]:
    """Show progress while the block runs, with the time left: a bar on a terminal, elsewhere occasional lines.

    Yields `update(done, total=None, note=None)`, which is cheap; see `Pace.update`.

    Args:
        description: what is done.
        total: number of units; None while it is not known.
        pace: measures the speed; None for a new one.
    """
    pace = pace or Pace(total)
    if _speaker or _quiet:
        yield pace.update
    elif _stderr.is_terminal:
        with _bar(description, pace) as update:
            yield update
    else:
        yield Lines(description, pace, notify).update


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Show a spinner on a terminal while the block runs, for work that cannot be counted."""
    if _speaker or _quiet or not _stderr.is_terminal:
        yield
        return
    with _stderr.status(description):
        yield


@contextmanager
def _bar(description: str, pace: Pace) -> Iterator[Callable[..., None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        _PaceColumn(pace, lambda pace: pace.counts),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        _PaceColumn(pace, lambda pace: pace.remaining),
    )
    with Progress(*columns, console=_stderr, transient=True) as bars:
        task = bars.add_task(description, total=pace.total, note="")

        def update(done: float, total: int | None = None, note: str | None = None) -> None:
            pace.update(done, total, note)
            bars.update(task, completed=pace.done, total=pace.total, note=pace.note)

        yield update


class _PaceColumn(ProgressColumn):
    """A text computed from the pace at every refresh, so that the time left counts down between updates."""

    def __init__(self, pace: Pace, text: Callable[[Pace], str]) -> None:
        super().__init__()
        self._pace, self._text = pace, text

    def render(self, task: Task) -> Text:
        return Text(self._text(self._pace))


def preview(pictures: Sequence[NDArray[np.uint8]], seconds: float) -> None:
    """Show pictures one after another on a terminal, two pixels per character; elsewhere do nothing.

    Pictures wider than the terminal are subsampled. The last one stays.

    Args:
        pictures: (height, width, 1 or 3) uint8, of one size.
        seconds: from one picture to the next.
    """
    if _speaker or _quiet or not _stderr.is_terminal:
        return
    height, width = pictures[0].shape[:2]
    every = max(1, math.ceil(width / _stderr.width), math.ceil(height / 2 / max(1, _stderr.height - 2)))
    drawn = [_half_blocks(picture[::every, ::every]) for picture in pictures]
    if len(drawn) == 1:
        _stderr.print(drawn[0])
        return
    with Live(drawn[0], console=_stderr, auto_refresh=False) as live:
        for picture in drawn[1:]:
            time.sleep(seconds)
            live.update(picture, refresh=True)


def _half_blocks(picture: NDArray[np.uint8]) -> Text:
    """Two pixels per character: the upper one in the foreground color, the lower one in the background color."""
    pixels = np.broadcast_to(picture, (*picture.shape[:2], 3))
    text = Text(no_wrap=True, end="")
    for top in range(0, len(pixels), 2):
        upper = pixels[top]
        lower = pixels[top + 1] if top + 1 < len(pixels) else None
        for x, color in enumerate(upper):
            below = None if lower is None else Color.from_triplet(ColorTriplet(*map(int, lower[x])))
            text.append("▀", Style(color=Color.from_triplet(ColorTriplet(*map(int, color))), bgcolor=below))
        text.append("\n")
    return text


def is_terminal() -> bool:
    """Whether stderr is a terminal."""
    return _stderr.is_terminal


def draws() -> bool:
    """Whether progress is drawn as bars: on a terminal, unless only errors or results are printed."""
    return _stderr.is_terminal and not (_speaker or _quiet)
