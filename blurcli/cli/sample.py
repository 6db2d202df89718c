"""`blurdiff sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.cli.common import (
    BatchSizeOption,
    DeviceOption,
    JsonOption,
    RunOption,
    SamplerOption,
    SeedOption,
    StepsOption,
    WeightsOption,
    find_weights,
    load_model,
    show,
)
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from blurcli.render import Images


def sample(
    run: RunOption = None,
    weights: WeightsOption = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images.")] = 64,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="grid.png, a folder for single images, or x.npz. [default: a grid in the run's samples/]"),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make images.

    Image i depends on the weights, the sampler, its steps, the seed and i, and not on the batch size.
    """
    path, chosen_run = find_weights(run, weights)
    model, step = load_model(path, device)
    sampler = sampler or model.config.sample.sampler
    steps = steps or model.config.sample.steps
    if out is None:
        folder = chosen_run.path / "samples" if chosen_run is not None else Path()
        out = folder / f"step-{step:08d}-{sampler}-{steps}-seed{seed}-n{n}.png"

    from blurcli import console
    from blurcli.model import to_uint8

    write = _writer(out)
    with console.progress("sampling", n) as update:

        def batches() -> Iterator[Images]:
            done = 0
            for x in model.generate(n, seed, sampler=sampler, steps=steps, batch_size=batch_size):
                done += len(x)
                update(done)
                yield to_uint8(x).numpy()

        write(batches(), out)
    result = {"out": str(out), "n": n, "sampler": sampler, "steps": steps, "seed": seed, "weights": str(path)}
    show(result, str(out), as_json)


def _writer(out: Path) -> Callable[[Iterable[Images], Path], None]:
    from blurcli import files, render

    files.check_writable(out)
    if out.suffix.lower() == ".png":
        return render.write_grid
    if out.suffix.lower() == ".npz":
        return render.write_npz
    if out.suffix:
        raise UsageError(f"--out {out}: end the name in .png (a grid) or .npz (an array), or give a folder for single images")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists and is not an empty folder; choose another one")
    return render.write_folder
