"""Reuse of freed memory by the C library."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")

SECOND_USE = """
import ctypes, resource
from blurcli.base.memory import keep_freed_memory

keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(20 << 20)
    libc.memset(block, 1, 20 << 20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment: str) -> int:
    """Of the second time that 20 MiB are allocated, filled and freed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", SECOND_USE]
    return int(subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_reused() -> None:
    assert page_faults() < 100


def test_the_users_choice_stays() -> None:
    assert page_faults(MALLOC_MMAP_THRESHOLD_="131072") > 1000
