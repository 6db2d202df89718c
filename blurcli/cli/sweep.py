"""`blurdiff sweep`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from blurcli.cli.common import (
    BatchSizeOption,
    CalibrationOption,
    DeviceOption,
    FeaturesOption,
    ForceOption,
    InceptionOption,
    JsonOption,
    ModeOption,
    PublishedOption,
    ReferenceOption,
    RunOption,
    SeedOption,
    SplitOption,
    Standard,
    WeightsOption,
    check_enough,
    evaluations_path,
    find_weights,
    load_model,
)
from blurcli.errors import UsageError, did_you_mean

_SAMPLERS = "abm,ab2,dpmpp-2m,ddim,ancestral"
_COLUMNS = ("steps", "mean", "min", "max", "seeds")


def sweep(
    run: RunOption = None,
    weights: WeightsOption = None,
    steps: Annotated[str, typer.Option("--steps", help="Numbers of steps, with commas.")] = "5,10,20,50,100",
    samplers: Annotated[
        str | None, typer.Option("--samplers", help=f"Solvers, with commas. [default: {_SAMPLERS}; heat for heat dissipation]")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Sets of images a point, from --seed on.")] = 1,
    seed: SeedOption = 0,
    data: ReferenceOption = None,
    n: Annotated[int | None, typer.Option("--n", min=2, help="Images a score. [default: the preset's]")] = None,
    published: PublishedOption = None,
    split: SplitOption = None,
    mode: ModeOption = None,
    features: FeaturesOption = None,
    inception: InceptionOption = None,
    force: ForceOption = False,
    batch_size: BatchSizeOption = None,
    calibrated: CalibrationOption = True,
    out: Annotated[
        Path | None, typer.Option("--out", help="Plot, .png or .svg. [default: sweep-*.png in the run folder]")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score samplers against their numbers of steps: a table, JSON and a plot.

    Scores that the run's evaluations.jsonl has by the same protocol and versions are not taken again, so that a sweep can be
    stopped and continued, or extended; the table and the plot show all that are there for these samplers and seeds.
    """
    from blurcli import console, evaluate, files, plots

    if seed + seeds > 2**64:
        raise UsageError(f"--seed {seed} --seeds {seeds}: the last seed must be below 2^64")
    chosen_steps = _steps(steps)
    chosen_samplers = _samplers(samplers) if samplers is not None else []
    path, chosen_run = find_weights(run, weights)
    record = evaluations_path(chosen_run)
    files.check_writable(record)
    model, step = load_model(path, device, calibrated)
    config = model.config
    chosen_samplers = chosen_samplers or _samplers("heat" if config.sample.sampler == "heat" else _SAMPLERS)
    standard = Standard(features, mode, split, data, published, inception, device)
    judge = standard.judge(config, chosen_run, (config.data.channels, *config.data.image_size))
    metric, count = judge.metric, n or config.score.n
    out = out or (chosen_run.path if chosen_run is not None else Path()) / f"sweep-{step:08d}-{judge.features.key}-n{count}.png"
    plots.check_plot(out)
    check_enough(judge, count, force)

    points = [
        evaluate.model_protocol(model, step, count, number, model.solver(name, calls, None))
        for name, calls, number in itertools.product(chosen_samplers, chosen_steps, range(seed, seed + seeds))
    ]
    common = {
        key: value
        for key, value in points[0].items()
        if key not in ("sampler", "steps", "eta", "delta", "label", "guidance", "seed")
    }
    common |= {**judge.protocol, "versions": evaluate.versions()}
    scores = [score for score in evaluate.recorded(record) if metric in score and _agree(score, common)]
    missing = [point for point in points if not any(_agree(score, point) for score in scores)]
    for done, point in enumerate(missing, start=1):
        label = f"{point['sampler']}, {point['steps']} steps, seed {point['seed']} ({done} of {len(missing)})"
        with console.progress(label, count) as update:
            score = judge.score_model(model, point, update, batch_size=batch_size, name="", weights=str(path))
        console.say(f"{label}: {metric.upper()} {score[metric]:.4f}")
        scores.append(score)
        evaluate.record(record, score)

    shown = [score for score in scores if score["sampler"] in chosen_samplers and seed <= score["seed"] < seed + seeds]
    rows = _summary(shown, metric)
    plots.save_sweep(rows, metric.upper(), out)
    if as_json:
        console.result_json({"metric": metric, "rows": rows, "out": str(out), **common})
        return
    console.table(
        ["sampler", "steps", metric.upper(), "from", "to", "seeds"],
        [
            [row["sampler"], *(f"{row[key]:.4f}" if key in ("mean", "min", "max") else str(row[key]) for key in _COLUMNS)]
            for row in rows
        ],
    )
    console.result(str(out))


def _agree(score: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(score.get(key) == value for key, value in wanted.items())


def _summary(scores: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Mean, least and largest score of every sampler (ddim also by eta) and number of steps, over seeds."""
    groups: dict[tuple[str, int], dict[int, float]] = {}
    for score in scores:
        name = score["sampler"] + (f" eta {score['eta']:g}" if score.get("eta") else "")
        groups.setdefault((name, score["steps"]), {})[score["seed"]] = score[metric]
    return [
        {
            "sampler": name,
            "steps": steps,
            "mean": sum(values.values()) / len(values),
            "min": min(values.values()),
            "max": max(values.values()),
            "seeds": len(values),
        }
        for (name, steps), values in sorted(groups.items())
    ]


def _steps(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UsageError(f"--steps {text}: give whole numbers from 1 up with commas, such as 5,10,20")
    return list(dict.fromkeys(counts))


def _samplers(text: str) -> list[str]:
    from blurcli.core import SAMPLERS

    known = (*SAMPLERS, "heat")
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"--samplers: unknown sampler {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return list(dict.fromkeys(names))
