"""TensorBoard: event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from blurcli.trackers.base import Status, TrackedRun, Tracker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Writes TensorBoard events; TensorBoard is imported with the first value, because that takes a second."""

    package = "tensorboard"
    requirement = "tensorboard"
    own_process = False

    def __init__(self) -> None:
        self._folder = ""
        self._step = 0
        self._writer: SummaryWriter | None = None

    def begin(self, run: TrackedRun) -> None:
        """Write into the run folder."""
        self._folder = run.folder

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._opened().add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        self._opened().add_image(name, picture, step, dataformats="HWC")

    def rewind(self, step: int) -> None:
        """Start a new file, which hides the values of earlier files after `step`."""
        self._close()
        self._step = step

    def end(self, status: Status) -> None:
        """Flush the buffer."""
        self._close()

    def _opened(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._folder, purge_step=self._step + 1)
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
