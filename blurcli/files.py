"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blurcli.cache import cache_folder
from blurcli.errors import UsageError, UserError

PARTIAL = ".partial-"
"""How the names of unfinished files begin."""


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced to disk, when the block ends without an error.

    The temporary name keeps the suffix, by which libraries choose a format. Missing parent folders are created.

    Args:
        path: the file.
        keep: where the previous file at `path` goes; None to replace it.

    Raises:
        UserError: the file cannot be written; the previous file at `path` is untouched.
    """
    with explained(path), temporary(path.parent, path.suffix, path.stem) as unfinished:
        yield unfinished
        unfinished.chmod(0o666 & ~_umask())  # mkstemp makes private files; these are ordinary results
        _sync(unfinished)
        if keep is not None and path.exists():
            path.replace(keep)
        unfinished.replace(path)
        _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place, synced to disk, when the block ends without an error.

    Missing parent folders are created. At `path` there must be nothing, or an empty folder.

    Raises:
        UserError: the folder cannot be written; nothing of it is left.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{PARTIAL}{path.name}-"))
        try:
            yield unfinished
            for inside in [*unfinished.rglob("*"), unfinished]:
                # mkdtemp makes private folders, and safetensors private files.
                inside.chmod((0o777 if inside.is_dir() else 0o666) & ~_umask())
                _sync(inside)
            if path.exists():
                path.rmdir()
            unfinished.replace(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def temporary(folder: Path, suffix: str, stem: str = "") -> Iterator[Path]:
    """A new file in a folder, which is created if missing; when the block ends the file is removed if it still exists."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f"{PARTIAL}{stem}-", suffix=suffix)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove the unfinished files and folders below a folder that killed processes left; nothing else may be writing there."""
    with explained(folder):
        for path in [*folder.rglob(f"{PARTIAL}*")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none where there is no such file. Truncated lines are skipped.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from None
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def check_writable(path: Path) -> None:
    """Raise a UserError before the work if a file at `path` cannot be created, or appended to."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") if path.exists() else tempfile.TemporaryFile(dir=path.parent):
            pass


def check_new_folder(folder: Path) -> None:
    """Refuse, before the work, an output folder that is not empty or cannot be created.

    Raises:
        UsageError: it is not empty, or no folder.
        UserError: it cannot be created.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists and is not an empty folder; choose another one")
    if not folder.exists():
        check_writable(folder)


def check_space(path: Path, size: int) -> None:
    """Raise a UserError before the work if `size` bytes do not fit on the disk of `path`."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{path}: needs about {math.ceil(size / 2**20):,} MiB, and {free >> 20:,} MiB are free; choose another disk"
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a UserError that names it and the fix."""
    try:
        yield
    except OSError as error:
        remedy = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space and run the command again")
        where = " with $BLURDIFF_CACHE" if path.is_relative_to(cache_folder()) else ""
        hint = remedy.get(error.errno or 0, f"choose another location{where}, or fix its permissions")
        raise UserError(f"{path}: cannot be written ({error.strerror or error}): {hint}") from error


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sync(path: Path) -> None:
    # Windows cannot open folders, and syncs only files that are open for writing.
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
