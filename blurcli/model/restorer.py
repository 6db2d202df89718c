"""A model that restores photos, and what it finds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.base.distributed import SINGLE_PROCESS
from blurcli.base.errors import OptionError, UsageError, option
from blurcli.core.camera import Exposure, blurred_in_light
from blurcli.core.measurements import Mask
from blurcli.core.restoration import Observation, restore
from blurcli.core.rng import ImageNoise
from blurcli.core.sampling import Observer
from blurcli.core.sampling_options import SamplingConfig
from blurcli.core.windows import WindowedDenoiser, window_count
from blurcli.data.photos import Photo
from blurcli.model.degradation import degradation_of, unknown_damage
from blurcli.model.photo_space import PhotoSpace
from blurcli.model.pipeline import Pipeline
from blurcli.model.restore_options import RestoreOptions, digest, margin_px
from blurcli.model.restored import Restored
from blurcli.model.scene import Scene

OnEstimate = Callable[[int, NDArray[np.float64]], None]
"""`on_step(i, x_hat)`: the estimate in step i, (C, H, W)."""

_SAMPLER = "abm"
_DRAWN_PIXELS = 1 << 18  # at a time; draws of larger photos are made one by one
_MASK_NOISE = 1.0  # gray levels beside a hole; the known pixels are put back exactly
_MOST_BLUR = 0.25  # of the shorter side


class Restorer:
    """A model that restores photos.

    Args:
        model: the pipeline.
        label: for a class-conditional model, as `Pipeline.sampling` takes it.
        guidance: likewise.

    Raises:
        UsageError: a model that cannot: of heat dissipation, distilled, or without the moments of its training data.
    """

    def __init__(self, model: Pipeline, label: str | None = None, guidance: float | None = None) -> None:
        model.family.require_restorer()
        model.model.require_moments()
        self.model, self.photos = model, PhotoSpace(model)
        self._label, self._guidance = label, guidance

    def sampling(self, options: RestoreOptions) -> SamplingConfig:
        """How the images are made.

        Nobody knows the class of a photo: where none is chosen, the model is unconditional, or, if it was trained with classes
        only, every draw has a class by the frequencies of the training data.
        """
        model, label = self.model, self._label
        if label is None and model.classes is not None and model.config.optim.class_dropout:
            label = "none"
        return model.sampling(_SAMPLER, options.steps, label=label, guidance=self._guidance, final="denoised")

    def warning(self, photo: Photo) -> str:
        """A warning if the photo is larger than the model's images, and these were reduced; else an empty string."""
        larger = any(own > seen for own, seen in zip(photo.pixels.shape[1:], self.model.process.shape, strict=True))
        if not larger or self.model.config.data.crop == "random":
            return ""
        return (
            "the model was trained on reduced images, whose detail is not that of a photo; train one with: "
            "blurdiff train --data FOLDER --for restore"
        )

    def record(self, options: RestoreOptions) -> dict[str, Any]:
        """What decides the restored photos, besides the photos themselves, for the record of a folder of them."""
        given = {key: value for key, value in vars(options).items() if key not in ("kernel", "mask", "cropped")}
        for name in ("kernel", "mask"):
            array = getattr(options, name)
            given[name] = None if array is None else digest(array)
        given["temperature"] = options.chosen_temperature
        given["strength"] = None if options.strength == 1 else options.strength  # as in versions without this option
        sampling = self.sampling(options).record
        by_class = {name: sampling[name] for name in ("label", "guidance", "guide")}
        return {**given, **by_class, "weights": self.model.digest, "network_precision": self.model.precision}

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The values of gray levels 0 and 255 in the model's training images of 16 bits; None for 0 and 65535."""
        return self.model.config.data.value_range

    def work(self, photo: Photo, options: RestoreOptions, compared: bool = False) -> int:
        """How many windows are denoised, over all draws; each in so many calls as there are steps.

        Args:
            photo: the photo.
            options: how it is restored.
            compared: whether by `compared`.

        Raises:
            UsageError: the photo is smaller than the model's images, or the mask has another size.
        """
        shape = self._check(photo, options)
        count = options.count + (options.for_spread.count if compared and options.for_spread is not options else 0)
        return count * self.photos.images(photo) * window_count(shape, self.model.process.shape)

    @torch.inference_mode()
    def __call__(
        self,
        photo: Photo,
        options: RestoreOptions,
        on_progress: Callable[[float], None] = lambda windows: None,
        on_step: OnEstimate | None = None,
    ) -> Restored:
        """Restore a photo.

        Args:
            photo: the photo.
            options: how it is restored.
            on_progress: receives the number of finished windows, of `work`, with fractions for unfinished ones.
            on_step: called as `on_step(i, x_hat)` in each step of the first draw, with the estimate given the photo: (C, H, W),
                gray levels, not clipped.

        Raises:
            UsageError: see `work`; or a blur that leaves nothing of the photo.
        """
        self._check(photo, options)
        given_photo, photo = photo, photo.with_hidden_filled()
        found = degradation_of(self.photos, photo, options)
        noise = max(found.noise.value, _MASK_NOISE if options.only_fills else 0.0)
        noises = noise, max(noise, found.color_noise or 0.0)
        scene = self._scene(photo, options, found.blur_px.value, noises)
        observation = self._observed(scene, noises)

        def finish(draws: NDArray[np.float64]) -> NDArray[np.float64]:
            draws = scene.inside(draws)
            if options.only_fills and options.mask is not None:
                draws = np.where(options.mask, draws, given_photo.pixels)
            if options.strength < 1:
                draws = given_photo.pixels + options.strength * (draws - given_photo.pixels)
            return draws

        def observe(i: int, t: float, z: Tensor, x_hat: Tensor) -> None:
            if on_step is not None:
                on_step(i, finish(self.photos.to_photo(x_hat[: self.photos.images(photo)], photo)))

        found_draws = self._draws(observation, scene, on_progress, None if on_step is None else observe)
        draws = np.stack([self.photos.to_photo(x, photo) for x in found_draws])
        residual, worst = scene.residuals(draws, noise, self.model.process.shape)
        return Restored(
            finish(draws),
            found,
            photo.steps is not None,
            scene.linear_light,
            unknown_damage(options),
            residual,
            worst,
            options,
            f"{self.model.digest}, {self.model.precision}",
            photo.value_range,
        )

    def _scene(self, photo: Photo, options: RestoreOptions, blur_px: float, noises: tuple[float, float]) -> Scene:
        """The scene, with the light that fits the photo where it is not known."""
        scene = Scene.of(photo, options, blur_px, self.model.process.shape, options.light == "linear")
        scientific = photo.deep and len(photo.pixels) == 1  # counts of a sensor are linear as they are
        known = options.light is not None or not options.cropped or options.enlarge > 1 or scientific
        if known or not margin_px(options, blur_px):
            return scene
        part = scene.busiest()
        exposure, space = self._exposure(part, noises), self.photos.space(part.shape)
        camera = part.camera(self.model.moments.space)
        return replace(scene, linear_light=blurred_in_light(camera, exposure, space, photo.steps is not None))

    def _exposure(self, scene: Scene, noises: tuple[float, float]) -> Exposure:
        return scene.exposure(self.photos.to_model(scene.photo), self.photos.noise(scene.photo, *noises))

    def _observed(self, scene: Scene, noises: tuple[float, float]) -> Observation:
        exposure, camera = self._exposure(scene, noises), scene.camera(self.model.moments.space)
        known = exposure.known
        if scene.options.only_fills:  # the known pixels are put back, whatever they measure
            return Observation(exposure.photo * known.to(exposure.photo), Mask(known), exposure.noise)
        if scene.options.enlarge > 1 and bool(known.all()) and not scene.linear_light:  # exact, see `Scene.of`
            return Observation(exposure.photo, camera.optics, exposure.noise)
        return camera.observe(exposure, self.photos.space(scene.shape))

    def _draws(
        self, observation: Observation, scene: Scene, on_progress: Callable[[float], None], on_step: Observer | None
    ) -> Iterator[Tensor]:
        """The draws of one photo, each (B, C, H, W) in model space; B is 3 where a gray model sees the colors as images.

        Steps are observed in the first batch, which has the first draw.
        """
        options, shape = scene.options, scene.shape
        inside = (shape[0] - 2 * scene.margin_px * options.enlarge, shape[1] - 2 * scene.margin_px * options.enlarge)
        share = math.prod(window_count(one, self.model.process.shape) ** power for one, power in ((inside, 1), (shape, -1)))
        finished = 0.0

        def report(windows: int) -> None:
            nonlocal finished
            finished += share * windows / options.steps
            on_progress(finished)

        model, (images, channels) = self.model, observation.photo.shape[:2]
        denoiser = WindowedDenoiser(model.model.denoiser, model.process.shape, model.batch_size, report)
        for indices in SINGLE_PROCESS.blocks(range(options.count), max(1, _DRAWN_PIXELS // math.prod(shape))):
            count = len(indices)
            photos, measurement = observation.photo.repeat(count, 1, 1, 1), observation.measurement.repeated(count)
            several = replace(observation, photo=photos, measurement=measurement)
            if observation.start is not None:
                several = replace(several, start=observation.start.repeat(count, 1, 1, 1))
            w = ImageNoise(options.seed, indices)(torch.empty(count, images * channels, *shape))
            z = options.chosen_temperature * w.reshape(count * images, channels, *shape).to(observation.photo.device)
            drawn = [index for index in indices for _ in range(images)]
            conditions = model.conditions(drawn, options.seed, self.sampling(options))
            conditioned, observer = functools.partial(denoiser, **conditions), on_step if 0 in indices else None
            x = restore(conditioned, self.photos.space(shape), several, z, options.steps, on_step=observer)
            yield from x.reshape(count, images, channels, *shape)

    def compared(
        self,
        photo: Photo,
        options: RestoreOptions,
        on_progress: Callable[[float], None] = lambda windows: None,
        on_step: OnEstimate | None = None,
    ) -> tuple[Restored, NDArray[np.float64]]:
        """A restored photo and the spread of draws, of which a single result takes a few more; see `Restored.spread`."""
        restored = self(photo, options, on_progress, on_step)
        several, before = options.for_spread, self.work(photo, options)
        if several is options:
            return restored, restored.spread
        return restored, self(photo, several, lambda windows: on_progress(before + windows)).spread

    @property
    def _channels(self) -> int:
        return self.model.config.data.channels

    def _check(self, photo: Photo, options: RestoreOptions) -> tuple[int, int]:
        """The shape of the result, after checks of the options."""
        height, width = photo.pixels.shape[1:]
        shape, least = (height * options.enlarge, width * options.enlarge), self.model.process.shape
        if any(own < wanted for own, wanted in zip(shape, least, strict=True)):
            raise UsageError(
                f"the photo has {width}x{height} pixels, and the model sees windows of {least[1]}x{least[0]}: a smaller photo "
                f"needs a model of smaller images, or a larger {option('enlarge')}"
            )
        if options.mask is not None:
            if options.mask.shape != (height, width):
                size = "x".join(map(str, options.mask.shape[::-1]))
                raise UsageError(f"{option('mask')}: has {size} pixels, and the photo {width}x{height}; it must have its size")
            if options.mask.all() or not options.mask.any():
                what = "white: nothing of the photo is left" if options.mask.all() else "black: there is nothing to fill"
                raise UsageError(f"{option('mask')}: is all {what}; white is what is to be filled")
        for name in ("blur", "defocus", "motion"):
            given = getattr(options, name)
            reach, *angle = given if isinstance(given, tuple) else (given or 0.0,)
            if reach > _MOST_BLUR * min(height, width):
                value = ",".join(f"{number:g}" for number in (reach, *angle))
                raise OptionError(name, value, f"leaves nothing of a photo of {width}x{height} pixels")
        if options.kernel is not None and any(
            own > side / 2 for own, side in zip(options.kernel.shape, (height, width), strict=True)
        ):
            size = "x".join(map(str, options.kernel.shape[::-1]))
            raise UsageError(f"{option('kernel')}: has {size} pixels, more than half of the photo's {width}x{height}")
        return shape
