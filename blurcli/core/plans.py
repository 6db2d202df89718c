"""The plan of a sampling run: times and coefficients, made once for all batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blurcli.core.moments import PIXEL_VARIANCE, reference_gaussian
from blurcli.core.process import Process
from blurcli.core.samplers import FINALS, Sampler, State, Step
from blurcli.core.schedules import laplacian
from blurcli.core.whitened import WhitenedSpace

_CACHE_BYTES = 1 << 29  # of all constants of a plan; 20 steps at 3x512x512 fit
_EARLIEST_START = 1e-6  # closer to 0, the times of a grid are indistinguishable


@dataclass(frozen=True)
class Plan:
    """What all batches of a sampling run share.

    Attributes:
        sampler: the method with its options.
        process: the process.
        space: the whitened space, for whitened methods; else None.
        times: descending from the start to 0, or to `Process.clean_time` (ascending to 1 for an encoding).
        from_noise: whether it starts from standard normal noise at t = 1; else from a given state.
        device: device of the images.
    """

    sampler: Sampler
    process: Process
    space: WhitenedSpace | None
    times: Sequence[float]
    from_noise: bool
    device: torch.device
    _constants: dict[int, Any] = field(default_factory=dict)

    @property
    def geometry(self) -> Any:
        """The first argument of `Sampler.step`."""
        return self.space or self.process

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    def __iter__(self) -> Iterator[Step]:
        for i in range(len(self)):
            t, s = self.times[i], self.times[i + 1]
            yield Step(i, t, s, self._tensor(t), self._tensor(s), i + 1 == len(self), self._constants_of(i))

    def _constants_of(self, i: int) -> Any:
        if i not in self._constants:
            constants = self.sampler.constants(self.space, self.times[i], self.times[i + 1])
            if constants is not None and len(self) * sum(tensor.nbytes for tensor in constants) > _CACHE_BYTES:
                return constants
            self._constants[i] = constants
        return self._constants[i]

    def _tensor(self, t: float) -> Tensor:
        return torch.tensor([t], dtype=torch.float64, device=self.device)


def make_plan(
    sampler: Sampler,
    process: Process,
    steps: int,
    device: torch.device,
    *,
    start: float | None = None,
    space: WhitenedSpace | None = None,
    final: str = "noisy",
) -> Plan:
    """The plan of a run of `steps` steps.

    Args:
        sampler: the method with its options.
        process: the process.
        steps: at least 1.
        device: device of the images.
        start: the time, in [1e-6, 1], of a state to start from; None to start from noise.
        space: for whitened methods, the whitened space of the data, see `whitened_space`.
        final: one of `FINALS`; the last step is extended to the end.

    Raises:
        ValueError: `steps` or `start` out of its range, or an unknown `final`.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if start is not None and not _EARLIEST_START <= start <= 1:
        raise ValueError(f"start must be in [{_EARLIEST_START:g}, 1], not {start}")
    if final not in FINALS:
        raise ValueError(f"unknown final {final!r}: choose one of {', '.join(FINALS)}")
    times = sampler.times(space, steps, 1.0 if start is None else start)
    if final == "denoised":
        times[-1] = process.clean_time
    return Plan(sampler, process, space, times, start is None, device)


def integrate(
    plan: Plan, value: Tensor, estimate: Callable[[Step, Tensor, float], Tensor], noise: Callable[[], Tensor]
) -> Tensor:
    """The state at the end of a plan.

    Args:
        plan: times, coefficients and method.
        value: the state at its start, see `State.value`.
        estimate: `estimate(step, value, t)`: one call of the network, see `samplers.base.Estimate`.
        noise: `noise()` draws standard normal noise in the space of `value`.
    """
    state = State(value)
    for step in plan:
        state = plan.sampler.step(plan.geometry, step, state, partial(estimate, step), noise)
    return state.value


def whitened_space(
    process: Process,
    spectrum: Tensor | None,
    mean: Tensor | None,
    device: torch.device,
    falling: bool = True,
) -> WhitenedSpace:
    """The whitened space of data with the given moments.

    Any positive spectrum gives a correct sampler in the limit of many steps; the data's own is the most accurate.

    Args:
        process: the diffusion process.
        spectrum: P, (H, W) or (C, H, W); None for a generic one.
        mean: M, like `spectrum`; None for 0.
        device: where it is used.
        falling: whether the generic spectrum is the power law of natural images; else it is flat.

    Raises:
        ValueError: a mean without a spectrum, or moments that `reference_gaussian` refuses.
    """
    if spectrum is None:
        if mean is not None:
            raise ValueError("a mean needs the spectrum that it belongs to")
        spectrum = torch.full(process.shape, PIXEL_VARIANCE, dtype=torch.float64, device="cpu")
        if falling:
            lowest = (torch.pi / max(process.shape)) ** 2
            power_law = 1 / (laplacian(*process.shape, torch.device("cpu")) + lowest)
            spectrum *= power_law / power_law.mean()
    center, variance = reference_gaussian(process, spectrum, mean)
    return WhitenedSpace(process, center.to(device), variance.to(device))
