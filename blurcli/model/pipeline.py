"""From a trained network to images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.base.checkpoint import content_hash
from blurcli.base.distributed import SINGLE_PROCESS, DistributedContext
from blurcli.base.errors import OptionError, UserError, did_you_mean, option
from blurcli.config import Config
from blurcli.core import UNet
from blurcli.core.execution import state_device
from blurcli.core.guidance import GuidedNetwork
from blurcli.core.moments import DataMoments, reference_gaussian
from blurcli.core.rng import ImageNoise, Noises, draw_classes
from blurcli.core.sampling import Observer
from blurcli.families import Batch, ModelData, Photo, SamplingConfig, family_of
from blurcli.model.guide import Guide, load_guide
from blurcli.model.inference import InferenceNetwork, in_precision, load_network, resolve_precision
from blurcli.model.weights import Classes, Weights

_LISTED_CLASSES = 20
_USUAL_AUTOGUIDANCE = 2.0  # docs/samplers.md


@dataclass(frozen=True)
class Init:
    """An image to start from, instead of noise.

    Attributes:
        image: (C, H, W) uint8, or one per image to be made, (B, C, H, W).
        strength: the time in (0, 1] to which it is diffused; at 1 next to nothing of it remains.
        blurred: whether it already has the blur of that time.
    """

    image: NDArray[np.uint8]
    strength: float
    blurred: bool = False


@dataclass(frozen=True)
class Start:
    """What sampling starts from.

    Attributes:
        noise: `noise(indices)` is the source of noise for these images, its first draw their start; None for one random stream
            per image.
        init: an image to start from; None for noise.
    """

    noise: Callable[[Sequence[int]], Noises] | None = None
    init: Init | None = None


class Pipeline:
    """A trained model, ready to sample.

    Args:
        config: the resolved preset, in the precision in which the network computes.
        network: the U-Net, in evaluation mode, on `device`.
        data: what the model needs besides the network.
        device: where the network runs.
        classes: the classes of a class-conditional network; None for none.
        notify: receives messages.
        guide: a weaker version of the model; None for none.

    Attributes:
        device: where the network runs.
        state_device: where images and states are, see `core.execution.state_device`.
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
        if self._guiding is not None:
            self._guiding.on_images = lambda images: self._inference.on_images(images)
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
        """By value, as a copy in another process has it: without what was compiled or measured here, and without messages."""
        return partial(Pipeline, guide=self.guide), (self.config, self.network, self.model.data, self.device, self.classes)

    @property
    def moments(self) -> DataMoments:
        """The moments of the training data."""
        return self.model.data.moments

    @property
    def precision(self) -> str:
        """In what the network computes on its device: `bf16` or `fp32`."""
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
        """Compile the network where that pays; see `InferenceNetwork.compile`."""
        for network in filter(None, (self._inference, self._guiding)):
            network.compile(batch_size, evaluations)

    @contextmanager
    def progress(
        self, sampling: SamplingConfig, update: Callable[[float], None], distributed: DistributedContext = SINGLE_PROCESS
    ) -> Iterator[None]:
        """Report the work done while the block runs.

        Args:
            sampling: how images are made.
            update: receives the number of images after every call of the network: one half is an image half-way to its end.
            distributed: the processes that share the work.
        """
        by_class = self.classes is not None and sampling.label != "none"
        guided = sampling.guidance != 1 and (self.guide is not None or by_class)
        per_image = sampling.steps * (2 if guided else 1)
        calls = 0

        def count(images: int) -> None:
            nonlocal calls
            calls += images
            update(calls * distributed.size / per_image)

        before = self._inference.on_images
        self._inference.on_images = count
        try:
            yield
        finally:
            self._inference.on_images = before

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over parameters and moments: the same for the same model in any file."""
        spectrum, mean = self.model.spectrum, self.model.mean
        return content_hash({**self.network.state_dict(), "spectrum": spectrum, "mean": mean})[:16]

    def sampling(
        self,
        sampler: str | None = None,
        steps: int | None = None,
        eta: float | None = None,
        delta: float | None = None,
        label: str | None = None,
        guidance: float | None = None,
        final: str | None = None,
    ) -> SamplingConfig:
        """How to sample, with the preset's value for everything that is None.

        Args:
            sampler: name of the method.
            steps: steps of the sampler.
            eta: noise of `ddim`, in [0, 1].
            delta: noise per step of `heat`, for images in [0, 1].
            label: for a class-conditional model, the name of a class; `none`; `all` in turn; None for the class frequencies of
                the training data.
            guidance: classifier-free guidance, or by the guide; 1 is none.
            final: for diffusion, `noisy` or `denoised`.

        Raises:
            UsageError: options that do not fit the model or each other.
        """
        guidance = self._resolved_guidance(label, guidance)
        guide = None if self.guide is None else self.guide.digest
        return self.family.resolve_sampling(sampler, steps, eta, delta, final, label=label, guidance=guidance, guide=guide)

    def _resolved_guidance(self, label: str | None, guidance: float | None) -> float:
        if self.classes is None:
            unguided = None if guidance == 1 or self.guide is not None else guidance
            for name, value in (("label", label), ("guidance", unguided)):
                if value is not None:
                    other = f", or name weaker weights with {option('guide')}" if name == "guidance" else ""
                    reason = f"this model has no classes; train a class-conditional one with data.classes=N{other}"
                    raise OptionError(name, value, reason)
            return self._guidance_by_guide(guidance)
        if label is not None and label not in (*self.classes.names, "none", "all"):
            names = self.classes.names[:_LISTED_CLASSES]
            known = f"{', '.join(names)}, none, all"
            raise OptionError("label", label, f"unknown class{did_you_mean(label, names)} (known: {known})")
        if self.guide is not None:
            return self._guidance_by_guide(guidance)
        guidance = self.config.sample.guidance if guidance is None else guidance
        if guidance != 1 and not self.config.optim.class_dropout:
            reason = "this model was trained without unconditional images (optim.class_dropout: 0); use 1"
            raise OptionError("guidance", f"{guidance:g}", reason)
        return guidance

    def _guidance_by_guide(self, guidance: float | None) -> float:
        if self.guide is None:
            return 1.0
        return _USUAL_AUTOGUIDANCE if guidance is None else guidance

    @torch.inference_mode()
    def generate(
        self,
        count: int | Sequence[int],
        seed: int,
        sampling: SamplingConfig | None = None,
        *,
        start: Start = Start(),
        batch_size: int | None = None,
        on_step: Observer | None = None,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> Iterator[Tensor]:
        """Images 0 to count - 1 of a seed, or those of some indices, in batches (B, C, H, W) float32, about [-1, 1].

        Image i depends on (weights, sampling, precision, seed, i) only: bit for bit on a CPU, up to rounding on a GPU.

        Args:
            count: number of images, over all processes; or their indices, ascending.
            seed: seed of the images, in [0, 2**64).
            sampling: from `sampling()`; None for the preset's.
            start: noise, or an image to start from.
            batch_size: images per batch; None for `batch_size`.
            on_step: receives (i, t, z, x_hat) per step, in red, green and blue.
            distributed: the processes that share the work: this one makes every `distributed.size`-th batch.

        Raises:
            UserError: images that are not finite.
        """
        sampling = sampling or self.sampling()
        batch_size = batch_size or self.batch_size
        indices = list(range(count) if isinstance(count, int) else count)
        self.compile(batch_size, evaluations=len(indices) * sampling.steps)
        photo = None if start.init is None else self._photo(start.init)
        plan = self.model.plan(sampling, photo, self.state_device)

        def observe(i: int, t: float, z: Tensor, x_hat: Tensor) -> None:
            if on_step is not None:
                on_step(i, t, self.to_rgb(z), self.to_rgb(x_hat))

        for block in distributed.blocks(indices, batch_size):
            noise = start.noise(block) if start.noise is not None else ImageNoise(seed, block)
            batch = Batch(self._empty(len(block)), noise, self.conditions(block, seed, sampling), photo)
            images = self.model.sample(plan, batch, observe)
            if not images.isfinite().all():
                raise UserError(
                    f"images {block[0]} to {block[-1]} of seed {seed} are not finite: the training had diverged "
                    "when these weights were saved; use earlier weights"
                )
            yield self.to_rgb(images)

    def initial_noise(self, count: int, seed: int) -> Tensor:
        """The noise, in red, green and blue, from which `generate` makes images 0 to count - 1 of a seed: (B, C, H, W)."""
        return self.moments.space.colors_to_rgb(ImageNoise(seed, range(count))(self._empty(count)))

    @torch.inference_mode()
    def denoise(self, z: Tensor, t: float, seed: int, sampling: SamplingConfig | None = None) -> Tensor:
        """The estimates x_hat of the clean images behind states of images 0, 1, ... of a seed.

        Args:
            z: states (B, C, H, W) in red, green and blue, as the observer of `generate` receives them.
            t: time in [0, 1].
            seed: seed of the images; it decides the classes, as in `generate`.
            sampling: label and guidance; None for the preset's.

        Returns:
            x_hat, like `z`.

        Raises:
            UsageError: the objective has no estimate of the clean image.
        """
        z = self.moments.to_model_space(z)
        times = torch.full((len(z),), t, dtype=z.dtype, device=z.device)
        conditions = self.conditions(range(len(z)), seed, sampling or self.sampling())
        return self.to_rgb(self.model.denoiser(z, times, **conditions))

    def column_titles(self, sampling: SamplingConfig) -> tuple[str, ...]:
        """The classes, as titles of the columns of a grid, where images have all classes in turn; else none."""
        names = () if self.classes is None or sampling.label != "all" else self.classes.names
        return names if len(names) <= _LISTED_CLASSES else ()

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, self.config.data.channels, *self.process.shape, device=self.state_device)

    def _photo(self, init: Init) -> Photo:
        return Photo(self.to_model_space(init.image), init.strength, init.blurred)

    def conditions(self, indices: Sequence[int], seed: int, sampling: SamplingConfig) -> dict[str, Any]:
        """Keyword arguments of the network for these images of a seed: their classes, int64 (B,), and the guidance."""
        by_guide = {} if self.guide is None else {"guidance": sampling.guidance}
        if self.classes is None or sampling.label == "none":
            return by_guide
        names = self.classes.names
        if sampling.label == "all":
            chosen = [index % len(names) for index in indices]
        elif sampling.label is not None:
            chosen = [names.index(sampling.label)] * len(indices)
        else:
            chosen = draw_classes(self.classes.counts, seed, indices)
        return {"labels": torch.tensor(chosen, device=self.state_device), "guidance": sampling.guidance}

    def to_model_space(self, images: NDArray[np.uint8]) -> Tensor:
        """Images (..., C, H, W) uint8 as the network takes them, on the device of the states."""
        x = torch.from_numpy(np.array(images)).to(self.state_device).float() / 127.5 - 1
        return self.moments.to_model_space(x)

    def to_rgb(self, x: Tensor) -> Tensor:
        """States (B, C, H, W) in red, green and blue; images in [-1, 1]."""
        return self.moments.to_rgb(x)


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as 0..255: clipped and rounded (not truncated), on the CPU."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
