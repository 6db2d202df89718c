"""A training on the command line, from start to finish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from blurcli.base.pace import Pace
from blurcli.cli.common import show
from blurcli.workflows.session import distributed_context, load_images

if TYPE_CHECKING:
    from blurcli.base.runs import Run
    from blurcli.config import Config
    from blurcli.model.weights import Weights
    from blurcli.training import Metrics
    from blurcli.training.monitoring import DrawPreview

_MEASURED_STEPS, _MEASURED_SEC = 3, 2.0  # before the duration of a training is estimated
_SLOW_SEC = 10.0  # a single step of this duration is enough to measure
_COMPARED_SEC = 20.0  # before an expected duration is corrected, because other programs often start together with a training
_AGREEING = 0.25  # of an expected duration
_LONG_SEC = 3 * 86_400.0  # a training on a CPU of this duration gets a warning
_OWN_IMAGES = "train on your own images in about an hour: blurdiff train --data FOLDER"
_FEWER_STEPS = "train fewer steps: --set train.steps=N"


def run_to_end(
    folder: Run, config: Config, device: str, teacher: Weights | None, as_json: bool, expected_sec: float | None = None
) -> None:
    """Train, report progress, and print the result.

    Args:
        folder: the run folder.
        config: the resolved configuration.
        device: as for `inference.choose_device`.
        teacher: the model to distill; None for other trainings.
        as_json: whether the result is printed as JSON.
        expected_sec: the announced duration of the whole training; None if none was announced.

    Raises:
        typer.Exit: a signal stopped it.
    """
    from blurcli.base import console
    from blurcli.model.inference import choose_device
    from blurcli.trackers import check_installed
    from blurcli.training import Interrupted
    from blurcli.training import train as run_training

    with distributed_context(device) as distributed:
        if distributed.is_main:
            check_installed(config.train.trackers)
        with distributed.main_first():
            dataset = load_images(config, config.data.source, "train", config.data.classes)
        pace = Pace(config.train.steps)
        with console.progress("training", config.train.steps, pace) as update:
            hint = _FEWER_STEPS if teacher is not None else _OWN_IMAGES
            reporter = _Reporter(pace, update, config, expected_sec, hint if choose_device(device).type == "cpu" else None)
            try:
                weights = run_training(config, folder, dataset, choose_device(device), reporter, distributed, teacher)
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
        config: of the training.
        expected_sec: the announced duration of the whole training; None if none was announced.
        hint: on a CPU, what to do about a training that takes days; None on a GPU.
    """

    def __init__(
        self, pace: Pace, update: Callable[..., None], config: Config, expected_sec: float | None, hint: str | None
    ) -> None:
        from blurcli.visualize import tile

        self.draw_preview: DrawPreview | None = tile
        self._pace, self._update, self._hint = pace, update, hint
        self._config, self._expected_sec = config, expected_sec
        self._first: int | None = None
        self._steady: Pace | None = None
        self._estimated = False

    def notify(self, text: str) -> None:
        from blurcli.base import console

        console.notify(text)

    def on_step(self, step: int) -> None:
        """Show the number of steps done; the first call comes before the first step."""
        if self._first is None:
            self._first = step
            self._pace.start(step)
            return
        self._update(step)
        if self._estimated:
            return
        if self._steady is None:  # the first step also compiles, builds and warms up
            self._steady = Pace(self._config.train.steps)
            self._steady.start(step)
            return
        self._steady.update(step)
        enough_sec = _MEASURED_SEC if self._expected_sec is None else _COMPARED_SEC
        measured = step > self._first + _MEASURED_STEPS and self._steady.elapsed_sec >= enough_sec
        if measured or self._steady.elapsed_sec >= max(_SLOW_SEC, enough_sec):
            self._estimated = True
            self._estimate(self._steady)

    def _estimate(self, steady: Pace) -> None:
        from blurcli.base import console
        from blurcli.base.pace import duration
        from blurcli.training.length import seconds_of

        steps, speed = self._config.train.steps, steady.speed
        rest = steps - steady.done
        if not (speed and rest):
            return
        left, after = seconds_of(self._config, rest, 1 / speed), "Ctrl-C saves, and the same command continues"
        expected = None if self._expected_sec is None else self._expected_sec * rest / steps
        if expected is not None and abs(left - expected) <= _AGREEING * expected:
            console.notify(after)
            return
        instead = "" if expected is None else f" and not {duration(expected)}, as it was measured before"
        console.notify(f"{steps:,} steps at {speed:.3g} steps/s: about {duration(left)}{instead}; {after}")
        if left > _LONG_SEC and self._hint is not None:
            console.notify(f"warning: this would take {duration(left)} on this CPU; use a GPU, or {self._hint}")

    def finish(self, preview: Path) -> None:
        """Show the end of the training; its last preview is in this file."""
        from blurcli.base import console
        from blurcli.base.pace import duration

        seen = f"; samples in {preview}" if preview.exists() else ""
        note = f", {self._pace.note}" if self._pace.note else ""
        console.notify(f"trained to step {self._pace.total:,} in {duration(self._pace.elapsed_sec)}{note}{seen}")

    def on_log(self, metrics: Metrics) -> None:
        loss = "no finite loss" if metrics.loss is None else f"loss {metrics.loss:.4f}"
        self._update(metrics.step, note=f"{loss}, {metrics.images_per_sec:.0f} images/s")
