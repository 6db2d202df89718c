"""Export a network of timm as a file for `--features`: by default DINOv2, whose distances follow people's judgement better than
Inception's (Stein et al. 2023, arXiv 2306.04675).

    pip install timm
    python docs/features.py dinov2.pt2 [--model vit_base_patch14_dinov2.lvd142m] [--side 224]
    blurdiff fid --features dinov2.pt2 --n 10000

The file takes images (B, 3, SIZE, SIZE) float32 in 0..255 and gives (B, D) float32, 768 numbers for the default. Weights are
downloaded from the Hugging Face hub by timm once; --random is for trying it out without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from torch import Tensor, nn
from torch.export import Dim


class Features(nn.Module):
    """Resizing and normalization of a network of timm, and its pooled features.

    Args:
        network: without its classifier.
        side: height and width that the network takes, in pixels.
    """

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side
        own = timm.data.resolve_model_data_config(network)
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(own[name])[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 to (B, D)."""
        size = (self.side, self.side)
        resized = nn.functional.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
        return self.network((resized.clamp(0, 255) - self.mean) / self.std)


def main(
    out: Path,
    model: Annotated[str, typer.Option(help="Name of a model of timm.")] = "vit_base_patch14_dinov2.lvd142m",
    side: Annotated[int, typer.Option(help="Side of the images that the network takes, in pixels.")] = 224,
    size: Annotated[int, typer.Option(help="Side of the images that will be scored, in pixels.")] = 32,
    random: Annotated[bool, typer.Option("--random", help="Random weights, for trying it out.")] = False,
) -> None:
    """Write the file."""
    network = timm.create_model(model, pretrained=not random, num_classes=0, img_size=side)
    features = Features(network, side).eval()
    example = torch.rand(2, 3, size, size) * 255
    exported = torch.export.export(features, (example,), dynamic_shapes=({0: Dim("batch", min=1, max=4096)},))
    torch.export.save(exported, out)
    with torch.no_grad():
        print(f"{out}: {features(example).shape[1]} features of {size}x{size} images")


if __name__ == "__main__":
    typer.run(main)
