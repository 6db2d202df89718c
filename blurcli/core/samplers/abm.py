"""Adams-Bashforth-Moulton in the whitened space: the default sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.whitened import WhitenedSpace


class _Taken(NamedTuple):
    """A finished step from time t: its state w, the slope F there, F's divided difference before it, and its clock moments."""

    t: float
    w: Tensor
    f: Tensor
    change: tuple[Tensor, float] | None  # the divided difference, and the time at its other end
    moments: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class AdamsBashforthMoulton(Sampler):
    """Adams-Bashforth-Moulton for `dw/dphi = F` with F a polynomial in t, per frequency, one network call per step.

    With the moments `m_k = integral of (tau - t)^k dphi` of a step and Newton's divided differences of F,

        predict   w_s = w_t + m_0 F_t + m_1 [t, before] F                                                      order 2
        correct   w_t = w_before + m_0 F_before + m_1 [t, before] F + (m_2 - (t - before) m_1) [t, before, earlier] F    order 3

    The correction of a step needs the F at its end, which the next step evaluates anyway (mode PEC: predict, evaluate,
    correct). The last step, which nothing corrects, does not extrapolate. Times are placed by `WhitenedSpace.time_grid`.
    """

    name = "abm"
    whitened = True
    falling_spectrum = True

    def times(self, space: WhitenedSpace | None, steps: int, start: float) -> list[float]:
        assert space is not None
        return space.time_grid(steps, start)

    def constants(self, space: WhitenedSpace | None, t: float, s: float) -> tuple[Tensor, Tensor, Tensor]:
        assert space is not None
        return space.clock_moments(t, s)

    def step(self, geometry: WhitenedSpace, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        """Correct the step before, then predict."""
        before: _Taken | None = state.memory
        w = geometry.whiten(state.value, step.at_t)
        f = geometry.slope(w, estimate(state.value, step.t), step.at_t)
        change = None
        if before is not None:
            h = step.t - before.t
            difference = (f - before.f) / h
            m_0, m_1, m_2 = before.moments
            w = before.w + m_0 * before.f + m_1 * difference
            if before.change is not None:
                difference_before, earliest = before.change
                w = w + (m_2 - h * m_1) * (difference - difference_before) / (step.t - earliest)
            change = difference, before.t
        taken = _Taken(step.t, w, f, change, step.constants)
        w = w + taken.moments[0] * f
        if change is not None and not step.is_last:
            w = w + taken.moments[1] * change[0]
        return State(geometry.unwhiten(w, step.at_s), taken)
