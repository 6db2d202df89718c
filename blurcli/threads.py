"""How PyTorch's threads wait for each other on a CPU; decided before PyTorch is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_CHOSEN_BY_USER = ("OMP_", "GOMP_", "KMP_")
_SPIN = "3000"  # rounds of waiting before a thread sleeps, about 0.1 ms: longer than from one operation to the next
_BUSY = 0.5  # load per core


def choose_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait go to sleep soon, and at once on a machine that is busy with other work.

    By default GNU OpenMP's threads spin for milliseconds after each operation. Beside other busy processes they spin while the
    thread that they wait for has no core, and the whole is several times slower than with one thread. Whatever the user chose
    with a variable of OpenMP stays.
    """
    if any(name.startswith(_CHOSEN_BY_USER) for name in environment):
        return
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _BUSY * (os.cpu_count() or 1):
        environment["OMP_WAIT_POLICY"] = "passive"
    else:
        environment["GOMP_SPINCOUNT"] = _SPIN
