"""From a configuration to the objects of the core."""

from __future__ import annotations

import torch
from torch import Tensor

from blurcli.config import Config, HeatConfig
from blurcli.core import BlurringDiffusion, Denoiser, EpsDenoiser, HeatDissipation, SpectralDenoiser, UNet
from blurcli.core.colours import to_opponent
from blurcli.core.denoiser import Network
from blurcli.core.heat import ResidualPredictor


def build_process(config: Config) -> BlurringDiffusion | HeatDissipation:
    """The process of a configuration."""
    options = config.process.model_dump(exclude={"kind"}, exclude_none=True)
    if isinstance(config.process, HeatConfig):
        return HeatDissipation(config.data.image_size, **options | {"noise": in_our_units(config.process.noise)})
    return BlurringDiffusion(config.data.image_size, **options)


def in_our_units(noise: float) -> float:
    """A standard deviation for images in [-1, 1], from one where black is 0 and white 1."""
    return 2 * noise


def build_network(config: Config) -> UNet:
    """The U-Net of a configuration, newly initialised from PyTorch's global random state."""
    data = config.data
    return UNet(channels=data.channels, classes=data.classes, augmented=data.augment > 0, **config.model.model_dump())


def learned_moments(spectrum: Tensor, mean: Tensor, opponent: Tensor | None) -> tuple[Tensor, Tensor]:
    """Spectrum and mean in the colours in which a network works: opponent ones, where there is their spectrum.

    Raises:
        ValueError: the mean does not fit the spectrum in opponent colours.
    """
    if opponent is not None and opponent.shape != mean.shape:
        raise ValueError(f"mean of shape {tuple(mean.shape)} does not fit a spectrum of {tuple(opponent.shape)}")
    return (spectrum, mean) if opponent is None else (opponent, to_opponent(mean))


def build_denoiser(config: Config, network: Network, spectrum: Tensor, mean: Tensor) -> Denoiser | ResidualPredictor:
    """The denoiser of a configuration's objective; for `residual`, which estimates no clean image, the predictor."""
    process = build_process(config)
    if config.objective == "residual":
        assert isinstance(process, HeatDissipation)
        return ResidualPredictor(network, process)
    if config.objective == "eps":
        return EpsDenoiser(network, process)
    if config.objective == "v":
        return SpectralDenoiser(network, process, torch.ones_like(spectrum))
    return SpectralDenoiser(network, process, spectrum, mean)
