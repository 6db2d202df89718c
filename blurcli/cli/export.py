"""`blurdiff export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blurcli.cli.common import JsonOption, RunOption, WeightsOption, find_weights, show
from blurcli.errors import UsageError


def export(
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors.")],
    run: RunOption = None,
    weights: WeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model's weights in 16 bits, to give away: all that sampling needs in one file of half the size.

    Where the training images lay is left out of it.
    """
    from blurcli import checkpoint, files

    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: weights are written as safetensors; end the name in .safetensors")
    if out.exists():
        raise UsageError(f"{out}: exists; choose another name")
    files.check_writable(out)
    path, _ = find_weights(run, weights)
    checkpoint.save_weights(checkpoint.in_half(checkpoint.load_weights(path), out))
    size = out.stat().st_size
    show({"out": str(out), "bytes": size, "weights": str(path)}, f"{out} ({size / 1e6:.1f} MB)", as_json)
