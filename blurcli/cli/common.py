"""Shared by the commands: options, and finding weights, data and devices."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blurcli.base.errors import UsageError, quoted
from blurcli.cli import completion
from blurcli.core.sampling_options import SAMPLING_OPTIONS, SamplingOption, SamplingRequest

if TYPE_CHECKING:
    from blurcli.base.runs import Run

AS_PRESET = SamplingRequest()
"""Nothing chosen."""

STARTED = time.perf_counter()
"""About when the command began."""

PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="Name of a preset, or a YAML file. [default: the run's]", autocompletion=completion.presets),
]
TrainingDataOption = Annotated[
    str | None, typer.Option("--data", help="Folder or .zip of images, or a dataset's name. [default: the preset's]")
]
AssignmentsOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset, e.g. train.steps=1000.")]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run", help="Run folder; its newest weights are used. [default: the newest]", autocompletion=completion.runs
    ),
]
# A text, because a path would turn hf:// into hf:/.
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Weights: a .safetensors file; hf://user/repo, or its address; or shapes or photos, the bundled models.",
    ),
]

GuideOption = Annotated[
    str | None,
    typer.Option("--guide", help="Weights of an earlier or smaller version of the model: guide away from it (autoguidance)."),
]
CalibrationOption = Annotated[
    bool,
    typer.Option(
        "--calibration/--no-calibration", help="For objective eps: scale the network's estimates by their measured gain."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed of the images.")]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images per batch. [default: the preset's, or what fits]")
]
ReferenceOption = Annotated[
    str | None, typer.Option("--data", help="Reference: folder, .zip or dataset's name. [default: the run's own]")
]
SplitOption = Annotated[
    Literal["train", "test"] | None, typer.Option("--split", help="Reference images. [default: the preset's]")
]
CountOption = Annotated[
    int | None, typer.Option("--n", min=2, help="Number of images, evenly spaced in the data. [default: 256, or all]")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda", "mps", "xpu"], typer.Option("--device", help="Where to compute.")]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"] | None,
    typer.Option("--precision", help="Precision of the network; auto: bf16 where the hardware has it. [default: the preset's]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
ModeOption = Annotated[
    Literal["clean", "legacy_tensorflow", "legacy_pytorch"] | None,
    typer.Option("--mode", help="Resizing and network of clean-fid, for Inception. [default: the preset's]"),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="inception, pixels, or a TorchScript or torch.export file (code: it is executed). [default: the preset's]",
    ),
]
InceptionOption = Annotated[
    Path | None,
    typer.Option("--inception", help="Inception's file, or its folder. [default: $BLURDIFF_INCEPTION, or downloaded once]"),
]
PublishedOption = Annotated[
    str | None,
    typer.Option("--reference", help="Published statistics of clean-fid instead of images: cleanfid:NAME[:SIZE[:SPLIT]]."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Score even fewer images than features.")]


def _sampling_parameter(one: SamplingOption) -> inspect.Parameter:
    kind = Literal[one.choices] if one.choices else one.kind  # read at run time
    option = typer.Option(f"--{one.flag}", min=one.low, max=one.high, help=f"{one.help} [default: {one.default}]")
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def sampling_flags() -> str:
    """All flags of `SamplingRequest`, for messages."""
    return ", ".join(f"--{one.flag}" for one in SAMPLING_OPTIONS)


def takes_sampling_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, in the place of its parameter `request`, an option per field of `SamplingRequest`.

    Args:
        *names: the fields; all without any.
    """
    own = {one.name: _sampling_parameter(one) for one in SAMPLING_OPTIONS if one.name in names or not names}

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += own.values() if parameter.name == "request" else [parameter.replace(kind=parameter.KEYWORD_ONLY)]

        @functools.wraps(command)
        def call(**given: Any) -> None:
            command(request=SamplingRequest(**{name: given.pop(name) for name in own}), **given)

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads it
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return with_options


def with_precision(assignments: list[str] | None, precision: str | None) -> list[str]:
    """Assignments, and one more for a precision if one is chosen."""
    return [*(assignments or []), *([] if precision is None else [f"train.precision={precision}"])]


def show(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result as JSON or as text."""
    from blurcli.base import console

    if as_json:
        console.result_json(value)
    else:
        console.result(text)


def find_weights(run: Path | None, weights: str | None, fast: bool = False) -> tuple[Path | str, Run | None]:
    """The weights file to use, or its reference on the hub, and its run if there is one; prints which.

    Without a named file and without any run, the bundled model is used.

    Args:
        run: a run folder.
        weights: the name of a file, as for `session.resolve_file`.
        fast: whether to use the run's distilled model.
    """
    from blurcli import bundled
    from blurcli.base import console
    from blurcli.base.runs import RUNS, newest_run, resolve_run
    from blurcli.workflows import session

    if weights is not None and run is not None:
        raise UsageError("--run and --weights: give one of them, not both")
    if weights is not None:
        if fast:
            raise UsageError(
                f"--fast --weights {weights}: a weights file does not name its distilled model; name the distilled model itself"
            )
        found = session.resolve_file(weights)
        if isinstance(found, Path) and resolve_run(found).path.is_dir():
            raise UsageError(f"--weights {weights}: a folder, not a weights file; for a run use: --run {quoted(weights)}")
        return found, None
    chosen = resolve_run(run) if run is not None else newest_run(console.notify)
    if chosen is None:
        if fast:
            raise UsageError("--fast: the bundled model has no distilled model; distill a run with: blurdiff distill RUN")
        console.notify(
            f"no run in {RUNS}/ yet: using the bundled model (--weights {bundled.NAME}); "
            f"train your own with: blurdiff train --preset {bundled.NAME}"
        )
        return bundled.PATH, None
    if fast:
        chosen = _distilled(chosen)
    path = chosen.newest_weights()
    console.notify(f"using {path}")
    return path, chosen


def _distilled(run: Run) -> Run:
    """The run with the distilled model of a run, or itself if it is distilled; warns if the run was trained further since."""
    from blurcli.base import console
    from blurcli.model.weights import load_weights
    from blurcli.workflows.distillation import check_teacher, is_distilled, teacher_digest

    found = run.distilled
    if run.last_weights() is None and found.last_weights() is not None:
        return found
    own = load_weights(run.newest_weights())
    if is_distilled(own):
        return run
    if found.last_weights() is None:
        try:
            check_teacher(own)
        except UsageError as error:
            raise UsageError(f"--fast: {error.text}; leave --fast out") from None
        raise UsageError(f"--fast: {run.path} has no distilled model yet; distill it with: blurdiff distill {quoted(run.path)}")
    path = found.newest_weights()
    if not is_distilled(load_weights(path)):
        raise UsageError(
            f"--fast: {run.path} has no distilled model: {path} is not distilled; distill it into another folder, and sample "
            f"from that, with: blurdiff distill {quoted(run.path)} --run {quoted(f'{found.path}-2')}"
        )
    if teacher_digest(found) not in (None, own.digest):
        console.notify(f"warning: {found.path}: was distilled from other weights than {own.path}, the newest of {run.path}")
    return found
