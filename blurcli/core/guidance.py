"""Guidance, by the class or by a weaker version of the model, as a wrapper of the network inside a denoiser."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blurcli.core.denoiser import Network


class GuidedNetwork:
    """A network with output `worse + guidance (own - worse)`: it moves away from a worse prediction; 1 is its own output.

    Without a guide the worse prediction is its own without a class: classifier-free guidance (Ho and Salimans 2022, arXiv
    2207.12598). With a guide it is the guide's for the same class: autoguidance (Karras et al. 2024, arXiv 2406.02507).

    x_hat is an affine function of the output at a given state and time, so guiding the output guides x_hat. Unlike a difference
    of two x_hat, it loses no precision where an objective divides by a small alpha.

    Args:
        net: takes `labels`, int64 (B,), or None for no class.
        guide: a weaker network of the same objective, process and data; None for classifier-free guidance.
    """

    def __init__(self, net: Network, guide: Network | None = None) -> None:
        self._net = net
        self._guide = guide

    def __call__(
        self, x: Tensor, t: Tensor, /, labels: Tensor | None = None, guidance: float = 1.0, **conditions: Any
    ) -> Tensor:
        """The output for images (B, C, H, W) at times (B,); two calls of networks per image where guidance is not 1."""
        classes = {} if labels is None else {"labels": labels}
        own = self._net(x, t, **classes, **conditions)
        if guidance == 1 or (self._guide is None and labels is None):
            return own
        worse = self._net(x, t, **conditions) if self._guide is None else self._guide(x, t, **classes, **conditions)
        return worse + guidance * (own - worse)
