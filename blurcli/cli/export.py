"""`blurdiff export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from blurcli.base.errors import UsageError
from blurcli.cli.common import JsonOption, RunOption, WeightsOption, find_weights, show
from blurcli.workflows.session import read_weights


def export(
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors; with --format diffusers a new folder.")],
    run: RunOption = None,
    weights: WeightsOption = None,
    form: Annotated[
        Literal["safetensors", "diffusers"],
        typer.Option("--format", help="One file in 16 bits, or a folder that diffusers samples without blurdiff."),
    ] = "safetensors",
    as_json: JsonOption = False,
) -> None:
    """Export weights for sharing: one file, or a folder for diffusers.

    It has everything that sampling needs, in half the size. The export does not contain the location of the training images.
    """
    from blurcli.base import files
    from blurcli.model.weights import save_weights, to_half_precision
    from blurcli.portable.folder import check_folder, write_folder

    if form == "diffusers":
        if out.suffix == ".safetensors":
            raise UsageError(f"{out}: --format diffusers writes a folder; use a name without the suffix .safetensors")
        check_folder(out)
    elif out.suffix != ".safetensors":
        raise UsageError(
            f"{out}: weights are written as safetensors; use the suffix .safetensors, or --format diffusers for a folder"
        )
    elif out.exists():
        raise UsageError(f"{out}: already exists; use another name")
    else:
        files.check_writable(out)
    path, _ = find_weights(run, weights)
    if form == "diffusers":
        size = write_folder(read_weights(path), out)
    else:
        save_weights(to_half_precision(read_weights(path), out))
        size = out.stat().st_size
    show({"out": str(out), "format": form, "bytes": size, "weights": str(path)}, f"{out} ({size / 1e6:.1f} MB)", as_json)
