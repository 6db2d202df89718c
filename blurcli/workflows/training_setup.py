"""Setup of a training: the run folder, and the preset; for the user's own images chosen by the images and this computer."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import OptionError, UsageError, UserError, option
from blurcli.workflows.session import Assignments, load_torch, overrides_of, resolve_preset, started_by_torchrun

if TYPE_CHECKING:
    from blurcli.base.runs import Run
    from blurcli.config import Config

PURPOSES = ("sample", "restore")
"""The purposes of a model."""

_RESTORE_PRESET = "folder-restore"

Override = tuple[str, str, Any]
"""Origin for messages, dotted key, value."""

_SUMMARIZED = 100  # images
_SIZES = ((48, 64), (24, 32), (0, 16))  # (shorter side in pixels, at least; image size)
_FEW_IMAGES = 5_000  # fewer need augmentation against memorization
_AUGMENT = 0.12
_GRAY_DIFFERENCE = 3  # of 255, between the channels of an image without colors
_USUAL_SEC = 3600.0  # of a training on a CPU
_USUAL_STEPS = (2_000, 60_000)  # fewer give poor images, more hardly help with few images
_MEASURED_SEC = 4.0
_SAME_LENGTH = 0.25  # relative difference of lengths that counts as the noise of measuring the speed
_LENGTH = "train.steps"


@dataclass(frozen=True)
class Setup:
    """A training to start or continue.

    Attributes:
        run: its folder.
        config: the resolved configuration.
        expected_sec: the duration announced to the user; None if nothing was measured.
    """

    run: Run
    config: Config
    expected_sec: float | None = None


@dataclass(frozen=True)
class Choice:
    """A preset for some images.

    Attributes:
        config: the resolved preset, with its own number of steps.
        preset: its name.
        reason: the reason for the choice, for the user.
    """

    config: Config
    preset: str
    reason: str


@dataclass(frozen=True)
class _Summary:
    """A summary of images: their number, the median of their shorter sides, and whether all are gray."""

    count: int
    side: int
    gray: bool


def set_up(
    preset: str | None,
    data: str | None,
    run: Path | None,
    device: str,
    assignments: Assignments | None,
    hours: float | None = None,
    purpose: str | None = None,
) -> Setup:
    """Resolve the run folder and the configuration of a training to start or continue.

    Args:
        preset: a name, or the path of a YAML file; None for the run's own, or one chosen by the images.
        data: images instead of the preset's.
        run: the folder; None for one in `runs/`, named after the preset or the images.
        device: as `inference.choose_device` takes it.
        assignments: keys over the preset's.
        hours: length of the training at the speed of this computer; None for the preset's steps, or for steps by the images.
        purpose: purpose of the model if the preset is chosen by the images, one of `PURPOSES`; None for `sample`.

    Raises:
        UsageError: neither preset, data nor run is given, or the length is given twice.
    """
    from blurcli.base import console
    from blurcli.base.runs import resolve_run
    from blurcli.config import resolve_source

    if preset is None and run is None and data is None:
        raise UsageError(
            f"train needs {option('data')} FOLDER with your images, or {option('preset')} NAME (blurdiff presets lists them), "
            f"or {option('run')} DIR to continue a run"
        )
    if hours is not None:
        _check_hours(hours, assignments)
    if purpose is not None:
        _check_purpose(purpose, preset, data)
    config = None if preset is None else resolve_preset(preset, data, assignments)
    if run is not None:
        folder = resolve_run(run)
        if folder.path != run:
            console.notify(f"{option('run')} {run}: no such run here; using {folder.path}")
        _repair_config(folder)
    elif config is not None:
        folder = _run_of(Path(str(preset)).stem, config.data.source)
    else:
        source = resolve_source(str(data))
        folder = _run_of(_name_of(source), source)
    if config is None and folder.config_path.exists():
        config = resolve_preset(str(folder.config_path.resolve()), data, assignments)
    if config is not None:
        return _of_length(folder, config, device, hours)
    if data is None:
        raise UsageError(
            f"{option('run')} {folder.path}: no run to continue; start one with {option('data')} FOLDER or "
            f"{option('preset')} NAME"
        )
    return _for_images(folder, data, device, assignments, hours, purpose)


def _check_hours(hours: float, assignments: Assignments | None) -> None:
    if not (math.isfinite(hours) and hours > 0):
        raise OptionError("hours", hours, "must be a number above 0")
    for origin, key, _ in overrides_of(assignments):
        if key == _LENGTH:
            raise UsageError(f"{option('hours')} {hours:g} and {origin}: both set the length; use one of them")
    if started_by_torchrun():
        hint = f"with torchrun use {option('set')} {_LENGTH}=N"
        raise UsageError(f"{option('hours')} {hours:g}: the speed is measured with one process; {hint}")


def _check_purpose(purpose: str, preset: str | None, data: str | None) -> None:
    if purpose not in PURPOSES:
        raise OptionError("purpose", purpose, f"must be one of {', '.join(PURPOSES)}")
    if preset is not None or data is None:
        raise UsageError(
            f"{option('purpose')} {purpose}: chooses the preset for your images: name them with {option('data')}, and leave "
            f"{option('preset')} out"
        )


def _name_of(source: str) -> str:
    """The name of a run on images: the name of the folder, or of the archive, database or image without its suffix."""
    path = Path(source)
    return (path.stem if path.is_file() or path.suffix.lower() == ".lmdb" else path.name) or "images"


def _run_of(name: str, source: str) -> Run:
    """The run in `runs/` with this name and these images; or a new one, with a number if runs of other images have the name."""
    from blurcli.base import console
    from blurcli.base.runs import RUNS, Run
    from blurcli.config import DATASET_NAMES, load_run_config

    def numbered(number: int) -> Run:
        return Run(RUNS / (name if number == 1 else f"{name}-{number}"))

    form = re.compile(re.escape(name) + r"-([2-9]|[1-9]\d+)")
    found = [form.fullmatch(path.name) for path in RUNS.iterdir()] if RUNS.is_dir() else []
    runs = [numbered(number) for number in sorted({1, *(int(match[1]) for match in found if match)})]
    for run in runs:
        _repair_config(run)
    sources = {run: load_run_config(run.config_path).data.source for run in runs if run.config_path.exists()}
    own = [run for run, known in sources.items() if _are_same(known, source)]
    # Images that are missing may have been moved; the training refuses other images.
    own += [run for run, known in sources.items() if source not in DATASET_NAMES and _is_gone(known)]
    if own:
        return own[0]
    run = next(run for run in map(numbered, itertools.count(1)) if run not in sources)
    if run != runs[0]:
        console.notify(f"{runs[0].path} is a run of other images ({sources[runs[0]]}): this one is {run.path}")
    return run


def _are_same(known: str, source: str) -> bool:
    try:
        return known == source or Path(known).samefile(source)
    except OSError:
        return False


def _is_gone(known: str) -> bool:
    from blurcli.config import DATASET_NAMES

    return known not in DATASET_NAMES and not Path(known).exists()


def _repair_config(run: Run) -> None:
    """Rewrite the config.yaml of a run from its state if it is missing or damaged by a crash."""
    from blurcli.base import console, files
    from blurcli.config import to_yaml

    if not run.saved_states() or not _is_torn(run.config_path):
        return
    from blurcli.training.state import newest_state

    state, path = newest_state(run, console.notify)
    with files.replacing(run.config_path) as temporary:
        temporary.write_text(to_yaml(state.config), encoding="utf-8")
    console.notify(f"{run.config_path}: was missing or damaged; written again from {path}")


def _is_torn(path: Path) -> bool:
    """Whether a text file is missing or damaged by a crash, unlike a file edited by the user."""
    try:
        content = path.read_bytes()
        return not content.decode("utf-8").strip() or b"\0" in content
    except (FileNotFoundError, UnicodeDecodeError):
        return True


def _for_images(
    folder: Run, data: str, device: str, assignments: Assignments | None, hours: float | None, purpose: str | None
) -> Setup:
    """A new training on the user's own images: on a CPU, as many steps as fit into about an hour."""
    from blurcli.config import DATASET_NAMES, resolve_source

    if data in DATASET_NAMES:
        problem = f"choose a preset for it with {option('preset')} (blurdiff presets lists them)"
        raise OptionError("data", data, problem)
    load_torch()
    from blurcli.base import console
    from blurcli.model.inference import choose_device

    assigned = overrides_of(assignments)
    choice = choose_preset(resolve_source(data), device, assigned, purpose)
    console.notify(choice.reason)
    setup = _of_length(folder, choice.config, device, hours)
    own_length = hours is not None or any(key == _LENGTH for _, key, _ in assigned)
    if not own_length and choose_device(device).type == "cpu" and not started_by_torchrun():
        setup = _of_usual_length(folder, choice.config, device)
    if choice.preset != _RESTORE_PRESET:
        other, kind = ("folder-blur", "a GPU") if choice.preset == "folder-small" else ("folder-small", "a CPU")
        console.notify(f"for {kind}: {option('preset')} {other}")
    return setup


def _of_usual_length(folder: Run, config: Config, device: str) -> Setup:
    """A training of an hour, unless that has too few or too many steps."""
    from blurcli.base import console
    from blurcli.base.pace import duration
    from blurcli.training.length import seconds_of, steps_in

    step_sec, (least, most) = _step_sec(config, device), _USUAL_STEPS
    steps = steps_in(config, _USUAL_SEC, step_sec)
    reason = f"chosen for an hour at today's speed; {option('hours')} 0.5 for less"
    if not least <= steps <= most:
        why, other = ("fewer give poor images", "less") if steps < least else ("more hardly help", "more")
        steps = min(max(steps, least), most)
        took = duration(seconds_of(config, steps, step_sec))
        reason = f"because {why}; about {took} at today's speed; {option('hours')} 1 for {other}"
    else:
        steps = round(steps, -2)
    console.notify(f"{steps:,} steps, {reason}")
    return Setup(folder, _with_steps(config, steps), seconds_of(config, steps, step_sec))


def _of_length(folder: Run, config: Config, device: str, hours: float | None) -> Setup:
    """A training of the given hours in all, including those of a run to continue; or, for None, of the configuration's steps.

    A run keeps its length if a new measurement gives about the same, so that a repeated command continues to the same end.
    """
    from blurcli.base import console
    from blurcli.base.pace import duration
    from blurcli.config import load_run_config
    from blurcli.core.objectives import OBJECTIVES

    if hours is None:
        return Setup(folder, config)
    if OBJECTIVES[config.objective].predicts_endpoint:
        raise UsageError(f"{option('hours')} {hours:g}: is not for distillations; use {option('set')} {_LENGTH}=N")
    load_torch()
    from blurcli.training.length import seconds_of, seconds_spent, steps_in

    step_sec, done, seconds = _step_sec(config, device), folder.newest_step(), hours * 3600
    rest = seconds - (seconds_spent(folder.metrics_path, config.train.batch_size) if done else 0)
    steps = done + (steps_in(config, rest, step_sec) if rest > 0 else 0)
    how = f"chosen for {duration(seconds)} at today's speed"
    if folder.config_path.exists():
        own = load_run_config(folder.config_path).train.steps
        if abs(steps - own) <= _SAME_LENGTH * own or steps <= done < own:
            steps, how = own, "as before"
    console.notify(f"{steps:,} step{'s' if steps > 1 else ''}, {how}")
    return Setup(folder, _with_steps(config, steps), seconds_of(config, steps, step_sec))


def _with_steps(config: Config, steps: int) -> Config:
    from blurcli.workflows.benchmark import changed

    return changed(config, {"steps": steps})


def choose_preset(source: str, device: str, assigned: Sequence[Override] = (), purpose: str | None = None) -> Choice:
    """The preset for the images of a path.

    Args:
        source: a folder, .zip or LMDB database.
        device: `auto`, `cpu` or `cuda`.
        assigned: overrides of the user, which take precedence.
        purpose: one of `PURPOSES`; None for `sample`.

    Raises:
        UsageError: there are no images.
        UserError: none of the sampled images can be read.
    """
    from blurcli.config import load_config
    from blurcli.model.inference import choose_device

    found = _summarize(source)
    restores = purpose == "restore"
    preset = _RESTORE_PRESET if restores else "folder-small" if choose_device(device).type == "cpu" else "folder-blur"
    sizes = _SIZES[1:] if restores else _SIZES  # for patches, larger sizes are not better
    keys: dict[str, Any] = {"data.image_size": next(size for least, size in sizes if found.side >= least)}
    if found.gray:
        keys["data.channels"] = 1
    if found.count < _FEW_IMAGES and not restores:
        keys["data.augment"] = _AUGMENT
    own = [("the choice for these images", key, value) for key, value in keys.items()]
    config = load_config(preset, [*own, *assigned, (f"{option('data')} {source}", "data.source", source)])
    height, width = config.data.image_size
    made = f"{'patches of ' if restores else ''}{height}x{width}{' gray' if config.data.channels == 1 else ''}"
    made += ", with augmentation" if config.data.augment else ""
    colors = "gray" if found.gray else "in color"
    reason = f"{found.count:,} images, shorter side {found.side} px, {colors}: preset {preset} at {made}"
    return Choice(config, preset, reason)


def _summarize(source: str) -> _Summary:
    import numpy as np

    from blurcli.data.images import decode, upright_size
    from blurcli.data.sources import open_source

    sides, gray = [], True
    with open_source(source, "train", (64, 64)) as files:
        count = len(files.names)
        for i in np.linspace(0, count - 1, min(count, _SUMMARIZED)).astype(int):
            try:
                content = files.read(files.names[i])
                sides.append(min(upright_size(content, files.names[i])))
                small = decode(content, files.names[i], 32, 32, 3, (0, 65535)).astype(int)
            except UserError as error:  # counted, or refused, when all are read
                unreadable = error
                continue
            gray = gray and int(np.ptp(small, axis=0).max()) <= _GRAY_DIFFERENCE
    if not sides:
        raise unreadable
    return _Summary(count, int(np.median(sides)), gray)


def _step_sec(config: Config, device: str) -> float:
    """Seconds per training step."""
    from blurcli.base import console
    from blurcli.model.inference import choose_device
    from blurcli.workflows import benchmark

    with console.waiting("measuring a training step"):
        return benchmark.training_speed(config, choose_device(device), _MEASURED_SEC).sec
