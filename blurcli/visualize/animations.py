"""Animation files from pictures: the formats, and how to write them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blurcli import files
from blurcli.errors import OptionError, UsageError, UserError
from blurcli.visualize.palettes import with_shared_palette

_GIF_MIN_SEC = 0.02  # viewers show shorter GIF frames for a tenth of a second
_VIDEO_OPTIONS = {"crf": "12", "preset": "slow", "bf": "0"}  # high quality: fine noise is content here


@dataclass(frozen=True)
class Timing:
    """When the frames of an animation are shown.

    Attributes:
        fps: frames per second.
        hold_sec: how long the last frame stays, in seconds.
        loop: loop count; 0 is endless.
    """

    fps: float = 15.0
    hold_sec: float = 1.5
    loop: int = 0

    def durations_ms(self, count: int, unit_ms: int = 1) -> list[int]:
        """Durations of `count` frames, in whole multiples of `unit_ms`; no frame starts more than half a unit off its time."""
        starts = [round(1000 * i / self.fps / unit_ms) * unit_ms for i in range(count)]
        return [b - a for a, b in pairwise(starts)] + [max(unit_ms, round(1000 * self.hold_sec / unit_ms) * unit_ms)]


class PictureFormat(ABC):
    """A file format for a sequence of pictures."""

    def check(self, path: Path, timing: Timing) -> None:  # noqa: B027  most formats take any timing
        """Raise before the work the errors that `write` would raise after it.

        Raises:
            OptionError: the format cannot represent this timing.
            UserError: a package is missing.
        """

    @abstractmethod
    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        """Write frames of one size, in mode RGB or L, to a file."""


@dataclass(frozen=True)
class PillowFormat(PictureFormat):
    """A lossless format that Pillow writes.

    Attributes:
        name: Pillow's name of the format.
        options: keyword arguments of its writer.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        """Write all frames; Pillow stores equal frames once, with their durations added up."""
        self._save(pictures, path, timing.durations_ms(len(pictures)), timing.loop)

    def _save(self, pictures: Sequence[Image.Image], path: Path, durations_ms: list[int], loop: int) -> None:
        pictures[0].save(
            path,
            format=self.name,
            save_all=True,
            append_images=pictures[1:],
            duration=durations_ms,
            loop=loop,
            **dict(self.options),
        )


class Gif(PillowFormat):
    """GIF: 256 colors, chosen once for all frames, and times in hundredths of a second."""

    def __init__(self) -> None:
        super().__init__("GIF", (("disposal", 1), ("optimize", False)))

    def check(self, path: Path, timing: Timing) -> None:
        """Refuse more frames per second than viewers show."""
        if 1 / timing.fps < _GIF_MIN_SEC:
            reason = f"a GIF shows at most {1 / _GIF_MIN_SEC:g} frames per second; lower it, or write .webp or .png"
            raise OptionError("fps", f"{timing.fps:g}", reason)

    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        """Write all frames in one palette."""
        self._save(with_shared_palette(pictures), path, timing.durations_ms(len(pictures), unit_ms=10), timing.loop)


class H264(PictureFormat):
    """MP4 with H.264 in yuv420p, which every player shows."""

    def check(self, path: Path, timing: Timing) -> None:
        """Refuse a loop count, and a PyAV that is missing or has no encoder."""
        if timing.loop:
            reason = "a video file stores no loop count; leave it out, or write .webp or .png"
            raise OptionError("loop", timing.loop, reason)
        try:
            import av
        except ImportError:
            raise UserError(f"{path}: videos need the package av: pip install av; or write .webp or .gif") from None
        if "libx264" not in av.codecs_available:
            raise UserError(f"{path}: PyAV was built without the encoder libx264; write .webp or .gif")

    def write(self, pictures: Sequence[Image.Image], path: Path, timing: Timing) -> None:
        """Encode all frames. H.264 needs even sides: the last row or column is repeated where they are odd."""
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


PICTURE_FORMATS: dict[str, PictureFormat] = {
    ".gif": Gif(),
    ".webp": PillowFormat("WEBP", (("lossless", True), ("method", 2))),
    ".png": PillowFormat("PNG"),
    ".apng": PillowFormat("PNG"),
    ".mp4": H264(),
}
"""The formats by suffix."""


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
    """Raise before the work the errors of `save_animation`.

    Raises:
        UsageError: the suffix is unknown, or the format cannot represent this timing.
        UserError: .mp4 without PyAV, or without its encoder for H.264.
    """
    form = PICTURE_FORMATS.get(path.suffix.lower())
    if form is None:
        raise UsageError(f"{path}: unknown format of an animation; end the name in {', '.join(PICTURE_FORMATS)}")
    form.check(path, timing)
