"""Trajectories: the frames of processes over time; several processes share one clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blurcli.base.errors import OptionError, UsageError, option
from blurcli.core.bands import Bands, band_means, frequency_bands
from blurcli.core.colors import ModelSpace
from blurcli.core.dct import dct2, idct2
from blurcli.core.process import Process
from blurcli.core.rng import ImageNoise
from blurcli.core.sampling_options import SamplingConfig
from blurcli.data.images import Pixels
from blurcli.families import Start
from blurcli.model.pipeline import Pipeline, to_uint8

_BANDS_PER_OCTAVE = 3


@dataclass(frozen=True)
class AnimatedProcess:
    """A process to animate.

    Attributes:
        title: its name, such as that of a run; pictures add a description of the process.
        process: the process.
        model: a network trained for it; None if only its forward process is shown.
        sampling: how its images are sampled; None for the preset's options. For a forward process, its
            label, unless None, is the class of the images.
        centered: whether it diffuses images in [-1, 1]; else in [0, 1].
    """

    title: str
    process: Process
    model: Pipeline | None = None
    sampling: SamplingConfig | None = None
    centered: bool = True

    def diffuse(self, x: Tensor, t: float, eps: Tensor) -> Tensor:
        """The states at time t of images x (B, C, H, W) in [-1, 1] with noise eps, for display."""
        space = ModelSpace(centered=self.centered)
        return space.to_rgb(self.process.diffuse(space.from_rgb(x), torch.full((len(x),), t), eps))

    @property
    def blurs(self) -> bool:
        """Whether the process blurs at all."""
        return float(self.process.blur_sigma(torch.ones(1, dtype=torch.float64))) > 0


@dataclass(frozen=True)
class View:
    """The content of the frames of a trajectory.

    Attributes:
        times: t in [0, 1] of every frame, ascending for a forward and descending for a reverse process; or a number of frames,
            uniform in the sampler's steps, for the reverse process of a single model.
        show: `z`, the states; `x_hat`, the estimates of the clean image; `both`; or, for a forward process, `blur`: the states,
            and beside them the images with the blur but without noise.
    """

    times: Sequence[float] | int
    show: str = "z"

    @property
    def shows_estimates(self) -> bool:
        """Whether it needs a network."""
        return self.show in ("x_hat", "both")


@dataclass(frozen=True)
class Panel:
    """One kind of image of one process over time.

    Attributes:
        title: its title.
        process: the process.
        frames: images (N, C, H, W) uint8, one array per time.
        labels: time, noise and blur of each frame, separated by two spaces.
    """

    title: str
    process: Process
    frames: list[Pixels]
    labels: list[str]


@dataclass(frozen=True)
class Trajectory:
    """One direction of an animation.

    Attributes:
        direction: `forward`, from images to noise, or `reverse`.
        times: t in [0, 1] of every frame.
        panels: the panels, side by side.
    """

    direction: str
    times: list[float]
    panels: list[Panel]


def uniform_times(process: Process, count: int, spacing: str) -> list[float]:
    """`count` times from 0 to 1, uniform in `time` or in the `logsnr` of a process.

    Raises:
        OptionError: `logsnr`, for a process with constant noise.
    """
    if spacing == "time":
        return torch.linspace(0, 1, count, dtype=torch.float64).tolist()
    try:
        return process.uniform_in_logsnr(count).tolist()
    except ValueError as error:
        raise OptionError("spacing", spacing, f"{error}; use time") from None


@torch.inference_mode()
def forward_trajectory(
    processes: Sequence[AnimatedProcess], images: Pixels, seed: int, view: View, classes: Sequence[str] | None = None
) -> Trajectory:
    """Images that dissolve in noise, with the same noise for all processes.

    It is the initial noise of images 0 to N - 1 of the seed for the first model, so that a reverse trajectory of that seed
    continues this one.

    Args:
        processes: with models, unless only states are shown.
        images: clean images (N, C, H, W) uint8.
        seed: seed of the noise.
        view: with ascending times from 0; the frame at 0 shows the images themselves. Estimates are without guidance.
        classes: name of the class of every image; None where they are unknown: estimates are then unconditional.

    Raises:
        UsageError: estimates without classes, of a model that was trained with classes only.
    """
    assert not isinstance(view.times, int)
    x = torch.from_numpy(np.array(images)).float() / 127.5 - 1
    models = [one.model for one in processes if one.model is not None]
    eps = models[0].initial_noise(len(x), seed).cpu() if models else ImageNoise(seed, range(len(x)))(x)
    panels = []
    for one in processes:
        conditions = _conditions_forward(one, len(x), seed, classes) if view.shows_estimates else {}
        recorder = _Recorder(one, view.show, conditions, clean_end=True)
        for t in view.times:
            recorder.record(t, x if t == 0 else one.diffuse(x, t, eps), _blurred(one.process, x, torch.full((len(x),), t)))
        panels += recorder.panels
    return Trajectory("forward", list(view.times), panels)


@torch.inference_mode()
def reverse_trajectory(
    processes: Sequence[AnimatedProcess],
    count: int,
    seed: int,
    view: View,
    images: Pixels | None = None,
    on_step: Callable[[int], None] = lambda done: None,
) -> Trajectory:
    """The sampling of images 0 to count - 1 of a seed; the last frame shows the result of `Pipeline.generate`.

    Frames between two steps of a sampler are interpolated linearly.

    Args:
        processes: with models.
        count: number of images.
        seed: seed of the images.
        view: with descending times from 1 to 0, or with a number of frames.
        images: clean images (N, C, H, W) uint8 to blur and start from, for families that start from images; None for the stored
            images of the model. Other families ignore them.
        on_step: receives the number of finished steps, over all processes.
    """
    done = itertools.count(1)
    panels: list[Panel] = []
    times: list[float] = []
    for one in processes:
        assert one.model is not None
        sampling = one.sampling or one.model.sampling()
        conditions = one.model.conditions(range(count), seed, sampling)
        recorder = _Recorder(one, view.show, conditions, clean_end=sampling.final != "noisy")
        observer = _SamplerObserver(recorder, view.times, sampling.steps, lambda: on_step(next(done)))
        start = Start(images if one.model.family.starts_from_images else None)
        (final,) = one.model.generate(count, seed, sampling, start=start, batch_size=count, on_step=observer)
        observer.finish(final)
        panels += recorder.panels
        times = times or observer.times
    return Trajectory("reverse", times, panels)


def _conditions_forward(one: AnimatedProcess, count: int, seed: int, classes: Sequence[str] | None) -> dict[str, Any]:
    """What the network gets with images that dissolve: the class that is chosen for them, or their own."""
    assert one.model is not None
    if one.sampling is not None and one.sampling.label is not None:
        return one.model.conditions(range(count), seed, replace(one.sampling, guidance=1.0))
    try:
        return one.model.conditions_of(one.model.labels_of(classes))
    except UsageError as error:
        raise UsageError(f"{error.text}, or name their class with {option('label')}") from None


def _blurred(process: Process, x: Tensor, t: Tensor) -> Tensor:
    """Images (B, C, H, W) with the blur of times t (B,), without noise, at their own contrast: the mean is not blurred."""
    alpha = process.alpha(t.double())
    return idct2((alpha / alpha[..., :1, :1]).to(x) * dct2(x))


def power_spectra(panel: Panel) -> tuple[Bands, list[list[float]]]:
    """The power spectrum of every frame: mean squared DCT coefficients of images in [-1, 1] per frequency band.

    Returns:
        The bands, without the image mean, and one number per band for every frame.
    """
    band, bands = frequency_bands(*panel.process.shape, _BANDS_PER_OCTAVE)
    spectra = [(dct2(torch.from_numpy(frame).float() / 127.5 - 1) ** 2).mean(0) for frame in panel.frames]
    return bands[1:], [band_means(spectrum, band)[1:].tolist() for spectrum in spectra]


class _Recorder:
    """Converts states of one process to the frames of its panels.

    Args:
        animated: the process.
        show: see `View`.
        conditions: keyword arguments of the network for estimates, each tensor (B, ...).
        clean_end: whether the frame at t = 0 shows images without noise instead of the state, which has a little noise.
    """

    def __init__(self, animated: AnimatedProcess, show: str, conditions: dict[str, Any], clean_end: bool) -> None:
        self._animated, self._conditions, self._clean_end = animated, conditions, clean_end
        title = f"{animated.process.title} ({animated.title})"
        titles = {"z": f"states z_t: {title}", "x_hat": f"estimates x_hat: {title}", "blur": f"blur alone: {title}"}
        kinds = {"both": ("z", "x_hat"), "blur": ("blur", "z"), "z": ()}.get(show, (show,))
        panels = {kind: titles[kind] for kind in kinds} or {"z": title}
        self._by_kind = {kind: Panel(text, animated.process, [], []) for kind, text in panels.items()}

    @property
    def panels(self) -> list[Panel]:
        return list(self._by_kind.values())

    def record(self, t: float, z: Tensor, blurred: Tensor | None = None) -> None:
        """Add a frame for the states z (B, C, H, W), about [-1, 1]; `blurred` are those of a forward process without noise."""
        for shown, panel in self._by_kind.items():
            picture = z
            if shown == "x_hat" and t > 0:
                picture = self._estimate(t, z)
            elif shown == "blur":
                assert blurred is not None
                picture = blurred
            panel.frames.append(to_uint8(picture).numpy())
            panel.labels.append(_label(shown, panel.process, t, clean=t == 0 and self._clean_end))

    def _estimate(self, t: float, z: Tensor) -> Tensor:
        model = self._animated.model
        assert model is not None
        return model.estimate(z.to(model.state_device), t, **self._conditions)


def _label(shown: str, process: Process, t: float, clean: bool) -> str:
    """The label of a frame at time t of the panel `shown` (see `View`); an estimate has neither noise nor blur."""
    if shown == "x_hat":
        return f"t {t:.2f}"
    time, side = torch.tensor(t, dtype=torch.float64), max(process.shape)
    noise = "no noise" if clean or shown == "blur" else f"log-SNR {float(process.logsnr(time)):+.1f}"
    sigma = float(process.blur_sigma(time))
    # Beyond the size of the image only its mean remains, and the number has no meaning.
    return f"t {t:.2f}  {noise}  blur " + (f"> {side} px" if sigma > side else f"{sigma:.1f} px")


class _SamplerObserver:
    """Observes a sampler and records frames at chosen positions between its start (0) and its end (1).

    Args:
        recorder: receives the states.
        times: t of the frames, descending from 1, for frames at positions 1 - t; or their number, for frames spread uniformly
            over the steps.
        steps: number of steps of the sampler.
        on_step: called after every step.
    """

    def __init__(self, recorder: _Recorder, times: Sequence[float] | int, steps: int, on_step: Callable[[], None]) -> None:
        self._recorder = recorder
        self._by_time = not isinstance(times, int)
        self._ahead = torch.linspace(0, 1, times).tolist() if isinstance(times, int) else [1 - t for t in times]
        self._steps, self._on_step = steps, on_step
        self._last: tuple[float, float, Tensor] | None = None
        self.times: list[float] = []

    def __call__(self, i: int, t: float, z: Tensor, x_hat: Tensor) -> None:
        """Record the frames up to step i, which begins at time t in state z."""
        self._advance(1 - t if self._by_time else i / self._steps, t, z)
        self._on_step()

    def finish(self, images: Tensor) -> None:
        """Record the remaining frames, up to the finished images."""
        self._advance(1.0, 0.0, images)

    def _advance(self, position: float, t: float, z: Tensor) -> None:
        last_position, last_t, last_z = self._last or (position, t, z)
        while self._ahead and self._ahead[0] <= position + 1e-9:
            wanted, length = self._ahead.pop(0), position - last_position
            fraction = min(1.0, (wanted - last_position) / length) if length else 1.0
            self.times.append(last_t + fraction * (t - last_t))
            self._recorder.record(self.times[-1], torch.lerp(last_z, z, fraction))
        self._last = position, t, z
