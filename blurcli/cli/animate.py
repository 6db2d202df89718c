"""`blurdiff animate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blurcli.cli.common import (
    ClassOption,
    DeltaOption,
    DeviceOption,
    GuidanceOption,
    JsonOption,
    RunOption,
    SamplerOption,
    SeedOption,
    StepsOption,
    WeightsOption,
    find_weights,
    load_images,
    load_model,
    own_source,
    show,
)
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from torch import Tensor

    from blurcli.model import Model

_WIDTH = 512  # pixels, about, of an animation whose --scale is left to us


def animate(
    out: Annotated[Path, typer.Argument(help="process.gif, .webp or .png (animated PNG).")],
    run: RunOption = None,
    weights: WeightsOption = None,
    direction: Annotated[
        Literal["reverse", "forward", "both"],
        typer.Option("--direction", help="From noise to images, from images to noise, or there and back."),
    ] = "reverse",
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder, .zip or image file for the forward process. [default: the run's data]"),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images, side by side.")] = 16,
    frames: Annotated[int, typer.Option("--frames", min=2, help="Frames of one direction, at even times.")] = 41,
    fps: Annotated[float, typer.Option("--fps", min=0.1, help="Frames a second.")] = 15,
    scale: Annotated[
        int | None, typer.Option("--scale", min=1, help="Enlargement by whole pixels. [default: about 512 px wide]")
    ] = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    delta: DeltaOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show the diffusion process as an animation; the last frame is held.

    The reverse process needs a step for every frame but the first: more are taken when the preset has fewer.
    """
    from blurcli import console, files, render
    from blurcli.model import to_uint8

    render.check_animation(out, fps)
    if images is not None and direction == "reverse":
        raise UsageError("--images: only the forward process starts from images; add --direction forward, or both")
    if direction == "forward" and any(option is not None for option in (sampler, steps, delta, label, guidance)):
        raise UsageError(
            "--sampler, --steps, --delta, --class, --guidance: only the reverse process is sampled; --frames sets the "
            "number of frames"
        )
    if steps is not None and steps < frames - 1:
        raise UsageError(f"--steps {steps}: {frames} frames need at least {frames - 1} steps; lower --frames, or raise --steps")
    files.check_writable(out)
    path, chosen_run = find_weights(run, weights)
    model, _ = load_model(path, device)

    shown: list[Tensor] = []
    if direction in ("forward", "both"):
        source = str(images.absolute()) if images is not None else own_source(model.config, chosen_run, "--images")
        x = _clean_images(model, source, n, seed)
        shown += model.diffusion(x, seed, frames)
        n = len(x)
    if direction in ("reverse", "both"):
        steps = steps or max(model.config.sample.steps, frames - 1)
        solver = model.solver(sampler, steps, None, delta, label, guidance)
        with console.progress("sampling", steps) as update:
            shown += model.trajectory(n, seed, frames, update, **solver)
    arrays = [to_uint8(frame).numpy() for frame in shown]
    if scale is None:
        scale = max(1, _WIDTH // render.tile(arrays[0]).shape[1])
    render.save_animation(arrays, out, fps, scale)
    show({"out": str(out), "frames": len(arrays), "direction": direction, "weights": str(path)}, str(out), as_json)


def _clean_images(model: Model, source: str, n: int, seed: int) -> NDArray[uint8]:
    """At most n images of the source, drawn at random: folders are often sorted by class."""
    import numpy as np

    dataset = load_images(model.config, source, "train")
    count = len(dataset.images)
    return np.array(dataset.images[np.random.default_rng(seed).permutation(count)[:n]])
