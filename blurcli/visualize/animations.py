"""Write pictures as animation files: the formats and their limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blurcli.base import files
from blurcli.base.errors import OptionError, UsageError, UserError, importing, option
from blurcli.data.outputs import mark
from blurcli.visualize.palettes import with_shared_palette

# Browsers slow shorter frames down to a tenth of a second.
_GIF_MIN_MS = 20
_MIN_MS = 11  # of WebP and APNG
_VIDEO_OPTIONS = {"crf": "12", "preset": "slow", "bf": "0"}  # high quality: fine noise is content here


@dataclass(frozen=True)
class Timing:
    """The timing of the frames of an animation.

    Attributes:
        fps: frames per second.
        hold_sec: how long the last frame stays, in seconds.
        loop: how many times it is played; 0 is endless.
    """

    fps: float = 15.0
    hold_sec: float = 1.5
    loop: int = 0

    def durations_ms(self, count: int, unit_ms: int = 1, least_ms: int = 1) -> list[int]:
        """Durations of `count` frames, in multiples of `unit_ms`; no frame starts more than half a unit early or late.

        The last frame lasts at least `least_ms`.
        """
        starts = [round(1000 * i / self.fps / unit_ms) * unit_ms for i in range(count)]
        return [b - a for a, b in pairwise(starts)] + [max(least_ms, round(1000 * self.hold_sec / unit_ms) * unit_ms)]


@dataclass(frozen=True)
class Limits:
    """The limits of a file format.

    Attributes:
        fps: highest number of frames per second.
        frame_sec: longest duration of a frame, in seconds.
        loop: highest loop count.
        side_px: largest width or height, in pixels.
    """

    fps: float
    frame_sec: float
    loop: int
    side_px: int


class PictureFormat(ABC):
    """A file format for a sequence of pictures.

    Attributes:
        limits: its limits.
    """

    limits: Limits

    def check(self, path: Path, timing: Timing) -> None:
        """Raise, before the work, the errors of `write`.

        Raises:
            OptionError: the format cannot represent this timing.
            UserError: a package is missing.
        """
        kind, limits = path.suffix.lower(), self.limits
        if timing.fps > limits.fps:
            faster = " or ".join(suffix for suffix in _FASTER if PICTURE_FORMATS[suffix].limits.fps >= timing.fps)
            reason = f"{kind} shows at most {limits.fps:g} frames per second; lower it{faster and f', or write {faster}'}"
            raise OptionError("fps", f"{timing.fps:g}", reason)
        for name, shown, seconds in (("fps", timing.fps, 1 / timing.fps), ("hold_sec", timing.hold_sec, timing.hold_sec)):
            if seconds > limits.frame_sec:
                reason = f"{kind} shows a frame for at most {limits.frame_sec:g} s; use less, or write .webp"
                raise OptionError(name, f"{shown:g}", reason)
        if timing.loop > limits.loop:
            raise OptionError("loop", timing.loop, f"{kind} is played at most {limits.loop:,} times; 0 is endless")

    def check_size(self, path: Path, width: int, height: int) -> None:
        """Raise, before the work, an OptionError for frames that are too large for the format; sizes in pixels."""
        if max(width, height) > self.limits.side_px:
            reason = f"{path.suffix.lower()} stores at most {self.limits.side_px:,} pixels per side"
            raise UsageError(
                f"{path}: frames of {width}x{height} pixels, and {reason}; lower {option('scale')} or {option('n')}, or set "
                f"{option('columns')}"
            )

    @abstractmethod
    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        """Write frames of one size, in mode RGB or L, to a file."""


@dataclass(frozen=True)
class PillowFormat(PictureFormat):
    """A lossless format written by Pillow.

    Attributes:
        name: Pillow's name of the format.
        limits: its limits.
        options: keyword arguments of its writer.
    """

    name: str
    limits: Limits
    options: tuple[tuple[str, Any], ...] = ()

    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        """Write all frames; Pillow merges equal frames and adds their durations."""
        self._save(pictures, path, timing.durations_ms(len(pictures), least_ms=_MIN_MS), {"loop": timing.loop})

    def _save(self, pictures: Sequence[Image.Image], path: Path, durations_ms: list[int], loop: dict[str, int]) -> None:
        pictures[0].save(
            path,
            format=self.name,
            save_all=True,
            append_images=pictures[1:],
            duration=durations_ms,
            **loop,
            **mark(self.name),
            **dict(self.options),
        )


class Gif(PillowFormat):
    """GIF: 256 colors, chosen once for all frames, and times in hundredths of a second."""

    def __init__(self) -> None:
        super().__init__("GIF", Limits(1000 / _GIF_MIN_MS, 655.35, 65536, 65535), (("disposal", 1), ("optimize", False)))

    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        # The file has the number of repetitions after the first time; without it, the animation is played once.
        loop = {} if timing.loop == 1 else {"loop": max(0, timing.loop - 1)}
        self._save(with_shared_palette(pictures), path, timing.durations_ms(len(pictures), 10, _GIF_MIN_MS), loop)


class H264(PictureFormat):
    """MP4 with H.264 in yuv420p, which every player supports."""

    limits = Limits(1000, 86_400, 1, 8192)

    def check(self, path: Path, timing: Timing) -> None:
        """Refuse a loop count as well, and a PyAV that is missing or has no encoder."""
        super().check(path, replace(timing, loop=0))
        if timing.loop:
            reason = "a video file stores no loop count; leave it out, or write .webp or .png"
            raise OptionError("loop", timing.loop, reason)
        with importing("av", str(path), "; or write .webp or .gif"):
            import av
        if "libx264" not in av.codecs_available:
            raise UserError(f"{path}: PyAV was built without the encoder libx264; write .webp or .gif")

    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        """Encode all frames. H.264 needs even sides: for odd sides the last row or column is repeated."""
        import av

        durations_ms = timing.durations_ms(len(pictures))
        width, height = (side + side % 2 for side in pictures[0].size)
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(1000, durations_ms[0]), options=_VIDEO_OPTIONS)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            packets = []
            for picture, start_ms in zip(pictures, accumulate(durations_ms, initial=0), strict=False):
                pixels = np.asarray(picture.convert("RGB"))
                pixels = np.pad(pixels, ((0, height - picture.height), (0, width - picture.width), (0, 0)), mode="edge")
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = start_ms, Fraction(1, 1000)
                packets += stream.encode(frame)
            packets += stream.encode()
            for packet, duration_ms in zip(packets, durations_ms, strict=True):
                packet.duration = duration_ms
                container.mux(packet)


_FPS = 90.0  # in whole milliseconds, none below _MIN_MS
_APNG = Limits(_FPS, 65.535, 2**31 - 1, 65_535)  # as Pillow writes it: milliseconds in 16 bits

PICTURE_FORMATS: dict[str, PictureFormat] = {
    ".gif": Gif(),
    ".webp": PillowFormat("WEBP", Limits(_FPS, 16_777, 65_535, 16_383), (("lossless", True), ("method", 2))),
    ".png": PillowFormat("PNG", _APNG),
    ".apng": PillowFormat("PNG", _APNG),
    ".mp4": H264(),
}
"""The formats by suffix."""

_FASTER = (".webp", ".png", ".mp4")


def save_animation(pictures: Sequence[Image.Image], path: Path, timing: Timing = Timing()) -> None:
    """Write an animation, atomically; the suffix chooses the format.

    Args:
        pictures: frames of one size, in mode RGB or L.
        path: ends in a key of `PICTURE_FORMATS`.
        timing: frames per second, hold and loop count. GIF rounds times to hundredths of a second, without drift.

    Raises:
        UsageError: as `check_animation`.
        UserError: .mp4 without PyAV, or without its encoder for H.264.
    """
    check_animation(path, timing)
    with files.replacing(path) as temporary:
        PICTURE_FORMATS[path.suffix.lower()].write(pictures, temporary, timing)


def check_animation(path: Path, timing: Timing) -> None:
    """Raise, before the work, the errors of `save_animation`.

    Raises:
        UsageError: the suffix is unknown, or the format cannot represent this timing.
        UserError: .mp4 without PyAV, or without its encoder for H.264.
    """
    form = PICTURE_FORMATS.get(path.suffix.lower())
    if form is None:
        raise UsageError(f"{path}: unknown format of an animation; end the name in {', '.join(PICTURE_FORMATS)}")
    form.check(path, timing)
