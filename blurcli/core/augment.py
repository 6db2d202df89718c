"""Geometric changes of training images of which the network is told, so that none of them leaks into samples.

After Karras et al. (2020, arXiv 2006.06676, for GANs; 2022, arXiv 2206.00364, appendix F.2, for diffusion, with these
strengths): where few images would be learned by heart, the network sees them mirrored, scaled, turned, stretched and moved,
with a vector that says how, and which is all zeros when it samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHANGES = 9
"""Numbers that describe what was done to an image: mirrored (left to right, top to bottom), log2 of the scale, cosine - 1 and
sine of the turn, log2 of the stretch times cosine and sine of twice its direction, moves down and right in shares of a side."""

_SCALE, _STRETCH, _MOVE = 0.2, 0.2, 0.125  # standard deviations: octaves, octaves, shares of a side


def draw_changes(count: int, probability: float, device: torch.device) -> Tensor:
    """Random changes, (count, CHANGES), from PyTorch's random state: each kind with a probability; zeros are no change."""

    def chosen() -> Tensor:
        return (torch.rand(count, device=device) < probability).float()

    def normal() -> Tensor:
        return torch.randn(count, device=device)

    def direction() -> Tensor:
        return 2 * math.pi * torch.rand(count, device=device)

    mirrored, upside_down = (chosen() * torch.randint(2, (count,), device=device) for _ in range(2))
    turn = chosen() * direction()
    stretch, axis = chosen() * _STRETCH * normal(), direction()
    moved = chosen()
    return torch.stack(
        [
            mirrored,
            upside_down,
            chosen() * _SCALE * normal(),
            turn.cos() - 1,
            turn.sin(),
            stretch * axis.cos(),
            stretch * axis.sin(),
            moved * _MOVE * normal(),
            moved * _MOVE * normal(),
        ],
        dim=1,
    )


def change(x: Tensor, changes: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] with `changes` (B, CHANGES) done to them, mirrored at their edges; without any, exact."""
    mirrored, upside_down, scale, cos, sin, stretch_cos, stretch_sin, down, right = changes.unbind(1)
    height, width = x.shape[-2:]
    cos = cos + 1
    size = torch.exp2(-scale)
    # From places in the changed image to places in the original: the inverse of all of it. Coordinates are (right, down).
    turn = _matrix(cos, sin, -sin, cos)
    # The stretch is exp2(-A), A symmetric, without trace, with eigenvalues +- its strength.
    strength = torch.hypot(stretch_cos, stretch_sin)
    grown, shrunk = (torch.exp2(strength) + torch.exp2(-strength)) / 2, (torch.exp2(strength) - torch.exp2(-strength)) / 2
    along, across = (-shrunk * part / strength.clamp(min=1e-12) for part in (stretch_cos, stretch_sin))
    stretch = _matrix(grown + along, across, across, grown - along)
    zero = torch.zeros_like(size)
    mirror = _matrix(1 - 2 * mirrored, zero, zero, 1 - 2 * upside_down)
    matrix = mirror @ stretch @ turn * size[:, None, None]
    # grid_sample counts both sides from -1 to 1.
    matrix = _matrix(matrix[:, 0, 0], matrix[:, 0, 1] * height / width, matrix[:, 1, 0] * width / height, matrix[:, 1, 1])
    moves = -2 * torch.stack([right, down], dim=1)[:, :, None]
    grid = F.affine_grid(torch.cat([matrix, matrix @ moves], dim=2), list(x.shape), align_corners=False)
    warped = F.grid_sample(x, grid.to(x.dtype), mode="bicubic", padding_mode="reflection", align_corners=False)
    return torch.where(changes.any(1)[:, None, None, None], warped.clamp(-1, 1), x)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """[[a, b], [c, d]] of every image, (B, 2, 2)."""
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)
