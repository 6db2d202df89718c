"""All trackers of a training behind one interface; none can disturb the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from blurcli.base.runs import Run
from blurcli.trackers import TRACKERS
from blurcli.trackers.base import Status, TrackedRun, Tracker
from blurcli.trackers.identity import Identity
from blurcli.trackers.process import END_SEC, TrackerError, TrackerProcess, reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SILENT_SEC = 3.0  # of waiting


class Trackers:
    """The trackers of one training. A tracker that fails is dropped with a warning, and the training continues.

    Args:
        names: of the trackers.
        run: the run folder.
        config: the resolved preset, every key dotted.
        notify: receives messages.
    """

    def __init__(self, names: Iterable[str], run: Run, config: dict[str, Any], notify: Callable[[str], None]) -> None:
        self._run = run
        self._notify = notify
        self._trackers: dict[str, Tracker] = {}
        self._announced: set[str] = set()
        for name in names:
            kind = TRACKERS[name]
            self._trackers[name] = TrackerProcess(name, run.trackers_path / f"{name}.log") if kind.own_process else kind()
        self._each(lambda name, tracker: tracker.begin(self._tracked(name, config)))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values by name after `step` training steps."""
        self._each(lambda name, tracker: tracker.metrics(step, values))

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Log a picture (height, width, 1 or 3) uint8 after `step` training steps."""
        self._each(lambda _, tracker: tracker.image(step, name, picture))

    def rewind(self, step: int) -> None:
        """Return to `step`, where the training continues: later steps are logged again."""
        self._each(lambda name, tracker: tracker.rewind(step))

    def end(self, status: Status, wait: bool = True) -> None:
        """End all runs.

        Args:
            status: how the training ended.
            wait: whether to wait until everything is stored or sent; trackers that take too long are stopped.
        """
        self._each(lambda name, tracker: tracker.end(status))
        if wait:
            self._each(self._wait)

    def _wait(self, name: str, tracker: Tracker) -> None:
        if isinstance(tracker, TrackerProcess):
            if not tracker.ends_within(_SILENT_SEC):
                self._notify(f"{name}: waiting until everything is stored, for at most {END_SEC:g} s")
            tracker.wait()

    def _tracked(self, name: str, config: dict[str, Any]) -> TrackedRun:
        path = self._run.trackers_path / f"{name}.id"
        known = Identity.read(path)
        if known is not None and (original := known.original(path)):
            self._notify(f"{name}: {self._run.path} is a copy of {original}, and gets its own run")
            known = None
        folder, identity = self._run.path.resolve(), None if known is None else known.name
        return TrackedRun(folder.name, str(self._run.path), str(path.parent.resolve()), config, identity)

    def _each(self, act: Callable[[str, Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(name, tracker)
            except Exception as error:
                del self._trackers[name]
                why = str(error) if isinstance(error, TrackerError) else reason(error)
                self._notify(f"warning: {name}: {why}; the training continues without it")
            else:
                self._announce(name, tracker)

    def _announce(self, name: str, tracker: Tracker) -> None:
        if tracker.location and name not in self._announced:
            self._announced.add(name)
            self._notify(f"{name}: {tracker.location}")
