"""Images packed into one uint8 array on disk, memory-mapped ever after; written in memory that does not grow with them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from blurcli import files
from blurcli.data.images import Images


def cache_folder() -> Path:
    """Where packed and downloaded data are kept: $BLURDIFF_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("BLURDIFF_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blurdiff"


def digest_of(text: str) -> str:
    """A hash of a text, for the names of files."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def cached(fingerprint: str, shape: tuple[int, int, int]) -> Images | None:
    """The images kept under a fingerprint, (N, C, H, W), memory-mapped; None where there are none, or they are damaged."""
    try:
        images: Images = np.load(_path(f"{fingerprint}.npy"), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape[1:] == shape and images.dtype == np.uint8 else None


def pack(parts: Iterable[Images], shape: tuple[int, int, int], fingerprint: Callable[[], str]) -> Images:
    """Keep images, which come in parts (n, C, H, W), under a fingerprint that is asked for when all have come.

    Returns:
        All of them, (N, C, H, W), memory-mapped.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = _path("")
    # Written, not mapped: the pages of a map count as memory of this process until the disk has them.
    with files.explained(folder), files.temporary(folder, ".npy") as partial:
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
        path = folder / f"{fingerprint()}.npy"
        with files.replacing(path) as temporary:
            partial.replace(temporary)
    images: Images = np.load(path, mmap_mode="r", allow_pickle=False)
    return images


def recall(key: str) -> tuple[str, tuple[str, ...]] | None:
    """What `remember` was told of files with this key; None for nothing."""
    try:
        known = json.loads(_path(f"{key}.json").read_text(encoding="utf-8"))
        return str(known["fingerprint"]), tuple(map(str, known["broken"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(key: str, fingerprint: str, broken: Sequence[str]) -> None:
    """Keep under which fingerprint files lie packed, and which of them are broken."""
    with files.replacing(_path(f"{key}.json")) as temporary:
        temporary.write_text(json.dumps({"fingerprint": fingerprint, "broken": list(broken)}), encoding="utf-8")


def _path(name: str) -> Path:
    return cache_folder() / "images" / name


def _write_header(file: IO[bytes], count: int, shape: tuple[int, int, int]) -> None:
    # NumPy leaves room in it for the count to grow.
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
