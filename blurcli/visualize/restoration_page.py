"""Restored photos as one HTML page, before and after a divider; it loads nothing from the network."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from blurcli.base import console, files
from blurcli.base.errors import UsageError, option, spelled
from blurcli.base.version import __version__
from blurcli.data.photos import Photo
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restored import Restored
from blurcli.visualize.markup import Picture, render, written

MOST_BYTES = 10_000_000
"""Of a page with its pictures; those of a larger one are files beside it."""

_BASE64 = 4 / 3  # bytes of a picture in a page
_WHITEST_LEVELS = 128  # of a spread
_BRIGHT_PERCENT = 99.5  # of the pixels of a spread are not white


@dataclass(frozen=True)
class _Shown:
    """A picture of a page: its file's name without number and suffix, its label, and its content or, once it is written, its
    place."""

    name: str
    label: str
    content: bytes = b""
    place: str = ""

    @property
    def source(self) -> str:
        return self.place or Picture(self.content, "image/png", 0).uri


class RestorationPage:
    """A page of photos and their results.

    The pictures are lossless and in the page, or, where they make it larger than `MOST_BYTES`, in the folder NAME_files beside
    it.

    Args:
        path: .html.

    Raises:
        UsageError: the folder for pictures has other files.
        UserError: the page cannot be written.
    """

    def __init__(self, path: Path) -> None:
        files.check_writable(path)
        self._path, self._folder = path, path.with_name(f"{path.stem}_files")
        self._pictures: list[list[_Shown]] = []  # per photo, the given one first
        self._facts: list[dict[str, Any]] = []
        self._bytes, self._in_folder = 0, False
        free = not self._folder.exists() or (self._folder.is_dir() and files.is_empty(self._folder))
        if not (free or self._has_own_folder()):
            raise UsageError(
                f"{option('out')} {path}: the pictures of a large page go to {self._folder}, which has other files; choose "
                "another name"
            )

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Write the page when the block ends, also by an error, if it has photos."""
        try:
            yield
        finally:
            if self._facts:
                self._write()

    def add(self, title: str, given: Photo, restored: Restored, options: RestoreOptions) -> None:
        """Add a photo with its draws and, where `options` want them, their mean and their spread."""
        shown = [_Shown("given", "photo as given", _encoded(given, given.pixels))]
        several = len(restored.draws) > 1
        for number, draw in enumerate(restored.draws, 1):
            label = f"draw {number}" if several else "result"
            shown.append(_Shown(label.replace(" ", "-"), label, _encoded(given, draw, restored.comment)))
        if options.mean:
            shown.append(_Shown("mean", "mean", _encoded(given, restored.mean, restored.comment)))
        white = 0
        if options.spread:
            spread = restored.spread
            white = _white_levels(spread)
            gray = Photo((spread * 255 / white)[None])
            shown.append(_Shown("spread", "spread", _encoded(gray, gray.pixels, restored.comment)))
        height, width = restored.draws.shape[-2:]
        self._facts.append(
            {
                "title": title,
                "width": width,
                "height": height,
                "white": white,
                "found": spelled(restored.description, console.flag),
                "comment": restored.comment.splitlines(),
                "enlarge": options.enlarge,
                "deep": given.deep,
            }
        )
        self._pictures.append(shown)
        self._bytes += sum(len(one.content) for one in shown)
        if self._in_folder or self._bytes * _BASE64 > MOST_BYTES:
            self._move_pictures()

    def _write(self) -> None:
        page = self._rendered()
        if not self._in_folder and len(page) > MOST_BYTES:
            self._move_pictures()
            page = self._rendered()
        with files.replacing(self._path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        if not self._in_folder and self._has_own_folder():  # of an earlier page of this name
            self._clear_folder()

    def _rendered(self) -> str:
        shown = self._pictures[0][1:]
        data = {
            "kinds": [one.name for one in shown],
            "labels": [one.label for one in shown],
            "photos": [
                {
                    **{key: facts[key] for key in ("width", "height", "white", "enlarge")},
                    "given": pictures[0].source,
                    "pictures": [one.source for one in pictures[1:]],
                }
                for facts, pictures in zip(self._facts, self._pictures, strict=True)
            ],
        }
        return render(
            "restored.html",
            data=data,
            photos=self._facts,
            labels=data["labels"],
            folder=self._folder.name if self._in_folder else "",
            version=__version__,
        )

    def _move_pictures(self) -> None:
        """Write all pictures that are still in memory to the folder."""
        if not self._in_folder:
            self._clear_folder()
            with files.replacing(self._folder / files.SAMPLING) as temporary:  # marks the folder as made by blurdiff
                temporary.write_text(json.dumps({"blurdiff": __version__}) + "\n", encoding="utf-8")
        self._in_folder = True
        for number, pictures in enumerate(self._pictures, 1):
            for i, one in enumerate(pictures):
                if one.content:
                    name = f"{number:04d}-{one.name}.png"
                    with files.replacing(self._folder / name) as temporary:
                        temporary.write_bytes(one.content)
                    pictures[i] = replace(one, content=b"", place=f"{quote(os.fsencode(self._folder.name))}/{name}")

    def _has_own_folder(self) -> bool:
        return (self._folder / files.SAMPLING).is_file()

    def _clear_folder(self) -> None:
        """Remove the pictures of an earlier page."""
        with files.explained(self._folder):
            for old in [*self._folder.glob("[0-9][0-9][0-9][0-9]-*.png"), self._folder / files.SAMPLING]:
                old.unlink(missing_ok=True)
            if self._folder.is_dir() and files.is_empty(self._folder):
                self._folder.rmdir()


def _encoded(photo: Photo, pixels: NDArray[np.float64], comment: str = "") -> bytes:
    """The content of a PNG of 8 bits without EXIF data, which can tell where a photo was taken."""
    plain = replace(photo, deep=False, exif=None)
    return written(lambda path: plain.with_pixels(pixels).save(path, comment), ".png")


def _white_levels(spread: NDArray[np.float64]) -> int:
    """Gray levels of spread that are shown as white: a power of two that few pixels exceed."""
    bright = max(1.0, float(np.percentile(spread, _BRIGHT_PERCENT)))
    return int(min(_WHITEST_LEVELS, 2 ** np.ceil(np.log2(bright))))
