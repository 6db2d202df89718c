"""The process against formulas written out anew in NumPy, and against Bayes' rule for joint Gaussians."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from blurcli.core import BlurringDiffusion, HeatDissipation, dct2, idct2
from blurcli.core.process import Process

TIMES = [0.0, 0.013, 0.25, 0.5, 0.77, 1.0]


def independent_schedule(t: float, size: tuple[int, int], blur: float) -> tuple[np.ndarray, float]:
    """alpha (H, W) and sigma from the definitions: log-SNR first, sigmoids after."""
    start, end = np.arctan(np.exp(-10 / 2)), np.arctan(np.exp(10 / 2))
    logsnr = -2 * np.log(np.tan(start + (end - start) * t))
    a, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    tau = (blur * np.sin(np.pi * t / 2) ** 2) ** 2 / 2
    rows, columns = np.pi * np.arange(size[0]) / size[0], np.pi * np.arange(size[1]) / size[1]
    scaling = (1 - 0.001) * np.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) * tau) + 0.001
    return a * scaling, float(sigma)


@pytest.mark.parametrize("blur", [0.0, 20.0])
@pytest.mark.parametrize("t", TIMES)
def test_schedule(t: float, blur: float) -> None:
    process = BlurringDiffusion((6, 9), blur)
    alpha, sigma = independent_schedule(t, (6, 9), blur)
    times = torch.tensor([t], dtype=torch.float64)
    # The reference loses digits where exp(10) meets 1; 1e-9 is far below anything a sampler sees.
    np.testing.assert_allclose(process.alpha(times)[0, 0].numpy(), alpha, rtol=1e-9)
    np.testing.assert_allclose(process.sigma(times).item(), sigma, rtol=1e-9)


@pytest.mark.parametrize(("ratio", "limit"), [(0.5, None), (2.0, None), (0.5, 3.0), (0.5, 0.0)])
@pytest.mark.parametrize("t", TIMES)
def test_blur_in_proportion_to_the_noise(t: float, ratio: float, limit: float | None) -> None:
    """Against the definition: sigma_B / r is noise over signal, exp(-logsnr / 2)."""
    process = BlurringDiffusion((6, 9), limit, blur_schedule="noise-ratio", blur_noise_ratio=ratio)
    start, end = np.arctan(np.exp(-10 / 2)), np.arctan(np.exp(10 / 2))
    logsnr = -2 * np.log(np.tan(start + (end - start) * t))
    blur = ratio * np.exp(-logsnr / 2)
    if limit is not None:
        blur = 0.0 if limit == 0 else (blur**-2 + limit**-2) ** -0.5
    rows, columns = np.pi * np.arange(6) / 6, np.pi * np.arange(9) / 9
    scaling = (1 - 0.001) * np.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) * blur**2 / 2) + 0.001
    times = torch.tensor([t], dtype=torch.float64)
    np.testing.assert_allclose(process.alpha(times)[0, 0].numpy(), np.sqrt(1 / (1 + np.exp(-logsnr))) * scaling, rtol=1e-9)
    np.testing.assert_allclose(process.blur_sigma(times).item(), blur, rtol=1e-9)


@pytest.mark.parametrize(
    ("process", "title"),
    [
        (BlurringDiffusion(8), "the paper's blur, up to 20 px"),
        (BlurringDiffusion(8, 0.0), "plain diffusion, no blur"),
        (BlurringDiffusion(8, 5.0, blur_schedule="linear"), "blur linear in t, up to 5 px"),
        (BlurringDiffusion(8, 2.1, blur_schedule="power", blur_power=2.5), "blur as t^2.5, up to 2.1 px"),
        (BlurringDiffusion(8, 9.0, blur_schedule="cosine-power", blur_power=3), "blur as 1 - cos^3(pi t / 2), up to 9 px"),
        (BlurringDiffusion(8, blur_schedule="noise-ratio", blur_noise_ratio=0.25), "blur 0.25 px per noise/signal"),
        (
            BlurringDiffusion(8, 4.0, blur_schedule="noise-ratio", blur_noise_ratio=1),
            "blur 1 px per noise/signal, at most 4 px",
        ),
        (HeatDissipation(8), "heat dissipation, up to 24 px"),
    ],
)
def test_a_title_says_what_a_process_does(process: Process, title: str) -> None:
    assert process.title == title


def test_limits_of_the_log_snr() -> None:
    process = BlurringDiffusion(4, 0.0, logsnr_min=-8.0, logsnr_max=6.0)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    logsnr = 2 * torch.log(process.alpha(times)[:, 0, 0, 0] / process.sigma(times)[:, 0, 0, 0])
    torch.testing.assert_close(logsnr, torch.tensor([6.0, -8.0], dtype=torch.float64))


def test_shapes_and_dtypes() -> None:
    process = BlurringDiffusion((6, 9))
    t = torch.rand(3)
    assert process.alpha(t).shape == (3, 1, 6, 9)
    assert process.sigma(t).shape == (3, 1, 1, 1)
    assert process.alpha(t).dtype == torch.float32
    assert process.sigma(t.double()).dtype == torch.float64


def test_diffuse_is_the_marginal() -> None:
    process = BlurringDiffusion((6, 9), 5.0)
    x, eps = torch.randn(2, 2, 3, 6, 9, dtype=torch.float64)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    z = process.diffuse(x, t, eps).numpy()
    for i, time in enumerate([0.3, 0.8]):
        alpha, sigma = independent_schedule(time, (6, 9), 5.0)
        blurred = scipy.fft.idctn(alpha * scipy.fft.dctn(x[i].numpy(), axes=(1, 2), norm="ortho"), axes=(1, 2), norm="ortho")
        np.testing.assert_allclose(z[i], blurred + sigma * eps[i].numpy(), atol=1e-9)


@pytest.mark.parametrize("blur", [0.0, 20.0])
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.99), (0.7, 0.5), (0.4, 0.01), (0.05, 0.0), (1.0, 0.0)])
def test_posterior_is_bayes_rule(t: float, s: float, blur: float) -> None:
    """Condition the joint Gaussian of (u_s, u_t) given x on u_t, with explicit covariances."""
    process = BlurringDiffusion((5, 4), blur)
    u, x = torch.randn(2, 1, 1, 5, 4, dtype=torch.float64)
    as_tensor = lambda time: torch.tensor([time], dtype=torch.float64)  # noqa: E731
    mean, variance = process.posterior(u, x, as_tensor(t), as_tensor(s))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = independent_schedule(t, (5, 4), blur), independent_schedule(s, (5, 4), blur)
    for index in np.ndindex(5, 4):
        step = alpha_t[index] / alpha_s[index]
        covariance = step * sigma_s**2
        gain = covariance / sigma_t**2
        expected = alpha_s[index] * x[0, 0][index].item() + gain * (u[0, 0][index] - alpha_t[index] * x[0, 0][index]).item()
        assert mean[0, 0][index].item() == pytest.approx(expected, rel=1e-7, abs=1e-12)
        assert variance[0, 0][index].item() == pytest.approx(sigma_s**2 - gain * covariance, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("blur", [0.0, 20.0])
def test_one_exact_ancestral_step_keeps_the_marginal(blur: float) -> None:
    """With the true x, a state of the marginal at t becomes one of the marginal at s: mean alpha_s x, variance sigma_s^2."""
    process = BlurringDiffusion(8, blur)
    t, s = torch.tensor([0.6], dtype=torch.float64), torch.tensor([0.45], dtype=torch.float64)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    centre, variance = process.posterior(process.alpha(t) * x, x, t, s)
    spread = process.posterior(process.alpha(t) * x + process.sigma(t), x, t, s)[0] - centre
    torch.testing.assert_close(centre, process.alpha(s) * x)
    torch.testing.assert_close(spread**2 + variance, (process.sigma(s) ** 2).expand_as(spread))


@pytest.mark.parametrize(
    "process",
    [
        BlurringDiffusion((6, 9), 0.0),
        BlurringDiffusion((6, 9), 20.0),
        BlurringDiffusion((6, 9), blur_schedule="noise-ratio", blur_noise_ratio=0.5),
        BlurringDiffusion((6, 9), 2.0, blur_schedule="noise-ratio", blur_noise_ratio=0.5),
        BlurringDiffusion((6, 9), 0.0, blur_schedule="noise-ratio", blur_noise_ratio=0.5),
    ],
)
def test_snr_and_its_rate(process: BlurringDiffusion) -> None:
    h = 1e-6
    t = torch.tensor([0.001, 0.2, 0.5, 0.999], dtype=torch.float64)
    snr, rate = process.snr(t)
    torch.testing.assert_close(snr, (process.alpha(t) / process.sigma(t)) ** 2)
    torch.testing.assert_close(rate, (process.snr(t + h)[0] - process.snr(t - h)[0]) / (2 * h), rtol=1e-6, atol=0)


def test_noise_on_a_blurred_image_makes_the_same_state() -> None:
    process, t = BlurringDiffusion((6, 9), 5.0), torch.tensor([0.4], dtype=torch.float64)
    x, eps = torch.randn(2, 1, 3, 6, 9, dtype=torch.float64)
    scaling = process.alpha(t) / process.alpha(t)[..., :1, :1]
    blurred = idct2(scaling * dct2(x))
    torch.testing.assert_close(process.add_noise(blurred, t, eps), process.diffuse(x, t, eps))


def test_no_blur_leaves_all_frequencies_alike() -> None:
    alpha = BlurringDiffusion(8, 0.0).alpha(torch.tensor([0.4]))
    assert torch.all(alpha == alpha[0, 0, 0, 0])


def test_the_whole_state_at_time_one_is_noise() -> None:
    process = BlurringDiffusion(16)
    x = torch.ones(1, 3, 16, 16)
    z = process.diffuse(x, torch.ones(1), torch.zeros_like(x))
    assert dct2(z).abs().max() < 0.2  # exp(-5) of the one frequency that blur leaves, 16


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": 8, "blur_sigma_max": -1.0}, "blur_sigma_max"),
        ({"image_size": 8, "min_scale": 0.0}, "min_scale"),
        ({"image_size": 8, "logsnr_min": 5.0, "logsnr_max": 5.0}, "logsnr_min"),
        ({"image_size": 8, "blur_schedule": "noise-ratio"}, "blur_noise_ratio is for"),
        ({"image_size": 8, "blur_noise_ratio": 0.5}, "blur_noise_ratio is for"),
        ({"image_size": 8, "blur_sigma_max": math.inf}, "finite"),
        *(
            ({"image_size": 8, "blur_schedule": "noise-ratio", "blur_noise_ratio": ratio}, "above 0 and finite")
            for ratio in (-1.0, 0.0, math.inf, math.nan)
        ),
    ],
)
def test_refuses_impossible_arguments(arguments: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BlurringDiffusion(**arguments)


@pytest.mark.parametrize("t", [torch.zeros(()), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)])
def test_refuses_times_of_another_shape(t: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"times must be .* shape \(B,\)"):
        BlurringDiffusion(8).alpha(t)
