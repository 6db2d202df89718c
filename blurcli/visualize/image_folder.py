"""Folders of sampled images: an interrupted command continues, a larger number extends, lost images are made again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from blurcli.base import files
from blurcli.base.errors import UsageError, option
from blurcli.base.version import __version__
from blurcli.data.images import Pixels
from blurcli.visualize.grids import picture

_PRECISION = "network_precision"
_VERSION = "blurdiff"  # key of the version that began the folder, for messages only
_NAME = re.compile(r"(\d{6,})\.png")


class RecordedFolder:
    """A folder of pictures with a record of their settings: an interrupted command continues, other settings are refused.

    Args:
        path: the folder.
        settings: the settings that determine the pictures, besides their names; a missing key equals None.
        notify: receives messages.
        work: the work, for messages to other commands.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], notify: Callable[[str], None] = lambda text: None, work: str = "sampling"
    ) -> None:
        self.path, self._work = path, work
        self._settings = json.loads(json.dumps(settings))
        self._notify = notify

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lock the folder while the block runs.

        Raises:
            UsageError: the folder has pictures of other settings, or other files.
            UserError: another process works there, or the folder cannot be written.
        """
        self._check()  # before the lock, which creates a file
        with files.locked(self.path, self._work, self._notify):
            self._check()
            files.remove_partial(self.path)
            yield

    def is_done(self, name: str) -> bool:
        """Whether a picture exists and is complete."""
        return is_whole(self.path / name)

    def record(self) -> None:
        """Write the record, inside `opened`, before the first picture."""
        record = self.path / files.SAMPLING
        if _content(record) is None:
            with files.replacing(record) as temporary:
                text = json.dumps({**self._settings, _VERSION: __version__}, indent=1)
                temporary.write_text(text + "\n", encoding="utf-8")

    def _check(self) -> None:
        """Raise an error if pictures of these settings cannot be added."""
        record = self.path / files.SAMPLING
        if not record.is_file():
            files.check_new_folder(self.path)
            return
        before = _content(record)
        if before is None and self._has_pictures():
            raise UsageError(f"{record}: cannot be read; choose another folder with {option('out')}")
        before = self._settings if before is None else before
        if _VERSION not in before:  # of a version that did not record the precision of the network
            before = {_PRECISION: self._settings.get(_PRECISION), **before}
        keys = sorted(key for key in before.keys() | self._settings if before.get(key) != self._settings.get(key))
        keys = [key for key in keys if key != _VERSION]
        if keys:
            changes = ", ".join(f"{key} {_shown(before.get(key))} (now {_shown(self._settings.get(key))})" for key in keys)
            version = before.get(_VERSION, __version__)
            by = "" if version == __version__ else f" (by blurdiff {version}; this is {__version__})"
            raise UsageError(
                f"{self.path}: holds images of other settings{by}: {changes}; "
                f"choose another folder with {option('out')}, or use the same settings to continue"
            )

    def _has_pictures(self) -> bool:
        with files.explained(self.path):
            return any(self.path.rglob("*.png"))


class ImageFolder(RecordedFolder):
    """A `RecordedFolder` with one PNG per image, named by its index."""

    @contextmanager
    def claimed(self, count: int) -> Iterator[list[int]]:
        """Lock the folder while the block runs; yields the indices below `count` of images that are missing or damaged.

        Raises:
            UsageError: the folder has images of other settings, more images, or other files.
            UserError: another process works there, or the folder cannot be written.
        """
        with self.opened():
            found = self._found()
            if found and max(found) >= count:
                raise UsageError(
                    f"{self.path}: holds {max(found) + 1} images, more than {option('n')} {count}; "
                    f"choose another folder with {option('out')}, or use {option('n')} {max(found) + 1}"
                )
            yield [index for index in range(count) if index not in found or not is_whole(self._file(index))]

    def write(self, images: Pixels, indices: Sequence[int]) -> None:
        """Write the images (B, C, H, W) of these indices, inside `claimed`."""
        self.record()
        for index, image in zip(indices, images, strict=True):
            with files.replacing(self._file(index)) as temporary:
                picture(image.transpose(1, 2, 0)).save(temporary, format="PNG")

    def _has_pictures(self) -> bool:
        return bool(self._found())

    def _found(self) -> set[int]:
        """The indices of the existing images, complete or not."""
        with files.explained(self.path):
            return {int(match[1]) for path in self.path.iterdir() if (match := _NAME.fullmatch(path.name))}

    def _file(self, index: int) -> Path:
        return self.path / image_name(index)


def image_name(index: int) -> str:
    """The file name of an image in a folder of images of a seed."""
    return f"{index:06d}.png"


def _content(record: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_whole(path: Path) -> bool:
    """Whether a PNG is complete, by its checksums: after a power loss it may be empty or truncated."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    except Exception:  # Pillow raises many types
        return False
    return True


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
