"""The cache folder, for packed images, downloads and measured statistics."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from blurcli.base.errors import UserError

TAG = "CACHEDIR.TAG"
"""The file that marks a folder as a cache (https://bford.info/cachedir)."""

_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Packed images of blurdiff, which makes missing ones again.\n"


def cache_folder() -> Path:
    """$BLURDIFF_CACHE, or `blurdiff` in the user's cache folder (`~/.cache` on Linux).

    Raises:
        UserError: there is no home folder.
    """
    chosen = os.environ.get("BLURDIFF_CACHE")
    folder = Path(chosen) if chosen else user_cache_path("blurdiff", appauthor=False)
    try:
        return folder.expanduser()
    except RuntimeError:
        raise UserError(f"there is no home folder for the cache ({folder}): name a folder with $BLURDIFF_CACHE") from None


def tag(folder: Path) -> None:
    """Mark an existing folder as a cache."""
    if not (folder / TAG).exists():
        (folder / TAG).write_text(_TAG_TEXT, encoding="utf-8")
