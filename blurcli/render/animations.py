"""Animations: pictures in, one file out."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from blurcli import files
from blurcli.errors import UsageError, UserError

_FORMATS: dict[str, dict[str, Any]] = {
    ".gif": {"format": "GIF", "disposal": 1, "optimize": False},
    ".webp": {"format": "WEBP", "lossless": True, "method": 2},
    ".png": {"format": "PNG"},
    ".apng": {"format": "PNG"},
}
_VIDEO = ".mp4"
SUFFIXES = (*_FORMATS, _VIDEO)
_SMOOTH_COLOURS = 192  # of the 256 of a GIF
_PALETTE_FRAMES = 16  # frames that the other colours are chosen from: enough to see every phase of the process
_PALETTE_PIXELS = 1 << 16  # that colours are chosen from: more take long, and change nothing that is seen
_SMOOTH = 4  # mean step between neighbouring pixels, in grey levels, of gradients
_NOISE_ROUGHNESS = 32  # the same, above which nothing but noise is seen
_AROUND_PX = 15  # wide enough to tell noise from an edge
_RARELY = 1e-3  # of the pixels around one differ from their neighbours: none, but for rounding
_GIF_MIN_SEC = 0.02  # viewers show shorter GIF frames at a tenth of a second
_VIDEO_OPTIONS = {"crf": "12", "preset": "slow", "bf": "0"}  # noise in fine detail is the content, not a flaw of it


def save_animation(pictures: Sequence[Image.Image], path: Path, fps: float, hold_sec: float = 1.5, loop: int = 0) -> None:
    """Write an animation; the format follows the suffix.

    Args:
        pictures: frames of one size, in mode RGB or L.
        path: .gif (256 colours, chosen once for all frames, undithered), .webp or .png / .apng (lossless), or .mp4 (H.264).
        fps: frames a second. GIF counts in hundredths: frames are rounded so that the whole keeps its length.
        hold_sec: how long the last frame stays, in seconds.
        loop: the file's loop count; 0 is endless. A video has none.

    Raises:
        UsageError: as `check_animation`.
        UserError: .mp4 without PyAV, or its encoder of H.264.
    """
    check_animation(path, fps, loop)
    suffix = path.suffix.lower()
    durations = _durations_ms(len(pictures), fps, hold_sec, unit_ms=10 if suffix == ".gif" else 1)
    if suffix == ".gif":
        pictures = _one_palette(pictures)
    with files.replacing(path) as temporary:
        if suffix == _VIDEO:
            _save_video(pictures, temporary, durations)
        else:
            pictures[0].save(
                temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=loop, **_FORMATS[suffix]
            )


def save_frames(pictures: Sequence[Image.Image], folder: Path) -> None:
    """Write every picture as a PNG named by its number, from 0000.png on."""
    for number, picture in enumerate(pictures):
        with files.replacing(folder / f"{number:04d}.png") as temporary:
            picture.save(temporary, format="PNG")


def check_animation(path: Path, fps: float, loop: int = 0) -> None:
    """Raise the errors of `save_animation` that can be told before the work."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: the name of an animation must end in {', '.join(SUFFIXES)}, or .html for a page")
    if suffix == ".gif" and 1 / fps < _GIF_MIN_SEC:
        raise UsageError(
            f"--fps {fps:g}: a GIF shows at most {1 / _GIF_MIN_SEC:g} frames a second; lower it, or write .webp or .png"
        )
    if suffix == _VIDEO:
        if loop:
            raise UsageError(
                f"--loop {loop}: a video does not say how often it is played; leave it out, or write .webp or .png"
            )
        try:
            import av
        except ImportError:
            raise UserError(f"{path}: videos need one package more: pip install av; or write .webp or .gif") from None
        if "libx264" not in av.codecs_available:
            raise UserError(f"{path}: PyAV was built without the encoder libx264; write .webp or .gif")


def _durations_ms(count: int, fps: float, hold_sec: float, unit_ms: int) -> list[int]:
    """Whole multiples of `unit_ms` whose running sum never strays by more than half of one from the asked time."""
    ends = [round(1000 * i / fps / unit_ms) * unit_ms for i in range(count)]
    return [b - a for a, b in pairwise(ends)] + [max(unit_ms, round(1000 * hold_sec / unit_ms) * unit_ms)]


def _one_palette(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """All pictures in one set of 256 colours: a palette a frame would flicker, and dither would crawl.

    Most colours are those of smooth places, where bands would show. Noise, which has every colour and in which nobody sees a
    shade, makes do with the others: fewer colours are smaller files.
    """
    if pictures[0].mode == "L":
        return list(pictures)
    roughness = [_roughness(p) for p in pictures]
    clean = max(_SMOOTH, float(np.quantile(min(roughness, key=lambda places: float(places.mean())), 0.9)))
    noisy = [np.asarray(places > max(_NOISE_ROUGHNESS, 2 * clean)) for places in roughness]
    seen = np.linspace(0, len(pictures) - 1, min(len(pictures), _PALETTE_FRAMES)).round().astype(int)
    pixels = [np.asarray(pictures[i]) for i in seen]
    few = _colours(np.concatenate([one.reshape(-1, 3) for one in pixels]), 256 - _SMOOTH_COLOURS)
    smooth = np.concatenate([one[roughness[i] <= clean] for i, one in zip(seen, pixels, strict=True)])
    palette = np.concatenate([few, _colours(smooth, _SMOOTH_COLOURS)])
    for_noise, for_all = cKDTree(few), cKDTree(palette)
    indexed = []
    for picture, places in zip(pictures, noisy, strict=True):
        own = np.asarray(picture)
        indices = np.empty(places.shape, np.uint8)
        for nearest, chosen in ((for_noise, places), (for_all, ~places)):
            indices[chosen] = nearest.query(own[chosen])[1]
        indexed.append(Image.fromarray(indices))
        indexed[-1].putpalette(palette.tobytes())
    return indexed


def _roughness(picture: Image.Image) -> NDArray[np.float32]:
    """The mean step between neighbouring pixels around each, in grey levels, (height, width).

    Equal neighbours do not count: enlargement has made most of them.
    """
    pixels = np.asarray(picture).astype(np.int16)
    steps = np.zeros(pixels.shape[:2], np.float32)
    counts = np.zeros_like(steps)
    for axis in (0, 1):
        step = np.abs(np.diff(pixels, axis=axis)).mean(-1)
        inside = (slice(step.shape[0]), slice(step.shape[1]))
        steps[inside] += step
        counts[inside] += step > 0
    around = [uniform_filter(values, _AROUND_PX) for values in (steps, counts)]
    np.divide(around[0], around[1], out=steps, where=around[1] > _RARELY)
    steps[around[1] <= _RARELY] = 0
    return steps


def _colours(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The colours, (at most count, 3), that serve these pixels (N, 3) best: all of them, where there are no more."""
    numbers = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1], np.uint32))
    if len(numbers) <= count:
        return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1).astype(np.uint8)
    sample = Image.fromarray(pixels[None, :: max(1, len(pixels) // _PALETTE_PIXELS)])
    # No colour far from all of these (which the median cut would leave), and most near to one of them.
    chosen = sample.quantize(count, Image.Quantize.MAXCOVERAGE, kmeans=1).getpalette() or []
    return np.array(chosen[: 3 * count], np.uint8).reshape(-1, 3)


def _save_video(pictures: Sequence[Image.Image], path: Path, durations_ms: Sequence[int]) -> None:
    """H.264 in yuv420p, which every player shows; it needs even sides, so that the last line may be there twice."""
    import av

    width, height = (side + side % 2 for side in pictures[0].size)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(1000, durations_ms[0]), options=_VIDEO_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        starts_ms = accumulate(durations_ms, initial=0)
        packets = []
        for picture, start_ms in zip(pictures, starts_ms, strict=False):
            pixels = np.asarray(picture.convert("RGB"))
            pixels = np.pad(pixels, ((0, height - picture.height), (0, width - picture.width), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = start_ms, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet, duration in zip(packets, durations_ms, strict=True):
            packet.duration = duration
            container.mux(packet)
