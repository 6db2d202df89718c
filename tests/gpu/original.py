"""The unofficial implementation: its own network, loss, optimizer, moving average and sampler, called from its checkout.

The loop does what its `train_bd.py` does: images in [0, 1], not mirrored, and no dropout after the preview at step 100, since
its own never goes back to training mode.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blurcli.base import files
from blurcli.config import Config, DiffusionConfig
from blurcli.core import BlurringDiffusion, EpsDenoiser, dct2, sample
from blurcli.core.calibration import CalibratedDenoiser, measure_errors
from blurcli.core.moments import reference_gaussian
from blurcli.core.whitened import WhitenedSpace

_TIMES = 100  # theirs counts time, and steps of its sampler, from 0 to 100
_FIRST_PREVIEW = 100
_SAMPLED = 250  # images that theirs draws at a time
CALIBRATED_ON = 32  # images, as many as ours takes


@dataclass(frozen=True)
class Recipe:
    """Of their training what may differ from what they publish."""

    lr: float
    batch_size: int
    warmup: int


class Theirs:
    """The unofficial implementation, trained on the same images.

    Args:
        checkout: of its repository.
        config: the preset whose network, size and blur it is to have.
        images: (N, C, H, W) uint8.
        recipe: its learning rate, batch and warm-up.
        path: where its state is kept, and read from where it is there.
    """

    def __init__(
        self, checkout: Path, config: Config, images: Tensor, recipe: Recipe, device: torch.device, path: Path
    ) -> None:
        if str(checkout) not in sys.path:
            sys.path.insert(0, str(checkout))
        from model_code.blurring_diffusion import BlurringDiffusion as Process
        from model_code.ema import ExponentialMovingAverage
        from model_code.unet import UNetModel
        from scripts.losses import get_optimizer, optimization_manager

        assert isinstance(config.process, DiffusionConfig)
        torch.manual_seed(config.seed)
        self._path, self._images, self._batch_size, self.device = path, images, recipe.batch_size, device
        self._process_config = config.process
        mixed = device.type == "cuda"  # its scaler knows no CPU, where it trains in float32
        self.config = _published_config(config, recipe, mixed)
        self.network: nn.Module = UNetModel(self.config).to(device)
        self.optimizer = get_optimizer(self.config, self.network.parameters())
        self.average = ExponentialMovingAverage(self.network.parameters(), decay=0.999)
        self._update = optimization_manager(self.config)
        self._scaler = torch.amp.GradScaler(device.type, enabled=mixed)
        self.process = Process(
            T=_TIMES,
            res=config.data.image_size[0],
            sigma_blur_max=config.process.blur_sigma_max,
            min_scale=config.process.min_scale,
            logsnr_min=config.process.logsnr_min,
            logsnr_max=config.process.logsnr_max,
        )
        self.step, self.seconds = 0, 0.0
        self._order = torch.empty(0, dtype=torch.int64)
        if path.exists():
            self._load()

    @property
    def seen(self) -> int:
        """Images trained on."""
        return self.step * self._batch_size

    def train(self, done: Callable[[Theirs], bool]) -> None:
        """Train until `done`, and save."""
        begun, before = time.perf_counter(), self.seconds
        while not done(self):
            self._train_step(self._batch())
            if self.step % 50 == 0 and self.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds = before + time.perf_counter() - begun
        self._save()

    def _batch(self) -> Tensor:
        if len(self._order) < self._batch_size:
            self._order = torch.randperm(len(self._images))
        chosen, self._order = self._order[: self._batch_size], self._order[self._batch_size :]
        return self._images[chosen].to(self.device).float() / 255

    def _train_step(self, x: Tensor) -> None:
        self.network.train(self.step < _FIRST_PREVIEW)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.float16, enabled=self._scaler.is_enabled()):
            loss = self.process.loss(self.network, x=x)[0]
            # Within, as it has it: its attention is computed anew on the way back, in the precision of the moment.
            self._scaler.scale(loss).backward()
        scaled = {"scaler": self._scaler} if self._scaler.is_enabled() else {}
        self._update(self.optimizer, self.network.parameters(), step=self.step, **scaled)
        self.step += 1
        self.average.update(self.network.parameters())

    @torch.no_grad()
    def draw(self, count: int, seed: int, sampler: str) -> Iterator[np.ndarray]:
        """Batches (B, C, H, W) uint8, by its own sampler (`theirs`), or by a sampler and steps of ours, `abm-20`."""
        self.network.eval()
        self.average.store(self.network.parameters())
        self.average.copy_to(self.network.parameters())
        torch.manual_seed(seed)
        draw = self._by_theirs if sampler == "theirs" else self._by_ours(sampler)
        for first in range(0, count, _SAMPLED):
            shape = (min(_SAMPLED, count - first), *self._images.shape[1:])
            yield draw(torch.randn(shape).to(self.device)).cpu().numpy()
        self.average.restore(self.network.parameters())

    def _by_theirs(self, noise: Tensor) -> Tensor:
        from scripts.sampling_bd import get_sampling_fn_blurring_diffusion

        self.config.device = noise.device
        draw = get_sampling_fn_blurring_diffusion(self.config, noise, self.process.denoise, None, noise.device)
        return torch.clip(draw(self.network)[0] * 255, 0, 255).to(torch.uint8)  # it truncates

    def _by_ours(self, how: str) -> Callable[[Tensor], Tensor]:
        """Calibrated, as our models of its objective are."""
        sampler, steps = how.rsplit("-", 1)
        process = BlurringDiffusion(
            tuple(self._images.shape[2:]), **self._process_config.model_dump(exclude={"kind"}, exclude_none=True)
        )
        denoiser = EpsDenoiser(lambda z, t: self.network(z, t * _TIMES), process)
        u = dct2(self._images[:: max(1, len(self._images) // 10_000)].double() / 255)
        spectrum, mean = (moment.to(self.device) for moment in ((u**2).mean(0), u.mean(0)))
        known = self._images[:: len(self._images) // CALIBRATED_ON][:CALIBRATED_ON].to(self.device).float() / 255
        space = WhitenedSpace(process, *reference_gaussian(process, spectrum, mean))
        gain = measure_errors(denoiser, space, known, torch.randn_like).gain
        calibrated = CalibratedDenoiser(denoiser, process, gain, spectrum, mean)

        def draw(noise: Tensor) -> Tensor:
            images = sample(calibrated, process, noise, int(steps), sampler, spectrum=spectrum, mean=mean)
            return (images * 255).round().clamp(0, 255).to(torch.uint8)

        return draw

    def _save(self) -> None:
        tensors = {f"net.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{i}": value for i, value in enumerate(self.average.shadow_params)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{key}": value for key, value in state.items()}
        tensors |= {"step": torch.tensor(self.step), "seconds": torch.tensor(self.seconds, dtype=torch.float64)}
        tensors["scale"] = torch.tensor(self._scaler.get_scale())
        with files.replacing(self._path) as temporary:
            save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)

    def _load(self) -> None:
        tensors = load_file(self._path)
        self.step, self.seconds = int(tensors.pop("step")), float(tensors.pop("seconds"))
        scale = float(tensors.pop("scale"))
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale})
        parts: dict[str, Any] = {"net": {}, "average": {}, "adam": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        self.network.load_state_dict(parts["net"])
        for i, shadow in enumerate(self.average.shadow_params):
            shadow.copy_(parts["average"][str(i)])
        self.average.num_updates = self.step
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["adam"].items():
            i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        # Which images and noise come next follows from where it is.
        torch.manual_seed(self.step)


def _published_config(config: Config, recipe: Recipe, mixed: bool) -> SimpleNamespace:
    """Its published configuration for CIFAR-10, with the network, size and blur of ours."""
    ours = config.model
    model = SimpleNamespace(
        T=_TIMES,
        model_channels=ours.base_channels,
        channel_mult=ours.multipliers,
        num_res_blocks=ours.blocks_per_level,
        attention_levels=ours.attention_levels,
        dropout=0.1,
        conv_resample=True,
        use_fp16=False,
        num_heads=1,
        num_head_channels=-1,
        num_heads_upsample=-1,
        use_new_attention_order=True,
        use_scale_shift_norm=False,
        resblock_updown=False,
    )
    optim = SimpleNamespace(
        optimizer="Adam",
        lr=recipe.lr,
        beta1=0.9,
        eps=1e-8,
        weight_decay=0,
        warmup=recipe.warmup,
        grad_clip=1.0,
        automatic_mp=mixed,
    )
    data = SimpleNamespace(image_size=config.data.image_size[0], num_channels=config.data.channels)
    return SimpleNamespace(data=data, model=model, optim=optim)
