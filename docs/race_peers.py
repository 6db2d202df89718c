"""The contestants of race.py: blurdiff, and what other libraries have, imported and called.

The networks of the others have the levels, the blocks and the dropout of the preset, and the width that brings the number of
parameters nearest to ours.
"""

from __future__ import annotations

import importlib
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from blurcli.base import files
from blurcli.base.errors import UsageError, importing
from blurcli.base.runs import Run
from blurcli.config import Config, load_config, parse_overrides
from blurcli.data import Batches, Dataset
from blurcli.model.inference import CompileOrFallback, choose_device, empty_network, resolve_precision
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.model.weights import load_weights
from blurcli.training import Interrupted, SilentReporter, learning_rate, train

_AT_ONCE, _AT_ONCE_ON_CPU = 500, 64  # images that the others draw in a batch
_NEVER = 10**9


@dataclass(frozen=True)
class Task:
    """One training, by `images` or by `seconds` of steps, and its samples: pairs of a sampler and about how many calls."""

    out: str
    data: str
    preset: str
    assignments: list[str]
    features: str
    device: str
    edm: str | None
    n: int
    cpu_clock: bool
    peer: str
    recipe: str
    lr: float
    seed: int
    images: int | None
    seconds: float | None
    draws: list[tuple[str, int]]

    def config(self, *assignments: str) -> Config:
        """The preset with the seed of this training, and other assignments."""
        return load_config(self.preset, parse_overrides([*self.assignments, f"seed={self.seed}", *assignments]))

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the training in the results."""
        budget = f"{self.images} images" if self.images is not None else f"{self.seconds:g} s"
        return {"peer": self.peer, "recipe": self.recipe, "lr": self.lr, "seed": self.seed, "budget": budget}

    @property
    def folder(self) -> Path:
        """Where its network is kept."""
        return Path(self.out) / f"{self.peer}-{self.recipe}-{self.lr:g}-{self.key['budget'].replace(' ', '-')}-{self.seed}"

    def clock(self) -> float:
        """Seconds that have passed, or of the CPU."""
        return time.process_time() if self.cpu_clock else time.perf_counter()

    def share(self, seen: int, seconds: float) -> float:
        """The share of the budget that is spent."""
        return seen / self.images if self.images is not None else seconds / (self.seconds or math.inf)


class Contestant:
    """Who is trained and draws images, by samplers of `samplers`."""

    samplers: ClassVar[tuple[str, ...]]

    def __init__(self, task: Task) -> None:
        self.task, self.config, self.device = task, task.config(), choose_device(task.device)

    @classmethod
    def check(cls, edm: str | None) -> None:
        """Raise a UserError if it cannot be imported."""

    @staticmethod
    def calls(sampler: str, about: int) -> int:
        """The possible number of network calls that is nearest to `about`: Heun's last step takes one, the others two."""
        return 2 * ((about + 1) // 2) - 1 if sampler == "heun" else about

    def train(self, dataset: Dataset) -> dict[str, Any]:
        """Train, and keep the network; what it took."""
        raise NotImplementedError

    def draw(self, sampler: str, about: int) -> Iterator[Tensor]:
        """The images of the task by the network that is kept, in batches (B, C, H, W) uint8."""
        raise NotImplementedError


class Stopwatch(SilentReporter):
    """Measures a training of ours from its first to its last step, and stops it when its seconds have passed."""

    def __init__(self, task: Task) -> None:
        self._task, self._begun = task, 0.0
        self.steps, self.seconds, self.stopped = 0, 0.0, False

    def on_step(self, step: int) -> None:
        self._begun = self._begun or self._task.clock()  # the first call comes before the first step
        self.steps, self.seconds = step, self._task.clock() - self._begun
        if self._task.images is None and not self.stopped and self._task.share(0, self.seconds) >= 1:
            self.stopped = True
            signal.raise_signal(signal.SIGINT)  # the training saves and ends


class Ours(Contestant):
    """blurdiff, as `blurdiff train` trains a preset."""

    samplers = ("abm",)

    def train(self, dataset: Dataset) -> dict[str, Any]:
        shutil.rmtree(self._run.path, ignore_errors=True)  # of a training that was stopped
        batch_size, watch = self.config.train.batch_size, Stopwatch(self.task)
        quiet = (f"train.{key}={_NEVER}" for key in ("preview_every_steps", "save_every_steps"))
        steps = _NEVER if self.task.images is None else -(-self.task.images // batch_size)
        config = self.task.config(*quiet, "train.health_every_steps=null", f"train.steps={steps}")
        try:
            train(config, self._run, dataset, self.device, watch)
        except Interrupted:
            if not watch.stopped:
                raise
        parameters = empty_network(config).parameter_count()
        return {"images": watch.steps * batch_size, "seconds": watch.seconds, "parameters": parameters}

    def draw(self, sampler: str, about: int) -> Iterator[Tensor]:
        pipeline = Pipeline.from_weights(load_weights(self._run.newest_weights()), self.device)
        return map(to_uint8, pipeline.generate(self.task.n, self.task.seed, pipeline.sampling(sampler, about)))

    @property
    def _run(self) -> Run:
        return Run(self.task.folder / "run")


class Mixed(nn.Module):
    """A network called as ours is: in the preset's precision, and compiled where ours would be."""

    def __init__(self, network: nn.Module, config: Config, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self._bf16 = resolve_precision(config, device) == "bf16"
        compiled = config.train.compile if config.train.compile is not None else device.type == "cuda"
        self._compiled = CompileOrFallback(network, print) if compiled else None

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """The output of the network, or the first of several, in float32."""
        with torch.autocast(x.device.type, torch.bfloat16) if self._bf16 else nullcontext():
            output = (self._compiled or self.network)(x, *arguments, **options)
        return (output[0] if isinstance(output, tuple) else output).float()


class Peer(Contestant):
    """Another library: its network, loss and optimizer, in a loop like that of ours.

    Attributes:
        library: its package.
        lr: the learning rate that it publishes.
        clip: its largest norm of a gradient.
        widths: channels that the first level of its network can have.
        module: the network with what surrounds it.
    """

    lr: ClassVar[float]
    clip: ClassVar[float] = 1.0
    widths: ClassVar[tuple[int, ...]] = (*range(8, 128, 4), *range(128, 513, 32))
    module: Any
    library: ClassVar[Any]

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.check(task.edm)
        if len({*self.config.data.image_size}) > 1:
            raise UsageError(f"data.image_size {self.config.data.image_size}: {task.peer} takes square images only")
        shape, self.side = self.config.model, self.config.data.image_size[0]
        self.multipliers, self.blocks, self.dropout = [*shape.multipliers], shape.blocks_per_level, shape.dropout
        self.attention = [level in shape.attention_levels for level in range(len(shape.multipliers))]
        wanted, best = empty_network(self.config).parameter_count(), (math.inf, 0)
        for width in self.widths:
            with torch.device("meta"):
                count = _parameters(self.network(width))
            best = min(best, (abs(count - wanted), width))
            if count > wanted:
                break
        torch.manual_seed(task.seed)
        self.module = self.surrounded(Mixed(self.network(best[1]), self.config, self.device)).to(self.device)

    def network(self, width: int) -> nn.Module:
        """Its network, with the levels of the preset."""
        raise NotImplementedError

    def surrounded(self, network: Mixed) -> nn.Module:
        """The network with its preconditioning."""
        return network

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Its optimizer."""
        raise NotImplementedError

    def loss(self, x: Tensor) -> Tensor:
        """Its loss of images in [-1, 1], a scalar."""
        raise NotImplementedError

    def factor(self, step: int, share: float) -> float:
        """What its own schedule makes of the learning rate in step `step`, counted from 0, at a share of the budget."""
        return 1.0

    def decay(self, step: int) -> float:
        """The decay of its own average after that step."""
        raise NotImplementedError

    def sample(self, sampler: str, calls: int, shape: tuple[int, ...]) -> Tensor:
        """Images in [-1, 1], about."""
        raise NotImplementedError

    def train(self, dataset: Dataset) -> dict[str, Any]:
        batch_size, tuned = self.config.train.batch_size, self.task.recipe == "tuned"
        batches = Batches(dataset.images, batch_size, self.task.seed, self.config.data.flip, self.device)
        optimizer, parameters = self.optimizer(self.task.lr), [*self.module.parameters()]
        average, rates = [one.detach().clone() for one in parameters], [group["lr"] for group in optimizer.param_groups]
        self.module.train()
        step, seconds, begun = 0, 0.0, self.task.clock()
        while (share := self.task.share(step * batch_size, seconds)) < 1:
            factor = self._preset_factor(step, share) if tuned else self.factor(step, share)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad()
            self.loss(batches(step)).backward()  # type: ignore[no-untyped-call]
            if math.isfinite(self.clip):
                nn.utils.clip_grad_norm_(parameters, self.clip)
            optimizer.step()
            ours = min(self.config.optim.ema_decay, (2 + step) / (11 + step))  # as Trainer has it
            decay = ours if tuned else self.decay(step)
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1 - decay)
            step += 1
            if self.device.type == "cuda" and step % 50 == 0:
                torch.cuda.synchronize()
            seconds = self.task.clock() - begun
        with torch.no_grad():
            torch._foreach_copy_(parameters, average)
        with files.replacing(self._path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in self.module.state_dict().items()}, temporary)
        return {"images": step * batch_size, "seconds": seconds, "parameters": _parameters(self.module)}

    def _preset_factor(self, step: int, share: float) -> float:
        """What the preset's schedule makes of a learning rate of 1."""
        train = self.config.train.model_copy(update={"steps": max(1, round(step / share)) if step else _NEVER})
        optim = self.config.optim.model_copy(update={"lr": 1.0})
        return learning_rate(self.config.model_copy(update={"train": train, "optim": optim}), step)

    @torch.inference_mode()
    def draw(self, sampler: str, about: int) -> Iterator[Tensor]:
        self.module.load_state_dict(load_file(self._path))
        self.module.eval()
        torch.manual_seed(self.task.seed)
        at_once = _AT_ONCE_ON_CPU if self.device.type == "cpu" else _AT_ONCE
        for first in range(0, self.task.n, at_once):
            shape = (min(at_once, self.task.n - first), self.config.data.channels, self.side, self.side)
            yield to_uint8(self.sample(sampler, self.calls(sampler, about), shape).nan_to_num())

    @property
    def _path(self) -> Path:
        return self.task.folder / "network.safetensors"


class Edm(Peer):
    """EDM (Karras et al. 2022): DDPM++ with its preconditioning, and Heun's method without churn."""

    samplers, lr, clip = ("heun",), 1e-3, math.inf

    @classmethod
    def check(cls, edm: str | None) -> None:
        if edm is None or not (Path(edm) / "training" / "networks.py").is_file():
            raise UsageError(f"edm: {edm or 'no --edm'}: no checkout of it; name one with --edm PATH")
        if edm not in sys.path:
            sys.path.insert(0, edm)
        with importing("training", "edm", f"; see environment.yml in {edm}"):
            names = {"networks": "training.networks", "losses": "training.loss", "generate": "generate"}
            cls.library = SimpleNamespace(**{part: importlib.import_module(name) for part, name in names.items()})

    def network(self, width: int) -> Any:
        levels = [self.side >> level for level, attended in enumerate(self.attention) if attended]
        shape = {"model_channels": width, "channel_mult": self.multipliers, "num_blocks": self.blocks}
        self._preconditioned = self.library.networks.EDMPrecond(
            self.side, self.config.data.channels, model_type="SongUNet", attn_resolutions=levels, dropout=self.dropout, **shape
        )
        return self._preconditioned.model

    def surrounded(self, network: Mixed) -> Any:
        self._preconditioned.model, self._loss = network, self.library.losses.EDMLoss()
        return self._preconditioned

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr, (0.9, 0.999), 1e-8)

    def loss(self, x: Tensor) -> Any:
        return self._loss(self.module, x).sum() / len(x)

    def factor(self, step: int, share: float) -> float:
        return min(1.0, share / 0.05)  # for 10 of 200 million images

    def decay(self, step: int) -> float:
        seen = step * self.config.train.batch_size
        return math.pow(0.5, self.config.train.batch_size / max(min(500_000, 0.05 * seen), 1e-8))

    def sample(self, sampler: str, calls: int, shape: tuple[int, ...]) -> Any:
        return self.library.generate.edm_sampler(
            self.module, torch.randn(shape, device=self.device), num_steps=(calls + 1) // 2
        )


class Diffusers(Peer):
    """diffusers: the network and the recipe of its example of unconditional training."""

    samplers, lr = ("ddim", "ddim-trailing", "dpmpp-2m", "ddpm"), 1e-4
    widths = (*range(8, 128, 8), *range(128, 513, 32))
    _warmup = 500

    @classmethod
    def check(cls, edm: str | None) -> None:
        with importing("diffusers", "diffusers"):
            cls.library = importlib.import_module("diffusers")

    def network(self, width: int) -> Any:
        down = tuple("AttnDownBlock2D" if attended else "DownBlock2D" for attended in self.attention)
        return self.library.UNet2DModel(
            self.side,
            self.config.data.channels,
            self.config.data.channels,
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
            block_out_channels=tuple(width * multiplier for multiplier in self.multipliers),
            layers_per_block=self.blocks,
            norm_num_groups=math.gcd(32, width),
            dropout=self.dropout,
        )

    def surrounded(self, network: Mixed) -> Any:
        self._schedule = self.library.DDPMScheduler(1000, beta_schedule="linear")
        return network

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.module.parameters(), lr, (0.95, 0.999), 1e-8, 1e-6)

    def loss(self, x: Tensor) -> Any:
        eps, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),), device=x.device)
        return F.mse_loss(self.module(self._schedule.add_noise(x, eps, t), t, return_dict=False), eps)

    def factor(self, step: int, share: float) -> float:
        if step < self._warmup:
            return step / self._warmup
        begun = share * self._warmup / step
        return 0.5 + 0.5 * math.cos(math.pi * (share - begun) / max(1 - begun, 1e-8))

    def decay(self, step: int) -> float:
        return min(0.9999, 1 - math.pow(1 + step, -0.75))

    def sample(self, sampler: str, calls: int, shape: tuple[int, ...]) -> Any:
        names = {"dpmpp-2m": "DPMSolverMultistepScheduler", "ddpm": "DDPMScheduler"}
        spacing = {"dpmpp-2m": "linspace", "ddim-trailing": "trailing"}.get(sampler, "leading")  # defaults, but for trailing
        method = getattr(self.library, names.get(sampler, "DDIMScheduler"))
        schedule = method.from_config(self._schedule.config, timestep_spacing=spacing)
        schedule.set_timesteps(calls, device=self.device)
        x = torch.randn(shape, device=self.device) * schedule.init_noise_sigma
        for t in schedule.timesteps:
            x = schedule.step(self.module(x, t, return_dict=False), t, x, return_dict=False)[0]
        return x


class DdpmPytorch(Peer):
    """denoising-diffusion-pytorch, with its defaults."""

    samplers, lr = ("ddim",), 8e-5

    @classmethod
    def check(cls, edm: str | None) -> None:
        with importing("denoising_diffusion_pytorch", "ddpm-pytorch", install="denoising-diffusion-pytorch"):
            cls.library = importlib.import_module("denoising_diffusion_pytorch")

    def network(self, width: int) -> Any:
        shape = {"dim_mults": tuple(self.multipliers), "full_attn": tuple(self.attention)}  # always two blocks a level
        return self.library.Unet(width, channels=self.config.data.channels, dropout=self.dropout, **shape)

    def surrounded(self, network: Mixed) -> Any:
        diffusion = self.library.GaussianDiffusion(network.network, image_size=self.side)
        diffusion.model = network
        return diffusion

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr, (0.9, 0.99))

    def loss(self, x: Tensor) -> Any:
        return self.module((x + 1) / 2)

    def decay(self, step: int) -> float:
        if step % 10:
            return 1.0
        return 0.0 if step <= 100 else min(0.995, 1 - math.pow(step - 99, -2 / 3))

    def sample(self, sampler: str, calls: int, shape: tuple[int, ...]) -> Any:
        self.module.sampling_timesteps = calls
        return 2 * self.module.ddim_sample(shape) - 1


class KDiffusion(Peer):
    """k-diffusion: its configuration of CIFAR-10, `image_v1`."""

    samplers, lr = ("dpmpp-2m", "dpmpp-2m-sde", "heun"), 1e-4
    library: ClassVar[Any]
    widths = (16, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256)  # what its groups of channels divide

    @classmethod
    def check(cls, edm: str | None) -> None:
        hint = '; where pkg_resources is missing, which its package clip imports: pip install "setuptools<70"'
        with importing("k_diffusion", "k-diffusion", hint, install="k-diffusion"):
            cls.library = importlib.import_module("k_diffusion")

    def network(self, width: int) -> Any:
        channels = [width * multiplier for multiplier in self.multipliers]
        model: dict[str, Any] = {
            "type": "image_v1",
            "input_channels": self.config.data.channels,
            "input_size": [self.side, self.side],
        }
        model |= {"mapping_out": 2 * width, "depths": [self.blocks] * len(channels), "channels": channels}
        model |= {"self_attn_depths": self.attention, "augment_wrapper": False, "dropout_rate": self.dropout}
        model |= {"sigma_data": 0.5, "sigma_min": 1e-2, "sigma_max": 80, "loss_weighting": "soft-min-snr"}
        model |= {"sigma_sample_density": {"type": "cosine-interpolated"}}
        self._settings = self.library.config.load_config({"model": model})
        return self.library.config.make_model(self._settings)

    def surrounded(self, network: Mixed) -> Any:
        self._density = self.library.config.make_sample_density(self._settings["model"])
        return self.library.config.make_denoiser_wrapper(self._settings)(network)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        groups = self.module.inner_model.network.param_groups(lr)
        return torch.optim.AdamW(groups, lr, (0.95, 0.999), 1e-6, 1e-3)

    def loss(self, x: Tensor) -> Any:
        return self.module.loss(x, torch.randn_like(x), self._density([len(x)], device=x.device)).mean()

    def decay(self, step: int) -> float:
        return min(0.9999, 1 - math.pow(1 + step, -0.6667))

    def sample(self, sampler: str, calls: int, shape: tuple[int, ...]) -> Any:
        sampling, steps = self.library.sampling, (calls + 1) // 2 if sampler == "heun" else calls
        sigmas = sampling.get_sigmas_karras(steps, 1e-2, 80, device=self.device)
        x = torch.randn(shape, device=self.device) * sigmas[0]
        return getattr(sampling, f"sample_{sampler.replace('-', '_')}")(self.module, x, sigmas, disable=True)


CONTESTANTS: dict[str, type[Contestant]] = {
    "ours": Ours,
    "edm": Edm,
    "diffusers": Diffusers,
    "ddpm-pytorch": DdpmPytorch,
    "k-diffusion": KDiffusion,
}


def _parameters(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())
