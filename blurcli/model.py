"""From weights to images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.build import build_denoiser, build_network, build_process, in_our_units, learned_moments
from blurcli.checkpoint import Classes, Weights, check_fit, content_hash
from blurcli.config import Config, HeatConfig
from blurcli.core import HeatDissipation, UNet, sample
from blurcli.core.calibration import CalibratedDenoiser
from blurcli.core.colours import from_opponent, to_opponent
from blurcli.core.dct import idct2
from blurcli.core.denoiser import reference_gaussian
from blurcli.core.heat import DenoiserPredictor, Predictor, ResidualPredictor, sample_heat
from blurcli.core.rng import ImageNoise, Noises
from blurcli.core.sampling import Observer
from blurcli.distributed import ALONE, Team
from blurcli.errors import UsageError, UserError, did_you_mean
from blurcli.network import Compiled, in_lanes, memory_format, mixed_precision

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


@dataclass(frozen=True)
class Init:
    """A photo to begin with, instead of noise.

    Attributes:
        image: (C, H, W) uint8, or one for every image to be made, (B, C, H, W).
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
        opponent: `spectrum` in opponent colours, in which the network then works; None for one that does not.
        starts: what heat dissipation starts from, see `measure_starts`; None for other processes.
        classes: those that the network has learned; None for none.
        say: gets messages for a person.

    Attributes:
        moments: spectrum and mean in the colours in which the network works.
        predictor: for heat dissipation, what steps down its levels; None for other processes.
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
        opponent: Tensor | None = None,
        starts: Tensor | None = None,
        classes: Classes | None = None,
    ) -> None:
        self.config = config
        self.network = network
        self.process = build_process(config)
        self.starts = starts.to(device) if starts is not None else None
        self.device = device
        reference_gaussian(self.process, spectrum, mean)  # refuses what a damaged file may say
        self._opponent = opponent is not None
        spectrum, mean = learned_moments(spectrum, mean, opponent)
        self.moments = spectrum.to(device), mean.to(device)
        self._say = say
        self.classes = classes
        self._labels: Tensor | None = None
        self._guidance = 1.0
        self._call: Callable[..., Tensor] = mixed_precision(network, config, device)
        if device.type == "cpu":
            self._call = in_lanes(self._call, self._lanes)
        self._compiled_for = 0
        built = build_denoiser(config, self._guided, *self.moments)
        self.predictor: Predictor | None = None
        self._denoiser: Callable[[Tensor, Tensor], Tensor] | None = None
        if isinstance(built, ResidualPredictor):
            self.predictor = built
        else:
            self._denoiser = built
            if isinstance(self.process, HeatDissipation):
                self.predictor = DenoiserPredictor(built, self.process)
        self.calibrated = gain is not None
        if gain is not None:
            self._denoiser = CalibratedDenoiser(self.denoiser, self.process, gain.to(device), *self.moments)

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
            return cls(
                weights.config,
                network,
                weights.spectrum,
                weights.mean,
                device,
                gain,
                say,
                opponent=weights.opponent,
                starts=weights.starts,
                classes=weights.classes,
            )
        except ValueError as error:
            raise UserError(f"{weights.path}: {error}; the file is damaged") from None

    def _guided(self, x: Tensor, t: Tensor) -> Tensor:
        """The network, told the classes of the images at hand, with classifier-free guidance (Ho and Salimans 2022).

        `untold + guidance (told - untold)`, arXiv 2207.12598 in the form with 1 for none. The noise, the clean image and all
        that our networks predict are affine functions of each other at a given state and time: it is the same for them all.
        """
        if self._labels is None:
            return self._call(x, t)
        told = self._call(x, t, None, self._labels)
        if self._guidance == 1:
            return told
        untold = self._call(x, t)
        return untold + self._guidance * (told - untold)

    def _classes_of(self, indices: Sequence[int], seed: int, wanted: str | None) -> Tensor | None:
        """The classes of these images, (B,): one by name, `all` in turn, or as often as in the data; None for `none`."""
        if self.classes is None or wanted == "none":
            return None
        names, counts = self.classes.names, np.array(self.classes.counts, float)
        if wanted == "all":
            chosen = [index % len(names) for index in indices]
        elif wanted is not None:
            chosen = [names.index(wanted)] * len(indices)
        else:
            shares = counts.cumsum() / counts.sum()
            draws = [np.random.default_rng([seed, index]).random() for index in indices]
            chosen = np.searchsorted(shares, draws, side="right").tolist()
        return torch.tensor(chosen, device=self.device)

    @contextmanager
    def _told(self, indices: Sequence[int], seed: int, label: str | None, guidance: float) -> Iterator[None]:
        """While the block runs, the network is told the classes of these images."""
        before = self._labels, self._guidance
        self._labels, self._guidance = self._classes_of(indices, seed, label), guidance
        try:
            yield
        finally:
            self._labels, self._guidance = before

    @property
    def denoiser(self) -> Callable[[Tensor, Tensor], Tensor]:
        """`x_hat = denoiser(z, t)`; UsageError for the objective that estimates no clean image."""
        if self._denoiser is None:
            raise UsageError("a model of objective residual tells the next less blurred image, and none that is clean")
        return self._denoiser

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over parameters and moments: the same for the same model in any file."""
        spectrum, mean = self.moments
        return content_hash({**self.network.state_dict(), "spectrum": spectrum, "mean": mean})[:16]

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
            self._call(x, torch.ones(_PROBED, device=self.device))
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
        self._call = in_lanes(mixed_precision(compiled, self.config, self.device), lanes)

    def solver(
        self,
        sampler: str | None,
        steps: int | None,
        eta: float | None,
        delta: float | None = None,
        label: str | None = None,
        guidance: float | None = None,
    ) -> dict[str, Any]:
        """All these for `generate`, those left out being the preset's; UsageError when they disagree with it or each other."""
        own = self.config.sample
        sampler, steps = sampler or own.sampler, steps or own.steps
        process = self.config.process
        if (sampler == "heat") != isinstance(process, HeatConfig):
            fitting = "heat only" if isinstance(process, HeatConfig) else "any but heat"
            raise UsageError(
                f"--sampler {sampler}: this model is of process.kind {process.kind}, which is sampled by {fitting}"
            )
        if eta and sampler != "ddim":
            raise UsageError(f"--eta {eta:g}: only --sampler ddim takes a share of noise; {sampler} has no use for it")
        if delta is not None and sampler != "heat":
            raise UsageError(f"--delta {delta:g}: only --sampler heat adds such noise; {sampler} has no use for it")
        by_level = self.config.objective == "residual"
        if isinstance(process, HeatConfig) and (steps > process.levels or (by_level and steps != process.levels)):
            most = "exactly" if by_level else "at most"
            raise UsageError(f"--steps {steps}: this model has {process.levels} levels, and takes {most} as many steps")
        if eta is None:
            eta = own.eta if sampler == "ddim" else 0.0
        how = {"sampler": sampler, "steps": steps, "eta": eta, "delta": own.delta if delta is None else delta}
        return how | {"label": label, "guidance": self._checked_guidance(label, guidance)}

    def _checked_guidance(self, label: str | None, guidance: float | None) -> float:
        if self.classes is None:
            if label is not None or guidance not in (None, 1):
                raise UsageError("--class, --guidance: this model has learned no classes; train one with --set data.classes=N")
            return 1.0
        if label is not None and label not in (*self.classes.names, "none", "all"):
            names = self.classes.names[:20]
            raise UsageError(f"--class {label}: unknown{did_you_mean(label, names)} (known: {', '.join(names)}, none, all)")
        guidance = self.config.sample.guidance if guidance is None else guidance
        if guidance != 1 and not self.config.optim.class_dropout:
            raise UsageError(f"--guidance {guidance:g}: this model was always told the class (optim.class_dropout: 0)")
        return guidance

    @torch.inference_mode()
    def generate(
        self,
        count: int,
        seed: int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        eta: float | None = None,
        delta: float | None = None,
        label: str | None = None,
        guidance: float | None = None,
        batch_size: int | None = None,
        noise: Callable[[Sequence[int]], Noises] | None = None,
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
            label: for a model of classes, the name of one; `none`; `all` in turn; None for as often as in the data.
            guidance: towards the class: 1 is none.
            team: the processes that share the work: every `team.size`-th batch is made by this one.
        """
        solver = self.solver(sampler, steps, eta, delta, label, guidance)
        label, guidance = solver.pop("label"), solver.pop("guidance")
        batch_size = batch_size or self.batch_size
        self.compile(batch_size, evaluations=count * solver["steps"])

        def observe(i: int, t: float, z: Tensor, x_hat: Tensor) -> None:
            if on_step is not None:
                on_step(i, t, self.shown(z), self.shown(x_hat))

        for indices in team.blocks(count, batch_size):
            source = noise(indices) if noise is not None else ImageNoise(seed, indices)
            with self._told(indices, seed, label, guidance):
                images = self._sampled(source, len(indices), init, observe, **solver)
            if not images.isfinite().all():
                raise UserError(
                    f"images {indices.start} to {indices[-1]} of seed {seed} are not finite: the training had diverged "
                    "when these weights were saved; use earlier ones (--weights)"
                )
            yield self.shown(images)

    def _sampled(
        self, source: Noises, count: int, init: Init | None, on_step: Observer, delta: float | None, **solver: Any
    ) -> Tensor:
        like = torch.empty(count, self.config.data.channels, *self.process.shape, device=self.device)
        if not isinstance(self.process, HeatDissipation):
            start, (spectrum, mean) = source(like), self.moments
            return sample(
                self.denoiser,
                self.process,
                start if init is None else self._diffused(init, start),
                spectrum=spectrum,
                noise=source,
                on_step=on_step,
                mean=mean,
                start=None if init is None else init.strength,
                **solver,
            )
        assert self.predictor is not None
        assert self.starts is not None
        assert delta is not None
        steps, begin = solver["steps"], 1.0
        if init is None:
            low = source.pick(self.starts)
            blurred = torch.zeros_like(like)
            blurred[..., : low.shape[-2], : low.shape[-1]] = low
            z = idct2(blurred) + self.process.noise * source(like)
        else:
            # From the level at or above that time, for the network knows no others.
            steps = max(1, math.ceil(init.strength * steps - 1e-9))
            begin = min(1.0, steps / solver["steps"])
            z = self._diffused(replace(init, strength=begin), source(like))
        return sample_heat(self.predictor, self.process, z, steps, in_our_units(delta), source, on_step, start=begin)

    def _diffused(self, init: Init, eps: Tensor) -> Tensor:
        x = self.learned(init.image).expand_as(eps)
        t = torch.full((len(eps),), init.strength, device=self.device)
        return self.process.add_noise(x, t, eps) if init.blurred else self.process.diffuse(x, t, eps)

    def learned(self, images: NDArray[np.uint8]) -> Tensor:
        """Images (..., C, H, W) uint8 as the network knows them: in [-1, 1], in its colours."""
        x = torch.from_numpy(np.array(images)).to(self.device).float() / 127.5 - 1
        return to_opponent(x) if self._opponent else x

    def shown(self, x: Tensor) -> Tensor:
        """States (B, C, H, W) in red, green and blue."""
        return from_opponent(x) if self._opponent else x

    @torch.inference_mode()
    def guess(self, z: Tensor, t: float, seed: int, label: str | None = None, guidance: float | None = None) -> Tensor:
        """The clean images that the network guesses behind states of images 0, 1, ... of a seed at time t.

        Args:
            z: (B, C, H, W) in red, green and blue, as `generate` shows them to its observer.
            t: in [0, 1].
            seed: as for `generate`, which draws the classes by it.
            label: as for `generate`.
            guidance: as for `generate`.

        Returns:
            x_hat, like `z`.

        Raises:
            UsageError: the model's objective guesses no clean image; or as `solver`.
        """
        z = to_opponent(z) if self._opponent else z
        times = torch.full((len(z),), t, dtype=z.dtype, device=z.device)
        with self._told(range(len(z)), seed, label, self._checked_guidance(label, guidance)):
            return self.shown(self.denoiser(z, times))

    def start(self, count: int, seed: int) -> Tensor:
        """The noise, in red, green and blue, from which `generate` makes images 0 to count - 1 of a seed: (B, C, H, W)."""
        like = torch.empty(count, self.config.data.channels, *self.process.shape, device=self.device)
        return self.shown(ImageNoise(seed, range(count))(like))


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as 0..255: clipped and rounded (not truncated), on the CPU."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
