"""What several commands share: options, and finding the model that a command means."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blurcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from blurcli.config import Config
    from blurcli.data import Dataset
    from blurcli.evaluate import Judge
    from blurcli.model import Model
    from blurcli.runs import Run

RunOption = Annotated[
    Path | None, typer.Option("--run", help="Run folder; its newest weights are taken. [default: the newest run]")
]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="Weights file (.safetensors).")]
SamplerOption = Annotated[
    Literal["abm", "ab2", "euler", "ancestral", "ddim", "dpmpp-2m"] | None,
    typer.Option("--sampler", help="Solver. [default: the preset's]"),
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Network calls an image. [default: the preset's]")]
EtaOption = Annotated[
    float | None,
    typer.Option("--eta", min=0, max=1, help="Noise of ddim, 0 to 1: 1 is as ancestral. [default: the preset's]"),
]
CalibrationOption = Annotated[
    bool,
    typer.Option(
        "--calibration/--no-calibration", help="For eps: scale the network's estimates by what they were measured to be worth."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed of the images.")]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images in flight at a time. [default: the preset's]")
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
    typer.Option("--features", help="inception, pixels, or a TorchScript file (code: it is run). [default: the preset's]"),
]
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


def find_weights(run: Path | None, weights: Path | None) -> tuple[Path, Run | None]:
    """The weights file that a command means, and the run it belongs to, if it was found by one; says which."""
    from blurcli import console
    from blurcli.runs import Run, newest_run

    if weights is not None and run is not None:
        raise UsageError("--run and --weights: give one of them, not both")
    if weights is not None:
        return weights, None
    chosen = Run(run) if run is not None else newest_run()
    path = chosen.newest_weights()
    console.say(f"using {path}")
    return path, chosen


def load_model(path: Path, device: str, calibrated: bool = True) -> tuple[Model, int]:
    """The model of a weights file, and the steps that it was trained for."""
    from blurcli.checkpoint import load_weights
    from blurcli.model import Model, choose_device

    chosen = choose_device(device)
    weights = load_weights(path)
    if not calibrated and weights.gain is None:
        raise UsageError(f"--no-calibration: {path} has no calibration; only models of objective eps have one")
    return Model.from_weights(weights, chosen, calibrated), weights.step


def load_images(config: Config, source: str, split: str) -> Dataset:
    """A dataset in the size and channels of a configuration, with a progress line while it is packed."""
    from blurcli.data import load_dataset

    with packing() as progress:
        return load_dataset(
            source,
            split,
            config.data.image_size,
            config.data.channels,
            shapes_count=config.data.shapes_count,
            progress=progress,
        )


def reference_images(config: Config, run: Run | None, data: str | None, split: str) -> Dataset:
    """The images that a model is compared with: those of --data, or else the run's own."""
    return load_images(config, resolve_source(data) if data is not None else own_source(config, run, "--data"), split)


def build_judge(reference: Dataset, features: str, mode: str, device: str) -> Judge:
    """What scores images against a reference, which is measured now, with a progress line, or was before."""
    from blurcli import console, evaluate
    from blurcli.model import choose_device

    chosen = evaluate.load_features(features, mode, choose_device(device))
    with console.progress("reference", len(reference.images)) as update:
        return evaluate.Judge(chosen, reference, evaluate.reference_moments(reference, chosen, update))


def warn_of_few(count: int, judge: Judge) -> None:
    """Say so when there are too few images for the features that they are scored by."""
    from blurcli import console

    dimensions = len(judge.moments[0])
    if count <= dimensions:
        console.say(f"warning: {count} images for {dimensions} features: their covariance is singular, and the score too high")


def chosen_count(n: int | None, dataset: Dataset, default: int = 256) -> int:
    """How many images of a dataset to measure: --n, or by default 256, or all where there are fewer."""
    total = len(dataset.images)
    if n is not None and n > total:
        raise UsageError(f"--n {n}: {dataset.name} has {total} images; give at most that")
    return n or min(default, total)


def read_photo(path: Path, config: Config) -> NDArray[np.uint8]:
    """One image file, (C, H, W), in the size and channels of a configuration."""
    from blurcli.data.images import decode

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    return decode(content, str(path), *config.data.image_size, config.data.channels)


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
