"""The photos of `blurdiff restore`, and the files of its results."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import UsageError
from blurcli.base.filenames import fitting
from blurcli.workflows.session import read_file

if TYPE_CHECKING:
    from blurcli.data.photos import Photo
    from blurcli.model.restore_options import RestoreOptions

_SUFFIX = "-restored"
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


class ResultFile:
    """A restored photo as one file."""

    def __init__(self, path: Path) -> None:
        from blurcli.base import files
        from blurcli.data.photos import photo_format

        photo_format(path)
        files.check_writable(path)
        self.path = path

    def opened(self) -> ExitStack:
        """Nothing to lock: the file is replaced atomically."""
        return ExitStack()

    def is_done(self, source: Source) -> bool:
        """A named file is always written anew."""
        return False

    def check_fits(self, photo: Photo) -> None:
        """See `Photo.check_fits`."""
        photo.check_fits(self.path)

    def log(self, facts: dict[str, Any]) -> None:
        """One photo needs no table."""

    def beside(self, source: Source, mark: str) -> Path:
        """The path of a further result; the spread beside a TIFF is one, too."""
        from blurcli.data.photos import photo_format

        suffix = self.path.suffix if mark == "-spread" and photo_format(self.path) == "TIFF" else ".png"
        return fitting(self.path.with_name(f"{self.path.stem}{mark}{suffix}"))

    def save(self, source: Source, photo: Photo, comment: str) -> Path:
        """Write the result; returns its path."""
        photo.save(self.path, comment)
        return self.path


class ResultFolder:
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

    def check_fits(self, photo: Photo) -> None:
        """A PNG holds all of any photo."""

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

    def save(self, source: Source, photo: Photo, comment: str) -> Path:
        """Write the result; returns its path."""
        path = self.beside(source, "")
        photo.save(path, comment)
        return path


def target_for(
    given: list[str], sources: list[Source], out: Path | None, options: RestoreOptions, compare: bool, settings: dict[str, Any]
) -> ResultFile | ResultFolder:
    """Where the results go: one picture, or a folder, which `settings` describe.

    Raises:
        UsageError: one picture for several results, or two results of the same name.
    """
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
        return ResultFile(out)
    draws = [f"/{image_name(i)[:-4]}" for i in range(options.count)] if several else [""]
    marks = (*draws, *(["-spread"] if options.spread else []), *(["-compare"] if compare else []))
    twice = [name for name, n in Counter(f"{source.name}{mark}.png" for source in sources for mark in marks).items() if n > 1]
    if twice:
        raise UsageError(f"--out {out}: {twice[0]} is the result of two photos; restore one of them alone, to another --out")
    return ResultFolder(out, settings, marks)


def _name_of(given: list[str]) -> str:
    """What a folder of results is called after: a folder or archive of photos, one photo, or the folder of several."""
    path = Path(given[0]).expanduser().resolve()
    if len(given) > 1:
        return path.parent.name or "photos"
    return (path.name if path.is_dir() else path.stem) or "photos"
