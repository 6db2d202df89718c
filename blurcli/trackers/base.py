"""What an experiment tracker does, and what it is given when it begins."""

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
"""Project, or experiment, of the runs where the tracker's own environment variable names no other."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker begins to log.

    Attributes:
        name: name of the run folder.
        folder: the run folder.
        private_folder: a folder for the files of trackers, below the run folder; `begin` may create it.
        config: the resolved preset, every key dotted.
        identity: what `begin` returned for this run before; None for a run that the tracker does not know.
    """

    name: str
    folder: str
    private_folder: str
    config: dict[str, Any]
    identity: str | None = None


class Tracker(ABC):
    """Logs a training to one experiment tracker. Any call may fail: the training then goes on without the tracker.

    Attributes:
        package: the package to import, inside `begin`.
        requirement: what pip installs to have it.
        own_process: whether it runs beside the training; False only for what never waits for a network.
        location: where the run can be seen, once `begin` has returned; empty for nothing worth a message.
    """

    package: ClassVar[str]
    requirement: ClassVar[str]
    own_process: ClassVar[bool] = True
    location: str = ""

    @abstractmethod
    def begin(self, run: TrackedRun) -> str | None:
        """Begin the run, or continue the one of `run.identity`.

        Returns:
            The identity by which a resumed training continues the run; None where none is needed.
        """

    @abstractmethod
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values by their names, all finite, after `step` training steps."""

    @abstractmethod
    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Log a picture (height, width, 1 or 3) uint8 after `step` training steps."""

    def rewind(self, step: int) -> None:  # noqa: B027  not every tracker can
        """Go back to `step`, from where the training continues: what was logged for later steps comes again.

        Called once after `begin`, and when a training that diverged continues from an earlier state. Trackers that cannot
        remove values do nothing, and show both.
        """

    @abstractmethod
    def end(self, status: Status) -> None:
        """End the run; returns when everything is stored or sent."""
