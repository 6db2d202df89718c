"""`blurdiff fid`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.cli.common import (
    BatchSizeOption,
    CalibrationOption,
    ClassOption,
    DeltaOption,
    DeviceOption,
    EtaOption,
    FeaturesOption,
    ForceOption,
    GuidanceOption,
    InceptionOption,
    JsonOption,
    ModeOption,
    PublishedOption,
    ReferenceOption,
    RunOption,
    SamplerOption,
    SeedOption,
    SplitOption,
    Standard,
    StepsOption,
    WeightsOption,
    check_enough,
    evaluations_path,
    find_weights,
    load_model,
    started_by_torchrun,
    teamed,
)
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from blurcli.distributed import Team
    from blurcli.evaluate import Judge


def fid(
    run: RunOption = None,
    weights: WeightsOption = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="Score these images (folder, .zip or .npz) instead of a model.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=4, help="Resize and crop --samples to this square. [default: as they are]")
    ] = None,
    data: ReferenceOption = None,
    published: PublishedOption = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=2, help="Number of images; of --samples, evenly spaced. [default: the preset's, or all]"),
    ] = None,
    split: SplitOption = None,
    mode: ModeOption = None,
    features: FeaturesOption = None,
    inception: InceptionOption = None,
    force: ForceOption = False,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    eta: EtaOption = None,
    delta: DeltaOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Sets of images, from --seed on: mean and spread.")] = 1,
    batch_size: BatchSizeOption = None,
    calibrated: CalibrationOption = True,
    name: Annotated[str, typer.Option("--name", help="A label for the line in evaluations.jsonl.")] = "",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Plot of power spectra, .png or .svg. [default: spectrum-*.png in the run folder]"),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score images against reference images: FID, KID, precision, recall, and how far their power spectra are apart.

    In Inception's features the distances are the FID and the KID; in any others they are called FD and KD, since they do not
    compare. Every score is a line in evaluations.jsonl of its run, or in runs/ without one: blurdiff results shows them.
    """
    from blurcli import console, evaluate, plots

    if seed + repeats > 2**64:
        raise UsageError(f"--seed {seed} --repeats {repeats}: the last seed must be below 2^64")
    if plot is not None:
        plots.check_plot(plot, "--plot")
    standard = Standard(features, mode, split, data, published, inception, device)
    seeds = range(seed, seed + repeats)
    if samples is not None:
        if started_by_torchrun():
            raise UsageError("--samples: images that exist are scored by one process; run it without torchrun")
        making = (weights, sampler, steps, eta, delta, label, guidance, batch_size)
        if any(option is not None for option in making) or seed or repeats > 1 or not calibrated:
            raise UsageError(
                "--samples scores images that exist: --weights, --sampler, --steps, --eta, --delta, --class, --guidance, "
                "--seed, --repeats, --batch-size and --no-calibration do not go with it"
            )
    elif size is not None:
        raise UsageError("--size: resizes --samples; a model makes images of one size")

    with teamed(device) as team:
        if samples is None:
            subject = _model_images(
                run, weights, n, seeds, sampler, steps, eta, delta, label, guidance, batch_size, calibrated, standard, team
            )
        else:
            subject = _existing_images(samples, size, n, run, standard)
        if subject is None:
            return
        check_enough(subject.judge, subject.count, force)
        scores = []
        for number in seeds:
            task = "scoring" if repeats == 1 else f"scoring seed {number}"
            with console.progress(task, subject.count) as update:
                scores.append({"name": name, **subject.score(number, update)})
            evaluate.record(subject.record, scores[-1])
    plot = plot or subject.plot
    if plot is not None:
        plots.save_spectrum(scores[0], plot)
    console.say(f"recorded in {subject.record}" + (f", spectra in {plot}" if plot is not None else ""))
    _show(scores, subject.judge, as_json)


@dataclass(frozen=True)
class _Subject:
    """What is scored.

    Attributes:
        judge: by whom.
        count: images in a score.
        score: from a seed and a progress to a score with its protocol.
        record: the file that keeps it.
        plot: where its spectra go unless they are asked for elsewhere; None for nowhere.
    """

    judge: Judge
    count: int
    score: Callable[[int, Callable[[int], None]], dict[str, Any]]
    record: Path
    plot: Path | None


def _model_images(
    run: Path | None,
    weights: Path | None,
    n: int | None,
    seeds: range,
    sampler: str | None,
    steps: int | None,
    eta: float | None,
    delta: float | None,
    label: str | None,
    guidance: float | None,
    batch_size: int | None,
    calibrated: bool,
    standard: Standard,
    team: Team,
) -> _Subject | None:
    """Images that a model will make while they are scored; a process that does not lead makes its share, and that is all."""
    from blurcli import evaluate, files

    path, chosen_run = find_weights(run, weights)
    model, step = load_model(path, standard.device, calibrated)
    solver = model.solver(sampler, steps, eta, delta, label, guidance)
    count = n or model.config.score.n
    if not team.leads:
        with team.first_leads():
            features = standard.load_features(model.config)
        for seed in seeds:
            protocol = evaluate.model_protocol(model, step, count, seed, solver)
            evaluate.contribute_images(model, protocol, features, team, batch_size)
        return None
    files.check_writable(evaluations_path(chosen_run))
    with team.first_leads():
        judge = standard.judge(model.config, chosen_run, (model.config.data.channels, *model.config.data.image_size))

    def score(seed: int, update: Callable[[int], None]) -> dict[str, Any]:
        protocol = evaluate.model_protocol(model, step, count, seed, solver)
        return judge.score_model(model, protocol, update, batch_size=batch_size, team=team, weights=str(path))

    plot = chosen_run.path / f"spectrum-{step:08d}.png" if chosen_run is not None else None
    return _Subject(judge, count, score, evaluations_path(chosen_run), plot)


def _existing_images(samples: Path, size: int | None, n: int | None, run: Path | None, standard: Standard) -> _Subject:
    """Images from files, against a reference brought to their size."""
    from blurcli import files
    from blurcli.data.stream import open_stream
    from blurcli.runs import Run

    chosen_run = Run(run) if run is not None else None
    config = chosen_run.config() if chosen_run is not None else None
    files.check_writable(evaluations_path(chosen_run))
    stream = open_stream(samples, config.data.channels if config else 3, (size, size) if size else None)
    count = n or stream.count
    if not 2 <= count <= stream.count:
        wanted = "" if n is None else f"; --n {n} cannot be taken of them"
        raise UsageError(f"{samples}: holds {stream.count} images{wanted}; a score needs at least 2")
    judge = standard.judge(config, chosen_run, stream.shape)

    def score(seed: int, update: Callable[[int], None]) -> dict[str, Any]:
        import torch

        protocol = {"samples": str(samples), "samples_found": stream.count}
        return judge.score(map(torch.from_numpy, stream.batches(count)), count, protocol, update)

    return _Subject(judge, count, score, evaluations_path(chosen_run), None)


def _show(scores: list[dict[str, Any]], judge: Judge, as_json: bool) -> None:
    """One score as it is; of several, the mean of every measure, and least, largest and standard deviation of the first."""
    from blurcli import console
    from blurcli.evaluate import MEASURES

    metric, kernel = judge.metric, judge.features.kernel_metric
    result = dict(scores[0])
    values = [score[metric] for score in scores]
    if len(scores) > 1:
        # What is neither a mean of all nor the same for all is in `scores`.
        result = {key: value for key, value in result.items() if all(score[key] == value for score in scores)}
        result |= {key: fmean(score[key] for score in scores) for key in MEASURES if scores[0].get(key) is not None}
        spread = {"min": min(values), "max": max(values), "std": stdev(values)}
        result |= {f"{metric}_{key}": value for key, value in spread.items()}
        result |= {"seed": [score["seed"] for score in scores], "scores": scores}
    if as_json:
        console.result_json(result)
        return
    text = f"{metric.upper()} {result[metric]:.4f}"
    if len(scores) > 1:
        text += f" (mean of {len(scores)} seeds; least {min(values):.4f}, standard deviation {stdev(values):.4f})"
    known = judge.reference.statistics.count
    against = f"{known:,} of {judge.reference.name}" if known else judge.reference.name
    console.result(f"{text}  ({judge.features.key}; {result['n']:,} images against {against})")
    others = {
        kernel.upper(): kernel,
        "precision": "precision",
        "recall": "recall",
        "log-spectral distance": "log_spectral_distance",
    }
    shown = [f"{title} {result[key]:.4g}" for title, key in others.items() if result.get(key) is not None]
    if shown:
        console.result(", ".join(shown))
