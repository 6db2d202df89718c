"""One palette of 256 colors for all frames of a GIF."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

_COLORS = 256
_NOISE_COLORS = 48  # for everything except smooth regions: shades are invisible in noise
_NOISE_STEP = 40  # mean difference between unequal neighboring pixels, in gray levels: images are below it, noise is above it
_SMOOTH_RANGE = 16  # largest difference within 3x3 pixels of a smooth region, in gray levels
_LOOKUP_OFFSET = 1  # Pillow compares the palette with the darkest corner of cells of 4 gray levels, not the center
_MOST_FRAMES = 16  # enough for every phase of a process
_MOST_PIXELS = 1 << 16  # more pixels take longer and change nothing visible


def with_shared_palette(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """All pictures with one palette of 256 colors, without dithering: a palette per frame would flicker, dithering would crawl.

    Most colors are chosen from the smooth regions of the first and the last frame, where banding would be visible.

    Args:
        pictures: frames of one size, in mode RGB or L.

    Returns:
        Pictures in mode P; gray pictures (mode L) unchanged, because they have at most 256 shades.
    """
    if pictures[0].mode == "L":
        return list(pictures)
    colors = _choose_colors(_smooth_pixels(pictures), _COLORS - _NOISE_COLORS)
    colors += _choose_colors(_sampled_pixels(pictures), _NOISE_COLORS)
    lookup = Image.new("P", (1, 1))
    lookup.putpalette([max(0, value - _LOOKUP_OFFSET) for value in colors])
    indexed = [picture.quantize(palette=lookup, dither=Image.Dither.NONE) for picture in pictures]
    for picture in indexed:
        picture.putpalette(colors)
    return indexed


def _choose_colors(pixels: NDArray[np.uint8], count: int) -> list[int]:
    """At most `count` colors for pixels (N, 3): R, G, B, R, G, B, ..."""
    sample = np.ascontiguousarray(pixels[:: max(1, len(pixels) // _MOST_PIXELS)])
    # Maximum coverage leaves no color far from all chosen ones; a median cut would spend its colors on large plain areas.
    quantized = Image.fromarray(sample[None]).quantize(count, Image.Quantize.MAXCOVERAGE, kmeans=1)
    return (quantized.getpalette() or [])[: 3 * count]


def _smooth_pixels(pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Pixels (N, 3) of the smooth regions of the first and last frame, except for frames of noise."""
    ends = (pictures[0], pictures[-1])
    clean = [end for end in ends if _roughness(end) <= _NOISE_STEP] or [min(ends, key=_roughness)]
    found = []
    for end in clean:
        highest, lowest = end.filter(ImageFilter.MaxFilter(3)), end.filter(ImageFilter.MinFilter(3))
        smooth = np.asarray(ImageChops.difference(highest, lowest)).max(-1) <= _SMOOTH_RANGE
        found.append(np.asarray(end)[smooth if smooth.any() else np.ones_like(smooth)])
    return np.concatenate(found)


def _roughness(picture: Image.Image) -> float:
    """Mean difference between unequal neighboring pixels, in gray levels; an enlargement does not change it."""
    pixels = np.asarray(picture).astype(np.int16)
    steps = np.concatenate([np.abs(np.diff(pixels, axis=axis)).mean(-1).ravel() for axis in (0, 1)])
    steps = steps[steps > 0]
    return float(steps.mean()) if len(steps) else 0.0


def _sampled_pixels(pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Pixels (N, 3) of evenly spaced frames."""
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST_FRAMES)).round().astype(int)
    return np.concatenate([np.asarray(pictures[i]).reshape(-1, 3) for i in chosen])
