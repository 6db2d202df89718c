"""The sampler of inverse heat dissipation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Heat(Sampler):
    """Deblurring level by level with a little noise (Rissanen et al. 2023, arXiv 2206.13397, algorithm 2).

    `z_s = E[F(s) x | z_t] + delta noise`; the last step adds no noise.

    Attributes:
        delta: standard deviation of the noise per step, at least 0, for images in [-1, 1].

    Raises:
        ValueError: delta below 0.
    """

    name = "heat"
    family = "heat"
    delta: float = 0.025

    def __post_init__(self) -> None:
        if self.delta < 0:
            raise ValueError(f"delta must be at least 0, not {self.delta}")

    @property
    def stochastic(self) -> bool:
        return self.delta > 0

    def step(self, geometry: Any, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        less_blurred = estimate(state.value, step.t)
        return State(less_blurred if step.is_last else less_blurred + self.delta * noise())
