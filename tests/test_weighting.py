"""Weights of the loss, against what their papers say, and schedules of the blur."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from blurcli.core import BlurringDiffusion, EpsDenoiser, SpectralDenoiser, dct2
from blurcli.core.blur_schedules import BLUR_SCHEDULES, BlurSchedule
from blurcli.core.weighting import LOSS_WEIGHTS, signal_share

PROCESS = BlurringDiffusion(8, 5.0)
VARIANCE = torch.rand(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
T = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)


def snr() -> Tensor:
    return (PROCESS.alpha(T) / PROCESS.sigma(T)) ** 2 * VARIANCE


def test_weights_are_those_of_their_papers() -> None:
    share = signal_share(PROCESS, VARIANCE, T)
    assert torch.allclose(share, snr() / (1 + snr()))
    mixture = share / 4 + 3 / 4 * share.mean((1, 2, 3), keepdim=True)
    for name, expected in {
        "min-snr": torch.minimum(snr(), torch.tensor(5.0)) / snr(),
        "sigmoid": torch.sigmoid(-snr().log()),
        "balanced": 1 / (mixture + 0.1),
    }.items():
        weight = LOSS_WEIGHTS[name]
        assert weight is not None
        assert torch.allclose(weight(share), expected), name
    assert LOSS_WEIGHTS["paper"] is None  # 1 everywhere


@pytest.mark.parametrize("name", LOSS_WEIGHTS)
def test_a_weight_means_the_same_for_every_objective(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, eps, error = (torch.randn(7, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(3))
    function = LOSS_WEIGHTS[name]
    weight = None if function is None else function(signal_share(PROCESS, VARIANCE, T))
    expected = ((1 if weight is None else weight) * dct2(error) ** 2).mean((1, 2, 3))
    assert torch.allclose(EpsDenoiser(lambda z, t: eps + error, PROCESS).loss(x, T, eps, weight), expected)

    def slope(w: Tensor, t: Tensor) -> Tensor:
        # The F that implies a noise wrong by `error`.
        from blurcli.core import idct2

        root_s = (PROCESS.alpha(T) ** 2 * VARIANCE + PROCESS.sigma(T) ** 2).sqrt()
        sin, cos = PROCESS.alpha(T) * VARIANCE.sqrt() / root_s, PROCESS.sigma(T) / root_s
        return idct2(cos * dct2(x) / VARIANCE.sqrt() - sin * dct2(eps) + dct2(error) / sin)

    assert torch.allclose(SpectralDenoiser(slope, PROCESS, VARIANCE).loss(x, T, eps, weight), expected)


@pytest.mark.parametrize(
    ("name", "power"), [*((name, 2.0) for name in BLUR_SCHEDULES), *product(("power", "cosine-power"), (1.0, 5.0))]
)
def test_blur_schedules_grow_at_their_speed(name: str, power: float) -> None:
    ratio = 2.0 if name == "noise-ratio" else None
    blur = BlurSchedule(name, 20.0, power, ratio)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    sigma = blur.sigma(t)
    # The ratio of noise to signal is exp(-5) at t = 0, and exp(5) at t = 1.
    assert sigma[0].item() == (pytest.approx(2 * math.exp(-5), rel=1e-6) if ratio else 0)
    assert sigma[-1].item() == pytest.approx((0.05**2 + (math.exp(-5) / 2) ** 2) ** -0.5 if ratio else 20.0)
    assert (sigma.diff() > 0).all()
    h = 1e-6
    slope = (blur.sigma(t[1:-1] + h) - blur.sigma(t[1:-1] - h)) / (2 * h)
    assert torch.allclose(blur.rate(t[1:-1]), slope, rtol=1e-6)


def test_cosine_power_of_two_is_the_papers() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(BlurSchedule("cosine-power", 20.0, 2.0).sigma(t), BlurSchedule("sin2", 20.0).sigma(t))


def test_a_larger_power_blurs_later() -> None:
    t = torch.tensor([0.25, 1.0], dtype=torch.float64)
    assert BlurSchedule("power", 2.0, 2.5).sigma(t).tolist() == pytest.approx([2 / 32, 2])
    assert torch.equal(BlurSchedule("power", 2.0, 1.0).sigma(t), BlurSchedule("linear", 2.0).sigma(t))


def test_bad_schedules_are_refused() -> None:
    for options in ({"blur_schedule": "cubic"}, {"blur_power": 0.5}, {"blur_sigma_max": -1.0}):
        with pytest.raises(ValueError, match=r"must be|unknown blur schedule"):
            BlurringDiffusion(8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["linear", "power", "cosine-power"])
def test_snr_falls_at_its_rate_on_every_schedule(name: str) -> None:
    process = BlurringDiffusion(8, 5.0, blur_schedule=name, blur_power=3.0)
    snr, rate = process.snr(T)
    h = 1e-6
    slope = (process.snr(T + h)[0] - process.snr(T - h)[0]) / (2 * h)
    assert torch.allclose(rate, slope, rtol=1e-5)
    assert (snr > 0).all()
