"""`blurdiff diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blurcli.cli import common
from blurcli.cli.common import find_weights
from blurcli.workflows.session import load_model, measured_images

_TIMES = 33
_ROWS = 9  # of the table: every fourth time


def diagnose(
    run: common.RunOption = None,
    weights: common.WeightsOption = None,
    data: common.ReferenceOption = None,
    split: common.SplitOption = None,
    n: common.CountOption = None,
    seed: common.SeedOption = 0,
    calibrated: common.CalibrationOption = True,
    out: Annotated[
        Path | None, typer.Option("--out", help="Plot: .png, .svg or .pdf. [default: diagnose-*.png in the run folder]")
    ] = None,
    device: common.DeviceOption = "auto",
    precision: common.PrecisionOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Show the network's errors by time and frequency band.

    Values are squared errors of x_hat relative to the best linear (Wiener) filter: 0 is perfect, 1 is no better than that
    filter, above 1 is worse.
    """
    from blurcli.base import console
    from blurcli.core.bands import band_names, frequency_bands
    from blurcli.evaluate import denoising
    from blurcli.visualize import figures, plots

    path, chosen_run = find_weights(run, weights)
    model, step = load_model(path, device, calibrated, precision=precision)
    model.family.require_mean_estimate()
    split = split or model.config.score.split
    marks = ("" if calibrated else "-uncalibrated") + ("" if precision is None else f"-{model.precision}")
    name = f"diagnose-{step:08d}-{split}{marks}.png"
    out = out or (chosen_run.path if chosen_run is not None else Path()) / name
    figures.check_plot(out)
    _, measured = measured_images(model, chosen_run, data, split, n, seed)
    with console.progress("measuring", measured.count) as update:
        errors = denoising.denoising_errors(model, measured, times=_TIMES, per_octave=1, on_batch=update)
    names = band_names(frequency_bands(*model.process.shape, 1)[1])
    relative = errors.relative
    plots.save_errors(errors.times, relative, names, out)
    if as_json:
        rows = relative.tolist()
        result = {"times": errors.times.tolist(), "bands": names, "relative_error": rows, "out": str(out)}
        console.result_json({**result, "label": measured.label(model), "network_precision": model.precision})
        return
    shown = range(0, _TIMES, (_TIMES - 1) // (_ROWS - 1))
    console.table(["t", *names], [[f"{errors.times[k]:.3f}", *(f"{value:.3g}" for value in relative[k])] for k in shown])
    console.result(str(out))
