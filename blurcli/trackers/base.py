"""The interface of an experiment tracker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Status = Literal["finished", "interrupted", "failed"]
"""How a training ended; an interrupted one can continue."""

PROJECT = "blurdiff"
"""Project, or experiment, of the runs unless the tracker's own environment variable names another."""


@dataclass(frozen=True)
class TrackedRun:
    """A run to be logged by a tracker.

    Attributes:
        name: name of the run folder.
        folder: the run folder.
        private_folder: a folder for the files of trackers, below the run folder; `begin` may create it.
        config: the resolved preset, every key dotted.
        identity: what `begin` returned for this run earlier; None for a run that is new to the tracker.
    """

    name: str
    folder: str
    private_folder: str
    config: dict[str, Any]
    identity: str | None = None


class Tracker(ABC):
    """Logs a training to one experiment tracker. Any call may fail; the training then continues without the tracker.

    Attributes:
        package: the package to import, inside `begin`.
        requirement: the requirement for pip.
        own_process: whether it runs in its own process; False only for trackers that never wait for a network.
        location: where the run can be viewed, set by `begin`; empty for no message.
    """

    package: ClassVar[str]
    requirement: ClassVar[str]
    own_process: ClassVar[bool] = True
    location: str = ""

    @abstractmethod
    def begin(self, run: TrackedRun) -> str | None:
        """Begin the run, or continue the run of `run.identity`.

        Returns:
            The identity with which a resumed training continues the run; None if it needs none.
        """

    @abstractmethod
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log finite values by name, after `step` training steps."""

    @abstractmethod
    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Log a picture (height, width, 1 or 3) uint8 after `step` training steps."""

    def rewind(self, step: int) -> None:  # noqa: B027  not every tracker can
        """Return to `step`, where the training continues: later steps are logged again.

        Called once after `begin`, and when a training that diverged continues from an earlier state. Trackers that cannot
        remove values do nothing, and show both.
        """

    @abstractmethod
    def end(self, status: Status) -> None:
        """End the run, and wait until everything is stored or sent."""
