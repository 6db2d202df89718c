"""Messages for the user about images that are about to be used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from blurcli.base.errors import option
from blurcli.data.images import Range
from blurcli.data.walk import NO_IMAGE

_DEEP = (0.0, 65535.0)  # the default range of gray values of more than 8 bits
_MUCH_UNUSED = 4  # values that cover less than 1 over this of the range from black to white get a message
_SUFFIXES = 5


def count_by_reason(names: Mapping[str, Sequence[str]]) -> str | None:
    """Skipped files counted by reason, such as `3 without an image's suffix (.txt), 1 hidden`; None if there are none."""
    counts = []
    for reason, which in names.items():
        kinds = ""
        if reason == NO_IMAGE:
            suffixes = Counter(PurePosixPath(name).suffix.lower() or "none" for name in which).most_common()
            more = ", ..." if len(suffixes) > _SUFFIXES else ""
            kinds = f" ({', '.join(suffix for suffix, _ in suffixes[:_SUFFIXES])}{more})"
        counts.append(f"{len(which):,} {reason}{kinds}")
    return ", ".join(counts) or None


def depth(values: Range, value_range: Range | None) -> str | None:
    """The problem if gray values of more than 8 bits fit their range poorly, and the key to fix it; None if they fit."""
    low, high = value_range or _DEEP
    outside = values[0] < low or values[1] > high
    if not outside and values[1] - values[0] >= (high - low) / _MUCH_UNUSED:
        return None
    problem = "values outside are clipped" if outside else "the images have little contrast"
    if not outside and is_nearly_black(values, (low, high)):
        problem = "the images are nearly black"
    start, end = suggested_range(values)
    return (
        f"gray values of more than 8 bits are from {values[0]:g} to {values[1]:g}, where {low:g} is black and {high:g} is "
        f"white: {problem}; use {option('set')} 'data.value_range=[{start:g},{end:g}]'"
    )


def is_nearly_black(values: Range, known: Range) -> bool:
    """Whether the largest of the values is in the first quarter of a range."""
    return values[1] < known[0] + (known[1] - known[0]) / _MUCH_UNUSED


def suggested_range(values: Range) -> Range:
    """The values for black and white: for whole numbers from 0 on the range of their bits, else the extremes."""
    low, high = values
    if low >= 0 and high >= 1 and low.is_integer() and high.is_integer():
        return 0.0, float(2 ** math.ceil(math.log2(high + 1)) - 1)
    return low, high if high > low else low + 1
