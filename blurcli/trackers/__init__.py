"""Experiment trackers: a training logs to all that its preset names. Imports no tracker's package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable

from blurcli.base.errors import UsageError
from blurcli.trackers.base import Status, TrackedRun, Tracker
from blurcli.trackers.mlflow import MLflow
from blurcli.trackers.tensorboard import TensorBoard
from blurcli.trackers.trackio import Trackio
from blurcli.trackers.wandb import Wandb

__all__ = ["TRACKERS", "Status", "TrackedRun", "Tracker", "check_installed"]

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio, "mlflow": MLflow}
"""The trackers by their names in presets."""


def check_installed(names: Iterable[str]) -> None:
    """Raise a UsageError if the package of one of these trackers is missing, with the command that installs it."""
    for name in names:
        tracker = TRACKERS[name]
        if not _is_installed(tracker.package):
            raise UsageError(
                f"train.trackers: {name} needs the package {tracker.package}; install it: pip install {tracker.requirement}"
            )


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a folder `wandb`, as made by wandb, is not a package
