"""How fast a preset trains and samples on this machine, and where the time goes. Images are noise: speed is the same."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from blurcli.build import build_denoiser, build_network
from blurcli.config import Config
from blurcli.core.unet import draw_keys
from blurcli.data import Batches
from blurcli.model import Model, to_uint8
from blurcli.network import memory_format, resolve_precision
from blurcli.train import Trainer
from blurcli.train.trainer import largest_batch

_LEAST_ROUNDS = 3
_MOST_IMAGES = 50_000
_MOST_IMAGE_BYTES = 1 << 28
_LARGEST_BATCH = 1 << 16  # that a preset may ask for
_PROCESS = Path("/proc/self")
_POWER = 0.25  # of every frequency of the images

Say = Callable[[str], None]


@dataclass(frozen=True)
class Speed:
    """How fast something is, by the fastest round: others lose time to whatever else the machine does.

    Attributes:
        images_per_sec: images a second.
        sec: seconds of a round: a training step, or a call of the network.
        median_sec: of all rounds, for comparison.
        rounds: how many there were.
        tflops: model FLOP/s, in units of 1e12.
        utilisation: the share of what a large matrix product reaches in the same precision, measured here.
        peak_mib: largest memory of the process (CPU) or of tensors (GPU) meanwhile, in MiB; None where it is not known.
    """

    images_per_sec: float
    sec: float
    median_sec: float
    rounds: int
    tflops: float
    utilisation: float
    peak_mib: float | None


@dataclass(frozen=True)
class Row:
    """One variant of a preset.

    Attributes:
        variant: its name.
        training: steps of `train.batch_size` images, all that belongs to one included.
        calls: calls of the network in sampling, of `Model.batch_size` images.
        first_step_sec: until the first training step is done, from nothing: what is built, allocated and compiled included.
    """

    variant: str
    training: Speed
    calls: Speed
    first_step_sec: float


def variants(config: Config, device: torch.device) -> dict[str, dict[str, Any]]:
    """The ways to run a network that are worth comparing here, from the plain one on, as settings of `train` over a preset."""
    plain = {"precision": "fp32", "channels_last": False, "compile": False}
    chosen = {
        "fp32": plain,
        "bf16": {**plain, "precision": "bf16"},
        "bf16, channels last": {**plain, "precision": "bf16", "channels_last": True},
    }
    # On a CPU it takes minutes to compile: only where the preset asks for it.
    if device.type == "cuda" or config.train.compile:
        layout = memory_format(config, device) == torch.channels_last
        name = "bf16, channels last, compiled" if layout else "bf16, compiled"
        chosen[name] = {"precision": "bf16", "channels_last": layout, "compile": True}
    return chosen


def changed(config: Config, settings: dict[str, Any]) -> Config:
    """A configuration with other settings of `train`, whose `compile` is then that of sampling too."""
    sampling = {"compile": settings["compile"]} if "compile" in settings else {}
    return config.model_copy(
        update={"train": config.train.model_copy(update=settings), "sample": config.sample.model_copy(update=sampling)}
    )


def measure(variant: str, config: Config, device: torch.device, seconds: float, say: Say) -> Row:
    """The speed of training steps and of the network's calls in sampling.

    Args:
        seconds: to spend on each of the two, after a warm-up.
    """
    say(f"measuring {variant}")
    peak_flops = matrix_product_flops(resolve_precision(config, device), device)
    training, first_step = _training(config, device, seconds, peak_flops, say)
    return Row(variant, training, _calls(config, device, seconds, peak_flops, say), first_step)


def _training(config: Config, device: torch.device, seconds: float, peak_flops: float, say: Say) -> tuple[Speed, float]:
    clock = _Clock(device)
    started = time.perf_counter()
    trainer, batches = _trainer(config, device, say)

    def step() -> None:
        trainer.train_step(batches(trainer.step))

    clock.seconds(step)
    first = time.perf_counter() - started
    rounds, peak = clock.rounds(step, seconds)
    return _speed(rounds, config.train.batch_size, model_flops(config)[1], peak_flops, peak), first


def _calls(config: Config, device: torch.device, seconds: float, peak_flops: float, say: Say) -> Speed:
    model = _model(config, device, say)
    size = model.batch_size
    model.compile(size)
    x = torch.randn(size, config.data.channels, *config.data.image_size, device=device)
    t = torch.ones(size, device=device)

    @torch.inference_mode()
    def call() -> None:
        model.denoiser(x, t)

    rounds, peak = _Clock(device).rounds(call, seconds)
    return _speed(rounds, size, model_flops(config)[0], peak_flops, peak)


def shares(config: Config, device: torch.device, seconds: float) -> dict[str, float]:
    """Parts of a training step's time: `data`, to make a batch, and `diffusion`, which is transforms, schedule and noise.

    The diffusion is a step's loss, forward and backward, around a network that costs nothing.
    """
    clock = _Clock(device)
    trainer, batches = _trainer(config, device, lambda text: None)
    free = torch.zeros((), device=device, requires_grad=True)
    denoiser = build_denoiser(config, lambda x, t: x + free, *trainer.learned_moments)

    def diffuse() -> None:
        t, eps = torch.rand(len(x), device=device), torch.randn_like(x)
        denoiser.loss(x, t, eps).mean().backward()  # type: ignore[no-untyped-call]

    x = batches(0)
    trainer.train_step(x)
    parts = {
        "step": lambda: trainer.train_step(batches(trainer.step)),
        "data": lambda: batches(trainer.step),
        "diffusion": diffuse,
    }
    found = {name: min(clock.rounds(part, seconds)[0]) for name, part in parts.items()}
    return {name: found[name] / found["step"] for name in ("data", "diffusion")}


def image_seconds(config: Config, device: torch.device, count: int, say: Say) -> float:
    """Seconds from a built model to `count` finished images, by the preset's sampler."""
    model = _model(config, device, say)
    return _Clock(device).seconds(lambda: [to_uint8(x) for x in model.generate(count, seed=0)])


def largest_training_batch(config: Config, device: torch.device) -> int:
    """The largest power of two of images that a training step can take on this GPU."""
    single = changed(config, {"batch_size": 1, "micro_batch": None})
    return largest_batch(_trainer(single, device, lambda text: None)[0], _LARGEST_BATCH)


def model_flops(config: Config) -> tuple[int, int]:
    """Floating-point operations of the network for an image: forward, and forward with backward; counted by PyTorch."""
    with torch.device("meta"):
        network = build_network(config)
        x, t = torch.empty(1, config.data.channels, *config.data.image_size), torch.empty(1)
        keys = draw_keys(1, torch.device("meta"))
    counts = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            output = network(x, t, keys)
            if backward:
                output.sum().backward()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def matrix_product_flops(precision: str, device: torch.device) -> float:
    """FLOP/s of a large matrix product: what this hardware can do, as far as a program sees."""
    size, dtype = (8192 if device.type == "cuda" else 2048), torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rounds, _ = _Clock(device).rounds(lambda: a @ b, 0.5)
    return 2 * size**3 / min(rounds)


class _Clock:
    """Times what a device does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seconds(self, work: Callable[[], object]) -> float:
        """How long `work` takes, to the end of what it left the device to do."""
        started = time.perf_counter()
        work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started

    def rounds(self, work: Callable[[], object], seconds: float) -> tuple[list[float], float | None]:
        """Seconds of every round of `work`, as many as fit, and the peak of memory in MiB; after one that does not count."""
        self.seconds(work)
        gc.collect()
        _forget_peak(self._device)
        times: list[float] = []
        while len(times) < _LEAST_ROUNDS or sum(times) < seconds:
            times.append(self.seconds(work))
        return times, _peak_mib(self._device)


def _speed(rounds: list[float], images: int, flops: int, peak_flops: float, peak_mib: float | None) -> Speed:
    fastest = min(rounds)
    rate = images / fastest
    return Speed(
        rate, fastest, statistics.median(rounds), len(rounds), rate * flops / 1e12, rate * flops / peak_flops, peak_mib
    )


def _trainer(config: Config, device: torch.device, say: Say) -> tuple[Trainer, Batches]:
    shape = config.data.channels, *config.data.image_size
    count = max(config.train.batch_size, min(_MOST_IMAGES, _MOST_IMAGE_BYTES // int(np.prod(shape))))
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    trainer = Trainer(config, torch.full(shape, _POWER), torch.zeros(shape), device, say=say)
    return trainer, Batches(images, config.train.batch_size, config.seed, config.data.flip, device)


def _model(config: Config, device: torch.device, say: Say) -> Model:
    shape = config.data.channels, *config.data.image_size
    network = build_network(config).to(device).to(memory_format=memory_format(config, device)).eval()
    return Model(config, network, torch.full(shape, _POWER), torch.zeros(shape), device, say=say)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROCESS.exists():  # Linux: the record of this process's peak begins anew, without what was freed before
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")


def _peak_mib(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if not _PROCESS.exists():
        return None
    lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
