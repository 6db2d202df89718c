"""`blurdiff bench`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.base.errors import UsageError
from blurcli.cli.common import STARTED, AssignmentsOption, DeviceOption, JsonOption, PrecisionOption, with_precision
from blurcli.workflows.session import load_torch, resolve_preset

if TYPE_CHECKING:
    from blurcli.workflows.benchmark import Row


def bench(
    preset: Annotated[str, typer.Option("--preset", help="Name of a preset, or a YAML file.")] = "cifar10-blur",
    assignments: AssignmentsOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images per training step, and at most per sampling call. [default: the preset's; on a CPU fewer if steps "
            "would take long]",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare precisions, memory layouts and, on GPUs, compilation.")
    ] = False,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="Find the largest batch that fits into the GPU's memory.")
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="Time per measurement, at least 3 rounds.")] = 10,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the speed of a preset on this machine.

    Images per second, FLOP/s, memory, and the shares of a step. It needs no data: images are noise. It also estimates the time
    of the whole training. Rows are measured one after the other in one process; trust their ratios more than their values.
    """
    config = resolve_preset(preset, None, with_precision(assignments, precision))

    load_torch()
    from dataclasses import asdict

    from blurcli.base import console
    from blurcli.base.pace import duration
    from blurcli.core.objectives import OBJECTIVES
    from blurcli.evaluate import hardware, versions
    from blurcli.model.inference import choose_device
    from blurcli.workflows import benchmark as measuring

    if OBJECTIVES[config.objective].predicts_endpoint:
        raise UsageError(
            f"{preset}: objective {config.objective} trains with a teacher, which a preset does not name; "
            "measure the teacher's preset: a step of its distillation takes about twice as long"
        )
    chosen = choose_device(device)
    if max_batch and chosen.type == "cpu":
        raise UsageError("--max-batch: only a GPU reports full memory in time; leave it out, or use --device cuda")
    imported = time.perf_counter() - STARTED
    wanted = config.train.batch_size
    images = batch_size or measuring.affordable_batch(config, chosen, seconds)
    if batch_size is None and images < wanted:
        console.notify(
            f"measuring steps of {images} images instead of {wanted}, which take long on this CPU; --batch-size {wanted} "
            "measures those"
        )
    if images != wanted:
        config = measuring.changed(config, {"batch_size": images})
    if batch_size is not None:
        config = config.model_copy(update={"sample": config.sample.model_copy(update={"batch_size": batch_size})})
    variants = measuring.variants(config, chosen) if compare else {"as the preset says": {}}
    rows = [
        measuring.measure(name, measuring.changed(config, settings), chosen, seconds, console.notify)
        for name, settings in variants.items()
    ]
    first = rows[0]
    result: dict[str, Any] = {
        "preset": preset,
        "train_batch_size": images,
        "device": str(chosen),
        "hardware": hardware(chosen),
        "versions": versions(),
        "shares": measuring.shares(config, chosen, seconds, first.training.sec),
        "import_sec": imported,
        "first_step_sec": imported + first.first_step_sec,
        "first_call_sec": imported + first.first_call_sec,
        "train_sec": config.train.steps * (batch_size or wanted) / first.training.images_per_sec,
        "sample_64_sec": 64 * config.sample.steps / first.calls.images_per_sec,
    }
    if max_batch:
        result["max_batch"] = measuring.largest_training_batch(config, chosen)
    result["rows"] = [asdict(row) for row in rows]
    if as_json:
        console.result_json(result)
        return
    console.table(*_table(rows))
    shares = result["shares"]
    console.result(
        f"{result['hardware']}; share of a training step: data {shares['data']:.1%}, "
        f"transforms, schedule and noise {shares['diffusion']:.1%}"
    )
    console.result(
        f"from the start of a command: {result['first_step_sec']:.1f} s to the first training step, "
        f"{result['first_call_sec']:.1f} s to the first sampling step"
    )
    name = f", {first.variant}" if compare else ""
    console.result(
        f"at this speed{name}: {config.train.steps:,} training steps of {batch_size or wanted} images "
        f"{duration(result['train_sec'])}, 64 samples in {config.sample.steps} steps {duration(result['sample_64_sec'])}"
    )
    if max_batch:
        console.result(f"largest batch: {result['max_batch']} images")


def _table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    columns = ["variant", "training", "", "TFLOP/s", "of peak", "MiB", "sampling", "", "TFLOP/s", "of peak", "MiB"]
    cells = []
    for row in rows:
        line = [row.variant]
        for speed, plain in ((row.training, rows[0].training), (row.calls, rows[0].calls)):
            line += [f"{speed.images_per_sec:.4g}/s", f"{speed.images_per_sec / plain.images_per_sec:.2f}x"]
            line += [f"{speed.tflops:.3g}", f"{speed.utilisation:.0%}"]
            line.append("?" if speed.peak_mib is None else f"{speed.peak_mib:.0f}")
        cells.append(line)
    return columns, cells
