"""The cache folder, for packed images, downloads and measured statistics."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """$BLURDIFF_CACHE, or `blurdiff` in the user's cache folder (`~/.cache` on Linux)."""
    if chosen := os.environ.get("BLURDIFF_CACHE"):
        return Path(chosen)
    return user_cache_path("blurdiff", appauthor=False)
