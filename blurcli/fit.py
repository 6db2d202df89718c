"""How well a model fits images: its errors and losses by time and frequency band, and their likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.build import in_our_units
from blurcli.core import HeatDissipation
from blurcli.core.calibration import BANDS_PER_OCTAVE, CALIBRATION_TIMES, DenoiserErrors, measure_errors
from blurcli.core.heat import heat_bound, prediction_errors
from blurcli.core.likelihood import Bound, variational_bound
from blurcli.core.rng import ImageNoise
from blurcli.distributed import ALONE
from blurcli.model import Model


@torch.inference_mode()
def errors(
    model: Model,
    images: NDArray[np.uint8],
    count: int,
    seed: int,
    *,
    times: int = CALIBRATION_TIMES,
    per_octave: int = BANDS_PER_OCTAVE,
    on_batch: Callable[[int], None] = lambda done: None,
) -> DenoiserErrors:
    """How wrong the denoiser is on `count` of the images (N, C, H, W) uint8, evenly spaced; see `measure_errors`."""
    chosen, parts = _spread(count, len(images)), []
    blocks = list(ALONE.blocks(count, model.batch_size))
    for indices in blocks:
        x, noise = model.learned(images[chosen[indices]]), ImageNoise(seed, indices)
        parts.append(measure_errors(model.denoiser, model.process, x, noise, *model.moments, times, per_octave))
        on_batch(indices.stop)
    return DenoiserErrors.mean(parts, [len(indices) for indices in blocks])


@torch.inference_mode()
def bound(
    model: Model,
    images: NDArray[np.uint8],
    count: int,
    seed: int,
    *,
    calls: int,
    steps: int | None,
    delta: float | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Bound:
    """The likelihood bound of `count` of the images (N, C, H, W) uint8, evenly spaced; see `core.likelihood`.

    `delta` is that of heat dissipation's sampler; None for the preset's.
    """
    chosen, parts = _spread(count, len(images)), []
    for indices in ALONE.blocks(count, model.batch_size):
        noise = ImageNoise(seed, indices)
        x, offset = model.learned(images[chosen[indices]]), noise.uniform()
        parts.append(_bound(model, x, noise, offset, calls, steps, delta))
        on_batch(indices.stop)
    return Bound(*(torch.cat([getattr(part, field.name) for part in parts]).cpu() for field in fields(Bound)))


def _bound(
    model: Model, x: Tensor, noise: ImageNoise, offset: Tensor, calls: int, steps: int | None, delta: float | None
) -> Bound:
    how: dict[str, Any] = {"calls": calls, "to_pixels": model.shown}
    if isinstance(model.process, HeatDissipation):
        assert model.predictor is not None
        assert model.starts is not None
        delta = in_our_units(delta or model.config.sample.delta or 0)
        return heat_bound(model.predictor, model.process, x, noise, offset, model.starts, delta, **how)
    return variational_bound(model.denoiser, model.process, x, noise, offset, *model.moments, steps=steps, **how)


@torch.inference_mode()
def losses(model: Model, images: NDArray[np.uint8], count: int, seed: int, times: int) -> tuple[Tensor, Tensor]:
    """The loss on `count` of the images (N, C, H, W) uint8, evenly spaced, by time and frequency band: (T,) and (T, bands).

    It is the squared error of the noise, or for heat dissipation of the less blurred image in units of the noise.
    """
    if not isinstance(model.process, HeatDissipation):
        found = errors(model, images, count, seed, times=times, per_octave=1)
        return found.times, found.noise_loss
    assert model.predictor is not None
    x, noise = model.learned(images[_spread(count, len(images))]), ImageNoise(seed, range(count))
    return prediction_errors(model.predictor, model.process, x, noise, times, per_octave=1)


def _spread(count: int, total: int) -> NDArray[np.int64]:
    """`count` of `total` indices, evenly spaced."""
    return np.linspace(0, total - 1, count).astype(np.int64)
