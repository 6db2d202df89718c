"""Consistency models of blurring diffusion: the network maps any state to the endpoint of its ODE in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blurcli.core.dct import dct2
from blurcli.core.denoiser import weighted_mean
from blurcli.core.preconditioning import SpectralDenoiser


class ConsistencyModel(SpectralDenoiser):
    """A consistency model (Song et al. 2023, arXiv 2303.01469) in the whitened space, with a clock per DCT frequency.

    The probability-flow ODE is `dw/dphi = F` (`core.whitened`). `SpectralDenoiser` estimates F, and thus the posterior mean E[x
    given z_t]. This network estimates the slope of the chord from the state to the ODE endpoint instead:

        x' = sin(phi) w + cos(phi) F        the whitened endpoint: one image, not a mean

    This is the parametrization of TrigFlow (Lu and Song 2024, arXiv 2410.11081) with an angle per frequency. At phi = pi / 2
    the endpoint is the state itself for any output of the network, which is the boundary condition of consistency models.
    Tuning starts from a trained `SpectralDenoiser`, with the same network and parameters.
    """

    def distillation_loss(
        self,
        teacher: SpectralDenoiser,
        x: Tensor,
        times: tuple[Tensor, Tensor],
        eps: Tensor,
        weight: Tensor | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Squared difference of the endpoints predicted from two states of one path, (B,), weighted as in
        `SpectralDenoiser.loss`.

        Args:
            teacher: a denoiser of the same process and moments.
            x: clean images (B, C, H, W) in [-1, 1].
            times: the times t and s, each (B,) in [0, 1], with s < t, or s = t = 0.
            eps: standard normal noise, like `x`.
            weight: as in `SpectralDenoiser.loss`.
            conditions: keyword arguments of both networks, each tensor (B, ...).
        """
        return weighted_mean(self.distillation_error(teacher, x, times, eps, **conditions), weight)

    def distillation_error(
        self, teacher: SpectralDenoiser, x: Tensor, times: tuple[Tensor, Tensor], eps: Tensor, **conditions: Any
    ) -> Tensor:
        """Difference of `sin(phi) F` at time t from its target per DCT frequency, (B, C, H, W); see `distillation_loss`.

        The second state follows from the first by one step of Heun's method with the teacher, in the clocks of all frequencies.
        The endpoint predicted from it, without a gradient, is the target; at time 0 the target is the teacher's estimate.
        """
        t, s = times
        mean, root_v, signal, sigma = self._scales(t, x)
        root_s = torch.hypot(signal, sigma)
        sin, cos = signal / root_s, sigma / root_s
        w = sin * (dct2(x) - mean) / root_v + cos * dct2(eps)
        with torch.no_grad():
            _, _, later_signal, later_sigma = self._scales(s, x)
            turned = torch.atan2(later_signal, later_sigma) - torch.atan2(signal, sigma)
            slope = teacher._correction(w, t, conditions)
            predicted = teacher._correction(w + turned * slope, s, conditions)
            later = w + turned / 2 * (slope + predicted)
            chord = torch.where((s > 0).to(w.device)[:, None, None, None], self._correction(later, s, conditions), predicted)
            end = (later_signal * later + later_sigma * chord) / torch.hypot(later_signal, later_sigma)
            target = (end - sin * w) / cos
        return sin * (self._correction(w, t, conditions) - target)
