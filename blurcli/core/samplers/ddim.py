"""DDIM per frequency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.process import BlurringDiffusion


@dataclass(frozen=True)
class Ddim(Sampler):
    """DDIM (Song et al. 2021, arXiv 2010.02502, equation 12), per frequency.

    `u_s = alpha_s X + sqrt(sigma_s^2 - eta^2 v) eps_hat + eta sqrt(v) noise`, with the variance v of the posterior
    q(u_s | u_t, x).

    Attributes:
        eta: the share of the ancestral sampler's noise, in [0, 1]: 0 is deterministic, 1 is `ancestral`.

    Raises:
        ValueError: eta out of its range.
    """

    name = "ddim"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], not {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(
        self, geometry: BlurringDiffusion, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]
    ) -> State:
        u, x = state.value, estimate(state.value, step.t)
        alpha_t, sigma_t = geometry.alpha(step.at_t), geometry.sigma(step.at_t)
        alpha_s, sigma_s = geometry.alpha(step.at_s), geometry.sigma(step.at_s)
        eps_hat = (u - alpha_t * x) / sigma_t
        if not self.eta:
            return State(alpha_s * x + sigma_s * eps_hat)
        _, variance = geometry.posterior(u, x, step.at_t, step.at_s)
        # sigma_s^2 - eta^2 v, without the difference of nearly equal numbers where the signal vanishes.
        kept = sigma_s * (1 - self.eta**2 + (self.eta * alpha_t / alpha_s * sigma_s / sigma_t) ** 2).sqrt()
        return State(alpha_s * x + kept * eps_hat + self.eta * variance.sqrt() * noise())
