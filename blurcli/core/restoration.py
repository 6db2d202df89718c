"""Restoration: sample images given a degraded photo, with a denoiser that was not trained for the degradation.

A photo is a measurement `y = A x + n` of the image x, with white noise n of standard deviation s. Given a state z_t, the error
of the denoiser's estimate (its DCT is X) has per frequency about the variance of the Wiener filter,

    R(t) = V cos(phi)^2 = V sigma^2 / (alpha^2 V + sigma^2)

so conditioning a Gaussian on y gives the estimate for the state and the photo,

    X_y = X + R A^T (A R A^T + s^2)^-1 (y - A X)

with one network call and no backpropagation. It replaces X in any sampler. Related: DDRM (Kawar et al. 2022, arXiv 2201.11793),
DiffPIR (Zhu et al. 2023, arXiv 2305.08995), and Free Hunch (Rissanen et al. 2024, arXiv 2410.11149), which also takes the
covariance of the data in the DCT.

For an A that is diagonal in the DCT, such as blur, the data given y have per frequency the moments

    V_y = V s^2 / (H^2 V + s^2)     M_y = M + V H / (H^2 V + s^2) (Y - H M)

and in the space whitened with these, Gaussian data have slope zero: one step draws from the exact posterior. For other A the
mean is also that of the Gaussian posterior, and the variances are approximated by `V - V diag(A^T (A V A^T + s^2)^-1 A) V`
(`Measurement.information`); with them 5 steps reach what takes 20 without.

A deterministic sampler starts from `T w` with standard normal w. T = 1 gives draws from the posterior. T = 0 starts at the mean
of the Gaussian posterior and gives one image that depends on no random number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blurcli.core.fast_dct import dct2, idct2
from blurcli.core.measurements import DctFilter, Measurement
from blurcli.core.plans import make_plan
from blurcli.core.samplers import SAMPLERS
from blurcli.core.sampling import Observer, sample_by_plan
from blurcli.core.whitened import WhitenedSpace

_ITERATIONS = 30
_ITERATIONS_PER_STEP = 8  # from the solution of the step before
_ITERATIONS_OF_MEAN = 100  # once per photo, for the worst-conditioned system
_TOLERANCE = 1e-6  # of the residual of the linear system, relative to the start


@dataclass(frozen=True)
class Observation:
    """Photos, and how they were taken.

    Attributes:
        photo: y, (B, C, h, w), in the space of the network.
        measurement: A.
        noise: s, the standard deviation of the noise in the units of `photo`, positive: (B,), or (1,) for all; (B or 1, C) for
            one per channel.
        start: the DCT of a first estimate of the images, like them or (1, C, H, W); None for none.
    """

    photo: Tensor
    measurement: Measurement
    noise: Tensor
    start: Tensor | None = None

    @functools.cached_property
    def _photo_dct(self) -> Tensor:
        return dct2(self.photo.double())

    @property
    def variance(self) -> Tensor:
        """s^2, (B or 1, 1 or C, 1, 1) float64."""
        return (self.noise.double() ** 2).reshape(len(self.noise), -1, 1, 1)

    def residual(self, x: Tensor) -> Tensor:
        """The root mean square of `y - A x` over s for images (B, C, H, W), (B,): about 1 where A, s and x fit the photo."""
        error = self._error(x)
        return (error.square() / self.variance).mean((1, 2, 3)).sqrt()

    def condition(self, x_dct: Tensor, variance: Tensor, iterations: int = _ITERATIONS, start: Tensor | None = None) -> Tensor:
        """`X_y`: the DCT of an estimate, conditioned on the photos.

        Args:
            x_dct: X, the DCT of the estimates, (B, C, H, W) float64.
            variance: R of their errors per frequency, (H, W), (C, H, W) or like `x_dct`.
            iterations: of conjugate gradients, at most, where A is not diagonal.
            start: the solution of a similar system; None for `x_dct`.

        Returns:
            (B, C, H, W) float64.
        """
        s2, a = self.variance, self.measurement
        if isinstance(a, DctFilter):
            return x_dct + variance * a.back_dct((self._photo_dct - a.seen_dct(x_dct)) / (a.variance(variance) + s2))

        if a.keeps_frequencies:
            error, precision = self.photo.double() - a.seen(x_dct), 1 / (a.variance(variance) + s2)
            solution = conjugate_gradients(
                lambda y: a.seen(variance * a.back(y)) + s2 * y, error, lambda y: idct2(precision * dct2(y)), iterations
            )
            return x_dct + variance * a.back(solution)
        start = x_dct if start is None else start
        error = self.photo.double() - a.seen(start)
        # In units of the least noise. The change is computed in float32, which is precise enough for a few iterations.
        prior, weight = s2.min() / variance, s2.min() / s2
        right = (a.back(weight * error) + prior * (x_dct - start)).float()
        prior, weight = prior.float(), weight.float()
        information = prior + weight * a.gram(error.float())
        change = conjugate_gradients(
            lambda u: prior * u + a.back(weight * a.seen(u)), right, lambda rest: rest / information, iterations
        )
        return start + change.double()

    def posterior(self, space: WhitenedSpace) -> WhitenedSpace:
        """The whitened space of the data given the photos, per frequency; exact where A is diagonal in the DCT."""
        a, s2 = self.measurement, self.variance
        v = space.variance if space.variance.ndim == 3 else space.variance[None]
        shape = len(self.photo), self.photo.shape[1], *v.shape[-2:]
        mean = self.start
        if mean is None:
            mean = self.condition(space.mean.expand(shape), v, _ITERATIONS_OF_MEAN)
        seen = v * a.information(1 / (a.variance(v) + s2))
        return replace(space, mean=mean, variance=v * (1 - seen))  # one for all images with the same blur and noise

    def _error(self, x: Tensor) -> Tensor:
        return self.photo.double() - self.measurement.apply(x.double())


class ConditionedDenoiser:
    """A denoiser conditioned on the photos: estimates `x_hat(z, t)` given the state and y.

    Args:
        denoiser: estimates from the states alone.
        space: the whitened space of the data; its V gives the errors of the denoiser.
        observation: the photos, one per state.
    """

    def __init__(self, denoiser: Callable[..., Tensor], space: WhitenedSpace, observation: Observation) -> None:
        self._denoiser, self._space, self._observation = denoiser, space, observation
        self._last: Tensor | None = observation.start  # where conjugate gradients start, which changes only their number

    def __call__(self, z: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        """See `core.denoiser.Denoiser`."""
        x_dct = dct2(self._denoiser(z, t, **conditions).double())
        error = self._space.variance * torch.cos(self._space.angle(t.double())) ** 2
        iterations = _ITERATIONS if self._last is None else _ITERATIONS_PER_STEP
        self._last = self._observation.condition(x_dct, error, iterations, self._last)
        return idct2(self._last).to(z)


def restore(
    denoiser: Callable[..., Tensor],
    space: WhitenedSpace,
    photos: Observation,
    z: Tensor,
    steps: int = 10,
    sampler: str = "abm",
    on_step: Observer | None = None,
) -> Tensor:
    """Sample images given photos of them.

    Args:
        denoiser: as for `core.sample`; called exactly `steps` times.
        space: of the data, see `plans.whitened_space`; its V must be close to the data's, because it gives the errors.
        photos: what is given, one per image.
        z: (B, C, H, W), T times standard normal noise: 1 for draws from the posterior, 0 for one image without random detail.
        steps: at least 1.
        sampler: a deterministic one in the whitened space: `abm`, `ab2` or `euler`.
        on_step: called as `on_step(i, t, z, x_hat)` in each step, with the state at its start and the estimate given the
            photos, both (B, C, H, W).

    Returns:
        (B, C, H, W) in the space of the network, without noise, in the dtype of `z`.

    Raises:
        ValueError: another sampler, or `steps` below 1.
    """
    method = SAMPLERS.get(sampler)
    if method is None or not method.whitened or method.predicts_endpoint:
        known = (name for name, one in SAMPLERS.items() if one.whitened and not one.predicts_endpoint)
        raise ValueError(f"photos are restored by {', '.join(known)}, not by {sampler!r}")
    plan = make_plan(method(), space.process, steps, z.device, space=space, final="denoised")
    # The same times, in the whitened space of the data given the photos.
    plan = replace(plan, space=photos.posterior(space), _constants={})
    return sample_by_plan(ConditionedDenoiser(denoiser, space, photos), plan, z, on_step=on_step)


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda y: y,
    iterations: int = _ITERATIONS,
) -> Tensor:
    """Solve `apply(v) = right` for a symmetric positive map of images, separately for each image of the batch.

    Args:
        apply: the map of (B, C, H, W).
        right: (B, C, H, W) float64.
        precondition: an approximate inverse of `apply`, symmetric and positive.
        iterations: at most.
    """
    v, rest, start = torch.zeros_like(right), right, _product(right, right)
    direction = nearly = precondition(rest)
    norm = _product(rest, nearly)
    for _ in range(iterations):
        applied = apply(direction)
        # A solved image does not change any more.
        going = (_product(rest, rest) > _TOLERANCE**2 * start) & (start > 0)
        if not going.any():
            break
        length = torch.where(going, norm / _product(direction, applied), 0)
        v, rest = v + length * direction, rest - length * applied
        nearly = precondition(rest)
        before, norm = norm, _product(rest, nearly)
        direction = nearly + torch.where(going, norm / before, 0) * direction
    return v


def _product(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum((1, 2, 3), keepdim=True)
