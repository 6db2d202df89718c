"""Inspection of a folder or archive of images: formats, sizes, duplicates and unreadable files. Nothing is packed."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blurcli.base.downloads import Progress
from blurcli.base.errors import UserError
from blurcli.base.parallel import ahead
from blurcli.config import DataConfig
from blurcli.data.archives import ImageFiles
from blurcli.data.decoder import hull
from blurcli.data.images import Range, UnreadableError, decode, deep_values, is_deep, opened, orientation, upright


@dataclass(frozen=True)
class _Image:
    """The properties of one readable image."""

    mode: str
    height: int
    width: int
    turned: bool
    frames: int
    transparent: bool
    values: Range | None  # minimum and maximum, of deep gray images
    digest: bytes  # hash of its visible pixels
    refused: str | None  # why a training cannot use it


@dataclass
class Inspection:
    """The properties of a set of images.

    Attributes:
        images: number of readable images.
        broken: files that a training cannot use, with the reason.
        left_out: names of files and folders that are not read, by reason.
        classes: number of images per class in `dataset.json`; None without one.
        modes: number of images per Pillow mode.
        sizes: number of images per (height, width), upright.
        turned: number of images that are rotated upright by their EXIF data.
        animated: files of several frames; the first frame is used.
        transparent: number of images with transparency, which are composited over white.
        deep_values: minimum and maximum of the gray images of more than 8 bits; None if there are none.
        duplicates: groups of images with exactly the same pixels.
    """

    images: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    turned: int = 0
    animated: list[str] = field(default_factory=list)
    transparent: int = 0
    deep_values: Range | None = None
    duplicates: list[list[str]] = field(default_factory=list)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: Counter[str] | None = None

    def as_json(self) -> dict[str, Any]:
        """The properties in plain types."""
        return {**vars(self), "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.most_common()}}


def inspect_images(files: ImageFiles, config: DataConfig, progress: Progress) -> Inspection:
    """Decode every file in threads, as training with this configuration does, and collect the properties.

    Raises:
        UserError: a damaged `dataset.json`.
    """
    labels = files.labels()
    found, same = Inspection(left_out=files.skipped, classes=None if labels is None else Counter()), dict[bytes, list[str]]()
    with closing(ahead(lambda name: _inspect(files, name, config), files.names, files.bytes_of)) as found_images:
        for done, (name, image) in enumerate(zip(files.names, found_images, strict=True), start=1):
            progress(done, len(files.names))
            if isinstance(image, str):
                found.broken[name] = image
                continue
            if image.values is not None:
                found.deep_values = hull(found.deep_values, image.values)
            if image.refused is not None:
                found.broken[name] = image.refused
                continue
            found.images += 1
            found.modes[image.mode] += 1
            found.sizes[image.height, image.width] += 1
            found.turned += image.turned
            found.transparent += image.transparent
            if image.frames > 1:
                found.animated.append(name)
            if labels is not None and found.classes is not None:
                found.classes[labels.get(name, "no label")] += 1
            same.setdefault(image.digest, []).append(name)
    found.duplicates = [names for names in same.values() if len(names) > 1]
    return found


def _inspect(files: ImageFiles, name: str, config: DataConfig) -> _Image | str:
    """The properties of an image, or the reason why it cannot be read."""
    try:
        content = files.read(name)
        with opened(io.BytesIO(content), name) as image:
            turned = orientation(image) != 1
            frames, mode, transparent = getattr(image, "n_frames", 1), image.mode, image.has_transparency_data
            image = upright(image)
            values = deep_values(image)
            # Palettes and other modes are compared by their colors, other images by their own values.
            looks = image if is_deep(image) or mode == "LAB" else image.convert("RGBA")
            pixels = np.asarray(looks)
            digest = hashlib.blake2b(f"{looks.mode} {pixels.shape}".encode() + pixels.tobytes(), digest_size=16).digest()
            height, width = image.height, image.width
        refused = None
        try:
            decode(content, name, *config.image_size, config.channels, config.value_range)
        except UnreadableError as error:
            refused = error.reason
        return _Image(mode, height, width, turned, frames, transparent, values, digest, refused)
    except UnreadableError as error:
        return error.reason
    except UserError as error:
        return str(error)
