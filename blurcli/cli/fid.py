"""`blurdiff fid`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.cli.common import (
    BatchSizeOption,
    CalibrationOption,
    DeviceOption,
    EtaOption,
    FeaturesOption,
    JsonOption,
    ModeOption,
    ReferenceOption,
    RunOption,
    SamplerOption,
    SeedOption,
    SplitOption,
    StepsOption,
    WeightsOption,
    build_judge,
    find_weights,
    load_model,
    packing,
    reference_images,
    resolve_source,
    show,
    warn_of_few,
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
    data: ReferenceOption = None,
    n: Annotated[
        int | None, typer.Option("--n", min=2, help="Number of images. [default: the preset's, or all of --samples]")
    ] = None,
    split: SplitOption = None,
    mode: ModeOption = None,
    features: FeaturesOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    eta: EtaOption = None,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    calibrated: CalibrationOption = True,
    name: Annotated[str, typer.Option("--name", help="A label for the line in evaluations.jsonl.")] = "",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score images against reference images by their Frechet distance.

    In Inception's features this is the FID; in any others it is called FD, since the two do not compare.
    """
    if samples is not None:
        if any(option is not None for option in (weights, sampler, steps, eta, batch_size)) or seed or not calibrated:
            raise UsageError(
                "--samples scores images that exist: --weights, --sampler, --steps, --eta, --seed, --batch-size and "
                "--no-calibration do not go with it"
            )
        scored = _existing_images(samples, run, data, n, split)
    else:
        scored = _model_images(run, weights, data, n, split, sampler, steps, eta, seed, batch_size, calibrated, device)
    config = scored.config

    from blurcli import console, evaluate

    judge = build_judge(
        scored.reference,
        features or (config.score.features if config else "inception"),
        mode or (config.score.mode if config else "clean"),
        device,
    )
    with console.progress("scoring", scored.count) as update:
        score = judge.score(scored.batches, {"name": name, **scored.protocol}, update)
    warn_of_few(scored.count, judge)
    if scored.run is not None:
        evaluate.record(scored.run.evaluations_path, score)
    metric = judge.features.metric
    show(
        score,
        f"{metric.upper()} {score[metric]:.4f}  ({judge.features.key}; {scored.count:,} images against "
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
    eta: float | None,
    seed: int,
    batch_size: int | None,
    calibrated: bool,
    device: str,
) -> _Scored:
    """Images that a model will make while they are scored."""
    from blurcli.checkpoint import digest
    from blurcli.model import to_uint8

    path, chosen_run = find_weights(run, weights)
    model, step = load_model(path, device, calibrated)
    config = model.config
    split = split or config.score.split
    reference = reference_images(config, chosen_run, data, split)
    count = n or config.score.n
    solver = model.solver(sampler, steps, eta)
    batches = (to_uint8(x) for x in model.generate(count, seed, **solver, batch_size=batch_size))
    protocol = {
        "weights": str(path),
        "weights_sha256": digest(path),
        "step": step,
        **solver,
        "calibrated": model.calibrated,
        "seed": seed,
        "split": split,
        "device": str(model.device),
    }
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
