"""Errors that a user can act on: their text is the whole message, and no traceback is shown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something failed that the user can mend: exit code 1. The text names the file or key, and the way out."""

    exit_code = 1


class UsageError(UserError):
    """The command was called wrongly (flag, preset, missing file): exit code 2."""

    exit_code = 2


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for a close match among `known`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
