"""The U-Net of denoising diffusion (Ho et al. 2020, arXiv 2006.11239), with attention at chosen levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blurcli.core.augment import LABEL_SIZE

_ODD_1, _ODD_2 = 0x5BD1E995, 0x27D4EB2F  # odd multipliers with bits spread over the word, for int32 hashing
# Up to this many pixels per image, attention in training is faster in fp32 than in bf16 on a CPU: the backward pass of the
# fused bf16 kernel takes a fixed time (two cores of an AMD EPYC with AVX-512: 16 pixels 0.21 instead of 1.55 ms).
_FEW_PIXELS = 128

_Layer = TypeVar("_Layer", bound=nn.Module)


@dataclass(frozen=True)
class Architecture:
    """The shape of a U-Net.

    Attributes:
        channels: channels of the images, 1 or 3.
        base_channels: width of level 0, a multiple of 4.
        multipliers: width of each level over `base_channels`; level k works at 1 / 2^k of the resolution.
        blocks_per_level: residual blocks per level on the way down; one more on the way up.
        attention_levels: levels, counted from 0, with self-attention after each block.
        head_channels: channels per attention head; None for a single head.
        dropout: probability, in [0, 1), between the two convolutions of a block, in training mode.
        patch_size: pixels per side that are folded into channels before level 0 and unfolded at the end.
        time_scale: factor on the times, in [0, 1], before their sinusoidal features.
        norm_groups: groups of every group normalization; None for 32, or fewer of at least four channels each.
        classes: number of classes for class-conditional networks; None for none.
        augmented: whether the network takes augmentation labels, see `core.augment`.
    """

    channels: int = 3
    base_channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks_per_level: int = 4
    attention_levels: Sequence[int] = (2, 3)
    head_channels: int | None = None
    dropout: float = 0.1
    patch_size: int = 1
    time_scale: float = 1000.0
    norm_groups: int | None = None
    classes: int | None = None
    augmented: bool = False


class UNet(nn.Module):
    """An image-to-image network conditioned on time, and optionally on classes and augmentation labels.

    Residual blocks of two 3x3 convolutions with group normalization; strided convolutions down, nearest-neighbor upsampling and
    a convolution up; the output of every block on the way down is concatenated on the way up. The last convolution of every
    block is initialized to zero, so that a new network predicts zero.

    Parameter names are part of the file format of weights.

    Args:
        architecture: the fields of `Architecture`, positional or by name: `UNet(channels=3, base_channels=64)`.

    Attributes:
        checkpoint_activations: in training mode, keep only the input of every block and recompute the rest in the backward
            pass: less memory for about a third more time (Chen et al. 2016, arXiv 1604.06174). Initially False.
    """

    def __init__(self, *architecture: Any, **named: Any) -> None:
        shape = Architecture(*architecture, **named)
        base_channels, multipliers, patch_size = shape.base_channels, shape.multipliers, shape.patch_size
        channels, blocks_per_level = shape.channels, shape.blocks_per_level
        super().__init__()
        self.base_channels = base_channels
        self.time_scale = shape.time_scale
        self.dropout = shape.dropout
        self.checkpoint_activations = False
        self.stride = patch_size * 2 ** (len(multipliers) - 1)
        time_channels = 4 * base_channels
        self.time = nn.Sequential(
            nn.Linear(base_channels, time_channels), nn.SiLU(), nn.Linear(time_channels, time_channels), nn.SiLU()
        )

        # Unit variance, so that classes have an effect from the start: zeros would grow too slowly in short trainings.
        self.labels = nn.Embedding(shape.classes + 1, time_channels) if shape.classes is not None else None
        # Without a bias: the label of an unchanged image, all zeros, adds nothing.
        self.changes = nn.Linear(LABEL_SIZE, time_channels, bias=False) if shape.augmented else None

        blocks = itertools.count()

        def block(inputs: int, outputs: int, attention: bool) -> _Stage:
            dropout, groups = _Dropout(shape.dropout, next(blocks)), shape.norm_groups
            residual = _ResidualBlock(inputs, outputs, time_channels, dropout, groups)
            return _Stage(residual, _Attention(outputs, shape.head_channels, groups) if attention else None)

        width = base_channels
        self.fold = nn.PixelUnshuffle(patch_size)
        self.first = nn.Conv2d(channels * patch_size**2, width, 3, padding=1)
        self.down = nn.ModuleList()
        skips = [width]
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                self.down.append(_Downsample(width))
                skips.append(width)
            for _ in range(blocks_per_level):
                self.down.append(block(width, base_channels * multiplier, level in shape.attention_levels))
                width = base_channels * multiplier
                skips.append(width)
        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks_per_level + 1):
                self.up.append(block(width + skips.pop(), base_channels * multiplier, level in shape.attention_levels))
                width = base_channels * multiplier
            if level > 0:
                self.up.append(_Upsample(width))
        self.last = nn.Sequential(
            _norm(width, shape.norm_groups), nn.SiLU(), _zero(nn.Conv2d(width, channels * patch_size**2, 3, padding=1))
        )
        self.unfold = nn.PixelShuffle(patch_size)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        dropout_seeds: Tensor | None = None,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) of about unit variance and times (B,) in [0, 1] to (B, C, H, W).

        Args:
            dropout_seeds: int32 (B,), one seed per image for dropout, so that its mask does not depend on the rest of the
                batch; None to draw them from PyTorch's global generator. Used only in training mode with dropout.
            labels: int64 (B,), the class of every image; the number of classes stands for no class. None for no class in the
                whole batch. Only for a class-conditional network.
            augment_labels: (B, LABEL_SIZE), the augmentation of every image; None for none. Only for an augmented network.

        Raises:
            ValueError: height or width is not a multiple of `stride`.
        """
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(f"images of {tuple(x.shape[-2:])} pixels: both sides must be multiples of {self.stride}")
        if dropout_seeds is None and self.training and self.dropout:
            dropout_seeds = draw_dropout_seeds(len(x), x.device)
        time = self.time(_fourier(t, self.base_channels, self.time_scale).to(x.dtype))
        if self.labels is not None:
            no_class = self.labels.num_embeddings - 1
            known = torch.full((len(x),), no_class, device=x.device) if labels is None else labels
            time = time + self.labels(known).to(x.dtype)
        if self.changes is not None and augment_labels is not None:
            time = time + self.changes(augment_labels).to(x.dtype)
        h = self.first(self.fold(x))
        skips = [h]
        for stage in self.down:
            h = self._run(stage, h, time, dropout_seeds)
            skips.append(h)
        for stage in self.middle:
            h = self._run(stage, h, time, dropout_seeds)
        for stage in self.up:
            h = self._run(stage, h if isinstance(stage, _Upsample) else torch.cat([h, skips.pop()], dim=1), time, dropout_seeds)
        return cast(Tensor, self.unfold(self.last(h)))

    def _run(self, stage: nn.Module, h: Tensor, time: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        if self.checkpoint_activations and self.training:
            # Nothing is drawn from the random state: dropout depends only on its seeds.
            return cast(Tensor, checkpoint(stage, h, time, dropout_seeds, use_reentrant=False, preserve_rng_state=False))
        return cast(Tensor, stage(h, time, dropout_seeds))

    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def draw_dropout_seeds(count: int, device: torch.device) -> Tensor:
    """Random seeds for dropout, int32 (count,), from PyTorch's global generator."""
    return torch.randint(2**31 - 1, (count,), dtype=torch.int32, device=device)


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_channels: int, dropout: _Dropout, groups: int | None = None) -> None:
        super().__init__()
        self.norm_1 = _norm(inputs, groups)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time_channels, outputs)
        self.norm_2 = _norm(outputs, groups)
        self.dropout = dropout
        self.conv_2 = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h)), dropout_seeds))
        return cast(Tensor, self.skip(x) + h)


class _Dropout(nn.Module):
    """Dropout with a mask that depends only on the seed of the image and the layer.

    A batch can be split over passes or processes without changing the training.
    """

    def __init__(self, probability: float, layer: int) -> None:
        super().__init__()
        self.probability = probability
        self.layer = layer

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        if not (self.training and self.probability):
            return x
        assert seeds is not None
        _, channels, height, width = x.shape
        seeds = _mix(seeds + self.layer)[:, None]
        rows = _mix(seeds + torch.arange(channels, dtype=torch.int32, device=x.device) * _ODD_2)
        columns = _mix(~seeds + torch.arange(height * width, dtype=torch.int32, device=x.device) * _ODD_2)
        # One round over all activations is enough, because their two halves are mixed already.
        bits = (rows[:, :, None, None] ^ columns.view(-1, 1, height, width)).mul_(_ODD_1)
        bits = bits.bitwise_xor_(bits >> 15).mul_(_ODD_2)
        kept = bits >= round(2**32 * self.probability) - 2**31
        return x * kept * (1 / (1 - self.probability))


def _mix(words: Tensor) -> Tensor:
    """Scramble int32 words one to one, as the finishing step of MurmurHash3 does (Appleby 2011)."""
    words = (words ^ (words >> 16)) * _ODD_1
    words = (words ^ (words >> 13)) * _ODD_2
    return words ^ (words >> 16)


class _Attention(nn.Module):
    def __init__(self, channels: int, head_channels: int | None, groups: int | None = None) -> None:
        super().__init__()
        self.heads = 1 if head_channels is None else channels // head_channels
        self.norm = _norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        # Contiguous: attention of transposed views takes no fused kernel.
        q, k, v = qkv.transpose(-1, -2).contiguous().unbind(1)
        if q.is_cpu and q.requires_grad and q.dtype == torch.bfloat16 and height * width <= _FEW_PIXELS:
            with torch.autocast("cpu", enabled=False):
                h = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
        else:
            h = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, x + self.project(h.transpose(-1, -2).reshape(x.shape)))


class _Stage(nn.Module):
    def __init__(self, block: _ResidualBlock, attention: _Attention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, time: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        h: Tensor = self.block(x, time, dropout_seeds)
        return h if self.attention is None else cast(Tensor, self.attention(h))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        return cast(Tensor, self.conv(x))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


def _norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    # Groups of at least four channels: with fewer, small networks lose the contrast of each feature map.
    return nn.GroupNorm(groups or math.gcd(channels, min(32, channels // 4)), channels)


def _zero(layer: _Layer) -> _Layer:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _fourier(t: Tensor, channels: int, scale: float) -> Tensor:
    """Sinusoidal features (B, channels) of times (B,) in [0, 1] (Vaswani et al. 2017), in float32."""
    frequencies = scale * torch.exp(-math.log(10000.0) * torch.arange(channels // 2, device=t.device) / (channels // 2))
    angles = t.float()[:, None] * frequencies[None, :]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
