"""Help texts: the most used options, the other options by topic, and examples."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand, TyperGroup

from blurcli.core.sampling_options import SAMPLING_OPTIONS

_KINDS = {
    **dict.fromkeys(("int", "int range", "integer", "integer range"), "N"),
    **dict.fromkeys(("float", "float range"), "X"),
    **dict.fromkeys(("path", "directory", "file"), "PATH"),
    **dict.fromkeys(("str", "text", "list[str]"), "TEXT"),
}
"""Placeholders for values, by Typer's name of the type."""

_NAME_WIDTH = 18  # of the column of options, in characters

PANELS: dict[str, tuple[str, ...]] = {
    "Model and data": (
        *(
            "run",
            "weights",
            "fast",
            "guide",
            "preset",
            "set",
            "hours",
            "for",
            "compare",
            "data",
            "images",
            "size",
            "split",
            "samples",
            "reference",
        ),
        *("features", "mode", "inception", "ema", "legacy-attention"),
    ),
    "Damage": ("blur", "defocus", "motion", "kernel", "light", "noise", "enlarge", "mask", "mask-grow"),
    "Sampling": (
        *("n", "samplers", *(one.flag for one in SAMPLING_OPTIONS), "calibration", "seed", "seeds"),
        *("temperature", "mean", "spread"),
        *("repeats", "calls", "init-image", "strength", "init-blurred", "interpolate", "same-init", "share-noise"),
    ),
    "Looks": (
        *("direction", "show", "frames", "spacing", "fps", "hold", "loop", "scale", "columns", "labels", "strip", "animation"),
        "preview",
    ),
    "Output": (
        "out",
        "animate",
        "demo",
        "score",
        "plot",
        "format",
        "width",
        "name",
        "dry-run",
        "json",
        "force",
        "scale",
        "preview",
    ),
    "Sharing": ("license", "private", "message", "revision", "replace-card"),
    "Machine": ("device", "precision", "batch-size", "max-batch", "seconds", "part", "jobs"),
}
"""Names of options, without dashes, by panel and in order; panels without options of a command are not shown."""


@dataclass(frozen=True)
class CommandHelp:
    """The beginning of the help of a command.

    Attributes:
        most_used: the options that are used most, without dashes.
        examples: commands to paste.
        elsewhere: another command, and the options that its help describes.
    """

    most_used: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    elsewhere: tuple[str, tuple[str, ...]] = ("", ())


COMMAND_HELP = {
    "train": CommandHelp(
        ("preset", "data", "set"),
        ("train --preset shapes-blur", "train --data path/to/images", "train --preset cifar10-blur --set train.steps=20000"),
    ),
    "distill": CommandHelp(
        ("data", "set", "run"),
        ("distill runs/shapes-blur", "distill mine.safetensors --data path/to/images --set train.steps=2000"),
    ),
    "sample": CommandHelp(
        ("n", "steps", "out"),
        (
            "sample --n 64",
            "sample --run runs/shapes-blur --fast",
            "sample --run runs/shapes-blur --steps 10 --out images.npz",
            "sample --init-image me.jpg --n 4",
        ),
    ),
    "restore": CommandHelp(
        ("blur", "noise", "enlarge", "mask", "out", "compare"),
        (
            "restore photo.jpg",
            "restore photos/ --out restored",
            "restore photo.jpg --blur 2 --noise 5",
            "restore photo.jpg --n 8 --mean --spread --out photo.html",
            "restore photo.jpg --mask scratches.png",
            "restore --demo",
        ),
    ),
    "animate": CommandHelp(
        ("direction", "images", "n"),
        (
            "animate process.gif",
            "animate me.gif --direction forward --images me.jpg --preset cifar10-blur",
        ),
        (
            "sample",
            (
                *("run", "weights", "guide", "seed", *(one.flag for one in SAMPLING_OPTIONS)),
                *("device", "precision", "json"),
            ),
        ),
    ),
    "fid": CommandHelp(
        ("data", "n", "features"),
        ("fid", "fid --n 10000 --features pixels", "fid --samples theirs/ --data path/to/images"),
    ),
    "results": CommandHelp(
        ("metric", "sort", "format"), ("results", "results runs/a runs/b", "results --metric precision --format latex")
    ),
    "plot": CommandHelp((), ("plot", "plot runs/a --out plots", "plot runs/a runs/b --format pdf --width 3.3")),
    "likelihood": CommandHelp(("n", "calls", "split"), ("likelihood --split test",)),
    "sweep": CommandHelp(("steps", "samplers", "seeds"), ("sweep --steps 5,10,20 --samplers abm,ancestral --seeds 3",)),
    "study": CommandHelp(
        ("data", "out", "dry-run"),
        ("study docs/studies/shapes.yaml --dry-run", "study mine.yaml --jobs 2", "study mine.yaml --part 2/8"),
    ),
    "diagnose": CommandHelp((), ("diagnose", "diagnose --weights shapes --data shapes")),
    "report": CommandHelp((), ("report", "report runs/a --out a.html")),
    "data": CommandHelp((), ("data path/to/images", "data photos.zip --preset folder-small --json")),
    "bench": CommandHelp((), ("bench", "bench --preset cifar10-blur")),
    "presets": CommandHelp((), ("presets", "presets cifar10-blur")),
    "prefetch": CommandHelp((), ("prefetch --preset cifar10-blur",)),
    "export": CommandHelp((), ("export mine.safetensors", "export mine --format diffusers")),
    "push": CommandHelp(("license", "private", "dry-run"), ("push runs/a me/shapes --license mit",)),
    "import": CommandHelp(("preset", "data", "out"), ("import checkpoint.pth --preset cifar10-heat --data cifar10",)),
}


_FIRST_STEPS = {
    "restore photo.jpg": "undo blur and noise in a photo",
    "sample": "64 images of the bundled model",
    "train --preset shapes-blur": "train a model, in minutes",
    "train --data path/to/images": "train one of your own images",
    "animate process.gif": "see how its images emerge",
    "COMMAND --help": "all options of a command",
}


class CommandGroup(TyperGroup):
    """The commands: first steps, and the full summary of each command."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """The description, and the first steps."""
        super().format_help_text(ctx, formatter)
        with formatter.section("First steps"):
            formatter.write_dl([(f"blurdiff {command}", text) for command, text in _FIRST_STEPS.items()], col_max=38)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The first sentence of each command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(1000)) for name in self.list_commands(ctx)])


class Command(TyperCommand):
    """A command with examples and panels of options in its help."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """The description, and examples."""
        super().format_help_text(ctx, formatter)
        guide = COMMAND_HELP.get(self.name or "", CommandHelp())
        if guide.examples:
            formatter.write("\nExamples:\n")
            for example in guide.examples:
                # A flag stays with its value, and wrapped lines can be pasted.
                words = re.sub(r"(--[\w-]+) (?!-)", "\\1\0", f"blurdiff {example}")
                lines = textwrap.wrap(
                    words, formatter.width - 4, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
                )
                formatter.write("  " + " \\\n  ".join(lines).replace("\0", " ") + "\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, and options in panels."""
        guide = COMMAND_HELP.get(self.name or "", CommandHelp())
        parameters: list[Any] = self.get_params(ctx)
        arguments = [one.get_help_record(ctx) for one in parameters if one.param_type_name == "argument"]
        options = {_name(one): one for one in parameters if one.param_type_name == "option" and not one.hidden}
        formatter.write("\n")
        for name, text in filter(None, arguments):
            formatter.write_dl([(name.split(" ")[0].strip("{}[]<>").upper(), text.replace("  [required]", ""))])
        command, described = guide.elsewhere
        panels = {"Most used": guide.most_used, **PANELS, "Other": tuple(options)}
        left = {name: option for name, option in options.items() if name not in (*described, "help")}
        for title, names in panels.items():
            own = [left.pop(name) for name in names if name in left]
            if own:
                formatter.write(f"{title}:\n")
                formatter.indent()
                formatter.write_dl([_row(option, ctx) for option in own], col_max=_NAME_WIDTH)
                formatter.dedent()
        if described:
            flags = ", ".join(_flag(options[name]) for name in described)
            formatter.write_text(f"As in blurdiff {command} --help: {flags}")


def _name(option: Any) -> str:
    return _flag(option).removeprefix("--")


def _flag(option: Any) -> str:
    return str(next((flag for flag in option.opts if flag.startswith("--")), option.opts[0]))


def _row(option: Any, ctx: Any) -> tuple[str, str]:
    """Name and help text of an option, without ranges and types of values, which errors show."""
    name, text = option.get_help_record(ctx)
    text = re.sub(r"\s*\[(?:[\d.]+<=?)?x(?:[<>]=?[\d.]+)?\]", "", text)
    text = re.sub(r"; (?:[\d.]+<=?)?x(?:[<>]=?[\d.]+)?\]", "]", text)
    flag, _, kind = name.partition(" ")
    kind = re.sub(r"^[<\[]|[>\]]$", "", kind)
    if "|" in kind:
        choices = kind.split("|")
        if not all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in choices):
            summary, bracket, default = text.partition(" [default")
            text = f"{summary.rstrip('. ')}: {', '.join(choices)}.{bracket}{default}"
        kind = "NAME"
    return f"{flag} {_KINDS.get(kind.lower(), kind)}".rstrip(), " ".join(text.split())
