"""`blurdiff sample`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.cli import common
from blurcli.cli.common import find_weights, show
from blurcli.core.sampling_options import SamplingRequest
from blurcli.workflows.session import StartOptions, distributed_context, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blurcli.base.distributed import DistributedContext
    from blurcli.config import Config
    from blurcli.data.images import Pixels

_WORTH_TELLING = 100 << 20  # bytes


@common.takes_sampling_options()
def sample(
    run: common.RunOption = None,
    weights: common.WeightsOption = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Use the run's distilled model (blurdiff distill): fewer steps.")
    ] = False,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images.")] = 64,
    request: SamplingRequest = common.AS_PRESET,
    guide: common.GuideOption = None,
    seed: common.SeedOption = 0,
    init_image: Annotated[
        Path | None, typer.Option("--init-image", help="Start from this photo, diffused, instead of noise.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", help="Time in (0, 1] to which the photo is diffused. [default: 0.6]")
    ] = None,
    init_blurred: Annotated[bool, typer.Option("--init-blurred", help="The photo already has the blur of that time.")] = False,
    interpolate: Annotated[
        int | None,
        typer.Option("--interpolate", min=0, max=2**64 - 1, help="Interpolate to image 0 of this seed, in --n images."),
    ] = None,
    same_init: Annotated[
        bool, typer.Option("--same-init", help="Start all images from one noise; each has its own noise per step.")
    ] = False,
    share_noise: Annotated[
        bool, typer.Option("--share-noise", help="Give all images the same noise per step; each has its own start.")
    ] = False,
    batch_size: common.BatchSizeOption = None,
    calibrated: common.CalibrationOption = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="grid.png, a folder for single images, or x.npz. [default: a grid in samples/ of the run]"),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", min=1, help="Enlargement of a grid by whole pixels. [default: about 512 px]")
    ] = None,
    preview: Annotated[bool, typer.Option("--show", "--preview", help="Show the first images in the terminal, too.")] = False,
    device: common.DeviceOption = "auto",
    precision: common.PrecisionOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Sample images: from noise, from a photo, or between two seeds.

    Image i depends on the weights, the sampler, its steps, the precision, the seed and i, and not on the batch size.
    """
    start_options = StartOptions(init_image, strength, init_blurred, interpolate, same_init, share_noise)
    start_options.check(n, seed)

    with distributed_context(device) as distributed:
        path, chosen_run = find_weights(run, weights, fast)
        model, step = load_model(path, device, calibrated, guide, precision)
        sampling = model.resolve(request)
        if out is None:
            out = _default_out(
                chosen_run.path / "samples" if chosen_run is not None else Path(),
                f"step-{step:08d}-{sampling.sampler}-{sampling.steps}-seed{seed}-n{n}",
                {
                    **{f"-{one.mark(value)}": one.name not in ("sampler", "steps") for one, value in request.given().items()},
                    f"-guide-{Path(guide).stem if guide else ''}": guide is not None,
                    f"-{init_image.stem if init_image else ''}{start_options.time:g}": init_image,
                    "-blurred": init_blurred,
                    f"-to{interpolate}": interpolate is not None,
                    "-same-init": same_init,
                    "-share-noise": share_noise,
                    "-uncalibrated": not calibrated,
                    f"-{model.precision}": precision is not None,
                },
            )

        import torch

        from blurcli import visualize
        from blurcli.base import console
        from blurcli.base.distributed import SINGLE_PROCESS
        from blurcli.model.pipeline import to_uint8

        if same_init or share_noise:
            effect = "all images will be the same" if same_init else "--share-noise changes nothing"
            if not sampling.stochastic:
                console.notify(f"warning: {sampling.sampler} draws no noise per step: {effect}; use --sampler ancestral")
            elif sampling.steps == 1:
                console.notify(f"warning: the last step draws no noise, and there is only one: {effect}; use more --steps")

        start = start_options.start(model.config, n, seed)
        record = {**sampling.record, "seed": seed, "weights": str(path), "calibrated": model.calibrated}
        record["network_precision"] = model.precision
        if sampling.guide is None:
            del record["guide"]  # as in versions without guides, so that their folders can be continued
        if init_image is not None:
            record |= {"init_image": str(init_image), "strength": start_options.time, "init_blurred": init_blurred}
        record |= {"interpolate": interpolate, "same_init": same_init, "share_noise": share_noise}
        deciding = start_options.record(model, sampling, n, seed, start)
        writer = visualize.image_writer(out, deciding, console.notify, scale, model.column_titles(sampling))
        shown: list[Pixels] = []
        with writer.claimed(n) if distributed.is_main else nullcontext([]) as missing:
            wanted = _agreed(missing, n, distributed)
            if distributed.is_main:
                _announce(out, model.config, n, wanted)
            size = distributed.min(max(1, min(batch_size or model.batch_size, -(-len(wanted) // distributed.size))))
            title = f"sampling {len(wanted):,} images, {sampling.steps} steps"
            with console.progress(title, len(wanted)) if wanted else nullcontext(print) as update:
                own = model.generate(
                    wanted, seed, sampling, start=start, batch_size=size, on_progress=update, distributed=distributed
                )
                shape = model.config.data.channels, *model.config.data.image_size
                for number, indices in enumerate(SINGLE_PROCESS.blocks(wanted, size)):
                    rank = number % distributed.size
                    if rank == distributed.rank:
                        images = to_uint8(next(own))
                    elif distributed.is_main:
                        (images,) = distributed.receive(rank, torch.empty(len(indices), *shape, dtype=torch.uint8))
                    if distributed.is_main:
                        writer.write(images.numpy(), indices)
                        shown = shown or [images.numpy()]
                    elif rank == distributed.rank:
                        distributed.send(images)
        if not distributed.is_main:
            return
        if preview and shown:
            console.preview([visualize.tile(shown[0])], 0)
        show({"out": str(out), "n": n, **record}, str(out), as_json)


def _default_out(folder: Path, stem: str, marks: dict[str, object]) -> Path:
    """A file name that records the sampling options: `stem`, and the marks that apply."""
    from blurcli.base.filenames import fitting

    return fitting(folder / (stem + "".join(mark for mark, holds in marks.items() if holds) + ".png"))


def _agreed(missing: Sequence[int], n: int, distributed: DistributedContext) -> list[int]:
    """The indices of the main process, in all processes."""
    import torch

    wanted = torch.zeros(n, dtype=torch.bool)
    wanted[list(missing)] = True
    indices: list[int] = distributed.broadcast(wanted.to(torch.uint8)).nonzero().flatten().tolist()
    return indices


def _announce(out: Path, config: Config, n: int, wanted: Sequence[int]) -> None:
    """Print the size on disk of many images, refuse what does not fit, and print how many images exist already."""
    from blurcli.base import console, files

    height, width = config.data.image_size
    pixels = len(wanted) * config.data.channels * height * width
    if out.suffix.lower() != ".png":
        files.check_space(out, pixels)
        at_most = "" if out.suffix else "at most "
        if pixels >= _WORTH_TELLING:
            console.notify(f"{len(wanted):,} images of {height}x{width}: {at_most}{pixels / 2**20:,.0f} MiB in {out}")
    done = n - len(wanted)
    if not wanted:
        console.notify(f"{out}: is complete, with {n:,} images of these settings")
    elif wanted[0] == done > 0:
        console.notify(f"{out}: continuing after {done:,} of {n:,} images")
    elif done:
        console.notify(f"{out}: making {len(wanted):,} of {n:,} images, which are missing or damaged")
