"""`blurdiff import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.base.errors import UsageError, UserError
from blurcli.cli.common import AssignmentsOption, JsonOption, show
from blurcli.workflows.session import load_images, load_torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blurcli.config import Config
    from blurcli.model.weights import Weights


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="The file, .pth, that their training wrote.")],
    preset: Annotated[
        str | None, typer.Option("--preset", help="The process of its training. [default: the only one that its network fits]")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Its training images, to be measured: folder, .zip or a dataset's name. [default: none]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Weights file to write, .safetensors. [default: the checkpoint's name, here]")
    ] = None,
    legacy_attention: Annotated[
        bool, typer.Option("--legacy-attention", help="Their use_new_attention_order was False; matters with several heads.")
    ] = False,
    ema: Annotated[bool, typer.Option("--ema/--no-ema", help="Import the EMA of the weights, or the last step's.")] = True,
    assignments: AssignmentsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a checkpoint of a published implementation.

    Of blurring diffusion or inverse heat dissipation. Writes a weights file, with which all commands work. Inverse heat
    dissipation needs --data: sampling starts from blurred training images, which a checkpoint does not hold.
    """
    load_torch()
    from blurcli import importing
    from blurcli.base import console, files
    from blurcli.base.filenames import fitting
    from blurcli.config import parse_overrides, resolve_source
    from blurcli.model.weights import save_weights

    out = out or fitting(Path(f"{checkpoint.stem}.safetensors"))
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: weights are written as safetensors; use the suffix .safetensors")
    overrides = parse_overrides(assignments or [])
    if data is not None:
        overrides.append((f"--data {data}", "data.source", resolve_source(data)))
    read = importing.read_checkpoint(checkpoint, ema)
    chosen = preset or importing.fitting_preset(read)
    config = importing.resolve(read, chosen, overrides)
    size = sum(tensor.nbytes for tensor in read.network.values())
    if not out.exists():
        files.check_writable(out)
        files.check_space(out, size)
    several_heads = config.model.head_channels is not None
    if legacy_attention and not several_heads:
        raise UsageError(
            "--legacy-attention: is for several attention heads; add --set model.head_channels=N, channels per head"
        )
    if several_heads and not legacy_attention:
        console.notify(
            "several attention heads are read as with use_new_attention_order = True, as in all published configurations; "
            "if theirs was False, add --legacy-attention"
        )
    weights = importing.as_weights(read, config, _images(config) if data is not None else None, out, legacy_attention)
    new = not out.exists()
    if not new:
        _check_same(weights)
    else:
        save_weights(weights)
    if not weights.data.moments.measured:
        console.notify("without --data the model has no spectrum of its training images: samplers that need it will say so")
    parameters = sum(tensor.numel() for tensor in weights.network.values())
    result = {"out": str(out), "preset": chosen, "step": read.step, "parameters": parameters, "ema": ema, "new": new}
    wrote = "" if new else ", already there"
    show(result, f"{out} ({size / 1e6:.1f} MB{wrote}): preset {chosen}, step {read.step:,}", as_json)


def _images(config: Config) -> NDArray[np.uint8]:
    return load_images(config, config.data.source, "train").images


def _check_same(weights: Weights) -> None:
    """Refuse to replace a file with another content."""
    from blurcli.importing import equal_content
    from blurcli.model.weights import load_weights

    try:
        same = equal_content(weights, load_weights(weights.path))
    except UserError:
        same = False
    if not same:
        raise UsageError(f"{weights.path}: already exists with another content; use another name with --out")
