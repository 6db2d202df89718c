"""`blurdiff train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blurcli.cli.common import (
    AssignmentsOption,
    DeviceOption,
    JsonOption,
    PresetOption,
    TrainingDataOption,
    distributed_context,
    load_images,
    resolve_preset,
    show,
)
from blurcli.errors import UsageError


def train(
    preset: PresetOption = None,
    data: TrainingDataOption = None,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder. [default: runs/<preset>]")] = None,
    assignments: AssignmentsOption = None,
    device: DeviceOption = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved preset and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model, or continue a run.

    Ctrl-C (or SIGTERM) finishes the step and saves; the same command continues. A second Ctrl-C ends at once.
    Several GPUs: torchrun --nproc-per-node 4 -m blurcli train ...; each takes its share of every batch.
    """
    from blurcli.config import to_json, to_yaml
    from blurcli.runs import RUNS, Run

    if preset is None and run is None:
        raise UsageError("train needs --preset NAME (blurdiff presets lists them), or --run DIR to continue a run")
    folder = Run(run if run is not None else RUNS / Path(str(preset)).stem)
    if preset is None and not folder.config_path.exists():
        raise UsageError(f"--run {folder.path}: no run to continue; start one with --preset NAME")
    config = resolve_preset(preset if preset is not None else str(folder.config_path.resolve()), data, assignments)
    if dry_run:
        print((to_json(config) if as_json else to_yaml(config)).strip())
        return

    from blurcli import console
    from blurcli.inference import choose_device
    from blurcli.train import Callbacks, Interrupted, Metrics
    from blurcli.train import train as run_training
    from blurcli.visualize import tile

    with distributed_context(device) as distributed:
        with distributed.main_first():
            dataset = load_images(config, config.data.source, "train", config.data.classes)
        with console.progress("training", config.train.steps) as update:

            def on_log(metrics: Metrics) -> None:
                loss = "no finite loss" if metrics.loss is None else f"loss {metrics.loss:.4f}"
                note = f"{loss}  {metrics.images_per_sec:.0f} images/s"
                update(metrics.step, note=note)
                if not console.is_terminal():
                    console.notify(f"step {metrics.step}/{config.train.steps}  {note}")

            try:
                callbacks = Callbacks(console.notify, on_log, tile)
                weights = run_training(config, folder, dataset, choose_device(device), callbacks, distributed)
            except Interrupted as stop:
                console.notify(f"{stop}; the same command continues")
                raise typer.Exit(stop.exit_code) from None
        result = {"run": str(folder.path), "weights": str(weights), "step": config.train.steps}
        show(result, str(weights), as_json)
