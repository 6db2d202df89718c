"""The ancestral sampler of the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.process import BlurringDiffusion


@dataclass(frozen=True)
class Ancestral(Sampler):
    """A draw from `q(u_s | u_t, x = x_hat)` per step (Hoogeboom and Salimans 2023, section 3).

    Without blur it is the sampler of DDPM (Ho et al. 2020, arXiv 2006.11239).
    """

    name = "ancestral"

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, geometry: BlurringDiffusion, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]
    ) -> State:
        mean, variance = geometry.posterior(state.value, estimate(state.value, step.t), step.at_t, step.at_s)
        return State(mean + variance.sqrt() * noise())
