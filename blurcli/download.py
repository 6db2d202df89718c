"""Files from the network: whole, as published and verified ever after, or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from blurcli import files
from blurcli.errors import UserError

Progress = Callable[[int, int], None]

_STALL_SEC = 20.0  # without a byte
_SLOWEST_BYTES_PER_SEC = 1000  # mean over the last _STALL_SEC: a host that only drips would hold a command for hours
_CHUNK = 1 << 16


def fetch(url: str, path: Path, check: Callable[[Path], object], progress: Progress, sha256: str | None = None) -> None:
    """Download a file and record its size and SHA-256 beside it, for `verify`.

    Args:
        url: http or https.
        path: where it will lie; only what arrived whole and passed the checks comes there.
        check: raises UserError for a file of wrong content.
        progress: called as `progress(done, total)` in bytes; total 0 is unknown.
        sha256: of the published file, where it is known.

    Raises:
        UserError: the host cannot be reached, refuses, is too slow or breaks off; the content is wrong; it cannot be written.
    """
    with files.replacing(path) as temporary:
        with temporary.open("wb") as file:
            for chunk in _chunks(url, progress):
                file.write(chunk)
        digest = file_sha256(temporary)
        if sha256 is not None and digest != sha256:
            raise UserError(f"{url}: sent other bytes than were published (SHA-256 {digest} instead of {sha256})")
        try:
            check(temporary)
        except UserError as error:
            raise UserError(f"{url}: sent something else than {path.name} ({error})") from None
    _write_record(path, digest, path.stat().st_size, url)


def verify(path: Path) -> str:
    """The SHA-256 of a fetched file, in hex; of one that was put there by hand, it is recorded now.

    Raises:
        UserError: the file is not the one that was recorded.
    """
    digest, size = file_sha256(path), path.stat().st_size
    record = _record_path(path)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        expected = known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        _write_record(path, digest, size, "put there by hand")
        return digest
    if digest != expected:
        raise UserError(
            f"{path}: is not the file that was recorded ({size} bytes with SHA-256 {digest}, instead of "
            f"{known.get('bytes')} with {expected}): delete it to fetch it again, or delete {record} if you changed it"
        )
    return digest


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_record(path: Path, sha256: str, size: int, source: str) -> None:
    with files.replacing(_record_path(path)) as temporary:
        temporary.write_text(json.dumps({"sha256": sha256, "bytes": size, "source": source}) + "\n", encoding="utf-8")


def _chunks(url: str, progress: Progress) -> Iterator[bytes]:
    """The content of `url`; UserError for anything less than the whole of it."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: not an http or https address")
    try:
        with urllib.request.urlopen(url, timeout=_STALL_SEC) as response:
            total = int(response.headers.get("Content-Length") or 0)
            done, window_start, window_bytes = 0, time.monotonic(), 0
            while chunk := response.read1(_CHUNK):
                done += len(chunk)
                window_bytes += len(chunk)
                elapsed = time.monotonic() - window_start
                if elapsed > _STALL_SEC:
                    if window_bytes < _SLOWEST_BYTES_PER_SEC * elapsed:
                        raise UserError(f"{url}: too slow ({window_bytes / elapsed:.0f} bytes/s); try again later")
                    window_start, window_bytes = time.monotonic(), 0
                progress(done, total)
                yield chunk
    except TimeoutError:
        raise UserError(f"{url}: no answer for {_STALL_SEC:g} s; try again later") from None
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the host answered {error.code} ({error.reason})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"{url}: {getattr(error, 'reason', error)}") from None
    if done < total or not done:
        raise UserError(f"{url}: the connection broke off after {done} of {total or 'an unknown number of'} bytes; try again")
