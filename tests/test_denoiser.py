import pytest
import torch
from torch import Tensor

from blurcli.core import BlurringDiffusion, EpsDenoiser, SpectralDenoiser, dct2, idct2

SIZE = (6, 9)


@pytest.fixture
def spectrum() -> Tensor:
    return 0.1 + 30 * torch.rand(3, *SIZE, dtype=torch.float64)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 4, 3, *SIZE, dtype=torch.float64, generator=generator)
    return x, torch.tensor([0.02, 0.3, 0.6, 0.98], dtype=torch.float64), eps


def test_the_true_noise_gives_the_true_image(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    x, t, eps = batch
    process = BlurringDiffusion(SIZE, 5.0)
    z = process.diffuse(x, t, eps)
    # Divided by an alpha of 1e-5, rounding errors of 1e-16 come out as 1e-11.
    torch.testing.assert_close(EpsDenoiser(lambda z, t: eps, process)(z, t), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("with_mean", [False, True])
def test_the_true_correction_gives_the_true_image(
    batch: tuple[Tensor, Tensor, Tensor], spectrum: Tensor, with_mean: bool
) -> None:
    x, t, eps = batch
    process = BlurringDiffusion(SIZE, 5.0)
    mean = 0.9 * spectrum.sqrt() if with_mean else torch.zeros_like(spectrum)
    variance = spectrum - mean**2
    phi = torch.atan2(process.alpha(t) * variance.sqrt(), process.sigma(t))
    white = (dct2(x) - mean) / variance.sqrt()
    seen = []

    def network(w: Tensor, t: Tensor) -> Tensor:
        seen.append(w)
        return idct2(torch.cos(phi) * white - torch.sin(phi) * dct2(eps))

    denoiser = SpectralDenoiser(network, process, spectrum, mean if with_mean else None)
    torch.testing.assert_close(denoiser(process.diffuse(x, t, eps), t), x)
    torch.testing.assert_close(dct2(seen[0]), torch.sin(phi) * white + torch.cos(phi) * dct2(eps))
    assert denoiser.loss(x, t, eps).tolist() == pytest.approx([0] * 4, abs=1e-20)
    torch.testing.assert_close(seen[1], seen[0])


def test_without_a_network_it_is_the_wiener_filter(batch: tuple[Tensor, Tensor, Tensor], spectrum: Tensor) -> None:
    x, t, eps = batch
    process = BlurringDiffusion(SIZE, 5.0)
    z = process.diffuse(x, t, eps)
    alpha, sigma = process.alpha(t), process.sigma(t)
    expected = idct2(alpha * spectrum * dct2(z) / (alpha**2 * spectrum + sigma**2))
    torch.testing.assert_close(SpectralDenoiser(lambda w, t: torch.zeros_like(w), process, spectrum)(z, t), expected)


@pytest.mark.parametrize("with_mean", [False, True])
def test_its_loss_is_the_noise_loss_of_the_same_denoiser(
    batch: tuple[Tensor, Tensor, Tensor], spectrum: Tensor, with_mean: bool
) -> None:
    """Turn any spectral denoiser into the noise that it implies: the paper's loss of that must be the same number."""
    x, t, eps = batch
    process = BlurringDiffusion(SIZE, 5.0)
    mixing = torch.randn(SIZE[1], SIZE[1], dtype=torch.float64)
    mean = 0.5 * spectrum.sqrt() if with_mean else None
    spectral = SpectralDenoiser(lambda w, t: torch.tanh(w @ mixing) + t[:, None, None, None], process, spectrum, mean)

    def implied_noise(z: Tensor, t: Tensor) -> Tensor:
        return idct2(dct2(z) - process.alpha(t) * dct2(spectral(z, t))) / process.sigma(t)

    ours, papers = spectral.loss(x, t, eps), EpsDenoiser(implied_noise, process).loss(x, t, eps)
    assert ours.shape == (4,)
    assert ours.min().item() > 1e-6
    torch.testing.assert_close(ours, papers, rtol=1e-9, atol=0)


def test_input_and_target_have_unit_variance() -> None:
    process = BlurringDiffusion(8)
    spectrum = 400 / (1 + torch.arange(64.0).reshape(8, 8)) ** 2
    x = idct2(torch.randn(20_000, 1, 8, 8) * spectrum.sqrt())
    inputs = []
    denoiser = SpectralDenoiser(lambda w, t: inputs.append(w) or torch.zeros_like(w), process, spectrum)
    for time in (0.01, 0.5, 0.99):
        denoiser(process.diffuse(x, torch.full((len(x),), time), torch.randn_like(x)), torch.full((len(x),), time))
        # 20,000 samples: the variance is known to 1%, four deviations and a bit more for the largest of 64.
        assert (dct2(inputs[-1]).var(dim=0) - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("spectrum", "text"),
    [
        (torch.ones(5, 5), "does not fit"),
        (torch.zeros(*SIZE), "positive"),
        (torch.full(SIZE, torch.inf), "finite"),
        (torch.ones(1, 1, *SIZE), "does not fit"),
    ],
)
def test_refuses_an_impossible_spectrum(spectrum: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SpectralDenoiser(lambda w, t: w, BlurringDiffusion(SIZE), spectrum)


def test_refuses_a_mean_beyond_the_spectrum() -> None:
    with pytest.raises(ValueError, match="above the squared mean"):
        SpectralDenoiser(lambda w, t: w, BlurringDiffusion(SIZE), torch.ones(SIZE), torch.full(SIZE, 2.0))
