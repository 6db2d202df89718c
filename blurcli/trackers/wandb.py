"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import quoted
from blurcli.trackers.base import PROJECT, Status, TrackedRun, Tracker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_DELETED = "created and deleted"  # in the server's message, which suggests a new name


class Wandb(Tracker):
    """Logs to Weights & Biases, or with WANDB_MODE=offline to files for `wandb sync`."""

    package = "wandb"
    requirement = "wandb"

    def begin(self, run: TrackedRun) -> str | None:
        """Begin or continue a run, with its files below the private folder; a deleted run begins again."""
        import wandb

        Path(run.private_folder).mkdir(parents=True, exist_ok=True)
        self._wandb, deleted = wandb, ""
        try:
            self._run = self._init(run, run.identity)
        except Exception as error:
            if run.identity is None or _DELETED not in str(error):
                raise
            self._run = self._init(run, None)
            deleted = f" (a new run: {run.identity} was deleted)"
        # The number of a row only grows. The step is logged as a value, so that repeated steps are not refused.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._row, self._step = int(self._run.step) - 1, -1
        if self._run.settings.mode == "disabled":
            return None
        self.location = (self._run.url or f"wandb sync {quoted(Path(self._run.dir).parent)}") + deleted
        return str(self._run.id)

    def _init(self, run: TrackedRun, identity: str | None) -> Any:
        return self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=identity,
            resume="allow" if identity else None,
            config=run.config,
            allow_val_change=True,  # a run may continue with other values of some keys
            dir=os.environ.get("WANDB_DIR") or run.private_folder,
            settings=self._wandb.Settings(console="off"),
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, dict(values))

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        self._log(step, {name: self._wandb.Image(picture)})

    def end(self, status: Status) -> None:
        """Upload the rest; all but finished runs are marked as failed."""
        self._run.finish(exit_code=0 if status == "finished" else 1)

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step != self._step:
            self._row, self._step = max(step, self._row + 1), step
        self._run.log({**values, "step": step}, step=self._row)
