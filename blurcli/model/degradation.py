"""Blur and noise of a photo, as given or estimated: of the whole, of its parts, and of its colors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurcli.core.blind import Degradation, Interval, estimate
from blurcli.data.photos import Photo
from blurcli.model.photo_space import PhotoSpace
from blurcli.model.restore_options import RestoreOptions, response_of

_PARTS, _LEAST_PX = 3, 64  # parts per side, and their smallest size
_SEVERAL = 3  # parts that must be as sharp: in a dark one, noise may look like detail
_UNLIKE = 1.5  # factor between blurs, or noises, that are told apart
_SHARP_PX = 0.3  # blurs below are alike


def unknown_damage(options: RestoreOptions) -> tuple[str, ...]:
    """Names of what is estimated."""
    if options.mask is not None:
        return ()
    blur = () if options.has_blur or options.enlarge > 1 else ("blur",)
    return (*blur, *(() if options.noise is not None else ("noise",)))


@torch.inference_mode()
def degradation_of(photos: PhotoSpace, photo: Photo, options: RestoreOptions) -> Degradation:
    """Blur and noise of a photo in its pixels and gray levels.

    Where the blur differs over the photo, it is that of the sharpest part. The noise of colors is at least that of brightness:
    cameras smooth colors, so that less is seen of it than there is.
    """
    least = photo.least_noise
    given = Interval(*[options.blur or 0.0] * 3), Interval(*[max(options.noise or 0.0, least)] * 3)
    unknown = unknown_damage(options)
    if not unknown:
        return Degradation(*given)
    found = _estimate(photos, photo, options, unknown)
    if "blur" not in unknown:
        found = replace(found, blur_px=given[0])
    elif min(photo.pixels.shape[1:]) >= _PARTS * _LEAST_PX:
        # The noise, too: where it is stronger than in the whole photo, it would be taken for detail.
        found = _of_sharpest(found, [_estimate(photos, part, options, unknown) for part in _parts(photo)])
    if "noise" not in unknown:
        return replace(found, noise=given[1])
    if photos.opponent and len(photo.pixels) > 1:
        known = options if options.has_blur else replace(options, blur=found.blur_px.value)
        colors = _estimate(photos, photo, known, ("noise",), colors=True).noise.value
        found = replace(found, color_noise=max(colors, found.noise.value))
    return found


def _estimate(
    photos: PhotoSpace, photo: Photo, options: RestoreOptions, unknown: tuple[str, ...], colors: bool = False
) -> Degradation:
    """The estimate of brightness, or of colors, which are often smoothed, in a space that has them apart."""
    height, width = photo.pixels.shape[1:]
    y, per_level, space = photos.to_model(photo), photos.per_level(photo), photos.space((height, width))
    if photos.opponent or (photos.channels == 3 and len(photo.pixels) == 1):
        seen = slice(1, None) if colors else slice(0, 1)
        y, per_level = y[:, seen], per_level[seen]
        space = replace(space, mean=space.mean[seen], variance=space.variance[seen])
    channels = y.flatten(0, 1)  # three gray images are three channels with one spectrum
    scale = float(per_level[0])
    response = None if "blur" in unknown else response_of(options, (height, width))
    noise = None if "noise" in unknown else (options.noise or 0.0) * scale
    step = None if photo.steps is None else _per_frequency(photo.steps, (height, width)) * scale
    if step is not None and photos.opponent and len(photo.pixels) > 1:
        step = step * 3**0.5  # brightness is the sum over the root of 3, and the steps are of the mean
    unclipped = torch.from_numpy(photo.unclipped).to(y.device)
    found = estimate(channels, space, photo.least_noise * scale, unclipped, response, noise, step)
    return replace(found, noise=Interval(*(value / scale for value in (found.noise.low, found.noise.value, found.noise.high))))


def _of_sharpest(whole: Degradation, parts: list[Degradation]) -> Degradation:
    """The blur of the sharpest parts, where parts with enough detail differ."""
    clear = [part.blur_px for part in parts if part.blur_px.high <= _UNLIKE * max(part.blur_px.value, _SHARP_PX)]
    clear.sort(key=lambda blur: blur.value)
    if len(clear) < _SEVERAL:
        return whole
    least, most = clear[_SEVERAL - 1], clear[-1]
    if most.low <= _UNLIKE * max(least.high, _SHARP_PX):
        return whole
    return replace(whole, blur_px=least, blur_range=(least.value, most.value))


def _parts(photo: Photo) -> list[Photo]:
    height, width = (side // _PARTS for side in photo.pixels.shape[1:])
    corners = [(i * height, j * width) for i in range(_PARTS) for j in range(_PARTS)]
    return [
        replace(photo, pixels=photo.pixels[:, top : top + height, left : left + width], alpha=None) for top, left in corners
    ]


def _per_frequency(steps: NDArray[np.float64], size: tuple[int, int]) -> Tensor:
    """A table of blocks of 8x8 pixels, at the frequencies of a photo (h, w)."""
    rows, columns = (np.minimum(np.rint(np.arange(side) * 8 / side), 7).astype(int) for side in size)
    return torch.from_numpy(steps[rows[:, None], columns])


def differ(one: float, other: float) -> bool:
    """Whether two noises are told apart."""
    return max(one, other) > _UNLIKE * min(one, other) and not math.isclose(one, other)
