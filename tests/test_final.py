"""The end of sampling: with the noise of t = 0, or without any."""

import json

import pytest
import torch
from test_sampling import Gaussian, power_law

from blurcli.config import from_json, load_config, to_json
from blurcli.core import BlurringDiffusion, dct2, sample
from blurcli.core.blur_schedules import BLUR_SCHEDULES


@pytest.mark.parametrize("schedule", BLUR_SCHEDULES)
def test_at_its_clean_time_a_process_neither_blurs_nor_adds_noise(schedule: str) -> None:
    ratio = 0.5 if schedule == "noise-ratio" else None
    process = BlurringDiffusion((6, 9), blur_schedule=schedule, blur_noise_ratio=ratio)
    clean = torch.tensor([process.clean_time], dtype=torch.float64)
    assert -0.01 < process.clean_time < 0
    torch.testing.assert_close(process.alpha(clean), torch.ones(1, 1, 6, 9, dtype=torch.float64), rtol=0, atol=1e-12)
    assert process.sigma(clean).item() < 1e-15


@pytest.mark.parametrize(
    "process",
    [
        BlurringDiffusion(16),
        BlurringDiffusion(16, blur_schedule="noise-ratio", blur_noise_ratio=0.5),
        BlurringDiffusion(16, 0, blur_schedule="noise-ratio", blur_noise_ratio=0.5),
    ],
)
@pytest.mark.parametrize("sampler", ["abm", "ab2", "euler"])
def test_whitened_samplers_end_exactly_without_noise(process: BlurringDiffusion, sampler: str) -> None:
    """For Gaussian data the whole path is known: the same point of the data's distribution, w = DCT(z)."""
    denoiser, z = Gaussian(process, power_law(16), 0.3), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    mean = torch.full((16, 16), 0.3, dtype=torch.float64)
    result = sample(denoiser, process, z, 3, sampler, denoiser.variance + 0.09, mean=mean, final="denoised")
    torch.testing.assert_close(dct2(result), 0.3 + denoiser.variance.sqrt() * dct2(z))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp-2m"])
def test_other_samplers_end_with_the_last_estimate(sampler: str) -> None:
    denoiser, estimates = Gaussian(BlurringDiffusion(16), power_law(16)), []
    z = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    observer = lambda i, t, z, x_hat: estimates.append(x_hat)  # noqa: E731
    result = sample(denoiser, denoiser.process, z, 5, sampler, on_step=observer, final="denoised")
    torch.testing.assert_close(result, estimates[-1])


@pytest.mark.parametrize(("preset", "expected"), [("shapes-blur", "noisy"), ("shapes-heat", None)])
def test_weights_older_than_the_option_end_as_they_did(preset: str, expected: str | None) -> None:
    config = load_config(preset)
    assert from_json(to_json(config), "new").sample.final is None
    plain = json.loads(to_json(config))
    del plain["sample"]["final"]
    assert from_json(json.dumps(plain), "old").sample.final == expected
