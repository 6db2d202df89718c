"""Downloads: written atomically, and verified on every use."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from blurcli.base import files
from blurcli.base.errors import UserError, one_line

Progress = Callable[[int, int], None]
"""`progress(done, total)` in bytes; total 0 is unknown."""

_STALL_SEC = 20.0  # without a byte
_SLOWEST_BYTES_PER_SEC = 1000  # mean over _STALL_SEC
_CHUNK = 1 << 16

_REASONS = (
    (r"Tunnel connection failed: ([\w ]+)|Proxy Authentication", "the proxy refuses ({}); see $HTTPS_PROXY"),
    (r"ProxyError", "the proxy cannot be reached; see $HTTPS_PROXY"),
    (
        r"(?i)certificate[ _]verify[ _]failed(?:: ([\w' -]+\w))?",
        "the TLS certificate is not accepted ({}); where a proxy opens TLS, name its certificates with $SSL_CERT_FILE and "
        "$REQUESTS_CA_BUNDLE",
    ),
    (r"\[SSL: (\w+)", "TLS failed ({})"),
    (r"SSLError", "TLS failed"),
    (r"HTTP Error (\d+)", "HTTP {}"),
    (
        r"(?i)gaierror|NameResolution|getaddrinfo|name or service not known|name resolution|nodename nor",
        "no network connection",
    ),
    (r"(?i)unreachable|no route to host|network is down|WinError 100(?:50|51|65)", "no network connection"),
    (r"(?i)timeout|timed out", "timed out"),
    (r"(?i)ConnectionRefused|connection refused|WinError 10061", "connection refused"),
    (
        r"ConnectionReset|ConnectionAborted|BrokenPipe|RemoteDisconnected|IncompleteRead|ProtocolError|ReadError|WriteError|CloseError"
        r"|Consistency check failed",
        "the connection broke off",
    ),
    (r"ConnectError|ConnectionError|NewConnection|UnsupportedProtocol", "no connection"),
)
"""The meaning of types and texts of errors of any library; the first match counts."""


class DownloadError(UserError):
    """A file could not be downloaded.

    Attributes:
        url: its address.
        reason: a short reason.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url, self.reason = url, reason


def network_reason(error: BaseException) -> str | None:
    """A short reason for a failed network request of any library; None for another kind of error."""
    chain = causes(error)
    text = "\n".join(f"{type(one).__name__}: {one}" for one in chain)
    for pattern, reason in _REASONS:
        if found := re.search(pattern, text):
            detail = next(filter(None, found.groups()), None)
            return reason.format(detail) if detail else reason.replace(" ({})", "")
    return None


def causes(error: BaseException) -> list[BaseException]:
    """An error and its chain of causes."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def fetch(url: str, path: Path, check: Callable[[Path], object], progress: Progress, sha256: str | None = None) -> None:
    """Download a file, and record its size and SHA-256 beside it for `verify`.

    Args:
        url: http or https.
        path: the file; it appears only when it is complete and has passed the checks.
        check: raises UserError for wrong content.
        progress: receives the bytes so far.
        sha256: the published SHA-256 in hex; None where it is unknown.

    Raises:
        DownloadError: the host is unreachable, refuses, is too slow or closes the connection; wrong content.
        UserError: the file cannot be written.
    """
    with files.replacing(path) as temporary:
        with temporary.open("wb") as file:
            for chunk in _chunks(url, progress):
                file.write(chunk)
        if sha256 is not None and (found := file_sha256(temporary)) != sha256:
            raise DownloadError(url, f"sent other bytes than were published (SHA-256 {found} instead of {sha256})")
        try:
            check(temporary)
        except UserError as error:
            raise DownloadError(url, f"sent something other than {path.name} ({error.text})") from None
    _write_record(path, file_sha256(path), url)


def verify(path: Path) -> str:
    """The SHA-256 of a downloaded file, in hex; a file without a record is recorded now.

    Raises:
        UserError: the file differs from the record.
    """
    digest, size = file_sha256(path), path.stat().st_size
    record = _record_path(path)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        expected = known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        _write_record(path, digest, "put there by hand")
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


def _write_record(path: Path, sha256: str, source: str) -> None:
    content = {"sha256": sha256, "bytes": path.stat().st_size, "source": source}
    with files.replacing(_record_path(path)) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _chunks(url: str, progress: Progress) -> Iterator[bytes]:
    """The content of `url` as it arrives: waiting for full chunks from a very slow host could take hours."""
    import requests
    import urllib3

    if not url.lower().startswith(("http://", "https://")):
        raise DownloadError(url, "not an http or https address")
    done = total = 0
    try:
        with requests.get(url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=_STALL_SEC) as response:
            if not response.ok:
                raise DownloadError(url, f"HTTP {response.status_code} ({response.reason})")
            total = int(response.headers.get("Content-Length") or 0)
            window_start, window_bytes = time.monotonic(), 0
            while chunk := response.raw.read1(_CHUNK):
                done += len(chunk)
                window_bytes += len(chunk)
                elapsed = time.monotonic() - window_start
                if elapsed > _STALL_SEC:
                    if window_bytes < _SLOWEST_BYTES_PER_SEC * elapsed:
                        raise DownloadError(url, f"too slow ({window_bytes / elapsed:.0f} bytes/s); try again later")
                    window_start, window_bytes = time.monotonic(), 0
                progress(done, total)
                yield chunk
        if not done:
            raise urllib3.exceptions.ProtocolError
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise DownloadError(url, f"no answer for {_STALL_SEC:g} s; try again later") from None
    except urllib3.exceptions.ProtocolError:
        size = total or "an unknown number of"
        raise DownloadError(url, f"the connection broke off after {done} of {size} bytes; try again") from None
    # An OSError means a missing file of certificates.
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
        raise DownloadError(url, network_reason(error) or one_line(str(error))) from None
