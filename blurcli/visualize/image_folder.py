"""A folder of sampled images, filled in order: an interrupted sampling continues where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blurcli import files
from blurcli.data.outputs import SAMPLING_RECORD as RECORD
from blurcli.errors import UsageError, option
from blurcli.visualize.grids import Images, picture


class ImageFolder:
    """A folder with one PNG per image, named by its index, and, until it is complete, a record of how they are made.

    Args:
        path: the folder; it is created with the first image.
        settings: what decides the images, besides their number.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(settings))

    def images_done(self, count: int) -> int:
        """The number of images that are there, of the `count` first ones.

        Raises:
            UsageError: the folder has images of other settings, more images, or other files.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            files.check_writable(self.path / RECORD)
            return 0
        record = self.path / RECORD
        if not record.is_file():
            raise UsageError(f"{self.path}: exists and is not an empty folder; choose another one")
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise UsageError(f"{record}: cannot be read; choose another folder with {option('out')}")
        keys = sorted(key for key in before.keys() | self._settings if before.get(key) != self._settings.get(key))
        if keys:
            changes = ", ".join(f"{key} {_shown(before.get(key))} (now {_shown(self._settings.get(key))})" for key in keys)
            raise UsageError(
                f"{self.path}: holds images of other settings: {changes}; "
                f"choose another folder with {option('out')}, or use the same settings to continue"
            )
        files.remove_partial(self.path)
        if self._file(count).exists():
            raise UsageError(f"{self.path}: holds more than {count} images; choose another folder with {option('out')}")
        return next((index for index in range(count) if not self._file(index).exists()), count)

    def write(self, batches: Iterable[Images], first: int) -> None:
        """Write images from index `first` on, in batches (B, C, H, W)."""
        with files.replacing(self.path / RECORD) as temporary:
            temporary.write_text(json.dumps(self._settings, indent=1) + "\n", encoding="utf-8")
        index = first
        for batch in batches:
            for image in batch:
                with files.replacing(self._file(index)) as temporary:
                    picture(image.transpose(1, 2, 0)).save(temporary, format="PNG")
                index += 1
        (self.path / RECORD).unlink()

    def _file(self, index: int) -> Path:
        return self.path / f"{index:06d}.png"


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
