"""What a process does to images over time, frame by frame: forwards, backwards, and several processes under one clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blurcli.core import BlurringDiffusion, HeatDissipation
from blurcli.core.bands import Bands, band_means, frequency_bands
from blurcli.core.dct import dct2
from blurcli.core.process import Process
from blurcli.core.rng import ImageNoise
from blurcli.errors import UsageError
from blurcli.model import Init, Model, to_uint8
from blurcli.render import Images

_BANDS_PER_OCTAVE = 3


@dataclass(frozen=True)
class Subject:
    """A process to be shown.

    Attributes:
        title: what people call it.
        process: the process.
        model: a network that was trained for it; None where only its forward process is asked for.
    """

    title: str
    process: Process
    model: Model | None = None


@dataclass(frozen=True)
class Shot:
    """What one process does over the times of a part.

    Attributes:
        title: what is seen.
        process: the process.
        frames: images (N, C, H, W) uint8, one array a time.
    """

    title: str
    process: Process
    frames: list[Images]


@dataclass(frozen=True)
class Part:
    """One direction of a film.

    Attributes:
        direction: `forward`, from images to noise, or `reverse`.
        times: t in [0, 1] of every frame.
        shots: what is seen side by side.
    """

    direction: str
    times: list[float]
    shots: list[Shot]


def times_of(process: Process, frames: int, spacing: str) -> list[float]:
    """Times from 0 to 1, even in `time` or in the `logsnr` of a process.

    Raises:
        UsageError: even in the log-SNR of heat dissipation, whose noise never changes.
    """
    even = torch.linspace(0, 1, frames, dtype=torch.float64)
    if spacing == "logsnr":
        if not isinstance(process, BlurringDiffusion):
            raise UsageError("--spacing logsnr: the noise of heat dissipation is the same at all times; use --spacing time")
        even = process.time_at(process.logsnr_max + even * (process.logsnr_min - process.logsnr_max))
    return even.tolist()


@torch.inference_mode()
def forward(subjects: Sequence[Subject], images: Images, seed: int, times: list[float], show: str) -> Part:
    """The destruction of images (N, C, H, W) uint8, by all subjects with the same noise.

    It is that from which the first model among them makes images 0 to N - 1 of the seed, so that the reverse process goes on.

    Args:
        subjects: with models, unless `show` is `z`.
        images: what to begin with.
        seed: of the noise.
        times: rising from 0, where the images are shown as they are.
        show: the states, `z`; what the network guesses behind them, `x_hat`; or `both`.
    """
    x = torch.from_numpy(np.array(images)).float() / 127.5 - 1
    models = [subject.model for subject in subjects if subject.model is not None]
    eps = models[0].start(len(x), seed).cpu() if models else ImageNoise(seed, range(len(x)))(x)
    shots = []
    for subject in subjects:
        taken = _Shots(subject, show, seed, "none")
        for t in times:
            taken(t, x if t == 0 else subject.process.diffuse(x, torch.full((len(x),), t), eps))
        shots += taken.shots
    return Part("forward", times, shots)


@torch.inference_mode()
def reverse(
    subjects: Sequence[Subject],
    count: int,
    seed: int,
    times: list[float] | int,
    show: str,
    solvers: Sequence[dict[str, Any]],
    on_step: Callable[[int], None],
    images: Images | None = None,
) -> Part:
    """Images 0 to count - 1 of a seed as they come into being; the last frame is what `Model.generate` gives.

    Between the states at two steps of a sampler, those in a frame are interpolated linearly.

    Args:
        subjects: with models.
        count: how many images.
        seed: of the images.
        times: falling from 1 to 0; or a number of frames that are even in the steps of the only subject's sampler.
        show: as for `forward`.
        solvers: how each subject is sampled, see `Model.solver`.
        on_step: gets the number of steps that are done.
        images: what heat dissipation is to sharpen, once it has blurred them; None for images that the model brings along.
    """
    by_time = not isinstance(times, int)
    positions = torch.linspace(0, 1, times).tolist() if isinstance(times, int) else [1 - t for t in times]
    done = itertools.count(1)
    ways = []
    for subject, solver in zip(subjects, solvers, strict=True):
        taken = _Shots(subject, show, seed, solver["label"], solver["guidance"])
        ways.append(_Way(positions, taken, by_time, solver["steps"], lambda: on_step(next(done))))
        init = Init(images, 1.0) if images is not None and isinstance(subject.process, HeatDissipation) else None
        assert subject.model is not None
        (final,) = subject.model.generate(count, seed, batch_size=count, init=init, on_step=ways[-1], **solver)
        ways[-1].end(final)
    return Part("reverse", ways[0].times, [shot for way in ways for shot in way.taken.shots])


class _Shots:
    """Takes states, one by one, as frames of what is to be shown of a subject."""

    def __init__(self, subject: Subject, show: str, seed: int, label: str | None, guidance: float | None = None) -> None:
        self._subject, self._seed, self._guidance = subject, seed, guidance
        self._label = label if subject.model is not None and subject.model.classes is not None else None
        kinds = ("z", "x_hat") if show == "both" else (show,)
        titles = {"z": subject.title, "x_hat": f"{subject.title}: x_hat"}
        self._frames: dict[str, list[Images]] = {kind: [] for kind in kinds}
        self.shots = [Shot(titles[kind], subject.process, self._frames[kind]) for kind in kinds]

    def __call__(self, t: float, z: Tensor) -> None:
        for kind, frames in self._frames.items():
            if kind == "x_hat" and t > 0:
                model = self._subject.model
                assert model is not None
                shown = model.guess(z.to(model.device), t, self._seed, self._label, self._guidance)
            else:
                shown = z
            frames.append(to_uint8(shown).numpy())


class _Way:
    """Observes a sampler, and takes frames at the positions in [0, 1] of its way that are asked for.

    Args:
        asked: rising from 0 to 1.
        taken: gets the states there.
        by_time: whether a position is 1 - t, or a share of the steps.
        steps: of the sampler.
        on_step: called at every step.
    """

    def __init__(self, asked: Sequence[float], taken: _Shots, by_time: bool, steps: int, on_step: Callable[[], None]) -> None:
        self._asked = list(asked)
        self.taken = taken
        self._by_time, self._steps, self._on_step = by_time, steps, on_step
        self._before: tuple[float, float, Tensor] | None = None
        self.times: list[float] = []

    def __call__(self, i: int, t: float, z: Tensor, x_hat: Tensor) -> None:
        self._pass(1 - t if self._by_time else i / self._steps, t, z)
        self._on_step()

    def end(self, images: Tensor) -> None:
        """The way ends with these."""
        self._pass(1.0, 0.0, images)

    def _pass(self, position: float, t: float, z: Tensor) -> None:
        before_position, before_t, before_z = self._before or (position, t, z)
        while self._asked and self._asked[0] <= position + 1e-9:
            asked, length = self._asked.pop(0), position - before_position
            share = min(1.0, (asked - before_position) / length) if length else 1.0
            self.times.append(before_t + share * (t - before_t))
            self.taken(self.times[-1], torch.lerp(before_z, z, share))
        self._before = position, t, z


def spectra(shot: Shot) -> tuple[Bands, list[list[float]]]:
    """The power spectrum of every frame: mean squared DCT coefficients, images in [-1, 1], over rings of frequencies.

    Returns:
        the rings, without the image's mean; and for each frame one number a ring.
    """
    band, bands = frequency_bands(*shot.process.shape, _BANDS_PER_OCTAVE)
    power = [band_means((dct2(torch.from_numpy(frame).float() / 127.5 - 1) ** 2).mean(0), band)[1:] for frame in shot.frames]
    return bands[1:], [row.tolist() for row in power]
