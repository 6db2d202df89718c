"""Shared by the commands: options, and finding weights, data and devices."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blurcli.core.samplers import FINALS, SAMPLERS
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from blurcli.config import Config
    from blurcli.data import Dataset
    from blurcli.distributed import DistributedContext
    from blurcli.pipeline import Pipeline
    from blurcli.runs import Run
    from blurcli.weights import Weights

if TYPE_CHECKING:
    SamplerName = str
    FinalName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]  # Typer reads the choices at run time
    FinalName = Literal[FINALS]

STARTED = time.perf_counter()
"""About when the command began."""

PresetOption = Annotated[str | None, typer.Option("--preset", help="Name of a preset, or a YAML file. [default: the run's]")]
TrainingDataOption = Annotated[
    str | None, typer.Option("--data", help="Folder or .zip of images, or a dataset's name. [default: the preset's]")
]
AssignmentsOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset, e.g. train.steps=1000.")]
RunOption = Annotated[
    Path | None, typer.Option("--run", help="Run folder; its newest weights are used. [default: the newest run]")
]
# Text, not a path, which would turn hf:// into hf:/.
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="Weights: a .safetensors file; hf://user/repo; or shapes-blur, the bundled model."),
]
SamplerOption = Annotated[
    SamplerName | None,
    typer.Option("--sampler", help="Sampling method. [default: the preset's]"),
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the sampler. [default: the preset's]")]
EtaOption = Annotated[
    float | None,
    typer.Option("--eta", min=0, max=1, help="Noise of ddim, 0 to 1; 1 is that of ancestral. [default: the preset's]"),
]
DeltaOption = Annotated[
    float | None,
    typer.Option("--delta", min=0, max=1, help="Noise per step of heat, for images in [0, 1]. [default: the preset's]"),
]
ClassOption = Annotated[
    str | None,
    typer.Option("--class", help="Name of a class; all, in turn; or none. [default: the frequencies of the training data]"),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=0,
        max=100,
        help="Classifier-free guidance, or by --guide; 1 is none. [default: the preset's; with --guide 2]",
    ),
]
GuideOption = Annotated[
    str | None,
    typer.Option("--guide", help="Weights of an earlier or smaller version of the model: guide away from it (autoguidance)."),
]
FinalOption = Annotated[
    FinalName | None,
    typer.Option("--final", help="End with the noise of t = 0, under a grey level, or without any. [default: the preset's]"),
]
CalibrationOption = Annotated[
    bool,
    typer.Option(
        "--calibration/--no-calibration", help="For objective eps: scale the network's estimates by their measured gain."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed of the images.")]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images per batch. [default: the preset's, or what fits]")
]
ReferenceOption = Annotated[
    str | None, typer.Option("--data", help="Reference: folder, .zip or dataset's name. [default: the run's own]")
]
SplitOption = Annotated[
    Literal["train", "test"] | None, typer.Option("--split", help="Reference images. [default: the preset's]")
]
CountOption = Annotated[
    int | None, typer.Option("--n", min=2, help="Number of images, evenly spaced in the data. [default: 256, or all]")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda", "mps", "xpu"], typer.Option("--device", help="Where to compute.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]


def show(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result as JSON or as text."""
    from blurcli import console

    if as_json:
        console.result_json(value)
    else:
        console.result(text)


def resolve_preset(preset: str, data: str | None, assignments: list[str] | None) -> Config:
    """A preset with the overrides of --set and --data."""
    from blurcli.config import load_config, parse_overrides, resolve_source

    overrides = parse_overrides(assignments or [])
    if data is not None:
        overrides.append((f"--data {data}", "data.source", resolve_source(data)))
    return load_config(preset, overrides)


def find_weights(run: Path | None, weights: str | None) -> tuple[Path | str, Run | None]:
    """The weights file to use, or its reference on the hub; and its run where it was found by one; reports which.

    Without a named file and without any run it is the bundled model.
    """
    from blurcli import bundled, console, hub
    from blurcli.runs import RUNS, Run, newest_run

    if weights is not None and run is not None:
        raise UsageError("--run and --weights: give one of them, not both")
    if weights is not None:
        if hub.is_reference(weights):
            return hub.parse(weights).text, None
        return (bundled.PATH if weights == bundled.NAME and not Path(weights).is_file() else Path(weights)), None
    chosen = Run(run) if run is not None else newest_run()
    if chosen is None:
        console.notify(
            f"no run in {RUNS}/ yet: using the bundled model (--weights {bundled.NAME}); "
            f"train your own with: blurdiff train --preset {bundled.NAME}"
        )
        return bundled.PATH, None
    path = chosen.newest_weights()
    console.notify(f"using {path}")
    return path, chosen


def load_torch() -> None:
    """Import PyTorch, which takes seconds, visibly on a terminal."""
    from blurcli import console, threads

    if threads.note:
        console.notify(threads.note)
        threads.note = None
    if "torch" not in sys.modules and not started_by_torchrun():  # whose processes share one terminal
        with console.waiting("loading PyTorch"):
            import torch  # noqa: F401


def read_weights(source: Path | str) -> Weights:
    """The content of a weights file, or of one on the hub, which is fetched first."""
    from blurcli import console, hub
    from blurcli.weights import load_weights

    reference = str(source)
    if not hub.is_reference(reference):
        return load_weights(Path(source))
    return load_weights(hub.fetch(reference, console.notify), reference)


def load_model(
    source: Path | str, device: str, calibrated: bool = True, guide: Path | str | None = None
) -> tuple[Pipeline, int]:
    """The pipeline of weights, a file or the reference of one on the hub, perhaps with a guide; and its training steps."""
    load_torch()
    from blurcli import console
    from blurcli.inference import choose_device
    from blurcli.pipeline import Pipeline

    chosen = choose_device(device)
    weights = read_weights(source)
    if not calibrated and weights.data.gain is None:
        raise UsageError(f"--no-calibration: {source} has no calibration; only models with objective=eps have one")
    weaker = None if guide is None else read_weights(guide)
    return Pipeline.from_weights(weights, chosen, calibrated, console.notify, weaker), weights.step


def load_images(config: Config, source: str, split: str, classes: int | None = None) -> Dataset:
    """A dataset in the size and channels of a configuration, with a progress bar while it is packed."""
    from blurcli.data import ReadOptions, load_dataset

    with packing() as progress:
        dataset = load_dataset(
            source,
            split,
            config.data.image_size,
            config.data.channels,
            ReadOptions.of(config.data),
            classes=classes,
            progress=progress,
        )
    _report(dataset)
    return dataset


def _report(dataset: Dataset) -> None:
    from blurcli import console

    if dataset.broken:
        names = ", ".join(dataset.broken[:10]) + (", ..." if len(dataset.broken) > 10 else "")
        console.notify(f"{dataset.name}: {len(dataset.broken)} unreadable files are skipped: {names}")
    for note in dataset.notes:
        console.notify(note)


def reference_images(config: Config, run: Run | None, data: str | None, split: str) -> Dataset:
    """The reference images of a model: those of --data, or the run's training data."""
    from blurcli.config import resolve_source

    return load_images(config, resolve_source(data) if data is not None else own_source(config, run, "--data"), split)


def chosen_count(n: int | None, dataset: Dataset, default: int = 256) -> int:
    """Number of images of a dataset to measure: --n, or by default 256, or all where there are fewer."""
    total = len(dataset.images)
    if n is not None and n > total:
        raise UsageError(f"--n {n}: {dataset.name} has {total} images; use at most {total}")
    return n or min(default, total)


def read_photo(path: Path, config: Config) -> NDArray[np.uint8]:
    """One image file, (C, H, W), in the size and channels of a configuration."""
    from blurcli.data.images import decode

    return decode(_content(path), str(path), *config.data.image_size, config.data.channels, config.data.value_range)


def photo_size(path: Path, most: int) -> tuple[int, int]:
    """Height and width in which to show an image file: its own, or with the longer side brought down to `most`."""
    from blurcli.data.images import upright_size

    height, width = upright_size(_content(path), str(path))
    shrink = min(1.0, most / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def check_new_folder(folder: Path) -> None:
    """Refuse, before the work, an output folder that is not empty or cannot be created."""
    from blurcli import files

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not an empty folder; choose another one")
    if not folder.exists():
        files.check_writable(folder)


def started_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return {"RANK", "LOCAL_RANK"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def distributed_context(device: str) -> Iterator[DistributedContext]:
    """The processes started by torchrun, all but the main one silent; without torchrun a single process."""
    load_torch()
    from blurcli import console
    from blurcli.distributed import SINGLE_PROCESS, joined
    from blurcli.inference import choose_device

    if not started_by_torchrun():
        yield SINGLE_PROCESS
        return
    with joined(choose_device(device)) as distributed:
        if not distributed.is_main:
            console.silence(f"process {distributed.rank}")
        yield distributed


@contextmanager
def packing() -> Iterator[Any]:
    """A progress bar for images that are read for the first time."""
    from blurcli import console

    with console.progress("packing images") as update:
        yield update


def own_source(config: Config, run: Run | None, option: str) -> str:
    """The training data of a model, as its run folder names it; a path inside a weights file is not trusted.

    Raises:
        UsageError: there is no run folder, and the data are not a known dataset: name them with `option`.
    """
    from blurcli.config import load_run_config
    from blurcli.data import DATASETS

    source = (load_run_config(run.config_path) if run is not None else config).data.source
    if run is None and source not in DATASETS:
        raise UsageError(f"the weights file alone does not name its training images: name them with {option}")
    return source
