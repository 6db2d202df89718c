"""`blurdiff likelihood`."""

from __future__ import annotations

from typing import Annotated

import typer

from blurcli.base.errors import UsageError
from blurcli.cli import common
from blurcli.cli.common import find_weights
from blurcli.core.sampling_options import SamplingRequest
from blurcli.workflows.session import load_model, measured_images


@common.takes_sampling_options("delta")
def likelihood(
    run: common.RunOption = None,
    weights: common.WeightsOption = None,
    data: common.ReferenceOption = None,
    split: common.SplitOption = None,
    n: common.CountOption = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Bound for this number of ancestral steps. [default: continuous time]")
    ] = None,
    request: SamplingRequest = common.AS_PRESET,
    calls: Annotated[int, typer.Option("--calls", min=1, help="Network calls per image; more are more precise.")] = 32,
    seed: common.SeedOption = 0,
    calibrated: common.CalibrationOption = True,
    device: common.DeviceOption = "auto",
    precision: common.PrecisionOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Bound the negative log-likelihood of images.

    It is in bits per dimension; lower is better. The bound is reported by prior, diffusion and reconstruction, and by frequency
    band. Use images outside the training set: --split test, where the data have one.
    """
    from blurcli import evaluate
    from blurcli.base import console
    from blurcli.evaluate.likelihood import likelihood_score, standard_error
    from blurcli.families import LikelihoodConfig

    path, chosen_run = find_weights(run, weights)
    model, step = load_model(path, device, calibrated, precision=precision)
    chosen = model.family.resolve_likelihood(LikelihoodConfig(calls, steps, request.delta))
    split = split or model.config.score.split
    dataset, measured = measured_images(model, chosen_run, data, split, n, seed)
    if measured.count < 2:
        raise UsageError(f"{dataset.name}: has one image; a standard error needs at least two: use more with --data")
    with console.progress("likelihood", measured.count) as update:
        score, bound = likelihood_score(model, dataset, measured, chosen, update)
    score |= {"weights": str(path), "step": step, "split": split}
    parts = {"prior": bound.prior, "diffusion": bound.diffusion, "reconstruction": bound.reconstruction}
    if chosen_run is not None:
        evaluate.record(chosen_run.evaluations_path, score)
    if as_json:
        console.result_json(score)
        return
    rows = [[name, f"{part.mean():.4f}", f"{standard_error(part):.4f}"] for name, part in parts.items()]
    rows += [["total", f"{bound.total.mean():.4f}", f"{standard_error(bound.total):.4f}"]]
    rows += [
        [f"  {name}", f"{band.mean():.4f}", f"{standard_error(band):.4f}"]
        for name, band in zip(score["bands"], bound.bands.T, strict=True)
    ]
    process = model.family.describe_likelihood(chosen)
    console.result(f"{process}, {measured.count} images of {dataset.name}; the bands sum to prior + diffusion")
    console.table(["", "bits/dim", "standard error"], rows)
