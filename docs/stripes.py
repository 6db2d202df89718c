"""Draw images whose spectrum does not fall, for docs/studies/blur-stripes.yaml: stripes of two colors, 1.25 to 4 pixels wide.

python docs/stripes.py FOLDER
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image


def main(
    folder: Path,
    n: Annotated[int, typer.Option(help="Number of training images; there are a tenth as many test images.")] = 10_000,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 16,
) -> None:
    """Draw the images into the sub-folders train and test."""
    rng, fine = np.random.default_rng(0), 4
    rows, columns = (np.mgrid[: size * fine, : size * fine] + 0.5) / fine
    for split, count in (("train", n), ("test", n // 10)):
        (folder / split).mkdir(parents=True)
        for index in range(count):
            angle, period, phase = rng.uniform(0, math.pi), rng.uniform(2.5, 8), rng.uniform()
            wave = (rows * math.sin(angle) + columns * math.cos(angle)) / period + phase
            colors = rng.uniform(0, 255, (2, 3))
            picture = colors[(wave % 1 < 0.5).astype(int)].reshape(size, fine, size, fine, 3).mean((1, 3))
            Image.fromarray(picture.round().astype(np.uint8)).save(folder / split / f"{index:05d}.png")


if __name__ == "__main__":
    typer.run(main)
