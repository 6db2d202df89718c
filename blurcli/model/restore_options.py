"""Options of restoration: the known damage of a photo, and how it is restored."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.base.errors import OptionError, UsageError, option
from blurcli.core.kernels import motion, response
from blurcli.core.measurements import (
    Chain,
    Convolution,
    DctFilter,
    Measurement,
    defocus,
    even_kernel,
    gaussian_blur,
    is_even,
)

LIGHTS = ("linear", "srgb")
"""What a blur can be of: see `RestoreOptions.light`."""

STEPS = 10
"""Default calls of the network: more change little (docs/restoring.md)."""

_DRAWS = 8  # of a mean or a spread
_COMPARED_DRAWS = 4  # of the spread beside a single result
_TEMPERATURE = 0.5  # docs/restoring.md
_WIDTHS = 3  # of a Gaussian blur, that reach beyond the border of a photo
_BLURS = ("blur", "defocus", "motion", "kernel")


@dataclass(frozen=True)
class RestoreOptions:
    """The known damage of a photo, and how it is restored. Lengths are in pixels of the given photo.

    Attributes:
        blur: standard deviation of a Gaussian blur; None: estimated, unless another blur is given.
        defocus: radius of the disk of a defocus blur.
        motion: length of a straight motion, and its angle in degrees, counterclockwise from the horizontal.
        kernel: any other blur: (h, w) with odd sides and sum 1.
        noise: standard deviation of the noise in gray levels of 0 to 255; 0 means the noise of rounding; None: estimated.
        enlarge: pixels of the result per pixel of the photo along a side; a pixel of the photo is their average.
        mask: True where the photo is to be filled, (H, W).
        light: `linear` where the blur is of linear light, as that of a lens, or `srgb` where it is of the stored values, as
            that of an image editor; None for the one that fits the photo.
        cropped: whether the scene goes on beyond the borders; else the image is reflected there, as where a whole image was
            blurred.
        strength: share of the result in [0, 1]; the rest is the given photo.
        temperature: 0 gives one image without random detail; 1 draws from the posterior; None for 0.5, or 1 with `mean` or
            `spread`.
        n: number of draws; None for 1, or 8 with `mean` or `spread`.
        mean: whether to return the mean of the draws.
        spread: whether to return their standard deviation.
        steps: calls of the network per draw.
        seed: of the draws.
    """

    blur: float | None = None
    defocus: float | None = None
    motion: tuple[float, float] | None = None
    kernel: NDArray[np.float64] | None = None
    noise: float | None = None
    enlarge: int = 1
    mask: NDArray[np.bool_] | None = None
    light: str | None = None
    cropped: bool = True
    strength: float = 1.0
    temperature: float | None = None
    n: int | None = None
    mean: bool = False
    spread: bool = False
    steps: int = STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: an option is out of range, or contradicts another.
        """
        given = [name for name in _BLURS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{', '.join(map(option, given))}: each is the blur of the photo; use one of them")
        for name, value in (("blur", self.blur), ("defocus", self.defocus), ("noise", self.noise)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise OptionError(name, f"{value:g}", "must be a number of at least 0")
        if self.motion is not None and not (all(map(math.isfinite, self.motion)) and self.motion[0] >= 0):
            raise OptionError("motion", "{:g},{:g}".format(*self.motion), "must be a length of at least 0, and an angle")
        if self.noise is not None and self.noise > 255:
            raise OptionError("noise", f"{self.noise:g}", "is in gray levels of 0 to 255")
        if self.light not in (None, *LIGHTS):
            raise OptionError("light", self.light, f"must be {' or '.join(LIGHTS)}")
        if self.light and self.only_fills:
            raise OptionError("light", self.light, f"is that of a blur, and {option('mask')} alone only fills; name the blur")
        if not 0 <= self.strength <= 1:
            raise OptionError("strength", f"{self.strength:g}", "must be from 0 (the photo as given) to 1 (the result alone)")
        if self.strength < 1 and self.enlarge > 1:
            raise OptionError(
                "strength", f"{self.strength:g}", f"mixes in the photo, which is smaller with {option('enlarge')}"
            )
        if self.temperature is not None and not 0 <= self.temperature <= 1:
            raise OptionError("temperature", f"{self.temperature:g}", "must be from 0 (one image) to 1 (draws)")
        if self.kernel is not None and self.enlarge > 1:
            text = f"{option('kernel')} with {option('enlarge')}: a kernel has the pixels of the photo, and no finer ones"
            raise UsageError(f"{text}; use {option('blur')}, {option('defocus')} or {option('motion')}")
        if self.spread and self.count < 2:
            raise UsageError(f"{option('spread')}: needs several draws; raise {option('n')} {self.count}")
        if self.temperature == 0 and self.count > 1:
            few = f"{option('temperature')} 0: gives one image, the same for every draw"
            raise UsageError(f"{few}; leave out {option('n')}, {option('mean')} and {option('spread')}, or raise it")

    @property
    def count(self) -> int:
        """Number of draws."""
        return self.n or (_DRAWS if self.mean or self.spread else 1)

    @property
    def chosen_temperature(self) -> float:
        """The temperature, or its default; means and spreads need draws from the posterior."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.mean or self.spread else _TEMPERATURE

    @property
    def for_spread(self) -> RestoreOptions:
        """For the spread shown beside a result: the same draws, or for a single one a few at temperature 1."""
        return self if self.count > 1 else replace(self, n=_COMPARED_DRAWS, spread=True, temperature=1.0)

    @property
    def only_fills(self) -> bool:
        """Whether all known pixels of the photo are kept unchanged."""
        return self.mask is not None and self.noise is None and self.enlarge == 1 and not self.has_blur

    @property
    def damage(self) -> str:
        """The known damage in words, kernels and masks by their digests; empty if there is none."""
        parts = [
            *([f"kernel {digest(self.kernel)}"] if self.kernel is not None else []),
            *(["motion of {:g} px at {:g} degrees".format(*self.motion)] if self.motion is not None else []),
            *([f"{name} {getattr(self, name):g} px" for name in ("blur", "defocus") if getattr(self, name)]),
            *([f"reduced {self.enlarge} times"] if self.enlarge > 1 else []),
            *([f"{self.mask.mean():.0%} missing (mask {digest(self.mask)})"] if self.mask is not None else []),
            *([f"noise {self.noise:g}"] if self.noise else []),
        ]
        return ", ".join(parts)

    @property
    def flags(self) -> str:
        """The command's options that decide the result; kernels and masks by their digests."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("blur", "defocus", "noise")}
        given |= {
            "light": self.light,
            "strength": self.strength if self.strength < 1 else None,
            "enlarge": self.enlarge if self.enlarge > 1 else None,
        }
        given["motion"] = None if self.motion is None else "{:g},{:g}".format(*self.motion)
        given |= {name: None if (a := getattr(self, name)) is None else digest(a) for name in ("kernel", "mask")}
        given |= {"temperature": self.chosen_temperature, "steps": self.steps}
        given |= {"seed": self.seed if self.chosen_temperature else None, "n": self.count if self.mean else None}
        parts = [
            f"--{name} {value}" if isinstance(value, str) else f"--{name} {value:.10g}"
            for name, value in given.items()
            if value is not None
        ]
        return " ".join([*parts, *(["--mean"] if self.mean else [])])

    @property
    def has_blur(self) -> bool:
        """Whether a blur is given."""
        return any(getattr(self, name) is not None for name in _BLURS)


def digest(array: NDArray[Any]) -> str:
    """The first 16 hex digits of the SHA-256 of an array's values."""
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def _filter(options: RestoreOptions, shape: tuple[int, int], blur_px: float) -> DctFilter | Convolution:
    """The given or Gaussian blur at the resolution of the result."""
    if options.defocus is not None:
        return defocus(shape, options.defocus * options.enlarge)
    if options.motion is not None or options.kernel is not None:
        kernel = torch.from_numpy(options.kernel) if options.kernel is not None else _motion(options)
        return even_kernel(shape, kernel) if is_even(kernel) else Convolution(kernel)
    return gaussian_blur(shape, blur_px * options.enlarge)


def _motion(options: RestoreOptions) -> Tensor:
    assert options.motion is not None
    return motion(options.motion[0] * options.enlarge, options.motion[1])


def optics_of(options: RestoreOptions, shape: tuple[int, int], blur_px: float) -> Measurement:
    """The blur and the averages over boxes of an image.

    Args:
        options: the known damage.
        shape: of the image, (H, W); with `enlarge` larger than the photo.
        blur_px: of a Gaussian blur, where `options` give none.
    """
    blur = _filter(options, shape, blur_px if options.blur is None else options.blur)
    if options.enlarge == 1:
        return blur
    if isinstance(blur, DctFilter):
        return replace(blur, box=options.enlarge)
    return Chain((blur, DctFilter(torch.ones(shape, dtype=torch.float64), options.enlarge)))


def margin_px(options: RestoreOptions, blur_px: float) -> int:
    """How far beyond its borders the scene influences a photo, in pixels of the photo; 0 without blur.

    Args:
        options: the known damage.
        blur_px: of a Gaussian blur, where `options` give none.
    """
    if options.kernel is not None:
        return int(max(options.kernel.shape)) // 2
    if options.motion is not None:
        return math.ceil(options.motion[0] / 2)
    if options.defocus is not None:
        return math.ceil(options.defocus)
    return math.ceil(_WIDTHS * (blur_px if options.blur is None else options.blur))


def response_of(options: RestoreOptions, size: tuple[int, ...]) -> Tensor:
    """The factor of the given blur on the amplitude per frequency of the photo, (h, w)."""
    shape = (int(size[0]), int(size[1]))
    own = _filter(replace(options, enlarge=1), shape, options.blur or 0.0)
    return own.response if isinstance(own, DctFilter) else response(own.kernel, shape)
