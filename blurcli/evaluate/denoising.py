"""Errors of a model's denoiser, and its losses, on images, per time and frequency band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    """

    images: NDArray[np.uint8]
    count: int
    seed: int

    def batch(self, pipeline: Pipeline, indices: range) -> Tensor:
        """Images `indices` of the `count`, (B, C, H, W) in model space."""
        spaced = np.linspace(0, len(self.images) - 1, self.count).astype(np.int64)
        return pipeline.to_model_space(self.images[spaced[indices]])


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
        UsageError: the objective has no estimate of the clean image.
    """
    denoiser, parts = pipeline.model.denoiser, []
    pipeline.model.require_moments()
    gaussian = reference_gaussian(pipeline.process, pipeline.model.spectrum, pipeline.model.mean)
    space = WhitenedSpace(pipeline.process, *gaussian)
    blocks = list(SINGLE_PROCESS.blocks(range(measured.count), pipeline.batch_size))
    for indices in blocks:
        noise = ImageNoise(measured.seed, indices)
        parts.append(measure_errors(denoiser, space, measured.batch(pipeline, indices), noise, times, per_octave))
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
    """
    indices = range(measured.count)
    return pipeline.model.losses(measured.batch(pipeline, indices), ImageNoise(measured.seed, indices), times)
