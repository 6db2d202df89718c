"""Completion in shells: names of presets, and run folders."""

from __future__ import annotations

from pathlib import Path


def presets(incomplete: str) -> list[str]:
    """Names of presets; with a slash, YAML files."""
    from blurcli.config import preset_names

    files = [str(path) for path in Path().glob(f"{_literal(incomplete)}*.yaml")] if "/" in incomplete else []
    return [name for name in [*preset_names(), *files] if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Run folders in `runs/` for the beginning of a name, and run folders for the beginning of a path."""
    from blurcli.base import files
    from blurcli.base.runs import RUNS, Run

    below = Path(incomplete if incomplete.endswith("/") else incomplete.rpartition("/")[0] or RUNS)
    found = [path for path in files.listed(below) if files.unreadable(Run(path).config_path) is None]
    names = [str(path) for path in found]
    if incomplete and below == RUNS:
        names += [path.name for path in found]
    return [name for name in names if name.startswith(incomplete)]


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
