"""Opponent colors: the same images, noise and bounds in other channels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, moments_of

from blurcli.config import Config, load_config, parse_overrides
from blurcli.core import dct2
from blurcli.core.colors import from_opponent, to_opponent
from blurcli.core.rng import ImageNoise
from blurcli.data import ReadOptions, load_dataset, measure_moments
from blurcli.evaluate.denoising import MeasuredImages
from blurcli.evaluate.likelihood import likelihood_bound
from blurcli.families import LikelihoodConfig, ModelData
from blurcli.model.inference import build_network
from blurcli.model.pipeline import Pipeline
from blurcli.training.trainer import Trainer

CPU = torch.device("cpu")


def tiny_config(*assignments: str) -> Config:
    return load_config("shapes-blur", parse_overrides([*TINY, *assignments]))


@pytest.mark.parametrize("channels", [1, 3])
def test_orthonormal_and_exactly_independent_of_the_batch(channels: int) -> None:
    x = torch.randn(5, channels, 8, 6, dtype=torch.float64)
    opponent = to_opponent(x)
    torch.testing.assert_close(from_opponent(opponent), x)
    torch.testing.assert_close(opponent.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    assert torch.equal(to_opponent(x[2]), opponent[2])
    if channels == 1:
        assert torch.equal(opponent, x)


@pytest.mark.parametrize("opponent", [False, True])
def test_moments_of_images_in_0_1(opponent: bool) -> None:
    """As measured on images in the space in which the network works."""
    images = load_dataset("shapes", "train", (8, 8), 3, ReadOptions(shapes_count=64)).images
    moments = replace(measure_moments(images, False), centered=False)
    if not opponent:
        moments = replace(moments, opponent_spectrum=None)
    x = torch.from_numpy(np.array(images)).double() / 255
    u = dct2(to_opponent(x) if opponent else x)
    spectrum, mean = moments.in_model_space()
    torch.testing.assert_close(mean, u.mean(0))
    torch.testing.assert_close(spectrum, (u**2).mean(0), atol=1e-5, rtol=1e-6)  # up to the least variance
    signed = 2 * x - 1
    torch.testing.assert_close(moments.to_rgb(moments.to_model_space(signed)), signed)
    torch.testing.assert_close(dct2(moments.to_model_space(signed)), moments.space.dct_from_rgb(dct2(signed)))
    torch.testing.assert_close(dct2(moments.to_model_space(signed)), u)


def test_gray_has_no_color() -> None:
    gray = torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4)
    opponent = to_opponent(gray)
    torch.testing.assert_close(opponent[:, 0], 3**0.5 * gray[:, 0])
    assert opponent[:, 1:].abs().max() < 1e-6


def test_channels_are_nearly_uncorrelated() -> None:
    x = torch.from_numpy(np.array(load_dataset("shapes", "train", (16, 16), 3, ReadOptions(shapes_count=500)).images)).double()
    correlations = [torch.corrcoef(images.permute(1, 0, 2, 3).flatten(1)).triu(1).abs().max() for images in (x, to_opponent(x))]
    assert correlations[0] > 0.3
    assert correlations[1] < 0.15


def model(objective: str) -> Pipeline:
    config = tiny_config(f"objective={objective}")
    moments = measure_moments(load_dataset("shapes", "train", (8, 8), 3, ReadOptions(shapes_count=64)).images, True)
    if objective != "spectral":
        moments = replace(moments, opponent_spectrum=None)
    torch.manual_seed(0)
    network = build_network(config).eval()
    return Pipeline(config, network, ModelData(moments), CPU)


def test_an_untrained_network_gives_gaussian_images_in_red_green_and_blue() -> None:
    """F = 0 is the Wiener filter: samples have the data's colors."""
    images = load_dataset("shapes", "train", (8, 8), 3, ReadOptions(shapes_count=64)).images
    pipeline = model("spectral")
    made = torch.cat(list(pipeline.generate(400, 0, pipeline.sampling(steps=4))))
    x = torch.from_numpy(np.array(images)).float() / 127.5 - 1
    torch.testing.assert_close(made.mean((0, 2, 3)), x.mean((0, 2, 3)), atol=0.05, rtol=0)
    correlation = [torch.corrcoef(part.permute(1, 0, 2, 3).flatten(1))[0, 1] for part in (made, x)]
    assert abs(correlation[0] - correlation[1]) < 0.15


def test_observers_see_red_green_and_blue() -> None:
    states: list[torch.Tensor] = []
    made = model("spectral")
    (images,) = made.generate(3, 0, made.sampling("euler", 4), on_step=lambda i, t, z, x_hat: states.append(z))
    start = made.initial_noise(3, 0)
    assert torch.equal(start, from_opponent(ImageNoise(0, range(3))(images)))
    assert torch.corrcoef(torch.stack([states[0].flatten(), start.flatten()]))[0, 1] > 0.9
    guess = made.denoise(images, 0.0, 0)
    assert torch.corrcoef(torch.stack([guess.flatten(), images.flatten()]))[0, 1] > 0.99


def test_the_bound_is_of_red_green_and_blue() -> None:
    """The levels of the pixels are those of the images; by opponent colors there would be no 256 of them."""
    images = load_dataset("shapes", "test", (8, 8), 3, ReadOptions(shapes_count=64)).images
    bounds = {
        objective: likelihood_bound(model(objective), MeasuredImages(images, 64, 0), LikelihoodConfig(calls=8))
        for objective in ("spectral", "v")
    }
    assert torch.allclose(bounds["spectral"].reconstruction.mean(), bounds["v"].reconstruction.mean(), rtol=0.02)


def test_training_is_by_the_same_colors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    config = tiny_config()
    x = torch.rand(4, 3, 8, 8) * 2 - 1
    spectrum = (dct2(x) ** 2).mean(0) + 1
    trainer = Trainer(config, moments_of(spectrum, opponent=True), CPU)
    loss = trainer.objective.loss
    monkeypatch.setattr(trainer.objective, "loss", lambda x, *rest, **more: seen.append(x) or loss(x, *rest, **more))
    trainer.train_step(x)
    assert torch.equal(seen[0], to_opponent(x))
