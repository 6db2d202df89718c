"""The Python interface of trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blurcli import evaluate
from blurcli.api.animation import Animation, AnimationKeywords, animate
from blurcli.api.data import TrainingImages
from blurcli.api.images import Images
from blurcli.api.options import MAX_SEED, EstimateKeywords, check_names, check_pixels, check_range, check_whole
from blurcli.api.restoration import PhotoLike, RestoredPhoto, RestoreKeywords, restore
from blurcli.api.score_keywords import ScoreKeywords, scoring_options
from blurcli.base import console
from blurcli.base.errors import OptionError
from blurcli.base.runs import Run
from blurcli.config import Config
from blurcli.core.sampling_options import SAMPLING_OPTIONS, SamplingConfig, SamplingKeywords, SamplingRequest
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.workflows import session
from blurcli.workflows.scoring import check_enough, evaluations_path, score_images


class SampleKeywords(SamplingKeywords, total=False):
    """Options of sampling.

    Keys:
        init_image: a photo to start from: a file, a Pillow image, or an array (H, W, C) uint8.
        strength: time in (0, 1] to which the photo is diffused; 0.6 if not given.
        init_blurred: whether the photo already has the blur of that time.
        interpolate: interpolate to image 0 of this seed.
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
        pipeline: the model itself.
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
        """Names of the classes; empty for a model without classes."""
        return [] if self.pipeline.classes is None else list(self.pipeline.classes.names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return (*self.config.data.image_size, self.config.data.channels)

    def sample(self, n: int = 64, seed: int = 0, **options: Unpack[SampleKeywords]) -> Images:
        """Sample images 0 to n - 1 of a seed, byte for byte as `blurdiff sample`.

        Args:
            n: number of images, at least 1.
            seed: in [0, 2**64).
            **options: see `SampleKeywords`.

        Raises:
            UsageError: options that do not fit the model or each other.
            UserError: a photo cannot be read, or the images are not finite.
        """
        check_names("sample", options, SampleKeywords)
        check_whole("n", n, 1)
        check_whole("seed", seed, 0, MAX_SEED)
        batch_size = options.get("batch_size")
        for name, lowest in (("batch_size", 1), ("interpolate", 0)):
            if options.get(name) is not None:
                check_whole(name, options[name], lowest, MAX_SEED)  # type: ignore[literal-required]
        start_names = ("strength", "init_blurred", "interpolate", "same_init", "share_noise")
        chosen: dict[str, Any] = {name: options[name] for name in start_names if name in options}  # type: ignore[literal-required]
        start_options = session.StartOptions(_photo(options.get("init_image")), **chosen)
        start_options.check(n, seed)
        sampling = self.sampling(options)
        start = start_options.start(self.config, n, seed)
        title = f"sampling {n:,} images, {sampling.steps} steps"
        with console.progress(title, n) as update:
            made = self.pipeline.generate(n, seed, sampling, start=start, batch_size=batch_size, on_progress=update)
            batches = [to_uint8(images) for images in made]
        source = {**sampling.record, "seed": seed, "weights": str(self.path), "network_precision": self.pipeline.precision}
        array = np.ascontiguousarray(torch.cat(batches).numpy().transpose(0, 2, 3, 1))
        record = start_options.record(self.pipeline, sampling, n, seed, start)
        return Images(array, source, self.pipeline.column_titles(sampling), record)

    def animate(self, n: int = 16, seed: int = 0, **options: Unpack[AnimationKeywords]) -> Animation:
        """Animate the sampling of images 0 to n - 1 of a seed, or images that dissolve in noise.

        Args:
            n: number of images, at least 1.
            seed: in [0, 2**64).
            **options: see `AnimationKeywords`.

        Raises:
            UsageError: options that do not fit the model or each other.
        """
        check_names("animate", options, AnimationKeywords)
        check_whole("n", n, 1)
        check_whole("seed", seed, 0, MAX_SEED)
        if "frames" in options:
            check_whole("frames", options["frames"], 2)
        return animate(self.pipeline, self.title, n, seed, options, self.sampling(options))

    def restore(self, photo: PhotoLike, **options: Unpack[RestoreKeywords]) -> RestoredPhoto:
        """Restore a photo as `blurdiff restore`: the result is a sharp image that agrees with the photo, one of many.

        Args:
            photo: at least as large as the model's images: a file, a Pillow image, an array (H, W, C) uint8 or (H, W) uint16.
            **options: see `RestoreKeywords`; without a blur or noise, they are estimated from the photo.

        Raises:
            UsageError: options that do not fit the photo, the model or each other.
            UserError: a file cannot be read.
        """
        return restore(self.pipeline, photo, options)

    def denoise(self, z: Any, t: float, seed: int = 0, **options: Unpack[EstimateKeywords]) -> Tensor:
        """The network's estimate of the clean images from states.

        Args:
            z: states (B, C, H, W), in red, green and blue, about [-1, 1] at t = 0: a tensor or an array.
            t: time in [0, 1].
            seed: seed of the images, for their classes, as in `sample`.
            **options: see `EstimateKeywords`.

        Returns:
            (B, C, H, W) float32, about [-1, 1], on the device of the model's states.

        Raises:
            UsageError: states of another shape, a time outside [0, 1], or an objective without an estimate of the clean image.
        """
        check_names("denoise", options, EstimateKeywords)
        check_range("t", t, 0, 1)
        z = torch.as_tensor(z, dtype=torch.float32, device=self.pipeline.state_device)
        height, width, channels = self.image_shape
        if z.ndim != 4 or z.shape[1:] != (channels, height, width):
            raise OptionError("z", tuple(z.shape), f"must be (B, {channels}, {height}, {width})")
        return self.pipeline.denoise(z, t, seed, self.sampling(options))

    def score(self, data: TrainingImages | None = None, **options: Unpack[ScoreKeywords]) -> dict[str, Any]:
        """Score images of the model; see `blurcli.score`."""
        if options.get("precision") is not None:
            raise OptionError("precision", options["precision"], "is chosen when a model is loaded; leave it out")
        chosen = scoring_options(data, options)
        config, count = self.config, options.get("n") or self.config.score.n
        scorer = chosen.scorer(config, self.run, (config.data.channels, *config.data.image_size))
        images = evaluate.ModelImages(self.pipeline, self.step, count, options.get("seed", 0), self.sampling(options))
        check_enough(scorer, count, options.get("force", False))
        result = score_images(scorer, images, count, name=options.get("name", ""), weights=str(self.path))
        if self.run is not None:
            evaluate.record(evaluations_path(self.run), result)
        return result

    @property
    def title(self) -> str:
        """Its name, for display."""
        return self.run.path.resolve().name if self.run is not None else Path(self.path).stem

    def sampling(self, options: Any) -> SamplingConfig:
        """Resolve sampling options: the preset's value for each that is not given.

        Args:
            options: a mapping with keys of `SamplingKeywords`; others are ignored.

        Raises:
            UsageError: they do not fit the model or each other.
        """
        request = SamplingRequest(**{one.name: options.get(one.name) for one in SAMPLING_OPTIONS})
        for one, value in request.given().items():
            if one.low is not None:
                (check_whole if one.kind is int else check_range)(one.name, value, one.low, one.high)
        return self.pipeline.resolve(request)

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
    """Load a trained model.

    Args:
        source: a run folder, for its newest weights; a weights file; `hf://user/repo[@revision][/file]` on the Hugging Face
            hub; or `shapes`, the bundled model.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.
        calibrated: for `objective: eps`, whether to use the measured gain.
        guide: weights of a weaker version of the model, for autoguidance; see docs/samplers.md.
        precision: of the network: `fp32`; `bf16`; `auto`, bf16 where the hardware has it; None for the preset's.

    Raises:
        UsageError: there is no such model or device.
        UserError: a file is damaged.
    """
    path, run = session.resolve_weights(str(source))
    weaker = None if guide is None else session.resolve_weights(str(guide))[0]
    pipeline, step = session.load_model(path, device, calibrated, weaker, precision)
    return Model(pipeline, path, run, step)


def _photo(given: Any) -> Path | Image.Image | None:
    if given is None or isinstance(given, Image.Image):
        return given
    if not isinstance(given, np.ndarray):
        return Path(given).expanduser()
    check_pixels("init_image", given)
    return Image.fromarray(given)
