"""The Muon optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from blurcli.training.adam import Adam

_MOMENTUM = 0.95
_LEAST_WIDTH = 16  # of the matrices: narrower ones are cheaper and as good with Adam
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS = 0.2  # of an update of Adam, about
_TINY = 1e-14


class Muon:
    """Muon (Jordan et al. 2024) for the weights of convolutions, as matrices (out, in k^2), and Adam for all else.

    The update of a matrix is its gradient's average with Nesterov's look-ahead, orthogonalized: all singular values become
    about 1. It is scaled by `0.2 sqrt(max(rows, columns))` (Liu et al. 2025, arXiv 2502.16982), so that it is as large as
    Adam's, and one learning rate serves both. It needs half of Adam's memory. Matrices of equal shape are updated together.

    Args:
        parameters: by name; all must have a gradient after a backward pass.
        beta1: Adam's decay of the average of the gradients.
        beta2: Adam's decay of the average of their squares.
    """

    def __init__(self, parameters: Mapping[str, Tensor], beta1: float, beta2: float) -> None:
        groups: dict[tuple[int, int], dict[str, Tensor]] = {}
        for name, parameter in parameters.items():
            if _is_matrix(parameter):
                rows, columns = _matrix(parameter).shape
                groups.setdefault((rows, columns), {})[name] = parameter
        self._groups = list(groups.values())
        self._momenta = [_stacked(group.values()).detach().zero_() for group in self._groups]
        others = {name: parameter for name, parameter in parameters.items() if not _is_matrix(parameter)}
        self._adam = Adam(others, beta1, beta2)

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor) -> None:
        """See `Optimizer.step`."""
        self._adam.step(lr, skip)
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            gradient = torch.where(skip, momentum, _stacked([parameter.grad for parameter in group.values()]))
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            scale = -lr * _RMS * math.sqrt(momentum.shape[-1]) * ~skip
            updates = orthogonalized(gradient.lerp_(momentum, _MOMENTUM), scale)
            changes = [_weight(update, parameter) for update, parameter in zip(updates, group.values(), strict=True)]
            torch._foreach_add_(list(group.values()), changes)

    def named_tensors(self) -> dict[str, Tensor]:
        """The state by `muon.momentum.NAME` for matrices, (R, C), and that of Adam for all else."""
        pairs = zip(self._groups, self._momenta, strict=True)
        own = {name: one for group, momentum in pairs for name, one in zip(group, momentum, strict=True)}
        return {**self._adam.named_tensors(), **{f"muon.momentum.{name}": tensor for name, tensor in own.items()}}


def orthogonalized(matrices: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Matrices with the same singular vectors and singular values of about `scale`, from 0.7 to 1.2 times it.

    Five steps of the Newton-Schulz iteration of Jordan et al. (2024), X <- (a + b S + c S^2) X with S = X X^T. All factors are
    polynomials of the first S, so they are multiplied with one another, which are small, and once with X.

    Args:
        matrices: (N, R, C), with R at most C.
        scale: a number, or a scalar.
    """
    gram = matrices @ matrices.mT
    power = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].clamp(min=_TINY)
    gram = gram / power
    factor = first = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = first @ gram @ first
        first = _polynomial(gram)
        factor = first @ factor
    return (factor * (scale * power.rsqrt())) @ matrices


def _polynomial(gram: Tensor) -> Tensor:
    """`a + b S + c S^2`."""
    a, b, c = _COEFFICIENTS
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=-2, dim2=-1).add_(a)
    return result


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and min(parameter.shape[:2]) >= _LEAST_WIDTH


def _stacked(weights: Iterable[Tensor | None]) -> Tensor:
    """Weights of one matrix shape, or their gradients, as (N, R, C)."""
    return torch.stack([_matrix(weight) for weight in weights if weight is not None])


def _matrix(weight: Tensor) -> Tensor:
    """A weight (out, in, k, k) as a matrix (R, C), transposed where R would exceed C."""
    flat = weight.flatten(1)
    return flat if flat.shape[0] <= flat.shape[1] else flat.T


def _weight(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_matrix`; in-place changes of a matrix would not reach a weight in channels-last order."""
    return (matrix if like.shape[0] <= like[0].numel() else matrix.T).reshape(like.shape)
