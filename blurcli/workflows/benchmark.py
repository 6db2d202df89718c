"""The speed of a preset on this machine, in training and sampling, and the time shares of its parts. Images are noise."""

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

from blurcli.config import Config
from blurcli.core.execution import state_device
from blurcli.core.moments import DataMoments
from blurcli.core.unet import draw_dropout_seeds
from blurcli.data import Batches
from blurcli.families import ModelData
from blurcli.model.inference import build_network, has_native_bf16, memory_format, resolve_precision
from blurcli.model.pipeline import Pipeline
from blurcli.training import Trainer
from blurcli.training.trainer import largest_batch

_MIN_ROUNDS = 3
_MAX_IMAGES = 50_000
_MAX_IMAGE_BYTES = 1 << 28
_MAX_BATCH = 1 << 16  # the limit of a preset
_USUAL_UTILISATION = 0.5  # typical of training in fp32 on a CPU, for a first estimate
_PROCESS = Path("/proc/self")
_POWER = 0.25  # mean squared DCT coefficient of the images

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Speed:
    """A speed, as the median over rounds: the speed of a longer training or sampling run.

    Attributes:
        images_per_sec: images per second.
        sec: seconds per round: a training step, or a call of the network.
        fastest_sec: seconds of the fastest round; other rounds lose time to other work of the machine.
        rounds: number of rounds.
        tflops: model FLOP/s, in units of 1e12.
        utilisation: fraction of the FLOP/s of a large matrix product in the same precision, measured on this machine.
        peak_mib: peak memory of the process (CPU) or of tensors (GPU), in MiB; None if unknown.
    """

    images_per_sec: float
    sec: float
    fastest_sec: float
    rounds: int
    tflops: float
    utilisation: float
    peak_mib: float | None


@dataclass(frozen=True)
class Row:
    """One variant of a preset.

    Attributes:
        variant: its name.
        training: whole training steps of `train.batch_size` images.
        calls: calls of the network in sampling, with the number of images of a call.
        first_step_sec: seconds from the start to the end of the first training step, including building and compiling.
        first_call_sec: the same for the first call of the network in sampling.
    """

    variant: str
    training: Speed
    calls: Speed
    first_step_sec: float
    first_call_sec: float


def affordable_batch(config: Config, device: torch.device, seconds: float) -> int:
    """The preset's batch size, or on a CPU the largest power of two with training steps of about `seconds`, at least 1."""
    wanted = config.train.batch_size
    if device.type != "cpu":
        return wanted
    flops = _USUAL_UTILISATION * matrix_product_flops(resolve_precision(config, device), device)
    affordable = max(1, int(seconds * flops / model_flops(config)[1]))
    return wanted if wanted <= affordable else 1 << (affordable.bit_length() - 1)


def training_speed(config: Config, device: torch.device, seconds: float) -> Speed:
    """The speed of training steps, measured for some seconds, on noise."""
    peak_flops = matrix_product_flops(resolve_precision(config, device), device)
    return _training(config, device, seconds, peak_flops, lambda text: None)[0]


def variants(config: Config, device: torch.device) -> dict[str, dict[str, Any]]:
    """Settings of `train` worth comparing on this device, the plain ones first.

    bf16 is included only if the hardware multiplies it or the preset requests it. Compilation takes minutes on a CPU, and is
    included only on a GPU or if the preset requests it.
    """
    plain = {"precision": "fp32", "channels_last": False, "compile": False}
    chosen = {"fp32": plain, "fp32, channels last": {**plain, "channels_last": True}}
    fastest = "fp32"
    if has_native_bf16(device) or config.train.precision == "bf16":
        fastest = "bf16"
        chosen["bf16"] = {**plain, "precision": "bf16"}
        chosen["bf16, channels last"] = {**chosen["bf16"], "channels_last": True}
    if device.type == "cuda" or config.train.compile:
        layout = memory_format(config, device) == torch.channels_last
        name = f"{fastest}, channels last, compiled" if layout else f"{fastest}, compiled"
        chosen[name] = {"precision": fastest, "channels_last": layout, "compile": True}
    return chosen


def changed(config: Config, settings: dict[str, Any]) -> Config:
    """A configuration with other settings of `train`; `compile` also applies to sampling."""
    sampling = {"compile": settings["compile"]} if "compile" in settings else {}
    return config.model_copy(
        update={"train": config.train.model_copy(update=settings), "sample": config.sample.model_copy(update=sampling)}
    )


def measure(variant: str, config: Config, device: torch.device, seconds: float, notify: Notify) -> Row:
    """The speed of training steps and of the network's calls in sampling.

    Args:
        seconds: time for each of the two.
    """
    notify(f"measuring {variant}")
    peak_flops = matrix_product_flops(resolve_precision(config, device), device)
    training, first_step = _training(config, device, seconds, peak_flops, notify)
    calls, first_call = _calls(config, device, seconds, peak_flops, notify)
    return Row(variant, training, calls, first_step, first_call)


def _training(config: Config, device: torch.device, seconds: float, peak_flops: float, notify: Notify) -> tuple[Speed, float]:
    started = time.perf_counter()
    trainer, batches = _trainer(config, device, notify)

    def step() -> None:
        trainer.train_step(batches(trainer.step))

    _seconds(step, device)
    first = time.perf_counter() - started
    rounds, peak = _rounds(step, device, seconds)
    return _speed(rounds, config.train.batch_size, model_flops(config)[1], peak_flops, peak), first


def _calls(config: Config, device: torch.device, seconds: float, peak_flops: float, notify: Notify) -> tuple[Speed, float]:
    started = time.perf_counter()
    model = _model(config, device, notify)
    size = model.call_size
    model.compile(size)
    x = torch.randn(size, config.data.channels, *config.data.image_size, device=model.state_device)
    t = torch.ones(size, device=model.state_device)

    @torch.inference_mode()
    def call() -> None:
        model.model.denoiser(x, t)

    _seconds(call, device)
    first = time.perf_counter() - started
    rounds, peak = _rounds(call, device, seconds)
    return _speed(rounds, size, model_flops(config)[0], peak_flops, peak), first


def shares(config: Config, device: torch.device, seconds: float, step_sec: float) -> dict[str, float]:
    """Fractions of the time of a training step: `data`, making a batch; `diffusion`, transforms, schedule and noise.

    `diffusion` is the loss of a step, forward and backward, with a trivial network.

    Args:
        seconds: time for each measurement.
        step_sec: time of a training step.
    """
    trainer, batches = _trainer(config, device, lambda text: None)
    free = torch.zeros((), device=device, requires_grad=True)
    objective = trainer.family.model(lambda x, t, /, **conditions: x + free, ModelData(trainer.moments)).trainable

    def diffuse() -> None:
        t, eps = torch.rand(len(x), device=state_device(device)), torch.randn_like(x)
        objective.loss(x, t, eps).mean().backward()  # type: ignore[no-untyped-call]

    x = batches(0)
    parts = {"data": lambda: batches(0), "diffusion": diffuse}
    return {name: statistics.median(_rounds(part, device, seconds)[0]) / step_sec for name, part in parts.items()}


def largest_training_batch(config: Config, device: torch.device) -> int:
    """The largest power of two of images per training step that fits on this GPU."""
    single = changed(config, {"batch_size": 1, "micro_batch": None})
    return largest_batch(_trainer(single, device, lambda text: None)[0], _MAX_BATCH)


def model_flops(config: Config) -> tuple[int, int]:
    """Floating-point operations of the network per image: forward, and forward with backward; counted by PyTorch."""
    with torch.device("meta"):
        network = build_network(config)
        x, t = torch.empty(1, config.data.channels, *config.data.image_size), torch.empty(1)
        seeds = draw_dropout_seeds(1, torch.device("meta"))
    counts = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            output = network(x, t, dropout_seeds=seeds)
            if backward:
                output.sum().backward()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def matrix_product_flops(precision: str, device: torch.device) -> float:
    """FLOP/s of a large matrix product: the practical peak of this hardware."""
    size, dtype = (8192 if device.type == "cuda" else 2048), torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rounds, _ = _rounds(lambda: a @ b, device, 0.5)
    return 2 * size**3 / statistics.median(rounds)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of `work`, until the device has finished."""
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter() - started


def _rounds(work: Callable[[], object], device: torch.device, seconds: float) -> tuple[list[float], float | None]:
    """Seconds of every round of `work`, and the peak in MiB, after a warm-up round.

    There are as many rounds as fit into `seconds`, at least three. `Timer` of torch.utils.benchmark has no least number of
    rounds, and shows means of many rounds as one.
    """
    _seconds(work, device)
    gc.collect()
    _forget_peak(device)
    times: list[float] = []
    while len(times) < _MIN_ROUNDS or sum(times) < seconds:
        times.append(_seconds(work, device))
    return times, _peak_mib(device)


def _speed(rounds: list[float], images: int, flops: int, peak_flops: float, peak_mib: float | None) -> Speed:
    usual = statistics.median(rounds)
    rate = images / usual
    return Speed(rate, usual, min(rounds), len(rounds), rate * flops / 1e12, rate * flops / peak_flops, peak_mib)


def _trainer(config: Config, device: torch.device, notify: Notify) -> tuple[Trainer, Batches]:
    shape = config.data.channels, *config.data.image_size
    count = max(config.train.batch_size, min(_MAX_IMAGES, _MAX_IMAGE_BYTES // int(np.prod(shape))))
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    trainer = Trainer(config, _flat_moments(shape), device, notify=notify)
    return trainer, Batches(images, config.train.batch_size, config.seed, config.data.flip, device)


def _model(config: Config, device: torch.device, notify: Notify) -> Pipeline:
    shape = config.data.channels, *config.data.image_size
    network = build_network(config).to(device).to(memory_format=memory_format(config, device)).eval()
    return Pipeline(config, network, ModelData(_flat_moments(shape)), device, notify=notify)


def _flat_moments(shape: tuple[int, ...]) -> DataMoments:
    return DataMoments(torch.full(shape, _POWER), torch.zeros(shape))


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROCESS.exists():  # Linux: reset the record of the peak to the current memory
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
