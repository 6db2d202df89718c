"""Atomic file writes."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from blurcli.base.cache import cache_folder
from blurcli.base.errors import LockedError, UsageError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial-"
"""Prefix of the names of unfinished files; these names have a fixed length for any name of the finished file."""
_LONGEST_SUFFIX = 16
_ABANDONED_SEC = 24 * 3600.0  # without a change, where no lock shows that a process is still writing

SAMPLING = "sampling.json"
"""The record in a folder of sampled images; it marks the folder as made by blurdiff."""

_LOCK = ".lock"
_LOCK_HOLDER = ".lock-holder"  # Windows forbids reading a locked file

# Files that file managers, network drives and mounted disks create, and placeholders for empty folders; in lower case.
_OF_SYSTEMS = frozenset(
    {
        *(".ds_store", ".localized", ".spotlight-v100", ".fseventsd", ".trashes", ".temporaryitems", ".apdisk"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", ".directory"),
        *("lost+found", "@eadir", "@recycle", "#recycle", "#snapshot", ".snapshot", ".gitkeep", ".keep"),
    }
)
OF_SAMPLING = frozenset({SAMPLING, _LOCK})
"""Files in a folder of sampled images that are not images."""

_OF_NOBODY = (PARTIAL, _LOCK, ".nfs", "._", ".fuse_hidden", ".trash-")  # beginnings of names


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path`, synced to disk, when the block ends without an error.

    The temporary name keeps the suffix, because libraries choose the format by it. Missing parent folders are created.

    Args:
        path: the file.
        keep: where the previous file at `path` goes; None to replace it.

    Raises:
        UserError: the file cannot be written; the previous file at `path` is untouched.
    """
    with explained(path), temporary(path) as unfinished:
        yield unfinished
        unfinished.chmod(0o666 & ~_umask())  # mkstemp makes private files; these are ordinary results
        _sync(unfinished)
        if keep is not None and path.exists():
            path.replace(keep)
        unfinished.replace(path)
        _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which becomes `path`, synced to disk, when the block ends without an error.

    Missing parent folders are created. `path` must not exist, or be an empty folder, see `is_empty`.

    Raises:
        UserError: the folder cannot be written; nothing is left behind.
    """
    with explained(path), _unfinished(path, lambda prefix: tempfile.mkdtemp(dir=path.parent, prefix=prefix)) as unfinished:
        yield unfinished
        for inside in [*unfinished.rglob("*"), unfinished]:
            # mkdtemp makes private folders, and safetensors private files.
            inside.chmod((0o777 if inside.is_dir() else 0o666) & ~_umask())
            _sync(inside)
        _move_into_place(unfinished, path)


def _move_into_place(folder: Path, path: Path) -> None:
    """Move a folder to a path that does not exist, or that is an empty folder; see `is_empty`."""
    try:
        if path.exists():
            path.rmdir()
    except OSError:  # it has files of the system, or is a mount point
        for inside in [*folder.iterdir()]:
            shutil.move(inside, path / inside.name)
        _sync(path)
    else:
        folder.replace(path)
        _sync(path.parent)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path`, with its suffix; when the block ends the file is removed if it still exists.

    Missing parent folders are created.
    """

    def make(prefix: str) -> str:
        suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
        os.close(handle)
        return name

    with _unfinished(path, make) as unfinished:
        yield unfinished


@contextmanager
def _unfinished(path: Path, make: Callable[[str], str]) -> Iterator[Path]:
    """Yield what `make(prefix)` creates beside `path`, locked against `remove_abandoned`; it is removed after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_relative_to(cache_folder()):
        remove_abandoned(path.parent)
    prefix = f"{_prefix(path)}{_host()}-"
    unfinished = Path(make(prefix))
    lock = _locked(unfinished)
    while lock is None:  # another process removed it before it was locked
        unfinished = Path(make(prefix))
        lock = _locked(unfinished)
    try:
        yield unfinished
    finally:
        _remove(unfinished)
        if lock >= 0:
            os.close(lock)


def remove_abandoned(folder: Path, path: Path | None = None) -> None:
    """Remove the unfinished files and folders that killed processes left in a folder, but none that is still written.

    A process that writes one on this machine holds a lock on it, which the operating system releases with the process. Where
    locks do not work, across machines or operating systems, it counts as abandoned after a day without a change.

    Args:
        folder: the folder.
        path: remove only unfinished versions of this file or folder; None for all.
    """
    for unfinished in folder.glob(f"{PARTIAL if path is None else _prefix(path)}*"):
        with suppress(OSError):
            old = time.time() - unfinished.lstat().st_mtime > _ABANDONED_SEC
            lock = _locked(unfinished)
            if lock is None:
                continue
            try:
                if old or (lock >= 0 and f"-{_host()}-" in unfinished.name):
                    _remove(unfinished)
            finally:
                if lock >= 0:
                    os.close(lock)


def _prefix(path: Path) -> str:
    return f"{PARTIAL}{_short_hash(os.fsencode(path.name))}-"


def _host() -> str:
    return _short_hash(platform.node().encode())


def _short_hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=4).hexdigest()


def _locked(path: Path) -> int | None:
    """Lock a file or folder until the returned descriptor is closed; -1 without locks, None where it is locked or gone."""
    if fcntl is None:
        return -1
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        return None if isinstance(error, BlockingIOError) else -1
    if not path.exists():  # removed before it was locked
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove the unfinished files and folders that killed processes left below a folder; no other process may write there."""
    with explained(folder):
        for path in [*folder.rglob(f"{PARTIAL}*")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Whether a folder has nothing but files of the system and the leftovers of a command that was stopped at once."""
    names = (path.name.lower() for path in folder.iterdir())
    return all(name in _OF_SYSTEMS or name.startswith(_OF_NOBODY) for name in names)


@contextmanager
def locked(folder: Path, work: str, notify: Callable[[str], None]) -> Iterator[None]:
    """Lock a folder against other commands while the block runs; create it where it is missing.

    The operating system holds the lock, and releases it when the process ends in any way.

    Args:
        folder: where the work is done.
        work: the work, for the message to other commands, such as `training`.
        notify: receives a warning where the file system has no locks.

    Raises:
        LockedError: another process holds the lock.
        UserError: the folder cannot be written.
    """
    lock, holder = FileLock(folder / _LOCK, timeout=0), folder / _LOCK_HOLDER
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / _LOCK)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(
            f"{folder}: {_start_of(holder) or 'another process works here'}; wait for it, or use another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        notify(f"warning: {folder}: cannot be locked ({error}); make sure that no other command works there")
    try:
        with explained(folder):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} is {work} here", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _start_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return ""


def unreadable(path: Path) -> str | None:
    """Why a file cannot be read, and the fix, to follow its name in a message; None if it can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a file"
        with path.open("rb"):
            return None
    except FileNotFoundError:
        if path.is_symlink():
            target = path.readlink()
            return f"is a link to {target}, which is not here; fetch its content (such as git annex get, dvc pull)"
        return "no such file"
    except OSError as error:
        hint = "choose a shorter name" if error.errno == errno.ENAMETOOLONG else "fix its permissions"
        return f"cannot be read ({error.strerror}); {hint}"


def listed(folder: Path) -> list[Path]:
    """The entries of a folder by name; none if it cannot be read, which may happen at any moment."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none if there is no such file. Truncated lines are skipped.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
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


def append_json_line(path: Path, value: dict[str, Any]) -> None:
    """Append an object to a JSON-lines file; see `append_lines`."""
    append_lines(path, json.dumps(value))


def append_lines(path: Path, text: str) -> None:
    """Append lines to a text file, in one write.

    Raises:
        UserError: the file cannot be written.
    """
    with explained(path), path.open("a+b") as file:
        # A line that a crash truncated must not damage this one.
        file.seek(max(0, file.tell() - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + text.encode() + b"\n")


def check_writable(path: Path) -> None:
    """Raise a UserError before the work if a file at `path` cannot be created, or appended to.

    Unfinished versions of it that a killed process left are removed.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.lstat()  # fails for a name that is too long
        with path.open("ab") if path.exists() else tempfile.TemporaryFile(dir=path.parent):
            pass
        remove_abandoned(path.parent, path)


def check_new_folder(folder: Path) -> None:
    """Refuse, before the work, an output folder that is not empty or cannot be created.

    Raises:
        UsageError: it is not empty, or not a folder.
        UserError: it cannot be created.
    """
    with explained(folder):
        if folder.exists() and (not folder.is_dir() or not is_empty(folder)):
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
        remedy[errno.ENAMETOOLONG] = "choose a shorter name"
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
