"""Moments of the data per DCT frequency: what preconditioning, whitened samplers and calibration know of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blurcli.core.colors import from_opponent, to_opponent
from blurcli.core.process import Process


@dataclass(frozen=True)
class DataMoments:
    """First and second moments of the orthonormal DCT coefficients of images in [-1, 1].

    Attributes:
        second_moment: P, the mean squared coefficient, (C, H, W) float64.
        mean: M, the mean coefficient, like `second_moment`.
        opponent_spectrum: P in opponent colors (`core.colors`), for a network that works in them; None for one that works in
            red, green and blue.
    """

    second_moment: Tensor
    mean: Tensor
    opponent_spectrum: Tensor | None = None

    def in_model_space(self) -> tuple[Tensor, Tensor]:
        """P and M in the colors in which the network works.

        Raises:
            ValueError: the mean does not fit the spectrum in opponent colors.
        """
        if self.opponent_spectrum is None:
            return self.second_moment, self.mean
        if self.opponent_spectrum.shape != self.mean.shape:
            shape = tuple(self.opponent_spectrum.shape)
            raise ValueError(f"mean of shape {tuple(self.mean.shape)} does not fit an opponent spectrum of {shape}")
        return self.opponent_spectrum, to_opponent(self.mean)

    def to_model_space(self, x: Tensor) -> Tensor:
        """Images (..., C, H, W) in the colors in which the network works."""
        return x if self.opponent_spectrum is None else to_opponent(x)

    def to_rgb(self, x: Tensor) -> Tensor:
        """The inverse of `to_model_space`."""
        return x if self.opponent_spectrum is None else from_opponent(x)

    def map(self, function: Callable[[Tensor], Tensor]) -> DataMoments:
        """The moments with `function` applied to every tensor, such as a transfer to a device."""
        opponent = None if self.opponent_spectrum is None else function(self.opponent_spectrum)
        return DataMoments(function(self.second_moment), function(self.mean), opponent)


def reference_gaussian(process: Process, spectrum: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean M and variance `V = P - M^2` per DCT frequency of the Gaussian with the data's moments, float64, like `spectrum`.

    Args:
        process: the diffusion process, for the image size.
        spectrum: P, (C, H, W) or (H, W).
        mean: M, like `spectrum`; None for 0.

    Raises:
        ValueError: a shape that does not fit the process, or a variance that is not positive and finite.
    """
    for name, tensor in (("spectrum", spectrum), ("mean", mean)):
        if tensor is not None and (tensor.ndim not in (2, 3) or tuple(tensor.shape[-2:]) != process.shape):
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not fit images of {process.shape}")
    center = torch.zeros_like(spectrum, dtype=torch.float64) if mean is None else mean.to(spectrum.device, torch.float64)
    variance = spectrum.double() - center**2
    if not bool(torch.all(torch.isfinite(variance) & (variance > 0))):
        raise ValueError("the spectrum must be finite, positive, and above the squared mean at every frequency")
    return center, variance
