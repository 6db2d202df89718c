"""The whitened space of the data, per DCT frequency, for the samplers `abm`, `ab2` and `euler`.

With the mean M and variance V of the data per frequency, every frequency has an angle and a state of unit variance,

    phi = atan2(alpha sqrt(V), sigma)     S = alpha^2 V + sigma^2     w = (u - alpha M) / sqrt(S)

and the probability-flow ODE (Song et al. 2021, arXiv 2011.13456) is `dw/dphi = F`, with F as in `SpectralDenoiser`: zero for
Gaussian data with these moments, slowly varying for other data. Each frequency has its own clock phi, but F depends on the
whole image, so the variation of F is best described in the time t, which all frequencies share.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blurcli.core.process import Process

_QUADRATURE_NODES, _QUADRATURE_NODES_LARGE = 16, 4
_GRID_CELLS = 256
_LARGE_PIXELS = 128 * 128  # from here on planning would take seconds; it is approximated, far below the error of a step
_DENSE, _EVERY = 32, 8  # frequencies per direction of large images in the time grid: the lowest ones, and every eighth other
_GRID_SHARE = 2 / 3  # of the steps are placed along the path of the image, the rest uniformly in time


@dataclass(frozen=True)
class WhitenedSpace:
    """Coordinates (w, phi) of one process for data of given moments.

    Args:
        process: the diffusion process.
        mean: M per DCT frequency, (H, W) or (C, H, W), float64; (B, C, H, W) for one per image of a batch, as in the posterior
            given photos.
        variance: V, positive, like `mean`, or one for all images.
    """

    process: Process
    mean: Tensor
    variance: Tensor

    def angle(self, t: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """phi at times (B,): (B, 1 or C, H, W), growing from nearly 0 at t = 1 to nearly pi / 2 at t = 0."""
        return torch.atan2(self.process.alpha(t).to(dtype) * self._root_v.to(dtype), self.process.sigma(t).to(dtype))

    def whiten(self, u: Tensor, t: Tensor) -> Tensor:
        """w from the DCT `u` (B, C, H, W) of a state at times `t` (B,)."""
        return (u - self.process.alpha(t) * self.mean) / self._root_s(t)

    def unwhiten(self, w: Tensor, t: Tensor) -> Tensor:
        """u from w, the inverse of `whiten`."""
        return self.process.alpha(t) * self.mean + w * self._root_s(t)

    def slope(self, w: Tensor, x_dct: Tensor, t: Tensor) -> Tensor:
        """`F = ((X - M) / sqrt(V) - sin(phi) w) / cos(phi)` from the DCT X of an image; X may be x itself, or x_hat."""
        root_s = self._root_s(t)
        sin, cos = self.process.alpha(t) * self._root_v / root_s, self.process.sigma(t) / root_s
        return ((x_dct - self.mean) / self._root_v - sin * w) / cos

    def estimate(self, w: Tensor, slope: Tensor | float, t: Tensor) -> Tensor:
        """`X = M + sqrt(V) (sin(phi) w + cos(phi) F)`, the inverse of `slope`; with F = 0 the Wiener filter of the state."""
        root_s = self._root_s(t)
        sin, cos = self.process.alpha(t) * self._root_v / root_s, self.process.sigma(t) / root_s
        return self.mean + self._root_v * (sin * w + cos * slope)

    def clock_moments(self, t: float, s: float) -> tuple[Tensor, Tensor, Tensor]:
        """`integral of (tau - t)^k dphi(tau)` from t to s for k = 0, 1, 2, each (1 or B, 1 or C, H, W).

        Integrated by parts, so that the quadrature (Gauss-Legendre) evaluates the angle and not its derivative.
        """
        large = self._is_large
        dtype, device = (torch.float32 if large else torch.float64), self.mean.device
        nodes, weights = _gauss_legendre(_QUADRATURE_NODES_LARGE if large else _QUADRATURE_NODES)
        passed = s - t
        end, begin = self._angles(torch.tensor([s, t], dtype=torch.float64, device=device))
        total = end - begin
        # Only the ends must be exact: they decide where a step arrives.
        tau = torch.tensor(t + passed * nodes, device=device)
        turned = self._angles(tau, dtype) - begin.to(dtype)
        rule = torch.tensor(np.stack([weights, weights * nodes]), dtype=dtype, device=device)
        area, lever = torch.tensordot(rule, turned, 1).double()
        return total, passed * (total - area), passed**2 * (total - 2 * lever)

    def time_grid(self, steps: int, start: float) -> list[float]:
        """`steps + 1` times from `start` to 0, dense where the image forms.

        They are uniform in `2/3 L + 1/3 (1 - t)`, where L is the completed fraction of the path from t = 1 with the length
        element `dL^2 = sum_f sqrt(V_f) dphi_f^2`. Where no angle changes, F hardly changes the image. The square root of the
        variance weights large structure more than fine detail, but less than its power would.
        """
        edges = torch.linspace(1, 0, _GRID_CELLS + 1, dtype=torch.float64, device=self.mean.device)
        length = torch.zeros(_GRID_CELLS + 1, dtype=torch.float64, device=self.mean.device)
        rows, columns = (_frequencies(size, self._is_large).to(edges.device) for size in self.process.shape)
        root_v = self._root_v[..., rows, :][..., columns]
        weight = root_v * _spacing(rows, self.process.shape[0])[:, None] * _spacing(columns, self.process.shape[1])
        phi = None
        for k in range(_GRID_CELLS + 1):  # one at a time: for large images all of them together do not fit in memory
            t, before = edges[k : k + 1], phi
            phi = torch.atan2(self.process.alpha(t)[..., rows, :][..., columns] * root_v, self.process.sigma(t))
            if before is not None:
                length[k] = (weight * (phi - before) ** 2).sum().sqrt()
        length, edges = length.cpu(), edges.cpu()  # a GPU's cumulative sum is not deterministic
        done = length.cumsum(0) / length.sum()
        ticks = (_GRID_SHARE * done + (1 - _GRID_SHARE) * (1 - edges)).numpy()
        descending = edges.numpy()
        first = np.interp(1 - start, 1 - descending, ticks)
        inner = np.interp(np.linspace(first, 1, steps + 1)[1:-1], ticks, descending)
        return [start, *(float(t) for t in inner), 0.0]

    @property
    def _is_large(self) -> bool:
        return math.prod(self.process.shape) > _LARGE_PIXELS

    @functools.cached_property
    def _root_v(self) -> Tensor:
        with torch.inference_mode(False):  # cached: see dct_matrix
            return self.variance.sqrt()

    def _angles(self, times: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """phi of all images at times (N,): (N, 1 or B, 1 or C, H, W)."""
        alpha, sigma = self.process.alpha(times).to(dtype)[:, None], self.process.sigma(times).to(dtype)[:, None]
        return torch.atan2(alpha * self._root_v.to(dtype), sigma)

    def _root_s(self, t: Tensor) -> Tensor:
        return torch.hypot(self.process.alpha(t) * self._root_v, self.process.sigma(t))


def _frequencies(size: int, is_large: bool) -> Tensor:
    """The frequencies of one direction that represent all `size` in a sum: all, or a subset of the high ones."""
    dense = min(size, _DENSE) if is_large else size
    return torch.tensor([*range(dense), *range(dense + _EVERY // 2, size, _EVERY)])


def _spacing(frequencies: Tensor, size: int) -> Tensor:
    """How many of `size` frequencies each one represents."""
    return torch.where(frequencies < _DENSE, 1, _EVERY) if len(frequencies) < size else torch.ones_like(frequencies)


@functools.lru_cache(maxsize=8)
def _gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2
