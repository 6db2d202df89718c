"""`blurdiff bench`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.cli.common import STARTED, AssignmentsOption, DeviceOption, JsonOption, resolve_preset
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from blurcli.benchmark import Row


def bench(
    preset: Annotated[str, typer.Option("--preset", help="Name of a preset, or a YAML file.")] = "cifar10-blur",
    assignments: AssignmentsOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Images per training step and per sampling call. [default: the preset's]"),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare precisions, memory layouts and, on GPUs, compilation.")
    ] = False,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="Find the largest batch that fits into the GPU's memory.")
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="Time per measurement, at least 3 rounds.")] = 10,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure the speed of a preset on this machine: images per second, FLOP/s, memory, and the shares of a step.

    It needs no data: images are noise. Rows are measured one after the other in one process; trust their ratios more than
    their values.
    """
    config = resolve_preset(preset, None, assignments)
    if batch_size is not None:
        sizes = {"batch_size": batch_size}
        config = config.model_copy(
            update={"train": config.train.model_copy(update=sizes), "sample": config.sample.model_copy(update=sizes)}
        )

    from dataclasses import asdict

    from blurcli import benchmark as measuring
    from blurcli import console
    from blurcli.evaluate import hardware, versions
    from blurcli.inference import choose_device

    chosen = choose_device(device)
    if max_batch and chosen.type == "cpu":
        raise UsageError("--max-batch: only a GPU reports full memory in time; leave it out, or use --device cuda")
    imported = time.perf_counter() - STARTED
    sample_sec = measuring.image_seconds(config, chosen, 1, console.notify)
    rows = [measuring.measure("as the preset says", config, chosen, seconds, console.notify)]
    result: dict[str, Any] = {
        "preset": preset,
        "train_batch_size": config.train.batch_size,
        "device": str(chosen),
        "hardware": hardware(chosen),
        "versions": versions(),
        "shares": measuring.shares(config, chosen, seconds),
        "import_sec": imported,
        "first_step_sec": imported + rows[0].first_step_sec,
        "first_sample_sec": imported + sample_sec,
    }
    if max_batch:
        result["max_batch"] = measuring.largest_training_batch(config, chosen)
    if compare:
        rows = []
        for name, settings in measuring.variants(config, chosen).items():
            rows.append(measuring.measure(name, measuring.changed(config, settings), chosen, seconds, console.notify))
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
        f"{result['first_sample_sec']:.1f} s to the first sample"
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
