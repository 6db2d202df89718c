"""Euler's method in the whitened space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.whitened import WhitenedSpace


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method for `dw/dphi = F` per frequency: `w += dphi F`.

    Exact in one step for Gaussian data of the given mean and variance, where F = 0.
    """

    name = "euler"
    whitened = True

    def step(self, geometry: WhitenedSpace, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        w = geometry.whiten(state.value, step.at_t)
        f = geometry.slope(w, estimate(state.value, step.t), step.at_t)
        dphi = geometry.angle(step.at_s) - geometry.angle(step.at_t)
        return State(geometry.unwhiten(w + dphi * f, step.at_s))
