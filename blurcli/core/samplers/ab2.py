"""Second-order Adams-Bashforth in the whitened space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.whitened import WhitenedSpace

_MAX_RATIO = 2.0


@dataclass(frozen=True)
class AdamsBashforth2(Sampler):
    """Second-order Adams-Bashforth for `dw/dphi = F` in each frequency's own clock.

    `w += dphi (F + r/2 (F - F_prev))`, `r = dphi / dphi_prev`. The first step is Euler's. Exact in one step for Gaussian data
    of the given mean and variance, where F = 0.
    """

    name = "ab2"
    whitened = True

    def step(self, geometry: WhitenedSpace, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        """One extrapolated step; the memory is (F, dphi) of the step before."""
        w = geometry.whiten(state.value, step.at_t)
        f = geometry.slope(w, estimate(state.value, step.t), step.at_t)
        dphi = geometry.angle(step.at_s) - geometry.angle(step.at_t)
        slope = f
        if state.memory is not None:
            f_before, dphi_before = state.memory
            # Late frequencies start with vanishing steps: below 10 steps an unlimited ratio extrapolates far beyond the data.
            slope = f + (dphi / dphi_before).clamp(max=_MAX_RATIO) / 2 * (f - f_before)
        return State(geometry.unwhiten(w + dphi * slope, step.at_s), (f, dphi))
