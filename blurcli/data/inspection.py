"""Inspection of a folder or archive of images: formats, sizes, duplicates and unreadable files. Nothing is packed."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from blurcli.data.archives import ImageFiles
from blurcli.data.images import FORMATS, Progress, decoding, is_deep, reason
from blurcli.errors import UserError

_ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True)
class _Image:
    """The properties of one readable image."""

    mode: str
    height: int
    width: int
    turned: bool
    frames: int
    transparent: bool
    values: tuple[float, float] | None  # minimum and maximum, of deep gray images
    digest: bytes  # hash of its pixels


@dataclass
class Inspection:
    """The properties of a set of images.

    Attributes:
        images: number of readable images.
        broken: unreadable files, with the reason.
        modes: number of images per Pillow mode.
        sizes: number of images per (height, width), upright.
        turned: number of images that are rotated upright by their EXIF data.
        animated: files of several frames; the first frame is used.
        transparent: number of images with transparency, which are composited over white.
        deep_values: minimum and maximum of the gray images of more than 8 bits; None where there are none.
        duplicates: groups of images with identical pixels.
    """

    images: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    turned: int = 0
    animated: list[str] = field(default_factory=list)
    transparent: int = 0
    deep_values: tuple[float, float] | None = None
    duplicates: list[list[str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The properties in plain types."""
        return {**vars(self), "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.most_common()}}


def inspect_images(files: ImageFiles, progress: Progress) -> Inspection:
    """Decode every file in threads, and collect the properties."""
    found, same = Inspection(), dict[bytes, list[str]]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found_images = pool.map(lambda name: _inspect(files, name), files.names)
        for done, (name, image) in enumerate(zip(files.names, found_images, strict=True), start=1):
            progress(done, len(files.names))
            if isinstance(image, str):
                found.broken[name] = image
                continue
            found.images += 1
            found.modes[image.mode] += 1
            found.sizes[image.height, image.width] += 1
            found.turned += image.turned
            found.transparent += image.transparent
            if image.frames > 1:
                found.animated.append(name)
            if image.values is not None:
                found.deep_values = _hull([image.values, *([found.deep_values] if found.deep_values else [])])
            same.setdefault(image.digest, []).append(name)
    found.duplicates = [names for names in same.values() if len(names) > 1]
    return found


def _hull(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def _inspect(files: ImageFiles, name: str) -> _Image | str:
    """The properties of an image, or the reason why it cannot be read."""
    try:
        with Image.open(io.BytesIO(files.read(name)), formats=FORMATS) as image, decoding(image):
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            frames, mode, transparent = getattr(image, "n_frames", 1), image.mode, image.has_transparency_data
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.asarray(image)
            values = (float(pixels.min()), float(pixels.max())) if is_deep(image) else None
            digest = hashlib.blake2b(f"{mode} {pixels.shape}".encode() + pixels.tobytes(), digest_size=16).digest()
            return _Image(mode, image.height, image.width, turned, frames, transparent, values, digest)
    except UserError as error:
        return str(error)
    except Exception as error:  # on damaged content decoders raise nearly anything
        return reason(error)
