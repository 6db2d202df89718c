"""Errors that a user can fix: their text is the whole message, and no traceback is shown."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_OPTION = re.compile("\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}(.*?)\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def option(name: str) -> str:
    """A reference to an option in the text of an error or message, spelled by whoever shows it; see `spelled`."""
    return f"\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}{name}\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"


def spelled(text: str, spell: Callable[[str], str]) -> str:
    """A text with `spell(name)` for every reference to an option: a flag on the command line, a parameter in Python."""
    return _OPTION.sub(lambda match: spell(match[1]), text)


def one_line(name: str) -> str:
    """The name of a file as a message shows it: line ends and other control characters as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def quoted(word: object) -> str:
    """A path or other word as it stands in a command that a message suggests: in quotes where a shell would split it."""
    text = one_line(str(word))
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


class UserError(Exception):
    """Something failed that the user can fix: exit code 1. The text names the file or key, and the fix."""

    exit_code = 1

    @property
    def text(self) -> str:
        """The text with references to options, for messages that contain it; see `spelled`."""
        return super().__str__()

    def __str__(self) -> str:
        return spelled(self.text, lambda name: f"`{name}`")


class UsageError(UserError):
    """Wrong usage (option, preset, missing file): exit code 2."""

    exit_code = 2


class OptionError(UsageError):
    """An option has a value that does not fit.

    Args:
        name: name of the option as a parameter, such as `sampler`.
        value: the value that does not fit.
        reason: what is wrong, and what to use instead.
    """

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(f"{option(name)} {value}: {reason}")


@contextmanager
def importing(package: str, text: str, hint: str = "", install: str | None = None) -> Iterator[None]:
    """Turn a failed import of an optional package into a UserError: how to install it, or why it cannot be imported.

    Args:
        package: its name, by which it is imported.
        text: what needs it; the message begins with that.
        hint: what else to do.
        install: its name, by which it is installed; None for the same.
    """
    try:
        yield
    except Exception as error:  # a package that does not fit the others can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            name = install or package
            raise UserError(f"{text}: needs the package {name}: pip install {name}{hint}") from None
        reason = one_line((str(error).strip().splitlines() or [""])[0])
        raise UserError(
            f"{text}: the package {package} is there and cannot be imported ({type(error).__name__}: {reason}); repair it, or "
            f"what it needs{hint}"
        ) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for a close match among `known`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
