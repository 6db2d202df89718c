"""The files below a folder, through links, and what is skipped."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from blurcli.base.cache import cache_folder
from blurcli.base.errors import UserError
from blurcli.base.files import OF_SAMPLING
from blurcli.data.images import image_suffixes, missing_reader
from blurcli.data.outputs import OUTPUT, is_output_folder

HIDDEN = "hidden"
SYSTEM = "in a system's own folder"
NO_IMAGE = "without an image's suffix"
UNREADABLE = "that cannot be opened"
REPEATED = "linked twice"

# Thumbnails and waste baskets of Synology's and QNAP's network drives; the resource forks that macOS adds to archives.
_SYSTEM_FOLDERS = frozenset({"@eaDir", "@Recycle", "#recycle", "#snapshot", "@tmp", "__MACOSX"})

Skipped = dict[str, tuple[str, ...]]
"""Names of files and folders that are not read, by reason."""


def image_names(names: Iterable[str], skipped: Skipped | None = None) -> tuple[tuple[str, ...], Skipped]:
    """The names of images among file names, in order; the others are added to `skipped`, by reason."""
    images, others = [], {reason: list(known) for reason, known in (skipped or {}).items()}
    for name in names:
        if name.rpartition("/")[2] in OF_SAMPLING:
            continue
        reason = _why_not(name)
        if reason is None:
            images.append(name)
        else:
            others.setdefault(reason, []).append(name)
    return tuple(sorted(images)), {reason: tuple(sorted(known)) for reason, known in others.items()}


def _why_not(name: str) -> str | None:
    return _not_entered(name) or (None if name.lower().endswith(image_suffixes()) else missing_reader(name) or NO_IMAGE)


def _not_entered(name: str) -> str | None:
    parts = name.split("/")
    if any(part in _SYSTEM_FOLDERS for part in parts):
        return SYSTEM
    return HIDDEN if any(part.startswith(".") for part in parts) else None


def walk(folder: Path) -> tuple[list[str], Skipped]:
    """The files below a folder, and what is skipped, by reason.

    Links are followed. Every folder is entered once, preferably not by a link, so that cycles end; a file is listed once even
    if links lead to it as well. Hidden folders, folders of operating systems and folders made by blurdiff are not entered.

    Returns:
        Names relative to `folder`, with slashes.
    """
    files: list[str] = []
    file_links: list[str] = []
    skipped: dict[str, list[str]] = {}
    seen: set[tuple[int, int]] = set()
    cache = _cache()
    real, linked = deque([""]), deque[str]()
    while real or linked:
        relative = real.popleft() if real else linked.popleft()
        try:
            identity = _identity(folder / relative)
            if identity in seen:
                skipped.setdefault(REPEATED, []).append(relative)
                continue
            seen.add(identity)
            with os.scandir(folder / relative) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            skipped.setdefault(UNREADABLE, []).append(relative or ".")
            continue
        # The given folder itself is read in any case.
        if relative and (identity == cache or is_output_folder({entry.name for entry in entries})):
            skipped.setdefault(OUTPUT, []).append(relative)
            continue
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself, or through a folder that may not be entered
                is_folder = is_file = False
            if is_folder:
                if reason := _not_entered(entry.name):
                    skipped.setdefault(reason, []).append(name)
                else:
                    (linked if entry.is_symlink() else real).append(name)
            elif is_file:
                (file_links if entry.is_symlink() else files).append(name)
            else:  # a broken link, or a device
                skipped.setdefault(UNREADABLE, []).append(name)
    if file_links:
        known = set()
        for name in files:
            with suppress(OSError):  # it has just gone
                known.add(_identity(folder / name))
        for name in file_links:
            try:
                identity = _identity(folder / name)
            except OSError:
                skipped.setdefault(UNREADABLE, []).append(name)
                continue
            if identity in known:
                skipped.setdefault(REPEATED, []).append(name)
            else:
                known.add(identity)
                files.append(name)
    return files, {reason: tuple(names) for reason, names in skipped.items()}


def _cache() -> tuple[int, int] | None:
    """The identity of the cache folder, which may be inside a data set; None if there is none."""
    with suppress(OSError, UserError):
        return _identity(cache_folder())
    return None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
