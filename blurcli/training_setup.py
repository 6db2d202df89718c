"""The run folder and the preset of a training, chosen for a person's own images by the images and by this computer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.errors import OptionError, UsageError, UserError, option
from blurcli.session import Assignments, load_torch, overrides_of, resolve_preset

if TYPE_CHECKING:
    import torch

    from blurcli.config import Config
    from blurcli.runs import Run

Override = tuple[str, str, Any]
"""Origin for messages, dotted key, value."""

_LOOKED_AT = 100  # images
_SIZES = ((48, 64), (24, 32), (0, 16))  # of images whose shorter side is at least so long, in pixels
_FEW_IMAGES = 5_000  # below, augmentation keeps the network from learning them by heart
_AUGMENT = 0.12
_GRAY_DIFFERENCE = 3  # of 255, between the channels of an image without colors
_SECONDS = 3600.0  # of a training on a CPU
_MEASURED_SEC = 4.0
_STEPS = (2_000, 60_000)


@dataclass(frozen=True)
class Choice:
    """A preset for some images.

    Attributes:
        config: the resolved preset.
        reasons: what was found and chosen, for the user.
    """

    config: Config
    reasons: list[str]


@dataclass(frozen=True)
class _Look:
    """A look at some images: their number, the median of their shorter sides, and whether all are gray."""

    count: int
    side: int
    gray: bool


def set_up(
    preset: str | None, data: str | None, run: Path | None, device: str, assignments: Assignments | None
) -> tuple[Run, Config]:
    """The run folder and the configuration of a training that begins or continues.

    Args:
        preset: a name, or the path of a YAML file; None for the run's own, or one chosen by the images.
        data: images instead of the preset's.
        run: the folder; None for one in `runs/`, named after the preset or the images.
        device: as `inference.choose_device` takes it.
        assignments: keys over the preset's.

    Raises:
        UsageError: nothing says what to train.
    """
    from blurcli.runs import RUNS, Run

    if preset is None and run is None and data is None:
        raise UsageError(
            f"train needs {option('data')} FOLDER with your images, or {option('preset')} NAME (blurdiff presets lists them), "
            f"or {option('run')} DIR to continue a run"
        )
    folder = Run(run if run is not None else RUNS / Path(str(data if preset is None else preset)).stem)
    if preset is not None or folder.config_path.exists():
        known = preset if preset is not None else str(folder.config_path.resolve())
        return folder, resolve_preset(known, data, assignments)
    if data is None:
        raise UsageError(
            f"{option('run')} {folder.path}: no run to continue; start one with {option('data')} FOLDER or "
            f"{option('preset')} NAME"
        )
    return folder, _chosen(data, device, assignments)


def _chosen(data: str, device: str, assignments: Assignments | None) -> Config:
    """The configuration for a person's own images."""
    from blurcli.config import DATASET_NAMES, resolve_source

    if data in DATASET_NAMES:
        problem = f"choose a preset for it with {option('preset')} (blurdiff presets lists them)"
        raise OptionError("data", data, problem)
    load_torch()
    from blurcli import console

    choice = choose(resolve_source(data), device, overrides_of(assignments))
    for reason in choice.reasons:
        console.notify(reason)
    return choice.config


def choose(source: str, device: str, assigned: Sequence[Override] = ()) -> Choice:
    """The preset for the images of a path.

    Args:
        source: a folder, .zip or LMDB database.
        device: `auto`, `cpu` or `cuda`.
        assigned: overrides of the user, which count more.

    Raises:
        UsageError: there are no images.
        UserError: none of those looked at can be read.
    """
    from blurcli.config import load_config
    from blurcli.inference import choose_device
    from blurcli.pace import duration

    look = _look_at(source)
    chosen = choose_device(device)
    preset, other = ("folder-small", "folder-blur") if chosen.type == "cpu" else ("folder-blur", "folder-small")
    size = next(size for least, size in _SIZES if look.side >= least)
    origin = "the choice for these images"
    keys: dict[str, Any] = {"data.source": source, "data.image_size": size}
    if look.gray:
        keys["data.channels"] = 1
    if look.count < _FEW_IMAGES:
        keys["data.augment"] = _AUGMENT

    def overrides() -> list[Override]:
        return [*((origin, key, value) for key, value in keys.items()), *assigned]

    config = load_config(preset, overrides())
    time = ""
    if chosen.type == "cpu":
        step_sec = _step_sec(config, chosen)
        keys["train.steps"] = int(max(_STEPS[0], min(_STEPS[1], round(_SECONDS / step_sec, -2))))
        config = load_config(preset, overrides())
        time = f": about {duration(config.train.steps * step_sec)} on this computer"
    height, width = config.data.image_size
    made = (
        f"{height}x{width}{' gray' if config.data.channels == 1 else ''}{', with augmentation' if config.data.augment else ''}"
    )
    return Choice(
        config,
        [
            f"{look.count:,} images, shorter side {look.side} px, {'gray' if look.gray else 'in color'}: preset {preset} at "
            f"{made}; {config.train.steps:,} steps{time}",
            f"for {'a GPU' if other == 'folder-blur' else 'a CPU'}: --preset {other}",
        ],
    )


def _look_at(source: str) -> _Look:
    import numpy as np

    from blurcli.data.images import decode, upright_size
    from blurcli.data.sources import open_source

    sides, gray = [], True
    with open_source(source, "train", (64, 64)) as files:
        count = len(files.names)
        for i in np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int):
            try:
                content = files.read(files.names[i])
                sides.append(min(upright_size(content, files.names[i])))
                small = decode(content, files.names[i], 32, 32, 3, (0, 65535)).astype(int)
            except UserError as error:  # is counted, or refused, when all are read
                unreadable = error
                continue
            gray = gray and int(np.ptp(small, axis=0).max()) <= _GRAY_DIFFERENCE
    if not sides:
        raise unreadable
    return _Look(count, int(np.median(sides)), gray)


def _step_sec(config: Config, device: torch.device) -> float:
    from blurcli import benchmark, console

    with console.waiting("measuring a training step"):
        return benchmark.training_speed(config, device, _MEASURED_SEC).sec
