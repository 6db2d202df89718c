"""Inverse heat dissipation (Rissanen, Heinonen and Solin 2023, arXiv 2206.13397)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.base.errors import OptionError, UsageError
from blurcli.core.dct import idct2
from blurcli.core.denoiser import Denoiser, Network
from blurcli.core.heat import DenoiserPredictor, HeatDissipation, Predictor, lowest_frequencies, sample_heat
from blurcli.core.heat_likelihood import heat_bound, prediction_errors
from blurcli.core.likelihood import Bound
from blurcli.core.moments import DataMoments
from blurcli.core.plans import Plan, make_plan
from blurcli.core.rng import ImageNoise, NoiseSource
from blurcli.core.samplers.heat import Heat
from blurcli.core.sampling import Observer
from blurcli.core.sampling_options import SamplingConfig
from blurcli.data.moments import dct_chunks, evenly_spaced
from blurcli.families.base import (
    Family,
    FamilyModel,
    LikelihoodConfig,
    ModelData,
    Start,
)

BLURRED_BANK = "starts"
"""The name in a weights file of the blurred training images that sampling starts from."""

_MAX_BANK_IMAGES = 50_000
_MAX_BANK_BYTES = 1 << 25


class HeatModel(FamilyModel):
    """A predictor of less blurred images."""

    family: HeatFamily

    @cached_property
    def denoiser(self) -> Denoiser:
        self.family.require_image_objective()
        return self.trainable  # type: ignore[return-value]  # every objective that predicts images is one

    @cached_property
    def predictor(self) -> Predictor:
        """The estimator of the image at an earlier level."""
        if self.family.objective.predicts_image:
            return DenoiserPredictor(self.denoiser, self.family.process)
        return self.trainable  # type: ignore[return-value]

    @property
    def blurred_bank(self) -> Tensor:
        """DCT of the blurred training images, their lowest frequencies only, (N, C, h, w)."""
        return self.data.extras[BLURRED_BANK]

    def plan(self, sampling: SamplingConfig, start: Start, device: torch.device) -> Plan:
        """See `FamilyModel.plan`; an image starts at the next level up, because the network is not trained between levels."""
        assert sampling.delta is not None
        sampler = Heat(delta=self.family.noise_in_model_space(sampling.delta))
        if start.image is None:
            return make_plan(sampler, self.family.process, sampling.steps, device)
        steps = max(1, math.ceil(start.strength * sampling.steps - 1e-9))
        return make_plan(sampler, self.family.process, steps, device, start=min(1.0, steps / sampling.steps))

    def sample(
        self, plan: Plan, start: Start, noise: NoiseSource, like: Tensor, conditions: dict[str, Any], on_step: Observer
    ) -> Tensor:
        if start.image is None:
            low = noise.pick(self.blurred_bank)
            blurred = torch.zeros_like(like)
            blurred[..., : low.shape[-2], : low.shape[-1]] = low
            z = idct2(blurred) + self.family.process.noise * noise(like)
        else:
            z = self._diffuse(start, plan.times[0], noise(like))
        return sample_heat(self.predictor, plan, z, noise, on_step, **conditions)

    def bound(self, x: Tensor, noise: ImageNoise, likelihood: LikelihoodConfig, **conditions: Any) -> Bound:
        assert likelihood.delta is not None
        delta, space = self.family.noise_in_model_space(likelihood.delta), self.data.moments.space
        bank, calls = self.blurred_bank, likelihood.calls
        return heat_bound(self.predictor, x, noise, bank, delta, calls=calls, model_space=space, **conditions)

    def losses(self, x: Tensor, noise: Callable[[Tensor], Tensor], times: int, **conditions: Any) -> tuple[Tensor, Tensor]:
        """The squared error of the less blurred image in units of the noise; see `FamilyModel.losses`."""
        return prediction_errors(self.predictor, x, noise, times, 1, **conditions)


class HeatFamily(Family):
    """Inverse heat dissipation."""

    name = "heat"
    starts_from_images = True
    extra_tensors = (BLURRED_BANK,)
    process: HeatDissipation

    def _build_process(self) -> HeatDissipation:
        options = self._process_options()
        options["noise"] = self.noise_in_model_space(options["noise"])
        return HeatDissipation(self.config.data.image_size, **options)

    def require_restorer(self) -> None:
        raise UsageError(
            "this model uses heat dissipation, and its states have too little noise to weigh against a photo's: use a model "
            "with process.kind diffusion, or start from a blurred photo with: blurdiff sample --init-image PHOTO --init-blurred"
        )

    @property
    def published_times(self) -> int:  # type: ignore[override]  # an attribute elsewhere
        """The levels."""
        return self.process.levels

    def model(self, network: Network, data: ModelData) -> HeatModel:
        return HeatModel(self, network, data)

    def training_times(self, moments: DataMoments) -> Callable[[Tensor], Tensor]:
        """The times of levels 1 to K."""
        return self.process.level_above

    def measure_extras(self, images: NDArray[np.uint8], moments: DataMoments) -> dict[str, Tensor]:
        """The blurred training images: the remaining low frequencies of their DCT at t = 1, float32.

        Args:
            images: (N, C, H, W) uint8; at most 50,000, or 32 MiB of frequencies, are used, evenly spaced. If training flips
                half of the images, every second one is flipped here.
            moments: of these images.
        """
        spectrum = moments.in_model_space()[0].cpu()
        height, width = lowest_frequencies(self.process, spectrum)
        most = min(_MAX_BANK_IMAGES, max(1, _MAX_BANK_BYTES // (4 * images.shape[1] * height * width)))
        scale = self.process.alpha(torch.ones(1, dtype=torch.float64))[..., :height, :width]
        parts = [
            (scale * moments.space.dct_from_rgb(u)[..., :height, :width]).float()
            for u in dct_chunks(images, evenly_spaced(len(images), most))
        ]
        bank = torch.cat(parts)
        if self.config.data.flip:
            bank[1::2, ..., 1::2] *= -1
        return {BLURRED_BANK: bank}

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See `Family.check_sampling`; at most one step per level, and exactly one for objective residual."""
        super().check_sampling(sampling)
        levels, every_level = self.process.levels, not self.objective.predicts_image
        if sampling.steps > levels or (every_level and sampling.steps != levels):
            bound = "exactly" if every_level else "at most"
            raise OptionError("steps", sampling.steps, f"this model has {levels} levels and takes {bound} as many steps")

    def resolve_likelihood(self, likelihood: LikelihoodConfig) -> LikelihoodConfig:
        if likelihood.steps is not None:
            reason = "the bound of heat dissipation has the steps of its levels; leave the option out"
            raise OptionError("steps", likelihood.steps, reason)
        delta = self.config.sample.delta if likelihood.delta is None else likelihood.delta
        if not delta:
            reason = "heat dissipation has no bound where its steps add no noise; use 0.0125, for example"
            raise OptionError("delta", delta or 0, reason)
        return replace(likelihood, delta=delta)

    def describe_likelihood(self, likelihood: LikelihoodConfig) -> str:
        return f"{self.process.levels} levels of heat dissipation, delta {likelihood.delta}"

    def describe_process(self) -> str:
        process = self.process
        return (
            f"inverse heat dissipation; {process.levels} blur levels, log-spaced from {process.blur_sigma_min:g} to "
            f"{process.blur_sigma_max:g} px; noise of {process.noise / 2:g} on blurred images in [0, 1]"
        )
