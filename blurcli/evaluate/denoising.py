"""Errors of a model's denoiser, and its losses, on images, per time and frequency band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.base.distributed import SINGLE_PROCESS
from blurcli.core.calibration import CALIBRATION_BANDS_PER_OCTAVE, CALIBRATION_TIMES, DenoiserErrors, measure_errors
from blurcli.core.moments import reference_gaussian
from blurcli.core.rng import ImageNoise
from blurcli.core.whitened import WhitenedSpace
from blurcli.model.pipeline import Pipeline


@dataclass(frozen=True)
class MeasuredImages:
    """The images on which a model is measured: `count` of all, evenly spaced.

    Attributes:
        images: (N, C, H, W) uint8.
        count: at most N.
        seed: seed of the noise.
        labels: the class of every image by its number in the model, int64 (N,); None where they are unknown.
    """

    images: NDArray[np.uint8]
    count: int
    seed: int
    labels: NDArray[np.int64] | None = None

    def batch(self, pipeline: Pipeline, indices: range) -> Tensor:
        """Images `indices` of the `count`, (B, C, H, W) in model space."""
        return pipeline.to_model_space(self.images[self._spaced[indices]])

    def conditions(self, pipeline: Pipeline, indices: range) -> dict[str, Any]:
        """Keyword arguments of the network for images `indices` of the `count`; see `Pipeline.conditions_of`."""
        return pipeline.conditions_of(None if self.labels is None else self.labels[self._spaced[indices]])

    def label(self, pipeline: Pipeline) -> str | None:
        """The class that a model is given with an image, for records: `own`; `none` where it is unknown; None without classes.

        Raises:
            UsageError: see `Pipeline.conditions_of`.
        """
        if pipeline.classes is None:
            return None
        return "own" if self.conditions(pipeline, range(1)) else "none"

    @property
    def _spaced(self) -> NDArray[np.int64]:
        return np.linspace(0, len(self.images) - 1, self.count).astype(np.int64)


@torch.inference_mode()
def denoising_errors(
    pipeline: Pipeline,
    measured: MeasuredImages,
    *,
    times: int = CALIBRATION_TIMES,
    per_octave: int = CALIBRATION_BANDS_PER_OCTAVE,
    on_batch: Callable[[int], None] = lambda done: None,
) -> DenoiserErrors:
    """The errors of a model's denoiser; see `core.calibration.measure_errors`.

    Args:
        pipeline: the model.
        measured: the images.
        times: number of times, uniform in [0, 1].
        per_octave: bands per octave.
        on_batch: receives the number of images done.

    Raises:
        UsageError: the objective has no estimate of the clean image; or see `Pipeline.conditions_of`.
    """
    denoiser, parts = pipeline.model.denoiser, []
    pipeline.model.require_moments()
    gaussian = reference_gaussian(pipeline.process, pipeline.model.spectrum, pipeline.model.mean)
    space = WhitenedSpace(pipeline.process, *gaussian)
    blocks = list(SINGLE_PROCESS.blocks(range(measured.count), pipeline.batch_size))
    for indices in blocks:
        noise = ImageNoise(measured.seed, indices)
        own = partial(denoiser, **measured.conditions(pipeline, indices))
        parts.append(measure_errors(own, space, measured.batch(pipeline, indices), noise, times, per_octave))
        on_batch(indices.stop)
    return DenoiserErrors.mean(parts, [len(indices) for indices in blocks])


@torch.inference_mode()
def losses(pipeline: Pipeline, measured: MeasuredImages, times: int) -> tuple[Tensor, Tensor]:
    """The loss per time and octave-spaced frequency band, without weights: (T,) and (T, bands).

    Diffusion: the squared error of the noise. Heat dissipation: the squared error of the less blurred image in units of the
    noise.

    Args:
        pipeline: the model.
        measured: the images, as one batch.
        times: number of times.

    Raises:
        UsageError: see `Pipeline.conditions_of`.
    """
    indices = range(measured.count)
    x, noise = measured.batch(pipeline, indices), ImageNoise(measured.seed, indices)
    return pipeline.model.losses(x, noise, times, **measured.conditions(pipeline, indices))
