"""Checkpoints of the published implementations, without their code: names, order, shapes and containers of their files, and slow
references of what they compute, all on images in [0, 1].

The network is the U-Net of guided diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233) as both configure it; the samplers are
those of inverse heat dissipation (arXiv 2206.13397) and of blurring diffusion (arXiv 2209.05557).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blurcli.core.dct import dct2, idct2


@dataclass(frozen=True)
class Shape:
    """Of a U-Net."""

    channels: int = 3
    base: int = 32
    multipliers: Sequence[int] = (1, 2)
    blocks: int = 1
    attention: Sequence[int] = (1,)

    def keys(self) -> list[str]:
        """--set arguments that give a preset this network."""
        return [
            f"data.channels={self.channels}",
            f"model.base_channels={self.base}",
            f"model.multipliers={list(self.multipliers)}",
            f"model.blocks_per_level={self.blocks}",
            f"model.attention_levels={list(self.attention)}",
        ]

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in their order."""
        wide = 4 * self.base

        def layer(name: str, *weight: int) -> Iterator[tuple[str, tuple[int, ...]]]:
            yield f"{name}.weight", weight
            yield f"{name}.bias", weight[:1]

        def residual(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
            yield from layer(f"{name}.in_layers.0", inputs)
            yield from layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
            yield from layer(f"{name}.emb_layers.1", outputs, wide)
            yield from layer(f"{name}.out_layers.0", outputs)
            yield from layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
            if inputs != outputs:
                yield from layer(f"{name}.skip_connection", outputs, inputs, 1, 1)

        def attention(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
            yield from layer(f"{name}.norm", width)
            yield from layer(f"{name}.qkv", 3 * width, width, 1)
            yield from layer(f"{name}.proj_out", width, width, 1)

        yield from layer("time_embed.0", wide, self.base)
        yield from layer("time_embed.2", wide, wide)
        yield from layer("input_blocks.0.0", self.base, self.channels, 3, 3)
        width, skips, stage = self.base, [self.base], 1
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(self.blocks):
                yield from residual(f"input_blocks.{stage}.0", width, self.base * multiplier)
                width = self.base * multiplier
                if level in self.attention:
                    yield from attention(f"input_blocks.{stage}.1", width)
                skips.append(width)
                stage += 1
            if level + 1 < len(self.multipliers):
                yield from layer(f"input_blocks.{stage}.0.op", width, width, 3, 3)
                skips.append(width)
                stage += 1
        yield from residual("middle_block.0", width, width)
        yield from attention("middle_block.1", width)
        yield from residual("middle_block.2", width, width)
        stage = 0
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.blocks + 1):
                yield from residual(f"output_blocks.{stage}.0", width + skips.pop(), self.base * multiplier)
                width = self.base * multiplier
                attended = level in self.attention
                if attended:
                    yield from attention(f"output_blocks.{stage}.1", width)
                if level and i == self.blocks:
                    yield from layer(f"output_blocks.{stage}.{1 + attended}.conv", width, width, 3, 3)
                stage += 1
        yield from layer("out.0", width)
        yield from layer("out.2", self.channels, width, 3, 3)

    def random(self, seed: int) -> OrderedDict[str, Tensor]:
        """Parameters of the size of trained ones."""
        generator = torch.Generator().manual_seed(seed)
        found = OrderedDict()
        for name, shape in self.parameters():
            value = torch.randn(shape, generator=generator)
            normalization = len(shape) == 1 and name.endswith("weight")
            found[name] = 1 + 0.1 * value if normalization else value / math.sqrt(math.prod(shape[1:]) or 1) * 0.7
        return found


def state_of(network: OrderedDict[str, Tensor], averages: OrderedDict[str, Tensor], step: int = 3) -> dict[str, Any]:
    """What their training saves; the learning rate of a warm-up is NumPy's."""
    count = len(network)
    adam = {i: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)} for i in range(count)}
    group = {"lr": np.minimum(3 / 5000, 1.0) * 2e-4, "betas": (0.9, 0.999), "eps": 1e-8, "params": list(range(count))}
    return {
        "optimizer": {"state": adam, "param_groups": [group]},
        "model": OrderedDict((f"module.{name}", tensor) for name, tensor in network.items()),
        "step": step,
        "ema": {"decay": 0.999, "num_updates": step, "shadow_params": list(averages.values())},
    }


def save(path: Path, shape: Shape = Shape()) -> OrderedDict[str, Tensor]:
    """Write a checkpoint; returns the averages of its parameters."""
    averages = shape.random(1)
    torch.save(state_of(shape.random(0), averages), path)
    return averages


def unet(parameters: dict[str, Tensor], x: Tensor, k: Tensor, heads: int = 1, legacy: bool = False) -> Tensor:
    """The network at times k (B,), counted from 0 to the number of steps, in the dtype of x.

    With several heads in their legacy order, the rows of the projection are q, k and v of the first head, then those of the
    next; else q of all heads, then k, then v.
    """
    p = {name: value.to(x.dtype) for name, value in parameters.items()}

    def apply(function: Any, name: str, h: Tensor, **options: Any) -> Tensor:
        return function(h, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, p[f"{name}.weight"], p[f"{name}.bias"])

    def residual(name: str, h: Tensor) -> Tensor:
        inner = apply(F.conv2d, f"{name}.in_layers.2", F.silu(norm(f"{name}.in_layers.0", h)), padding=1)
        inner = inner + apply(F.linear, f"{name}.emb_layers.1", F.silu(embedding))[:, :, None, None]
        inner = apply(F.conv2d, f"{name}.out_layers.3", F.silu(norm(f"{name}.out_layers.0", inner)), padding=1)
        skip = f"{name}.skip_connection"
        return inner + (apply(F.conv2d, skip, h) if f"{skip}.weight" in p else h)

    def attention(name: str, h: Tensor) -> Tensor:
        rows = apply(F.conv1d, f"{name}.qkv", norm(f"{name}.norm", h).flatten(2))
        width = h.shape[1] // heads
        found = []
        for head in range(heads):
            firsts = [(3 * head + part if legacy else part * heads + head) * width for part in range(3)]
            q, key, v = (rows[:, first : first + width] for first in firsts)
            found.append(v @ torch.softmax(q.mT @ key / math.sqrt(width), -1).mT)
        return h + apply(F.conv1d, f"{name}.proj_out", torch.cat(found, 1)).reshape(h.shape)

    def stage(name: str, h: Tensor) -> Tensor:
        for i in range(3):
            layer = f"{name}.{i}"
            if f"{layer}.in_layers.0.weight" in p:
                h = residual(layer, h)
            elif f"{layer}.qkv.weight" in p:
                h = attention(layer, h)
            elif f"{layer}.op.weight" in p:
                h = apply(F.conv2d, f"{layer}.op", h, stride=2, padding=1)
            elif f"{layer}.conv.weight" in p:
                h = apply(F.conv2d, f"{layer}.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)
        return h

    half = p["time_embed.0.weight"].shape[1] // 2
    angles = k.to(x.dtype)[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype) / half)
    hidden = F.silu(apply(F.linear, "time_embed.0", torch.cat([angles.cos(), angles.sin()], 1)))
    embedding = apply(F.linear, "time_embed.2", hidden)
    h = apply(F.conv2d, "input_blocks.0.0", x, padding=1)
    skips = [h]
    while any(name.startswith(f"input_blocks.{len(skips)}.") for name in p):
        h = stage(f"input_blocks.{len(skips)}", h)
        skips.append(h)
    h = stage("middle_block", h)
    for i in range(len(skips)):
        h = stage(f"output_blocks.{i}", torch.cat([h, skips.pop()], 1))
    return apply(F.conv2d, "out.2", F.silu(norm("out.0", h)), padding=1)


def blurring_samples(
    parameters: dict[str, Tensor], z: Tensor, noises: Sequence[Tensor], blur_sigma_max: float, times: int = 100
) -> Tensor:
    """Ancestral sampling from z at time `times` down to 0; the noise of every step is drawn in frequencies."""
    size = z.shape[-1]
    frequencies = math.pi * torch.arange(size, dtype=z.dtype) / size
    laplacian = frequencies[:, None] ** 2 + frequencies**2
    low = math.atan(math.exp(-5))
    high = math.atan(math.exp(5)) - low

    def scales(t: float) -> tuple[Tensor, float]:
        angle, blur = high * t + low, blur_sigma_max * math.sin(t * math.pi / 2) ** 2
        return math.cos(angle) * (0.999 * torch.exp(-laplacian * blur**2 / 2) + 0.001), math.sin(angle)

    for i, noise in enumerate(noises):
        t, s = 1 - i / len(noises), 1 - (i + 1) / len(noises)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(t), scales(max(0.0, s))
        eps = unet(parameters, z, torch.full((len(z),), t * times, dtype=z.dtype))
        ratio = alpha_t / alpha_s
        variance = 1 / (1 / sigma_s**2 + 1 / (sigma_t**2 / ratio**2 - sigma_s**2))
        forward = sigma_t**2 - ratio**2 * sigma_s**2
        u = dct2(z)
        mean = ratio * variance / forward * u + variance / (ratio * sigma_s**2) * (u - sigma_t * dct2(eps))
        z = idct2(mean + variance.sqrt() * noise)
    return z


def heat_samples(parameters: dict[str, Tensor], u: Tensor, noises: Sequence[Tensor], delta: float) -> Tensor:
    """Deblurring of blurred images u at the last level, level by level."""
    for level, noise in zip(range(len(noises), 0, -1), noises, strict=True):
        less_blurred = u + unet(parameters, u, torch.full((len(u),), float(level), dtype=u.dtype))
        u = less_blurred + delta * noise
    return less_blurred
