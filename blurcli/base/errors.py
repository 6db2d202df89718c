"""Errors that the user can fix: their text is the whole message, without a traceback."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_OPTION = re.compile("\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}(.*?)\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def option(name: str) -> str:
    """A reference to an option in the text of a message; whoever shows the message spells it with `spelled`."""
    return f"\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}{name}\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"


def spelled(text: str, spell: Callable[[str], str]) -> str:
    """A text with `spell(name)` for every reference to an option: a flag on the command line, a parameter in Python."""
    return _OPTION.sub(lambda match: spell(match[1]), text)


def one_line(name: str) -> str:
    """The name of a file for a message: line ends and other control characters as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def quoted(word: object) -> str:
    """A path or other word for a command in a message: in quotes where a shell would split it."""
    text = one_line(str(word))
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


class UserError(Exception):
    """A failure that the user can fix: exit code 1. The text names the file or key, and the fix."""

    exit_code = 1

    @property
    def text(self) -> str:
        """The text with unspelled references to options, for messages that contain it; see `spelled`."""
        return super().__str__()

    def __str__(self) -> str:
        return spelled(self.text, lambda name: f"`{name}`")


class DivergedError(UserError):
    """A training diverged: repeated, it diverges again."""


class LockedError(UserError):
    """Another process works in a folder."""


class UsageError(UserError):
    """Wrong usage (option, preset, missing file): exit code 2."""

    exit_code = 2


class OptionError(UsageError):
    """An option has an invalid value.

    Args:
        name: name of the option as a parameter, such as `sampler`.
        value: the invalid value.
        reason: what is wrong, and what to use instead.
    """

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(f"{option(name)} {value}: {reason}")


@contextmanager
def importing(package: str, text: str, hint: str = "", install: str | None = None) -> Iterator[None]:
    """Turn a failed import of an optional package into a UserError that says how to install it, or why it fails.

    Args:
        package: name for imports.
        text: beginning of the message: what needs the package.
        hint: end of the message: what else to do.
        install: name for pip; None for the same.
    """
    try:
        yield
    except Exception as error:  # an incompatible package can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            name = install or package
            raise UserError(f"{text}: needs the package {name}: pip install {name}{hint}") from None
        reason = one_line((str(error).strip().splitlines() or [""])[0])
        raise UserError(
            f"{text}: the package {package} is installed but cannot be imported ({type(error).__name__}: {reason}); repair it "
            f"or what it needs{hint}"
        ) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for a close match among `known`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
