"""Denoisers: from a network to `x_hat = denoiser(z, t)`, the expected clean image, and the loss that trains it.

Everything below the objective (samplers, scores, animations) speaks this one language and knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from blurcli.core.dct import dct2, idct2
from blurcli.core.process import Process

Network = Callable[[Tensor, Tensor], Tensor]
"""An image-to-image network: (B, C, H, W) and times (B,) in [0, 1] to (B, C, H, W)."""


class Denoiser(Protocol):
    """A denoiser that can be trained."""

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """The estimate x_hat, (B, C, H, W), of the clean image, given the state `z` (B, C, H, W) at times `t` (B,)."""
        ...

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None) -> Tensor:
        """The noise loss of every image, (B,): the mean squared error of the noise, per DCT frequency weighted.

        Args:
            x: clean images (B, C, H, W) in [-1, 1].
            t: times (B,).
            eps: standard normal, like `x`.
            weight: of every frequency, broadcastable to `x`; None for 1.
        """
        ...


class EpsDenoiser:
    """A network that predicts the noise, as in the paper: `X = (u - sigma DCT(eps_hat)) / alpha`.

    alpha falls to about 1e-5 at high frequencies under blur, so that small errors of the network become large ones of
    x_hat there; `SpectralDenoiser` has no such division.

    Args:
        net: predicts eps from (z, t).
        process: the diffusion process.
    """

    def __init__(self, net: Network, process: Process) -> None:
        self.net = net
        self.process = process

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """The estimate x_hat, (B, C, H, W), of the clean image, given the state `z` (B, C, H, W) at times `t` (B,)."""
        alpha, sigma = self.process.alpha(t).to(z.dtype), self.process.sigma(t).to(z.dtype)
        return idct2(dct2(z - sigma * self.net(z, t)) / alpha)

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean squared error of the predicted noise of every image, (B,): the paper's loss (section 3); see `Denoiser`."""
        error = self.net(self.process.diffuse(x, t, eps), t) - eps
        return error.square().mean((1, 2, 3)) if weight is None else weighted_mean(dct2(error), weight)


class SpectralDenoiser:
    """A network preconditioned per DCT frequency with the data's own mean M and power spectrum P.

    With the variance `V = P - M^2` of the data, signal and state are whitened and every frequency gets an angle:

        x' = (DCT(x) - M) / sqrt(V)     phi = atan2(alpha sqrt(V), sigma)     S = alpha^2 V + sigma^2
        w  = (u - alpha M) / sqrt(S) = sin(phi) x' + cos(phi) eps       input of the network (as an image), unit variance
        F  = dw/dphi                 = cos(phi) x' - sin(phi) eps       its target, unit variance
        X  = M + sqrt(V) (sin(phi) w + cos(phi) F)                      the Wiener filter of u, plus the network's correction

    which is the v-prediction of Salimans and Ho (2022, arXiv 2202.00512) per frequency, where the data are white, and
    the preconditioning of Karras et al. (2022, arXiv 2206.00364) with a data variance per frequency.

    Args:
        net: predicts F, as an image, from (IDCT(w), t).
        process: the diffusion process.
        spectrum: P, the mean squared orthonormal DCT coefficient of the data in [-1, 1]; (C, H, W) or (H, W), positive.
        mean: M, the mean coefficient, with `mean^2 < spectrum`, like `spectrum`; None for 0. Without it, what all images
            have in common (a dark background, say) would have to be learned, at the few frequencies that hold it.

    Raises:
        ValueError: a shape that does not fit the images, or a variance that is not positive and finite.
    """

    def __init__(self, net: Network, process: Process, spectrum: Tensor, mean: Tensor | None = None) -> None:
        self.net = net
        self.process = process
        self.spectrum = spectrum
        self.mean = mean
        self._mean, self._variance = reference_gaussian(process, spectrum, mean)

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """The estimate x_hat, (B, C, H, W), of the clean image, given the state `z` (B, C, H, W) at times `t` (B,)."""
        mean, root_v, signal, sigma = self._scales(t, z)
        root_s = torch.hypot(signal, sigma)
        w = (dct2(z) - signal / root_v * mean) / root_s
        return idct2(mean + root_v / root_s * (signal * w + sigma * self._correction(w, t)))

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None) -> Tensor:
        """Squared error of F weighted by sin(phi)^2, (B,): exactly the noise loss of `EpsDenoiser`, better conditioned.

        Equal because the implied noise is `(u - alpha X) / sigma`, so that its error is `sin(phi)` times that of F.
        """
        mean, root_v, signal, sigma = self._scales(t, x)
        root_s = torch.hypot(signal, sigma)
        sin, cos = signal / root_s, sigma / root_s
        white, noise = (dct2(x) - mean) / root_v, dct2(eps)
        error = self._correction(sin * white + cos * noise, t) - (cos * white - sin * noise)
        return weighted_mean(sin * error, weight)

    def _correction(self, w: Tensor, t: Tensor) -> Tensor:
        return dct2(self.net(idct2(w), t))

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """M, sqrt(V), alpha sqrt(V) and sigma, broadcastable to (B, C, H, W), in the dtype and place of `like`."""
        mean, root_v = self._mean.to(like), self._variance.sqrt().to(like)
        return mean, root_v, self.process.alpha(t).to(like.dtype) * root_v, self.process.sigma(t).to(like.dtype)


def weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of squared errors (B, C, H, W) of every image, (B,), weighted where there is a weight."""
    squares = error.square()
    return (squares if weight is None else weight.to(error.dtype) * squares).mean((1, 2, 3))


def reference_gaussian(process: Process, spectrum: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance `P - M^2` per DCT frequency of the Gaussian with the data's moments, float64, like `spectrum`.

    Raises:
        ValueError: a shape that does not fit the process, or a variance that is not positive and finite.
    """
    for name, tensor in (("spectrum", spectrum), ("mean", mean)):
        if tensor is not None and (tensor.ndim not in (2, 3) or tuple(tensor.shape[-2:]) != process.shape):
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not fit images of {process.shape}")
    centre = torch.zeros_like(spectrum, dtype=torch.float64) if mean is None else mean.to(spectrum.device, torch.float64)
    variance = spectrum.double() - centre**2
    if not bool(torch.all(torch.isfinite(variance) & (variance > 0))):
        raise ValueError("the spectrum must be finite, positive, and above the squared mean at every frequency")
    return centre, variance
