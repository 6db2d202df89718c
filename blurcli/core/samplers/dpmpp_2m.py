"""DPM-Solver++ 2M per frequency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.process import Process


@dataclass(frozen=True)
class DpmSolverPlusPlus2M(Sampler):
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095), per frequency.

    An exponential integrator in the half log-SNR `l = log(alpha / sigma)` of each frequency, with `h = l_s - l_t` and X linear
    in l, integrated exactly (algorithm 2 there has (1 - e^-h) / 2 for phi_2, which agrees to second order):
    `u_s = (sigma_s / sigma_t) u_t + alpha_s (1 - e^-h) X + alpha_s phi_2 (X - X_prev) h / h_prev`,
    `phi_2 = (e^-h - 1) / h + 1`. The first step and a step to an image without noise (`u_s = X`) have no last term: they are
    DDIM steps.
    """

    name = "dpmpp-2m"

    def step(self, geometry: Process, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        """One step; the memory is (X, h) of the step before."""
        x = estimate(state.value, step.t)
        alpha_s, sigma_s, sigma_t = geometry.alpha(step.at_s), geometry.sigma(step.at_s), geometry.sigma(step.at_t)
        h = (alpha_s / geometry.alpha(step.at_t) * sigma_t / sigma_s).log()
        decay = -(-h).expm1()
        u_s = sigma_s / sigma_t * state.value + alpha_s * decay * x
        if state.memory is not None and not step.ends_clean:  # without noise h, and thus the extrapolation, is infinite
            x_before, h_before = state.memory
            u_s = u_s + alpha_s * (1 - decay / h) * h / h_before * (x - x_before)
        return State(u_s, (x, h))
