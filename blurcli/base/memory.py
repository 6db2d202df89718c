"""Reuse of freed memory in the C library; set before PyTorch allocates."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress

_CHOSEN_BY_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt(3)
_KEPT_BYTES = 1 << 27
_LARGEST_KEPT_BYTES = 1 << 25  # the most that glibc accepts


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> None:
    """Let glibc reuse the memory of freed tensors of up to 32 MiB; other C libraries are left alone.

    By default glibc returns it to the system, which then clears every page again: thousands of page faults per training step.
    Settings of the user for the allocator take precedence.
    """
    if any(name.startswith(_CHOSEN_BY_USER) for name in environment):
        return
    with suppress(OSError, AttributeError, TypeError):  # no glibc
        adjust = ctypes.CDLL(None).mallopt
        adjust(_TRIM_THRESHOLD, _KEPT_BYTES)
        adjust(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
