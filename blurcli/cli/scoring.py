"""Shared by the commands that score: options, features, references, and the file of scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    pass

ModeOption = Annotated[
    Literal["clean", "legacy_tensorflow", "legacy_pytorch"] | None,
    typer.Option("--mode", help="Resizing and network of clean-fid, for Inception. [default: the preset's]"),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="inception, pixels, or a TorchScript or torch.export file (code: it is executed). [default: the preset's]",
    ),
]
InceptionOption = Annotated[
    Path | None,
    typer.Option("--inception", help="Inception's file, or its folder. [default: $BLURDIFF_INCEPTION, or downloaded once]"),
]
PublishedOption = Annotated[
    str | None,
    typer.Option("--reference", help="Published statistics of clean-fid instead of images: cleanfid:NAME[:SIZE[:SPLIT]]."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Score even fewer images than features.")]
