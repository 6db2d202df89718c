"""Errors of a denoiser per frequency band and time, and a calibration that corrects for them.

Errors are measured on F (see `SpectralDenoiser`); `F = 0` is the Wiener filter. A relative error of 1 is no better than the
best linear filter for data with this mean and spectrum; above 1 the denoiser is worse than that filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blurcli.core.bands import band_means, frequency_bands
from blurcli.core.dct import dct2, idct2
from blurcli.core.moments import reference_gaussian
from blurcli.core.process import Process
from blurcli.core.whitened import WhitenedSpace

CALIBRATION_TIMES = 17
CALIBRATION_BANDS_PER_OCTAVE = 2


@dataclass(frozen=True)
class DenoiserErrors:
    """Second moments of the true F and the denoiser's F_hat per time and frequency band, each (T, bands).

    Attributes:
        times: (T,) in [0, 1].
        true_power: mean of F^2.
        power: mean of F_hat^2.
        product: mean of F F_hat.
        noise_loss: mean squared error of the noise that F_hat implies, `(sin(phi) (F_hat - F))^2`: the paper's loss.
    """

    times: Tensor
    true_power: Tensor
    power: Tensor
    product: Tensor
    noise_loss: Tensor

    @classmethod
    def mean(cls, parts: Sequence[DenoiserErrors], counts: Sequence[int]) -> DenoiserErrors:
        """The mean of several measurements, on `counts` images each, at the same times and bands."""
        weights = torch.tensor(counts, dtype=torch.float64, device=parts[0].times.device) / sum(counts)
        products = ("true_power", "power", "product", "noise_loss")
        means = (torch.tensordot(weights, torch.stack([getattr(part, name) for part in parts]), 1) for name in products)
        return cls(parts[0].times, *means)

    @property
    def relative(self) -> Tensor:
        """Mean squared error of F_hat over the mean squared error of the Wiener filter, (T, bands)."""
        return (self.power - 2 * self.product + self.true_power) / self.true_power

    @property
    def gain(self) -> Tensor:
        """The factor in [0, 1] on F_hat that minimizes its error, (T, bands): the regression of F on F_hat."""
        return (self.product / self.power.clamp(min=torch.finfo(self.power.dtype).tiny)).clamp(0, 1)


def measure_errors(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    space: WhitenedSpace,
    x: Tensor,
    noise: Callable[[Tensor], Tensor],
    times: int = CALIBRATION_TIMES,
    per_octave: int = CALIBRATION_BANDS_PER_OCTAVE,
) -> DenoiserErrors:
    """Measure the errors of a denoiser on known images.

    Args:
        denoiser: `x_hat = denoiser(z, t)`; called once per time.
        space: process and moments of the data.
        x: clean images (B, C, H, W) in [-1, 1].
        noise: `noise(x)` gives standard normal noise like x; called once per time.
        times: number of times, uniform in [0, 1].
        per_octave: bands per octave.
    """
    process = space.process
    band = frequency_bands(*process.shape, per_octave)[0].to(x.device)
    x_dct = dct2(x.double())
    rows = []
    grid = torch.linspace(0, 1, times, dtype=torch.float64, device=x.device)
    for t in torch.chunk(grid, times):
        z = process.diffuse(x, t.to(x.dtype).expand(len(x)), noise(x))
        w = space.whiten(dct2(z.double()), t)
        estimate = dct2(denoiser(z, t.to(x.dtype).expand(len(x))).double())
        true, guessed = space.slope(w, x_dct, t), space.slope(w, estimate, t)
        noise_error = space.angle(t).sin() * (guessed - true)
        rows.append([band_means(p.mean(0), band) for p in (true**2, guessed**2, true * guessed, noise_error**2)])
    return DenoiserErrors(grid, *(torch.stack(column) for column in zip(*rows, strict=True)))


class CalibratedDenoiser:
    """A denoiser with its deviation from the Wiener filter scaled by a measured gain per frequency band and time.

    `X = X_wiener + g (X_hat - X_wiener)`, with the gain g of `DenoiserErrors`, which minimizes the squared error. Under blur,
    the X_hat of a network that predicts eps is wrong by orders of magnitude wherever alpha is small, and its samples are noise;
    with calibration they are images.

    Args:
        denoiser: any denoiser.
        process: the diffusion process.
        gain: (T, bands) in [0, 1], at T uniform times in [0, 1], for the bands of `frequency_bands` at
            `CALIBRATION_BANDS_PER_OCTAVE`; on the device of the images, like the moments.
        spectrum: P of the data, (H, W) or (C, H, W).
        mean: M of the data, like `spectrum`; None for 0.

    Raises:
        ValueError: a gain of the wrong shape or not in [0, 1], or moments that `reference_gaussian` refuses.
    """

    def __init__(
        self,
        denoiser: Callable[..., Tensor],
        process: Process,
        gain: Tensor,
        spectrum: Tensor,
        mean: Tensor | None = None,
    ) -> None:
        band, bands = frequency_bands(*process.shape, CALIBRATION_BANDS_PER_OCTAVE)
        if gain.ndim != 2 or len(gain) < 2 or gain.shape[1] != len(bands) or not bool(((gain >= 0) & (gain <= 1)).all()):
            raise ValueError(f"gain of shape {tuple(gain.shape)} must be (times, {len(bands)}), in [0, 1]")
        self.spectrum, self.mean = spectrum, mean
        self._denoiser = denoiser
        self._band = band.to(gain.device)
        self._gain = gain.double()
        self._space = WhitenedSpace(process, *reference_gaussian(process, spectrum, mean))

    def __call__(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """The estimate x_hat of the clean image, (B, C, H, W); see `Denoiser`."""
        precise = t.double()
        w = self._space.whiten(dct2(z.double()), precise)
        wiener = self._space.estimate(w, 0.0, precise)
        place = precise * (len(self._gain) - 1)
        below = place.floor().clamp(0, len(self._gain) - 2).long()
        gain = torch.lerp(self._gain[below], self._gain[below + 1], (place - below)[:, None])[:, self._band]
        x_hat = wiener + gain[:, None] * (dct2(self._denoiser(z, t, **conditions).double()) - wiener)
        return idct2(x_hat).to(z.dtype)
