"""The diffusion process as a component of a diffusers pipeline: everything for sampling except the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file, save_file
from torch import Tensor

from blurcli.base.errors import UserError, spelled
from blurcli.core.execution import FixedBatches, agreement, images_per_call, state_device
from blurcli.core.guidance import GuidedNetwork
from blurcli.core.rng import ImageNoise, draw_classes
from blurcli.core.sampling_options import SamplingConfig, SamplingRequest
from blurcli.families import family_of
from blurcli.families.base import FROM_NOISE, ModelData

_WEIGHTS = "diffusion_pytorch_model.safetensors"
# The names of our options in diffusers, for messages.
_NAMES = {"steps": "num_inference_steps"}


class BlurdiffProcess(SchedulerMixin, ConfigMixin):
    """Process, objective, moments of the data and default settings of the sampler.

    Its tensors are float64 and stay on the CPU for any device and dtype of the pipeline.

    Args:
        objective: what the network predicts.
        image_size: (height, width) in pixels.
        channels: of the images.
        process: kind and arguments of the process.
        sample: default settings of the sampler.
        classes: `names` and `counts` of the classes in the training data; None for a model without classes.
        class_dropout: fraction of the training images without their class; at 0 there is no guidance.
        centered: whether the network works on images in [-1, 1]; else in [0, 1].
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        objective: str,
        image_size: tuple[int, int],
        channels: int,
        process: dict[str, Any],
        sample: dict[str, Any],
        classes: dict[str, list[Any]] | None = None,
        class_dropout: float = 0.0,
        centered: bool = True,
    ) -> None:
        self._settings = SimpleNamespace(
            objective=objective,
            data=SimpleNamespace(image_size=tuple(image_size), channels=channels, centered=centered),
            process=SimpleNamespace(**process),
            sample=SimpleNamespace(**sample),
        )
        self._family = family_of(self._settings)  # type: ignore[arg-type]  # the part of a Config that sampling reads
        self._classes, self._class_dropout = classes, class_dropout
        self.tensors: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(cls, folder: str, **ignored: Any) -> BlurdiffProcess:
        """Load the process from a folder written by `save_pretrained`."""
        loaded: BlurdiffProcess = cls.from_config(cls.load_config(folder))
        loaded.tensors = load_file(Path(folder, _WEIGHTS))
        return loaded

    def save_pretrained(self, folder: str, **ignored: Any) -> None:
        """Write configuration and tensors into a folder."""
        self.save_config(folder)
        save_file(self.tensors, Path(folder, _WEIGHTS), {"format": "pt"})

    def sampling(self, **wished: Any) -> SamplingConfig:
        """Resolve sampling options: the model's default for each that is None; see `Family.resolve_sampling`.

        Args:
            **wished: fields of `SamplingRequest`.

        Raises:
            ValueError: options that do not fit the model.
        """
        request = SamplingRequest(**wished)
        guidance = self._settings.sample.guidance if request.guidance is None else request.guidance
        if guidance != 1 and (self._classes is None or not self._class_dropout):
            reason = "has no classes" if self._classes is None else "was trained without unconditional images"
            raise ValueError(f"guidance_scale {guidance:g}: this model {reason}; use 1")
        if request.steps is not None and request.steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, not {request.steps}")
        try:
            return self._family.resolve_sampling(replace(request, guidance=guidance))
        except UserError as error:
            raise ValueError(spelled(error.text, lambda name: f"`{_NAMES.get(name, name)}`")) from None

    def labels(self, wished: Any, count: int, seed: int) -> list[int] | None:
        """The classes of images 0 to count - 1 of a seed; None for none.

        Args:
            wished: the name or number of a class; `all` in turn; `none`; one name or number per image; None for the class
                frequencies of the training data.
            count: number of images.
            seed: seed of the images.

        Raises:
            ValueError: an unknown class, `none` for a model that was trained with classes only, or classes of another number of
                images.
        """
        if self._classes is None:
            if wished is not None:
                raise ValueError(f"class_labels {wished}: this model has no classes; leave them out")
            return None
        names = self._classes["names"]
        if wished is None:
            return draw_classes(self._classes["counts"], seed, range(count))
        if isinstance(wished, str) and wished not in names:
            if wished == "none" and not self._class_dropout:
                raise ValueError(
                    "class_labels 'none': this model was trained without unconditional images; name a class, or all"
                )
            if wished in ("none", "all"):
                return None if wished == "none" else [index % len(names) for index in range(count)]
            raise ValueError(f"class_labels {wished!r}: unknown class (known: {', '.join(names)}, none, all)")
        several = isinstance(wished, Iterable) and not isinstance(wished, str)
        if isinstance(wished, Tensor):
            several, wished = wished.ndim > 0, wished.tolist()
        numbers = [self._number(name) for name in (wished if several else [wished] * count)]
        if len(numbers) != count:
            raise ValueError(f"class_labels has {len(numbers)} classes for {count} images")
        return numbers

    def _number(self, name: Any) -> int:
        assert self._classes is not None
        names = self._classes["names"]
        if isinstance(name, str) and name in names:
            return int(names.index(name))
        if isinstance(name, str) or not 0 <= int(name) < len(names):
            raise ValueError(f"class_labels {name!r}: the classes are 0 to {len(names) - 1}: {', '.join(names)}")
        return int(name)

    @torch.no_grad()
    def generate(
        self, unet: Any, seed: int, count: int, sampling: SamplingConfig, labels: list[int] | None, on_step: Callable[..., None]
    ) -> Tensor:
        """Images 0 to count - 1 of a seed, (B, C, H, W) float32, about [-1, 1].

        Args:
            unet: the network, on any device and in any floating-point dtype.
            seed: seed of the images, in [0, 2**64).
            count: number of images.
            sampling: from `sampling()`.
            labels: from `labels()`.
            on_step: called once per step.

        Raises:
            ValueError: images that are not finite.
        """
        settings, device = self._settings, state_device(unet.device)
        own = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        data = ModelData.from_tensors(own, self._family.extra_tensors, self._settings)  # type: ignore[arg-type]
        model = self._family.model(GuidedNetwork(self._calls(unet)), data)
        conditions: dict[str, Any] = {"guidance": sampling.guidance}
        if labels is not None:
            conditions["labels"] = torch.tensor(labels, device=device)
        like = torch.empty(count, settings.data.channels, *settings.data.image_size, device=device)
        plan = model.plan(sampling, FROM_NOISE, device)
        images = model.sample(plan, FROM_NOISE, ImageNoise(seed, range(count)), like, conditions, on_step)
        if not images.isfinite().all():
            raise ValueError("images are not finite; in float16 large models may overflow: use bfloat16 or float32")
        return data.moments.to_rgb(images)

    def _calls(self, unet: Any) -> Callable[..., Tensor]:
        """The network on its device and in its dtype; on a CPU in calls of a fixed size, because the last bits depend on it."""

        def call(x: Tensor, t: Tensor, /, **conditions: Any) -> Tensor:
            own = {name: value.to(unet.device) for name, value in conditions.items()}
            output: Tensor = unet(x.to(unet.device, unet.dtype), t.float().to(unet.device), **own)
            return output.to(x)

        if unet.device.type != "cpu":
            return call
        shape = self._settings.data.channels, *self._settings.data.image_size
        count = images_per_call(unet.num_parameters(), math.prod(shape[1:]))
        return FixedBatches(call, count, agreement(call, count, shape))
