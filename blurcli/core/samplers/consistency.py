"""Multistep sampling of consistency models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blurcli.core.samplers.base import Estimate, Sampler, State, Step

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.whitened import WhitenedSpace


@dataclass(frozen=True)
class Consistency(Sampler):
    """Multistep consistency sampling: predict the clean image, re-noise it to the next time, repeat.

    Algorithm 1 of Song et al. (2023, arXiv 2303.01469). For models of objective `consistency`; one to four steps.
    """

    name = "consistency"
    whitened = True
    predicts_endpoint = True

    @property
    def stochastic(self) -> bool:
        return True

    def times(self, space: WhitenedSpace | None, steps: int, start: float) -> list[float]:
        """The start, then times spaced evenly on the last 3/5 of the path to the image, as measured in docs/distilling.md."""
        assert space is not None
        if steps == 1:
            return [start, 0.0]
        path = space.time_grid(5 * (steps - 1), start)
        return [start, *path[2 * (steps - 1) :: 3]]

    def step(self, geometry: WhitenedSpace, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        """Predict the clean image, and add the noise of time `step.s` unless the step ends without noise."""
        process = geometry.process
        u = process.alpha(step.at_s) * estimate(state.value, step.t)
        return State(u if step.ends_clean else u + process.sigma(step.at_s) * noise())
