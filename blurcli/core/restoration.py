"""Restoration: images given a degraded photo, by a denoiser that was not trained for the degradation.

A photo is a measurement `y = A x + n` of the image x, with white noise n of standard deviation s. Given a state z_t, the DCT X
of the denoiser's estimate has per frequency about the error of the Wiener filter, of variance

    R(t) = V cos(phi)^2 = V sigma^2 / (alpha^2 V + sigma^2)

so the estimate given the photo as well is, by conditioning a Gaussian on y,

    X_y = X + R A^T (A R A^T + s^2)^-1 (y - A X)

with one network call and no backpropagation. It takes the place of X in any sampler. Related: DDRM (Kawar et al. 2022, arXiv
2201.11793), DiffPIR (Zhu et al. 2023, arXiv 2305.08995), and Free Hunch (Rissanen et al. 2024, arXiv 2410.11149), which takes
the covariance of the data in the DCT, too.

For an A that is diagonal in the DCT, as blur is, the data given y have per frequency the moments

    V_y = V s^2 / (H^2 V + s^2)     M_y = M + V H / (H^2 V + s^2) (Y - H M)

and in the space that these whiten, Gaussian data have slope zero: one step draws from the exact posterior.

Started from `T w` instead of standard normal w, a deterministic sampler makes draws for T = 1. For T = 0 it starts at the mean
of the Gaussian posterior and makes one image, which depends on no random number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from blurcli.core.dct import dct2, idct2
from blurcli.core.plans import make_plan
from blurcli.core.samplers import SAMPLERS
from blurcli.core.sampling import sample_by_plan
from blurcli.core.schedules import laplacian
from blurcli.core.whitened import WhitenedSpace

_ITERATIONS = 30
_TOLERANCE = 1e-6  # of the residual of the linear system, over that of the start
_DISK_SAMPLES = 64  # per pixel and direction, of the edge of a disk


class Measurement(ABC):
    """What a photo shows of an image: the linear map A, the same for all channels."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x of images (B, C, H, W): (B, C, h, w)."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """The transpose of A, of photos (B, C, h, w): (B, C, H, W)."""


@dataclass(frozen=True)
class DctFilter(Measurement):
    """A filter that is diagonal in the DCT: symmetric in rows and in columns, with the image reflected at its borders.

    Args:
        response: H per DCT frequency, (H, W), or (B, 1, H, W) for a filter per image. 1 everywhere is noise alone.
    """

    response: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """See `Measurement`."""
        return idct2(self.response.to(x) * dct2(x))

    def transpose(self, y: Tensor) -> Tensor:
        """The filter itself, which is symmetric."""
        return self.apply(y)


@dataclass(frozen=True)
class BoxAverage(Measurement):
    """Reduction by averages over boxes, of which each becomes a pixel.

    Args:
        factor: side of a box in pixels; it must divide height and width.
    """

    factor: int

    def apply(self, x: Tensor) -> Tensor:
        """See `Measurement`."""
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(f"boxes of {self.factor} px do not divide images of {tuple(x.shape[-2:])}")
        return functional.avg_pool2d(x, self.factor)

    def transpose(self, y: Tensor) -> Tensor:
        """See `Measurement`."""
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2) / self.factor**2


@dataclass(frozen=True)
class Mask(Measurement):
    """Pixels that are known; the others are 0 in the photo.

    Args:
        known: 1 where a pixel is known, else 0: (H, W), or (B, 1, H, W) for a mask per image.
    """

    known: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """See `Measurement`."""
        return self.known.to(x) * x

    def transpose(self, y: Tensor) -> Tensor:
        """The mask itself."""
        return self.apply(y)


@dataclass(frozen=True)
class Convolution(Measurement):
    """Convolution with any kernel, by FFT, with the image reflected at its borders; even kernels are faster by `even_kernel`.

    Args:
        kernel: (h, w) with odd sides, at most those of the image; its center stays in place.
    """

    kernel: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """See `Measurement`."""
        rows, columns = self._reflected(x.shape[-2:], x.device)
        padded = x[..., rows, :][..., columns]
        product = torch.fft.rfft2(padded) * self._spectrum(padded)
        filtered: Tensor = torch.fft.irfft2(product, s=padded.shape[-2:])
        return filtered[..., self._inner(0, x), self._inner(1, x)]

    def transpose(self, y: Tensor) -> Tensor:
        """See `Measurement`."""
        rows, columns = self._reflected(y.shape[-2:], y.device)
        padded = y.new_zeros(*y.shape[:-2], len(rows), len(columns))
        padded[..., self._inner(0, y), self._inner(1, y)] = y
        product = torch.fft.rfft2(padded) * self._spectrum(padded).conj()
        spread = torch.fft.irfft2(product, s=padded.shape[-2:])
        folded = y.new_zeros(*y.shape[:-1], len(columns)).index_add_(-2, rows, spread)
        return torch.zeros_like(y).index_add_(-1, columns, folded)

    def _spectrum(self, padded: Tensor) -> Tensor:
        shape = padded.shape[-2:]
        kernel = padded.new_zeros(shape)
        height, width = self.kernel.shape
        kernel[:height, :width] = self.kernel.to(padded)
        spectrum: Tensor = torch.fft.rfft2(kernel.roll((-(height // 2), -(width // 2)), (0, 1)))
        return spectrum

    def _inner(self, axis: int, x: Tensor) -> slice:
        reach = self.kernel.shape[axis] // 2
        return slice(reach, reach + x.shape[axis - 2])

    def _reflected(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rows and columns of the image with as much beyond its borders as the kernel sees."""
        rows, columns = (
            torch.arange(-(side // 2), size + side // 2, device=device)
            for side, size in zip(self.kernel.shape, shape, strict=True)
        )
        return _mirrored(rows, shape[0]), _mirrored(columns, shape[1])


@dataclass(frozen=True)
class Sequence(Measurement):
    """Measurements in a row, such as blurred, then reduced.

    Args:
        parts: the first one is applied first.
    """

    parts: tuple[Measurement, ...]

    def apply(self, x: Tensor) -> Tensor:
        """See `Measurement`."""
        for part in self.parts:
            x = part.apply(x)
        return x

    def transpose(self, y: Tensor) -> Tensor:
        """See `Measurement`."""
        for part in reversed(self.parts):
            y = part.transpose(y)
        return y


def gaussian_blur(shape: tuple[int, int], sigma_px: Tensor | float) -> DctFilter:
    """Gaussian blur, `H = exp(-lambda sigma^2 / 2)`: heat dissipation, as the process blurs.

    Args:
        shape: (H, W) of the images.
        sigma_px: standard deviation in pixels, at least 0; (B,) for one per image.
    """
    sigma = torch.as_tensor(sigma_px, dtype=torch.float64)
    rate = laplacian(*shape, sigma.device)
    return DctFilter(torch.exp(-rate * (sigma if sigma.ndim == 0 else sigma[:, None, None, None]) ** 2 / 2))


def defocus(shape: tuple[int, int], radius_px: float) -> DctFilter:
    """The blur of a lens out of focus: averages over a disk.

    Args:
        shape: (H, W) of the images.
        radius_px: radius of the disk in pixels, at least 0; pixels at its edge count by the part that is inside.
    """
    reach = int(radius_px + 0.5)
    fine = (torch.arange((2 * reach + 1) * _DISK_SAMPLES, dtype=torch.float64) + 0.5) / _DISK_SAMPLES - reach - 0.5
    inside = (fine[:, None] ** 2 + fine**2 <= max(radius_px, 1 / _DISK_SAMPLES) ** 2).double()
    kernel = functional.avg_pool2d(inside[None], _DISK_SAMPLES)[0]
    return even_kernel(shape, kernel / kernel.sum())


def even_kernel(shape: tuple[int, int], kernel: Tensor) -> DctFilter:
    """Convolution with a kernel that is even in rows and in columns.

    Args:
        shape: (H, W) of the images.
        kernel: (h, w) with odd sides.

    Raises:
        ValueError: a kernel that is not even in both; use `Convolution`.
    """
    kernel = kernel.double()
    if not is_even(kernel):
        raise ValueError("the kernel must have odd sides and be even in rows and in columns")
    rows, columns = (
        torch.cos(
            torch.pi / size * torch.arange(size, dtype=torch.float64)[:, None] * torch.arange(-(side // 2), side // 2 + 1)
        )
        for side, size in zip(kernel.shape, shape, strict=True)
    )
    return DctFilter(rows @ kernel @ columns.T)


def is_even(kernel: Tensor) -> bool:
    """Whether a kernel (h, w) is diagonal in the DCT: of odd sides, and even in rows and in columns."""
    symmetric = all(torch.allclose(kernel, kernel.flip(axis), rtol=0, atol=1e-12) for axis in (0, 1))
    return symmetric and all(side % 2 == 1 for side in kernel.shape)


@dataclass(frozen=True)
class Observation:
    """Photos, and how they were taken.

    Attributes:
        photo: y, (B, C, h, w), in the space of the network.
        measurement: A.
        noise: s, the standard deviation of the noise in the units of `photo`, positive: (B,), or (1,) for all.
    """

    photo: Tensor
    measurement: Measurement
    noise: Tensor

    @property
    def variance(self) -> Tensor:
        """s^2, (B or 1, 1, 1, 1) float64."""
        return (self.noise.double() ** 2)[:, None, None, None]

    def residual(self, x: Tensor) -> Tensor:
        """The root mean square of `y - A x` over s for images (B, C, H, W), (B,): about 1 where A, s and x fit the photo."""
        error = self._error(x)
        return (error.square().mean((1, 2, 3), keepdim=True) / self.variance).sqrt().flatten()

    def condition(self, x_dct: Tensor, variance: Tensor) -> Tensor:
        """`X_y`: the DCT of an estimate, conditioned on the photos.

        Args:
            x_dct: X, the DCT of the estimates, (B, C, H, W) float64.
            variance: R of their errors per frequency, (H, W), (C, H, W) or like `x_dct`.

        Returns:
            (B, C, H, W) float64.
        """
        s2 = self.variance
        if isinstance(self.measurement, DctFilter):
            h = self.measurement.response
            gain = variance * h / (variance * h**2 + s2)
            return x_dct + gain * (dct2(self.photo.double()) - h * x_dct)

        def spread(y: Tensor) -> Tensor:
            return variance * dct2(self.measurement.transpose(y))

        solution = conjugate_gradients(lambda y: self.measurement.apply(idct2(spread(y))) + s2 * y, self._error(idct2(x_dct)))
        return x_dct + spread(solution)

    def posterior(self, space: WhitenedSpace) -> WhitenedSpace:
        """The space that whitens the data given the photos; the space of the data where A is not diagonal in the DCT."""
        if not isinstance(self.measurement, DctFilter):
            return space
        h, v, s2 = self.measurement.response, space.variance, self.variance
        channels = v if v.ndim == 3 else v[None]
        mean = self.condition(space.mean.expand_as(channels).expand_as(self.photo), v)
        return replace(space, mean=mean, variance=(channels * s2 / (h**2 * channels + s2)).expand_as(mean))

    def _error(self, x: Tensor) -> Tensor:
        return self.photo.double() - self.measurement.apply(x.double())


class ConditionedDenoiser:
    """A denoiser that knows the photos: estimates `x_hat(z, t)` given the state and y.

    Args:
        denoiser: of the states alone.
        space: the whitened space of the data, whose V tells the denoiser's errors.
        observation: the photos, one per state.
    """

    def __init__(self, denoiser: Callable[..., Tensor], space: WhitenedSpace, observation: Observation) -> None:
        self._denoiser, self._space, self._observation = denoiser, space, observation

    def __call__(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """See `core.denoiser.Denoiser`."""
        x_dct = dct2(self._denoiser(z, t, **conditions).double())
        error = self._space.variance * torch.cos(self._space.angle(t.double())) ** 2
        return idct2(self._observation.condition(x_dct, error)).to(z)


def restore(
    denoiser: Callable[..., Tensor],
    space: WhitenedSpace,
    photos: Observation,
    z: Tensor,
    steps: int = 10,
    sampler: str = "abm",
) -> Tensor:
    """Images given photos of them.

    Args:
        denoiser: as for `core.sample`; called exactly `steps` times.
        space: of the data, see `plans.whitened_space`; its V must be about the data's own, because it tells the errors.
        photos: what is given, one per image.
        z: (B, C, H, W), T times standard normal noise: 1 for draws from the posterior, 0 for one image that invents nothing.
        steps: at least 1.
        sampler: a deterministic one in the whitened space: `abm`, `ab2` or `euler`.

    Returns:
        (B, C, H, W) in the space of the network, without noise, in the dtype of `z`.

    Raises:
        ValueError: another sampler, or `steps` below 1.
    """
    method = SAMPLERS.get(sampler)
    if method is None or not method.whitened or method.ends_path:
        known = (name for name, one in SAMPLERS.items() if one.whitened and not one.ends_path)
        raise ValueError(f"photos are restored by {', '.join(known)}, not by {sampler!r}")
    plan = make_plan(method(), space.process, steps, z.device, space=space, final="denoised")
    # The same times, in the space that whitens the data given the photos.
    plan = replace(plan, space=photos.posterior(space), _constants={})
    return sample_by_plan(ConditionedDenoiser(denoiser, space, photos), plan, z)


def conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Solve `apply(v) = right` for a symmetric positive map of images, for each image of the batch by itself.

    Args:
        apply: the map of (B, C, H, W).
        right: (B, C, H, W) float64.
    """
    v, rest, direction = torch.zeros_like(right), right, right
    norm = start = _squares(rest)
    for _ in range(_ITERATIONS):
        applied = apply(direction)
        # An image that is solved stays as it is.
        going = (norm > _TOLERANCE**2 * start) & (norm > 0)
        length = torch.where(going, norm / (direction * applied).sum((1, 2, 3), keepdim=True), 0)
        v, rest = v + length * direction, rest - length * applied
        before, norm = norm, _squares(rest)
        direction = rest + torch.where(going, norm / before, 0) * direction
    return v


def _squares(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True)


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Indices beyond the border of an image, reflected with the edge repeated, as the DCT-II continues it."""
    period = index.remainder(2 * size)
    return torch.where(period < size, period, 2 * size - 1 - period)
