"""Pictures of images: grids and animations. Arrays in, files out."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blurcli import files
from blurcli.errors import UsageError

Images = NDArray[np.uint8]

_FORMATS: dict[str, dict[str, Any]] = {
    ".gif": {"format": "GIF", "disposal": 1, "optimize": False},
    ".webp": {"format": "WEBP", "lossless": True, "method": 4},
    ".png": {"format": "PNG"},
    ".apng": {"format": "PNG"},
}
_GAP = 1  # pixels between images, before enlargement
_SMOOTH_COLOURS = 192  # of the 256 of a GIF
_PALETTE_FRAMES = 16  # frames that the other colours are chosen from: enough to see every phase of the process
_GIF_MIN_SEC = 0.02  # viewers show shorter GIF frames at a tenth of a second


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


def save_animation(frames: Sequence[Images], path: Path, fps: float, scale: int, hold_sec: float = 1.5) -> None:
    """Write an endless animation; the format follows the suffix.

    Args:
        frames: one array (N, C, H, W) of images a frame.
        path: .gif (256 colours, chosen once for all frames, undithered), .webp or .png / .apng (lossless).
        fps: frames a second. GIF counts in hundredths: frames are rounded so that the whole keeps its length.
        scale: enlargement by whole pixels.
        hold_sec: how long the last frame stays, in seconds.

    Raises:
        UsageError: as `check_animation`.
    """
    check_animation(path, fps)
    suffix = path.suffix.lower()
    pictures = [picture(tile(frame), scale) for frame in frames]
    durations = _durations_ms(len(frames), fps, hold_sec, unit_ms=10 if suffix == ".gif" else 1)
    if suffix == ".gif":
        pictures = _one_palette(pictures)
    with files.replacing(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **_FORMATS[suffix])


def check_animation(path: Path, fps: float) -> None:
    """Raise UsageError for a name of unknown format, or frames too short for it: before the work, not after."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"{path}: the name of an animation must end in {', '.join(_FORMATS)}")
    if path.suffix.lower() == ".gif" and 1 / fps < _GIF_MIN_SEC:
        raise UsageError(
            f"--fps {fps:g}: a GIF shows at most {1 / _GIF_MIN_SEC:g} frames a second; lower it, or write .webp or .png"
        )


def _durations_ms(count: int, fps: float, hold_sec: float, unit_ms: int) -> list[int]:
    """Whole multiples of `unit_ms` whose running sum never strays by more than half of one from the asked time."""
    ends = [round(1000 * i / fps / unit_ms) * unit_ms for i in range(count)]
    return [b - a for a, b in itertools.pairwise(ends)] + [max(unit_ms, round(1000 * hold_sec / unit_ms) * unit_ms)]


def _one_palette(pictures: list[Image.Image]) -> list[Image.Image]:
    """All pictures in one set of 256 colours: a palette a frame would flicker, and dither would crawl.

    Most colours are those of the smoothest frame, where bands would show; in noise, which has every colour, nobody sees them.
    """
    if pictures[0].mode == "L":
        return pictures
    smoothest = min(pictures, key=lambda p: np.abs(np.diff(np.asarray(p).astype(np.int16), axis=0)).mean())
    others = [pictures[round(i)] for i in np.linspace(0, len(pictures) - 1, min(len(pictures), _PALETTE_FRAMES))]
    pool = Image.fromarray(np.concatenate([np.asarray(p) for p in others]))
    colours: list[int] = []
    for source, count in ((smoothest, _SMOOTH_COLOURS), (pool, 256 - _SMOOTH_COLOURS)):
        colours += (source.quantize(count, Image.Quantize.MEDIANCUT).getpalette() or [])[: 3 * count]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
