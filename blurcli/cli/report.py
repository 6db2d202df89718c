"""`blurdiff report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.base.errors import UserError
from blurcli.cli import completion
from blurcli.cli.common import DeviceOption, JsonOption, PrecisionOption, ReferenceOption, find_weights, show
from blurcli.workflows.session import chosen_count, load_model, reference_images, training_source

if TYPE_CHECKING:
    from blurcli.base.runs import Run
    from blurcli.data import Dataset
    from blurcli.model.pipeline import Pipeline

_IMAGES = 64


def report(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Run folder, or weights (.safetensors, hf://user/repo). [default: the newest run]",
            autocompletion=completion.runs,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The page, .html. [default: report.html in the run folder]")] = None,
    animation: Annotated[
        bool, typer.Option("--animation/--no-animation", help="Animate the reverse process of a few images.")
    ] = True,
    data: ReferenceOption = None,
    n: Annotated[int | None, typer.Option("--n", min=2, help="Images for the map of errors. [default: 64, or all]")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a report of a training as one HTML page.

    It shows settings, samples, losses, scores, errors, and how to repeat it. The page is self-contained. It names only the last
    part of the path of the training images.
    """
    from blurcli import hub
    from blurcli.base import console, files
    from blurcli.base.errors import OptionError

    is_weights = run is not None and (Path(run).is_file() or run.endswith(".safetensors") or hub.is_reference(run))
    path, chosen_run = find_weights(None if run is None or is_weights else Path(run), run if is_weights else None)
    out = out or (chosen_run.path if chosen_run is not None else Path()) / "report.html"
    if out.suffix.lower() != ".html":
        raise OptionError("out", out, "a report is a page; end the name in .html")
    files.check_writable(out)
    model, step = load_model(path, device, precision=precision)
    from blurcli.visualize.report import save_report
    from blurcli.visualize.report_pictures import Subject

    dataset = _images(model, chosen_run, data)
    count = chosen_count(n, dataset, _IMAGES) if dataset is not None else 0
    name = chosen_run.path.resolve().name if chosen_run is not None else Path(path).stem
    missing = save_report(Subject(name, chosen_run, step, model, dataset, count), out, console.progress, animation)
    for reason in missing:
        console.notify(reason)
    size = out.stat().st_size
    console.notify(f"the page has {size / 1e6:.1f} MB")
    show({"out": str(out), "bytes": size, "missing": missing}, str(out), as_json)


def _images(model: Pipeline, run: Run | None, data: str | None) -> Dataset | None:
    """The images for measuring the network: --data, or the run's own if they are available."""
    from blurcli.base import console
    from blurcli.data import is_available

    config, classes = model.config, None if model.classes is None else model.classes.names
    split = config.score.split
    if data is not None:
        return reference_images(config, run, data, split, classes)
    try:
        source = training_source(config, run, "data")
        if not is_available(source, split, config.data.image_size, config.data.channels):
            return None
        return reference_images(config, run, None, split, classes)
    except UserError as error:
        console.notify(str(error))
        return None
