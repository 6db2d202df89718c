"""Moments of the data per DCT frequency, for preconditioning, whitened samplers and calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blurcli.core.colors import ModelSpace
from blurcli.core.process import Process

PIXEL_VARIANCE = 0.25
"""Of pixels in [-1, 1] that are neither flat nor extreme."""


@dataclass(frozen=True)
class DataMoments:
    """First and second moments of the orthonormal DCT coefficients of images in [-1, 1].

    Attributes:
        second_moment: P, the mean squared coefficient, (C, H, W) float64.
        mean: M, the mean coefficient, like `second_moment`.
        opponent_spectrum: P in opponent colors (`core.colors`), for a network in opponent colors; None for one in red, green
            and blue.
        centered: whether the network works on images in [-1, 1]; else in [0, 1].
        measured: whether they are measured on the training data; False for placeholders, see `unknown`.
    """

    second_moment: Tensor
    mean: Tensor
    opponent_spectrum: Tensor | None = None
    centered: bool = True
    measured: bool = True

    @classmethod
    def unknown(cls, shape: Sequence[int], centered: bool) -> DataMoments:
        """Placeholder moments for images (C, H, W) that are not available: independent pixels of variance 0.25."""
        mean = torch.zeros(*shape, dtype=torch.float64)
        return cls(torch.full_like(mean, PIXEL_VARIANCE), mean, centered=centered, measured=False)

    @property
    def space(self) -> ModelSpace:
        """The space in which the network works."""
        return ModelSpace(self.opponent_spectrum is not None, self.centered)

    def in_model_space(self) -> tuple[Tensor, Tensor]:
        """P and M of the images in model space.

        Raises:
            ValueError: the mean does not fit the spectrum in opponent colors.
        """
        spectrum = self.second_moment if self.opponent_spectrum is None else self.opponent_spectrum
        if spectrum.shape != self.mean.shape:
            shape = tuple(spectrum.shape)
            raise ValueError(f"mean of shape {tuple(self.mean.shape)} does not fit an opponent spectrum of {shape}")
        mean = self.space.dct_from_rgb(self.mean)
        if self.centered:
            return spectrum, mean
        variance = spectrum - self.space.colors(self.mean) ** 2
        return mean**2 + self.space.scale**2 * variance, mean

    def to_model_space(self, x: Tensor) -> Tensor:
        """Images (..., C, H, W) in [-1, 1] to model space."""
        return self.space.from_rgb(x)

    def to_rgb(self, x: Tensor) -> Tensor:
        """The inverse of `to_model_space`."""
        return self.space.to_rgb(x)

    def map(self, function: Callable[[Tensor], Tensor]) -> DataMoments:
        """The moments with `function` applied to every tensor, such as a transfer to a device."""
        opponent = None if self.opponent_spectrum is None else function(self.opponent_spectrum)
        return replace(self, second_moment=function(self.second_moment), mean=function(self.mean), opponent_spectrum=opponent)


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
