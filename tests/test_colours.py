"""Opponent colours: the same images, noise and bounds, by other channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from blurcli import fit
from blurcli.build import build_network
from blurcli.config import Config, load_config, parse_overrides
from blurcli.core import dct2
from blurcli.core.colours import from_opponent, to_opponent
from blurcli.core.rng import ImageNoise
from blurcli.data import load_dataset, measure_moments
from blurcli.model import Model
from blurcli.train.trainer import Trainer

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


def test_grey_has_no_colour() -> None:
    grey = torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4)
    opponent = to_opponent(grey)
    torch.testing.assert_close(opponent[:, 0], 3**0.5 * grey[:, 0])
    assert opponent[:, 1:].abs().max() < 1e-6


def test_channels_are_nearly_uncorrelated() -> None:
    x = torch.from_numpy(np.array(load_dataset("shapes", "train", (16, 16), 3, shapes_count=500).images)).double()
    correlations = [torch.corrcoef(images.permute(1, 0, 2, 3).flatten(1)).triu(1).abs().max() for images in (x, to_opponent(x))]
    assert correlations[0] > 0.3
    assert correlations[1] < 0.15


def model(objective: str) -> Model:
    config = tiny_config(f"objective={objective}")
    spectrum, mean, opponent = measure_moments(load_dataset("shapes", "train", (8, 8), 3, shapes_count=64).images, True)
    torch.manual_seed(0)
    network = build_network(config).eval()
    return Model(config, network, spectrum, mean, CPU, opponent=opponent if objective == "spectral" else None)


def test_an_untrained_network_gives_gaussian_images_in_red_green_and_blue() -> None:
    """F = 0 is the Wiener filter: samples have the data's colours."""
    images = load_dataset("shapes", "train", (8, 8), 3, shapes_count=64).images
    made = torch.cat(list(model("spectral").generate(400, 0, steps=4)))
    x = torch.from_numpy(np.array(images)).float() / 127.5 - 1
    torch.testing.assert_close(made.mean((0, 2, 3)), x.mean((0, 2, 3)), atol=0.05, rtol=0)
    correlation = [torch.corrcoef(part.permute(1, 0, 2, 3).flatten(1))[0, 1] for part in (made, x)]
    assert abs(correlation[0] - correlation[1]) < 0.15


def test_observers_see_red_green_and_blue() -> None:
    states: list[torch.Tensor] = []
    made = model("spectral")
    (images,) = made.generate(3, 0, steps=4, sampler="euler", on_step=lambda i, t, z, x_hat: states.append(z))
    start = made.start(3, 0)
    assert torch.equal(start, from_opponent(ImageNoise(0, range(3))(images)))
    assert torch.corrcoef(torch.stack([states[0].flatten(), start.flatten()]))[0, 1] > 0.9
    guess = made.guess(images, 0.0, 0)
    assert torch.corrcoef(torch.stack([guess.flatten(), images.flatten()]))[0, 1] > 0.99


def test_the_bound_is_of_red_green_and_blue() -> None:
    """The levels of the pixels are those of the images; by opponent colours there would be no 256 of them."""
    images = load_dataset("shapes", "test", (8, 8), 3, shapes_count=64).images
    bounds = {objective: fit.bound(model(objective), images, 64, 0, calls=8, steps=None) for objective in ("spectral", "v")}
    assert torch.allclose(bounds["spectral"].reconstruction.mean(), bounds["v"].reconstruction.mean(), rtol=0.02)


def test_training_is_by_the_same_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    config = tiny_config()
    x = torch.rand(4, 3, 8, 8) * 2 - 1
    spectrum = (dct2(x) ** 2).mean(0) + 1
    trainer = Trainer(config, spectrum, torch.zeros(3, 8, 8), CPU, opponent=spectrum)
    loss = trainer.denoiser.loss
    monkeypatch.setattr(trainer.denoiser, "loss", lambda x, *rest: seen.append(x) or loss(x, *rest))
    trainer.train_step(x)
    assert torch.equal(seen[0], to_opponent(x))
