"""How many threads PyTorch uses on a CPU, and how they wait for each other; decided before it is imported."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

_CHOSEN_BY_USER = ("OMP_", "GOMP_", "KMP_")
_SPIN = "10000"  # rounds of waiting before a thread sleeps, about 0.3 ms: longer than from one operation to the next
_SAMPLES, _INTERVAL_SEC = 20, 0.003
LOAD = Path("/proc/loadavg")  # of Linux

note: str | None = None
"""For the user, where `choose_threads` chose fewer threads than there are cores."""


def choose_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Use the cores that are free, and let threads that wait go to sleep soon.

    The threads of an operation wait for the last of them, which beside other busy processes waits for a core: on a busy core,
    two threads can take several times as long as one. And by default GNU OpenMP's threads spin for milliseconds after each
    operation, on a core that another may need. Whatever the user chose with a variable of OpenMP stays.
    """
    global note
    note = None
    if any(name.startswith(_CHOSEN_BY_USER) for name in environment):
        return
    environment["GOMP_SPINCOUNT"] = _SPIN
    cores, busy = os.cpu_count() or 1, busy_threads()
    threads = max(1, cores - busy)
    if threads == cores:
        return
    environment["OMP_NUM_THREADS"] = str(threads)
    note = (
        f"{min(busy, cores)} of {cores} cores are busy with other work: using {threads} thread{'s' if threads > 1 else ''}; "
        f"OMP_NUM_THREADS={cores} would use all"
    )


def busy_threads() -> int:
    """Threads of other processes that keep a core busy, or wait for one; 0 where the system does not tell.

    The fewest that run at once during some milliseconds; not the load average, which for a minute remembers the command before.
    """
    fewest = None
    try:
        for _ in range(_SAMPLES):
            running = int(LOAD.read_text(encoding="ascii").split()[3].split("/")[0]) - 1
            fewest = running if fewest is None else min(fewest, running)
            if fewest <= 0:
                return 0
            time.sleep(_INTERVAL_SEC)
    except (OSError, ValueError, IndexError):
        return 0
    return fewest or 0
