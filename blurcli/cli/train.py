"""`blurdiff train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blurcli.cli import common, completion
from blurcli.cli.common import with_precision
from blurcli.cli.progress import run_to_end
from blurcli.workflows.distillation import teacher_of
from blurcli.workflows.session import load_torch
from blurcli.workflows.training_setup import PURPOSES, set_up

if TYPE_CHECKING:
    Purpose = str
else:
    Purpose = Literal[PURPOSES]  # Typer reads the choices at run time


def train(
    preset: common.PresetOption = None,
    data: common.TrainingDataOption = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Run folder. [default: runs/<preset>, or runs/<folder>]", autocompletion=completion.runs),
    ] = None,
    assignments: common.AssignmentsOption = None,
    device: common.DeviceOption = "auto",
    precision: common.PrecisionOption = None,
    hours: Annotated[
        float | None,
        typer.Option("--hours", help="Length at the speed of this computer, instead of train.steps. [default: the preset's]"),
    ] = None,
    purpose: Annotated[
        Purpose | None,
        typer.Option("--for", help="What a model of your own images is for: sample, or restore photos. [default: sample]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved preset and stop.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Train a model, or continue a run. With --data alone, the preset is chosen by the images and this computer.

    Ctrl-C (or SIGTERM) finishes the step and saves; the same command continues. A second Ctrl-C ends at once.
    Several GPUs: torchrun --nproc-per-node 4 -m blurcli train ...; each takes its share of every batch.
    """
    from blurcli.config import to_json, to_yaml

    setup = set_up(preset, data, run, device, with_precision(assignments, precision), hours, purpose)
    config = setup.config
    if dry_run:
        print((to_json(config) if as_json else to_yaml(config)).strip())
        return

    load_torch()
    run_to_end(setup.run, config, device, teacher_of(setup.run, config), as_json, setup.expected_sec)
