"""Quality of restoration: photos are degraded with a fixed seed, restored, and compared with the originals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from blurcli.base.errors import importing
from blurcli.core.camera import Camera
from blurcli.data.photos import Photo
from blurcli.model.restore_options import RestoreOptions, optics_of
from blurcli.model.restorer import Restorer
from blurcli.model.scene import GRAY_LEVELS

_WITHIN = 0.95  # quantile of the upper end of the central 90%
_MEANS_PX = 8  # side of the boxes of which the means are compared


@dataclass(frozen=True)
class RestorationQuality:
    """Restored images, compared with the undamaged ones.

    Attributes:
        psnr: mean over the images, in dB.
        ssim: likewise.
        psnr_given: of the damaged images; None if they have another size.
        coverage: share of the pixels within the central 90% of further draws; None for one draw.
        coverage_of_means: likewise of the means of boxes of 8x8 pixels, whose error is that of low frequencies.
        correlation: of the spread of the draws and the error of their mean, over all pixels; None for one draw.
        restored: the restored images, (N, C, H, W) uint8.
    """

    psnr: float
    ssim: float
    psnr_given: float | None
    coverage: float | None
    coverage_of_means: float | None
    correlation: float | None
    restored: NDArray[np.uint8]


def compare(
    restorer: Restorer, images: Sequence[NDArray[np.uint8]], options: RestoreOptions, progress: Callable[[int], None]
) -> RestorationQuality:
    """Damage images, restore them, and compare.

    The noise of image i, and the draws of its restoration, have the seed `options.seed + i`.

    Args:
        restorer: the model.
        images: (C, H, W) each.
        options: the damage, which is known to the restorer, and how it restores; the mean of several draws is scored.
        progress: receives the number of images done.

    Raises:
        UsageError: see `Restorer`.
        UserError: scikit-image is not installed.
    """
    quality, structure, before, restored = [], [], [], []
    inside, means_inside = [], []
    spreads, errors = [], []
    for i, pixels in enumerate(images):
        truth = Photo(pixels.astype(np.float64))
        own = replace(options, seed=options.seed + i, cropped=False)
        given = degrade(truth, own, own.seed)
        found = restorer(given, own)
        result = Photo(found.mean if len(found.draws) > 1 else found.draws[0])
        quality.append(psnr(result, truth))
        structure.append(ssim(result, truth))
        if given.pixels.shape == truth.pixels.shape:
            before.append(psnr(given, truth))
        if len(found.draws) > 1:
            inside.append(coverage(found.draws, truth.pixels))
            means_inside.append(coverage(_box_means(found.draws), _box_means(truth.pixels)))
            spreads.append(found.spread.ravel())
            errors.append(np.sqrt(((found.mean - truth.pixels) ** 2).mean(0)).ravel())
        restored.append(np.rint(result.pixels).clip(0, 255).astype(np.uint8))
        progress(i + 1)
    correlation = float(np.corrcoef(np.concatenate(spreads), np.concatenate(errors))[0, 1]) if spreads else None
    return RestorationQuality(
        fmean(quality),
        fmean(structure),
        fmean(before) if before else None,
        fmean(inside) if inside else None,
        fmean(means_inside) if means_inside else None,
        correlation,
        np.stack(restored),
    )


def coverage(draws: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """The share of the values of the truth, (...), that lie within the central 90% of further draws, given draws (n, ...)."""
    count = len(draws)
    # Student's t, because the spread of a few draws is uncertain; their mean has an error as well.
    width = student.ppf(_WITHIN, count - 1) * (1 + 1 / count) ** 0.5 * draws.std(0, ddof=1)
    return float(np.mean(np.abs(truth - draws.mean(0)) <= width))


def _box_means(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of boxes of 8x8 pixels of images (..., H, W); rows and columns beyond whole boxes are dropped."""
    rows, columns = (side // _MEANS_PX for side in images.shape[-2:])
    whole = images[..., : rows * _MEANS_PX, : columns * _MEANS_PX]
    means: NDArray[np.float64] = whole.reshape(*images.shape[:-2], rows, _MEANS_PX, columns, _MEANS_PX).mean((-3, -1))
    return means


def degrade(photo: Photo, options: RestoreOptions, seed: int) -> Photo:
    """Degrade a photo: apply blur and noise, and round to 8 bits.

    Args:
        photo: the undamaged photo; with `enlarge`, rows and columns beyond whole boxes are dropped.
        options: the damage; unknown damage counts as none, and unknown light as that of stored values.
        seed: of the noise.
    """
    height, width = (side - side % options.enlarge for side in photo.pixels.shape[1:])
    camera = Camera(optics_of(options, (height, width), 0.0), options.light == "linear")
    x = torch.from_numpy(photo.pixels[:, :height, :width])[None] / GRAY_LEVELS - 1
    seen = (camera.apply(x)[0].numpy() + 1) * GRAY_LEVELS
    if options.mask is not None:
        seen = np.where(options.mask, 0, seen)
    noise = np.random.default_rng(seed).standard_normal(seen.shape) * (options.noise or 0)
    return replace(photo, pixels=np.rint(seen + noise).clip(0, 255))


def psnr(one: Photo, other: Photo) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels, rounded to 8 bits, with a range of 255."""
    a, b = (np.rint(photo.pixels).clip(0, 255) for photo in (one, other))
    return float(10 * np.log10(255**2 / max(float(((a - b) ** 2).mean()), 1e-12)))


def ssim(one: Photo, other: Photo) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian windows of sigma 1.5, a range of 255, the mean over channels.

    Raises:
        UserError: scikit-image is not installed.
    """
    with importing("skimage", "SSIM", install="scikit-image"):
        from skimage.metrics import structural_similarity
    a, b = (np.rint(photo.pixels).clip(0, 255) for photo in (one, other))
    return float(
        structural_similarity(
            a, b, data_range=255, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
