"""From a trained network to images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.base.checkpoint import content_hash
from blurcli.base.distributed import SINGLE_PROCESS, DistributedContext
from blurcli.base.errors import DivergedError, UserError
from blurcli.config import Config
from blurcli.core import UNet
from blurcli.core.execution import state_device
from blurcli.core.guidance import GuidedNetwork
from blurcli.core.moments import DataMoments, reference_gaussian
from blurcli.core.rng import ImageNoise
from blurcli.core.sampling import Observer
from blurcli.core.sampling_options import SamplingConfig, SamplingRequest
from blurcli.families import FROM_NOISE, ModelData, Start, family_of
from blurcli.model.conditioning import LISTED_CLASSES, Conditioning
from blurcli.model.guide import Guide, load_guide
from blurcli.model.inference import InferenceNetwork, in_precision, load_network, resolve_precision
from blurcli.model.weights import Classes, Weights


class Pipeline:
    """A trained model, ready to sample.

    Args:
        config: the resolved preset, with the precision of the network.
        network: the U-Net, in evaluation mode, on `device`.
        data: what the model needs besides the network.
        device: where the network runs.
        classes: the classes of a class-conditional network; None for none.
        notify: receives messages.
        guide: a weaker version of the model; None for none.

    Attributes:
        device: where the network runs.
        state_device: device of images and states, see `core.execution.state_device`.
        family: the family of its process.
        model: the network under its process.

    Raises:
        ValueError: data that do not fit the configuration.
    """

    def __init__(
        self,
        config: Config,
        network: UNet,
        data: ModelData,
        device: torch.device,
        classes: Classes | None = None,
        notify: Callable[[str], None] = lambda text: None,
        guide: Guide | None = None,
    ) -> None:
        self.config = config
        self.guide = guide
        self.network = network
        self.device = device
        self.state_device = state_device(device)
        self.classes = classes
        self._conditioning = Conditioning(config, classes, None if guide is None else guide.config, self.state_device)
        self.family = family_of(config)
        self.process = self.family.process
        moments = data.moments
        # A damaged file can hold anything.
        reference_gaussian(self.process, moments.second_moment, moments.mean)
        self._inference = InferenceNetwork(network, config, device, notify)
        gain = None if data.gain is None else data.gain.to(self.state_device)
        extras = {name: tensor.to(self.state_device) for name, tensor in data.extras.items()}
        on_device = ModelData(moments.map(lambda tensor: tensor.to(self.state_device)), gain, extras)
        self._guiding = None if guide is None else InferenceNetwork(guide.network, guide.config, device, notify)
        self.model = self.family.model(GuidedNetwork(self._inference, self._guiding), on_device)
        if gain is not None:
            self.model.denoiser  # noqa: B018  checks the gain

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        device: torch.device,
        calibrated: bool = True,
        notify: Callable[[str], None] = lambda text: None,
        guide: Weights | None = None,
        precision: str | None = None,
    ) -> Pipeline:
        """A pipeline from a weights file, with the measured gain unless `calibrated` is false.

        Args:
            weights: the model.
            device: where the network runs.
            calibrated: whether to use the measured gain of the model.
            notify: receives messages.
            guide: a weaker version of the model; None for none.
            precision: of the network and its guide: `auto`, `bf16` or `fp32`; None for their presets'.

        Raises:
            OptionError: a guide of another process, objective or data; an unknown precision.
            UserError: the tensors of a file do not fit its configuration.
        """
        config = in_precision(weights.config, precision)
        network = load_network(weights, device)
        weaker = None
        if guide is not None:
            weaker = load_guide(replace(guide, config=in_precision(guide.config, precision)), weights, device)
        data = weights.data if calibrated else replace(weights.data, gain=None)
        try:
            return cls(config, network, data, device, weights.classes, notify, weaker)
        except ValueError as error:
            raise UserError(f"{weights.name}: {error}; the file is damaged") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value: a copy has nothing compiled or measured, and no receiver of messages."""
        return partial(Pipeline, guide=self.guide), (self.config, self.network, self.model.data, self.device, self.classes)

    @property
    def moments(self) -> DataMoments:
        """The moments of the training data."""
        return self.model.data.moments

    @property
    def precision(self) -> str:
        """The precision of the network on its device: `bf16` or `fp32`."""
        return resolve_precision(self.config, self.device)

    @property
    def calibrated(self) -> bool:
        """Whether the denoiser's estimates are scaled by a measured gain."""
        return self.model.data.gain is not None

    @property
    def batch_size(self) -> int:
        """Images per batch: the preset's number, or as many as are useful and fit into free memory."""
        return self._inference.batch_size

    @property
    def call_size(self) -> int:
        """Images per call of the network: a batch, on a CPU a part of it."""
        return self._inference.call_size

    def compile(self, batch_size: int, evaluations: int = 0) -> None:
        """Compile the network if that saves time; see `InferenceNetwork.compile`."""
        for network in filter(None, (self._inference, self._guiding)):
            network.compile(batch_size, evaluations)

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over parameters and moments; it does not depend on the file of the model."""
        spectrum, mean = self.model.spectrum, self.model.mean
        return content_hash({**self.network.state_dict(), "spectrum": spectrum, "mean": mean})[:16]

    def sampling(self, sampler: str | None = None, steps: int | None = None, **options: Any) -> SamplingConfig:
        """How to sample; see `resolve`.

        Args:
            sampler: name of the method.
            steps: steps of the sampler.
            **options: the other fields of `SamplingRequest`.
        """
        return self.resolve(SamplingRequest(sampler, steps, **options))

    def resolve(self, request: SamplingRequest) -> SamplingConfig:
        """Resolve sampling options: the preset's value for each that is None.

        Raises:
            UsageError: options that do not fit the model or each other.
        """
        request = replace(request, guidance=self._conditioning.resolve(request.label, request.guidance))
        return self.family.resolve_sampling(request, None if self.guide is None else self.guide.digest)

    @torch.inference_mode()
    def generate(
        self,
        count: int | Sequence[int],
        seed: int,
        sampling: SamplingConfig | None = None,
        *,
        start: Start = FROM_NOISE,
        batch_size: int | None = None,
        on_step: Observer | None = None,
        on_progress: Callable[[float], None] = lambda images: None,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> Iterator[Tensor]:
        """Images 0 to count - 1 of a seed, or those of some indices, in batches (B, C, H, W) float32, about [-1, 1].

        Image i depends on (weights, sampling, precision, seed, i) only: bit for bit on a CPU, up to rounding on a GPU.

        Args:
            count: number of images, over all processes; or their indices, ascending.
            seed: seed of the images, in [0, 2**64).
            sampling: from `sampling()`; None for the preset's.
            start: what the images start from.
            batch_size: images per batch; None for `batch_size`.
            on_step: receives (i, t, z, x_hat) per step, in red, green and blue.
            on_progress: receives the number of images of all processes after every step, with fractions for unfinished ones.
            distributed: the processes that share the work: this one makes every `distributed.size`-th batch.

        Raises:
            DivergedError: images that are not finite.
        """
        sampling = sampling or self.sampling()
        batch_size = batch_size or self.batch_size
        indices = list(range(count) if isinstance(count, int) else count)
        self.compile(batch_size, evaluations=len(indices) * sampling.calls)
        plan = self.model.plan(sampling, start, self.state_device)
        done = 0

        def observe(i: int, t: float, z: Tensor, x_hat: Tensor) -> None:
            if on_step is not None:
                on_step(i, t, self.to_rgb(z), self.to_rgb(x_hat))
            on_progress((done + len(block) * (i + 1) / len(plan)) * distributed.size)

        for block in distributed.blocks(indices, batch_size):
            noise = start.noise(block) if start.noise is not None else ImageNoise(seed, block)
            conditions = self.conditions(block, seed, sampling)
            images = self.model.sample(plan, start, noise, self._empty(len(block)), conditions, observe)
            if not images.isfinite().all():
                raise DivergedError(
                    f"images {block[0]} to {block[-1]} of seed {seed} are not finite: the training had diverged "
                    "when these weights were saved; use earlier weights"
                )
            done += len(block)
            yield self.to_rgb(images)

    def initial_noise(self, count: int, seed: int) -> Tensor:
        """The initial noise of images 0 to count - 1 of a seed in `generate`, in red, green and blue: (B, C, H, W)."""
        return self.moments.space.colors_to_rgb(ImageNoise(seed, range(count))(self._empty(count)))

    def conditions(self, indices: Sequence[int], seed: int, sampling: SamplingConfig) -> dict[str, Any]:
        """Keyword arguments of the network for images of a seed: their classes, int64 (B,), and the guidance."""
        return self._conditioning.of_samples(indices, seed, sampling)

    def conditions_of(self, labels: NDArray[np.int64] | None) -> dict[str, Any]:
        """Keyword arguments of the network for given images, without guidance; see `Conditioning.of_images`."""
        return self._conditioning.of_images(labels)

    def labels_of(self, names: Sequence[str] | None) -> NDArray[np.int64] | None:
        """The labels of images by the names of their classes; None where these are unknown, to anybody or to the model."""
        return self._conditioning.numbers(names)

    @torch.inference_mode()
    def denoise(self, z: Tensor, t: float, seed: int, sampling: SamplingConfig | None = None) -> Tensor:
        """The estimates x_hat of the clean images from states of images 0, 1, ... of a seed.

        Args:
            z: states (B, C, H, W) in red, green and blue, as passed to `on_step` of `generate`.
            t: time in [0, 1].
            seed: seed of the images, which determines the classes, as in `generate`.
            sampling: label and guidance; None for the preset's.

        Returns:
            x_hat, like `z`.

        Raises:
            UsageError: the objective has no estimate of the clean image.
        """
        return self.estimate(z, t, **self.conditions(range(len(z)), seed, sampling or self.sampling()))

    @torch.inference_mode()
    def estimate(self, z: Tensor, t: float, **conditions: Any) -> Tensor:
        """`denoise` under given conditions: `conditions` or `conditions_of`."""
        z = self.moments.to_model_space(z)
        times = torch.full((len(z),), t, dtype=z.dtype, device=z.device)
        return self.to_rgb(self.model.denoiser(z, times, **conditions))

    def column_titles(self, sampling: SamplingConfig) -> tuple[str, ...]:
        """The classes as titles of the columns of a grid, if images have all classes in turn; else none."""
        names = () if self.classes is None or sampling.label != "all" else self.classes.names
        return names if len(names) <= LISTED_CLASSES else ()

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, self.config.data.channels, *self.process.shape, device=self.state_device)

    def to_model_space(self, images: NDArray[np.uint8]) -> Tensor:
        """Images (..., C, H, W) uint8 in model space, on the device of the states."""
        return self.model.to_model_space(images)

    def to_rgb(self, x: Tensor) -> Tensor:
        """States (B, C, H, W) in red, green and blue; images in [-1, 1]."""
        return self.moments.to_rgb(x)


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] to 0..255: clipped and rounded (not truncated), on the CPU."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
