"""Models of a known Gaussian, and photos drawn from it: what the restoration of photos assumes, exactly."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blurcli.config import load_config, parse_overrides
from blurcli.core import idct2
from blurcli.core.blind import Degradation, Interval
from blurcli.core.colors import from_opponent
from blurcli.core.measurements import gaussian_blur
from blurcli.core.moments import DataMoments
from blurcli.core.windows import moments_at
from blurcli.families import ModelData
from blurcli.model.inference import build_network
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restored import Restored
from blurcli.model.weights import Weights, save_weights

SIDE = 16
SETTINGS = (
    f"data.image_size={SIDE}",
    "model.base_channels=8",
    "model.multipliers=[1,2]",
    "model.attention_levels=[]",
    "model.blocks_per_level=1",
    "model.patch_size=2",
    "train.precision=fp32",
)
_LEVELS = 35.0  # standard deviation of the pixels: few are clipped


def moments(channels: int) -> DataMoments:
    """Of images whose variance falls as the cube of the frequency; of colors, a tenth of the brightness in each of the others."""
    rows, columns = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float64)] * 2, indexing="ij")
    falling = (rows**2 + columns**2).clamp(min=1) ** -1.5
    falling[0, 0] = 0.3
    variance = falling * (_LEVELS / 127.5) ** 2 / falling.mean()
    share = torch.tensor([2.8, 0.1, 0.1] if channels == 3 else [1.0], dtype=torch.float64)[:, None, None]
    spectrum = share * variance
    mean = torch.zeros(channels, SIDE, SIDE, dtype=torch.float64)
    mixed = spectrum.mean(0, keepdim=True).expand(channels, -1, -1).contiguous()
    return DataMoments(mixed, mean, spectrum if channels == 3 else None)


def save_model(path: Path, channels: int = 3, learned: float = 0.02, *settings: str) -> Path:
    """A weights file with these moments, and a network that says that much besides them, at random; 0 for nothing."""
    config = load_config("shapes-blur", parse_overrides([*SETTINGS, f"data.channels={channels}", *settings]))
    torch.manual_seed(0)
    network = build_network(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=learned)
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    save_weights(Weights(config, 1, tensors, ModelData(moments(channels)), path))
    return path


def drawn(shape: tuple[int, int], channels: int = 3, seed: int = 0) -> NDArray[np.float64]:
    """A photo of the model's own kind, (C, H, W) gray levels, neither rounded nor clipped."""
    known = moments(channels)
    spectrum, mean = known.in_model_space()
    _, variance = moments_at(mean, spectrum - mean**2, shape)
    normal = torch.randn(channels, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    image = idct2(normal * variance.sqrt())
    pixels: NDArray[np.float64] = ((from_opponent(image) if channels == 3 else image) * 127.5 + 127.5).numpy()
    return pixels


def damaged(pixels: NDArray[np.float64], blur: float = 0.0, noise: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    shape = (pixels.shape[1], pixels.shape[2])
    blurred = gaussian_blur(shape, blur).apply(torch.tensor(pixels)[None])[0].numpy()
    return blurred + noise * np.random.default_rng(seed).standard_normal(pixels.shape)


def exactly(value: float) -> Interval:
    return Interval(value, value, value)


def restored(**fields: Any) -> Restored:
    """A result without a restoration: of one black pixel, with the known blur and noise of its options, except for these fields.

    `blur_px` and `noise` are those of what is found.
    """
    options = fields.get("options", RestoreOptions())
    blur, noise = fields.pop("blur_px", exactly(options.blur or 0.0)), fields.pop("noise", exactly(options.noise or 0.0))
    plain = Restored(
        draws=np.zeros((1, 1, 1, 1)),
        found=Degradation(blur, noise),
        compressed=False,
        linear_light=False,
        estimated=(),
        residual=1.0,
        worst_residual=1.0,
        options=options,
        weights="0123, bf16",
        value_range=(0, 255),
    )
    return replace(plain, **fields)


def to_image(pixels: NDArray[np.float64]) -> Image.Image:
    levels = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def array_of(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.float64)


def tensor_of(pixels: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(pixels) / 127.5 - 1
