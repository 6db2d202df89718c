"""The optimizers of a training, and their saved state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from blurcli.config import OptimConfig
from blurcli.training.adam import Adam
from blurcli.training.muon import Muon


class Optimizer(Protocol):
    """Updates parameters with their gradients."""

    def step(self, lr: float, skip: Tensor) -> None:
        """One update.

        Args:
            lr: learning rate.
            skip: a boolean scalar on the device: whether to change nothing, decided without waiting for the device.
        """
        ...

    def named_tensors(self) -> dict[str, Tensor]:
        """The state by `METHOD.KIND.PARAMETER`, such as `adam.exp_avg.first.bias`."""
        ...


_OPTIMIZERS: dict[str, type[Adam | Muon]] = {"adam": Adam, "muon": Muon}
_BETA1 = 0.9


def make_optimizer(parameters: Mapping[str, Tensor], optim: OptimConfig) -> Optimizer:
    """The optimizer of a preset, for parameters by name; all must have a gradient after a backward pass."""
    return _OPTIMIZERS[optim.optimizer](parameters, _BETA1, optim.beta2)


def check_state(optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Check the names and shapes of a saved state.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another shape.
    """
    for name, own in optimizer.named_tensors().items():
        if saved[name].shape != own.shape:
            raise ValueError(f"{name} has shape {tuple(saved[name].shape)}, not {tuple(own.shape)}")


def load_state(optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Continue from a saved state, as `named_tensors` returned it."""
    for name, own in optimizer.named_tensors().items():
        # Copied, because Adam's fused kernel needs moments with the memory layout of their parameter.
        own.copy_(saved[name])
