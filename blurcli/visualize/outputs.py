"""The output formats of an animation: an animated file, a page, a film strip, or a folder of frames."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from blurcli.base import files
from blurcli.base.errors import OptionError, UsageError, option
from blurcli.data.outputs import mark
from blurcli.visualize.animations import PICTURE_FORMATS, Timing, check_animation, save_animation
from blurcli.visualize.frames import default_scale, film_strip, frame_pictures
from blurcli.visualize.grids import tiled_size
from blurcli.visualize.page import save_page
from blurcli.visualize.trajectories import Trajectory

_WIDTH_PX = 512  # approximate width of an animation of one panel without a given scale; twice that for several panels
_STRIP_WIDTH_PX = 1024


@dataclass(frozen=True)
class Presentation:
    """The presentation of an animation; None for defaults.

    Attributes:
        fps: frames per second.
        hold_sec: how long the last frame stays, in seconds.
        loop: how many times it is played; 0 is endless.
        scale: enlargement by whole pixels.
        columns: images per row of a panel.
        labels: time, log-SNR and blur on every frame; None for no labels.
    """

    fps: float | None = None
    hold_sec: float | None = None
    loop: int | None = None
    scale: int | None = None
    columns: int | None = None
    labels: bool | None = None

    @property
    def timing(self) -> Timing:
        """The timing, with defaults for None."""
        given = {"fps": self.fps, "hold_sec": self.hold_sec, "loop": self.loop}
        return Timing(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def picture_size(self, panels: int, count: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of a frame in pixels, without text.

        Args:
            panels: number of panels.
            count: images per panel.
            image_size: (height, width) of an image.
        """
        height, width = tiled_size(count, image_size, self.columns)
        scale = self.scale or default_scale(panels, (height, width), _WIDTH_PX * min(2, panels))
        return panels * width * scale, height * scale

    def pictures(self, trajectories: Sequence[Trajectory]) -> list[Image.Image]:
        """All frames, one direction after another."""
        panels = trajectories[0].panels
        frames = panels[0].frames[0]
        size = tiled_size(len(frames), frames.shape[-2:], self.columns)
        scale = self.scale or default_scale(len(panels), size, _WIDTH_PX * min(2, len(panels)))
        return frame_pictures(trajectories, scale, self.columns, bool(self.labels))


class Output(ABC):
    """One kind of output.

    Attributes:
        description: for messages.
        ignores: names of the fields of `Presentation` without effect on it.
    """

    description: ClassVar[str] = ""
    ignores: ClassVar[tuple[str, ...]] = ()

    def check(self, path: Path, presentation: Presentation) -> None:
        """Raise, before the work, the errors of `write`, and refuse fields without effect.

        Raises:
            UsageError: the path or the presentation does not fit.
            UserError: a package is missing.
        """
        for name, value in (("fps", presentation.fps), ("hold_sec", presentation.hold_sec)):
            if value is not None and not math.isfinite(value):
                raise OptionError(name, value, "must be a finite number")
        unused = ", ".join(option(name) for name in self.ignores if getattr(presentation, name) is not None)
        if unused:
            raise UsageError(f"{unused}: {path} is {self.description}; leave out {unused}")

    def check_size(self, path: Path, width: int, height: int) -> None:  # noqa: B027  most outputs take any size
        """Raise, before the work, a UsageError for frames that are too large; sizes in pixels."""

    @abstractmethod
    def write(self, trajectories: Sequence[Trajectory], title: str, path: Path, presentation: Presentation) -> None:
        """Write trajectories with the same panels; existing files are replaced."""


class AnimatedFile(Output):
    """A file in one of the `PICTURE_FORMATS`."""

    def check(self, path: Path, presentation: Presentation) -> None:
        super().check(path, presentation)
        check_animation(path, presentation.timing)

    def check_size(self, path: Path, width: int, height: int) -> None:
        PICTURE_FORMATS[path.suffix.lower()].check_size(path, width, height)

    def write(self, trajectories: Sequence[Trajectory], title: str, path: Path, presentation: Presentation) -> None:
        save_animation(presentation.pictures(trajectories), path, presentation.timing)


class Page(Output):
    """An interactive HTML page."""

    description = "a page, which has a zoom and shows time, log-SNR and blur"
    ignores = ("scale", "labels")

    def write(self, trajectories: Sequence[Trajectory], title: str, path: Path, presentation: Presentation) -> None:
        """Write the page; the browser enlarges its images."""
        save_page(trajectories, path, title, presentation.timing, presentation.columns)


class FrameFolder(Output):
    """A folder of single frames."""

    description = "a folder of single frames"
    ignores = ("fps", "hold_sec", "loop")

    def write(self, trajectories: Sequence[Trajectory], title: str, path: Path, presentation: Presentation) -> None:
        """Write every frame as a PNG named by its number, from 0000.png on."""
        for number, frame in enumerate(presentation.pictures(trajectories)):
            with files.replacing(path / f"{number:04d}.png") as temporary:
                frame.save(temporary, format="PNG", **mark("PNG"))


class FilmStrip(Output):
    """All frames in one still picture."""

    description = "a still picture with one row per image"
    ignores = ("fps", "hold_sec", "loop", "columns")

    def check(self, path: Path, presentation: Presentation) -> None:
        """Check the suffix, and refuse fields without effect."""
        if path.suffix.lower() != ".png":
            raise UsageError(f"{path}: a film strip is a still picture; end the name in .png")
        super().check(path, presentation)

    def write(self, trajectories: Sequence[Trajectory], title: str, path: Path, presentation: Presentation) -> None:
        width_px = sum(frame.shape[-1] for frame in trajectories[0].panels[0].frames)
        strip = film_strip(trajectories, presentation.scale or max(1, _STRIP_WIDTH_PX // width_px), bool(presentation.labels))
        with files.replacing(path) as temporary:
            strip.save(temporary, format="PNG", **mark("PNG"))


OUTPUTS: dict[str, Output] = {**dict.fromkeys(PICTURE_FORMATS, AnimatedFile()), ".html": Page(), "": FrameFolder()}
"""The outputs by suffix."""


def output_for(path: Path) -> Output:
    """The output for the suffix of a path.

    Raises:
        UsageError: the suffix is unknown.
    """
    output = OUTPUTS.get(path.suffix.lower())
    if output is None:
        known = ", ".join(suffix for suffix in OUTPUTS if suffix)
        raise UsageError(f"{path}: unknown format of an animation; end the name in {known}, or name a folder for single frames")
    return output
