"""Scores of variants with paired seeds: means, spreads, and paired differences with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from blurcli.evaluate.tables import value_text

CONFIDENCE = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Spread:
    """A metric of a variant, or paired differences of it, over the seeds.

    Attributes:
        values: by seed; at least one.
    """

    values: dict[int, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def std(self) -> float | None:
        """The standard deviation over the seeds; None for one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half the width of the mean's interval; None for one seed."""
        return half_width([*self.values.values()])

    @property
    def text(self) -> str:
        """For a table: mean ± standard deviation."""
        return _with_spread(self.mean, self.std)

    @property
    def difference_text(self) -> str:
        """For a table: the mean with its sign ± half the width of its interval."""
        return ("+" if self.mean > 0 else "") + _with_spread(self.mean, self.half_width)

    def less(self, base: Spread) -> Spread | None:
        """The differences to another variant by seed, of the seeds that both have; None if there are none."""
        pairs = {seed: value - base.values[seed] for seed, value in self.values.items() if seed in base.values}
        return Spread(pairs) if pairs else None


def _with_spread(mean: float, spread: float | None) -> str:
    """A mean with the digits that its spread allows: two of the spread."""
    if not spread:
        return value_text(float(mean))
    digits = min(6, max(0, 1 - math.floor(math.log10(spread))))
    return f"{round(mean, digits) + 0.0:.{digits}f} ± {spread:.{digits}f}"  # without a minus before 0


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of the interval of a mean, by Student's t with n - 1 degrees of freedom; None below two values."""
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return None
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return quantile * statistics.stdev(values) / math.sqrt(count)
