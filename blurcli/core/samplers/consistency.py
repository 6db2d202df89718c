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
    """The end of the path, with new noise again, and the end of the path from there (Song et al. 2023, algorithm 1).

    For models of objective `consistency`, whose estimate is the end of a path; one to four steps.
    """

    name = "consistency"
    whitened = True
    ends_path = True

    @property
    def stochastic(self) -> bool:
        """Always."""
        return True

    def times(self, space: WhitenedSpace | None, steps: int, start: float) -> list[float]:
        """The start, and then times from 3/5 of the image's path on, evenly on it (docs/distilling.md has the measurements)."""
        assert space is not None
        if steps == 1:
            return [start, 0.0]
        path = space.time_grid(5 * (steps - 1), start)
        return [start, *path[2 * (steps - 1) :: 3]]

    def step(self, geometry: WhitenedSpace, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        """The end of the path, and noise of time `step.s` unless it ends without."""
        process = geometry.process
        u = process.alpha(step.at_s) * estimate(state.value, step.t)
        return State(u if step.ends_clean else u + process.sigma(step.at_s) * noise())
