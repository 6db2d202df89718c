"""The Adam optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980), with PyTorch's fused kernel.

    `torch.optim.Adam` calls the same kernel, but imports the compiler when it is constructed, which takes seconds per command.

    Args:
        parameters: by name; all must have a gradient after a backward pass.
        beta1: decay of the average of the gradients.
        beta2: decay of the average of their squares.

    Attributes:
        state: by name of the parameter: `exp_avg` and `exp_avg_sq`, like the parameter, and `step`, a scalar on its device.
    """

    def __init__(self, parameters: Mapping[str, Tensor], beta1: float, beta2: float) -> None:
        self.beta1, self.beta2 = beta1, beta2
        self._parameters = dict(parameters)
        self.state: dict[str, dict[str, Tensor]] = {
            name: {
                **{key: torch.zeros_like(parameter, requires_grad=False) for key in _MOMENTS},
                "step": torch.zeros((), device=parameter.device),
            }
            for name, parameter in parameters.items()
        }

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor) -> None:
        """See `Optimizer.step`."""
        states = self.state.values()
        adam(
            list(self._parameters.values()),
            [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            found_inf=skip.float(),
            amsgrad=False,
            beta1=self.beta1,
            beta2=self.beta2,
            lr=lr,
            weight_decay=0,
            eps=1e-8,
            maximize=False,
        )

    def named_tensors(self) -> dict[str, Tensor]:
        """The state by `adam.exp_avg.NAME`, `adam.exp_avg_sq.NAME` and `adam.step.NAME`."""
        return {f"adam.{key}.{name}": tensor for name, state in self.state.items() for key, tensor in state.items()}
