"""Readers of image files in folders, .zip files and LMDB databases."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from blurcli.base.errors import UsageError, UserError, importing, option
from blurcli.data.images import image_suffixes, missing_reader
from blurcli.data.labels import LABELS_FILE, parse_labels
from blurcli.data.notes import count_by_reason
from blurcli.data.outputs import OUTPUT, output_folders, output_pictures
from blurcli.data.walk import Skipped, image_names, walk

_MAX_FILE_BYTES = 1 << 28
_TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder or archive, in the order of their names.

    Attributes:
        place: the folder or archive, for messages.
        names: file names relative to `place`.
        open: `open(name)` opens a file for reading.
        size: `size(name)` returns its length in bytes.
        stamp: `stamp(name)` changes with the content without reading it (size and time, or the checksum in a zip directory).
        skipped: names of files and folders that are not read, by reason.
        labels: `labels()` reads the class of each file from a `dataset.json`; None without one. UserError if it is damaged.
    """

    place: Path
    names: tuple[str, ...]
    open: Callable[[str], IO[bytes]]
    size: Callable[[str], int]
    stamp: Callable[[str], str]
    skipped: Skipped = field(default_factory=dict)
    labels: Callable[[], dict[str, str] | None] = lambda: None

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            UserError: it cannot be read, or is longer than 256 MiB; the message names it.
        """
        try:
            if self.size(name) > _MAX_FILE_BYTES:
                raise ValueError(f"longer than {_MAX_FILE_BYTES >> 20} MiB")
            with self.open(name) as file:
                return file.read()
        except Exception as error:  # encrypted, unknown compression, damaged, not permitted
            raise self._unreadable(name, error) from None

    def bytes_of(self, name: str) -> int:
        """The length of a file in bytes; 0 if it cannot be read, which `read` reports."""
        try:
            return self.size(name)
        except Exception:  # as in `read`
            return 0

    def opening(self, name: str) -> IO[bytes]:
        """Open a file for reading; UserError with its name if it cannot be read."""
        try:
            return self.open(name)
        except Exception as error:  # as in `read`
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: Exception) -> UserError:
        return UserError(f"{self.place / name}: cannot be read ({error}); repair or remove the file")

    def below(self, folder: str) -> ImageFiles:
        """The files in one folder, with names relative to it."""
        prefix = folder + "/"

        def inner(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))

        def labels() -> dict[str, str] | None:
            outer = self.labels() or {}
            return {name.removeprefix(prefix): label for name, label in outer.items() if name.startswith(prefix)} or None

        skipped = {reason: inner(names) for reason, names in self.skipped.items()}
        return ImageFiles(
            self.place / folder,
            inner(self.names),
            lambda name: self.open(prefix + name),
            lambda name: self.size(prefix + name),
            lambda name: self.stamp(prefix + name),
            {reason: names for reason, names in skipped.items() if names},
            labels,
        )

    def only(self, wanted: Callable[[str], bool]) -> ImageFiles:
        """The files whose names satisfy `wanted`."""
        return replace(self, names=tuple(filter(wanted, self.names)))

    def without_outputs(self) -> ImageFiles:
        """The files without pictures made by blurdiff; all files if there are only such pictures, which then are intended."""
        drawn = output_pictures(self.place, self.names, self.stamp, self.open)
        if not drawn or len(drawn) == len(self.names):
            return self
        skipped = self.skipped | {OUTPUT: tuple(sorted({*self.skipped.get(OUTPUT, ()), *drawn}))}
        return replace(self, names=tuple(name for name in self.names if name not in drawn), skipped=skipped)

    def of_split(self, split: str) -> ImageFiles:
        """The files of a split, in the folder `train`, or `test` or `val`. Without two such folders all files are for training.

        Both folders may be inside a single top-level folder.

        Raises:
            UsageError: there is no split `test`.
        """
        inner = self
        while True:
            folders = {name.partition("/")[0] for name in inner.names if "/" in name}
            tests = [folder for folder in _TEST_FOLDERS if folder in folders]
            if "train" in folders and tests:
                return inner.below("train" if split == "train" else tests[0])
            if len(folders) != 1 or any("/" not in name for name in inner.names):
                break
            inner = inner.below(*folders)
        if split == "train":
            return self
        raise UsageError(
            f"{self.place}: has no sub-folders train and test for {option('split')} test; name the folder of the test images "
            f"with {option('data')}"
        )


@contextmanager
def open_images(path: Path) -> Iterator[ImageFiles]:
    """Open the images below a folder, in a .zip file or an LMDB database, or the single image file at `path`.

    Raises:
        UsageError: `path` does not exist, has an unsupported format, or contains no image.
        UserError: the package `lmdb` is missing.
        UserError: the archive is damaged.
    """
    if (path / "data.mdb").is_file():
        with _database(path) as files:
            yield files
    elif path.is_dir():
        names, not_entered = walk(path)
        yield _in_folder(path, names, not_entered).without_outputs()
    elif path.is_file() and path.suffix.lower() == ".zip":
        with _opened_zip(path) as archive:
            yield _in_archive(path, archive).without_outputs()
    elif path.is_file() and path.suffix.lower() in image_suffixes():
        yield _in_folder(path.parent, [path.name])
    elif path.is_file() and (missing := missing_reader(path.name)):
        raise UsageError(f"{path}: cannot be read: {missing}")
    elif path.exists():
        raise UsageError(
            f"{path}: neither a folder, a .zip file nor an image (their names end in {', '.join(image_suffixes())})"
        )
    else:
        raise UsageError(f"{path}: no such file or folder")


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # undecodable names, unsupported features, damaged
        raise UserError(f"{path}: not a readable zip file ({error}); it may be truncated: use another copy") from None


def _in_archive(path: Path, archive: zipfile.ZipFile) -> ImageFiles:
    members = _members(archive)
    made = output_folders(members)
    inside = tuple(f"{folder}/" for folder in made)
    names, skipped = _usable(path, [name for name in members if not name.startswith(inside)], {OUTPUT: made} if made else {})

    def labels() -> dict[str, str] | None:
        if LABELS_FILE not in members:
            return _labels_beside(path)
        try:
            content = archive.read(members[LABELS_FILE])
        except Exception as error:  # encrypted, unknown compression, damaged
            raise UserError(f"{path / LABELS_FILE}: cannot be read ({error})") from None
        return parse_labels(content, str(path / LABELS_FILE))

    return ImageFiles(
        path,
        names,
        lambda name: archive.open(members[name]),
        lambda name: members[name].file_size,
        lambda name: f"{members[name].CRC} {members[name].file_size}",
        skipped,
        labels,
    )


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files in an archive by name, with slashes: programs on Windows write backslashes between folders.

    If two names differ only in their slashes, the one with a backslash is kept unchanged.
    """
    found = {info.filename: info for info in archive.infolist()}
    named: dict[str, zipfile.ZipInfo] = {}
    for name, info in found.items():
        slashed = name.replace("\\", "/")
        if not slashed.endswith("/"):
            named[name if slashed in found or slashed in named else slashed] = info
    return named


def _labels_beside(path: Path) -> dict[str, str] | None:
    """The labels in the `dataset.json` beside a folder or archive, with names relative to either."""
    labels = _labels_in(path.parent)
    return labels and {name.removeprefix(f"{path.name}/"): label for name, label in labels.items()}


def _labels_in(folder: Path) -> dict[str, str] | None:
    try:
        content = (folder / LABELS_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{folder / LABELS_FILE}: cannot be read ({error.strerror})") from None
    return parse_labels(content, str(folder / LABELS_FILE))


def _usable(place: Path, names: list[str], not_entered: Skipped) -> tuple[tuple[str, ...], Skipped]:
    usable, skipped = image_names((name for name in names if name != LABELS_FILE), not_entered)
    if not usable:
        counted = count_by_reason(skipped)
        there = f"; there are {counted}" if counted else ""
        raise UsageError(f"{place}: no images in it, sub-folders included{there}")
    return usable, skipped


def _in_folder(folder: Path, names: list[str], not_entered: Skipped | None = None) -> ImageFiles:
    def stamp(name: str) -> str:
        try:
            status = (folder / name).stat()
        except OSError:
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"

    usable, skipped = _usable(folder, names, not_entered or {})
    return ImageFiles(
        folder,
        usable,
        lambda name: (folder / name).open("rb"),
        lambda name: (folder / name).stat().st_size,
        stamp,
        skipped,
        lambda: _labels_in(folder) or _labels_beside(folder),
    )


@contextmanager
def _database(path: Path) -> Iterator[ImageFiles]:
    """The values of an LMDB database, the format of LSUN."""
    with importing("lmdb", f"{path}: an LMDB database"):
        import lmdb
    try:
        with (
            lmdb.open(str(path), readonly=True, lock=False, readahead=False) as database,
            database.begin() as transaction,
        ):
            keys = transaction.cursor().iternext(keys=True, values=False)
            names = tuple(bytes(key).decode("latin-1") for key in keys)
            if not names:
                raise UsageError(f"{path}: an empty database")

            def value(name: str) -> bytes:
                with database.begin() as reading:
                    return bytes(reading.get(name.encode("latin-1"), b""))

            status = (path / "data.mdb").stat()
            stamp = f"{status.st_size} {status.st_mtime_ns}"
            yield ImageFiles(
                path, names, lambda name: io.BytesIO(value(name)), lambda name: len(value(name)), lambda name: stamp
            )
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB database ({error}); use another copy") from None
