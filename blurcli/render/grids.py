"""Pictures of images: grids, arrays and folders. Arrays in, files out."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blurcli import files

Images = NDArray[np.uint8]

_GAP = 1  # pixels between images, before enlargement


def tile(images: Images, columns: int | None = None) -> Images:
    """Images (N, C, H, W) side by side as one picture (height, width, C), row by row; nearly square by default."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + _GAP), i % columns * (width + _GAP)
        canvas[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return canvas


def picture(pixels: Images, scale: int = 1) -> Image.Image:
    """An array (height, width, 1 or 3) as a picture, enlarged by whole pixels."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def save_grid(images: Images, path: Path, scale: int = 1) -> None:
    """Write images (N, C, H, W) as one PNG, each pixel enlarged `scale` times."""
    with files.replacing(path) as temporary:
        picture(tile(images), scale).save(temporary, format="PNG")


def write_grid(batches: Iterable[Images], count: int, path: Path) -> None:
    """Write all `count` images of the batches (B, C, H, W) as one PNG."""
    save_grid(np.concatenate(list(batches)), path)


def write_npz(batches: Iterable[Images], count: int, path: Path) -> None:
    """Write all `count` images, as they come, as `arr_0`, (N, H, W, C) uint8: the layout of the field's evaluation scripts."""
    with (
        files.replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as array,
    ):
        for number, batch in enumerate(batches):
            rows = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
            if number == 0:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *rows.shape[1:])}
                np.lib.format.write_array_header_1_0(array, header)
            array.write(rows.data)


def write_folder(batches: Iterable[Images], count: int, path: Path) -> None:
    """Write each of the `count` images, as it comes, as a PNG named by its index."""
    with files.explained(path):
        path.mkdir(parents=True, exist_ok=True)
    index = 0
    for batch in batches:
        for image in batch:
            with files.replacing(path / f"{index:06d}.png") as temporary:
                picture(image.transpose(1, 2, 0)).save(temporary, format="PNG")
            index += 1
