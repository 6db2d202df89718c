"""How PyTorch's threads wait for each other on a CPU; decided before PyTorch is imported."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

_CHOSEN_BY_USER = ("OMP_", "GOMP_", "KMP_")
_SPIN = "10000"  # rounds of waiting before a thread sleeps, about 0.3 ms: longer than from one operation to the next
_BUSY = 0.5  # other running threads per core
_SAMPLES, _INTERVAL_SEC = 5, 0.002
LOAD = Path("/proc/loadavg")  # of Linux


def choose_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait go to sleep soon, and at once on a machine that is busy with other work.

    By default GNU OpenMP's threads spin for milliseconds after each operation. Beside other busy processes they spin while the
    thread that they wait for has no core, and the whole is several times slower than with one thread. Whatever the user chose
    with a variable of OpenMP stays.
    """
    if any(name.startswith(_CHOSEN_BY_USER) for name in environment):
        return
    if running_threads() >= _BUSY * (os.cpu_count() or 1):
        environment["OMP_WAIT_POLICY"] = "passive"
    else:
        environment["GOMP_SPINCOUNT"] = _SPIN


def running_threads() -> int:
    """Threads that run or wait for a core at this moment, without the caller; 0 where the system does not tell.

    Not the load average, which for a minute remembers the command before.
    """
    try:
        return min(_runnable() for _ in range(_SAMPLES)) - 1
    except (OSError, ValueError, IndexError):
        return 0


def _runnable() -> int:
    time.sleep(_INTERVAL_SEC)
    return int(LOAD.read_text(encoding="ascii").split()[3].split("/")[0])
