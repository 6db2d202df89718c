"""The number of CPU threads of this process, and how they wait for each other; set before PyTorch is imported."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, MutableMapping
from operator import itemgetter
from pathlib import Path, PurePosixPath

_CHOSEN_BY_USER = ("OMP_", "GOMP_", "KMP_")
_NUMBER_CHOSEN = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")
_SPIN = "10000"  # spins before a thread sleeps, about 0.3 ms: longer than the time between operations
_SAMPLES, _INTERVAL_SEC = 20, 0.003
LOAD = Path("/proc/loadavg")  # of Linux
# Mount points of the cgroup hierarchies: version 2, which has no controller's name, and version 1.
_CGROUPS = {"": ("sys/fs/cgroup", "sys/fs/cgroup/unified"), "cpu": ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct")}
# Schedulers besides Slurm: the variable that marks a job, and the variable with its cores.
_SCHEDULERS = (("PBS_JOBID", "NCPUS"), ("LSB_JOBID", "LSB_DJOB_NUMPROC"), ("SGE_TASK_ID", "NSLOTS"))

note: str | None = None
"""A message for the user if `choose_threads` chose fewer threads than there are cores."""


def choose_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Use the free cores, and let waiting threads sleep soon.

    The threads of an operation wait for the slowest one. With other busy processes, that thread waits for a core: two threads
    can take several times as long as one. By default the threads of GNU OpenMP also spin for milliseconds after each operation,
    on a core that others may need. Settings of the user in OpenMP's variables take precedence.

    A process that is limited to a share of the machine uses its whole share: the load of the machine says nothing about it.
    """
    global note
    note = None
    chosen = any(name.startswith(_CHOSEN_BY_USER) for name in environment)
    if not chosen:
        environment["GOMP_SPINCOUNT"] = _SPIN
    total, (cores, limit) = os.cpu_count() or 1, _share(Path("/"), environment)
    if cores < total:
        # OpenMP counts the cores of the affinity and ignores quotas and allocations. PyTorch's compiler does the same, and
        # starts as many processes.
        environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(cores))
        if not any(name in environment for name in _NUMBER_CHOSEN):
            environment["OMP_NUM_THREADS"] = str(cores)
            note = f"using {_counted(cores)}: {limit} gives this process {cores} of {total} cores"
        return
    if chosen:
        return
    busy = busy_threads()
    threads = max(1, cores - busy)
    if threads == cores:
        return
    environment["OMP_NUM_THREADS"] = str(threads)
    note = (
        f"{min(busy, cores)} of {cores} cores are busy with other work: using {_counted(threads)}; "
        f"OMP_NUM_THREADS={cores} would use all"
    )


def available_cores(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """The number of cores that this process may use: the smallest of all limits on it, and at least 1.

    The limits are the machine's cores, the affinity, the CPU quotas of the process's cgroups, and the allocation of a batch
    job. Processes that torchrun started share them; see `own_cores`.

    Args:
        root: root of the file system.
        environment: variables; schedulers set the allocation of a job in them.
    """
    return _share(root, environment)[0]


def own_cores() -> int:
    """This process's part of `available_cores`, shared with the other processes of torchrun on this machine; at least 1."""
    return max(1, available_cores() // (_number(os.environ, "LOCAL_WORLD_SIZE") or 1))


def _share(root: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """The number of cores that this process may use, and what limits them."""
    quotas = [(max(1, int(quota + 0.5)), "the CPU quota of its cgroup") for quota in _quotas(root)]
    limits = [(os.cpu_count() or 1, "the machine"), (_affinity(), "its CPU affinity"), *quotas, *_allocations(environment)]
    return min(limits, key=itemgetter(0))


def _affinity() -> int:
    count = getattr(os, "process_cpu_count", None)  # since Python 3.13
    if count is not None:
        return count() or 1
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of this process's cgroups and all those above them.

    A container often sees its own cgroup at the mount point of the whole hierarchy, under a path of the host that does not
    exist inside. Missing files are ignored; all others count.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        for mount in _CGROUPS.get("cpu" if "cpu" in controllers.split(",") else controllers, ()):
            parts = PurePosixPath(path.lstrip("/"))
            own = parts if ".." not in parts.parts else PurePosixPath()  # outside of the mount
            for folder in (own, *own.parents):
                quota = _quota(root / mount / folder)
                if quota is not None:
                    yield quota


def _quota(cgroup: Path) -> float | None:
    """The CPU quota of one cgroup of version 2 or 1, in cores; None where it has none."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((cgroup / name).read_text(encoding="ascii") for name in files).split())
        except (OSError, ValueError):  # such as "max" for none
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def _allocations(environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """The cores that a scheduler allocated to this process on this machine, and the name of that limit."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE"):  # salloc sets only the last
        if cores := _number(environment, name):
            # srun starts several processes that share the cores of a machine; a script that sbatch starts is one process for
            # any number of tasks.
            tasks = 1 if name.endswith("TASK") else _number(environment, "SLURM_STEP_TASKS_PER_NODE") or 1
            yield max(1, cores // tasks), f"Slurm's allocation ({name})"
            break
    for job, name in _SCHEDULERS:
        cores = _number(environment, name) if job in environment else None
        if cores:
            yield cores, f"the job's allocation ({name})"


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A number in a variable, the first one in Slurm's `4(x2),3`; None for anything else."""
    first = environment.get(name, "").partition(",")[0].partition("(")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() else None


def _counted(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def busy_threads() -> int:
    """Threads of other processes that run on a core, or wait for one; 0 if the system does not report it.

    This is the minimum over some milliseconds. The load average would still count the previous command for a minute.
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
