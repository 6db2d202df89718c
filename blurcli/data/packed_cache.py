"""The cache of packed images: one uint8 array on disk, memory-mapped when read, written in constant memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from blurcli.base import files
from blurcli.base.cache import cache_folder, tag
from blurcli.data.images import Pixels, Range


def digest_of(text: str) -> str:
    """The hash of a text, for file names."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def load_packed(fingerprint: str, shape: tuple[int, int, int]) -> Pixels | None:
    """The images with this fingerprint, (N, C, H, W), memory-mapped; None if they are missing or damaged."""
    files.remove_abandoned(_path(""))
    try:
        images: Pixels = np.load(_path(f"{fingerprint}.npy"), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape[1:] == shape and images.dtype == np.uint8 else None


def pack(parts: Iterable[Pixels], shape: tuple[int, int, int], fingerprint: Callable[[], str]) -> Pixels:
    """Write images into the cache as one array.

    Args:
        parts: the images in parts (n, C, H, W).
        shape: (C, H, W) of an image.
        fingerprint: called after the last part, when the hash of the content is known.

    Returns:
        The images, (N, C, H, W), memory-mapped.

    Raises:
        UserError: the cache cannot be written.
    """
    packed = _path("images.npy")
    # Written, not mapped: pages of a map would count as memory of this process until they are on disk.
    with files.explained(packed.parent), files.temporary(packed) as partial:
        tag(packed.parent)
        count = 0
        with partial.open("wb") as file:
            _write_header(file, 0, shape)
            begin = file.tell()
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
                count += len(part)
            file.seek(0)
            _write_header(file, count, shape)
            assert file.tell() == begin
        name = fingerprint()
        # Another training may have the same images mapped, and Windows cannot replace a mapped file.
        if (known := load_packed(name, shape)) is not None:
            return known
        path = _path(f"{name}.npy")
        with files.replacing(path) as temporary:
            partial.replace(temporary)
    images: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return images


@dataclass(frozen=True)
class Record:
    """The properties of packed files.

    Attributes:
        fingerprint: of their packed images.
        broken: names of the unreadable ones.
        values: smallest and largest value of the gray images of more than 8 bits; None if there are none.
    """

    fingerprint: str
    broken: tuple[str, ...]
    values: Range | None


def load_record(key: str) -> Record | None:
    """The record saved for this key; None if there is none."""
    try:
        known = json.loads(record_path(key).read_text(encoding="utf-8"))
        values = known["values"]
        low, high = (0.0, 0.0) if values is None else map(float, values)
        return Record(str(known["fingerprint"]), tuple(map(str, known["broken"])), None if values is None else (low, high))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save_record(key: str, record: Record) -> None:
    """Save the record of files, for a key that changes with them."""
    with files.replacing(record_path(key)) as temporary:
        temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")


def record_path(key: str) -> Path:
    """The file of the record for a key."""
    return _path(f"{key}.json")


def _path(name: str) -> Path:
    return cache_folder() / "images" / name


def _write_header(file: IO[bytes], count: int, shape: tuple[int, int, int]) -> None:
    # NumPy pads the header, so that a larger count fits.
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
