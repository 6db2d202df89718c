"""What a network predicts: a registry of objectives. Imports no torch, so that a preset can be checked without it.

To add an objective, define its denoiser (a `Trainable`) and enter it in `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.denoiser import Network


@dataclass(frozen=True)
class Objective:
    """One parametrization of the network.

    Attributes:
        summary: for help texts.
        families: names of the families of processes that can be trained with it.
        build: `build(network, process, spectrum, mean)` gives the `Trainable`; the moments are in model space.
        opponent_colors: whether color networks work in opponent colors (`core.colors`).
        calibrated: whether its estimates are scaled by a gain that is measured when weights are saved (`core.calibration`).
        predicts_image: whether it is a `Denoiser`, which estimates the clean image.
        predicts_endpoint: whether it predicts the ODE endpoint instead of the posterior mean E[x given z_t]: such a model is
            tuned from a trained one, and sampled by other methods.
        published: whether published implementations use it, so that their checkpoints can be imported.
    """

    summary: str
    families: tuple[str, ...]
    build: Callable[[Network, Any, Tensor, Tensor], Any]
    opponent_colors: bool = False
    calibrated: bool = False
    predicts_image: bool = True
    predicts_endpoint: bool = False
    published: bool = False


def _spectral(network: Network, process: Any, spectrum: Tensor, mean: Tensor) -> Any:
    from blurcli.core.preconditioning import SpectralDenoiser

    return SpectralDenoiser(network, process, spectrum, mean)


def _consistency(network: Network, process: Any, spectrum: Tensor, mean: Tensor) -> Any:
    from blurcli.core.consistency import ConsistencyModel

    return ConsistencyModel(network, process, spectrum, mean)


def _v(network: Network, process: Any, spectrum: Tensor, mean: Tensor) -> Any:
    from blurcli.core.preconditioning import SpectralDenoiser

    return SpectralDenoiser(network, process, spectrum.new_ones(spectrum.shape))


def _eps(network: Network, process: Any, spectrum: Tensor, mean: Tensor) -> Any:
    from blurcli.core.denoiser import EpsDenoiser

    return EpsDenoiser(network, process)


def _residual(network: Network, process: Any, spectrum: Tensor, mean: Tensor) -> Any:
    from blurcli.core.heat import ResidualPredictor

    return ResidualPredictor(network, process)


OBJECTIVES = {
    "spectral": Objective(
        "the whitened velocity F, preconditioned with the data's spectrum",
        ("diffusion", "heat"),
        _spectral,
        opponent_colors=True,
    ),
    "v": Objective("the velocity v, the same without the spectrum", ("diffusion",), _v),
    "eps": Objective("the noise, as in the blurring diffusion paper", ("diffusion",), _eps, calibrated=True, published=True),
    "consistency": Objective(
        "the ODE endpoint: a model distilled for sampling in one to four steps",
        ("diffusion",),
        _consistency,
        opponent_colors=True,
        predicts_endpoint=True,
    ),
    "residual": Objective(
        "the change to the next, less blurred image, as in the heat dissipation paper",
        ("heat",),
        _residual,
        predicts_image=False,
        published=True,
    ),
}
