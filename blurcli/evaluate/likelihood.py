"""The likelihood bound of a model on images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from blurcli.base.distributed import SINGLE_PROCESS
from blurcli.core.bands import band_names, frequency_bands
from blurcli.core.likelihood import BANDS_PER_OCTAVE, Bound
from blurcli.core.rng import ImageNoise
from blurcli.data import Dataset
from blurcli.evaluate.denoising import MeasuredImages
from blurcli.evaluate.environment import hardware, versions
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


def likelihood_score(
    pipeline: Pipeline,
    dataset: Dataset,
    measured: MeasuredImages,
    likelihood: LikelihoodConfig,
    on_batch: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Any], Bound]:
    """The bound as a score with its protocol, a line of evaluations.jsonl; and the bound itself.

    Args:
        pipeline: the model.
        dataset: the images of `measured`, for their name and hash.
        measured: at least two images.
        likelihood: as resolved by `Family.resolve_likelihood`.
        on_batch: receives the number of images done.
    """
    started = time.perf_counter()
    bound = likelihood_bound(pipeline, measured, likelihood, on_batch)
    names = band_names(frequency_bands(*pipeline.process.shape, BANDS_PER_OCTAVE)[1])
    parts = {"prior": bound.prior, "diffusion": bound.diffusion, "reconstruction": bound.reconstruction}
    score = {
        "bits_per_dim": float(bound.total.mean()),
        "standard_error": standard_error(bound.total),
        **{name: float(part.mean()) for name, part in parts.items()},
        "bands": dict(zip(names, bound.bands.mean(0).tolist(), strict=True)),
        "n": measured.count,
        "steps": likelihood.steps,
        "delta": likelihood.delta,
        "calls": likelihood.calls,
        "label": measured.label(pipeline),
        "seed": measured.seed,
        "weights_sha256": pipeline.digest,
        "calibrated": pipeline.calibrated,
        "network_precision": pipeline.precision,
        "reference": dataset.name,
        "reference_hash": dataset.fingerprint,
        "device": str(pipeline.device),
        "seconds": round(time.perf_counter() - started, 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "hardware": hardware(pipeline.device),
        "versions": versions(),
    }
    return score, bound


def standard_error(values: Tensor) -> float:
    """The standard error of the mean of at least two values."""
    return float(values.std() / len(values) ** 0.5)
