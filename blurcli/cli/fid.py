"""`blurdiff fid`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    load_images,
    load_model,
    own_source,
    packing,
    resolve_source,
    show,
)
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from blurcli.config import Config
    from blurcli.data import Dataset
    from blurcli.runs import Run


def fid(
    run: RunOption = None,
    weights: WeightsOption = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="Score these images (folder, .zip or .npz) instead of a model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Reference: folder, .zip or dataset's name. [default: the run's own]")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=2, help="Number of images. [default: the preset's, or all of --samples]")
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None, typer.Option("--split", help="Reference images. [default: the preset's]")
    ] = None,
    mode: Annotated[
        Literal["clean", "legacy_tensorflow", "legacy_pytorch"] | None,
        typer.Option("--mode", help="clean-fid's resizing and network, for Inception. [default: the preset's]"),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", help="inception, pixels, or a TorchScript file (code: it is run). [default: the preset's]"),
    ] = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    name: Annotated[str, typer.Option("--name", help="A label for the line in evaluations.jsonl.")] = "",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score images against reference images by their Frechet distance.

    In Inception's features this is the FID; in any others it is called FD, since the two do not compare.
    """
    if samples is not None:
        if any(option is not None for option in (weights, sampler, steps, batch_size)):
            raise UsageError(
                "--samples scores images that exist: --weights, --sampler, --steps and --batch-size do not go with it"
            )
        scored = _existing_images(samples, run, data, n, split)
    else:
        scored = _model_images(run, weights, data, n, split, sampler, steps, seed, batch_size, device)
    config = scored.config
    started = time.perf_counter()

    import torch

    import blurcli
    from blurcli import console, evaluate
    from blurcli.model import choose_device

    chosen_features = evaluate.load_features(
        features or (config.score.features if config else "inception"),
        mode or (config.score.mode if config else "clean"),
        choose_device(device),
    )
    with console.progress("reference", len(scored.reference.images)) as update:
        reference = evaluate.reference_moments(scored.reference, chosen_features, update)
    with console.progress("scoring", scored.count) as update:
        moments = evaluate.moments_of(scored.batches, chosen_features, update)
    distance = evaluate.frechet_distance(*moments.finish(), *reference)
    dimensions = len(reference[0])
    if moments.count <= dimensions:
        console.say(
            f"warning: {moments.count} images for {dimensions} features: their covariance is singular, and the score too high"
        )

    metric = chosen_features.metric
    score: dict[str, Any] = {
        metric: distance,
        "name": name,
        "n": moments.count,
        **scored.protocol,
        "reference": scored.reference.name,
        "reference_images": len(scored.reference.images),
        "reference_fingerprint": scored.reference.fingerprint,
        "features": chosen_features.key,
        "seconds": round(time.perf_counter() - started, 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "blurdiff": blurcli.__version__,
        "torch": torch.__version__,
    }
    if scored.run is not None:
        evaluate.record(scored.run.evaluations_path, score)
    show(
        score,
        f"{metric.upper()} {distance:.4f}  ({chosen_features.key}; {moments.count:,} images against "
        f"{len(scored.reference.images):,} of {scored.reference.name})",
        as_json,
    )


@dataclass(frozen=True)
class _Scored:
    """What is scored, against what, and how it came about."""

    batches: Iterable[Tensor]
    count: int
    reference: Dataset
    config: Config | None
    run: Run | None
    protocol: dict[str, Any]


def _model_images(
    run: Path | None,
    weights: Path | None,
    data: str | None,
    n: int | None,
    split: str | None,
    sampler: str | None,
    steps: int | None,
    seed: int,
    batch_size: int | None,
    device: str,
) -> _Scored:
    """Images that a model will make while they are scored."""
    from blurcli.model import to_uint8

    path, chosen_run = find_weights(run, weights)
    model, step = load_model(path, device)
    config = model.config
    source = resolve_source(data) if data is not None else own_source(config, chosen_run, "--data")
    split = split or config.score.split
    reference = load_images(config, source, split)
    count = n or config.score.n
    sampler, steps = sampler or config.sample.sampler, steps or config.sample.steps
    batches = (to_uint8(x) for x in model.generate(count, seed, sampler=sampler, steps=steps, batch_size=batch_size))
    protocol = {"weights": str(path), "step": step, "sampler": sampler, "steps": steps, "seed": seed, "split": split}
    protocol["device"] = str(model.device)
    return _Scored(batches, count, reference, config, chosen_run, protocol)


def _existing_images(samples: Path, run: Path | None, data: str | None, n: int | None, split: str | None) -> _Scored:
    """Images from files, against a reference brought to their size."""
    from blurcli.data import load_dataset
    from blurcli.data.images import file_size, read_npz
    from blurcli.evaluate import array_batches
    from blurcli.runs import Run

    config = Run(run).config() if run is not None else None
    if data is not None:
        source = resolve_source(data)
    elif config is not None:
        source = config.data.source
    else:
        raise UsageError("--samples needs something to compare with: give --data, or --run for that run's data")
    split = split or (config.score.split if config else "train")
    with packing() as progress:
        if samples.suffix.lower() == ".npz":
            images = read_npz(samples)
        else:
            channels = config.data.channels if config else 3
            images = load_dataset(str(samples.absolute()), "train", file_size(samples), channels, progress=progress).images
        size = (images.shape[2], images.shape[3])
        options = {"shapes_count": config.data.shapes_count} if config else {}
        reference = load_dataset(source, split, size, images.shape[1], **options, progress=progress)
    count = n or len(images)
    if not 2 <= count <= len(images):
        raise UsageError(f"{samples}: holds {len(images)} images; --n {count} cannot be scored (at least 2, at most all)")
    return _Scored(array_batches(images[:count]), count, reference, config, None, {"samples": str(samples), "split": split})
