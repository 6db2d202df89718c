"""How far a task is, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

_LINE_SEC = 30.0  # between two lines of a log
_LINE_SHARE = 0.05  # of the task, unless that takes longer than `_LONGEST_SEC`
_LONGEST_SEC = 600.0
_ESTIMATE_SEC = 2.0  # of work, before the first estimate in a log
_WORTH_SEC = 5.0  # time left that is worth telling


class Pace:
    """How far a task is, how fast, and how long it will take.

    Args:
        total: number of units; None while it is not known.
        clock: seconds, from anywhere.

    Attributes:
        total: number of units, or None.
        done: units done.
        note: what else there is to say.
    """

    def __init__(self, total: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0.0
        self.note = ""
        self._clock = clock
        self._started = self._updated = clock()
        self._before = 0.0

    def start(self, done: float) -> None:
        """Measure the speed from now on; so many units were done before."""
        self._before = self.done = done
        self._started = self._updated = self._clock()

    def update(self, done: float, total: int | None = None, note: str | None = None) -> None:
        """Units done so far; a total or a note that is None stays."""
        if done < self._before:  # the task went back
            self.start(done)
        self.done = done
        self.total = self.total if total is None else total
        self.note = self.note if note is None else note
        self._updated = self._clock()

    @property
    def speed(self) -> float | None:
        """Units per second; None before the first."""
        if self.done <= self._before or self._updated <= self._started:
            return None
        return (self.done - self._before) / (self._updated - self._started)

    @property
    def elapsed_sec(self) -> float:
        """Seconds since the start, at the last update."""
        return self._updated - self._started

    @property
    def left_sec(self) -> float | None:
        """Seconds left, at the mean speed so far; None where it is not known."""
        if self.speed is None or self.total is None:
            return None
        return max(0.0, (self.total - self.done) / self.speed - (self._clock() - self._updated))

    @property
    def counts(self) -> str:
        """Units done, of how many."""
        return f"{int(self.done):,}" if self.total is None else f"{int(self.done):,}/{self.total:,}"

    @property
    def remaining(self) -> str:
        """The time left, in words."""
        if self.left_sec is None:
            return "" if self.total is None else "estimating"
        return f"{duration(self.left_sec)} left"

    def titled(self, title: str) -> str:
        """A title, with the number of units where the title does not name it."""
        return title if not self.total or f"{self.total:,}" in title else f"{title}, 0/{self.total:,}"


class Lines:
    """Progress as lines of a log: an estimate early, then at most one line per 30 seconds.

    Where a line every 30 seconds would be more than one per 5% of the task, there is one per 5%, or every ten minutes.

    Args:
        title: what is done.
        pace: how far it is.
        write: receives the lines.
        clock: seconds, from anywhere.
    """

    def __init__(
        self, title: str, pace: Pace, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._pace, self._write, self._clock = title, pace, write, clock
        self._last = clock()
        self._last_done: float | None = None
        self._titled = False
        if pace.total is not None:
            self._begin()

    def update(self, done: float, total: int | None = None, note: str | None = None) -> None:
        """As `Pace.update`, and a line where one is due."""
        self._pace.update(done, total, note)
        if not self._titled:
            self._begin()
        elif self._is_due():
            self._last, self._last_done = self._clock(), done
            note = f", {self._pace.note}" if self._pace.note else ""
            left = f", about {self._pace.remaining}" if self._pace.left_sec else ""
            self._write(f"{self._title}: {self._pace.counts}{note}{left}")

    def _begin(self) -> None:
        # Where the total is not known there may be nothing to do: the first update shows it.
        self._titled, self._last = True, self._clock()
        self._write(self._pace.titled(self._title))

    def _is_due(self) -> bool:
        passed, pace = self._clock() - self._last, self._pace
        if self._last_done is None:
            return passed >= _ESTIMATE_SEC and pace.left_sec is not None and pace.left_sec >= _WORTH_SEC
        share = 1.0 if not pace.total else (pace.done - self._last_done) / pace.total
        return passed >= _LINE_SEC and (share >= _LINE_SHARE or passed >= _LONGEST_SEC)


def duration(seconds: float) -> str:
    """Seconds in words: `8 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if hours < 10 and minutes else f"{round(hours + minutes / 60)} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours and days < 7 else f"{days} days"
