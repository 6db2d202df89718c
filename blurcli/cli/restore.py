"""`blurdiff restore`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.base.errors import OptionError, UsageError, UserError
from blurcli.cli import restoration_score
from blurcli.cli.common import (
    AS_PRESET,
    DeviceOption,
    FeaturesOption,
    GuideOption,
    JsonOption,
    PrecisionOption,
    ReferenceOption,
    RunOption,
    SeedOption,
    SplitOption,
    WeightsOption,
    find_weights,
    show,
    takes_sampling_options,
)
from blurcli.cli.restoration_files import Result, Source, Target, find_sources, target_for
from blurcli.cli.restoration_plan import Task
from blurcli.core.sampling_options import SamplingRequest
from blurcli.workflows.session import load_model, load_torch, read_file, read_weights

if TYPE_CHECKING:
    from blurcli.data.photos import Photo
    from blurcli.model.restore_options import RestoreOptions
    from blurcli.model.restorer import Restorer
    from blurcli.visualize.restoration_frames import RestorationAnimation


@takes_sampling_options("label", "guidance")
def restore(
    photos: Annotated[
        list[str] | None, typer.Argument(help="Photos, or folders or .zip files of them.", show_default=False)
    ] = None,
    blur: Annotated[
        float | None, typer.Option("--blur", min=0, help="Gaussian blur, standard deviation in px. [default: estimated]")
    ] = None,
    defocus: Annotated[float | None, typer.Option("--defocus", min=0, help="Blur out of focus, radius in px.")] = None,
    motion: Annotated[
        str | None, typer.Option("--motion", metavar="LENGTH,ANGLE", help="Blur of a straight motion, in px and degrees.")
    ] = None,
    kernel: Annotated[Path | None, typer.Option("--kernel", help="Blur by a kernel: a picture of it, or .npy.")] = None,
    noise: Annotated[
        float | None,
        typer.Option("--noise", min=0, max=255, help="Noise, standard deviation in gray levels of 255. [default: estimated]"),
    ] = None,
    light: Annotated[
        str | None,
        typer.Option(
            "--light",
            metavar="linear|srgb",
            help="The blur is of linear light (a lens), or of the values in the file (software). [default: what fits]",
        ),
    ] = None,
    enlarge: Annotated[int, typer.Option("--enlarge", min=1, max=16, help="Enlarge each side so many times.")] = 1,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="FILE",
            help="Picture of the photo's size: what is not black is filled; or alpha: what is transparent.",
        ),
    ] = None,
    mask_grow: Annotated[int, typer.Option("--mask-grow", min=0, max=64, help="Fill so many pixels around the mask, too.")] = 0,
    strength: Annotated[
        float, typer.Option("--strength", min=0, max=1, help="Share of the result; the rest is the photo as given.")
    ] = 1.0,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            min=0,
            max=1,
            help="0: one image, which invents nothing; 1: draws, with all detail. [default: 0.5; 1 for --mean, --spread]",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Number of draws. [default: 1; 8 for --mean, --spread]")] = None,
    mean: Annotated[bool, typer.Option("--mean", help="Write the mean of the draws.")] = False,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread",
            help="Write their standard deviation, too: 256 values per gray level; beside a .tif in the photo's values.",
        ),
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Calls of the network per draw.")] = 10,
    seed: SeedOption = 0,
    run: RunOption = None,
    weights: WeightsOption = None,
    request: SamplingRequest = AS_PRESET,
    guide: GuideOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A picture, a page (.html), or a folder. [default: PHOTO-restored.png, or FOLDER-restored]"),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Write given, restored and the spread of draws side by side, too: NAME-compare.png."),
    ] = False,
    animate: Annotated[
        Path | None,
        typer.Option("--animate", help="Show how the first draw emerges, too: .gif, .webp, .png or .apng (animated), .mp4."),
    ] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Leave out EXIF data and the color profile.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Degrade and restore a sample photo, and print the PSNR.")] = False,
    score: Annotated[
        bool, typer.Option("--score", help="Damage --n images of --data as told, restore them, and measure how well.")
    ] = False,
    data: ReferenceOption = None,
    split: SplitOption = None,
    features: FeaturesOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore photos: blur, noise, low resolution, missing parts.

    The result is a sharp image that agrees with the photo, one of many, as the model's training images would make it likely.
    It is not evidence. Blur and noise are estimated from the photo where they are not given. Without --run or --weights the
    bundled model of photos is used.
    """
    from blurcli import bundled
    from blurcli.base import console, files

    if demo and photos:
        raise UsageError("--demo: brings its own photo; leave out the others")
    if score and (photos or demo or out or compare):
        raise UsageError("--score: takes its images from --data; leave out photos, --demo, --out and --compare")
    if not score and (data or split or features):
        raise UsageError("--data, --split, --features: are for --score; name the photos to restore without an option")
    if not (demo or photos or score):
        raise UsageError("restore needs a photo or a folder of photos, or --demo")
    if (demo or score) and (mask == "alpha" or strip):
        raise UsageError("--mask alpha, --strip: are for photos that are restored; leave them out")
    if mask_grow and mask is None:
        raise UsageError(f"--mask-grow {mask_grow}: needs a --mask")
    load_torch()
    from blurcli.data.photos import ALPHA, grown
    from blurcli.model.restore_options import RestoreOptions
    from blurcli.model.restorer import Restorer

    if animate is not None and (demo or score):
        raise UsageError(f"--animate {animate}: is for a photo that is restored; leave out --demo and --score")
    by_alpha = mask == ALPHA
    options = RestoreOptions(
        blur,
        defocus,
        _motion(motion),
        _kernel(kernel),
        noise,
        enlarge,
        light=light,
        mask=_mask(None if by_alpha else mask, mask_grow),
        strength=strength,
        temperature=temperature,
        n=None if score else n,
        mean=mean,
        spread=spread,
        steps=steps,
        seed=seed,
    )

    animation = _animation(animate, options)
    path, chosen_run = (bundled.PHOTOS_PATH, None) if run is None and weights is None else find_weights(run, weights)

    def restorer() -> Restorer:
        return Restorer(load_model(path, device, guide=guide, precision=precision)[0], request.label, request.guidance)

    if score:
        images = restoration_score.UndamagedImages(n, data, split, features)
        labels = {"weights": str(path), "step": read_weights(path).step}
        show(*restoration_score.score(restorer(), options, images, chosen_run, labels), as_json)
        return
    if demo:
        picture = out or Path("restore-demo.png")
        if picture.suffix.lower() != ".png":
            raise UsageError(f"--out {picture}: with --demo it is one picture; name a .png")
        files.check_writable(picture)
        show(*restoration_score.demo(restorer(), options, picture), as_json)
        return
    results, failures, warned = [], [], ""
    with ExitStack() as stack:
        sources = find_sources(photos or [], stack)
        if options.mask is not None and len(sources) > 1:
            raise UsageError(f"--mask {mask}: is for one photo, and there are {len(sources)}")
        if animate is not None and len(sources) > 1:
            raise UsageError(f"--animate {animate}: is for one photo, and there are {len(sources):,}; name one of them")
        model = restorer()
        settings = model.record(options) | {"strip": strip or None}
        if by_alpha:
            settings |= {"mask": ALPHA, "mask_grow": mask_grow}
        target = target_for(photos or [], sources, out, options, compare, settings)
        if animate is not None and animate in (target.path, *map(Path, photos or [])):
            raise UsageError(f"--animate {animate}: is the photo, or its result; choose another name")
        stack.enter_context(target.opened())
        left = [source for source in sources if animation is not None or not target.is_done(source)]
        Task(left, target, options, compare).announce(model)
        for source in left:
            try:
                photo, own = source.read(strip, model.value_range), options
                if by_alpha:
                    photo, own = photo.opaque(), replace(options, mask=grown(photo.transparent, mask_grow))
                target.check_fits(photo)
                if not warned and (warned := model.warning(photo)):
                    console.notify(f"warning: {source.title}: {warned}")
                results.append(_restored(source, photo, model, own, target, compare, animation))
            except UserError as error:
                if len(sources) == 1:
                    raise
                failures.append(error)
                named = error.text.startswith(source.title)
                console.notify(f"warning: {error.text}" if named else f"warning: {source.title}: {error.text}")
    done = len(sources) - len(left)
    if done:
        console.notify(f"{target.path}: {done:,} of {len(sources):,} photos were restored before")
    show({"out": str(target.path), "photos": results}, str(target.path), as_json)
    if failures:
        raise UserError(f"{len(failures):,} of {len(sources):,} photos could not be restored; see above")


def _restored(
    source: Source,
    photo: Photo,
    restorer: Restorer,
    options: RestoreOptions,
    target: Target,
    compare: bool,
    animation: RestorationAnimation | None,
) -> dict[str, Any]:
    """Restore one photo and write what is wanted."""
    from blurcli.base import console

    started, on_step = time.perf_counter(), None if animation is None else animation.started(photo)
    with console.progress(f"restoring {source.title}", restorer.work(photo, options, compare)) as update:
        if compare:
            restored, spread = restorer.compared(photo, options, update, on_step)
        else:
            restored, spread = restorer(photo, options, update, on_step), None
    seconds = time.perf_counter() - started
    console.notify(f"{source.title}: {restored.description}")
    path = target.save(source, Result(photo, restored, options, spread))
    if animation is not None:
        animation.save(restored.draws[0])
    facts = {"photo": source.title, "out": str(path), **restored.facts, "seconds": round(seconds, 3)}
    target.log(facts)
    return facts


def _animation(path: Path | None, options: RestoreOptions) -> RestorationAnimation | None:
    if path is None:
        return None
    from blurcli.visualize.animations import PICTURE_FORMATS
    from blurcli.visualize.restoration_frames import RestorationAnimation

    if path.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"--animate {path}: unknown suffix; use {', '.join(PICTURE_FORMATS)}")
    if options.mean:
        raise UsageError(f"--animate {path}: shows one draw, and --mean averages several; leave out one of the two")
    return RestorationAnimation(path, options.steps)


def _motion(given: str | None) -> tuple[float, float] | None:
    if given is None:
        return None
    try:
        length, angle = map(float, given.split(","))
    except ValueError:
        raise OptionError("motion", given, "must be a length and an angle, such as 9,30") from None
    return length, angle


def _kernel(path: Path | None) -> Any:
    """The kernel in a file, with a message of what was put right."""
    if path is None:
        return None
    from blurcli.base import console
    from blurcli.data.photos import read_kernel

    found, done = read_kernel(read_file(path), str(path))
    height, width = found.shape
    console.notify(f"{path}: a kernel of {width}x{height} pixels" + (f"; {', '.join(done)}" if done else ""))
    return found


def _mask(path: str | None, grow: int) -> Any:
    if path is None:
        return None
    from blurcli.config.source_names import expand_home
    from blurcli.data.photos import grown, read_mask

    return grown(read_mask(read_file(Path(expand_home(path))), path), grow)
