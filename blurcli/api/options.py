"""Options shared by several functions, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from blurcli.base.errors import OptionError, did_you_mean, option

MAX_SEED = 2**64 - 1


class EstimateKeywords(TypedDict, total=False):
    """Options of an estimate of the network besides the state; the preset's value for each that is not given.

    Keys:
        label: name of a class; `none`; `all` in turn.
        guidance: classifier-free guidance, or by the guide, in [0, 100]; 1 is none.
    """

    label: str
    guidance: float


def check_names(function: str, options: Mapping[str, Any], known: Any) -> None:
    """Raise a TypeError for an unknown option of a function; `known` is the TypedDict of its options."""
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() has no option {name!r}{did_you_mean(name, known.__annotations__)}")


def given_names(options: Mapping[str, Any], *names: str) -> str:
    """Those of these options that are given, for a message; empty where none is."""
    return ", ".join(option(name) for name in names if options.get(name) is not None)


def check_pixels(name: str, pixels: NDArray[Any]) -> None:
    """Raise an OptionError for an array that is not uint8."""
    if pixels.dtype != np.uint8:
        raise OptionError(name, f"of {pixels.dtype}", "must be uint8, 0..255: scale other values and round them first")


def check_range(name: str, value: float | None, low: float, high: float | None = None) -> None:
    """Raise an OptionError unless a value is a number in [low, high], or None."""
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        raise OptionError(name, repr(value), "must be a number")
    if low <= value and (high is None or value <= high):
        return
    raise OptionError(name, value, f"must be at least {low}" if high is None else f"must be from {low} to {high}")


def check_whole(name: str, value: int, low: float, high: float | None = None) -> None:
    """Raise an OptionError unless a value is a whole number in [low, high]."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise OptionError(name, repr(value), "must be a whole number")
    check_range(name, value, low, high)
