"""What a training minimizes: the loss of the objective, or of a distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor

from blurcli.config import DistillConfig
from blurcli.core.bands import band_means, frequency_bands
from blurcli.core.consistency import ConsistencyModel
from blurcli.core.denoiser import Trainable
from blurcli.core.preconditioning import SpectralDenoiser
from blurcli.core.rng import ImageNoise
from blurcli.evaluate.denoising import MeasuredImages, losses
from blurcli.model.pipeline import Pipeline

Times = Callable[[Tensor], Tensor]
"""Shares of the path (B,) in [0, 1] to the trained times (B,), see `Family.training_times`."""

Weight = Callable[[Tensor], Tensor | None]
"""Times (B,) to the weight of the loss per DCT frequency, broadcastable to the images; None for 1."""


class TrainingLoss(Protocol):
    """A loss of the network in training."""

    def __call__(self, x: Tensor, share: Tensor, eps: Tensor, step: int, **conditions: Tensor) -> Tensor:
        """The loss per image, (B,).

        Args:
            x: clean images (B, C, H, W) in model space.
            share: times as shares of the path, (B,) in [0, 1].
            eps: standard normal noise, like `x`.
            step: training steps done.
            conditions: keyword arguments of the network, each (B, ...).
        """
        ...

    def by_band(self, pipeline: Pipeline, measured: MeasuredImages, times: int) -> tuple[Tensor, Tensor]:
        """The loss of a network per time and octave-spaced frequency band, without weights: (T,) and (T, bands)."""
        ...


class ObjectiveLoss:
    """The loss of an objective, see `Trainable`."""

    def __init__(self, objective: Trainable, times: Times, weight: Weight) -> None:
        self._objective, self._times, self._weight = objective, times, weight

    def __call__(self, x: Tensor, share: Tensor, eps: Tensor, step: int, **conditions: Tensor) -> Tensor:
        """See `TrainingLoss`."""
        t = self._times(share)
        return self._objective.loss(x, t, eps, self._weight(t), **conditions)

    def by_band(self, pipeline: Pipeline, measured: MeasuredImages, times: int) -> tuple[Tensor, Tensor]:
        """See `TrainingLoss`."""
        return losses(pipeline, measured, times)


class DistillationLoss:
    """The loss of a distillation, see `ConsistencyModel.distillation_loss`: between two states of one path.

    Args:
        objective: the model in training.
        teacher: the model that it is tuned from.
        times: see `Times`.
        weight: see `Weight`.
        distill: the parts of the path.
    """

    def __init__(self, objective: Trainable, teacher: Trainable, times: Times, weight: Weight, distill: DistillConfig) -> None:
        # The objectives of models that are distilled, and of their teachers.
        self._objective, self._teacher = cast(ConsistencyModel, objective), cast(SpectralDenoiser, teacher)
        self._times, self._weight, self._distill = times, weight, distill

    def __call__(self, x: Tensor, share: Tensor, eps: Tensor, step: int, **conditions: Tensor) -> Tensor:
        """See `TrainingLoss`."""
        t, s = self._times(share), self._earlier(share, path_parts(self._distill, step))
        return self._objective.distillation_loss(self._teacher, x, (t, s), eps, self._weight(t), **conditions)

    @torch.inference_mode()
    def by_band(self, pipeline: Pipeline, measured: MeasuredImages, times: int) -> tuple[Tensor, Tensor]:
        """See `TrainingLoss`; with the finest parts of the path at every step, so that the values are comparable."""
        model, indices = cast(ConsistencyModel, pipeline.model.trainable), range(measured.count)
        x, noise = measured.batch(pipeline, indices), ImageNoise(measured.seed, indices)
        conditions = measured.conditions(pipeline, indices)
        band = frequency_bands(*pipeline.process.shape, 1)[0].to(x.device)
        shares, rows = torch.linspace(0, 1, times, device=x.device), []
        for share in torch.chunk(shares, times):
            t, s = (at.expand(len(x)) for at in (self._times(share), self._earlier(share, self._distill.intervals)))
            error = model.distillation_error(self._teacher, x, (t, s), noise(x), **conditions)
            rows.append(band_means(error.square().mean(0), band))
        return self._times(shares), torch.stack(rows)

    def _earlier(self, share: Tensor, parts: int) -> Tensor:
        """The time one part of the path before."""
        return self._times((share - 1 / parts).clamp(min=0))


def path_parts(distill: DistillConfig, step: int) -> int:
    """The number of parts of the path in step `step`, counted from 0: 2 at first, doubled at an interval.

    As in easy consistency tuning (Geng et al. 2024, arXiv 2406.14548), except that the parts are equal on the path.
    """
    doublings = min(step // distill.double_every_steps, distill.intervals.bit_length())
    return min(2 << doublings, distill.intervals)
