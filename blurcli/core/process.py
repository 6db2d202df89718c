"""The blurring diffusion process: the marginal of an image at time t, and the posterior of a step back from t to s.

| code | paper (Hoogeboom and Salimans 2023, arXiv 2209.05557) | meaning |
|---|---|---|
| `x`, `z` | x, z_t | clean and diffused image, (B, C, H, W), x in [-1, 1] |
| `u` | u_t | orthonormal DCT-II of z |
| `t`, `s` | t, s | times in [0, 1], s < t |
| `alpha` | alpha_t = a_t d_t | signal scale per frequency, (B, 1, H, W) |
| `sigma` | sigma_t | noise scale, (B, 1, 1, 1) |
| `eps` | epsilon | standard normal noise |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from blurcli.core.blur_schedules import BlurSchedule
from blurcli.core.dct import dct2, idct2
from blurcli.core.noise_schedule import CosineSchedule
from blurcli.core.schedules import frequency_scaling, frequency_scaling_rate


class Process(ABC):
    """A Gaussian process over time t in [0, 1], diagonal in the DCT basis: `u_t = alpha_t DCT(x) + sigma_t eps`.

    Attributes:
        image_size: side of the square images, or (height, width), in pixels.
    """

    image_size: int | tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height, width

    @property
    @abstractmethod
    def title(self) -> str:
        """A short description for display, such as the title of a picture."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale per DCT frequency: (B,) in [0, 1] -> (B, 1, H, W), in the dtype of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale: (B,) in [0, 1] -> (B, 1, 1, 1), in the dtype of `t`."""

    @abstractmethod
    def blur_sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the blur in pixels, at times `t` in [0, 1] of any shape (float64)."""

    @abstractmethod
    def logsnr(self, t: Tensor) -> Tensor:
        """log (alpha / sigma)^2 of the image mean, which is never blurred, at times `t` in [0, 1] of any shape (float64)."""

    @property
    def clean_time(self) -> float:
        """The time at which an image has neither noise nor blur: where `alpha` is 1 and `sigma` 0.

        Raises:
            ValueError: the noise of this process is the same at all times.
        """
        raise ValueError("the noise of this process is the same at all times")

    def uniform_in_logsnr(self, count: int) -> Tensor:
        """`count` times from 0 to 1, (count,) float64, uniform in the log-SNR.

        Raises:
            ValueError: the log-SNR of this process does not change with time.
        """
        raise ValueError("the noise of this process is the same at all times")

    def diffuse(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The state `z_t = IDCT(alpha_t DCT(x)) + sigma_t eps`; the noise is white, so it needs no transform.

        Args:
            x: clean images (B, C, H, W) in [-1, 1].
            t: (B,) in [0, 1].
            eps: standard normal, like `x`.
        """
        return idct2(self.alpha(t).to(x) * dct2(x)) + self.sigma(t).to(x) * eps

    def add_noise(self, y: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The state z_t of images that already have the blur of time `t`: scaled and noised only.

        Args:
            y: blurred images (B, C, H, W) in [-1, 1].
            t: (B,) in [0, 1].
            eps: standard normal, like `y`.
        """
        scale = self.alpha(t)[..., :1, :1]  # of the image mean, which the blur never changes
        return scale.to(y) * y + self.sigma(t).to(y) * eps

    @staticmethod
    def _times(t: Tensor) -> Tensor:
        if t.ndim != 1 or not t.is_floating_point():
            raise ValueError(f"times must be a floating-point tensor of shape (B,), not {t.dtype} {tuple(t.shape)}")
        return t.double()


@dataclass(frozen=True)
class BlurringDiffusion(Process):
    """Gaussian diffusion with a signal scale per DCT frequency: `u_t = alpha_t DCT(x) + sigma_t eps`.

    Args:
        image_size: side of the square images, or (height, width), in pixels.
        blur_sigma_max: standard deviation of the blur at t = 1, in pixels; 0 is plain denoising diffusion. For `noise-ratio`
            it is a limit L that the blur s approaches smoothly, as `1 / sqrt(1 / s^2 + 1 / L^2)`. By default 20, or no limit.
        min_scale: lower bound of the frequency scaling, in (0, 1].
        logsnr_min: log signal-to-noise ratio of the noise schedule at t = 1.
        logsnr_max: the same at t = 0.
        blur_schedule: how the blur grows with time, see `BlurSchedule`.
        blur_power: exponent of the schedules `power` and `cosine-power`.
        blur_noise_ratio: r of the schedule `noise-ratio`, `sigma_B = r tan(theta)`: pixels of blur per noise over signal, after
            Warm Diffusion (arXiv 2511.16904).

    Raises:
        ValueError: an argument is out of its range.
    """

    image_size: int | tuple[int, int]
    blur_sigma_max: float | None = None
    min_scale: float = 1e-3
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    blur_schedule: str = "sin2"
    blur_power: float = 2.0
    blur_noise_ratio: float | None = None

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"image_size must be positive, not {self.image_size}")
        if self.blur_sigma_max is None:
            object.__setattr__(self, "blur_sigma_max", math.inf if self.blur_schedule == "noise-ratio" else 20.0)
        self._blur  # noqa: B018  checks its arguments
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale must be in (0, 1], not {self.min_scale}")

    @property
    def title(self) -> str:
        return self._blur.title

    @property
    def _noise(self) -> CosineSchedule:
        return CosineSchedule(self.logsnr_min, self.logsnr_max)

    @property
    def _blur(self) -> BlurSchedule:
        assert self.blur_sigma_max is not None
        return BlurSchedule(self.blur_schedule, self.blur_sigma_max, self.blur_power, self.blur_noise_ratio, self._noise)

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale per DCT frequency (section 4 of the paper): (B,) in [0, 1] -> (B, 1, H, W), in the dtype of `t`."""
        precise = self._times(t)
        scaling = frequency_scaling(precise, *self.shape, self._blur, self.min_scale)
        return (torch.cos(self._angle(precise))[:, None, None, None] * scaling).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self._angle(self._times(t)))[:, None, None, None].to(t.dtype)

    def blur_sigma(self, t: Tensor) -> Tensor:
        return self._blur.sigma(t)

    def logsnr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(torch.tan(self._angle(t)))

    @property
    def clean_time(self) -> float:
        """A time below 0: at `logsnr_max` the noise schedule stops just before its formula reaches an angle of 0."""
        return self._noise.clean_time

    def time_at(self, logsnr: Tensor) -> Tensor:
        """The inverse of `logsnr`: times of any shape (float64), for values from `logsnr_min` to `logsnr_max`."""
        t: Tensor = (torch.atan(torch.exp(-logsnr / 2)) - self._noise.start) / self._noise.speed
        return t.clamp(0, 1)

    def uniform_in_logsnr(self, count: int) -> Tensor:
        fraction = torch.linspace(0, 1, count, dtype=torch.float64)
        return self.time_at(self.logsnr_max + fraction * (self.logsnr_min - self.logsnr_max))

    def snr(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The signal-to-noise ratio `(alpha / sigma)^2` per DCT frequency and its derivative by t.

        Args:
            t: (B,) in [0, 1].

        Returns:
            Two tensors (B, 1, H, W) float64, the second negative.
        """
        precise = self._times(t)
        blur = (precise, *self.shape, self._blur, self.min_scale)
        angle = self._angle(precise)[:, None, None, None]
        scaling, scaling_rate = frequency_scaling(*blur), frequency_scaling_rate(*blur)
        snr = (scaling / torch.tan(angle)) ** 2
        # d log snr = 2 d log(d_t cos / sin)
        return snr, 2 * snr * (scaling_rate / scaling - 2 * self._noise.speed / torch.sin(2 * angle))

    def posterior(self, u: Tensor, x_dct: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of `q(u_s | u_t, x)`, per frequency (section 3 and appendix B of the paper, without its clips).

        The precisions of the two Gaussians are combined in closed form. It is bounded at every frequency and at s = 0, so no
        `delta` is needed.

        Args:
            u: DCT of the state at t, (B, C, H, W).
            x_dct: DCT of the clean image, like `u`.
            t: (B,) the later time.
            s: (B,) the earlier time, s < t.

        Returns:
            mean like `u`, and variance (B, 1, H, W).
        """
        alpha_t, sigma_t, alpha_s, sigma_s = self.alpha(t), self.sigma(t), self.alpha(s), self.sigma(s)
        alpha_ts = alpha_t / alpha_s
        variance_ts = sigma_t**2 - alpha_ts**2 * sigma_s**2
        mean = alpha_ts * (sigma_s / sigma_t) ** 2 * u + alpha_s * variance_ts / sigma_t**2 * x_dct
        return mean, variance_ts * (sigma_s / sigma_t) ** 2

    def _angle(self, t: Tensor) -> Tensor:
        return self._noise.angle(t)
