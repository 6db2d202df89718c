"""Linear measurements of an image: blur, averages over boxes, missing pixels, and chains of these."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from blurcli.core.fast_dct import dct2, idct2
from blurcli.core.kernels import response
from blurcli.core.schedules import laplacian

_DISK_SAMPLES = 64  # per pixel and direction, of the edge of a disk


class Measurement(ABC):
    """The linear map A from an image to a photo of it.

    Attributes:
        keeps_frequencies: whether A keeps all frequencies, but not all pixels. Then a linear system in the pixels of the photo
            is better conditioned than one in the frequencies of the image.
    """

    keeps_frequencies = False

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x of images (B, C, H, W): (B, C, h, w)."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """The transpose of A, of photos (B, C, h, w): (B, C, H, W)."""

    def seen(self, x_dct: Tensor) -> Tensor:
        """The photos A x, (B, C, h, w), from the DCT of x, (B, C, H, W)."""
        return self.apply(idct2(x_dct))

    def back(self, y: Tensor) -> Tensor:
        """The DCT of A^T y, (B, C, H, W), from photos y."""
        return dct2(self.transpose(y))

    @abstractmethod
    def variance(self, r: Tensor) -> Tensor:
        """Approximate diagonal of `A R A^T` in the DCT, (..., h, w), for a diagonal R, (..., H, W)."""

    @abstractmethod
    def information(self, p: Tensor) -> Tensor:
        """Approximate diagonal of `A^T P A` in the DCT, (..., H, W), for a diagonal P, (..., h, w)."""

    def gram(self, like: Tensor) -> Tensor:
        """Approximate diagonal of `A^T A` in the DCT, (1, 1, H, W); `like` are photos (B, C, h, w)."""
        return self.information(like.new_ones(1, 1, *like.shape[-2:]))

    def repeated(self, count: int) -> Measurement:
        """The measurement of a batch that repeats the photos so many times."""
        return self


@dataclass(frozen=True)
class DctFilter(Measurement):
    """A filter that is diagonal in the DCT: symmetric in rows and in columns, with the image reflected at its borders.

    Averages over boxes may follow, one per pixel of the photo. They add each frequency of the image to one frequency of the
    photo (its alias), so `A R A^T` is diagonal for any diagonal R.

    Args:
        response: H per DCT frequency, (H, W), or (B, 1, H, W) for a filter per image. 1 everywhere is noise alone.
        box: side of the boxes in pixels; it must divide height and width.

    Raises:
        ValueError: `box` does not divide height and width.
    """

    response: Tensor
    box: int = 1

    def __post_init__(self) -> None:
        if any(side % self.box for side in self.response.shape[-2:]):
            raise ValueError(f"boxes of {self.box} px do not divide images of {tuple(self.response.shape[-2:])}")

    def apply(self, x: Tensor) -> Tensor:
        return self.seen(dct2(x))

    def transpose(self, y: Tensor) -> Tensor:
        return idct2(self.back(y))

    def seen(self, x_dct: Tensor) -> Tensor:
        return idct2(self.seen_dct(x_dct))

    def back(self, y: Tensor) -> Tensor:
        return self.back_dct(dct2(y))

    def seen_dct(self, x_dct: Tensor) -> Tensor:
        """The DCT of A x, (B, C, h, w), from the DCT of x, (B, C, H, W)."""
        return self._folded(self.gain.to(x_dct) * x_dct)

    def back_dct(self, y_dct: Tensor) -> Tensor:
        """The DCT of A^T y, (B, C, H, W), from the DCT of photos y."""
        return self.gain.to(y_dct) * self._unfolded(y_dct)

    def variance(self, r: Tensor) -> Tensor:
        """See `Measurement`; exact."""
        return self._folded(self.gain.to(r) ** 2 * r)

    def information(self, p: Tensor) -> Tensor:
        """See `Measurement`; exact."""
        return self.gain.to(p) ** 2 * self._unfolded(p)

    @functools.cached_property
    def gain(self) -> Tensor:
        """The signed factor from each frequency of the image to the photo, like `response`."""
        if self.box == 1:
            return self.response
        rows, columns = (_box_gain(side, self.box) for side in self.response.shape[-2:])
        return self.response * rows.to(self.response)[:, None] * columns.to(self.response)

    def _folded(self, values: Tensor) -> Tensor:
        for axis in (-2, -1) if self.box > 1 else ():
            shape = [*values.shape]
            shape[axis] //= self.box
            aliases = _aliases(values.shape[axis], self.box).to(values.device)
            values = values.new_zeros(shape).index_add_(axis, aliases, values)
        return values

    def _unfolded(self, values: Tensor) -> Tensor:
        for axis in (-2, -1) if self.box > 1 else ():
            values = values.index_select(axis, _aliases(values.shape[axis] * self.box, self.box).to(values.device))
        return values


def _box_gain(size: int, box: int) -> Tensor:
    """The factor of averages over boxes on each of `size` DCT frequencies, (size,) float64."""
    m, side = torch.arange(size, dtype=torch.float64), size // box
    gain = torch.sin(torch.pi * box * m / (2 * size)) / (box * torch.sin(torch.pi * m / (2 * size)))
    gain[0] = 1
    # cos(pi m (X + 1/2) / n) at pixels X equals that of the alias, up to its sign; it is 0 where m is an odd multiple of n.
    sign = 1 - 2 * (torch.div(m + side, 2 * side, rounding_mode="floor") % 2)
    return torch.where(m % (2 * side) == side, 0, gain * sign / box**0.5)


def _aliases(size: int, box: int) -> Tensor:
    """The alias of each of `size` frequencies in the photo, (size,); arbitrary where the gain is 0."""
    side = size // box
    distance = ((torch.arange(size) + side) % (2 * side) - side).abs()
    return distance.clamp(max=side - 1)


@dataclass(frozen=True)
class Mask(Measurement):
    """Pixels that are known; the others are 0 in the photo.

    Args:
        known: 1 where a pixel is known, else 0: (H, W), or (B, 1, H, W) for a mask per image.
    """

    known: Tensor
    keeps_frequencies = True

    def apply(self, x: Tensor) -> Tensor:
        return self.known.to(x) * x

    def transpose(self, y: Tensor) -> Tensor:
        """The mask itself."""
        return self.apply(y)

    def variance(self, r: Tensor) -> Tensor:
        """See `Measurement`: with scattered pixels, each frequency keeps a part of its power, and the rest becomes white."""
        share = self._share(r)
        return share**2 * r + share * (1 - share) * r.mean((-2, -1), keepdim=True)

    def information(self, p: Tensor) -> Tensor:
        return self._share(p) ** 2 * p

    def gram(self, like: Tensor) -> Tensor:
        """See `Measurement`; exact."""
        return self._share(like) * like.new_ones(1, 1, *like.shape[-2:])

    def _share(self, like: Tensor) -> Tensor:
        return self.known.to(like).mean((-2, -1), keepdim=True)


@dataclass(frozen=True)
class Convolution(Measurement):
    """Convolution with any kernel, by FFT, with the image reflected at its borders; for even kernels `even_kernel` is faster.

    Args:
        kernel: (h, w) with odd sides, at most those of the image; its center stays in place.
    """

    kernel: Tensor

    def apply(self, x: Tensor) -> Tensor:
        rows, columns = self._reflected(x.shape[-2:], x.device)
        padded = x[..., rows, :][..., columns]
        product = torch.fft.rfft2(padded) * self._spectrum(padded)
        filtered: Tensor = torch.fft.irfft2(product, s=padded.shape[-2:])
        return filtered[..., self._inner(0, x), self._inner(1, x)]

    def transpose(self, y: Tensor) -> Tensor:
        rows, columns = self._reflected(y.shape[-2:], y.device)
        padded = y.new_zeros(*y.shape[:-2], len(rows), len(columns))
        padded[..., self._inner(0, y), self._inner(1, y)] = y
        product = torch.fft.rfft2(padded) * self._spectrum(padded).conj()
        spread = torch.fft.irfft2(product, s=padded.shape[-2:])
        folded = y.new_zeros(*y.shape[:-1], len(columns)).index_add_(-2, rows, spread)
        return torch.zeros_like(y).index_add_(-1, columns, folded)

    def variance(self, r: Tensor) -> Tensor:
        return response(self.kernel, (r.shape[-2], r.shape[-1])).to(r) ** 2 * r

    def information(self, p: Tensor) -> Tensor:
        return self.variance(p)

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
        """The rows and columns of the image, extended by the reach of the kernel."""
        rows, columns = (
            torch.arange(-(side // 2), size + side // 2, device=device)
            for side, size in zip(self.kernel.shape, shape, strict=True)
        )
        return _mirrored(rows, shape[0]), _mirrored(columns, shape[1])


@dataclass(frozen=True)
class Chain(Measurement):
    """Measurements one after another, such as blur, then downsampling.

    Args:
        parts: the first one is applied first.
    """

    parts: tuple[Measurement, ...]

    def apply(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.apply(x)
        return x

    def transpose(self, y: Tensor) -> Tensor:
        for part in reversed(self.parts):
            y = part.transpose(y)
        return y

    def seen(self, x_dct: Tensor) -> Tensor:
        y = self.parts[0].seen(x_dct)
        for part in self.parts[1:]:
            y = part.apply(y)
        return y

    def back(self, y: Tensor) -> Tensor:
        for part in reversed(self.parts[1:]):
            y = part.transpose(y)
        return self.parts[0].back(y)

    def variance(self, r: Tensor) -> Tensor:
        for part in self.parts:
            r = part.variance(r)
        return r

    def information(self, p: Tensor) -> Tensor:
        for part in reversed(self.parts):
            p = part.information(p)
        return p

    def gram(self, like: Tensor) -> Tensor:
        *before, last = self.parts
        found = last.gram(like)
        for part in reversed(before):
            found = part.information(found)
        return found


def gaussian_blur(shape: tuple[int, int], sigma_px: Tensor | float) -> DctFilter:
    """Gaussian blur, `H = exp(-lambda sigma^2 / 2)`: the heat dissipation of the process.

    Args:
        shape: (H, W) of the images.
        sigma_px: standard deviation in pixels, at least 0; (B,) for one per image.
    """
    sigma = torch.as_tensor(sigma_px, dtype=torch.float64)
    rate = laplacian(*shape, sigma.device)
    return DctFilter(torch.exp(-rate * (sigma if sigma.ndim == 0 else sigma[:, None, None, None]) ** 2 / 2))


def defocus(shape: tuple[int, int], radius_px: float) -> DctFilter:
    """Defocus blur: averages over a disk.

    Args:
        shape: (H, W) of the images.
        radius_px: radius of the disk in pixels, at least 0; pixels at its edge count by their area inside.
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
    """Whether a kernel (h, w) is diagonal in the DCT: odd sides, and even in rows and in columns."""
    symmetric = all(torch.allclose(kernel, kernel.flip(axis), rtol=0, atol=1e-12) for axis in (0, 1))
    return symmetric and all(side % 2 == 1 for side in kernel.shape)


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Indices beyond the border of an image, reflected with the edge repeated, as the DCT-II continues it."""
    period = places.remainder(2 * size)
    return torch.where(period < size, period, 2 * size - 1 - period)
