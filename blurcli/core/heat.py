"""Inverse heat dissipation (Rissanen, Heinonen and Solin 2023, arXiv 2206.13397): generation by deblurring.

| code | paper | meaning |
|---|---|---|
| `levels` | K | blur levels, log-spaced in pixels; level k is the time t = k / K, level 0 the image |
| `alpha` | F(t_k) in the DCT basis | `exp(-lambda tau_k)`, the factor of every frequency under the heat equation |
| `noise` | sigma | standard deviation of the noise added to every blurred image in training |
| `delta` | delta | standard deviation of the noise that each step of the sampler adds |

The paper's images are in [0, 1]; here they are in [-1, 1], so its 0.01 and 0.0125 are 0.02 and 0.025.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from blurcli.core.dct import dct2, idct2
from blurcli.core.denoiser import Denoiser, Network, weighted_mean
from blurcli.core.plans import Plan, integrate
from blurcli.core.process import Process
from blurcli.core.samplers import Step
from blurcli.core.schedules import dissipation


@dataclass(frozen=True)
class HeatDissipation(Process):
    """Blur by the heat equation, with a little noise of constant strength.

    Args:
        image_size: side of the square images, or (height, width), in pixels.
        blur_sigma_max: standard deviation of the blur at level K, in pixels.
        levels: K.
        blur_sigma_min: standard deviation at level 1, in pixels; from level 0 to level 1 it grows linearly.
        noise: standard deviation of the noise, for images in [-1, 1].

    Raises:
        ValueError: an argument is out of its range.
    """

    image_size: int | tuple[int, int]
    blur_sigma_max: float = 24.0
    levels: int = 200
    blur_sigma_min: float = 0.5
    noise: float = 0.02

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"image_size must be positive, not {self.image_size}")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")
        if not 0 < self.blur_sigma_min < self.blur_sigma_max:
            raise ValueError(f"blur_sigma_min ({self.blur_sigma_min}) must be above 0 and below blur_sigma_max")
        if not self.noise > 0:
            raise ValueError(f"noise must be above 0, not {self.noise}")

    @property
    def title(self) -> str:
        return f"heat dissipation, up to {self.blur_sigma_max:g} px"

    def blur_sigma(self, t: Tensor) -> Tensor:
        level = t * self.levels
        octaves = math.log(self.blur_sigma_max / self.blur_sigma_min) * (level - 1) / (self.levels - 1)
        return torch.where(level < 1, level * self.blur_sigma_min, self.blur_sigma_min * torch.exp(octaves))

    def alpha(self, t: Tensor) -> Tensor:
        """The factor of every DCT frequency, `exp(-lambda tau)`: (B,) in [0, 1] -> (B, 1, H, W), in the dtype of `t`."""
        return dissipation(self.blur_sigma(self._times(t)), *self.shape).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        """The noise, the same at all times: (B,) -> (B, 1, 1, 1), in the dtype of `t`."""
        return torch.full_like(t, self.noise)[:, None, None, None]

    def logsnr(self, t: Tensor) -> Tensor:
        """log (1 / noise)^2, the same at all times `t`, of any shape (float64)."""
        return torch.full_like(t, -2 * math.log(self.noise))

    def level_above(self, t: Tensor) -> Tensor:
        """The time of the next level at or above times `t`, at least of level 1."""
        return (t * self.levels).ceil().clamp(min=1) / self.levels


class Predictor(Protocol):
    """An estimator of the image at an earlier time, for the sampler and the likelihood bound.

    Attributes:
        process: the heat dissipation.
    """

    process: HeatDissipation

    def __call__(self, z: Tensor, t: Tensor, s: Tensor, **conditions: Any) -> Tensor:
        """The DCT (B, C, H, W) of the expected image at times `s` (B,), given the state `z` at later times `t` (B,)."""
        ...


class ResidualPredictor:
    """The parametrization of the paper: the less blurred image, one level before, is `z + net(z, t)`.

    Args:
        net: predicts the difference, from (z, t).
        process: the heat dissipation.
    """

    def __init__(self, net: Network, process: HeatDissipation) -> None:
        self.net = net
        self.process = process

    def __call__(self, z: Tensor, t: Tensor, s: Tensor, **conditions: Any) -> Tensor:
        """See `Predictor`; `s` must be one level before `t`."""
        return dct2(z + self.net(z, t, **conditions))

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None, **conditions: Any) -> Tensor:
        """Squared error of the less blurred image in units of the noise, (B,): the paper's loss.

        Arguments as for `Trainable.loss`; `t` must be the times of levels from 1 on.
        """
        z = self.process.diffuse(x, t, eps)
        target = self.process.alpha((t - 1 / self.process.levels).clamp(min=0)).to(x) * dct2(x)
        return weighted_mean((self(z, t, t, **conditions) - target) / self.process.noise, weight)


class DenoiserPredictor:
    """Predicts the image of any earlier level from an estimate of the clean image: `E[F(s) x | z] = F(s) E[x | z]`.

    Args:
        denoiser: `x_hat = denoiser(z, t)`. The loss of a `SpectralDenoiser` is the paper's times `(alpha(t) / alpha(s))^2` per
            frequency. This factor is near 1 wherever there is signal, because neighboring levels are close.
        process: the heat dissipation.
    """

    def __init__(self, denoiser: Denoiser, process: HeatDissipation) -> None:
        self.denoiser = denoiser
        self.process = process

    def __call__(self, z: Tensor, t: Tensor, s: Tensor, **conditions: Any) -> Tensor:
        """See `Predictor`."""
        return self.process.alpha(s).to(z) * dct2(self.denoiser(z, t, **conditions))


def sample_heat(
    predictor: Predictor,
    plan: Plan,
    z: Tensor,
    noise: Callable[[Tensor], Tensor] | None = None,
    on_step: Callable[[int, float, Tensor, Tensor], None] | None = None,
    **conditions: Any,
) -> Tensor:
    """Deblur: from noisy blurred images to images at t = 0.

    Args:
        predictor: see `Predictor`; called once per step.
        plan: of the sampler `heat`; its times are levels. For objective `residual`, one step per level, K from t = 1.
        z: noisy blurred images (B, C, H, W) at the start of the plan.
        noise: `noise(z)` gives standard normal noise like z; called once per step but the last.
        on_step: called as `on_step(i, t, z, less_blurred)` after each call of the predictor, with its input state.
        conditions: keyword arguments of the network.

    Returns:
        (B, C, H, W), like `z`.
    """
    draw = noise or torch.randn_like

    def estimate(step: Step, value: Tensor, time: float) -> Tensor:
        t, s = (torch.full((len(z),), one, dtype=z.dtype, device=z.device) for one in (time, step.s))
        less_blurred = idct2(predictor(value, t, s.clamp(min=0), **conditions))
        if on_step is not None:
            on_step(step.number, time, value, less_blurred)
        return less_blurred

    return integrate(plan, z, estimate, lambda: draw(z))


def lowest_frequencies(process: HeatDissipation, spectrum: Tensor) -> tuple[int, int]:
    """Height and width of the low-frequency corner of the DCT that holds all signal of an image at t = 1.

    Args:
        process: the heat dissipation.
        spectrum: P of the data, (C, H, W) or (H, W).
    """
    one = torch.ones(1, dtype=torch.float64, device=spectrum.device)
    alive = (process.alpha(one)[0] * spectrum.double().sqrt() > process.noise / 100).reshape(-1, *process.shape).any(0)
    alive[0, 0] = True  # the blur never changes the mean
    rows, columns = alive.any(1).nonzero(), alive.any(0).nonzero()
    return int(rows.max()) + 1, int(columns.max()) + 1
