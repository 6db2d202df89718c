"""The pictures of a report: samples, previews, the reverse process, power spectra and the network's errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from blurcli.base.errors import UserError
from blurcli.base.runs import Run
from blurcli.config.repeat import without_folder
from blurcli.core.bands import band_names, frequency_bands
from blurcli.core.dct import dct2
from blurcli.data import Dataset
from blurcli.data.images import Pixels
from blurcli.evaluate import denoising
from blurcli.evaluate.distances import radial_spectrum
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.visualize import plots
from blurcli.visualize.animations import PICTURE_FORMATS, Timing
from blurcli.visualize.grids import picture, tile, tiled_size
from blurcli.visualize.markup import Part, Picture, encode, plot, written
from blurcli.visualize.previews import evenly_chosen, preview_files, read_preview
from blurcli.visualize.records import newest_spectra
from blurcli.visualize.trajectories import AnimatedProcess, View, reverse_trajectory

# Bytes before base64, so that a page stays below 5 MB.
_GRID_BYTES, _PREVIEW_BYTES, _FRAME_PIXELS = 600_000, 800_000, 1 << 14
_GRID_PX = 1056  # widest grid
_MOST_IMAGES, _MOST_PIXELS = 64, 1 << 20  # of samples made for a report
_MOST_PREVIEWS = 24
_CORNER = 4  # images per side of a preview if its whole grid would be too large
_FRAMES, _FPS = 24, 8.0
_ERROR_TIMES = 17

OpenProgress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""`progress(title, total)` yields a function that receives the units done."""


@dataclass(frozen=True)
class Subject:
    """The subject of a report.

    Attributes:
        name: name of the run, or of the weights file without a run.
        run: the run folder; None for a weights file alone.
        step: training steps of the weights.
        model: the model of the weights.
        dataset: images for measuring the network's error; None if they are not available.
        measured: number of these images to use.
    """

    name: str
    run: Run | None
    step: int
    model: Pipeline
    dataset: Dataset | None
    measured: int = 64

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.model.config.data.image_size


def samples_of(subject: Subject, progress: OpenProgress) -> Pixels:
    """Images 0, 1, ... of seed 0, (N, C, H, W): from the newest preview if it has the step of the weights; else new ones.

    Raises:
        UserError: images that are not finite.
    """
    files = preview_files(subject.run) if subject.run is not None else []
    if files and files[-1][0] == subject.step and (preview := read_preview(*files[-1])) is not None:
        cells = preview.cells(subject.image_size)
        if cells is not None and cells.shape[1] == subject.model.config.data.channels:
            return cells
    height, width = subject.image_size
    count = max(4, min(_MOST_IMAGES, _MOST_PIXELS // (height * width)))
    with progress("sampling", count) as update:
        batches = list(subject.model.generate(count, seed=0, on_progress=update))
    return torch.cat([to_uint8(batch) for batch in batches]).numpy()


def grid_part(subject: Subject, images: Pixels) -> list[Part]:
    """The samples, as many as fit side by side."""
    width = subject.image_size[1]
    columns = max(1, min(int(np.ceil(np.sqrt(len(images)))), (_GRID_PX + 1) // (width + 1)))
    shown = images[: columns * columns]
    found = encode(picture(tile(shown, columns)), _GRID_BYTES, f"{len(shown)} samples")
    sampling = subject.model.sampling()
    note = f"Uncurated: images 0 to {len(shown) - 1} of seed 0, sampler {sampling.sampler}, {sampling.steps} steps."
    if found.lossy:
        note += " Recompressed with loss for this page."
    return [Part("pictures", [found]), Part("note", note)]


def preview_part(run: Run, image_size: tuple[int, int]) -> list[Part]:
    """The previews of a training, one per step; the page's script turns the strip into a slider."""
    found = preview_files(run)
    if not found:
        reason = "No previews: samples/ in the run folder has none; train.preview_every_steps sets their interval."
        return [Part("missing", reason)]
    read = [read_preview(*found[i]) for i in evenly_chosen(len(found), _MOST_PREVIEWS)]
    previews = [preview for preview in read if preview is not None]
    if not previews:
        return [Part("missing", "No previews: the files in samples/ cannot be read.")]
    most = _PREVIEW_BYTES // len(previews)
    last = previews[-1]
    rows, columns = last.grid(image_size)
    whole = encode(last.image, most)
    cut = whole.lossy and min(rows, columns) > _CORNER
    images = [preview.corner(_CORNER, _CORNER, image_size) if cut else preview.image for preview in previews]
    strip = [
        encode(image, most, f"samples after {preview.step:,} steps", f"step {preview.step:,}")
        for preview, image in zip(previews, images, strict=True)
    ]
    notes = [f"The same seeds at every step: {len(previews)} of {len(found)} previews"]
    notes += [f"the {_CORNER * _CORNER} images at the upper left"] * cut
    notes += ["recompressed with loss"] * any(one.lossy for one in strip)
    notes += [f"{len(read) - len(previews)} cannot be read"] * (len(previews) < len(read))
    return [Part("strip", strip), Part("note", ", ".join(notes) + ".")]


@torch.inference_mode()
def animation_part(subject: Subject, progress: OpenProgress) -> list[Part]:
    """The reverse process of a few images."""
    height, width = subject.image_size
    sides = [side for side in (3, 2, 1) if np.prod(tiled_size(side * side, subject.image_size, side)) <= _FRAME_PIXELS]
    count = sides[0] ** 2 if sides else 1
    sampling = subject.model.sampling()
    animated = AnimatedProcess(subject.name, subject.model.process, subject.model, sampling)
    try:
        with progress("animating", sampling.steps) as update:
            trajectory = reverse_trajectory([animated], count, 0, View(_FRAMES), on_step=update)
    except UserError as error:
        return [Part("missing", f"No animation: {error}.")]
    shrink = max(1, int(np.ceil(np.sqrt(height * width / _FRAME_PIXELS))))
    frames = [picture(tile(frame)).reduce(shrink) for frame in trajectory.panels[0].frames]
    gif = written(lambda path: PICTURE_FORMATS[".gif"].write(frames, path, Timing(_FPS)), ".gif")
    still = encode(frames[-1], _GRID_BYTES)
    moving = Picture(gif, "image/gif", frames[0].width, description="reverse process, animated", still=still)
    note = f"Images 0 to {count - 1} of seed 0 from noise" if count > 1 else "Image 0 of seed 0 from noise"
    note += f", {len(frames)} frames uniform in the sampler's {sampling.steps} steps"
    note += f"; reduced to 1/{shrink} of the size, in 256 colors." if shrink > 1 else "; in 256 colors."
    return [Part("pictures", [moving]), Part("note", note)]


def spectrum_part(subject: Subject, images: Pixels | None, shown: Callable[[str], str]) -> list[Part]:
    """Power spectra of samples and data: from the newest score, else from these images and the data's moments.

    Args:
        subject: the model.
        images: samples (N, C, H, W); None if there are none.
        shown: converts the name of a reference, which can be a path, for display.
    """
    score = newest_spectra(subject.run) if subject.run is not None else None
    if score is not None:
        reference = shown(str(score.get("reference")))
        note = f"From the score of step {score['step']:,}: {score.get('n')} samples against {reference}."
        score = {"reference_spectrum": None, **score, "reference": reference}
    elif images is not None:
        moments = subject.model.moments.map(lambda tensor: tensor.cpu())
        ours = (dct2(torch.from_numpy(np.array(images)).double() / 127.5 - 1) ** 2).mean((0, 1))
        spectra = [radial_spectrum(power)[0].tolist() for power in (ours, moments.second_moment.double().mean(0))]
        score = {"size": list(subject.image_size), "spectrum": spectra[0], "reference_spectrum": spectra[1]}
        score["reference"] = "training images"
        note = f"Of the {len(images)} samples above; the data's spectrum is stored in the weights. A score has more samples."
    else:
        return [Part("missing", "No power spectra: there are no samples.")]
    return [Part("plots", [plot(partial(plots.save_spectrum, score), "Power spectra of samples and data")]), Part("note", note)]


@torch.inference_mode()
def error_part(subject: Subject, progress: OpenProgress) -> list[Part]:
    """The network's error by time and frequency band."""
    if subject.dataset is None:
        hint = "name them with: blurdiff report RUN --data path/to/images"
        return [Part("missing", f"No map of errors: the training images are not available; {hint}")]
    count = min(subject.measured, len(subject.dataset.images))
    measured = denoising.MeasuredImages(subject.dataset.images, count, 0, subject.dataset.labels)
    try:
        subject.model.family.require_mean_estimate()
        with progress("measuring errors", count) as update:
            errors = denoising.denoising_errors(subject.model, measured, times=_ERROR_TIMES, per_octave=1, on_batch=update)
    except UserError as error:
        return [Part("missing", f"No map of errors: {error}.")]
    names = band_names(frequency_bands(*subject.model.process.shape, 1)[1])
    save = partial(plots.save_errors, errors.times, errors.relative, names)
    name = without_folder(subject.dataset.name)
    unlabelled = ", without their classes" if measured.label(subject.model) == "none" else ""
    note = f"{count} images of {name}{unlabelled}; 1 is no better than the best linear filter, 0 is perfect."
    shown = plot(save, "Error of the network by time and frequency")
    return [Part("plots", [shown]), Part("note", f"{note} More: blurdiff diagnose.")]
