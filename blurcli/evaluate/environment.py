"""The machine and the package versions of a measurement."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import torch

from blurcli.base.threads import available_cores
from blurcli.base.version import __version__

_PACKAGES = ("torch", "numpy", "pillow", "clean-fid")


def versions() -> dict[str, str]:
    """Versions of blurdiff and of the packages that a score depends on, by name."""
    return {"blurdiff": __version__, **{name: metadata.version(name) for name in _PACKAGES}}


def platform_versions() -> dict[str, str]:
    """Versions of Python and of the operating system, by name."""
    return {"Python": platform.python_version(), "OS": f"{platform.system()} {platform.release().partition('-')[0]}"}


def hardware(device: torch.device) -> str:
    """The name of the processor of a device; for a CPU also the number of available cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} of {_cpu_name()}"
    return f"{_cpu_name()}, {available_cores()} cores"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
