"""Resolve models and images from what the user typed, with progress and messages on the console."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import OptionError, UsageError, UserError, option

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from blurcli.base.distributed import DistributedContext
    from blurcli.base.runs import Run
    from blurcli.config import Config
    from blurcli.core.rng import NoiseSource
    from blurcli.core.sampling_options import SamplingConfig
    from blurcli.data import Dataset
    from blurcli.data.dataset import WantedClasses
    from blurcli.evaluate.denoising import MeasuredImages
    from blurcli.families import Start
    from blurcli.model.pipeline import Pipeline
    from blurcli.model.weights import Weights


_USUAL_STRENGTH = 0.6
Assignments = Sequence[str] | Mapping[str, Any]
"""Keys over a preset's: texts `key=value`, or values by dotted key."""


def resolve_preset(preset: str, data: str | None, assignments: Assignments | None) -> Config:
    """Resolve a preset, with other keys and other images.

    Args:
        preset: name, or the path of a YAML file.
        data: images instead of the preset's; None for the preset's.
        assignments: keys over the preset's; None for none.
    """
    from blurcli.config import load_config, resolve_source

    source = [] if data is None else [(f"{option('data')} {data}", "data.source", resolve_source(data))]
    return load_config(preset, [*overrides_of(assignments), *source])


def overrides_of(assignments: Assignments | None) -> list[tuple[str, str, Any]]:
    """Assignments as overrides for `load_config`."""
    from blurcli.config import parse_overrides, resolve_source

    if not isinstance(assignments, Mapping):
        return parse_overrides(assignments or ())
    values = {**assignments}
    if isinstance(source := values.get("data.source"), (str, Path)):
        values["data.source"] = resolve_source(str(source))
    return [(f"{option('settings')} {key}", key, value) for key, value in values.items()]


def load_torch() -> None:
    """Import PyTorch, which takes seconds, with a spinner on a terminal."""
    from blurcli.base import console, threads

    if threads.note:
        console.notify(threads.note)
        threads.note = None
    if "torch" not in sys.modules and not started_by_torchrun():  # its processes share one terminal
        with console.waiting("loading PyTorch"):
            import torch  # noqa: F401


def read_weights(source: Path | str) -> Weights:
    """The content of a weights file; a file on the hub is downloaded first."""
    from blurcli import hub
    from blurcli.base import console
    from blurcli.model.weights import load_weights

    if not hub.is_reference(str(source)):
        return load_weights(Path(source))
    reference = hub.parse(str(source)).text
    path = hub.fetch(reference, console.notify)
    try:
        return load_weights(path, reference)
    except UserError as error:
        if isinstance(error, UsageError) or hub.is_as_published(path):
            raise
        raise UserError(f"{error.text}; to fetch it again, delete {path.resolve()} and repeat the command") from None


def load_model(
    source: Path | str,
    device: str,
    calibrated: bool = True,
    guide: Path | str | None = None,
    precision: str | None = None,
) -> tuple[Pipeline, int]:
    """The pipeline of a weights file or a reference on the hub, with an optional guide; and its training steps."""
    load_torch()
    from blurcli.base import console
    from blurcli.model.inference import choose_device
    from blurcli.model.pipeline import Pipeline

    chosen = choose_device(device)
    weights = read_weights(source)
    if not calibrated and weights.data.gain is None:
        raise UsageError(f"{option('calibrated')}: {source} has no calibration; only models with objective=eps have one")
    weaker = None if guide is None else read_weights(resolve_weights(str(guide))[0])
    return Pipeline.from_weights(weights, chosen, calibrated, console.notify, weaker, precision), weights.step


def load_images(config: Config, source: str, split: str, classes: WantedClasses | None = None) -> Dataset:
    """A dataset in the size and channels of a configuration, with a progress bar while it is packed; see `load_dataset`."""
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
    from blurcli.base import console

    if dataset.broken:
        names = ", ".join(dataset.broken[:10]) + (", ..." if len(dataset.broken) > 10 else "")
        console.notify(f"{dataset.name}: {len(dataset.broken)} unreadable files are skipped: {names}")
    for note in dataset.notes:
        console.notify(note)


def reference_images(
    config: Config, run: Run | None, data: str | None, split: str, classes: tuple[str, ...] | None = None
) -> Dataset:
    """The reference images of a model: --data, or else the run's training data; with labels if it has these classes."""
    from blurcli.config import resolve_source

    source = resolve_source(data) if data is not None else training_source(config, run, "data")
    return load_images(config, source, split, classes)


def measured_images(
    model: Pipeline, run: Run | None, data: str | None, split: str, n: int | None, seed: int
) -> tuple[Dataset, MeasuredImages]:
    """The reference images, and those of them on which a model is measured, with their classes; see `chosen_count`.

    Raises:
        UsageError: fewer than `n` images; or see `Pipeline.conditions_of`.
    """
    from blurcli.base import console
    from blurcli.evaluate.denoising import MeasuredImages

    dataset = reference_images(model.config, run, data, split, None if model.classes is None else model.classes.names)
    measured = MeasuredImages(dataset.images, chosen_count(n, dataset), seed, dataset.labels)
    if measured.label(model) == "none":
        console.notify(f"{dataset.name}: the classes of its images are unknown: the model is measured without classes")
    return dataset, measured


def chosen_count(n: int | None, dataset: Dataset, default: int = 256) -> int:
    """Number of images of a dataset to measure: --n, or else the default, or all if there are fewer."""
    total = len(dataset.images)
    if n is not None and n > total:
        raise UsageError(f"{option('n')} {n}: {dataset.name} has {total} images; use at most {total}")
    return n or min(default, total)


def read_photo(photo: Path | Image.Image, config: Config) -> NDArray[np.uint8]:
    """An image, from a file or in memory, as (C, H, W) in the size and channels of a configuration."""
    from blurcli.data.images import decode

    if isinstance(photo, Path):
        content = read_file(photo)
    else:
        photo.save(buffer := io.BytesIO(), "PNG")
        content = buffer.getvalue()
    name = str(photo) if isinstance(photo, Path) else option("init_image")
    return decode(content, name, *config.data.image_size, config.data.channels, config.data.value_range)


def photo_size(path: Path, most: int) -> tuple[int, int]:
    """Height and width for showing an image file: its own, or with the longer side reduced to `most`."""
    from blurcli.data.images import upright_size

    height, width = upright_size(read_file(path), str(path))
    shrink = min(1.0, most / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def read_file(path: Path) -> bytes:
    """The content of a file named by the user."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def started_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return {"RANK", "LOCAL_RANK"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def distributed_context(device: str) -> Iterator[DistributedContext]:
    """The processes started by torchrun, all but the main one silent; without torchrun a single process."""
    load_torch()
    from blurcli.base import console
    from blurcli.base.distributed import SINGLE_PROCESS, joined
    from blurcli.model.inference import choose_device

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
    from blurcli.base import console

    with console.progress("packing images") as update:
        yield update


def training_source(config: Config, run: Run | None, name: str) -> str:
    """The training data of a model, from its run folder; a path inside a weights file is not trusted.

    Raises:
        UsageError: there is no run folder, and the data are not a known dataset; the message asks for the option `name`.
    """
    from blurcli.config import load_run_config
    from blurcli.data import DATASETS

    source = (load_run_config(run.config_path) if run is not None else config).data.source
    if run is None and source not in DATASETS:
        raise UsageError(f"the weights file alone does not name its training images: name them with {option(name)}")
    return source


@dataclass(frozen=True)
class StartOptions:
    """The user's options for the start of sampling.

    Attributes:
        init_image: a photo to start from: a file, or an image; None for noise.
        strength: time in (0, 1] to which the photo is diffused; None for 0.6.
        init_blurred: whether the photo already has the blur of that time.
        interpolate: interpolate from image 0 of the seed to image 0 of this seed; None for independent images.
        same_init: whether all images start from one noise.
        share_noise: whether all images have the same noise per step.
    """

    init_image: Path | Image.Image | None = None
    strength: float | None = None
    init_blurred: bool = False
    interpolate: int | None = None
    same_init: bool = False
    share_noise: bool = False

    @property
    def time(self) -> float:
        """The time to which a photo is diffused."""
        return _USUAL_STRENGTH if self.strength is None else self.strength

    def check(self, n: int, seed: int) -> None:
        """Check the options for `n` images of a seed.

        Raises:
            UsageError: they contradict each other.
        """
        if self.init_image is None and (self.strength is not None or self.init_blurred):
            raise UsageError(f"{option('strength')}, {option('init_blurred')}: apply to a photo; add {option('init_image')}")
        if not 1e-6 <= self.time <= 1:
            raise OptionError("strength", f"{self.time:g}", "must be above 0 (the photo itself) and at most 1 (noise)")
        if self.interpolate is not None and n < 2:
            raise UsageError(f"{option('interpolate')}: needs at least two images; raise {option('n')}")
        if self.interpolate == seed:
            raise OptionError("interpolate", self.interpolate, f"is the same as {option('seed')}; use another seed")
        if (self.interpolate is not None) + self.same_init + self.share_noise > 1:
            names = ", ".join(map(option, ("interpolate", "same_init", "share_noise")))
            raise UsageError(f"{names}: each sets the source of the noise; use one of them")

    def record(self, model: Pipeline, sampling: SamplingConfig, n: int, seed: int, start: Start) -> dict[str, Any]:
        """The settings that determine images 0 to n - 1 of a seed, besides their number, for the record of a folder.

        The model and a photo are recorded by their content, not their path.
        """
        import hashlib

        record = {**sampling.record, "seed": seed, "weights": model.digest, "calibrated": model.calibrated}
        record["network_precision"] = model.precision
        if start.image is not None:
            photo = hashlib.sha256(start.image.tobytes()).hexdigest()[:16]
            record |= {"init_image": photo, "strength": self.time, "init_blurred": self.init_blurred}
        record |= {"interpolate": self.interpolate, "same_init": self.same_init, "share_noise": self.share_noise}
        return record | {"n": n if self.interpolate is not None else None}

    def start(self, config: Config, n: int, seed: int) -> Start:
        """The start of images 0 to n - 1 of a seed.

        Raises:
            UserError: the photo cannot be read.
        """
        from blurcli.core.rng import ImageNoise, InterpolatedNoise, SharedNoise
        from blurcli.families import Start

        def noise(indices: Sequence[int]) -> NoiseSource:
            own, first = ImageNoise(seed, indices), ImageNoise(seed, [0] * len(indices))
            if self.interpolate is not None:
                return InterpolatedNoise((seed, 0), (self.interpolate, 0), n, indices)
            if self.same_init:
                return SharedNoise(first, own)
            return SharedNoise(own, first) if self.share_noise else own

        image = None if self.init_image is None else read_photo(self.init_image, config)
        return Start(image, self.time, self.init_blurred, noise)


def resolve_file(name: str) -> Path | str:
    """Resolve the name of weights: a reference on the hub, a bundled model, or a file.

    Raises:
        UsageError: a malformed reference, or `user/repo` alone, which is a path.
    """
    from blurcli import bundled, hub
    from blurcli.base.runs import RUNS
    from blurcli.config.source_names import expand_home

    if hub.is_reference(name):
        return hub.parse(name).text
    path = Path(expand_home(name))
    is_like_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and path.suffix != ".safetensors" and path.parent != RUNS
    if is_like_repository and not path.parent.exists():
        raise UsageError(f"{name}: no such file; a repository of the hub is written as hf://{name}")
    return bundled.MODELS[name] if name in bundled.MODELS and not path.is_file() else path


def resolve_weights(name: str) -> tuple[Path | str, Run | None]:
    """Resolve the name of weights, as `resolve_file` or by a run folder; returns the weights and the run.

    Raises:
        UsageError: a run folder without weights, or a name like that of a run.
    """
    from blurcli.base.runs import Run, resolve_run, similar_run
    from blurcli.config.source_names import expand_home

    # A run may have the bundled model's name.
    own = Run(Path(expand_home(name)))
    found = own.path if own.config_path.exists() else resolve_file(name)
    if isinstance(found, Path):
        found = resolve_run(found).path
    if isinstance(found, Path) and found.is_dir():
        run = Run(found)
        return run.newest_weights(), run
    if isinstance(found, Path) and not found.exists() and (close := similar_run(found)):
        raise UsageError(f"{found}: no such file or run folder{close}")
    return found, None
