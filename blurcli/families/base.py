"""The interface of a family of processes, for training, sampling, likelihood and files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.base.errors import OptionError, UsageError, did_you_mean, option
from blurcli.core.colors import ModelSpace
from blurcli.core.denoiser import Denoiser, Network, Trainable
from blurcli.core.likelihood import Bound
from blurcli.core.moments import DataMoments
from blurcli.core.objectives import OBJECTIVES
from blurcli.core.plans import Plan
from blurcli.core.process import Process
from blurcli.core.rng import ImageNoise, NoiseSource
from blurcli.core.samplers import DEFAULT_FINAL, FINALS, SAMPLERS, names_for, takers_of
from blurcli.core.sampling import Observer
from blurcli.core.sampling_options import METHOD_OPTIONS, SamplingConfig, SamplingRequest
from blurcli.data.moments import measure_moments

if TYPE_CHECKING:
    from blurcli.config import Config


@dataclass(frozen=True)
class LikelihoodConfig:
    """Options of the likelihood bound.

    Attributes:
        calls: network calls per image, at least 1.
        steps: bound for this number of ancestral steps; None for continuous time or a fixed number of levels.
        delta: noise of heat dissipation's steps, for images in [0, 1]; None for other families.
    """

    calls: int = 32
    steps: int | None = None
    delta: float | None = None


@dataclass(frozen=True)
class ModelData:
    """The data of a trained model besides its network.

    Attributes:
        moments: of the training data.
        gain: of the network's estimates, (times, bands), see `CalibratedDenoiser`; None for no calibration.
        extras: the family's own tensors by name, see `Family.extra_tensors`.
    """

    moments: DataMoments
    gain: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], extras: Sequence[str], config: Config) -> ModelData:
        """The inverse of `tensors`: pops its tensors from all tensors of a file; `extras` are the names of the family's own.

        Raises:
            KeyError: a tensor is missing; only models of published objectives may have no moments.
        """
        data = config.data
        if OBJECTIVES[config.objective].published and not {"spectrum", "mean"} & tensors.keys():
            moments = DataMoments.unknown((data.channels, *data.image_size), data.centered)
        else:
            opponent = tensors.pop("opponent", None)
            moments = DataMoments(tensors.pop("spectrum"), tensors.pop("mean"), opponent, data.centered)
        return cls(moments, tensors.pop("gain", None), {name: tensors.pop(name) for name in extras})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by their names in a weights file."""
        measured = {"spectrum": self.moments.second_moment, "mean": self.moments.mean} if self.moments.measured else {}
        optional = {"gain": self.gain, "opponent": self.moments.opponent_spectrum, **self.extras}
        return measured | {name: tensor for name, tensor in optional.items() if tensor is not None}


@dataclass(frozen=True)
class Start:
    """What sampling starts from: noise, or an image that is diffused to a time.

    Attributes:
        image: (C, H, W) uint8, or one per image to be made, (B, C, H, W); None for noise.
        strength: the time in (0, 1] to which the image is diffused; at 1 almost nothing of it remains.
        blurred: whether the image already has the blur of that time.
        noise: `noise(indices)` is the source of noise for these images; its first noise is what they start from. None for
            one random stream per image.
    """

    image: NDArray[np.uint8] | None = None
    strength: float = 1.0
    blurred: bool = False
    noise: Callable[[Sequence[int]], NoiseSource] | None = None


FROM_NOISE = Start()


class FamilyModel(ABC):
    """A network under one process, with the moments of its data.

    Args:
        family: the family, with its configuration.
        network: predicts the target of the objective.
        data: moments and the family's own tensors, on the device of the network.

    Attributes:
        trainable: the objective, which has a loss.
        spectrum: P in model space, (C, H, W).
        mean: M in model space.
    """

    def __init__(self, family: Family, network: Network, data: ModelData) -> None:
        self.family = family
        self.data = data
        self.spectrum, self.mean = data.moments.in_model_space()
        self.trainable: Trainable = family.objective.build(network, family.process, self.spectrum, self.mean)

    def require_moments(self) -> None:
        """Check that the moments of the training data are known.

        Raises:
            UsageError: the model was imported without its training images.
        """
        if not self.data.moments.measured:
            known = ", ".join(name for name in self.family.samplers if not SAMPLERS[name].whitened)
            raise UsageError(
                "this model was imported without its training images, and their spectrum is needed: import it again with "
                f"{option('data')}, or sample with {option('sampler')} {known}"
            )

    @property
    @abstractmethod
    def denoiser(self) -> Denoiser:
        """`x_hat = denoiser(z, t, **conditions)`, calibrated if the model has a gain.

        Raises:
            UsageError: the objective has no estimate of the clean image.
        """

    @abstractmethod
    def plan(self, sampling: SamplingConfig, start: Start, device: torch.device) -> Plan:
        """Times and coefficients of a run, shared by all its batches."""

    @abstractmethod
    def sample(
        self, plan: Plan, start: Start, noise: NoiseSource, like: Tensor, conditions: dict[str, Any], on_step: Observer
    ) -> Tensor:
        """The images of one batch, (B, C, H, W) in model space, about [-1, 1].

        Args:
            plan: from `plan`.
            start: what sampling starts from.
            noise: the source of noise of this batch.
            like: an empty tensor (B, C, H, W), which gives shape, dtype and device.
            conditions: keyword arguments of the network.
            on_step: receives (i, t, z, x_hat) per step.
        """

    @abstractmethod
    def bound(self, x: Tensor, noise: ImageNoise, likelihood: LikelihoodConfig, **conditions: Any) -> Bound:
        """The likelihood bound per image.

        Args:
            x: images (B, C, H, W) in model space.
            noise: one random stream per image.
            likelihood: as resolved by `Family.resolve_likelihood`.
            conditions: keyword arguments of the network.
        """

    @abstractmethod
    def losses(self, x: Tensor, noise: Callable[[Tensor], Tensor], times: int, **conditions: Any) -> tuple[Tensor, Tensor]:
        """The loss per time and octave-spaced frequency band: (T,) and (T, bands).

        Args:
            x: images (B, C, H, W) in model space.
            noise: `noise(x)` gives standard normal noise like x.
            times: number of times.
            conditions: keyword arguments of the network.
        """

    def to_model_space(self, images: NDArray[np.uint8]) -> Tensor:
        """Images (..., C, H, W) uint8 in model space, on the device of the moments."""
        x = torch.from_numpy(np.array(images)).to(self.mean.device).float() / 127.5 - 1
        return self.data.moments.to_model_space(x)

    def _diffuse(self, start: Start, time: float, eps: Tensor) -> Tensor:
        assert start.image is not None
        x = self.to_model_space(start.image).expand_as(eps)
        t = torch.full((len(eps),), time, device=eps.device)
        process = self.family.process
        return process.add_noise(x, t, eps) if start.blurred else process.diffuse(x, t, eps)


class Family(ABC):
    """One kind of process, with the configuration of one model.

    Args:
        config: a configuration of this family.

    Attributes:
        name: `process.kind` in a preset.
        process: the process.
        objective: what the network predicts.
        starts_from_images: whether sampling starts from blurred images instead of noise.
        ends_noisy: whether its process leaves noise in the images, which a sampler can remove.
        published_times: number of time steps of published implementations.
        extra_tensors: names of its tensors in a weights file besides network, moments and gain.
    """

    name: ClassVar[str]
    starts_from_images: ClassVar[bool] = False
    extra_tensors: ClassVar[tuple[str, ...]] = ()
    ends_noisy: ClassVar[bool] = False
    published_times: int

    def __init__(self, config: Config) -> None:
        self.config = config
        self.process: Process = self._build_process()
        self.objective = OBJECTIVES[config.objective]

    @abstractmethod
    def _build_process(self) -> Any: ...

    def _process_options(self) -> dict[str, Any]:
        """The keys of `process` that are set, without its kind."""
        # vars: an exported pipeline has plain objects instead of pydantic's
        return {name: value for name, value in vars(self.config.process).items() if name != "kind" and value is not None}

    def noise_in_model_space(self, noise: float) -> float:
        """A standard deviation in model space, from one for images in [0, 1]."""
        return noise * 2 * ModelSpace(centered=self.config.data.centered).scale

    @abstractmethod
    def model(self, network: Network, data: ModelData) -> FamilyModel:
        """A network of this family.

        Raises:
            ValueError: data that do not fit the configuration.
        """

    @abstractmethod
    def training_times(self, moments: DataMoments) -> Callable[[Tensor], Tensor]:
        """The trained times: a map from shares (B,) in [0, 1] of all training images to times (B,)."""

    def measure_moments(self, images: NDArray[np.uint8]) -> DataMoments:
        """The moments of the training images (N, C, H, W) uint8, for a network of this objective and its colors."""
        moments = replace(measure_moments(images, self.config.data.flip), centered=self.config.data.centered)
        in_color = self.objective.opponent_colors and self.config.data.channels > 1
        return moments if in_color else replace(moments, opponent_spectrum=None)

    def measure_extras(self, images: NDArray[np.uint8], moments: DataMoments) -> dict[str, Tensor]:
        """The family's own tensors for a weights file, from the training images (N, C, H, W) uint8."""
        return {}

    def resolve_sampling(self, request: SamplingRequest, guide: str | None = None) -> SamplingConfig:
        """Resolve and check sampling options: the preset's value for each that is None.

        Args:
            request: what is wanted; its classes and guidance are checked before.
            guide: digest of the weaker model that guides; None for none.

        Raises:
            OptionError: see `check_sampling`.
        """
        own = self.config.sample
        sampler = request.sampler or own.sampler
        values = {}
        for one in METHOD_OPTIONS:
            value = getattr(request, one.name)
            if value is None and sampler == own.sampler:
                value = getattr(own, one.name, None)
            values[one.name] = one.neutral if value is None else value
        final = request.final or own.final or (DEFAULT_FINAL if self.ends_noisy else None)
        guidance = 1.0 if request.guidance is None else request.guidance
        chosen = SamplingConfig(
            sampler, request.steps or own.steps, label=request.label, guidance=guidance, final=final, guide=guide, **values
        )
        self.check_sampling(chosen)
        return chosen

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Check sampler and options against this family.

        Raises:
            OptionError: the sampler is for another family, lacks an option, or a value does not fit the model.
        """
        if sampling.final is not None and not self.ends_noisy:
            raise OptionError("final", sampling.final, f"the last step of the family {self.name} adds no noise; leave it out")
        if sampling.final not in (None, *FINALS):
            raise OptionError("final", sampling.final, f"must be one of {', '.join(FINALS)}")
        known = self.samplers
        if sampling.sampler not in known:
            hint = did_you_mean(sampling.sampler, known)
            kind = "distilled" if self.objective.predicts_endpoint else f"of the family {self.name}"
            reason = f"this model is {kind}: use {', '.join(known)}{hint}"
            raise OptionError("sampler", sampling.sampler, reason)
        for one in METHOD_OPTIONS:
            value = getattr(sampling, one.name)
            if value != one.neutral and one.name not in sampling.method_options:
                reason = f"sampler {sampling.sampler} has no such option; it is for {', '.join(takers_of(one.name))}"
                raise OptionError(one.name, f"{value:g}", reason)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the samplers for models of this configuration, the default first."""
        return names_for(self.name, self.objective.predicts_endpoint)

    @abstractmethod
    def resolve_likelihood(self, likelihood: LikelihoodConfig) -> LikelihoodConfig:
        """Fill in the open options.

        Raises:
            OptionError: an option is for another family, or its value has no bound.
        """

    @abstractmethod
    def describe_likelihood(self, likelihood: LikelihoodConfig) -> str:
        """A short description of the bound."""

    @abstractmethod
    def describe_process(self) -> str:
        """A description of the process over time, as a sentence without a full stop."""

    def require_image_objective(self) -> None:
        """Check that the network estimates the clean image.

        Raises:
            UsageError: it predicts the next, less blurred image.
        """
        if not self.objective.predicts_image:
            raise UsageError(
                f"a model trained with objective={self.config.objective} predicts the next, less blurred image; "
                "it has no estimate of the clean image"
            )

    def require_restorer(self) -> None:
        """Check that the network can restore photos.

        Raises:
            UsageError: it cannot.
        """
        self.require_image_objective()
        self.require_mean_estimate()

    def require_mean_estimate(self) -> None:
        """Check that the network predicts the posterior mean E[x given z_t].

        Raises:
            UsageError: it predicts the ODE endpoint.
        """
        if self.objective.predicts_endpoint:
            raise UsageError(
                "this model is distilled: it predicts the ODE endpoint, and the posterior mean is needed; use the model that "
                "it was distilled from (its weights are teacher.safetensors in the run folder)"
            )
