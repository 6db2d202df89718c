"""Blurring diffusion (Hoogeboom and Salimans 2023, arXiv 2209.05557), and plain denoising diffusion as its special case."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from blurcli.base.errors import OptionError
from blurcli.core.blur_schedules import BLUR_SCHEDULES
from blurcli.core.calibration import CalibratedDenoiser, measure_errors
from blurcli.core.denoiser import Denoiser, Network
from blurcli.core.likelihood import Bound, variational_bound
from blurcli.core.moments import DataMoments, reference_gaussian
from blurcli.core.plans import Plan, make_plan
from blurcli.core.process import BlurringDiffusion
from blurcli.core.rng import ImageNoise, NoiseSource
from blurcli.core.samplers import DEFAULT_FINAL, SAMPLERS
from blurcli.core.sampling import Observer, sample_by_plan
from blurcli.core.sampling_options import SamplingConfig
from blurcli.core.whitened import WhitenedSpace
from blurcli.families.base import Family, FamilyModel, LikelihoodConfig, ModelData, Start

_TIME_CELLS = 512  # between which training times are interpolated
_SHOWN_TIMES = (0.25, 0.5, 0.75, 1.0)


class BlurringModel(FamilyModel):
    """A denoiser under blurring diffusion."""

    @cached_property
    def denoiser(self) -> Denoiser:
        denoiser: Denoiser = self.trainable  # type: ignore[assignment]  # every objective of this family is one
        if self.data.gain is None:
            return denoiser
        return CalibratedDenoiser(denoiser, self.family.process, self.data.gain, self.spectrum, self.mean)

    @cached_property
    def space(self) -> WhitenedSpace:
        """The whitened space of the data."""
        self.require_moments()
        return whitened_space_of(self.family, self.data.moments)

    def plan(self, sampling: SamplingConfig, start: Start, device: torch.device) -> Plan:
        method = SAMPLERS[sampling.sampler]
        sampler = method(**sampling.method_options)
        time = None if start.image is None else start.strength
        space = self.space if method.whitened else None
        final = sampling.final or DEFAULT_FINAL
        return make_plan(sampler, self.family.process, sampling.steps, device, start=time, space=space, final=final)

    def sample(
        self, plan: Plan, start: Start, noise: NoiseSource, like: Tensor, conditions: dict[str, Any], on_step: Observer
    ) -> Tensor:
        eps = noise(like)
        z = eps if start.image is None else self._diffuse(start, start.strength, eps)
        return sample_by_plan(partial(self.denoiser, **conditions), plan, z, noise, on_step)

    def bound(self, x: Tensor, noise: ImageNoise, likelihood: LikelihoodConfig, **conditions: Any) -> Bound:
        denoiser, colors, calls = partial(self.denoiser, **conditions), self.data.moments.space, likelihood.calls
        return variational_bound(denoiser, self.space, x, noise, calls=calls, steps=likelihood.steps, model_space=colors)

    def losses(self, x: Tensor, noise: Callable[[Tensor], Tensor], times: int, **conditions: Any) -> tuple[Tensor, Tensor]:
        """The squared error of the noise; see `FamilyModel.losses`."""
        errors = measure_errors(partial(self.denoiser, **conditions), self.space, x, noise, times, per_octave=1)
        return errors.times, errors.noise_loss


class BlurringFamily(Family):
    """Blurring diffusion."""

    name = "diffusion"
    ends_noisy = True
    published_times = 100
    process: BlurringDiffusion

    def _build_process(self) -> BlurringDiffusion:
        return BlurringDiffusion(self.config.data.image_size, **self._process_options())

    def model(self, network: Network, data: ModelData) -> BlurringModel:
        return BlurringModel(self, network, data)

    def training_times(self, moments: DataMoments) -> Callable[[Tensor], Tensor]:
        """Uniform times, or times along the path of the image, as `abm` places its steps."""
        if self.config.optim.time_sampling == "uniform":
            return lambda share: share
        path = whitened_space_of(self, moments).time_grid(_TIME_CELLS, 1.0)
        grid = torch.tensor(path[::-1], dtype=torch.float32, device=moments.mean.device)

        def times(share: Tensor) -> Tensor:
            place = share * (len(grid) - 1)
            cell = place.long().clamp(max=len(grid) - 2)
            return torch.lerp(grid[cell], grid[cell + 1], place - cell)

        return times

    def resolve_likelihood(self, likelihood: LikelihoodConfig) -> LikelihoodConfig:
        self.require_mean_estimate()
        if likelihood.delta is not None:
            reason = "is the noise of heat dissipation's steps, and this model is of another family; leave it out"
            raise OptionError("delta", f"{likelihood.delta:g}", reason)
        return likelihood

    def describe_likelihood(self, likelihood: LikelihoodConfig) -> str:
        return "continuous time" if likelihood.steps is None else f"{likelihood.steps} ancestral steps"

    def describe_process(self) -> str:
        process = self.process
        noise = f"log-SNR from {process.logsnr_max:+g} at t = 0 to {process.logsnr_min:+g} at t = 1"
        if process.blur_sigma_max == 0:
            return f"plain denoising diffusion, without blur; {noise}"
        times = torch.tensor(_SHOWN_TIMES, dtype=torch.float64)
        pixels = ", ".join(f"{sigma:.3g}" for sigma in process.blur_sigma(times).tolist())
        options = {"power": f", p = {process.blur_power:g}", "ratio": f", r = {process.blur_noise_ratio or 0:g} px"}
        option = options.get(BLUR_SCHEDULES[process.blur_schedule].option or "", "")
        return (
            f"blurring diffusion; blur schedule {process.blur_schedule}{option}: blur of {pixels} px at t = "
            f"{', '.join(f'{t:g}' for t in _SHOWN_TIMES)}; {noise}"
        )


def whitened_space_of(family: Family, moments: DataMoments) -> WhitenedSpace:
    """The whitened space of data with these moments."""
    return WhitenedSpace(family.process, *reference_gaussian(family.process, *moments.in_model_space()))
