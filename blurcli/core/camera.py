"""Photos as cameras make them: blurred in linear light, clipped, and cut from a larger scene.

A photo is `y = clip(g(x) + n)` with `g(x) = D(K L(x))`: L maps stored values to linear light, D is its inverse (the curve of
sRGB, IEC 61966-2-1), and K is the blur. The noise n is that of stored values: the shot noise of light has a nearly
constant deviation after the curve. Without L and D the blur is of stored values, as image editors do it.

Restoration needs a linear measurement. Gauss-Newton steps from the photo find the most likely image e under the moments of the
data, and with the derivative A of g at e

    y - g(e) + A e = A x + n        A = W D'(K L(e)) K L'(e)

The weights W are 0 at pixels that are missing, and at clipped values where g(e) lies beyond the limit, because these say only
that it does. They are less than 1 where D is steep, near black, because the noise of a sensor grows with its slope. Elsewhere
they are 1. The scene beyond the borders of a photo is a margin of missing pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blurcli.core.colors import RGB, ModelSpace
from blurcli.core.fast_dct import dct2, idct2
from blurcli.core.measurements import Measurement
from blurcli.core.restoration import Observation
from blurcli.core.whitened import WhitenedSpace

# Gauss-Newton steps with noise so many times as large, and iterations of conjugate gradients in each: with less noise, the
# system is worse conditioned.
_SCHEDULE = ((8, 15), (4, 15), (2, 15), (1, 15), (1, 25))
_COMPARED = ((8, 15), (4, 15), (2, 15), (2, 20), (2, 20))  # to tell linear light from stored values
# A photo is taken to be blurred in linear light unless its error is larger by this share. Compressed photos are mostly those of
# cameras, and what compression leaves out counts as error, too.
_UNLIKE_LIGHT, _UNLIKE_COMPRESSED = 0.0005, 0.06
_ROUNDED = 1e-6  # of stored values, after changes of the color space
_KNEE, _SLOPE, _OFFSET, _POWER = 0.04045, 12.92, 0.055, 2.4  # of the curve of sRGB


def to_light(v: Tensor) -> Tensor:
    """Linear light of stored values, of which 0 is black and 1 is white; the curve is continued beyond."""
    return torch.where(v <= _KNEE, v / _SLOPE, _upper(v) ** _POWER)


def from_light(light: Tensor) -> Tensor:
    """The inverse of `to_light`."""
    above = (1 + _OFFSET) * light.clamp(min=_KNEE / _SLOPE) ** (1 / _POWER) - _OFFSET
    return torch.where(light <= _KNEE / _SLOPE, _SLOPE * light, above)


def light_slope(v: Tensor) -> Tensor:
    """The derivative of `to_light`."""
    return torch.where(v <= _KNEE, 1 / _SLOPE, _POWER / (1 + _OFFSET) * _upper(v) ** (_POWER - 1))


def _upper(v: Tensor) -> Tensor:
    return (v.clamp(min=_KNEE) + _OFFSET) / (1 + _OFFSET)


@dataclass(frozen=True)
class Weighted(Measurement):
    """A measurement of weighted pixels, weighted again, in red, green and blue.

    Args:
        optics: K, a linear measurement.
        before: weights of the image, (B, C, H, W); None for 1.
        after: weights of the photo, (B, C, h, w).
        colors: the space of images and photos; the weights are for red, green and blue.
    """

    optics: Measurement
    before: Tensor | None
    after: Tensor
    colors: ModelSpace = RGB

    def apply(self, x: Tensor) -> Tensor:
        return self._seen(self.optics.apply(self._before(self.colors.colors_to_rgb(x))))

    def transpose(self, y: Tensor) -> Tensor:
        return self.colors.colors(self._before(self.optics.transpose(self._given(y))))

    def seen(self, x_dct: Tensor) -> Tensor:
        if self.before is not None:
            return self.apply(idct2(x_dct))
        return self._seen(self.optics.seen(self.colors.colors_to_rgb(x_dct)))

    def back(self, y: Tensor) -> Tensor:
        if self.before is not None:
            return dct2(self.transpose(y))
        return self.colors.colors(self.optics.back(self._given(y)))

    def variance(self, r: Tensor) -> Tensor:
        """See `Measurement`; as if the weights were 1 at scattered pixels, and 0 elsewhere."""
        share, seen = self._share(r), self.optics.variance(r)
        return share**2 * seen + share * (1 - share) * seen.mean((-2, -1), keepdim=True)

    def information(self, p: Tensor) -> Tensor:
        return self.optics.information(self._share(p) ** 2 * p)

    def gram(self, like: Tensor) -> Tensor:
        return self.optics.information(self._share(like) * like.new_ones(1, 1, *like.shape[-2:]))

    def repeated(self, count: int) -> Weighted:
        before = None if self.before is None else self.before.repeat(count, 1, 1, 1)
        return replace(self, before=before, after=self.after.repeat(count, 1, 1, 1))

    def _before(self, x: Tensor) -> Tensor:
        return x if self.before is None else self.before.to(x) * x

    def _seen(self, y: Tensor) -> Tensor:
        return self.colors.colors(self.after.to(y) * y)

    def _given(self, y: Tensor) -> Tensor:
        return self.after.to(y) * self.colors.colors_to_rgb(y)

    def _share(self, like: Tensor) -> Tensor:
        return (self.after != 0).to(like).mean((1, 2, 3), keepdim=True)


@dataclass(frozen=True)
class Exposure:
    """A photo, and what is known of it.

    Attributes:
        photo: y, (B, C, h, w), in the space of the network.
        noise: standard deviation of its noise, as in `Observation`.
        known: true where the photo has a pixel, (h, w).
        start: a first estimate of the image, (B, C, H, W).
    """

    photo: Tensor
    noise: Tensor
    known: Tensor
    start: Tensor


@dataclass(frozen=True)
class Camera:
    """How a photo is made of an image.

    Attributes:
        optics: K, a linear measurement.
        linear_light: whether K is of linear light; else of the stored values.
        colors: the space of images and photos.
        steepest: slope of the curve D beyond which the noise grows with it, as that of a sensor does near black.
    """

    optics: Measurement
    linear_light: bool = False
    colors: ModelSpace = RGB
    steepest: float = 4.0

    def apply(self, x: Tensor) -> Tensor:
        """The photos g(x) of images (B, C, H, W): (B, C, h, w), without noise and not clipped."""
        return self._colors(self._seen(self._stored(x)))

    def clips(self, exposure: Exposure) -> bool:
        """Whether known values of a photo are clipped."""
        low, high = self._at_limits(self._stored(exposure.photo))
        return bool(((low | high) & exposure.known).any())

    def observe(self, exposure: Exposure, space: WhitenedSpace) -> Observation:
        """The linear observation that is equivalent to a photo near its most likely image.

        Args:
            exposure: the photo.
            space: the whitened space of the data at the size of the image.
        """
        if not self.linear_light and bool(exposure.known.all()) and not self.clips(exposure):
            return Observation(exposure.photo, self.optics, exposure.noise)
        start = self._most_likely(exposure, space, _SCHEDULE)
        return replace(self._linearized(exposure, idct2(start)), start=start)

    def misfit(self, exposure: Exposure, space: WhitenedSpace) -> float:
        """The squared error of the brightness that the most likely image leaves, to compare cameras for the same photo."""
        alike = replace(self, steepest=math.inf)  # with the same weights for both lights
        e = idct2(alike._most_likely(exposure, space, _COMPARED))
        observation = alike._linearized(exposure, e)
        error = observation.photo - observation.measurement.apply(e)
        return float((error[:, :1] if self.colors.opponent else error).square().sum())

    def _most_likely(self, exposure: Exposure, space: WhitenedSpace, schedule: tuple[tuple[int, int], ...]) -> Tensor:
        """The DCT of e."""
        mean = space.mean.expand(exposure.start.shape)
        found = dct2(exposure.start.double())
        for factor, iterations in schedule:
            at = replace(exposure, noise=factor * exposure.noise)
            found = self._linearized(at, idct2(found)).condition(mean, space.variance, iterations, found)
        return found

    def _linearized(self, exposure: Exposure, e: Tensor) -> Observation:
        """The observation `y - g(e) + A e`."""
        stored, given = self._stored(e), self._stored(exposure.photo.double())
        if self.linear_light:
            stored = stored.clamp(min=0)
        seen, e = self._seen(stored), self._colors(stored)
        low, high = self._at_limits(given)
        weight = exposure.known.to(seen) * ~(low & (seen <= 0) | high & (seen >= 1))
        before, after = None, weight
        if self.linear_light:
            slope = 1 / light_slope(seen)
            weight = weight * torch.where(low, 1, (self.steepest / slope).clamp(max=1))
            before, after = light_slope(stored), weight * slope
        a = Weighted(self.optics, None if before is None else before.float(), after.float(), self.colors)
        return Observation(
            self._colors(weight * (given - seen)) - self._colors(torch.zeros_like(seen)) + a.apply(e), a, exposure.noise
        )

    @staticmethod
    def _at_limits(stored: Tensor) -> tuple[Tensor, Tensor]:
        return stored <= _ROUNDED, stored >= 1 - _ROUNDED

    def _seen(self, stored: Tensor) -> Tensor:
        return from_light(self.optics.apply(to_light(stored))) if self.linear_light else self.optics.apply(stored)

    def _stored(self, x: Tensor) -> Tensor:
        return (self.colors.to_rgb(x) + 1) / 2

    def _colors(self, stored: Tensor) -> Tensor:
        return self.colors.from_rgb(2 * stored - 1)


def blurred_in_light(camera: Camera, exposure: Exposure, space: WhitenedSpace, compressed: bool = False) -> bool:
    """Whether a photo was blurred in linear light rather than in its stored values.

    Both explain a photo without strong contrast about alike.

    Args:
        camera: how the photo was taken, but for the light.
        exposure: the photo, or a part of it.
        space: the whitened space of the data at the size of the image.
        compressed: whether the photo is a JPEG.
    """
    light, stored = (replace(camera, linear_light=one).misfit(exposure, space) for one in (True, False))
    return light <= (1 + (_UNLIKE_COMPRESSED if compressed else _UNLIKE_LIGHT)) * stored
