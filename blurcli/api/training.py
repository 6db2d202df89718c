"""The Python interface of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, Unpack

from blurcli.api.data import TrainingImages, source_of
from blurcli.api.model import Model, load
from blurcli.api.options import check_names, check_whole
from blurcli.base import console
from blurcli.base.runs import Run
from blurcli.config import Config
from blurcli.model.inference import choose_device
from blurcli.model.weights import Weights
from blurcli.training import Interrupted, Metrics
from blurcli.training import train as run_training
from blurcli.training.monitoring import DrawPreview
from blurcli.visualize import tile
from blurcli.workflows import session
from blurcli.workflows.distillation import set_up as set_up_distillation
from blurcli.workflows.distillation import teacher_of
from blurcli.workflows.training_setup import set_up


class TrainKeywords(TypedDict, total=False):
    """Options of a training.

    Keys:
        run: run folder; if not given, one in `runs/`, named after the preset or the images.
        steps: total training steps; if not given, the preset's.
        hours: length at the speed of this computer, instead of `steps`.
        purpose: purpose of a model of your own images, if no preset is named: `sample` or `restore`.
        settings: other keys over the preset's, such as `{"optim.lr": 1e-4}`.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        callback: receives, at every log interval, a dictionary with `step`, `loss` (None if none was finite), `images_per_sec`
            and others.
    """

    run: str | Path | None
    steps: int | None
    hours: float | None
    purpose: str | None
    settings: Mapping[str, Any] | None
    device: str
    callback: Callable[[dict[str, Any]], object]


def train(preset: str | Path | None = None, data: TrainingImages | None = None, **options: Unpack[TrainKeywords]) -> Model:
    """Train a model, or continue a run, as `blurdiff train`.

    Args:
        preset: name of a preset, or a YAML file; None for the run's own, or one chosen by the images.
        data: folder or .zip of images, or a dataset's name; or images: an array (N, H, W, C) uint8, or a list or torch
            `Dataset` of Pillow images, arrays or files, each optionally with its class number; None for the preset's.
        **options: see `TrainKeywords`.

    Returns:
        The trained model.

    Raises:
        UsageError: neither preset, data nor run is given, a key is wrong, the run has another configuration, or is trained
            already.
        UserError: the images cannot be read, the training diverged, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C, or a notebook's stop; the state is saved, and the same call continues.
    """
    check_names("train", options, TrainKeywords)
    steps, run, device = options.get("steps"), options.get("run"), options.get("device", "auto")
    if steps is not None:
        check_whole("steps", steps, 1)
    assigned = {**(options.get("settings") or {}), **({} if steps is None else {"train.steps": steps})}
    folder = None if run is None else Path(run).expanduser()
    name = None if preset is None else str(preset)
    setup = set_up(name, source_of(data), folder, device, assigned, options.get("hours"), options.get("purpose"))
    callback = options.get("callback", lambda metrics: None)
    return _trained(setup.run, setup.config, device, callback, teacher_of(setup.run, setup.config))


def distill(
    model: str | Path,
    data: TrainingImages | None = None,
    *,
    run: str | Path | None = None,
    steps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    callback: Callable[[dict[str, Any]], object] = lambda metrics: None,
) -> Model:
    """Distill a trained model into one that samples in one to four steps, or continue, as `blurdiff distill`.

    Args:
        model: a run folder, a weights file, `hf://user/repo`, or `shapes`, the bundled model.
        data: as for `train`; None for the model's training images.
        run: run folder; None for the model's, with `-distilled` after its name.
        steps: total training steps; None for half of the model's.
        settings: keys over those derived from the model's, such as `{"optim.lr": 1e-4}`.
        device: as for `train`.
        callback: as for `train`.

    Returns:
        The distilled model.

    Raises:
        UsageError: there is no such model, or it cannot be distilled; a key does not fit it; the training images are unknown or
            have other classes; another model is distilled in the run folder; or the run is trained already.
        UserError: a file is damaged or cannot be written, or the training diverged.
        KeyboardInterrupt: as for `train`.
    """
    if steps is not None:
        check_whole("steps", steps, 1)
    assigned = {**(settings or {}), **({} if steps is None else {"train.steps": steps})}
    folder = None if run is None else Path(run).expanduser()
    found = set_up_distillation(str(model), source_of(data), folder, assigned)
    return _trained(found.run, found.config, device, callback, found.teacher)


class _Reporter:
    def __init__(self, update: Callable[[int], None], callback: Callable[[dict[str, Any]], object]) -> None:
        self.draw_preview: DrawPreview | None = tile
        self._update, self._callback = update, callback

    def notify(self, text: str) -> None:
        console.notify(text)

    def on_step(self, step: int) -> None:
        self._update(step)

    def on_log(self, metrics: Metrics) -> None:
        self._callback(asdict(metrics))


def _trained(
    folder: Run, config: Config, device: str, callback: Callable[[dict[str, Any]], object], teacher: Weights | None
) -> Model:
    dataset = session.load_images(config, config.data.source, "train", config.data.classes)
    with console.progress("training", config.train.steps) as update:
        reporter = _Reporter(update, callback)
        try:
            run_training(config, folder, dataset, choose_device(device), reporter, teacher=teacher)
        except Interrupted as stop:
            raise KeyboardInterrupt(f"{stop}; the same call continues") from None
    return load(folder.path, device=device)
