"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from blurcli.trackers.base import PROJECT, Status, TrackedRun, Tracker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PARAMS_PER_CALL = 100  # MLflow's limit


class MLflow(Tracker):
    """Logs to the server or store of MLFLOW_TRACKING_URI."""

    package = "mlflow"
    requirement = "mlflow-skinny sqlalchemy alembic"

    def begin(self, run: TrackedRun) -> str:
        """Begin or continue a run. MLflow's parameters cannot change: they keep the values of the first training."""
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        lost = ""
        if run.identity and self._is_known(run.identity):
            self._id = run.identity
            self._client.update_run(self._id, status="RUNNING")
        else:
            lost = f" (a new run: {run.identity} does not exist)" if run.identity else ""
            self._id = self._client.create_run(mlflow.set_experiment(experiment).experiment_id, run_name=run.name).info.run_id
            params = [Param(key, str(value)) for key, value in run.config.items()]
            for start in range(0, len(params), _PARAMS_PER_CALL):
                self._client.log_batch(self._id, params=params[start : start + _PARAMS_PER_CALL])
        self._client.log_dict(self._id, run.config, "config.yaml")
        self.location = f"run {self._id} in {mlflow.get_tracking_uri()}{lost}"
        return self._id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[self._metric(name, value, now, step) for name, value in values.items()])

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        self._client.log_image(self._id, picture, key=name, step=step)

    def end(self, status: Status) -> None:
        """Mark the run as finished, killed or failed."""
        self._client.set_terminated(self._id, status=_STATUS[status])

    def _is_known(self, identity: str) -> bool:
        """Whether the store has this run: it may be another store than before, or the run may be deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(identity).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
