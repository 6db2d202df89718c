"""Samplers: one file per method, and their registry. Imports no torch, so that a preset can be checked without it.

To add a sampler, put a file with a subclass of `Sampler` into this folder; the command line, the presets and `blurdiff sweep`
read their choices from `SAMPLERS`.

The process is diagonal in the DCT basis, so each frequency has its own signal-to-noise ratio, and a solver for ordinary
diffusion carries over frequency by frequency.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from blurcli.core.samplers.base import Sampler, State, Step

__all__ = ["DEFAULT", "DEFAULT_FINAL", "FINALS", "SAMPLERS", "Sampler", "State", "Step", "names_for", "takers_of"]

DEFAULT = "abm"
FINALS = ("noisy", "denoised")
"""Where diffusion ends: with the noise of t = 0, or without any."""
DEFAULT_FINAL = "denoised"


for _file in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")

SAMPLERS: dict[str, type[Sampler]] = {method.name: method for method in Sampler.__subclasses__()}
"""The methods by name."""


def names_for(family: str, predicts_endpoint: bool | None = False) -> tuple[str, ...]:
    """Names of the samplers for a family of processes, the default first.

    Args:
        family: `diffusion` or `heat`.
        predicts_endpoint: whether the models do, see `Objective.predicts_endpoint`; None for all samplers.
    """
    names = (
        name
        for name, method in SAMPLERS.items()
        if method.family == family and predicts_endpoint in (None, method.predicts_endpoint)
    )
    return tuple(sorted(names, key=lambda name: name != DEFAULT))


def takers_of(option: str) -> list[str]:
    """Names of the samplers with an option."""
    return [name for name, method in SAMPLERS.items() if option in method.option_names()]
