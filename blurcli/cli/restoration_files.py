"""The photos of `blurdiff restore`, and the files of its results."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import UsageError
from blurcli.base.filenames import fitting
from blurcli.workflows.session import read_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blurcli.data.photos import Photo
    from blurcli.model.restore_options import RestoreOptions
    from blurcli.model.restored import Restored

_SUFFIX = "-restored"
_PAGE = ".html"
_TABLE = "restore.csv"
_COLUMNS = (
    "photo",
    "out",
    "blur",
    "noise",
    "estimated",
    "residual_over_noise",
    "worst_residual_over_noise",
    "temperature",
    "calls",
    "seconds",
)


@dataclass(frozen=True)
class Source:
    """A photo: how messages call it, its name in a folder of results, and its content."""

    title: str
    name: str
    content: Callable[[], bytes]

    def read(self, strip: bool, value_range: tuple[float, float] | None = None) -> Photo:
        """Decode it, with `strip` without EXIF data and color profile; prints what is lost.

        `value_range` is that of the model's training images, see `read_photo`.

        Raises:
            UserError: it is not a readable image.
        """
        from blurcli.base import console
        from blurcli.data.photos import read_photo

        photo = read_photo(self.content(), self.title, value_range)
        if photo.note:
            console.notify(f"{self.title}: {photo.note}")
        return replace(photo, exif=None, profile=None) if strip else photo


def find_sources(photos: list[str], stack: ExitStack) -> list[Source]:
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
    return [Source(title, name, content) for (title, _, content), name in zip(found, names, strict=True)]


def _holds_photos(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


@dataclass(frozen=True)
class Result:
    """What is written of a photo.

    Attributes:
        given: the photo.
        restored: its restored form.
        options: how it was restored.
        compared: the spread to show beside it; None for no comparison.
    """

    given: Photo
    restored: Restored
    options: RestoreOptions
    compared: NDArray[np.float64] | None = None

    @property
    def photo(self) -> Photo:
        """The mean of the draws if it is wanted, or the first draw."""
        restored = self.restored
        return self.given.with_pixels(restored.mean if self.options.mean else restored.draws[0])


class Target(ABC):
    """Where results go.

    Attributes:
        path: what the command prints in the end.
    """

    path: Path

    def opened(self) -> AbstractContextManager[None]:
        """Around the work, which ends with the block."""
        return nullcontext()

    def is_done(self, source: Source) -> bool:
        """Whether all results of a photo are complete and need not be made again."""
        return False

    def check_fits(self, photo: Photo) -> None:  # noqa: B027  most targets hold all of any photo
        """Raise a UsageError if the results cannot hold all of a photo."""

    def log(self, facts: dict[str, Any]) -> None:  # noqa: B027  one photo needs no table
        """Record what was found in a photo."""

    @abstractmethod
    def save(self, source: Source, result: Result) -> Path:
        """Write the results of a photo; returns the path of the main one, or of what holds them."""


class _Pictures(Target):
    """Results as picture files."""

    @abstractmethod
    def beside(self, source: Source, mark: str) -> Path:
        """The path of a result of a photo; of the main one with an empty mark."""

    def save(self, source: Source, result: Result) -> Path:
        """Write all pictures, the main one last."""
        from blurcli.visualize.comparison import save_comparison, save_spread

        given, restored, options = result.given, result.restored, result.options
        marks = _draw_marks(options)
        if marks:
            for mark, draw in zip(marks, restored.draws, strict=True):
                given.with_pixels(draw).save(self.beside(source, mark), restored.comment)
        if options.spread:
            save_spread(restored.spread, self.beside(source, "-spread"), given.value_range)
        if result.compared is not None:
            save_comparison(given, result.photo, result.compared, self.beside(source, "-compare"))
        if marks:
            return self.path / source.name
        path = self.beside(source, "")
        result.photo.save(path, restored.comment)
        return path


class ResultFile(_Pictures):
    """A restored photo as one file, which is always written anew."""

    def __init__(self, path: Path) -> None:
        from blurcli.base import files
        from blurcli.data.photos import photo_format

        photo_format(path)
        files.check_writable(path)
        self.path = path

    def check_fits(self, photo: Photo) -> None:
        """See `Photo.check_fits`."""
        photo.check_fits(self.path)

    def beside(self, source: Source, mark: str) -> Path:
        """The path itself, or that of a further result; the spread beside a TIFF is one, too."""
        from blurcli.data.photos import photo_format

        if not mark:
            return self.path
        suffix = self.path.suffix if mark == "-spread" and photo_format(self.path) == "TIFF" else ".png"
        return fitting(self.path.with_name(f"{self.path.stem}{mark}{suffix}"))


class ResultFolder(_Pictures):
    """A folder with the results of every photo; one that is complete there is not made again."""

    def __init__(self, path: Path, settings: dict[str, Any], marks: tuple[str, ...]) -> None:
        from blurcli.base import console
        from blurcli.visualize.image_folder import RecordedFolder

        self.path, self._marks = path, marks
        self._folder = RecordedFolder(path, settings, console.notify, "restoring photos")

    def opened(self) -> AbstractContextManager[None]:
        """See `RecordedFolder.opened`."""
        return self._folder.opened()

    def is_done(self, source: Source) -> bool:
        """Whether all results of a photo are complete."""
        return all(self._folder.is_done(self._name(source, mark)) for mark in self._marks)

    def log(self, facts: dict[str, Any]) -> None:
        """Add a row to the table of the folder."""
        from blurcli.base import files

        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        if not (self.path / _TABLE).exists():
            rows.writerow(_COLUMNS)
        estimated = {"estimated": " ".join(facts["estimated"])}
        rows.writerow(f"{value:.6g}" if isinstance(value := (facts | estimated)[name], float) else value for name in _COLUMNS)
        files.append_lines(self.path / _TABLE, table.getvalue().rstrip())

    def beside(self, source: Source, mark: str) -> Path:
        """The path of a result, after the record is written."""
        self._folder.record()
        return self.path / self._name(source, mark)

    def _name(self, source: Source, mark: str) -> str:
        return str(fitting(Path(f"{source.name}{mark}.png")))


class ResultPage(Target):
    """A page that shows every photo beside its results; it is always written anew."""

    def __init__(self, path: Path) -> None:
        from blurcli.visualize.restoration_page import RestorationPage

        self.path = path
        self._page = RestorationPage(path)

    def opened(self) -> AbstractContextManager[None]:
        """See `RestorationPage.opened`."""
        return self._page.opened()

    def save(self, source: Source, result: Result) -> Path:
        """Add a photo to the page."""
        self._page.add(source.name, result.given, result.restored, result.options)
        return self.path


def target_for(
    given: list[str], sources: list[Source], out: Path | None, options: RestoreOptions, compare: bool, settings: dict[str, Any]
) -> Target:
    """Where the results go: one picture, a page, or a folder, which `settings` describe.

    Raises:
        UsageError: one picture for several results, two results of the same name, or options that a page makes useless.
    """
    marks = _draw_marks(options)
    single = len(sources) == 1 and not marks
    if out is None:
        single &= not _holds_photos(Path(given[0]).expanduser())
        out = fitting(Path(f"{sources[0].name}{_SUFFIX}.png" if single else f"{_name_of(given)}{_SUFFIX}"))
    elif out.suffix.lower() == _PAGE and not out.is_dir():
        if compare:
            raise UsageError(f"--compare: --out {out} is a page, which compares them; leave it out")
        if options.strength < 1:
            raise UsageError(f"--strength {options.strength:g}: --out {out} is a page, which has a slider for it; leave it out")
        return ResultPage(out)
    elif out.suffix and not out.is_dir() and not single:
        what = f"{len(sources):,} photos" if len(sources) > 1 else f"{options.count} draws"
        raise UsageError(f"--out {out}: is one picture, and there are {what}; name a folder, or a page ({_PAGE})")
    else:
        single = bool(out.suffix) and not out.is_dir()
    if single:
        return ResultFile(out)
    marks = (*(marks or ("",)), *(["-spread"] if options.spread else []), *(["-compare"] if compare else []))
    twice = [name for name, n in Counter(f"{source.name}{mark}.png" for source in sources for mark in marks).items() if n > 1]
    if twice:
        raise UsageError(f"--out {out}: {twice[0]} is the result of two photos; restore one of them alone, to another --out")
    return ResultFolder(out, settings, marks)


def _draw_marks(options: RestoreOptions) -> tuple[str, ...]:
    """The ends of the names of several draws; none for a single result."""
    from blurcli.visualize.image_folder import image_name

    several = options.count > 1 and not options.mean
    return tuple(f"/{image_name(i)[:-4]}" for i in range(options.count)) if several else ()


def _name_of(given: list[str]) -> str:
    """What a folder of results is called after: a folder or archive of photos, one photo, or the folder of several."""
    path = Path(given[0]).expanduser().resolve()
    if len(given) > 1:
        return path.parent.name or "photos"
    return (path.name if path.is_dir() else path.stem) or "photos"
