"""`blurdiff presets`."""

from __future__ import annotations

from typing import Annotated

import typer

from blurcli.cli.common import JsonOption


def presets(
    name: Annotated[str | None, typer.Argument(help="Show this one, resolved, with a description of every key.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the presets, or show one with every key, described."""
    from blurcli.base import console
    from blurcli.config import load_config, preset_names, preset_summary, to_json, to_yaml

    if name is not None:
        config = load_config(name)
        print((to_json(config) if as_json else to_yaml(config)).strip())
    elif as_json:
        console.result_json({known: preset_summary(known) for known in preset_names()})
    else:
        console.table(["preset", "what it trains"], [[known, preset_summary(known)] for known in preset_names()])
