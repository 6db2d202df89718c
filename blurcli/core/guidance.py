"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) as a wrapper of the network inside a denoiser."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blurcli.core.denoiser import Network


class GuidedNetwork:
    """A network whose output moves from the unconditional prediction towards, or beyond, the conditional one.

    `unconditional + guidance (conditional - unconditional)`: guidance 1 is the conditional model. x_hat is an affine function
    of the output at a given state and time, so guiding the output guides x_hat; unlike a difference of two x_hat it loses no
    precision where an objective divides by a small alpha.

    Args:
        net: takes `labels`, int64 (B,), or None for no class.
    """

    def __init__(self, net: Network) -> None:
        self._net = net

    def __call__(
        self, x: Tensor, t: Tensor, /, labels: Tensor | None = None, guidance: float = 1.0, **conditions: Any
    ) -> Tensor:
        """The output for images (B, C, H, W) at times (B,); two calls of the network per image where guidance is not 1."""
        if labels is None:
            return self._net(x, t, **conditions)
        conditional = self._net(x, t, labels=labels, **conditions)
        if guidance == 1:
            return conditional
        unconditional = self._net(x, t, **conditions)
        return unconditional + guidance * (conditional - unconditional)
