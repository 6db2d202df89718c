"""`blurdiff animate`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blurcli.base.errors import UsageError
from blurcli.cli import common
from blurcli.cli.common import find_weights, sampling_flags, show
from blurcli.core.sampling_options import SamplingRequest
from blurcli.workflows.session import load_images, load_model, photo_size, read_photo, resolve_preset, training_source

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from blurcli.base.runs import Run
    from blurcli.config import Config
    from blurcli.visualize.outputs import Output, Presentation
    from blurcli.visualize.trajectories import AnimatedProcess, Trajectory

_LARGEST_PHOTO_PX = 512  # of its longer side
_FRAMES, _STRIP_FRAMES = 41, 8


@common.takes_sampling_options()
def animate(
    out: Annotated[
        Path,
        typer.Argument(help=".gif, .webp, .png or .apng (animated), .mp4, .html (page), or a folder."),
    ],
    run: common.RunOption = None,
    weights: common.WeightsOption = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Preset to show forward, without a trained model.")] = None,
    assignments: common.AssignmentsOption = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", help="Run, weights or preset to show beside it; repeatable."),
    ] = None,
    direction: Annotated[
        Literal["reverse", "forward", "both"],
        typer.Option("--direction", help="From noise, to noise, or there and back."),
    ] = "reverse",
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Photo, folder, .zip to dissolve. [default: the run's]"),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help=f"With --preset: N or HxW px. [default: photo's, at most {_LARGEST_PHOTO_PX}]",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images, side by side.")] = 16,
    what: Annotated[
        Literal["z", "x_hat", "both", "blur"] | None,
        typer.Option(
            "--show",
            help="State z, estimate x_hat, both; or blur alone beside z, as for photos.",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=2, help=f"Frames per direction. [default: {_FRAMES}; of a strip: {_STRIP_FRAMES}]"),
    ] = None,
    spacing: Annotated[
        Literal["time", "logsnr", "steps"] | None,
        typer.Option(
            "--spacing",
            help="Frames uniform in steps (of one reverse process), time or logsnr.",
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1, help="Frames per second. [default: 15]")] = None,
    hold: Annotated[
        float | None, typer.Option("--hold", min=0, help="Duration of the last frame in seconds. [default: 1.5]")
    ] = None,
    loop: Annotated[int | None, typer.Option("--loop", min=0, help="Times it is played; 0 is endless. [default: 0]")] = None,
    scale: Annotated[
        int | None,
        typer.Option("--scale", min=1, help="Enlargement by whole pixels. [default: about 512 px wide]"),
    ] = None,
    columns: Annotated[int | None, typer.Option("--columns", min=1, help="Images per row. [default: nearly square]")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Write time, log-SNR and blur on every frame.")] = False,
    strip: Annotated[bool, typer.Option("--strip", help="All frames in one still .png, from left to right.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Play the animation in the terminal, too.")] = False,
    request: SamplingRequest = common.AS_PRESET,
    guide: common.GuideOption = None,
    seed: common.SeedOption = 0,
    device: common.DeviceOption = "auto",
    precision: common.PrecisionOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Animate how images emerge from noise, or dissolve in it.

    The last frame of the reverse process shows the images of sample with the same seed; forward, --preset needs no trained
    model.
    """
    from blurcli.base import console, files
    from blurcli.visualize.outputs import FilmStrip, Presentation, output_for
    from blurcli.visualize.trajectories import View, forward_trajectory, reverse_trajectory, uniform_times

    output = FilmStrip() if strip else output_for(out)
    presentation = Presentation(fps, hold, loop, scale, columns, labels or None)
    _check_output(output, out, presentation)
    source = _Source(run, weights, preset, assignments, compare or [], images, size, guide, precision)
    source.check(direction)
    estimates = what in ("x_hat", "both")
    if precision is not None and direction == "forward" and not estimates:
        raise UsageError("--precision: no network is called here; leave it out, or add --show x_hat or --direction reverse")
    reversing = replace(request, label=None) if estimates else request
    if direction == "forward" and (reversing.given() or guide is not None):
        raise UsageError(
            f"{sampling_flags()}, --guide: apply to the reverse process; leave them out, or use --direction reverse "
            "(--frames sets the number of frames; --class is for --show x_hat, too)"
        )
    single_reverse = direction == "reverse" and not compare
    spacing = spacing or ("steps" if single_reverse else "time")
    if spacing == "steps" and not single_reverse:
        raise UsageError(
            "--spacing steps: applies to a single reverse process; use time, or leave out --direction and --compare"
        )

    if what == "blur" and direction != "forward":
        raise UsageError("--show blur: applies to the forward process; add --direction forward")
    frames = frames or (_STRIP_FRAMES if strip else _FRAMES)
    loaded = source.load(device)
    processes = [one.animated for one in loaded]
    if what is None:
        photo = direction == "forward" and images is not None and _is_photo(images)
        what = "blur" if photo and not strip and all(one.blurs for one in processes) else "z"
    for one in processes:
        if one.model is None and (direction != "forward" or estimates):
            raise UsageError(f"{one.title}: is a preset, and this needs a trained model; name a run folder or a weights file")
    times = uniform_times(processes[0].process, frames, spacing) if spacing != "steps" else []

    models = [one.model for one in processes if one.model is not None and one.model.classes is not None]
    asked = estimates and request.label is None
    known = dict.fromkeys(name for model in models if asked and model.classes for name in model.classes.names)
    clean, classes = None, None
    if direction in ("forward", "both"):
        clean, classes = _clean_images(loaded[0], images, n, seed, known)
    n = n if clean is None else len(clean)
    panels = len(processes) * (2 if what in ("both", "blur") else 1)
    width, height = presentation.picture_size(panels, n, loaded[0].config.data.image_size)
    output.check_size(out, width, height)
    # A GIF of noise has about a byte per pixel.
    files.check_space(out, width * height * frames * (2 if direction == "both" else 1))

    trajectories = []
    if clean is not None:
        chosen = processes
        if request.label is not None:
            chosen = [
                replace(one, sampling=one.model.sampling(label=request.label)) for one in processes if one.model is not None
            ]
        trajectories.append(forward_trajectory(chosen, clean, seed, View(times, what), classes))
        if known and any(model.labels_of(classes) is None for model in models):
            console.notify("the classes of the images are unknown: estimates are without classes")
    if direction in ("reverse", "both"):
        processes = [replace(one, sampling=one.model.resolve(request)) for one in processes if one.model is not None]
        total = sum(one.sampling.steps for one in processes if one.sampling is not None)
        view = View(frames if spacing == "steps" else times[::-1], what)
        with console.progress("sampling", total) as update:
            trajectories.append(reverse_trajectory(processes, n, seed, view, clean, update))

    output.write(trajectories, " / ".join(one.title for one in processes), out, presentation)
    if preview:
        _play(trajectories, presentation)
    result = {
        "out": str(out),
        "frames": sum(len(one.times) for one in trajectories),
        "direction": direction,
        "weights": str(loaded[0].path) if loaded[0].path is not None else None,
        "compare": [str(one.path or one.animated.title) for one in loaded[1:]],
        "times": [round(t, 6) for one in trajectories for t in one.times],
        "seed": seed,
    }
    show(result, str(out), as_json)


def _check_output(output: Output, out: Path, presentation: Presentation) -> None:
    """Raise, before the work, the errors of writing the output."""
    from blurcli.base import files

    output.check(out, presentation)
    if out.suffix:
        files.check_writable(out)
    else:
        files.check_new_folder(out)


def _play(trajectories: list[Trajectory], presentation: Presentation) -> None:
    """Show an animation in the terminal."""
    import numpy as np

    from blurcli.base import console

    pictures = replace(presentation, scale=1, labels=None).pictures(trajectories)
    console.preview([np.atleast_3d(np.asarray(picture)) for picture in pictures], 1 / presentation.timing.fps)


@dataclass(frozen=True)
class _Loaded:
    """A process to animate, and its origin."""

    animated: AnimatedProcess
    config: Config
    path: Path | str | None = None
    run: Run | None = None


@dataclass(frozen=True)
class _Source:
    """The options for processes and images."""

    run: Path | None
    weights: str | None
    preset: str | None
    assignments: list[str] | None
    compare: list[str]
    images: Path | None
    size: str | None
    guide: str | None
    precision: str | None

    def check(self, direction: str) -> None:
        """Refuse options that do not fit the direction or each other."""
        if self.images is not None and direction == "reverse":
            raise UsageError("--images: applies to the forward process; add --direction forward, or --direction both")
        if self.preset is None:
            if self.size is not None or self.assignments:
                raise UsageError("--size, --set: apply to --preset; a trained model has a fixed size and fixed keys")
            return
        if direction != "forward":
            raise UsageError(
                f"--preset {self.preset}: has no trained model; add --direction forward, or name a trained one with --run"
            )
        if self.run is not None or self.weights is not None:
            raise UsageError("--preset, --run, --weights: a preset has no trained model; use --preset, or --run or --weights")

    def load(self, device: str) -> list[_Loaded]:
        """All processes, with images of one shape; the first is the main one, the others are compared with it."""
        from blurcli import hub
        from blurcli.base.runs import resolve_run

        if self.preset is not None:
            config = resolve_preset(self.preset, None, self.assignments)
            loaded = [_untrained(self.preset, _resized(config, self._image_size(config)))]
        else:
            loaded = [_trained(self.run, self.weights, device, self.precision, self.guide)]
        first = loaded[0].config.data
        for name in self.compare:
            if hub.is_reference(name) or name.endswith(".safetensors"):
                loaded.append(_trained(None, name, device, self.precision))
            elif resolve_run(Path(name)).config_path.is_file():
                loaded.append(_trained(Path(name), None, device, self.precision))
            else:
                loaded.append(_untrained(name, _resized(resolve_preset(name, None, None), first.image_size)))
            own = loaded[-1].config.data
            if (own.image_size, own.channels) != (first.image_size, first.channels):
                raise UsageError(
                    f"--compare {name}: its images are {own.channels}x{own.image_size[0]}x{own.image_size[1]}, the others "
                    f"{first.channels}x{first.image_size[0]}x{first.image_size[1]}; compare models with images of one shape"
                )
        return loaded

    def _image_size(self, config: Config) -> tuple[int, int]:
        if self.size is not None:
            found = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", self.size)
            if not found:
                raise UsageError(f"--size {self.size}: must be a number of pixels, or height x width, such as 256x384")
            return int(found[1]), int(found[2] or found[1])
        if self.images is not None and self.images.is_file() and _is_photo(self.images):
            return photo_size(self.images, _LARGEST_PHOTO_PX)
        return config.data.image_size


def _trained(run: Path | None, weights: str | None, device: str, precision: str | None, guide: str | None = None) -> _Loaded:
    from blurcli.visualize.trajectories import AnimatedProcess

    path, found = find_weights(run, weights)
    model, _ = load_model(path, device, guide=guide, precision=precision)
    title = found.path.resolve().name if found is not None else Path(path).stem
    animated = AnimatedProcess(title, model.process, model, centered=model.config.data.centered)
    return _Loaded(animated, model.config, path, found)


def _untrained(preset: str, config: Config) -> _Loaded:
    from blurcli.families import family_of
    from blurcli.visualize.trajectories import AnimatedProcess

    return _Loaded(AnimatedProcess(Path(preset).stem, family_of(config).process, centered=config.data.centered), config)


def _resized(config: Config, size: tuple[int, int]) -> Config:
    """The configuration for images of another size, valid for a process without a network."""
    return config.model_copy(update={"data": config.data.model_copy(update={"image_size": size})})


def _is_photo(path: Path) -> bool:
    from blurcli.data.images import image_suffixes

    return path.suffix.lower() in image_suffixes()


def _clean_images(
    loaded: _Loaded, images: Path | None, n: int, seed: int, known: Iterable[str]
) -> tuple[NDArray[np.uint8], list[str] | None]:
    """At most n images (N, C, H, W), drawn at random, as folders are often sorted by class; and their classes, if known."""
    import numpy as np

    from blurcli.data import DATASETS

    if images is not None and _is_photo(images):
        return read_photo(images, loaded.config)[None], None
    if images is not None:
        source = str(images.absolute())
    elif loaded.path is None:
        source = loaded.config.data.source
        if source not in DATASETS and not Path(source).exists():
            raise UsageError(f"{loaded.animated.title}: this preset has no images of its own; name some with --images")
    else:
        source = training_source(loaded.config, loaded.run, "images")
    dataset = load_images(loaded.config, source, "train", tuple(known) or None)
    chosen = np.random.default_rng(seed).permutation(len(dataset.images))[:n]
    classes = None if dataset.labels is None else [dataset.classes[number] for number in dataset.labels[chosen]]
    return np.array(dataset.images[chosen]), classes
