"""A trained model as a person uses it in Python."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blurcli.api.animation import Animation, AnimationOptions, animate
from blurcli.api.data import TrainingImages
from blurcli.api.images import Images
from blurcli.api.options import MAX_SEED, EstimateOptions, SamplingOptions, check_names, check_pixels, check_range, check_whole
from blurcli.api.restoration import PhotoLike, RestoredPhoto, RestoringOptions, restore
from blurcli.base import console
from blurcli.base.errors import OptionError
from blurcli.base.runs import Run
from blurcli.config import Config
from blurcli.families import SamplingConfig
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.workflows import session


class SampleOptions(SamplingOptions, total=False):
    """Where images come from, and how they are made.

    Keys:
        init_image: a photo to start from: a file, a Pillow image, or an array (H, W, C) uint8.
        strength: time in (0, 1] to which the photo is diffused; 0.6 if not given.
        init_blurred: whether the photo already has the blur of that time.
        interpolate: seed to whose image 0 the images lead.
        same_init: whether all images start from one noise.
        share_noise: whether all images have the same noise per step.
        batch_size: images per batch; it changes no image.
    """

    init_image: str | Path | Image.Image | np.ndarray[Any, np.dtype[np.uint8]]
    strength: float
    init_blurred: bool
    interpolate: int
    same_init: bool
    share_noise: bool
    batch_size: int


class Model:
    """A trained model; made by `load` or `train`.

    Attributes:
        pipeline: the model as the command line uses it.
        path: its weights file, or the reference of one on the hub.
        run: its run folder; None for a weights file alone.
        step: training steps done.
    """

    def __init__(self, pipeline: Pipeline, path: Path | str, run: Run | None, step: int) -> None:
        self.pipeline, self.path, self.run, self.step = pipeline, path, run, step

    @property
    def config(self) -> Config:
        """The resolved preset of the training."""
        return self.pipeline.config

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty for a model without."""
        return [] if self.pipeline.classes is None else list(self.pipeline.classes.names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return (*self.config.data.image_size, self.config.data.channels)

    def sample(self, n: int = 64, seed: int = 0, **options: Unpack[SampleOptions]) -> Images:
        """Images 0 to n - 1 of a seed, as `blurdiff sample` makes them, byte for byte.

        Args:
            n: number of images, at least 1.
            seed: in [0, 2**64).
            **options: see `SampleOptions`.

        Raises:
            UsageError: options that do not fit the model or each other.
            UserError: a photo cannot be read, or the images are not finite.
        """
        check_names("sample", options, SampleOptions)
        check_whole("n", n, 1)
        check_whole("seed", seed, 0, MAX_SEED)
        batch_size = options.get("batch_size")
        for name, lowest in (("batch_size", 1), ("interpolate", 0)):
            if options.get(name) is not None:
                check_whole(name, options[name], lowest, MAX_SEED)  # type: ignore[literal-required]
        start_names = ("strength", "init_blurred", "interpolate", "same_init", "share_noise")
        chosen: dict[str, Any] = {name: options[name] for name in start_names if name in options}  # type: ignore[literal-required]
        beginning = session.StartOptions(_photo(options.get("init_image")), **chosen)
        beginning.check(n, seed)
        sampling = self.sampling(options)
        start = beginning.start(self.config, n, seed)
        title = f"sampling {n:,} images, {sampling.steps} steps"
        with console.progress(title, n) as update, self.pipeline.progress(sampling, update):
            batches = list(map(to_uint8, self.pipeline.generate(n, seed, sampling, start=start, batch_size=batch_size)))
        source = {**asdict(sampling), "seed": seed, "weights": str(self.path), "network_precision": self.pipeline.precision}
        array = np.ascontiguousarray(torch.cat(batches).numpy().transpose(0, 2, 3, 1))
        record = beginning.record(self.pipeline, sampling, n, seed, start)
        return Images(array, source, self.pipeline.column_titles(sampling), record)

    def animate(self, n: int = 16, seed: int = 0, **options: Unpack[AnimationOptions]) -> Animation:
        """Images 0 to n - 1 of a seed as they are made; or images that dissolve in noise.

        Args:
            n: number of images, at least 1.
            seed: in [0, 2**64).
            **options: see `AnimationOptions`.

        Raises:
            UsageError: options that do not fit the model or each other.
        """
        check_names("animate", options, AnimationOptions)
        check_whole("n", n, 1)
        check_whole("seed", seed, 0, MAX_SEED)
        if "frames" in options:
            check_whole("frames", options["frames"], 2)
        return animate(self.pipeline, self.title, n, seed, options, self.sampling(options))

    def restore(self, photo: PhotoLike, **options: Unpack[RestoringOptions]) -> RestoredPhoto:
        """A photo restored: a sharp image that agrees with it, one of many, as `blurdiff restore` makes it.

        Args:
            photo: of any size from that of the model's images on: a file, a Pillow image, or an array (H, W, C) uint8.
            **options: see `RestoringOptions`; without a blur or noise, they are estimated from the photo.

        Raises:
            UsageError: options that do not fit the photo, the model or each other.
            UserError: a file cannot be read.
        """
        return restore(self.pipeline, photo, options)

    def denoise(self, z: Any, t: float, seed: int = 0, **options: Unpack[EstimateOptions]) -> Tensor:
        """The network's estimate of the clean images behind states.

        Args:
            z: states (B, C, H, W), in red, green and blue, about [-1, 1] at t = 0: a tensor or an array.
            t: time in [0, 1].
            seed: of the images' classes, as in `sample`.
            **options: see `EstimateOptions`.

        Returns:
            (B, C, H, W) float32, about [-1, 1], where the states of the model are.

        Raises:
            UsageError: states of another shape, a time outside [0, 1], or an objective without such an estimate.
        """
        check_names("denoise", options, EstimateOptions)
        check_range("t", t, 0, 1)
        z = torch.as_tensor(z, dtype=torch.float32, device=self.pipeline.state_device)
        height, width, channels = self.image_shape
        if z.ndim != 4 or z.shape[1:] != (channels, height, width):
            raise OptionError("z", tuple(z.shape), f"must be (B, {channels}, {height}, {width})")
        return self.pipeline.denoise(z, t, seed, self.sampling(options))

    def score(self, data: TrainingImages | None = None, **options: Any) -> dict[str, Any]:
        """Score images of the model; see `blurcli.score`."""
        from blurcli.api.scores import score

        return score(self, data, **options)

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.run.path.resolve().name if self.run is not None else Path(self.path).stem

    def sampling(self, options: Any) -> SamplingConfig:
        """How to sample by these options, with the preset's value for what is not given.

        Args:
            options: a mapping with keys of `SamplingOptions`; others are ignored.

        Raises:
            UsageError: they do not fit the model or each other.
        """
        chosen = {name: options.get(name) for name in SamplingOptions.__annotations__}
        if chosen["steps"] is not None:
            check_whole("steps", chosen["steps"], 1)
        check_range("eta", chosen["eta"], 0, 1)
        check_range("delta", chosen["delta"], 0, 1)
        check_range("guidance", chosen["guidance"], 0, 100)
        return self.pipeline.sampling(**chosen)

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        kind = self.config.process.kind
        return f"Model({self.title}: {kind}, {height}x{width}{' gray' if channels == 1 else ''}, step {self.step:,})"


def load(
    source: str | Path,
    *,
    device: str = "auto",
    calibrated: bool = True,
    guide: str | Path | None = None,
    precision: str | None = None,
) -> Model:
    """A trained model.

    Args:
        source: a run folder, whose newest weights are used; a weights file; `hf://user/repo[@revision][/file]` on the
            Hugging Face hub; or `shapes`, the bundled model.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        calibrated: for `objective: eps`, whether to use the measured gain.
        guide: weights of a weaker version of the model, for autoguidance; see docs/samplers.md.
        precision: of the network: `fp32`; `bf16`; `auto`, bf16 where the hardware has it; None for the preset's.

    Raises:
        UsageError: there is no such model or device.
        UserError: a file is damaged.
    """
    path, run = session.named_weights(str(source))
    weaker = None if guide is None else session.named_weights(str(guide))[0]
    pipeline, step = session.load_model(path, device, calibrated, weaker, precision)
    return Model(pipeline, path, run, step)


def _photo(given: Any) -> Path | Image.Image | None:
    if given is None or isinstance(given, Image.Image):
        return given
    if not isinstance(given, np.ndarray):
        return Path(given).expanduser()
    check_pixels("init_image", given)
    return Image.fromarray(given)
