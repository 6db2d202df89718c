"""`blurdiff animate`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blurcli.cli.common import (
    AssignmentsOption,
    ClassOption,
    DeltaOption,
    DeviceOption,
    GuidanceOption,
    JsonOption,
    RunOption,
    SamplerOption,
    SeedOption,
    StepsOption,
    WeightsOption,
    check_new_folder,
    find_weights,
    load_images,
    load_model,
    own_source,
    photo_size,
    read_photo,
    resolve_preset,
    show,
)
from blurcli.errors import UsageError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from blurcli.config import Config
    from blurcli.film import Part, Subject
    from blurcli.runs import Run

_WIDTH = 512  # pixels, about, of an animation whose --scale is left to us; and the most of a photo's longer side
_STRIP_WIDTH = 1024
_FRAMES, _STRIP_FRAMES = 41, 8
_FPS, _HOLD_SEC = 15.0, 1.5
_PAGE = ".html"


def animate(
    out: Annotated[
        Path,
        typer.Argument(
            help="process.gif, .webp, .png (animated), .mp4, .html (a page with a slider), or a folder for the frames."
        ),
    ],
    run: RunOption = None,
    weights: WeightsOption = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Preset whose forward process is shown: that needs no trained model.")
    ] = None,
    assignments: AssignmentsOption = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", help="Run, weights file or preset to be shown beside it; may be repeated."),
    ] = None,
    direction: Annotated[
        Literal["reverse", "forward", "both"],
        typer.Option("--direction", help="From noise to images, from images to noise, or there and back."),
    ] = "reverse",
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Image file, folder or .zip for the forward process. [default: the run's data]"),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", help=f"With --preset: N or HxW pixels. [default: a photo's own, at most {_WIDTH}; else the preset's]"
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images, side by side.")] = 16,
    what: Annotated[
        Literal["z", "x_hat", "both"],
        typer.Option("--show", help="The state, the clean image that the network guesses behind it, or both."),
    ] = "z",
    frames: Annotated[
        int | None, typer.Option("--frames", min=2, help=f"Frames of one direction. [default: {_FRAMES}]")
    ] = None,
    spacing: Annotated[
        Literal["time", "logsnr", "steps"] | None,
        typer.Option(
            "--spacing",
            help="Frames even in time, in the log-SNR, or in the sampler's steps. [default: steps for a reverse process alone; "
            "else time]",
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1, help=f"Frames a second. [default: {_FPS:g}]")] = None,
    hold: Annotated[
        float | None, typer.Option("--hold", min=0, help=f"Seconds that the last frame stays. [default: {_HOLD_SEC:g}]")
    ] = None,
    loop: Annotated[int | None, typer.Option("--loop", min=0, help="Loop count; 0 is endless. [default: 0]")] = None,
    scale: Annotated[
        int | None,
        typer.Option("--scale", min=1, help=f"Enlargement by whole pixels. [default: about {_WIDTH} px wide, or twice that]"),
    ] = None,
    columns: Annotated[int | None, typer.Option("--columns", min=1, help="Images in a row. [default: nearly square]")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Write time, log-SNR and blur on every frame.")] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help=f"All frames in one still .png, from left to right; {_STRIP_FRAMES} by default.")
    ] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Play it in the terminal, too.")] = False,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    delta: DeltaOption = None,
    label: ClassOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show a process as an animation: images that come out of noise, or dissolve in it.

    The last frame of the reverse process is what `sample` gives with the same seed, sampler and steps; frames between two of
    its steps are interpolated. The forward process needs no trained model: --direction forward --preset NAME.
    """
    from blurcli import console, film

    look = _Look(fps, hold, loop, scale, columns, labels, strip)
    look.check(out)
    _check_direction(direction, preset, images, size, assignments)
    if direction == "forward" and any(option is not None for option in (sampler, steps, delta, label, guidance)):
        raise UsageError(
            "--sampler, --steps, --delta, --class, --guidance: only the reverse process is sampled; --frames sets the "
            "number of frames"
        )
    alone = direction == "reverse" and not compare
    spacing = spacing or ("steps" if alone else "time")
    if spacing == "steps" and not alone:
        raise UsageError(f"--spacing steps: is for one reverse process alone{', without --compare' if compare else ''}")

    frames = frames or (_STRIP_FRAMES if strip else _FRAMES)
    chosen = _choose(run, weights, preset, assignments, compare or [], images, size, device)
    subjects = [one.subject for one in chosen]
    for subject in subjects:
        if subject.model is None and (direction != "forward" or what != "z"):
            raise UsageError(f"{subject.title}: is a preset, and no trained model, which this needs: name a run folder")
    times = film.times_of(subjects[0].process, frames, spacing) if spacing != "steps" else []

    parts: list[Part] = []
    clean = None
    if direction in ("forward", "both"):
        clean = _clean_images(chosen[0], images, n, seed)
        n = len(clean)
        parts.append(film.forward(subjects, clean, seed, times, what))
    if direction in ("reverse", "both"):
        solvers = [one.model.solver(sampler, steps, None, delta, label, guidance) for one in subjects if one.model is not None]
        with console.progress("sampling", sum(solver["steps"] for solver in solvers)) as update:
            way = frames if spacing == "steps" else times[::-1]
            parts.append(film.reverse(subjects, n, seed, way, what, solvers, update, clean))

    look.write(parts, out, " / ".join(subject.title for subject in subjects))
    if preview:
        look.play(parts)
    result = {
        "out": str(out),
        "frames": sum(len(part.times) for part in parts),
        "direction": direction,
        "weights": str(chosen[0].path) if chosen[0].path is not None else None,
        "compare": [str(one.path or one.subject.title) for one in chosen[1:]],
        "times": [round(t, 6) for part in parts for t in part.times],
        "seed": seed,
    }
    show(result, str(out), as_json)


@dataclass(frozen=True)
class _Look:
    """What a film is to look like: the options of these names, None for those that were not given."""

    fps: float | None
    hold: float | None
    loop: int | None
    scale: int | None
    columns: int | None
    labels: bool
    strip: bool

    @property
    def _timing(self) -> tuple[float, float, int]:
        """Frames a second, seconds that the last one stays, and loop count."""
        return self.fps or _FPS, _HOLD_SEC if self.hold is None else self.hold, self.loop or 0

    def check(self, out: Path) -> None:
        """Raise now, rather than after the work, what `write` would have to say."""
        from blurcli import files, render

        suffix = out.suffix.lower()
        timed = any(option is not None for option in (self.fps, self.hold, self.loop))
        if not suffix and (timed or self.strip):
            raise UsageError(f"--fps, --hold, --loop, --strip: {out} is a folder for single frames; leave them out")
        if self.strip and suffix != ".png":
            raise UsageError(f"{out}: --strip writes a still picture; end the name in .png")
        if self.strip and (timed or self.columns is not None):
            raise UsageError("--fps, --hold, --loop, --columns: --strip is a still picture of one row an image; leave them out")
        if suffix == _PAGE and (self.scale is not None or self.labels):
            raise UsageError("--scale, --labels: a page has a zoom and labels anyway; leave them out")
        if suffix not in (_PAGE, ""):
            fps, _, loop = self._timing
            render.check_animation(out, fps, loop)
        if suffix:
            files.check_writable(out)
        else:
            check_new_folder(out)

    def write(self, parts: list[Part], out: Path, title: str) -> None:
        """Write a film as the suffix of `out` says."""
        from blurcli import files, render
        from blurcli.render.frames import default_scale, frame_pictures, strip
        from blurcli.render.page import save_page

        shots = parts[0].shots
        if self.strip:
            wide = sum(frame.shape[-1] for frame in shots[0].frames)
            with files.replacing(out) as temporary:
                strip(parts, self.scale or max(1, _STRIP_WIDTH // wide), self.labels).save(temporary, format="PNG")
            return
        if out.suffix.lower() == _PAGE:
            save_page(parts, out, title, *self._timing, self.columns)
            return
        scale = self.scale or default_scale(shots, self.columns, _WIDTH * min(2, len(shots)))
        pictures = [picture for part in parts for picture in frame_pictures(part, scale, self.columns, self.labels)]
        if out.suffix:
            render.save_animation(pictures, out, *self._timing)
        else:
            render.save_frames(pictures, out)

    def play(self, parts: list[Part]) -> None:
        """Show a film in the terminal."""
        import numpy as np

        from blurcli import console
        from blurcli.render.frames import frame_pictures

        pictures = [np.asarray(picture) for part in parts for picture in frame_pictures(part, 1, self.columns)]
        console.preview([np.atleast_3d(picture) for picture in pictures], 1 / self._timing[0])


def _check_direction(
    direction: str, preset: str | None, images: Path | None, size: str | None, assignments: list[str] | None
) -> None:
    if images is not None and direction == "reverse":
        raise UsageError("--images: only the forward process starts from images; add --direction forward, or both")
    if preset is not None and direction != "forward":
        raise UsageError(f"--preset {preset}: is no trained model; add --direction forward, or name a trained one with --run")
    if preset is None and (size is not None or assignments):
        raise UsageError("--size, --set: a trained model keeps its size and keys; they are for --preset")


@dataclass(frozen=True)
class _Chosen:
    """A process to be shown, and where it comes from."""

    subject: Subject
    config: Config
    path: Path | None = None
    run: Run | None = None


def _choose(
    run: Path | None,
    weights: Path | None,
    preset: str | None,
    assignments: list[str] | None,
    compare: list[str],
    images: Path | None,
    size: str | None,
    device: str,
) -> list[_Chosen]:
    """The processes that the options name, all of one size; the first is the one that the others are compared with."""
    from blurcli.build import build_process
    from blurcli.film import Subject
    from blurcli.runs import Run

    def trained(run: Path | None, weights: Path | None) -> _Chosen:
        path, found = find_weights(run, weights)
        model, _ = load_model(path, device)
        title = found.path.resolve().name if found is not None else path.stem
        return _Chosen(Subject(title, model.process, model), model.config, path, found)

    def untrained(preset: str, config: Config) -> _Chosen:
        return _Chosen(Subject(Path(preset).stem, build_process(config)), config)

    if preset is not None:
        if run is not None or weights is not None:
            raise UsageError("--preset and --run or --weights: a preset has nothing trained; give one of them")
        config = resolve_preset(preset, None, assignments)
        config = _resized(config, _wanted_size(config, images, size))
        chosen = [untrained(preset, config)]
    else:
        chosen = [trained(run, weights)]
    first = chosen[0].config.data
    for name in compare:
        path = Path(name)
        if path.suffix == ".safetensors":
            chosen.append(trained(None, path))
        elif Run(path).config_path.is_file():
            chosen.append(trained(path, None))
        else:
            chosen.append(untrained(name, _resized(resolve_preset(name, None, None), first.image_size)))
        own = chosen[-1].config.data
        if (own.image_size, own.channels) != (first.image_size, first.channels):
            raise UsageError(
                f"--compare {name}: makes images of {own.channels}x{own.image_size[0]}x{own.image_size[1]}, and not "
                f"{first.channels}x{first.image_size[0]}x{first.image_size[1]}; compare models of one size"
            )
    return chosen


def _wanted_size(config: Config, images: Path | None, size: str | None) -> tuple[int, int]:
    if size is None:
        return (
            photo_size(images, _WIDTH)
            if images is not None and images.is_file() and _is_photo(images)
            else config.data.image_size
        )
    found = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", size)
    if not found:
        raise UsageError(f"--size {size}: must be a number of pixels, or height x width, as 256x384")
    return int(found[1]), int(found[2] or found[1])


def _is_photo(path: Path) -> bool:
    from blurcli.data.images import SUFFIXES

    return path.suffix.lower() in SUFFIXES


def _resized(config: Config, size: tuple[int, int]) -> Config:
    """The configuration for images of another size, as far as a process without a network is concerned."""
    return config.model_copy(update={"data": config.data.model_copy(update={"image_size": size})})


def _clean_images(chosen: _Chosen, images: Path | None, n: int, seed: int) -> NDArray[uint8]:
    """At most n images of the source, drawn at random: folders are often sorted by class."""
    import numpy as np

    from blurcli.data.dataset import NAMES

    if images is not None and _is_photo(images):
        return read_photo(images, chosen.config)[None]
    if images is not None:
        source = str(images.absolute())
    elif chosen.path is None:
        source = chosen.config.data.source
        if source not in NAMES and not Path(source).exists():
            raise UsageError(f"{chosen.subject.title}: this preset is for images of one's own; name some with --images")
    else:
        source = own_source(chosen.config, chosen.run, "--images")
    dataset = load_images(chosen.config, source, "train")
    count = len(dataset.images)
    return np.array(dataset.images[np.random.default_rng(seed).permutation(count)[:n]])
