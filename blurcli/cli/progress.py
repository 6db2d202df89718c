"""A training on the command line, from start to finish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from blurcli.cli.common import show
from blurcli.session import distributed_context, load_images

if TYPE_CHECKING:
    from blurcli.config import Config
    from blurcli.pace import Pace
    from blurcli.runs import Run
    from blurcli.training import Metrics
    from blurcli.weights import Weights

_MEASURED_STEPS, _MEASURED_SEC = 3, 2.0  # before the duration of a training is estimated
_SLOW_SEC = 10.0  # a single step that takes so long is enough to measure
_LONG_SEC = 3 * 86_400.0  # a training on a CPU that takes so long gets a warning
_OWN_IMAGES = "blurdiff train --data FOLDER chooses a preset for your own images that takes about an hour"
_FEWER_STEPS = "fewer steps: --set train.steps=N"


def run_to_end(folder: Run, config: Config, device: str, teacher: Weights | None, as_json: bool) -> None:
    """Train, report progress, and print the result.

    Args:
        folder: the run folder.
        config: the resolved configuration.
        device: as `inference.choose_device` takes it.
        teacher: the model that is distilled, if one is.
        as_json: whether the result is printed as JSON.

    Raises:
        typer.Exit: a signal stopped it.
    """
    from blurcli import console
    from blurcli.inference import choose_device
    from blurcli.pace import Pace
    from blurcli.trackers import check_installed
    from blurcli.training import Callbacks, Interrupted
    from blurcli.training import train as run_training
    from blurcli.visualize import tile

    with distributed_context(device) as distributed:
        if distributed.is_main:
            check_installed(config.train.trackers)
        with distributed.main_first():
            dataset = load_images(config, config.data.source, "train", config.data.classes)
        pace = Pace(config.train.steps)
        with console.progress("training", config.train.steps, pace) as update:
            way = _FEWER_STEPS if teacher is not None else _OWN_IMAGES
            reporter = _Reporter(pace, update, way if choose_device(device).type == "cpu" else None)
            callbacks = Callbacks(console.notify, reporter.on_step, reporter.on_log, tile)
            try:
                weights = run_training(config, folder, dataset, choose_device(device), callbacks, distributed, teacher)
            except Interrupted as stop:
                console.notify(f"{stop}; the same command continues")
                raise typer.Exit(stop.exit_code) from None
            reporter.finish(folder.preview_path(config.train.steps))
        result = {"run": str(folder.path), "weights": str(weights), "step": config.train.steps}
        show(result, str(weights), as_json)


class _Reporter:
    """Reports the progress of a training.

    Args:
        pace: of its steps.
        update: of the progress bar.
        way: on a CPU, what to do about a training that takes days; None on a GPU.
    """

    def __init__(self, pace: Pace, update: Callable[..., None], way: str | None) -> None:
        self._pace, self._update, self._way = pace, update, way
        self._first: int | None = None
        self._estimated = False

    def on_step(self, step: int) -> None:
        """A step is done; the first call comes before the first step."""
        if self._first is None:
            self._first = step
            self._pace.start(step)
            return
        self._update(step)
        elapsed = self._pace.elapsed_sec
        measured = step >= self._first + _MEASURED_STEPS and elapsed >= _MEASURED_SEC
        if not self._estimated and (measured or elapsed >= _SLOW_SEC):
            self._estimated = True
            self._estimate()

    def _estimate(self) -> None:
        from blurcli import console
        from blurcli.pace import duration

        speed, left = self._pace.speed, self._pace.left_sec
        if speed and left:
            console.notify(
                f"{self._pace.total:,} steps at {speed:.3g} steps/s: about {duration(left)}; "
                "Ctrl-C saves, and the same command continues"
            )
            if left > _LONG_SEC and self._way is not None:
                console.notify(f"warning: on this computer without a GPU that is hardly worth waiting for; {self._way}")

    def finish(self, preview: Path) -> None:
        """The training is done; its last preview is in this file."""
        from blurcli import console
        from blurcli.pace import duration

        seen = f"; samples in {preview}" if preview.exists() else ""
        note = f", {self._pace.note}" if self._pace.note else ""
        console.notify(f"trained to step {self._pace.total:,} in {duration(self._pace.elapsed_sec)}{note}{seen}")

    def on_log(self, metrics: Metrics) -> None:
        """The metrics of a log interval."""
        loss = "no finite loss" if metrics.loss is None else f"loss {metrics.loss:.4f}"
        self._update(metrics.step, note=f"{loss}, {metrics.images_per_sec:.0f} images/s")
