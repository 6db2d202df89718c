"""Arguments as people type them: what is understood all the same, and for the rest the command that works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

INTEGER_FLAGS = frozenset(
    {"--batch-size", "--calls", "--columns", "--frames", "--interpolate", "--loop", "--n", "--repeats", "--scale", "--seed"}
    | {"--seeds", "--size", "--steps"}
)
"""The flags of whole numbers, which may be written as 1e3."""

_POWER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_EXTRA_PATH = {"train": "--data", "fid": "--samples", "likelihood": "--data", "diagnose": "--data", "sweep": "--data"}


def understood(arguments: Sequence[str]) -> list[str]:
    """Arguments with `~` as the home folder where the shell left it, and whole numbers written out, 1e3 as 1000."""
    from blurcli.config import expand_home

    result: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        counted = flag in INTEGER_FLAGS or (not flag and result and result[-1] in INTEGER_FLAGS)
        if counted and _POWER.fullmatch(value) and float(value).is_integer():
            value = str(int(float(value)))
        result.append(flag + equals + expand_home(value))
    return result


def correction(arguments: Sequence[str], message: str) -> str | None:
    """The command that was probably meant, ready to be pasted, where a command line was refused with this message."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    if match := re.search(r"No such option: (--[\w-]+)", message):
        corrected = _assigned(command, list(arguments), match[1])
    elif (match := re.search(r"unexpected extra argument.*? \(((?!s\)).+)\)", message)) and match[1] in arguments:
        corrected = _named(command, list(arguments), match[1])
    else:
        return None
    return None if corrected is None else f"blurdiff {shlex.join(corrected)}"


def _assigned(command: str, arguments: list[str], flag: str) -> list[str] | None:
    """An unknown flag as an assignment to the key of a preset with that name."""
    from blurcli.config import Config, flatten

    if command not in ("train", "bench", "data"):
        return None
    leaf = flag.removeprefix("--").replace("-", "_")
    sections = ("train", "optim", "model", "data", "process", "sample", "score")
    keys = [key for section in sections for key in flatten(Config()) if key == f"{section}.{leaf}"]
    place = next(i for i, argument in enumerate(arguments) if argument.partition("=")[0] == flag)
    _, equals, value = arguments[place].partition("=")
    after = arguments[place + 1 :]
    if not equals:
        if not after or after[0].startswith("--"):
            return None
        value, *after = after
    return [*arguments[:place], "--set", f"{keys[0]}={value}", *after] if keys else None


def _named(command: str, arguments: list[str], extra: str) -> list[str] | None:
    """An argument too many as the value of the flag that it is for."""
    from blurcli.config import DATASET_NAMES, preset_names

    if extra.isdecimal() and command in ("sample", "fid"):
        flag = "--n"
    elif extra.endswith(".safetensors") or extra.startswith("hf://"):
        flag = "--weights"
    elif command in ("train", "bench") and (extra in preset_names() or extra.endswith((".yaml", ".yml"))):
        flag = "--preset"
    elif (Path(extra) / "config.yaml").is_file():
        flag = "--run"
    elif command in _EXTRA_PATH and (extra in DATASET_NAMES or Path(extra).exists()):
        flag = _EXTRA_PATH[command]
    else:
        return None
    place = len(arguments) - 1 - arguments[::-1].index(extra)
    return [*arguments[:place], flag, extra, *arguments[place + 1 :]]
