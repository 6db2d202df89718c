"""`blurdiff fid`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.base.errors import UsageError
from blurcli.cli import common
from blurcli.cli.common import find_weights, sampling_flags
from blurcli.core.sampling_options import SamplingRequest
from blurcli.workflows.scoring import ScoringOptions, check_enough, evaluations_path, score_images
from blurcli.workflows.session import distributed_context, load_model, started_by_torchrun

if TYPE_CHECKING:
    from blurcli.base.runs import Run
    from blurcli.evaluate import ModelImages, ScoredImages, Scorer


@common.takes_sampling_options()
def fid(
    run: common.RunOption = None,
    weights: common.WeightsOption = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="Score these images (folder, .zip or .npz) instead of a model.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=4, help="Resize and crop --samples to this square. [default: unchanged]")
    ] = None,
    data: common.ReferenceOption = None,
    published: common.PublishedOption = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=2, help="Number of images; of --samples, evenly spaced. [default: the preset's, or all]"),
    ] = None,
    split: common.SplitOption = None,
    mode: common.ModeOption = None,
    features: common.FeaturesOption = None,
    inception: common.InceptionOption = None,
    force: common.ForceOption = False,
    request: SamplingRequest = common.AS_PRESET,
    guide: common.GuideOption = None,
    seed: common.SeedOption = 0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Sets of images, from --seed on: mean and spread.")] = 1,
    batch_size: common.BatchSizeOption = None,
    calibrated: common.CalibrationOption = True,
    name: Annotated[str, typer.Option("--name", help="Label of the score in evaluations.jsonl.")] = "",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Plot of power spectra: .png, .svg or .pdf. [default: spectrum-*.png in the run folder]"),
    ] = None,
    device: common.DeviceOption = "auto",
    precision: common.PrecisionOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Score images against reference images: FID, KID and others.

    The others are precision, recall and log-spectral distance.

    In features other than Inception's, FID and KID are called FD and KD: they are not comparable. Every score is a line of
    evaluations.jsonl in its run folder, or in runs/ without a run; blurdiff results shows them.
    """
    from blurcli import evaluate
    from blurcli.base import console
    from blurcli.visualize import figures, plots

    if seed + repeats > 2**64:
        raise UsageError(f"--seed {seed} --repeats {repeats}: the last seed must be below 2^64")
    if plot is not None:
        figures.check_plot(plot, "plot")
    options = ScoringOptions(features, mode, split, data, published, inception, device)
    if samples is not None:
        if started_by_torchrun():
            raise UsageError("--samples: stored images are scored by one process; run the command without torchrun")
        making = (weights, guide, batch_size, precision, *request.given().values())
        if any(option is not None for option in making) or seed or repeats > 1 or not calibrated:
            raise UsageError(
                f"--samples: scores stored images; leave out --weights, {sampling_flags()}, --guide, --seed, --repeats, "
                "--batch-size, --precision and --no-calibration"
            )
    elif size is not None:
        raise UsageError("--size: resizes --samples; a model makes images of one size, leave it out")

    with distributed_context(device) as distributed:
        if samples is not None:
            task = _stored_images(samples, size, n, run, options)
        else:
            path, chosen_run = find_weights(run, weights)
            model, step = load_model(path, device, calibrated, guide, precision)
            sampling = model.resolve(request)
            count = n or model.config.score.n
            sets = [
                evaluate.ModelImages(model, step, count, number, sampling, batch_size, distributed)
                for number in range(seed, seed + repeats)
            ]
            if not distributed.is_main:
                _contribute(sets, options)
                return
            task = _model_images(sets, path, chosen_run, options)
        check_enough(task.scorer, task.count, force)
        scores = []
        for number, images in enumerate(task.sets, start=seed):
            title = "" if repeats == 1 else f"scoring {task.count:,} images of seed {number}"
            scores.append(score_images(task.scorer, images, task.count, title, name=name, **task.labels))
            evaluate.record(task.record, scores[-1])
    plot = plot or task.plot
    if plot is not None:
        plots.save_spectrum(scores[0], plot)
    console.notify(f"recorded in {task.record}" + (f", spectra in {plot}" if plot is not None else ""))
    _show(scores, task.scorer, as_json)


@dataclass(frozen=True)
class _Task:
    """The images to score, and the destination of the results.

    Attributes:
        scorer: scores the images.
        sets: sets of images, one per score.
        count: images per set.
        labels: further keys of the scores.
        record: the file of scores.
        plot: the default file of the plot; None for no plot.
    """

    scorer: Scorer
    sets: Sequence[ScoredImages]
    count: int
    labels: dict[str, str]
    record: Path
    plot: Path | None


def _model_images(sets: list[ModelImages], weights: Path | str, run: Run | None, options: ScoringOptions) -> _Task:
    """Images of a model, one set per seed."""
    from blurcli.base import files

    first = sets[0]
    config, record = first.pipeline.config, evaluations_path(run)
    files.check_writable(record)
    with first.distributed.main_first():
        scorer = options.scorer(config, run, (config.data.channels, *config.data.image_size))
    plot = run.path / f"spectrum-{first.step:08d}.png" if run is not None else None
    return _Task(scorer, sets, first.count, {"weights": str(weights)}, record, plot)


def _contribute(sets: list[ModelImages], options: ScoringOptions) -> None:
    """Send the share of the images of a process that is not the main one."""
    with sets[0].distributed.main_first():
        features = options.load_features(sets[0].pipeline.config)
    for images in sets:
        images.contribute(features)


def _stored_images(samples: Path, size: int | None, n: int | None, run: Path | None, options: ScoringOptions) -> _Task:
    """Images from files; the reference is resized to their size."""
    import torch

    from blurcli.base import console, files
    from blurcli.base.runs import resolve_run
    from blurcli.config import load_run_config
    from blurcli.data.stream import open_stream
    from blurcli.evaluate import StoredImages

    chosen_run = resolve_run(run) if run is not None else None
    config = load_run_config(chosen_run.config_path) if chosen_run is not None else None
    record = evaluations_path(chosen_run)
    files.check_writable(record)
    stream = open_stream(samples, config.data.channels if config else 3, (size, size) if size else None)
    if stream.skipped:
        console.notify(f"{samples}: skipped: {stream.skipped}")
    count = n or stream.count
    if stream.count < 2:
        raise UsageError(
            f"{samples}: is one image, also where it is a grid, and a score needs many: write single images with "
            "blurdiff sample --out samples, or an array with blurdiff sample --out samples.npz"
        )
    if count > stream.count:
        raise UsageError(f"--n {n}: {samples} has {stream.count} images; use at most {stream.count}")
    scorer = options.scorer(config, chosen_run, stream.shape)
    protocol = {"samples": str(samples), "samples_found": stream.count}
    images = StoredImages(map(torch.from_numpy, stream.batches(count)), count, protocol)
    return _Task(scorer, [images], count, {}, record, None)


def _show(scores: list[dict[str, Any]], scorer: Scorer, as_json: bool) -> None:
    """Print one score; for several, the mean of every metric, and minimum, maximum and standard deviation of the first."""
    from blurcli.base import console
    from blurcli.evaluate import TITLES

    metric = scorer.metric
    result = dict(scores[0])
    values = [score[metric] for score in scores]
    if len(scores) > 1:
        # Keys that differ and have no mean remain in `scores`.
        result = {key: value for key, value in result.items() if all(score[key] == value for score in scores)}
        result |= {key: fmean(score[key] for score in scores) for key in TITLES if scores[0].get(key) is not None}
        spread = {"min": min(values), "max": max(values), "std": stdev(values)}
        result |= {f"{metric}_{key}": value for key, value in spread.items()}
        result |= {"seed": [score["seed"] for score in scores], "scores": scores}
    if as_json:
        console.result_json(result)
        return
    text = f"{TITLES[metric]} {result[metric]:.4f}"
    if len(scores) > 1:
        text += f" (mean of {len(scores)} seeds; minimum {min(values):.4f}, standard deviation {stdev(values):.4f})"
    known = scorer.reference.statistics.count
    against = f"{known:,} of {scorer.reference.name}" if known else scorer.reference.name
    console.result(f"{text}  ({scorer.features.key}; {result['n']:,} images against {against})")
    others = [other for other in scorer.metrics[1:] if other.title and result.get(other.name) is not None]
    if others:
        console.result(", ".join(f"{other.title} {result[other.name]:.4g}" for other in others))
    if floor := scores[0]["floor"]:
        same = floor["n"] == result["n"] and floor["distance"] > 0
        place = f"this score is {result[metric] / floor['distance']:.2g} times that" if same else "fewer than were scored"
        console.result(
            f"{TITLES[metric]} of real images {floor['distance']:.4f}  ({floor['n']:,} of them against the {floor['others']:,} "
            f"others; {place})"
        )
