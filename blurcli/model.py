"""From a configuration to the objects of the core, and from weights to images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blurcli.checkpoint import Weights, check_fit, content_hash
from blurcli.config import Config
from blurcli.core import BlurringDiffusion, Denoiser, EpsDenoiser, SpectralDenoiser, UNet, sample
from blurcli.core.calibration import BANDS_PER_OCTAVE as CALIBRATION_BANDS
from blurcli.core.calibration import CALIBRATION_TIMES, CalibratedDenoiser, DenoiserErrors, measure_errors
from blurcli.core.denoiser import Network
from blurcli.core.likelihood import Bound, variational_bound
from blurcli.core.rng import ImageNoise
from blurcli.core.sampling import Noise, Observer
from blurcli.distributed import ALONE, Team
from blurcli.errors import UsageError, UserError

# On a CPU the last bits of a matrix product depend on the size of the batch, so the network always sees the same number of
# images. Small networks are bound by the overhead of a call, which many images share; large ones, and large images, by
# arithmetic, where images that only fill up a call cost as much as any.
_LANES_SMALL, _LANES_LARGE = 32, 4
_LARGE_PARAMETERS = 10_000_000
_LANE_PIXELS = 64 * 64  # of the largest images that these numbers are for; fewer of larger ones
_MOST_IN_FLIGHT = {"cpu": 64, "cuda": 512}  # images, by default; more of them are no faster
_PIXELS_IN_FLIGHT = 1 << 18  # by default on a CPU: a state takes some 400 bytes a pixel
_MEMORY_SHARE = 0.5  # of the free memory of a GPU that images in flight may take
_PROBED = 8  # images by which their need is measured
_WORTH_COMPILING = 500_000  # calls of the network times images


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device; UsageError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA GPU here; use --device cpu, or install a CUDA build of torch")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def build_process(config: Config) -> BlurringDiffusion:
    """The diffusion process of a configuration."""
    return BlurringDiffusion(config.data.image_size, **config.process.model_dump())


def build_network(config: Config) -> UNet:
    """The U-Net of a configuration, newly initialised from PyTorch's global random state."""
    return UNet(channels=config.data.channels, **config.model.model_dump())


def memory_format(config: Config, device: torch.device) -> torch.memory_format:
    """The layout of images as the preset says, or as is fastest: channels last on GPUs, and no matter on CPUs."""
    wanted = config.train.channels_last
    channels_last = device.type == "cuda" if wanted is None else wanted
    return torch.channels_last if channels_last else torch.contiguous_format


def build_denoiser(config: Config, network: Network, spectrum: Tensor, mean: Tensor) -> Denoiser:
    """The denoiser of a configuration's objective."""
    process = build_process(config)
    if config.objective == "eps":
        return EpsDenoiser(network, process)
    return SpectralDenoiser(network, process, spectrum, mean)


class Compiled:
    """A network behind torch.compile, compiled at its first call; where that fails, the network as it is.

    Args:
        network: the module.
        say: gets messages for a person, since compiling takes its time.
        mode: of torch.compile.
    """

    def __init__(self, network: nn.Module, say: Callable[[str], None], mode: str = "default") -> None:
        self._network = network
        self._call: Callable[..., Tensor] = torch.compile(network, dynamic=False, mode=mode)
        self._say = say
        self._proven = False

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        """What the network makes of the arguments."""
        if self._proven:
            return self._call(*arguments)
        self._say("compiling the network; this takes minutes")
        try:
            output = self._call(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # there are many ways in which a compiler can be missing
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._say(f"it cannot be compiled here ({reason}); going on without")
            self._call = self._network
            output = self._call(*arguments)
        self._proven = True
        return output


def mixed_precision(network: Callable[..., Tensor], config: Config, device: torch.device) -> Callable[..., Tensor]:
    """The network, run in the precision and layout of a configuration; input and output keep the caller's dtype.

    `auto` is bfloat16 where the hardware multiplies it natively. Arguments after (x, t) are passed on.
    """
    precision, layout = resolve_precision(config, device), memory_format(config, device)

    def call(x: Tensor, t: Tensor, *others: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = network(x.float().contiguous(memory_format=layout), t, *others)
        return output.to(x.dtype)

    return call


def resolve_precision(config: Config, device: torch.device) -> str:
    """`bf16` or `fp32`, as the preset says or the hardware suggests."""
    wanted = config.train.precision
    return wanted if wanted != "auto" else "bf16" if _has_bf16(device) else "fp32"


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _in_lanes(network: Network, count: int) -> Network:
    """The network, called on `count` images at a time, the last ones padded: image i is the same in any batch."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        padding = -len(x) % count
        padded_x, padded_t = torch.cat([x, x[:1].expand(padding, -1, -1, -1)]), torch.cat([t, t[:1].expand(padding)])
        lanes = zip(torch.split(padded_x, count), torch.split(padded_t, count), strict=True)
        # A CUDA graph gives every output in the same place.
        return torch.cat([network(*lane).clone() for lane in lanes])[: len(x)]

    return call


@dataclass(frozen=True)
class Init:
    """A photo to begin with, instead of noise.

    Attributes:
        image: (C, H, W) uint8.
        strength: the time in (0, 1] to which it is diffused; 1 leaves next to nothing of it.
        blurred: whether it is blurred already, as much as that time blurs.
    """

    image: NDArray[np.uint8]
    strength: float
    blurred: bool = False


class Model:
    """A trained model, ready to make images.

    Args:
        config: the resolved preset.
        network: the U-Net, in evaluation mode, on `device`.
        spectrum: mean squared DCT coefficient of the data, (C, H, W).
        mean: mean DCT coefficient, like `spectrum`.
        device: where it runs.
        gain: of the network's estimates, see `CalibratedDenoiser`; None to take them as they are.
        say: gets messages for a person.
    """

    def __init__(
        self,
        config: Config,
        network: UNet,
        spectrum: Tensor,
        mean: Tensor,
        device: torch.device,
        gain: Tensor | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config = config
        self.network = network
        self.process = build_process(config)
        self.device = device
        self._spectrum, self._mean = spectrum.to(device), mean.to(device)
        self._say = say
        self._call: Network = mixed_precision(network, config, device)
        if device.type == "cpu":
            self._call = _in_lanes(self._call, self._lanes)
        self._compiled_for = 0
        self.denoiser: Callable[[Tensor, Tensor], Tensor] = build_denoiser(
            config, lambda x, t: self._call(x, t), self._spectrum, self._mean
        )
        self.calibrated = gain is not None
        if gain is not None:
            self.denoiser = CalibratedDenoiser(self.denoiser, self.process, gain.to(device), self._spectrum, self._mean)

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        device: torch.device,
        calibrated: bool = True,
        say: Callable[[str], None] = lambda text: None,
    ) -> Model:
        """A model from a weights file, with the gain that was measured for it unless `calibrated` is false.

        Raises:
            UserError: the file's tensors do not fit its configuration.
        """
        with torch.device("meta"):
            network = build_network(weights.config)
        # Before any memory is taken: a file may say that it is huge.
        check_fit(network, weights.network, weights.path)
        network = network.to_empty(device=device).to(memory_format=memory_format(weights.config, device)).eval()
        network.load_state_dict(weights.network)
        try:
            gain = weights.gain if calibrated else None
            return cls(weights.config, network, weights.spectrum, weights.mean, device, gain, say)
        except ValueError as error:
            raise UserError(f"{weights.path}: {error}; the file is damaged") from None

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over parameters and moments: the same for the same model in any file."""
        return content_hash({**self.network.state_dict(), "spectrum": self._spectrum, "mean": self._mean})[:16]

    @cached_property
    def _lanes(self) -> int:
        most = _LANES_LARGE if self.network.parameter_count() > _LARGE_PARAMETERS else _LANES_SMALL
        return max(1, min(most, most * _LANE_PIXELS // math.prod(self.config.data.image_size)))

    @cached_property
    def batch_size(self) -> int:
        """Images in flight at a time: the preset's number, or as many as are of use and fit in the memory that is free."""
        wanted, size = self.config.sample.batch_size, self.config.data.image_size
        if wanted is not None:
            return wanted
        most = _MOST_IN_FLIGHT[self.device.type]
        if self.device.type == "cpu":
            return max(1, min(most, _PIXELS_IN_FLIGHT // math.prod(size)))
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        with torch.inference_mode():
            x = torch.zeros(_PROBED, self.config.data.channels, *size, device=self.device)
            self.denoiser(x, torch.ones(_PROBED, device=self.device))
        per_image = (torch.cuda.max_memory_allocated(self.device) - before) / _PROBED
        torch.cuda.empty_cache()
        fitting = _MEMORY_SHARE * torch.cuda.mem_get_info(self.device)[0] / per_image
        return max(1, min(most, 1 << int(math.log2(max(1, fitting)))))

    def compile(self, batch_size: int, evaluations: int = 0) -> None:
        """Let torch.compile make the network faster where the preset says so, or so many evaluations are worth its time.

        Args:
            batch_size: images of every call from now on, at most.
            evaluations: calls of the network times images that will follow.
        """
        wanted = self.config.sample.compile
        if wanted is None:
            wanted = self.device.type == "cuda" and evaluations >= _WORTH_COMPILING
        if not wanted or self._compiled_for == batch_size:
            return
        self._compiled_for = batch_size
        # Batches of one size, so that it compiles once, and a GPU replays one CUDA graph.
        compiled = Compiled(self.network, self._say, "reduce-overhead" if self.device.type == "cuda" else "default")
        lanes = batch_size if self.device.type == "cuda" else self._lanes
        self._call = _in_lanes(mixed_precision(compiled, self.config, self.device), lanes)

    def solver(self, sampler: str | None, steps: int | None, eta: float | None) -> dict[str, Any]:
        """`sampler`, `steps` and `eta` for `generate`, those left out being the preset's; UsageError when they disagree."""
        own = self.config.sample
        sampler = sampler or own.sampler
        if eta and sampler != "ddim":
            raise UsageError(f"--eta {eta:g}: only --sampler ddim takes a share of noise; {sampler} has no use for it")
        if eta is None:
            eta = own.eta if sampler == "ddim" else 0.0
        return {"sampler": sampler, "steps": steps or own.steps, "eta": eta}

    @torch.inference_mode()
    def generate(
        self,
        count: int,
        seed: int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        eta: float | None = None,
        batch_size: int | None = None,
        noise: Callable[[Sequence[int]], Noise] | None = None,
        init: Init | None = None,
        on_step: Observer | None = None,
        team: Team = ALONE,
    ) -> Iterator[Tensor]:
        """Images 0 to count - 1 of a seed, in batches (B, C, H, W) float32, about [-1, 1].

        Image i depends on (weights, sampler, steps, seed, i) only: bit for bit on a CPU, up to rounding on a GPU.
        Arguments left out are the preset's.

        Args:
            noise: `noise(indices)` is the source of noise for these images, its first draw their start; by default
                every image has a stream of its own.
            init: a photo to vary, instead of pure noise.
            team: the processes that share the work: every `team.size`-th batch is made by this one.
        """
        solver = self.solver(sampler, steps, eta)
        batch_size = batch_size or self.batch_size
        self.compile(batch_size, evaluations=count * solver["steps"])
        for indices in team.blocks(count, batch_size):
            source = noise(indices) if noise is not None else ImageNoise(seed, indices)
            like = torch.empty(len(indices), self.config.data.channels, *self.process.shape, device=self.device)
            start = source(like)
            images = sample(
                self.denoiser,
                self.process,
                start if init is None else self._diffused(init, start),
                spectrum=self._spectrum,
                noise=source,
                on_step=on_step,
                mean=self._mean,
                start=None if init is None else init.strength,
                **solver,
            )
            if not images.isfinite().all():
                raise UserError(
                    f"images {indices.start} to {indices[-1]} of seed {seed} are not finite: the training had diverged "
                    "when these weights were saved; use earlier ones (--weights)"
                )
            yield images

    def _diffused(self, init: Init, eps: Tensor) -> Tensor:
        x = self._centred(init.image).expand_as(eps)
        t = torch.full((len(eps),), init.strength, device=self.device)
        return self.process.add_noise(x, t, eps) if init.blurred else self.process.diffuse(x, t, eps)

    @torch.inference_mode()
    def errors(
        self,
        images: NDArray[np.uint8],
        count: int,
        seed: int,
        *,
        times: int = CALIBRATION_TIMES,
        per_octave: int = CALIBRATION_BANDS,
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> DenoiserErrors:
        """How wrong the denoiser is on `count` of the images (N, C, H, W) uint8, evenly spaced; see `measure_errors`."""
        chosen, size = _spread(count, len(images)), self.batch_size
        parts = []
        for indices in ALONE.blocks(count, size):
            x, noise = self._centred(images[chosen[indices]]), ImageNoise(seed, indices)
            moments = self._spectrum, self._mean
            parts.append(measure_errors(self.denoiser, self.process, x, noise, *moments, times, per_octave))
            on_batch(indices.stop)
        return DenoiserErrors.mean(parts, [len(indices) for indices in ALONE.blocks(count, size)])

    @torch.inference_mode()
    def bound(
        self,
        images: NDArray[np.uint8],
        count: int,
        seed: int,
        *,
        calls: int,
        steps: int | None,
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> Bound:
        """The likelihood bound of `count` of the images (N, C, H, W) uint8, evenly spaced; see `variational_bound`."""
        chosen, parts = _spread(count, len(images)), []
        for indices in ALONE.blocks(count, self.batch_size):
            noise = ImageNoise(seed, indices)
            x, offset = self._centred(images[chosen[indices]]), noise.uniform()
            moments = self._spectrum, self._mean
            bound = variational_bound(self.denoiser, self.process, x, noise, offset, *moments, calls=calls, steps=steps)
            parts.append(bound)
            on_batch(indices.stop)
        return Bound(*(torch.cat([getattr(part, field.name) for part in parts]).cpu() for field in fields(Bound)))

    def _centred(self, images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.array(images)).to(self.device).float() / 127.5 - 1

    @torch.inference_mode()
    def trajectory(
        self, count: int, seed: int, frames: int, *, sampler: str | None, steps: int, on_step: Callable[[int], None]
    ) -> list[Tensor]:
        """The reverse process of images 0 to count - 1: `frames` states from t = 1 to 0, each (N, C, H, W).

        They are even in the sampler's steps, which `abm` takes where something happens; the last one is what `generate`
        gives. `steps` is at least `frames - 1`; `on_step` gets the number of steps done.
        """
        states: list[Tensor] = []

        def observe(i: int, t: float, z: Tensor, x_hat: Tensor) -> None:
            states.append(z)
            on_step(i + 1)

        states += self.generate(count, seed, sampler=sampler, steps=steps, batch_size=count, on_step=observe)
        return [states[round(k * steps / (frames - 1))] for k in range(frames)]

    @torch.inference_mode()
    def diffusion(self, images: NDArray[np.uint8], seed: int, frames: int) -> list[Tensor]:
        """The forward process of images (N, C, H, W) uint8: the images, then states at even times up to t = 1.

        Each image keeps one noise, that from which `generate` starts with the same seed.
        """
        x = self._centred(images)
        eps = ImageNoise(seed, range(len(x)))(x)
        times = [torch.full((len(x),), k / (frames - 1), device=self.device) for k in range(1, frames)]
        return [x] + [self.process.diffuse(x, t, eps) for t in times]


def _spread(count: int, total: int) -> NDArray[np.int64]:
    """`count` of `total` indices, evenly spaced."""
    return np.linspace(0, total - 1, count).astype(np.int64)


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as 0..255: clipped and rounded (not truncated), on the CPU."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
