"""What a shell completes: names of presets, and run folders."""

from __future__ import annotations

from pathlib import Path


def presets(incomplete: str) -> list[str]:
    """Names of presets; with a slash, YAML files."""
    from blurcli.config import preset_names

    files = [str(path) for path in Path().glob(f"{_literal(incomplete)}*.yaml")] if "/" in incomplete else []
    return [name for name in [*preset_names(), *files] if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Run folders in `runs/`, and below a path that has begun."""
    from blurcli.runs import RUNS, Run

    below = Path(incomplete if incomplete.endswith("/") else incomplete.rpartition("/")[0] or RUNS)
    found = sorted(str(path) for path in below.glob("*/") if Run(path).config_path.is_file())
    return [name for name in found if name.startswith(incomplete)]


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
