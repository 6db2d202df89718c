"""Options that several functions take, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from blurcli.base.errors import OptionError, did_you_mean, option

MAX_SEED = 2**64 - 1


class EstimateOptions(TypedDict, total=False):
    """What an estimate of the network depends on besides the state; the preset's way for what is not given.

    Keys:
        label: name of a class; `none`; `all` in turn.
        guidance: classifier-free guidance, or by the guide, in [0, 100]; 1 is none.
    """

    label: str
    guidance: float


class SamplingOptions(EstimateOptions, total=False):
    """How images are made; the preset's way for what is not given.

    Keys:
        label, guidance: see `EstimateOptions`.
        sampler: name of the method, such as `abm`.
        steps: steps of the sampler, at least 1.
        eta: noise of `ddim`, in [0, 1].
        delta: noise per step of `heat`, for images in [0, 1].
        final: for diffusion, `noisy` or `denoised`.
    """

    sampler: str
    steps: int
    eta: float
    delta: float
    final: Literal["noisy", "denoised"]


def check_names(function: str, options: Mapping[str, Any], known: Any) -> None:
    """Raise a TypeError for an option that a function does not have; `known` is the TypedDict of those that it has."""
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() has no option {name!r}{did_you_mean(name, known.__annotations__)}")


def given_names(options: Mapping[str, Any], *names: str) -> str:
    """Those of these options that are given, for a message; empty where none is."""
    return ", ".join(option(name) for name in names if options.get(name) is not None)


def check_pixels(name: str, pixels: NDArray[Any]) -> None:
    """Raise an OptionError for an array of another type than uint8."""
    if pixels.dtype != np.uint8:
        raise OptionError(name, f"of {pixels.dtype}", "must be uint8, 0..255: scale other values and round them first")


def check_range(name: str, value: float | None, low: float, high: float | None = None) -> None:
    """Raise an OptionError for what is no number in [low, high]; None is what was not given."""
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        raise OptionError(name, repr(value), "must be a number")
    if low <= value and (high is None or value <= high):
        return
    raise OptionError(name, value, f"must be at least {low}" if high is None else f"must be from {low} to {high}")


def check_whole(name: str, value: int, low: int, high: int | None = None) -> None:
    """Raise an OptionError for what is no whole number in [low, high]."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise OptionError(name, repr(value), "must be a whole number")
    check_range(name, value, low, high)
