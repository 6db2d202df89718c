"""`blurdiff restore`."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blurcli.base.errors import OptionError, UsageError, UserError
from blurcli.base.filenames import fitting
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
from blurcli.core.sampling_options import SamplingRequest
from blurcli.workflows.session import load_model, load_torch, read_file, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from blurcli.data.photos import Photo
    from blurcli.model.restore_options import RestoreOptions
    from blurcli.model.restorer import Restorer

_SUFFIX = "-restored"


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
    enlarge: Annotated[int, typer.Option("--enlarge", min=1, max=16, help="Enlarge each side so many times.")] = 1,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Picture of the photo's size: what is not black is filled.")
    ] = None,
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
        bool, typer.Option("--spread", help="Write their standard deviation, too: 256 values per gray level, 16 bits.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Calls of the network per draw.")] = 10,
    seed: SeedOption = 0,
    run: RunOption = None,
    weights: WeightsOption = None,
    request: SamplingRequest = AS_PRESET,
    guide: GuideOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A picture, or a folder. [default: PHOTO-restored.png, or FOLDER-restored]")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Write given, restored and the spread of draws side by side, too: NAME-compare.png."),
    ] = False,
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
    load_torch()
    from blurcli.model.restore_options import RestoreOptions
    from blurcli.model.restorer import Restorer

    options = RestoreOptions(
        blur,
        defocus,
        _motion(motion),
        _kernel(kernel),
        noise,
        enlarge,
        _mask(mask),
        temperature,
        None if score else n,
        mean,
        spread,
        steps,
        seed,
    )

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
    results, failures = [], []
    with ExitStack() as stack:
        sources = _sources(photos or [], stack)
        if mask is not None and len(sources) > 1:
            raise UsageError(f"--mask {mask}: is for one photo, and there are {len(sources)}")
        target = _target(photos or [], sources, out, options, compare, model := restorer())
        stack.enter_context(target.opened())
        for source in sources:
            if target.is_done(source):
                continue
            try:
                photo = source.read()
                target.check_fits(photo)
                results.append(_restored(source, photo, model, options, target, compare))
            except UserError as error:
                if len(sources) == 1:
                    raise
                failures.append(error)
                named = error.text.startswith(source.title)
                console.notify(f"warning: {error.text}" if named else f"warning: {source.title}: {error.text}")
    done = len(sources) - len(results) - len(failures)
    if done:
        console.notify(f"{target.path}: {done:,} of {len(sources):,} photos were restored before")
    show({"out": str(target.path), "photos": results}, str(target.path), as_json)
    if failures:
        raise UserError(f"{len(failures):,} of {len(sources):,} photos could not be restored; see above")


@dataclass(frozen=True)
class _Source:
    """A photo: how messages call it, its name in a folder of results, and its content."""

    title: str
    name: str
    content: Callable[[], bytes]

    def read(self) -> Photo:
        from blurcli.data.photos import read_photo

        return read_photo(self.content(), self.title)


def _sources(photos: list[str], stack: ExitStack) -> list[_Source]:
    """All photos that are named; of a folder or archive, which is open until the stack is closed, those in it."""
    from functools import partial

    from blurcli.base import console
    from blurcli.config.source_names import expand_home
    from blurcli.data.archives import open_images
    from blurcli.data.notes import count_by_reason

    found: list[tuple[str, PurePosixPath, Callable[[], bytes]]] = []
    for given in photos:
        path = Path(expand_home(given))
        if _holds_photos(path):
            files = stack.enter_context(open_images(path))
            if skipped := count_by_reason(files.skipped):
                console.notify(f"{path}: skipped: {skipped}")
            found += [(str(path / name), PurePosixPath(name), partial(files.read, name)) for name in files.names]
        else:
            found.append((given, PurePosixPath(path.name), partial(read_file, path)))
    stems = Counter(name.with_suffix("") for _, name, _ in found)
    names = [str(name.with_suffix("") if stems[name.with_suffix("")] == 1 else name) for _, name, _ in found]
    return [_Source(title, name, content) for (title, _, content), name in zip(found, names, strict=True)]


def _holds_photos(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


class _File:
    """One photo, as a file of its own name."""

    def __init__(self, path: Path) -> None:
        from blurcli.base import files
        from blurcli.data.photos import photo_format

        photo_format(path)
        files.check_writable(path)
        self.path = path

    def opened(self) -> ExitStack:
        return ExitStack()

    def is_done(self, source: _Source) -> bool:
        return False

    def check_fits(self, photo: Photo) -> None:
        photo.check_fits(self.path)

    def beside(self, source: _Source, mark: str) -> Path:
        return fitting(self.path.with_name(f"{self.path.stem}{mark}.png"))

    def save(self, source: _Source, photo: Photo) -> Path:
        photo.save(self.path)
        return self.path


class _Folder:
    """A folder with the results of every photo; one that is complete there is not made again."""

    def __init__(self, path: Path, settings: dict[str, Any], marks: tuple[str, ...]) -> None:
        from blurcli.base import console
        from blurcli.visualize.image_folder import RecordedFolder

        self.path, self._marks = path, marks
        self._folder = RecordedFolder(path, settings, console.notify, "restoring photos")

    def opened(self) -> Any:
        return self._folder.opened()

    def is_done(self, source: _Source) -> bool:
        return all(self._folder.is_done(self._name(source, mark)) for mark in self._marks)

    def check_fits(self, photo: Photo) -> None:
        """A PNG holds all of any photo."""

    def beside(self, source: _Source, mark: str) -> Path:
        self._folder.record()
        return self.path / self._name(source, mark)

    def _name(self, source: _Source, mark: str) -> str:
        return str(fitting(Path(f"{source.name}{mark}.png")))

    def save(self, source: _Source, photo: Photo) -> Path:
        path = self.beside(source, "")
        photo.save(path)
        return path


def _target(
    given: list[str], sources: list[_Source], out: Path | None, options: RestoreOptions, compare: bool, restorer: Restorer
) -> _File | _Folder:
    from blurcli.visualize.image_folder import image_name

    several = options.count > 1 and not options.mean
    single = len(sources) == 1 and not several
    if out is None:
        single &= not _holds_photos(Path(given[0]).expanduser())
        out = fitting(Path(f"{sources[0].name}{_SUFFIX}.png" if single else f"{_name_of(given)}{_SUFFIX}"))
    elif out.suffix and not out.is_dir() and not single:
        what = f"{len(sources):,} photos" if len(sources) > 1 else f"{options.count} draws"
        raise UsageError(f"--out {out}: is one picture, and there are {what}; name a folder")
    else:
        single = bool(out.suffix) and not out.is_dir()
    if single:
        return _File(out)
    draws = [f"/{image_name(i)[:-4]}" for i in range(options.count)] if several else [""]
    marks = (*draws, *(["-spread"] if options.spread else []), *(["-compare"] if compare else []))
    twice = [name for name, n in Counter(f"{source.name}{mark}.png" for source in sources for mark in marks).items() if n > 1]
    if twice:
        raise UsageError(f"--out {out}: {twice[0]} is the result of two photos; restore one of them alone, to another --out")
    return _Folder(out, restorer.record(options), marks)


def _name_of(given: list[str]) -> str:
    """What a folder of results is called after: a folder or archive of photos, one photo, or the folder of several."""
    path = Path(given[0]).expanduser().resolve()
    if len(given) > 1:
        return path.parent.name or "photos"
    return (path.name if path.is_dir() else path.stem) or "photos"


def _restored(
    source: _Source, photo: Photo, restorer: Restorer, options: RestoreOptions, target: _File | _Folder, compare: bool
) -> dict[str, Any]:
    """Restore one photo and write what is wanted."""
    from blurcli.base import console
    from blurcli.visualize.comparison import save_comparison, save_spread
    from blurcli.visualize.image_folder import image_name

    started = time.perf_counter()
    with (
        console.progress(f"restoring {source.title}", restorer.work(photo, options, compare)) as update,
        restorer.model.progress(restorer.sampling(options), update),
    ):
        restored, spread = restorer.compared(photo, options) if compare else (restorer(photo, options), None)
    seconds = time.perf_counter() - started
    console.notify(f"{source.title}: {restored.description}")
    several = options.count > 1 and not options.mean
    result = photo.with_pixels(restored.mean if options.mean else restored.draws[0])
    if several:
        for i, draw in enumerate(restored.draws):
            photo.with_pixels(draw).save(target.beside(source, f"/{image_name(i)[:-4]}"))
    if options.spread:
        save_spread(restored.spread, target.beside(source, "-spread"))
    if spread is not None:
        save_comparison(photo, result, spread, target.beside(source, "-compare"))
    path = target.path / source.name if several else target.save(source, result)
    return {"photo": source.title, "out": str(path), **restored.facts, "seconds": round(seconds, 1)}


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


def _mask(path: Path | None) -> Any:
    if path is None:
        return None
    from blurcli.data.photos import read_mask

    return read_mask(read_file(path), str(path))
