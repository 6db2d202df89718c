"""The likelihood bound of a model on images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from blurcli.base.distributed import SINGLE_PROCESS
from blurcli.core.likelihood import Bound
from blurcli.core.rng import ImageNoise
from blurcli.evaluate.denoising import MeasuredImages
from blurcli.families import LikelihoodConfig
from blurcli.model.pipeline import Pipeline


@torch.inference_mode()
def likelihood_bound(
    pipeline: Pipeline,
    measured: MeasuredImages,
    likelihood: LikelihoodConfig,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Bound:
    """The bound per image in bits per dimension, on the CPU; see `core.likelihood`.

    Args:
        pipeline: the model.
        measured: the images.
        likelihood: as resolved by `Family.resolve_likelihood`.
        on_batch: receives the number of images done.

    Raises:
        UsageError: see `Pipeline.conditions_of`.
    """
    parts = []
    for indices in SINGLE_PROCESS.blocks(range(measured.count), pipeline.batch_size):
        x, draws = measured.batch(pipeline, indices), ImageNoise(measured.seed, indices)
        parts.append(pipeline.model.bound(x, draws, likelihood, **measured.conditions(pipeline, indices)))
        on_batch(indices.stop)
    return Bound(*(torch.cat([getattr(part, field.name) for part in parts]).cpu() for field in fields(Bound)))
