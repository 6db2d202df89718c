"""Recognize the output of blurdiff, so that pictures saved among the user's images never become training data.

Runs, sample folders and packed images are recognized by the files in their folder, single pictures by a mark in the file.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin

from blurcli.base import files
from blurcli.base.cache import TAG
from blurcli.base.errors import UserError
from blurcli.base.parallel import ahead
from blurcli.data.packed_cache import digest_of, record_path

OUTPUT = "made by blurdiff"
"""The mark of a picture, and the reason for which it is skipped."""

_ALONE = frozenset({files.SAMPLING, TAG})
_RUN = frozenset({"config.yaml", "sessions.jsonl", "state.safetensors", "weights"})  # any two of them
_SIGNS = _ALONE | _RUN
_PICTURES = (".png", ".apng", ".gif", ".webp", ".jpg", ".jpeg", ".tif", ".tiff")
_AT_END = ".webp"  # its metadata follow the pixels
_MARKED_BYTES = 2048  # at the beginning of a file, or after the color profile of a PNG: the mark is among them
_END_BYTES = 1 << 16  # as many as the EXIF data of a photo have at most; the mark is at their beginning
_PNG_HEADER = 33  # bytes before the first chunk that can be a color profile
_SOFTWARE = 0x0131  # EXIF


def is_output_folder(entries: Collection[str]) -> bool:
    """Whether a folder with these entries is a run, a folder of samples, or a cache."""
    found = _SIGNS.intersection(entries)
    return bool(found & _ALONE) or len(found & _RUN) > 1


def output_folders(names: Collection[str]) -> tuple[str, ...]:
    """The folders among an archive's members that blurdiff made, except for one that contains all members."""
    entries = defaultdict[str, set[str]](set)
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            if part in _SIGNS:
                entries["/".join(parts[:depth])].add(part)
    made = [folder for folder, known in entries.items() if folder and is_output_folder(known)]
    return tuple(folder for folder in made if not all(name.startswith(f"{folder}/") for name in names))


def output_pictures(
    place: Path, names: Collection[str], stamp: Callable[[str], str], opening: Callable[[str], IO[bytes]]
) -> frozenset[str]:
    """The names of grids, animations and plots that blurdiff drew.

    The beginnings of the files are read once; the result is cached for files with unchanged stamps.

    Args:
        place: the folder or archive of the files.
        names: names of the files.
        stamp: `stamp(name)` changes with the content of a file.
        opening: `opening(name)` opens a file.
    """
    candidates = [name for name in names if name.lower().endswith(_PICTURES)]
    if not candidates:
        return frozenset()
    stamps = "".join(f"{name}\0{stamp(name)}\0" for name in candidates)
    path = record_path(digest_of(f"{OUTPUT}\0{place.absolute()}\0{stamps}"))
    with suppress(OSError, ValueError, TypeError):
        return frozenset(map(str, json.loads(path.read_text(encoding="utf-8"))))
    marked = ahead(lambda name: _is_marked(opening, name), candidates)
    found = [name for name, is_marked in zip(candidates, marked, strict=True) if is_marked]
    with suppress(UserError), files.replacing(path) as temporary:  # reported where the cache is needed
        temporary.write_text(json.dumps(found), encoding="utf-8")
    return frozenset(found)


def _is_marked(opening: Callable[[str], IO[bytes]], name: str) -> bool:
    try:
        with opening(name) as file:
            return OUTPUT.encode() in _ends(file, name)
    except Exception:  # encrypted, damaged, not permitted: reported when it is read
        return False


def _ends(file: IO[bytes], name: str) -> bytes:
    content = file.read(_MARKED_BYTES)
    size, chunk = content[_PNG_HEADER : _PNG_HEADER + 4], content[_PNG_HEADER + 4 : _PNG_HEADER + 8]
    if chunk == b"iCCP":
        file.seek(_PNG_HEADER + int.from_bytes(size))
        content += file.read(_MARKED_BYTES)
    elif name.lower().endswith(_AT_END):
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END_BYTES))
        content += file.read(_END_BYTES)
    return content


def mark(form: str) -> dict[str, Any]:
    """Arguments of Pillow's `save` that mark a picture as made by blurdiff; `form` is Pillow's name of the format."""
    if form == "GIF":
        return {"comment": OUTPUT}
    if form == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", OUTPUT)
        return {"pnginfo": text}
    exif = Image.Exif()
    exif[_SOFTWARE] = OUTPUT
    return {"exif": exif}
