"""A step of a distillation, recomputed from its formulas in float64: the process, the teacher's step, the ends of the path, the weight."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from torch import Tensor

from blurcli.config import Config, load_config, parse_overrides
from blurcli.core import UNet
from blurcli.core.bands import frequency_bands
from blurcli.core.moments import DataMoments
from blurcli.core.rng import ImageNoise, step_seed
from blurcli.evaluate.denoising import MeasuredImages
from blurcli.families import ModelData
from blurcli.model.inference import build_network
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import Weights
from blurcli.training import Trainer

Array = NDArray[np.float64]
Slope = Callable[[Array, Array], Array]

COUNT, SIZE, BLUR = 4, 8, 5.0
CPU = torch.device("cpu")
POWER = 2 / (1 + np.arange(8)[:, None] + np.arange(8.0))
MEAN = POWER**0.5 / 3
KEYS = ("data.channels=1", "train.precision=fp32", "process.blur_schedule=sin2", f"process.blur_sigma_max={BLUR}")
OWN = (
    "objective=consistency",
    "optim.loss_weight=consistency",
    "optim.time_sampling=uniform",
    "sample.sampler=consistency",
    "distill.intervals=8",
    "distill.double_every_steps=2",
)
RELATIVE = 1e-4  # the network is in float32


def config(*more: str) -> Config:
    return load_config("shapes-blur", parse_overrides([*TINY, *KEYS, *more]))


def disturbed(network: UNet, seed: int) -> UNet:
    """The network, every parameter of which has got another value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def slope_of(network: UNet) -> Slope:
    """F of a network per frequency, in float64."""
    precise = copy.deepcopy(network).double().eval()

    @torch.no_grad()
    def slope(w: Array, t: Array) -> Array:
        return frequencies(precise(torch.from_numpy(idctn(w, axes=(2, 3), norm="ortho")), torch.from_numpy(t)))

    return slope


def frequencies(images: Tensor) -> Array:
    return dctn(images.double().numpy(), axes=(2, 3), norm="ortho")


@pytest.fixture
def distillation() -> tuple[Trainer, Slope]:
    """A distillation whose student, EMA and teacher are three networks; and F of the teacher."""
    moments = DataMoments(*(torch.from_numpy(values)[None] for values in (POWER, MEAN)))
    network = disturbed(build_network(config()), 0)
    teacher = Weights(config(), 1, network.state_dict(), ModelData(moments), Path("teacher.safetensors"))
    trainer = Trainer(config(*OWN), moments, CPU, teacher=teacher)
    disturbed(trainer.network, 1)
    disturbed(trainer.ema, 2)
    return trainer, slope_of(network)


def angle(t: Array) -> Array:
    """phi = atan(alpha sqrt(V) / sigma) at times (B,): (B, 1, 8, 8). Log-SNR from 10 to -10, blur of sin^2 (Hoogeboom and Salimans 2023)."""
    t = t[:, None, None, None]
    low = math.atan(math.exp(-5))
    noise = low + (math.pi / 2 - 2 * low) * t
    rates = (math.pi * np.arange(SIZE) / SIZE) ** 2
    kept = np.exp(-(rates[:, None] + rates) * (BLUR * np.sin(t * math.pi / 2) ** 2) ** 2 / 2)
    alpha, sigma = np.cos(noise) * (0.999 * kept + 0.001), np.sin(noise)
    return np.arctan2(alpha * np.sqrt(POWER - MEAN**2), sigma)


def errors(student: Slope, teacher: Slope, images: tuple[Tensor, Tensor], times: tuple[Array, Array]) -> Array:
    """tan(phi) (end of the path from t - end from s) per frequency, (B, 1, 8, 8), for images x and noise eps."""
    (x, eps), (t, s) = map(frequencies, images), times
    phi, later = angle(t), angle(s)
    w = np.sin(phi) * (x - MEAN) / np.sqrt(POWER - MEAN**2) + np.cos(phi) * eps
    first = teacher(w, t)
    second = teacher(w + (later - phi) * first, s)
    moved = w + (later - phi) * (first + second) / 2
    chord = np.where(s[:, None, None, None] > 0, student(moved, s), second)
    return np.tan(phi) * (np.sin(phi) * w + np.cos(phi) * student(w, t) - np.sin(later) * moved - np.cos(later) * chord)


def random_images(seed: int) -> Tensor:
    return torch.rand(COUNT, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("step", "parts"), [(1, 2), (2, 4), (9, 8)])
def test_a_step(distillation: tuple[Trainer, Slope], step: int, parts: int) -> None:
    trainer, teacher = distillation
    student, x, trainer.step = slope_of(trainer.network), random_images(3), step
    loss, _ = trainer.train_step(x)
    torch.manual_seed(step_seed(trainer.config.seed, step))
    t = (np.arange(COUNT) + torch.rand(1).item()) / COUNT
    images = x, torch.randn(COUNT, 1, SIZE, SIZE)
    found = errors(student, teacher, images, (t, np.maximum(t - 1 / parts, 0)))
    snr = np.tan(angle(t)) ** 2
    weight = snr**-0.25 / (np.sin(angle(t)) ** 2 * snr**-0.25).mean((1, 2, 3), keepdims=True)
    assert float(loss) == pytest.approx((weight * found**2).mean(), rel=RELATIVE)


def test_health(distillation: tuple[Trainer, Slope]) -> None:
    """By time and band, over the finest parts of the path, whatever the step."""
    trainer, teacher = distillation
    images = np.random.default_rng(3).integers(0, 256, (COUNT, 1, SIZE, SIZE), dtype=np.uint8)
    x, noise, t = torch.from_numpy(images) / 127.5 - 1, ImageNoise(4, range(COUNT)), np.linspace(0, 1, 5)
    pipeline = Pipeline(trainer.config, trainer.ema, ModelData(trainer.moments), CPU)
    times, losses = trainer.loss.by_band(pipeline, MeasuredImages(images, COUNT, 4), len(t))
    assert times.tolist() == pytest.approx(t.tolist())
    band, names = frequency_bands(SIZE, SIZE, 1)
    for row, at in zip(losses, t, strict=True):
        every = np.full(COUNT, at), np.full(COUNT, max(0.0, at - 1 / 8))
        found = (errors(slope_of(trainer.ema), teacher, (x, noise(x)), every) ** 2).mean((0, 1))
        assert row.tolist() == pytest.approx([found[band.numpy() == k].mean() for k in range(len(names))], rel=RELATIVE)
