"""What several commands share: options, and finding the model that a command means."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blurcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from blurcli.config import Config
    from blurcli.data import Dataset
    from blurcli.distributed import Team
    from blurcli.evaluate import Features, Judge, Reference
    from blurcli.model import Model
    from blurcli.runs import Run

STARTED = time.perf_counter()
"""About when the command began."""

PresetOption = Annotated[
    str | None, typer.Option("--preset", help="Name of a preset, or a YAML file. [default: that of --run]")
]
TrainingDataOption = Annotated[
    str | None, typer.Option("--data", help="Folder or .zip of images, or a dataset's name. [default: the preset's]")
]
AssignmentsOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset, e.g. train.steps=1000.")]
RunOption = Annotated[
    Path | None, typer.Option("--run", help="Run folder; its newest weights are taken. [default: the newest run]")
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="Weights file (.safetensors), or shapes-blur: the model that comes along.")
]
SamplerOption = Annotated[
    Literal["abm", "ab2", "euler", "ancestral", "ddim", "dpmpp-2m", "heat"] | None,
    typer.Option("--sampler", help="Solver. [default: the preset's]"),
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Network calls an image. [default: the preset's]")]
EtaOption = Annotated[
    float | None,
    typer.Option("--eta", min=0, max=1, help="Noise of ddim, 0 to 1: 1 is as ancestral. [default: the preset's]"),
]
DeltaOption = Annotated[
    float | None,
    typer.Option("--delta", min=0, max=1, help="Noise of a step of heat, black being 0, white 1. [default: the preset's]"),
]
ClassOption = Annotated[
    str | None,
    typer.Option("--class", help="Name of a class; all in turn; or none. [default: as often as in the training data]"),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance", min=0, max=100, help="Towards the class: 1 is none, more is more typical. [default: the preset's]"
    ),
]
CalibrationOption = Annotated[
    bool,
    typer.Option(
        "--calibration/--no-calibration", help="For eps: scale the network's estimates by what they were measured to be worth."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed of the images.")]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images in flight at a time. [default: the preset's, or what fits]")
]
ReferenceOption = Annotated[
    str | None, typer.Option("--data", help="Reference: folder, .zip or dataset's name. [default: the run's own]")
]
SplitOption = Annotated[
    Literal["train", "test"] | None, typer.Option("--split", help="Reference images. [default: the preset's]")
]
ModeOption = Annotated[
    Literal["clean", "legacy_tensorflow", "legacy_pytorch"] | None,
    typer.Option("--mode", help="clean-fid's resizing and network, for Inception. [default: the preset's]"),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features", help="inception, pixels, or a TorchScript or torch.export file (code: it is run). [default: the preset's]"
    ),
]
InceptionOption = Annotated[
    Path | None,
    typer.Option("--inception", help="Inception's file, or its folder. [default: $BLURDIFF_INCEPTION, else fetched once]"),
]
PublishedOption = Annotated[
    str | None,
    typer.Option("--reference", help="Statistics that clean-fid publishes, instead of images: cleanfid:NAME[:SIZE[:SPLIT]]."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Score even too few images for the features.")]
CountOption = Annotated[
    int | None, typer.Option("--n", min=2, help="Number of images, evenly spaced in the data. [default: 256, or all]")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]


def show(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result, for a program or for a person."""
    from blurcli import console

    if as_json:
        console.result_json(value)
    else:
        console.result(text)


def resolve_preset(preset: str, data: str | None, assignments: list[str] | None) -> Config:
    """A preset with what --set and --data say over it."""
    from blurcli.config import load_config, parse_overrides

    overrides = parse_overrides(assignments or [])
    if data is not None:
        overrides.append((f"--data {data}", "data.source", resolve_source(data)))
    return load_config(preset, overrides)


def find_weights(run: Path | None, weights: Path | None) -> tuple[Path, Run | None]:
    """The weights file that a command means, and the run it belongs to, if it was found by one; says which.

    Where none is named and nothing was trained yet, it is the model that comes with blurdiff.
    """
    from blurcli import bundled, console
    from blurcli.runs import RUNS, Run, newest_run

    if weights is not None and run is not None:
        raise UsageError("--run and --weights: give one of them, not both")
    if weights is not None:
        return (bundled.PATH if str(weights) == bundled.NAME and not weights.is_file() else weights), None
    chosen = Run(run) if run is not None else newest_run()
    if chosen is None:
        console.say(
            f"no run in {RUNS}/ yet: using the model that comes with blurdiff (--weights {bundled.NAME}); "
            f"train one of your own with: blurdiff train --preset {bundled.NAME}"
        )
        return bundled.PATH, None
    path = chosen.newest_weights()
    console.say(f"using {path}")
    return path, chosen


def load_model(path: Path, device: str, calibrated: bool = True) -> tuple[Model, int]:
    """The model of a weights file, and the steps that it was trained for."""
    from blurcli import console
    from blurcli.checkpoint import load_weights
    from blurcli.model import Model
    from blurcli.network import choose_device

    chosen = choose_device(device)
    weights = load_weights(path)
    if not calibrated and weights.gain is None:
        raise UsageError(f"--no-calibration: {path} has no calibration; only models of objective eps have one")
    return Model.from_weights(weights, chosen, calibrated, console.say), weights.step


def load_images(config: Config, source: str, split: str, classes: int | None = None) -> Dataset:
    """A dataset in the size and channels of a configuration, with a progress line while it is packed."""
    from blurcli.data import load_dataset

    with packing() as progress:
        dataset = load_dataset(
            source,
            split,
            config.data.image_size,
            config.data.channels,
            **_reading(config),
            classes=classes,
            progress=progress,
        )
    _tell_broken(dataset)
    return dataset


def _reading(config: Config) -> dict[str, Any]:
    """How a configuration has data read, besides size and channels."""
    return {key: getattr(config.data, key) for key in ("shapes_count", "shapes_objects", "value_range", "max_broken")}


def _tell_broken(dataset: Dataset) -> None:
    from blurcli import console

    if dataset.broken:
        names = ", ".join(dataset.broken[:10]) + (", ..." if len(dataset.broken) > 10 else "")
        console.say(f"{dataset.name}: {len(dataset.broken)} unreadable files are left out: {names}")


def reference_images(config: Config, run: Run | None, data: str | None, split: str) -> Dataset:
    """The images that a model is compared with: those of --data, or else the run's own."""
    return load_images(config, resolve_source(data) if data is not None else own_source(config, run, "--data"), split)


@dataclass(frozen=True)
class Standard:
    """What images are to be scored by, as the options say; what they leave open is the preset's, or else the default.

    Attributes:
        features, mode, split, data, inception, device: the options of these names.
        published: the option --reference.
    """

    features: str | None
    mode: str | None
    split: str | None
    data: str | None
    published: str | None
    inception: Path | None
    device: str

    def load_features(self, config: Config | None) -> Features:
        """The features, with a progress line while a network is fetched."""
        from blurcli.config import ScoreConfig
        from blurcli.network import choose_device

        preset = config.score if config is not None else ScoreConfig()
        name, mode = self.features or preset.features, self.mode or preset.mode
        return fetch_features(name, mode, choose_device(self.device), self.inception)

    def judge(self, config: Config | None, run: Run | None, shape: tuple[int, int, int]) -> Judge:
        """Features, and a reference for images of `shape` (C, H, W): measured now, with a progress line, or before."""
        from blurcli import console, evaluate
        from blurcli.config import ScoreConfig
        from blurcli.network import choose_device

        if self.published is not None and self.data is not None:
            raise UsageError("--reference and --data: each says what to compare with; give one of them")
        preset = config.score if config is not None else ScoreConfig()
        split = self.split or preset.split
        if self.published is None and self.data is None and config is None:
            raise UsageError(
                "--samples needs something to compare with: give --data, --reference, or --run for that run's data"
            )
        # Images are local where Inception may be a download: what is wrong with them shows before it.
        dataset = self._images(config, run, split, shape) if self.published is None else None
        features = self.load_features(config)
        if dataset is not None:
            with console.progress("reference", len(dataset.images)) as update:
                reference = evaluate.image_reference(dataset, split, features, update)
        else:
            assert self.published is not None
            reference = fetch_reference(self.published, features, shape[1], split)
        if self.split not in (None, reference.split):
            raise UsageError(f"--split {self.split}: {self.published} is of the split {reference.split}")
        return evaluate.Judge(features, reference, choose_device(self.device))

    def _images(self, config: Config | None, run: Run | None, split: str, shape: tuple[int, int, int]) -> Dataset:
        from blurcli.data import load_dataset

        channels, *size = shape
        if self.data is not None:
            source = resolve_source(self.data)
        else:
            assert config is not None
            source = own_source(config, run, "--data")
        options = _reading(config) if config is not None else {}
        with packing() as progress:
            dataset = load_dataset(source, split, (size[0], size[1]), channels, **options, progress=progress)
        _tell_broken(dataset)
        return dataset


def fetch_features(name: str, mode: str, device: torch.device, inception: Path | None) -> Features:
    """The features of that name, with a progress line while a network is fetched, and a warning where there is cause."""
    from blurcli import console, evaluate

    with console.progress("fetching Inception (MiB)") as update:
        features = evaluate.load_features(name, mode, device, inception, _in_units(update, 20))
    if features.warning:
        console.say(f"warning: {features.warning}")
    return features


def fetch_reference(published: str, features: Features, height: int, split: str) -> Reference:
    """Published statistics, with a progress line while they are fetched."""
    from blurcli import console, evaluate

    with console.progress("fetching statistics (KiB)") as update:
        return evaluate.file_reference(published, features, height, split, _in_units(update, 10))


def _in_units(update: Callable[..., None], shift: int) -> Callable[[int, int], None]:
    """A progress in bytes as one in units of 2^shift of them; a total of 0 is unknown."""
    return lambda done, total: update(done >> shift, (total >> shift) or None)


def check_enough(judge: Judge, count: int, force: bool) -> None:
    """Refuse, or with `force` only warn of, fewer images than a covariance of these features needs."""
    from blurcli import console

    try:
        judge.check_enough(count)
    except UsageError as error:
        if not force:
            raise
        console.say(f"warning: {error}")


def evaluations_path(run: Run | None) -> Path:
    """Where the scores of a run are kept, or those of images and weights that belong to none."""
    from blurcli.runs import RUNS

    return run.evaluations_path if run is not None else RUNS / "evaluations.jsonl"


def chosen_count(n: int | None, dataset: Dataset, default: int = 256) -> int:
    """How many images of a dataset to measure: --n, or by default 256, or all where there are fewer."""
    total = len(dataset.images)
    if n is not None and n > total:
        raise UsageError(f"--n {n}: {dataset.name} has {total} images; give at most that")
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
    """Refuse, before the work, a folder for results that holds something already, or cannot be made."""
    from blurcli import files

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not an empty folder; choose another one")
    if not folder.exists():
        files.check_writable(folder)


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return {"RANK", "LOCAL_RANK"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def teamed(device: str) -> Iterator[Team]:
    """The processes that torchrun started, while the block runs; those that do not lead are silent. Else, this one alone."""
    from blurcli import console
    from blurcli.distributed import ALONE, joined
    from blurcli.network import choose_device

    if not started_by_torchrun():
        yield ALONE
        return
    with joined(choose_device(device)) as team:
        if not team.leads:
            console.silence(f"process {team.rank}")
        yield team


@contextmanager
def packing() -> Iterator[Any]:
    """A progress line for images that are read for the first time."""
    from blurcli import console

    with console.progress("packing images") as update:
        yield update


def own_source(config: Config, run: Run | None, option: str) -> str:
    """The data that a model was trained on, as its run folder names it; a path inside a weights file is not trusted.

    Without a run folder, and for data that are no known dataset, the user is asked to name them with `option`.
    """
    from blurcli.data.dataset import NAMES

    source = (run.config() if run is not None else config).data.source
    if run is None and source not in NAMES:
        raise UsageError(f"the weights file alone does not say where its training images are: give them with {option}")
    return source


def resolve_source(data: str) -> str:
    """A --data argument as a dataset's name or an absolute path, which stays true in other folders."""
    from blurcli.data.dataset import NAMES

    return data if data in NAMES else str(Path(data).absolute())
