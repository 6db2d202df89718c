"""docs/tiny.py shows the method without the package: it must be the same method, and short."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mutants import ROOT
from PIL import Image
from torch import Tensor

from blurcli.core import BlurringDiffusion, SpectralDenoiser, dct2, idct2, sample
from blurcli.core.weighting import LOSS_WEIGHTS, signal_share

PATH = ROOT / "docs" / "tiny.py"
PATHS = {True: BlurringDiffusion(16, 10.0), False: BlurringDiffusion(16, blur_schedule="noise-ratio", blur_noise_ratio=0.5)}
TIMES = torch.tensor([0.0, 0.03, 0.4, 0.77, 1.0], dtype=torch.float64)

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def tiny() -> Any:
    spec = importlib.util.spec_from_file_location("tiny", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tiny: Any) -> Any:
    torch.manual_seed(1)
    return tiny.Model(tiny.shapes(256), c=8)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, dtype=torch.float64)


def curved(w: Tensor, t: Tensor) -> Tensor:
    """In place of a network: an F for which every part of a sampler matters."""
    return 0.5 * torch.tanh(w + w.roll(1, -1)) * torch.cos(2 * t)[:, None, None, None]


def spectral(model: Any, net: Any) -> SpectralDenoiser:
    """The package's denoiser with the moments of `model`, and with a network of images in place of one of coefficients."""
    moments = model.std**2 + model.mean**2, model.mean
    return SpectralDenoiser(lambda z, t: idct2(net(dct2(z), t)), PATHS[False], *moments)


def test_it_is_short_and_needs_no_package() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "blurcli" not in text


def test_transform(tiny: Any) -> None:
    x = images(2)
    close(tiny.dct(x), dct2(x))
    close(tiny.idct(x), idct2(x))


@pytest.mark.parametrize("paper", [True, False])
def test_process(tiny: Any, paper: bool) -> None:
    x, eps, process = images(5), images(5), PATHS[paper]
    alpha, sigma = tiny.schedule(TIMES, paper)
    close(alpha, process.alpha(TIMES))
    close(sigma, process.sigma(TIMES))
    close(tiny.diffuse(x, TIMES, eps, paper), process.diffuse(x, TIMES, eps))


def test_loss(tiny: Any, model: Any) -> None:
    x, eps, denoiser = tiny.shapes(5), images(5), spectral(model, model)
    weight = LOSS_WEIGHTS["balanced"](signal_share(PATHS[False], model.std**2, TIMES))
    close(model.loss(x, TIMES, eps), denoiser.loss(x, TIMES, eps, weight).mean())


def test_ancestral_with_the_exact_denoiser_of_gaussian_data(tiny: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denoise(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = PATHS[False].alpha(t), PATHS[False].sigma(t)
        gain = alpha * model.std**2 / (alpha**2 * model.std**2 + sigma**2)
        return idct2(model.mean + gain * (dct2(z) - alpha * model.mean))

    monkeypatch.setattr(model, "forward", lambda w, t: torch.zeros_like(w))
    u = images(2)
    torch.manual_seed(3)
    ours = tiny.ancestral(model, u, 7)
    torch.manual_seed(3)
    close(ours, sample(denoise, PATHS[False], idct2(u), 7, "ancestral", noise=lambda z: idct2(torch.randn_like(z))))


@pytest.mark.parametrize("sampler", ["ancestral", "ab2"])
def test_samplers(tiny: Any, model: Any, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "forward", curved)
    w = images(2)
    torch.manual_seed(3)
    ours = {"ancestral": tiny.ancestral, "ab2": tiny.adams_bashforth}[sampler](model, w, 7)
    torch.manual_seed(3)
    denoiser = spectral(model, curved)
    close(ours, sample(denoiser, PATHS[False], idct2(w), 7, sampler, noise=lambda z: idct2(torch.randn_like(z))))


def test_it_learns(tiny: Any) -> None:
    model, x, t, eps = tiny.Model(tiny.shapes(256), c=8), tiny.shapes(64), torch.linspace(0, 1, 64).double(), images(64)
    before = model.loss(x, t, eps)
    assert tiny.train(model, steps=30, batch=8).loss(x, t, eps) < 0.9 * before


def test_it_draws_a_picture(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for slow in ("ancestral", "adams_bashforth"):
        monkeypatch.setattr(tiny, slow, lambda model, noise, steps: noise)
    tiny.main(str(tmp_path / "tiny.png"), steps=2)
    with Image.open(tmp_path / "tiny.png") as picture:
        assert picture.size == (16 * 18 * 4, 9 * 18 * 4)
