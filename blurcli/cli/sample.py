"""`blurdiff sample`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.cli.common import (
    BatchSizeOption,
    CalibrationOption,
    ClassOption,
    DeltaOption,
    DeviceOption,
    EtaOption,
    GuidanceOption,
    JsonOption,
    RunOption,
    SamplerOption,
    SeedOption,
    StepsOption,
    WeightsOption,
    check_new_folder,
    distributed_context,
    find_weights,
    load_model,
    read_photo,
    show,
)
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from blurcli.core.rng import Noises
    from blurcli.visualize import Images


def sample(
    run: RunOption = None,
    weights: WeightsOption = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images.")] = 64,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    eta: EtaOption = None,
    delta: DeltaOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 0,
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
    batch_size: BatchSizeOption = None,
    calibrated: CalibrationOption = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="grid.png, a folder for single images, or x.npz. [default: a grid in samples/ of the run]"),
    ] = None,
    preview: Annotated[bool, typer.Option("--show", "--preview", help="Show the first images in the terminal, too.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Sample images: from noise, from a photo, or on the path from one seed to another.

    Image i depends on the weights, the sampler, its steps, the seed and i, and not on the batch size.
    """
    if init_image is None and (strength is not None or init_blurred):
        raise UsageError("--strength, --init-blurred: apply to a photo; add --init-image")
    strength = 0.6 if strength is None else strength
    if not 1e-6 <= strength <= 1:
        raise UsageError(f"--strength {strength:g}: must be above 0 (the photo itself) and at most 1 (noise)")
    if interpolate is not None and n < 2:
        raise UsageError("--interpolate: needs at least two images; raise --n")
    if interpolate == seed:
        raise UsageError(f"--interpolate {interpolate}: is the same as --seed; use another seed")
    if (interpolate is not None) + same_init + share_noise > 1:
        raise UsageError("--interpolate, --same-init, --share-noise: each sets the source of the noise; use one of them")

    with distributed_context(device) as distributed:
        path, chosen_run = find_weights(run, weights)
        model, step = load_model(path, device, calibrated)
        sampling = model.sampling(sampler, steps, eta, delta, label, guidance)
        if out is None:
            out = _default_out(
                chosen_run.path / "samples" if chosen_run is not None else Path(),
                f"step-{step:08d}-{sampling.sampler}-{sampling.steps}-seed{seed}-n{n}",
                {
                    f"-eta{sampling.eta:g}": sampling.eta,
                    f"-delta{delta}": delta is not None,
                    f"-{label}": label is not None,
                    f"-guidance{guidance}": guidance is not None,
                    f"-{init_image.stem if init_image else ''}{strength:g}": init_image,
                    "-blurred": init_blurred,
                    f"-to{interpolate}": interpolate is not None,
                    "-same-init": same_init,
                    "-share-noise": share_noise,
                    "-uncalibrated": not calibrated,
                },
            )

        import torch

        from blurcli import console, visualize
        from blurcli.core.rng import ImageNoise, InterpolatedNoise, SharedNoise
        from blurcli.distributed import SINGLE_PROCESS
        from blurcli.pipeline import Init, Start, to_uint8

        if (same_init or share_noise) and not sampling.stochastic:
            effect = "all images will be the same" if same_init else "--share-noise changes nothing"
            console.notify(f"warning: {sampling.sampler} draws no noise per step: {effect}; use --sampler ancestral")

        def noise(indices: Sequence[int]) -> Noises:
            own, first = ImageNoise(seed, indices), ImageNoise(seed, [0] * len(indices))
            if interpolate is not None:
                return InterpolatedNoise((seed, 0), (interpolate, 0), n, indices)
            if same_init:
                return SharedNoise(first, own)
            return SharedNoise(own, first) if share_noise else own

        init = Init(read_photo(init_image, model.config), strength, init_blurred) if init_image is not None else None
        start = Start(noise, init)
        size = distributed.min(min(batch_size or model.batch_size, -(-n // distributed.size)))
        own = map(to_uint8, model.generate(n, seed, sampling, start=start, batch_size=size, distributed=distributed))
        if not distributed.is_main:
            for images in own:
                distributed.send(images)
            return
        write = _writer(out)
        with console.progress("sampling", n) as update:
            first: list[Images] = []

            def batches() -> Iterator[Images]:
                for number, indices in enumerate(SINGLE_PROCESS.blocks(n, size)):
                    if rank := number % distributed.size:
                        like = torch.empty(
                            len(indices), model.config.data.channels, *model.config.data.image_size, dtype=torch.uint8
                        )
                        images = distributed.receive(rank, like)[0].numpy()
                    else:
                        images = next(own).numpy()
                    if not first:
                        first.append(images)
                    yield images
                    update(indices.stop)

            write(batches(), n, out)
        if preview:
            console.preview([visualize.tile(first[0])], 0)
        result = {
            "out": str(out),
            "n": n,
            **asdict(sampling),
            "seed": seed,
            "weights": str(path),
            "calibrated": model.calibrated,
        }
        if init is not None:
            result |= {"init_image": str(init_image), "strength": strength, "init_blurred": init_blurred}
        result |= {"interpolate": interpolate, "same_init": same_init, "share_noise": share_noise}
        show(result, str(out), as_json)


def _default_out(folder: Path, stem: str, marks: dict[str, object]) -> Path:
    """A file name that records how the images were sampled: `stem`, and the marks that apply."""
    return folder / (stem + "".join(mark for mark, holds in marks.items() if holds) + ".png")


def _writer(out: Path) -> Callable[[Iterable[Images], int, Path], None]:
    from blurcli import files, visualize

    writers = {".png": visualize.write_grid, ".npz": visualize.write_npz}
    if writer := writers.get(out.suffix.lower()):
        files.check_writable(out)
        return writer
    if out.suffix:
        raise UsageError(f"--out {out}: unknown suffix; use .png (a grid), .npz (an array), or a folder for single images")
    check_new_folder(out)
    return visualize.write_folder
