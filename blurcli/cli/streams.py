"""Standard output and error for any encoding."""

from __future__ import annotations

import codecs
import io
import sys


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """A character that the encoding lacks, as an escape; for a file name that is not UTF-8, the byte."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    bytes_of_names = range(0xDC80, 0xDD00)
    shown = [
        f"\\x{ord(c) - 0xDC00:02x}" if ord(c) in bytes_of_names else c.encode("ascii", "backslashreplace").decode()
        for c in text
    ]
    return "".join(shown), error.end


def escape_unprintable() -> None:
    """From now on, print characters that the encoding of a stream lacks as escapes."""
    codecs.register_error("blurdiff.escaped", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="blurdiff.escaped")
