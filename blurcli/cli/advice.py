"""Corrections of mistyped arguments: some are accepted, for others an error suggests the command that works."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

INTEGER_FLAGS = frozenset(
    {
        "--batch-size",
        "--calls",
        "--columns",
        "--enlarge",
        "--frames",
        "--interpolate",
        "--jobs",
        "--loop",
        "--mask-grow",
        "--n",
        "--repeats",
        "--scale",
        "--seed",
    }
    | {"--seeds", "--size", "--steps"}
)
"""The flags with whole numbers, which may be written as 1e3."""

_POWER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_EXTRA_PATH = {
    **dict.fromkeys(("train", "likelihood", "diagnose", "sweep", "distill", "report"), ("--data",)),
    "fid": ("--samples", "--data"),
}
_ONE_EACH = ("report", "data", "presets")
"""Commands with one argument; several arguments mean several commands."""

_FLAG_WORDS = {
    "n": "count num number amount num-samples n-samples nsamples samples num-images n-images nimages",
    "out": "o output outfile out-file output-file outdir out-dir output-dir output-path output-folder save save-path save-dir",
    "run": "resume run-dir exp experiment logdir log-dir workdir work-dir o output outdir out-dir output-dir save-dir",
    "weights": "ckpt ckpt-path checkpoint checkpoint-path model model-path weight network pretrained",
    "samples": "fake generated images",
    "data": "dataset datasets dataset-path dataset-dir data-dir data-path datadir images images-dir image-dir input real",
    "path": "data dataset data-dir images images-dir input",
    "source": "run weights ckpt checkpoint model",
    "model": "run weights teacher ckpt checkpoint",
    "checkpoint": "ckpt weights model",
    "repository": "repo repo-id",
    "runs": "run",
    "init-image": "init init-img image input img",
    "steps": "num-steps n-steps nsteps nfe sampling-steps sample-steps inference-steps num-inference-steps ddim-steps",
    "guidance": "cfg cfg-scale guidance-scale",
    "class": "label class-label class-id classes",
    "sampler": "scheduler method solver",
    "batch-size": "batch bs b batchsize",
    "preset": "config cfg",
    "seed": "s random-seed",
    "frames": "length num-frames n-frames nframes",
    "size": "resolution res image-size img-size",
}
"""Options and arguments, and their names in other tools."""

_KEY_WORDS = {
    "train.steps": "iterations iters max-iters max-steps num-steps total-steps train-steps n-iter",
    "train.batch_size": "batch bs b batchsize",
    "optim.lr": "learning-rate",
    "data.image_size": "size resolution res img-size",
}
"""Keys of presets, and their names in other tools."""

_GPU = ("gpu", "gpus", "cuda", "gpu-id")
_GPU_VALUE = re.compile(r"\d+(,\d+)*|cuda(:\d+)?|all")
_MOST_CORRECTIONS = 8
_COMMAND_WORDS = {
    "sample": "generate gen infer inference",
    "fid": "score eval evaluate evaluation metrics kid",
    "train": "resume fit finetune",
    "animate": "gif video visualize",
    "prefetch": "download fetch",
    "import": "convert",
    "push": "upload share",
    "bench": "benchmark speed",
    "data": "dataset inspect",
    "results": "list scores compare",
}


def normalize_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments with a leading `~` expanded, if the shell did not, and whole numbers written out, 1e3 as 1000."""
    from blurcli.config import expand_home

    result: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        counted = flag in INTEGER_FLAGS or (not flag and result and result[-1] in INTEGER_FLAGS)
        if counted and _POWER.fullmatch(value) and float(value).is_integer():
            value = str(int(float(value)))
        result.append(flag + equals + expand_home(value))
    return result


def correction(arguments: Sequence[str], message: str, commands: Mapping[str, Any]) -> str | None:
    """Suggest what a refused command line probably meant: a sentence with a valid command to paste.

    Args:
        arguments: the command line.
        message: the message of the refusal.
        commands: all commands, by name.
    """
    current: list[str] | None = list(arguments)
    given = message
    for _ in range(_MOST_CORRECTIONS):
        if not current or (current := _corrected(current, message, commands)) is None:
            break
        refusal = _refusal(current, commands)
        if refusal is None:
            return f"Did you mean: blurdiff {shlex.join(current)}"
        message = refusal
    return _several(list(arguments), given, commands)


def _refusal(arguments: list[str], commands: Mapping[str, Any]) -> str | None:
    """Why a command line is refused; None if it is accepted."""
    command = commands.get(arguments[0])
    if command is None:
        return f"No such command {arguments[0]!r}."
    try:
        command.make_context(arguments[0], arguments[1:])
    except Exception as error:  # Typer's or Click's, whichever it is built on
        return str(getattr(error, "message", ""))
    return None


def _corrected(arguments: list[str], message: str, commands: Mapping[str, Any]) -> list[str] | None:
    """A command line without the mistake that a message reports; None for other mistakes."""
    if re.match(r"No such command ", message):
        name = _closest(arguments[0], commands, _candidates(arguments[0], _COMMAND_WORDS))
        return None if name is None else [name, *arguments[1:]]
    command = commands.get(arguments[0])
    if command is None:
        return None
    if match := re.search(r"No such option: (--?[\w-]+)", message):
        return _with_option(command, arguments, match[1])
    if match := re.search(r"unexpected extra argument.*? \(((?!s\)).+)\)", message):
        return _with_flag(arguments, match[1], any("--preset" in one.opts for one in command.params))
    return None


def _with_option(command: Any, arguments: list[str], flag: str) -> list[str] | None:
    """An unknown option converted to its name here, to an argument, or to an assignment of a key."""
    short = not flag.startswith("--")
    place = next(
        (i for i, one in enumerate(arguments) if one.partition("=")[0] == flag or (short and re.match(rf"{flag}[^-]", one))),
        None,
    )
    if place is None:
        return None
    before, after = arguments[:place], arguments[place + 1 :]
    written, equals, value = arguments[place].partition("=")
    name = written.lstrip("-").lower().replace("_", "-")
    if short and (glued := re.fullmatch(r"-([A-Za-z])(\d+)", written)):
        name, equals, value = glued[1].lower(), "=", glued[2]
    options = {
        one.lstrip("-"): parameter for parameter in command.params for one in (*parameter.opts, *parameter.secondary_opts)
    }
    if name in _GPU and "device" in options:
        rest = after[1:] if not equals and after and _GPU_VALUE.fullmatch(after[0]) else after
        return [*before, "--device", "cuda", *rest]
    if name in ("cpu", "no-cuda") and "device" in options:
        return [*before, "--device", "cpu", *after]
    if not equals and after and not re.match(r"-(?!\d)", after[0]):
        equals, value, rest = "=", after[0], after[1:]
    else:
        rest = after
    if name == "resume" and not equals:  # training continues automatically
        return [*before, *rest] if arguments[0] == "train" else None
    # Only the keys of the images change what `data` measures.
    key = _key(name, "data." if arguments[0] == "data" else "") if "set" in options and name not in options else None
    candidates = _candidates(name, _FLAG_WORDS)
    if {"run", "weights"} <= options.keys() and "weights" in candidates and Path(value).is_dir():
        candidates = ["run"]
    meant = _closest(name, options, candidates, spelling=key is None)
    if meant is None or (meant == "run" and value.endswith(".safetensors")):
        return [*before, "--set", f"{key}={value}", *rest] if key is not None and equals else None
    parameter = options[meant]
    if parameter.param_type_name == "argument":
        return [*before, *rest, value] if equals else None
    if parameter.is_flag:
        return [*before, f"--{meant}", *after]
    return [*before, f"--{meant}", value, *rest] if equals else None


def _key(name: str, prefix: str) -> str | None:
    """The key of a preset, with this prefix, for the name of an option."""
    from blurcli.config import Config, flatten

    leaf = name.replace("-", "_")
    sections = ("train", "optim", "model", "data", "process", "sample", "score")
    keys = [key for section in sections for key in flatten(Config()) if key == f"{section}.{leaf}"]
    return next((key for key in [*keys, *_candidates(name, _KEY_WORDS)] if key.startswith(prefix)), None)


def _with_flag(arguments: list[str], extra: str, presets: bool) -> list[str] | None:
    """The first surplus argument as the value of the flag that it is for."""
    from blurcli.config import DATASET_NAMES, preset_names

    command, given = arguments[0], {argument.partition("=")[0] for argument in arguments}
    places = _extras(arguments, extra)
    if not places:
        return None
    place = places[0]
    extra = arguments[place]
    if extra.isdecimal() and command in ("sample", "fid"):
        flags: tuple[str, ...] = ("--n",)
    elif extra.endswith(".safetensors") or extra.startswith("hf://"):
        flags = ("--weights",)
    elif presets and (extra in preset_names() or extra.endswith((".yaml", ".yml"))):
        flags = ("--preset",)
    elif (Path(extra) / "config.yaml").is_file():
        flags = ("--run",)
    elif extra in DATASET_NAMES or Path(extra).exists():
        flags = _EXTRA_PATH.get(command, ())
    else:
        return None
    flag = next((flag for flag in flags if flag not in given), None)
    return None if flag is None else [*arguments[:place], flag, extra, *arguments[place + 1 :]]


def _several(arguments: list[str], message: str, commands: Mapping[str, Any]) -> str | None:
    """Several commands for several arguments of a command with one; or a sentence about other units."""
    assignable = arguments and any("--set" in one.opts for one in getattr(commands.get(arguments[0]), "params", ()))
    if assignable and re.search(r"No such option: --(num-|n-|max-)?epochs?\b", message.replace("_", "-")):
        return "Training is counted in steps, not in epochs: --set train.steps=1000"
    match = re.search(r"unexpected extra argument.*? \(((?!s\)).+)\)", message)
    if match is None or arguments[0] not in _ONE_EACH or "--out" in arguments:
        return None
    extras = _extras(arguments, match[1])
    first = [argument for i, argument in enumerate(arguments) if i not in extras]
    each = [first, *([arguments[0], arguments[i]] for i in extras)]
    if not extras or any(_refusal(one, commands) is not None for one in each):
        return None
    return "Did you mean: " + " && ".join(f"blurdiff {shlex.join(one)}" for one in each)


def _extras(arguments: list[str], text: str) -> list[int]:
    """The positions of the arguments that a message lists, separated by spaces; arguments may contain spaces."""
    for after_flags in (False, True):
        places: list[int] = []
        left = f" {text}"
        for i in reversed(range(1, len(arguments))):
            if left.endswith(f" {arguments[i]}") and (after_flags or not arguments[i - 1].startswith("--")):
                places, left = [i, *places], left.removesuffix(f" {arguments[i]}")
        if not left:
            return places
    return []


def _candidates(word: str, words: Mapping[str, str]) -> list[str]:
    return [name for name, others in words.items() if word in others.split()]


def _closest(name: str, known: Iterable[str], candidates: Iterable[str], spelling: bool = True) -> str | None:
    """The known name for a name: itself, the name for another tool's, or one with a similar spelling."""
    names = list(known)
    found = [one for one in (name, *candidates) if one in names]
    if not found and spelling:
        found = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return found[0] if found else None
