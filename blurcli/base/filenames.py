"""Names of files that are made of other names."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_LONGEST, _KEPT_END = 255, 24  # bytes; the end of a name has its suffix, and what tells it from others


def fitting(path: Path) -> Path:
    """A path whose last name is not too long for file systems: the middle of a longer name becomes a hash of the name."""
    name = os.fsencode(path.name)
    if len(name) <= _LONGEST:
        return path
    middle = f"-{hashlib.blake2b(name, digest_size=4).hexdigest()}-".encode()
    begin = name[: _LONGEST - len(middle) - _KEPT_END]
    return path.with_name((begin + middle + name[-_KEPT_END:]).decode(errors="ignore"))
