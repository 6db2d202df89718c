"""`blurdiff distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blurcli.cli import completion
from blurcli.cli.common import AssignmentsOption, DeviceOption, JsonOption, PrecisionOption, TrainingDataOption, with_precision
from blurcli.cli.progress import run_to_end
from blurcli.workflows.distillation import set_up


def distill(
    model: Annotated[
        str,
        typer.Argument(help="Run folder, weights file, hf://user/repo, or shapes.", autocompletion=completion.runs),
    ],
    data: TrainingDataOption = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Run folder. [default: the model's, with -distilled after its name]",
            autocompletion=completion.runs,
        ),
    ] = None,
    assignments: AssignmentsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved preset and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Distill a trained model into one that takes one to four steps.

    The result is a run like any other: sample --run RUN-distilled, or sample --run RUN --fast. It stops, continues and runs on
    several GPUs as train does.
    """
    found = set_up(model, data, run, with_precision(assignments, precision))
    if dry_run:
        from blurcli.config import to_json, to_yaml

        print((to_json(found.config) if as_json else to_yaml(found.config)).strip())
        return
    run_to_end(found.run, found.config, device, found.teacher, as_json)
