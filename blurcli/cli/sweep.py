"""`blurdiff sweep`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from blurcli.base.errors import UsageError, did_you_mean
from blurcli.cli import common
from blurcli.cli.common import find_weights
from blurcli.workflows.scoring import ScoringOptions, check_enough, evaluations_path, score_images
from blurcli.workflows.session import load_model

_STEPS, _FEW_STEPS = "5,10,20,50,100", "1,2,4"


def sweep(
    run: common.RunOption = None,
    weights: common.WeightsOption = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", help=f"Numbers of steps, separated by commas. [default: {_STEPS}; distilled {_FEW_STEPS}]"),
    ] = None,
    samplers: Annotated[
        str | None, typer.Option("--samplers", help="Samplers, separated by commas. [default: all for the model's family]")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Sets of images per point, from --seed on.")] = 1,
    seed: common.SeedOption = 0,
    data: common.ReferenceOption = None,
    n: Annotated[int | None, typer.Option("--n", min=2, help="Images per score. [default: the preset's]")] = None,
    published: common.PublishedOption = None,
    split: common.SplitOption = None,
    mode: common.ModeOption = None,
    features: common.FeaturesOption = None,
    inception: common.InceptionOption = None,
    force: common.ForceOption = False,
    batch_size: common.BatchSizeOption = None,
    calibrated: common.CalibrationOption = True,
    out: Annotated[
        Path | None, typer.Option("--out", help="Plot: .png, .svg or .pdf. [default: sweep-*.png in the run folder]")
    ] = None,
    device: common.DeviceOption = "auto",
    precision: common.PrecisionOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Score samplers against their numbers of steps: table and plot.

    Scores in the run's evaluations.jsonl with the same protocol and versions are reused, so that a sweep can be stopped and
    continued, or extended. Table and plot show all of them for these samplers and seeds.
    """
    from blurcli import evaluate
    from blurcli.base import console, files
    from blurcli.visualize import figures, plots

    if seed + seeds > 2**64:
        raise UsageError(f"--seed {seed} --seeds {seeds}: the last seed must be below 2^64")
    chosen_steps = _steps(steps) if steps is not None else []
    chosen_samplers = _samplers(samplers) if samplers is not None else []
    path, chosen_run = find_weights(run, weights)
    record = evaluations_path(chosen_run)
    files.check_writable(record)
    model, step = load_model(path, device, calibrated, precision=precision)
    config = model.config
    chosen_samplers = chosen_samplers or list(model.family.samplers)
    chosen_steps = chosen_steps or _steps(_FEW_STEPS if model.family.objective.predicts_endpoint else _STEPS)
    options = ScoringOptions(features, mode, split, data, published, inception, device)
    scorer = options.scorer(config, chosen_run, (config.data.channels, *config.data.image_size))
    metric, count = scorer.metric, n or config.score.n
    title = evaluate.TITLES[metric]
    out = (
        out or (chosen_run.path if chosen_run is not None else Path()) / f"sweep-{step:08d}-{scorer.features.key}-n{count}.png"
    )
    figures.check_plot(out)
    check_enough(scorer, count, force)

    points = [
        evaluate.ModelImages(model, step, count, number, model.sampling(name, calls), batch_size)
        for name, calls, number in itertools.product(chosen_samplers, chosen_steps, range(seed, seed + seeds))
    ]
    usual = points[0].protocol
    shared = {**scorer.protocol, "versions": evaluate.versions()}
    expected = {**shared, "size": list(config.data.image_size)}
    scores = _reusable(evaluate.recorded(record), {**usual, **expected}, metric)
    known = {_identity(score) for score in scores}
    missing = [point for point in points if _identity({**point.protocol, **expected}) not in known]
    for done, point in enumerate(missing, start=1):
        label = f"{point.sampling.sampler}, {point.sampling.steps} steps, seed {point.seed} ({done} of {len(missing)})"
        score = score_images(scorer, point, count, label, name="", weights=str(path))
        console.notify(f"{label}: {title} {score[metric]:.4f}")
        scores.append(score)
        evaluate.record(record, score)

    wanted = {str(number) for number in range(seed, seed + seeds)}
    shown = [score for score in scores if score.get("sampler") in chosen_samplers and str(score.get("seed")) in wanted]
    rows = _summary(shown, metric, {**usual, "eta": 0.0})
    plots.save_sweep(rows, f"{title} ({scorer.protocol['features']}, {count:,} images)", out)
    if as_json:
        same = {key: value for key, value in usual.items() if key not in (*evaluate.SAMPLING, "seed")}
        console.result_json({"metric": metric, "rows": rows, "out": str(out), **same, **shared})
        return
    console.table(*evaluate.tabulate({**{key: key for key in rows[0]}, "mean": title}, rows))
    console.result(str(out))


def _reusable(scores: list[dict[str, Any]], wanted: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """The scores that differ from `wanted` only in the sampler, its settings and the seed."""
    from blurcli.evaluate import SAMPLING, is_number, subject_of

    subject = subject_of(wanted, across=SAMPLING)
    return [
        score
        for score in scores
        if is_number(score.get(metric))
        and is_number(score.get("steps"))
        and subject_of(score, across=SAMPLING) == subject
        and all(score.get(key) == wanted[key] for key in ("device", "versions"))
    ]


def _identity(score: dict[str, Any]) -> tuple[str, str]:
    from blurcli.evaluate import subject_of

    return subject_of(score), str(score.get("seed"))


def _summary(scores: list[dict[str, Any]], metric: str, usual: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean, minimum and maximum over seeds for each sampler, its unusual settings, and number of steps."""
    from blurcli.evaluate import network_calls, sampling_title, subject_of

    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for score in scores:
        groups.setdefault(subject_of(score), {})[str(score["seed"])] = score
    rows = []
    for by_seed in groups.values():
        first = next(iter(by_seed.values()))
        values = [score[metric] for score in by_seed.values()]
        spread = {"mean": sum(values) / len(values), "min": min(values), "max": max(values), "seeds": len(values)}
        counts = {"steps": first["steps"], "calls": network_calls(first)}
        rows.append({"sampler": sampling_title(first, usual), **counts, **spread})
    return sorted(rows, key=lambda row: (row["sampler"], row["steps"]))


def _steps(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UsageError(f"--steps {text}: not a list of whole numbers from 1; write them with commas, such as 5,10,20")
    return list(dict.fromkeys(counts))


def _samplers(text: str) -> list[str]:
    from blurcli.core.samplers import SAMPLERS

    known = tuple(SAMPLERS)
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"--samplers: unknown sampler {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return list(dict.fromkeys(names))
