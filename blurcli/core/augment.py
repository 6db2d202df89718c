"""Non-leaking geometric augmentation: the network is conditioned on the augmentation, so samples show none of it.

After Karras et al. (2020, arXiv 2006.06676, for GANs; 2022, arXiv 2206.00364, appendix F.2, for diffusion, with these
strengths). Training images are mirrored, scaled, rotated, stretched and translated, against memorization of small data sets.
The augmentation label of each image describes the change; in sampling it is all zeros.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LABEL_SIZE = 9
"""Length of an augmentation label: mirrored (left to right, top to bottom), log2 of the scale, cosine - 1 and sine of the
rotation, log2 of the stretch times cosine and sine of twice its direction, translation down and right in sides."""

_SCALE, _STRETCH, _MOVE = 0.2, 0.2, 0.125  # standard deviations: octaves, octaves, fractions of the side


def draw_augment_labels(count: int, probability: float, device: torch.device) -> Tensor:
    """Random augmentation labels, (count, LABEL_SIZE), from PyTorch's global generator.

    Each kind of change has the given probability, in [0, 1]; zeros are no change.
    """

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


def augment(x: Tensor, labels: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1], transformed as their labels (B, LABEL_SIZE) describe, with reflection at the borders.

    An image with a label of zeros keeps its exact pixels.
    """
    mirrored, upside_down, scale, cos, sin, stretch_cos, stretch_sin, down, right = labels.unbind(1)
    height, width = x.shape[-2:]
    cos = cos + 1
    size = torch.exp2(-scale)
    # grid_sample maps output coordinates, (right, down), to input coordinates: the inverse of the transformation.
    turn = _matrix(cos, sin, -sin, cos)
    # The stretch is exp2(-A), A symmetric, without trace, with eigenvalues +- its strength.
    strength = torch.hypot(stretch_cos, stretch_sin)
    grown, shrunk = (torch.exp2(strength) + torch.exp2(-strength)) / 2, (torch.exp2(strength) - torch.exp2(-strength)) / 2
    along, across = (-shrunk * part / strength.clamp(min=1e-12) for part in (stretch_cos, stretch_sin))
    stretch = _matrix(grown + along, across, across, grown - along)
    zero = torch.zeros_like(size)
    mirror = _matrix(1 - 2 * mirrored, zero, zero, 1 - 2 * upside_down)
    matrix = mirror @ stretch @ turn * size[:, None, None]
    # grid_sample's coordinates go from -1 to 1 on both axes.
    matrix = _matrix(matrix[:, 0, 0], matrix[:, 0, 1] * height / width, matrix[:, 1, 0] * width / height, matrix[:, 1, 1])
    moves = -2 * torch.stack([right, down], dim=1)[:, :, None]
    grid = F.affine_grid(torch.cat([matrix, matrix @ moves], dim=2), list(x.shape), align_corners=False)
    warped = F.grid_sample(x, grid.to(x.dtype), mode="bicubic", padding_mode="reflection", align_corners=False)
    return torch.where(labels.any(1)[:, None, None, None], warped.clamp(-1, 1), x)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """[[a, b], [c, d]] of every image, (B, 2, 2)."""
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)
