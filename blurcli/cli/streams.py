"""Standard output and error as a command line needs them, whatever their encoding."""

from __future__ import annotations

import codecs
import io
import sys


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, as an escape; of a file name that is not UTF-8, the byte."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    bytes_of_names = range(0xDC80, 0xDD00)
    shown = [
        f"\\x{ord(c) - 0xDC00:02x}" if ord(c) in bytes_of_names else c.encode("ascii", "backslashreplace").decode()
        for c in text
    ]
    return "".join(shown), error.end


def escape_unprintable() -> None:
    """Print what the encoding of a stream lacks as an escape, from now on."""
    codecs.register_error("blurdiff.escaped", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="blurdiff.escaped")
