"""Trackio: a local database, a Space of Hugging Face, or a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from blurcli.base.errors import quoted
from blurcli.trackers.base import PROJECT, Status, TrackedRun, Tracker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Trackio(Tracker):
    """Logs to Trackio's local database, or to the destination of TRACKIO_SPACE_ID or TRACKIO_SERVER_URL."""

    package = "trackio"
    requirement = "trackio"

    def begin(self, run: TrackedRun) -> str:
        """Begin or continue a run, which Trackio identifies by its name."""
        import trackio

        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        name = run.identity or f"{run.name}-{os.urandom(3).hex()}"
        self._trackio = trackio
        self._run = trackio.init(project=project, name=name, config=run.config, resume="allow" if run.identity else "never")
        self.location = f"trackio show --project {quoted(project)}, run {name}"
        return name

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """Log a picture, in color: Trackio accepts no gray pictures."""
        self._run.log({name: self._trackio.Image(picture.repeat(3 // picture.shape[-1], axis=-1))}, step=step)

    def end(self, status: Status) -> None:
        """Flush the buffer; Trackio has no status."""
        self._trackio.finish()
