"""`blurdiff export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blurcli.cli.common import JsonOption, RunOption, WeightsOption, find_weights, show
from blurcli.errors import UsageError
from blurcli.session import read_weights


def export(
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors.")],
    run: RunOption = None,
    weights: WeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export weights in 16 bits for sharing: everything that sampling needs in one file of half the size.

    The file does not contain the location of the training images.
    """
    from blurcli import files
    from blurcli.weights import save_weights, to_half_precision

    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: weights are written as safetensors; use the suffix .safetensors")
    if out.exists():
        raise UsageError(f"{out}: already exists; use another name")
    files.check_writable(out)
    path, _ = find_weights(run, weights)
    save_weights(to_half_precision(read_weights(path), out))
    size = out.stat().st_size
    show({"out": str(out), "bytes": size, "weights": str(path)}, f"{out} ({size / 1e6:.1f} MB)", as_json)
