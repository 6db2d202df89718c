"""The interface of a sampler."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.whitened import WhitenedSpace


@dataclass(frozen=True)
class Step:
    """One step of a plan, from time t to the next time s.

    Attributes:
        number: its place in the plan, from 0 on.
        t: the time at which the step begins, in [0, 1].
        s: the time at which it ends; below 0 where it ends without noise, see `Process.clean_time`.
        at_t: t as a tensor (1,) float64 on the device of the images.
        at_s: s, likewise.
        is_last: whether no step follows.
        constants: the result of `Sampler.constants`, the same for all batches.
    """

    number: int
    t: float
    s: float
    at_t: Tensor
    at_s: Tensor
    is_last: bool
    constants: Any = None

    @property
    def ends_clean(self) -> bool:
        """Whether no noise is left at its end."""
        return self.s < 0


class State(NamedTuple):
    """The state of a solver between two steps.

    Attributes:
        value: for diffusion the DCT u of the images, (B, C, H, W) float64; for heat dissipation the images z themselves.
        memory: the history of a multistep method; None before the first step.
    """

    value: Tensor
    memory: Any = None


Estimate = Callable[["Tensor", float], "Tensor"]
"""`estimate(value, t)`: one call of the network on the state `value` at time t. For diffusion the DCT X of x_hat, float64; for
heat dissipation the expected images at the end of the step."""


@dataclass(frozen=True)
class Sampler(ABC):
    """A method that integrates the reverse process. Its options are its fields; a step has no hidden memory.

    Attributes:
        name: its name on the command line and in presets.
        family: the family of processes it is for.
        whitened: whether it works in the whitened space of the data, and starts from `w = DCT(z)`.
        predicts_endpoint: whether it is for models that predict the ODE endpoint, see `Objective.predicts_endpoint`.
        falling_spectrum: whether a whitened method without a known spectrum uses the power law of natural images, not a flat
            one.
        calls_per_step: how often a step calls `estimate`.
    """

    name: ClassVar[str]
    family: ClassVar[str] = "diffusion"
    whitened: ClassVar[bool] = False
    predicts_endpoint: ClassVar[bool] = False
    falling_spectrum: ClassVar[bool] = False
    calls_per_step: ClassVar[int] = 1

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the method's options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @property
    def stochastic(self) -> bool:
        """Whether the steps draw noise."""
        return False

    def times(self, space: WhitenedSpace | None, steps: int, start: float) -> list[float]:
        """`steps + 1` times from `start` to 0, uniform unless the method places them; `space` is None unless it is whitened."""
        return [start * (1 - i / steps) for i in range(steps + 1)]

    def constants(self, space: WhitenedSpace | None, t: float, s: float) -> Any:
        """Coefficients of the step from t to s, computed once for all batches: None, or a tuple of tensors."""
        return None

    @abstractmethod
    def step(self, geometry: Any, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]) -> State:
        """The state at time `step.s` from the state at time `step.t`.

        Args:
            geometry: the `WhitenedSpace` of a whitened method, else the `Process`.
            step: times and constants.
            state: state at `step.t`.
            estimate: calls the network.
            noise: `noise()` draws standard normal noise in the space of `state.value`.
        """
