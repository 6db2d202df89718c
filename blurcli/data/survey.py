"""What lies in a folder or archive of images, and what would become of it: looked at, not packed."""

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

from blurcli.data.images import FORMATS, Progress, decoding, is_deep, reason
from blurcli.data.places import ImageFiles
from blurcli.errors import UserError

_ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True)
class _Seen:
    """What one readable image is."""

    mode: str
    height: int
    width: int
    turned: bool
    frames: int
    transparent: bool
    values: tuple[float, float] | None  # least and largest, of deep grey images
    digest: bytes  # of its pixels


@dataclass
class Survey:
    """What was found.

    Attributes:
        images: how many can be read.
        broken: those that cannot, with the reason.
        modes: how many there are of each of Pillow's modes.
        sizes: how many there are of each (height, width), upright.
        turned: how many lie on their side or upside down by their EXIF data, and are turned upright.
        animated: those of several frames, of which the first is taken.
        transparent: how many have transparency, which is laid over white.
        deep_values: least and largest value of the grey images of more than 8 bits; None where there are none.
        duplicates: groups of images of the very same pixels.
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
        """All of it, in plain types."""
        return {**vars(self), "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.most_common()}}


def survey(files: ImageFiles, progress: Progress) -> Survey:
    """Decode every file, in several threads, and count what they are."""
    found, same = Survey(), dict[bytes, list[str]]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = pool.map(lambda name: _look(files, name), files.names)
        for done, (name, seen) in enumerate(zip(files.names, looked, strict=True), start=1):
            progress(done, len(files.names))
            if isinstance(seen, str):
                found.broken[name] = seen
                continue
            found.images += 1
            found.modes[seen.mode] += 1
            found.sizes[seen.height, seen.width] += 1
            found.turned += seen.turned
            found.transparent += seen.transparent
            if seen.frames > 1:
                found.animated.append(name)
            if seen.values is not None:
                found.deep_values = _hull([seen.values, *([found.deep_values] if found.deep_values else [])])
            same.setdefault(seen.digest, []).append(name)
    found.duplicates = [names for names in same.values() if len(names) > 1]
    return found


def _hull(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def _look(files: ImageFiles, name: str) -> _Seen | str:
    """What an image is, or why it cannot be read."""
    try:
        with Image.open(io.BytesIO(files.read(name)), formats=FORMATS) as image, decoding(image):
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            frames, mode, transparent = getattr(image, "n_frames", 1), image.mode, image.has_transparency_data
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.asarray(image)
            values = (float(pixels.min()), float(pixels.max())) if is_deep(image) else None
            digest = hashlib.blake2b(f"{mode} {pixels.shape}".encode() + pixels.tobytes(), digest_size=16).digest()
            return _Seen(mode, image.height, image.width, turned, frames, transparent, values, digest)
    except UserError as error:
        return str(error)
    except Exception as error:  # on damaged content decoders raise nearly anything
        return reason(error)
