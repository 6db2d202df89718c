"""Denoisers: from a network to `x_hat = denoiser(z, t)`, the expected clean image, and the loss that trains it.

Everything above the objective (samplers, scores, animations) uses this interface and does not depend on networks. Conditions,
such as class labels, are keyword arguments that pass through the denoiser to the network.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from blurcli.core.dct import dct2, idct2
from blurcli.core.process import Process


class Network(Protocol):
    """An image-to-image network."""

    def __call__(self, x: Tensor, t: Tensor, /, **conditions: Any) -> Tensor:
        """(B, C, H, W) and times (B,) in [0, 1] to (B, C, H, W); conditions as `UNet.forward` takes them."""
        ...


class Trainable(Protocol):
    """A parametrization of the network that has a loss."""

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None, **conditions: Any) -> Tensor:
        """The loss per image, (B,).

        Args:
            x: clean images (B, C, H, W) in [-1, 1].
            t: times (B,) in [0, 1].
            eps: standard normal noise, like `x`.
            weight: weight per DCT frequency, broadcastable to `x`; None for 1.
            conditions: keyword arguments of the network, each tensor (B, ...).
        """
        ...


class Denoiser(Protocol):
    """An estimator of the clean image."""

    def __call__(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """The estimate x_hat of the clean image, (B, C, H, W).

        Args:
            z: diffused images (B, C, H, W).
            t: times (B,) in [0, 1].
            conditions: keyword arguments of the network.
        """
        ...


class EpsDenoiser:
    """A network that predicts the noise, as in the paper: `X = (u - sigma DCT(eps_hat)) / alpha`.

    Under blur alpha falls to about 1e-5 at high frequencies, so that small errors of the network become large errors of
    x_hat there; `SpectralDenoiser` has no such division.

    Args:
        net: predicts eps from (z, t).
        process: the diffusion process.
    """

    def __init__(self, net: Network, process: Process) -> None:
        self.net = net
        self.process = process

    def __call__(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """The estimate x_hat of the clean image, (B, C, H, W); see `Denoiser`."""
        alpha, sigma = self.process.alpha(t).to(z), self.process.sigma(t).to(z)
        return idct2(dct2(z - sigma * self.net(z, t, **conditions)) / alpha)

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None, **conditions: Any) -> Tensor:
        """Mean squared error of the predicted noise per image, (B,): the paper's loss (section 3); see `Trainable`."""
        error = self.net(self.process.diffuse(x, t, eps), t, **conditions) - eps
        return error.square().mean((1, 2, 3)) if weight is None else weighted_mean(dct2(error), weight)


def weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of squared errors (B, C, H, W) per image, (B,), multiplied by `weight` (broadcastable) if given."""
    squares = error.square()
    return (squares if weight is None else weight.to(error) * squares).mean((1, 2, 3))
