"""Readers of image files in folders, .zip files and LMDB databases."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from blurcli.data.images import SUFFIXES
from blurcli.errors import UsageError, UserError, option

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
        stamp: `stamp(name)` changes with the content, but does not read it (size and time, or a checksum in a directory).
    """

    place: Path
    names: tuple[str, ...]
    open: Callable[[str], IO[bytes]]
    size: Callable[[str], int]
    stamp: Callable[[str], str]

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
            raise UserError(f"{self.place / name}: cannot be read ({error}); repair or remove the file") from None

    def below(self, folder: str) -> ImageFiles:
        """The files in one folder, with names relative to it."""
        prefix = folder + "/"
        names = tuple(name.removeprefix(prefix) for name in self.names if name.startswith(prefix))
        return ImageFiles(
            self.place / folder,
            names,
            lambda name: self.open(prefix + name),
            lambda name: self.size(prefix + name),
            lambda name: self.stamp(prefix + name),
        )

    def only(self, wanted: Callable[[str], bool]) -> ImageFiles:
        """The files with wanted names."""
        return replace(self, names=tuple(filter(wanted, self.names)))

    def of_split(self, split: str) -> ImageFiles:
        """The files of a split: those in the folder `train`, or `test` or `val`; without two such folders all are for training.

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
        UsageError: `path` does not exist, is of another kind, or contains no image; or the package `lmdb` is missing.
        UserError: the archive is damaged.
    """
    if (path / "data.mdb").is_file():
        with _database(path) as files:
            yield files
    elif path.is_dir():
        names = [str(p.relative_to(path).as_posix()) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        yield _in_folder(path, _usable(path, names))
    elif path.is_file() and path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                info = archive.getinfo
                yield ImageFiles(
                    path,
                    _usable(path, archive.namelist()),
                    archive.open,
                    lambda name: info(name).file_size,
                    lambda name: f"{info(name).CRC} {info(name).file_size}",
                )
        except zipfile.BadZipFile as error:
            raise UserError(f"{path}: not a readable zip file ({error}); it may be truncated: use another copy") from None
    elif path.is_file() and path.suffix.lower() in SUFFIXES:
        yield _in_folder(path.parent, (path.name,))
    elif path.exists():
        raise UsageError(f"{path}: neither a folder, a .zip file nor an image ({', '.join(SUFFIXES)})")
    else:
        raise UsageError(f"{path}: no such file or folder")


def _usable(place: Path, names: list[str]) -> tuple[str, ...]:
    # Hidden files, and the resource forks that macOS adds to archives, have the names of images but not their content.
    usable = [
        n for n in names if n.lower().endswith(SUFFIXES) and not any(p.startswith((".", "__MACOSX")) for p in n.split("/"))
    ]
    if not usable:
        raise UsageError(f"{place}: no images in it (searched for {', '.join(SUFFIXES)}, sub-folders included)")
    return tuple(sorted(usable))


def _in_folder(folder: Path, names: tuple[str, ...]) -> ImageFiles:
    def stamp(name: str) -> str:
        try:
            status = (folder / name).stat()
        except OSError:
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"

    return ImageFiles(
        folder, names, lambda name: (folder / name).open("rb"), lambda name: (folder / name).stat().st_size, stamp
    )


@contextmanager
def _database(path: Path) -> Iterator[ImageFiles]:
    """The values of an LMDB database, as LSUN is published."""
    try:
        import lmdb
    except ImportError:
        raise UsageError(f"{path}: is an LMDB database; install the package for it: pip install lmdb") from None
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
