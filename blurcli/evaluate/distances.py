"""Distances between two sets of images: pure functions of their features and spectra."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from blurcli.core.bands import Bands, band_means, frequency_bands

SUBSETS, SUBSET_SIZE = 100, 1000  # kernel distance; clean-fid's values
NEIGHBORS = 3  # precision and recall; the paper's value
_CHUNK = 1000  # rows of a distance matrix at a time
BANDS_PER_OCTAVE = 4
# Variance of rounding images in [-1, 1] to 8 bits: a positive lower bound of their power, for the logarithm.
_ROUNDING_VARIANCE = (2 / 255) ** 2 / 12


def frechet_distance(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500), float64.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2))`. `tr sqrt(S1 S2)` is the sum of the square roots of the eigenvalues of
    `A^T S2 A`, for any A with `A A^T = S1`. `A^T S2 A` is symmetric, so no square root of a general matrix is needed. A has one
    column per eigenvalue of S1 above rounding, so fewer images than features cost less.

    Args:
        mean_1: mean m1, (D,).
        covariance_1: covariance S1, (D, D).
        mean_2: mean m2, (D,).
        covariance_2: covariance S2, (D, D).
    """
    values, vectors = torch.linalg.eigh(covariance_1)
    significant = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    root = vectors[:, significant] * values[significant].sqrt()
    cross = torch.linalg.eigvalsh(root.T @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(ours: Tensor, reference: Tensor) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel `(x.y / D + 1)^3`: KID in Inception's features.

    The unbiased estimate of Binkowski et al. (2018, arXiv 1801.01401). The subsets are those that clean-fid's
    `compute_kid(ours, reference)` draws after `numpy.random.seed(0)`.

    Args:
        ours: features (N, D), N > 1.
        reference: features (M, D), M > 1.

    Returns:
        Mean and standard deviation over 100 random subsets of at most 1,000 images.
    """
    # A large common offset is multiplied in float64: in the precision of the features it would cost digits.
    centre = reference.double().mean(0)
    ours, reference = ((features.double() - centre).to(features) for features in (ours, reference))
    size = min(len(ours), len(reference), SUBSET_SIZE)
    draw = np.random.RandomState(0)
    estimates = []
    for _ in range(SUBSETS):
        x = reference[torch.from_numpy(draw.choice(len(reference), size, replace=False))]
        y = ours[torch.from_numpy(draw.choice(len(ours), size, replace=False))]
        within = _kernel(x, x, centre) + _kernel(y, y, centre)
        between = _kernel(x, y, centre).sum() / size**2
        estimates.append((within.sum() - within.trace()) / (size * (size - 1)) - 2 * between)
    values = torch.stack(estimates)
    return float(values.mean()), float(values.std())


def _kernel(x: Tensor, y: Tensor, centre: Tensor) -> Tensor:
    """The kernel of `x + centre` (N, D) and `y + centre` (M, D): (N, M) float64."""
    product = (x @ y.T).double() + (x.double() @ centre)[:, None] + y.double() @ centre + centre @ centre
    return (product / x.shape[1] + 1) ** 3


def precision_recall(ours: Tensor, our_radii: Tensor, reference: Tensor, reference_radii: Tensor) -> tuple[float, float]:
    """Precision and recall of Kynkaanniemi et al. (2019, arXiv 1904.06991), in any features.

    Precision is the fraction of our features inside the manifold of the reference, recall the fraction of the reference's
    features inside ours. The manifold of a set is the union of balls around its points, up to their third nearest neighbors.

    Args:
        ours: features (N, D).
        our_radii: `manifold_radii(ours)`, (N,).
        reference: features (M, D).
        reference_radii: `manifold_radii(reference)`, (M,).

    Returns:
        Precision and recall, in [0, 1].
    """
    centre = reference.mean(0)
    ours, reference = ours - centre, reference - centre
    covered = torch.zeros(len(reference), dtype=torch.bool)
    hits = 0
    for chunk in torch.split(torch.arange(len(ours)), _CHUNK):
        distances = torch.cdist(ours[chunk], reference)
        hits += int((distances <= reference_radii).any(1).sum())
        covered |= (distances <= our_radii[chunk, None]).any(0)
    return hits / len(ours), float(covered.double().mean())


def manifold_radii(features: Tensor) -> Tensor:
    """The distance of each row of features (N, D) from its third nearest neighbor, (N,); N > 3."""
    features = features - features.mean(0)  # a large common offset would cost digits
    chunks = torch.split(features, _CHUNK)
    # The smallest distance is from a row to itself.
    return torch.cat([torch.cdist(chunk, features).topk(NEIGHBORS + 1, largest=False).values[:, -1] for chunk in chunks])


def radial_spectrum(power: Tensor) -> tuple[Tensor, Bands]:
    """Mean power per quarter-octave ring of frequencies.

    Args:
        power: mean squared orthonormal DCT coefficient of images in [-1, 1], (H, W).

    Returns:
        Power (bands,), and the bands; band 0 is the image's mean.
    """
    band, bands = frequency_bands(power.shape[0], power.shape[1], BANDS_PER_OCTAVE)
    return band_means(power[None], band).clamp(min=_ROUNDING_VARIANCE), bands


def log_spectral_distance(ours: Tensor, reference: Tensor) -> float:
    """Root mean square, over frequency rings, of the natural logarithm of the ratio of two power spectra (H, W).

    After Gray and Markel (1976). It measures missing or noisy detail, which features hardly show: 0.1 is 10% too much or too
    little power in every ring.
    """
    ratio = torch.log(radial_spectrum(ours)[0] / radial_spectrum(reference)[0])
    return math.sqrt(float(ratio.square().mean()))
