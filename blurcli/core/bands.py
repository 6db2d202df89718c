"""Octave-spaced frequency bands, a readable summary between one value per frequency and one average."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Bands = list[tuple[float, float]]
"""The lower and upper edge of each frequency band, in cycles per pixel."""


def frequency_bands(height: int, width: int, per_octave: int) -> tuple[Tensor, Bands]:
    """The band of every DCT frequency, (H, W) int64, and the bands.

    Band 0 holds the image mean alone; the others are rings of `1 / per_octave` octaves, from the lowest frequency up. Rings
    without a frequency, as in narrow images, are omitted.
    """
    rows, columns = torch.arange(height, dtype=torch.float64) / height, torch.arange(width, dtype=torch.float64) / width
    radius = torch.hypot(rows[:, None], columns[None, :]) / 2
    lowest = 1 / (2 * max(height, width))
    octave = torch.log2(radius.clamp(min=lowest / 4) / lowest)
    ring = (octave * per_octave + 1e-9).floor().clamp(min=-1)  # 1e-9: whole octaves fall on edges
    present, band = torch.unique(ring, return_inverse=True)
    lower = [lowest * 2 ** (k / per_octave) for k in present.tolist()]
    edges = [(low, min(math.sqrt(0.5), low * 2 ** (1 / per_octave))) for low in lower]
    return band, [(0.0, 0.0), *edges[1:]]


def band_names(bands: Bands) -> list[str]:
    """Bands named by their wavelengths in pixels: `mean`, then `64-32 px` and so on."""
    return ["mean"] + [f"{1 / low:.3g}-{1 / high:.3g} px" for low, high in bands[1:]]


def band_means(values: Tensor, band: Tensor) -> Tensor:
    """Means of (..., C, H, W) over each band and the channels: (..., bands)."""
    count = int(band.max()) + 1
    members = torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(
        0, band.flatten(), torch.ones(band.numel(), dtype=values.dtype, device=values.device)
    )
    per_frequency = values.mean(-3).flatten(-2)
    sums = torch.zeros(*per_frequency.shape[:-1], count, dtype=values.dtype, device=values.device)
    return sums.index_add_(-1, band.flatten(), per_frequency) / members
