"""The Python interface of animations."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from PIL import Image

from blurcli.api.images import Images
from blurcli.api.options import check_pixels, given_names
from blurcli.base import console
from blurcli.base.errors import OptionError, UsageError, option
from blurcli.core.sampling_options import SamplingConfig, SamplingKeywords
from blurcli.model.pipeline import Pipeline
from blurcli.visualize.frames import default_scale
from blurcli.visualize.grids import tiled_size
from blurcli.visualize.outputs import Presentation, output_for
from blurcli.visualize.trajectories import (
    AnimatedProcess,
    Trajectory,
    View,
    forward_trajectory,
    reverse_trajectory,
    uniform_times,
)

_FRAMES = 41
_NOTEBOOK_PX = 256  # approximate width in a notebook, which stores the GIF


class AnimationKeywords(SamplingKeywords, total=False):
    """Options of the content of an animation.

    Keys:
        direction: `reverse`, from noise to images (the default); `forward`; or `both`.
        images: images that dissolve, for `forward` and `both`: `Images`, or an array (N, H, W, C) uint8 in the model's size.
            Their class, for estimates of a class-conditional model, is `label`.
        frames: number of frames, at least 2; 41 if not given.
        spacing: `steps` of the sampler (the default of `reverse`), `time`, or `logsnr`.
        show: `z`, the states (the default); `x_hat`, the estimates of the clean image; `both`; or, for `forward`, `blur`: the
            states, and beside them the images with blur but without noise.
    """

    direction: Literal["reverse", "forward", "both"]
    images: Images | np.ndarray[Any, np.dtype[np.uint8]]
    frames: int
    spacing: Literal["steps", "time", "logsnr"]
    show: Literal["z", "x_hat", "both", "blur"]


class PresentationKeywords(TypedDict, total=False):
    """Options of the presentation of an animation.

    Keys:
        fps: frames per second.
        hold_sec: how long the last frame stays, in seconds.
        loop: how many times it is played; 0 is endless.
        scale: enlargement by whole pixels.
        columns: images per row.
        labels: whether to write time, log-SNR and blur on every frame.
    """

    fps: float
    hold_sec: float
    loop: int
    scale: int
    columns: int
    labels: bool


class Animation:
    """A process over time; a notebook plays it.

    Args:
        trajectories: one or both directions.
        title: its title.

    Attributes:
        trajectories: as given; each has `times` and, per panel, `frames` (N, C, H, W) uint8.
        title: as given.
    """

    def __init__(self, trajectories: list[Trajectory], title: str) -> None:
        self.trajectories, self.title = trajectories, title

    def frames(self, *, scale: int | None = None, columns: int | None = None, labels: bool = False) -> list[Image.Image]:
        """One picture per frame.

        Args:
            scale: see `PresentationKeywords`.
            columns: likewise.
            labels: likewise.
        """
        return Presentation(scale=scale, columns=columns, labels=labels).pictures(self.trajectories)

    def save(self, path: str | Path, **options: Unpack[PresentationKeywords]) -> Path:
        """Write it, as `blurdiff animate` does: .gif, .webp, .png, .mp4, .html, or a folder of frames.

        Args:
            path: the file or folder; an existing file is replaced.
            **options: see `PresentationKeywords`.

        Raises:
            UsageError: the suffix is unknown, or an option does not fit the format.
            UserError: it cannot be written.
        """
        path = Path(path).expanduser()
        output, presentation = output_for(path), Presentation(**options)
        output.check(path, presentation)
        panels = self.trajectories[0].panels
        count, _, *size = panels[0].frames[0].shape
        output.check_size(path, *presentation.picture_size(len(panels), count, (size[0], size[1])))
        output.write(self.trajectories, self.title, path, presentation)
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        panels = self.trajectories[0].panels
        frame = panels[0].frames[0]
        scale = default_scale(len(panels), tiled_size(len(frame), frame.shape[-2:]), _NOTEBOOK_PX)
        with tempfile.TemporaryDirectory() as folder:
            content = self.save(Path(folder) / "animation.gif", scale=scale).read_bytes()
        return {"image/gif": base64.b64encode(content).decode(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Animation({self.title}: {sum(len(one.times) for one in self.trajectories)} frames)"


def animate(
    pipeline: Pipeline, title: str, n: int, seed: int, options: Mapping[str, Any], sampling: SamplingConfig
) -> Animation:
    """The animation of a model.

    Args:
        pipeline: the model.
        title: its name.
        n: number of images.
        seed: seed of the images.
        options: see `AnimationKeywords`.
        sampling: how images are made.

    Raises:
        UsageError: options that do not fit each other.
    """
    direction, show = options.get("direction", "reverse"), options.get("show", "z")
    for name, value, known in (
        ("direction", direction, ("reverse", "forward", "both")),
        ("show", show, ("z", "x_hat", "both", "blur")),
        ("spacing", options.get("spacing", "time"), ("steps", "time", "logsnr")),
    ):
        if value not in known:
            raise OptionError(name, value, f"must be one of {', '.join(known)}")
    given, frames = options.get("images"), options.get("frames", _FRAMES)
    if (given is None) != (direction == "reverse"):
        raise UsageError(f"{option('images')}: required for direction forward and both, not allowed for reverse")
    spacing = options.get("spacing", "steps" if direction == "reverse" else "time")
    if spacing == "steps" and direction != "reverse":
        raise OptionError("spacing", spacing, "applies only to the reverse process; use time or logsnr")
    of_estimates = ("label",) if show in ("x_hat", "both") else ()
    unused = given_names(options, *(name for name in SamplingKeywords.__annotations__ if name not in of_estimates))
    if direction == "forward" and unused:
        raise UsageError(f"{unused}: apply to the reverse process; leave them out, or use {option('direction')} reverse")
    if show == "blur" and direction != "forward":
        raise OptionError("show", show, "applies to the forward process; use direction forward")
    process = AnimatedProcess(title, pipeline.process, pipeline, sampling, pipeline.config.data.centered)
    times = uniform_times(process.process, frames, spacing) if spacing != "steps" else []
    clean = None
    if given is not None:
        pixels, wanted = np.asarray(given), (*pipeline.config.data.image_size, pipeline.config.data.channels)
        if pixels.ndim != 4 or not len(pixels) or pixels.shape[1:] != wanted:
            raise OptionError("images", pixels.shape, f"must be (N, {wanted[0]}, {wanted[1]}, {wanted[2]}) uint8")
        check_pixels("images", pixels)
        clean = np.ascontiguousarray(pixels[:n].transpose(0, 3, 1, 2))
        n = len(clean)
    trajectories = []
    if clean is not None:
        view = View(times, show)
        trajectories.append(forward_trajectory([process], clean, seed, view))
        if view.shows_estimates and pipeline.classes is not None and sampling.label is None:
            console.notify("the classes of the images are unknown: estimates are without classes")
    if direction != "forward":
        view = View(frames if spacing == "steps" else times[::-1], show)
        with console.progress("sampling", sampling.steps) as update:
            trajectories.append(reverse_trajectory([process], n, seed, view, clean, update))
    return Animation(trajectories, title)
