"""Progress, speed and remaining time of a task."""

from __future__ import annotations

import time
from collections.abc import Callable

_LINE_SEC = 30.0  # between two lines of a log
_LINE_SHARE = 0.05  # of the task, unless that takes longer than `_LONGEST_SEC`
_LONGEST_SEC = 600.0
_ESTIMATE_SEC = 2.0  # of work, before the first estimate in a log
_WORTH_SEC = 5.0  # shortest time left that is shown


class Pace:
    """Progress, speed and remaining time of a task.

    Args:
        total: number of units; None while it is not known.
        clock: seconds, from any origin.

    Attributes:
        total: number of units, or None.
        done: units done.
        note: further text.
    """

    def __init__(self, total: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0.0
        self.note = ""
        self._clock = clock
        self._started = self._updated = clock()
        self._before = 0.0

    def start(self, done: float) -> None:
        """Start measuring the speed, with `done` units done before."""
        self._before = self.done = done
        self._started = self._updated = self._clock()

    def update(self, done: float, total: int | None = None, note: str | None = None) -> None:
        """Set the units done so far; a total or note of None keeps the old one."""
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
        """Seconds left, at the mean speed so far; None if unknown."""
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
        """A title, with the number of units unless the title names it."""
        return title if not self.total or f"{self.total:,}" in title else f"{title}, 0/{self.total:,}"


class Lines:
    """Progress as lines of a log: an early estimate, then at most one line per 30 seconds.

    Long tasks have one line per 5%, or every ten minutes, if that is less often.

    Args:
        title: of the task.
        pace: its progress.
        write: receives the lines.
        clock: seconds, from any origin.
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
        """Update the pace as `Pace.update`, and write a line if one is due."""
        self._pace.update(done, total, note)
        if not self._titled:
            self._begin()
        elif self._is_due():
            self._last, self._last_done = self._clock(), done
            note = f", {self._pace.note}" if self._pace.note else ""
            left = f", about {self._pace.remaining}" if self._pace.left_sec else ""
            self._write(f"{self._title}: {self._pace.counts}{note}{left}")

    def _begin(self) -> None:
        # While the total is unknown there may be nothing to do; the first update shows whether there is.
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
