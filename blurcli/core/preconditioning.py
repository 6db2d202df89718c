"""Spectral preconditioning: the network's input and target have unit variance at every time and DCT frequency."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blurcli.core.dct import dct2, idct2
from blurcli.core.denoiser import Network, weighted_mean
from blurcli.core.moments import reference_gaussian
from blurcli.core.process import Process


class SpectralDenoiser:
    """A network preconditioned per DCT frequency with the mean M and power spectrum P of the data.

    With the variance `V = P - M^2` of the data, signal and state are whitened and every frequency has an angle phi:

        x' = (DCT(x) - M) / sqrt(V)     phi = atan2(alpha sqrt(V), sigma)     S = alpha^2 V + sigma^2
        w  = (u - alpha M) / sqrt(S) = sin(phi) x' + cos(phi) eps       input of the network (as an image), unit variance
        F  = dw/dphi                 = cos(phi) x' - sin(phi) eps       its target, unit variance
        X  = M + sqrt(V) (sin(phi) w + cos(phi) F)                      the Wiener filter of u, plus the network's correction

    This is the v-prediction of Salimans and Ho (2022, arXiv 2202.00512) per frequency, in the space where the data are white,
    and the preconditioning of Karras et al. (2022, arXiv 2206.00364) with a data variance per frequency.

    Args:
        net: predicts F, as an image, from (IDCT(w), t).
        process: the diffusion process.
        spectrum: P, the mean squared orthonormal DCT coefficient of the data in [-1, 1]; (C, H, W) or (H, W), positive.
        mean: M, the mean coefficient, with `mean^2 < spectrum`, like `spectrum`; None for 0. Without it the network must learn
            what all images have in common, such as a dark background, at the few frequencies that hold it.

    Raises:
        ValueError: a shape that does not fit the images, or a variance that is not positive and finite.
    """

    def __init__(self, net: Network, process: Process, spectrum: Tensor, mean: Tensor | None = None) -> None:
        self.net = net
        self.process = process
        self.spectrum = spectrum
        self.mean = mean
        self._mean, self._variance = reference_gaussian(process, spectrum, mean)

    def __call__(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """The estimate x_hat of the clean image, (B, C, H, W); see `Denoiser`."""
        mean, root_v, signal, sigma = self._scales(t, z)
        root_s = torch.hypot(signal, sigma)
        w = (dct2(z) - signal / root_v * mean) / root_s
        correction = dct2(self.net(idct2(w), t, **conditions))
        return idct2(mean + root_v / root_s * (signal * w + sigma * correction))

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None, **conditions: Any) -> Tensor:
        """Squared error of F weighted by sin(phi)^2, (B,): exactly the loss of `EpsDenoiser`, better conditioned.

        They are equal because the implied noise is `(u - alpha X) / sigma`, and its error is `sin(phi)` times the error of F.
        """
        mean, root_v, signal, sigma = self._scales(t, x)
        root_s = torch.hypot(signal, sigma)
        sin, cos = signal / root_s, sigma / root_s
        white, noise = (dct2(x) - mean) / root_v, dct2(eps)
        error = self._correction(sin * white + cos * noise, t, conditions) - (cos * white - sin * noise)
        return weighted_mean(sin * error, weight)

    def _correction(self, w: Tensor, t: Tensor, conditions: dict[str, Any]) -> Tensor:
        return dct2(self.net(idct2(w), t, **conditions))

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """M, sqrt(V), alpha sqrt(V) and sigma, broadcastable to (B, C, H, W), in the dtype and on the device of `like`."""
        mean, root_v = self._mean.to(like), self._variance.sqrt().to(like)
        return mean, root_v, self.process.alpha(t).to(like) * root_v, self.process.sigma(t).to(like)
