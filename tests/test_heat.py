"""Inverse heat dissipation: its levels, its sampler, and its bound against direct computations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, SeededDraws, settings
from torch import Tensor

from blurcli.base.errors import UsageError
from blurcli.base.runs import Run
from blurcli.config import load_config, parse_overrides
from blurcli.core import HeatDissipation, SpectralDenoiser, dct2, idct2
from blurcli.core.colors import ModelSpace
from blurcli.core.heat import DenoiserPredictor, ResidualPredictor, lowest_frequencies, sample_heat
from blurcli.core.heat_likelihood import _level_log_probability, heat_bound, prediction_errors
from blurcli.core.moments import DataMoments
from blurcli.core.plans import Plan, make_plan
from blurcli.core.rng import ImageNoise, InterpolatedNoise, SharedNoise
from blurcli.core.samplers.heat import Heat
from blurcli.families import family_of
from blurcli.model.weights import load_weights

SIZE = (8, 12)
PROCESS = HeatDissipation(SIZE, blur_sigma_max=6.0, levels=20, noise=0.02)
VARIANCE = 0.3 / (1 + torch.arange(8.0)[:, None] ** 2 + torch.arange(12.0) ** 2).double() ** 0.75 + 0.01
HEAT = (
    "process.kind=heat",
    "process.levels=4",
    "sample.sampler=heat",
    "sample.delta=0.0125",
    "sample.steps=4",
    "optim.time_sampling=uniform",
)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact(z: Tensor, t: Tensor) -> Tensor:
    """The expected clean image where the data are Gaussian of variance VARIANCE."""
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    return idct2(alpha * VARIANCE * dct2(z) / (alpha**2 * VARIANCE + sigma**2))


class Exact:
    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        return exact(z, t)

    def loss(self, x: Tensor, t: Tensor, eps: Tensor, weight: Tensor | None = None) -> Tensor:
        raise NotImplementedError


PREDICTOR = DenoiserPredictor(Exact(), PROCESS)


def plan(steps: int, delta: float, start: float | None = None) -> Plan:
    return make_plan(Heat(delta), PROCESS, steps, torch.device("cpu"), start=start)


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (5, 9)])
def test_levels_are_what_the_heat_equation_leaves(size: tuple[int, int]) -> None:
    process = HeatDissipation(size, blur_sigma_max=24.0, levels=200)
    x = normal(0, 1, 1, *size)
    sigmas = [0.0, *(0.5 * (24 / 0.5) ** (k / 199) for k in range(200))]
    for level in (0, 1, 2, 37, 199, 200):
        t = torch.tensor([level / 200], dtype=torch.float64)
        clean = dct2(process.diffuse(x, t, torch.zeros_like(x)))[0, 0]
        for i, j in ((0, 0), (0, 1), (1, 0), (3, 2), (size[0] - 1, size[1] - 1)):
            decay = math.exp(-((math.pi * i / size[0]) ** 2 + (math.pi * j / size[1]) ** 2) * sigmas[level] ** 2 / 2)
            assert abs(float(clean[i, j] - decay * dct2(x)[0, 0, i, j])) < 1e-12


def test_blur_grows_evenly_in_its_logarithm() -> None:
    sigma = PROCESS.blur_sigma(torch.linspace(0, 1, 21, dtype=torch.float64))
    assert sigma[0] == 0
    assert sigma[1].item() == pytest.approx(0.5)
    assert sigma[-1].item() == pytest.approx(6.0)
    assert torch.allclose(sigma[2:] / sigma[1:-1], (sigma[2] / sigma[1]).expand(19))
    assert PROCESS.level_above(torch.tensor([0.0, 0.05, 0.051, 1.0])).tolist() == pytest.approx([0.05, 0.05, 0.1, 1.0])


@pytest.mark.parametrize(
    "options", [{"levels": 1}, {"blur_sigma_min": 24.0}, {"blur_sigma_min": 0.0}, {"noise": 0.0}, {"image_size": 0}]
)
def test_bad_arguments_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        HeatDissipation(**({"image_size": 8} | options))  # type: ignore[arg-type]


def test_both_objectives_have_the_published_loss() -> None:
    x, eps = normal(0, 4, 1, *SIZE), normal(1, 4, 1, *SIZE)
    t = torch.tensor([0.05, 0.3, 0.65, 1.0], dtype=torch.float64)
    noise = normal(2, 4, 1, *SIZE) / 50
    less_blurred = PROCESS.diffuse(x, t - 0.05, torch.zeros_like(x))
    guess = less_blurred + noise - PROCESS.diffuse(x, t, eps)
    residual = ResidualPredictor(lambda z, t: guess, PROCESS)
    assert torch.allclose(residual.loss(x, t, eps), (noise / 0.02).square().mean((1, 2, 3)))
    # The other one's is the same times (alpha(t) / alpha(s))^2 per frequency.
    spectral = SpectralDenoiser(lambda w, t: torch.zeros_like(w), PROCESS, VARIANCE)
    predictor = DenoiserPredictor(spectral, PROCESS)
    error = predictor(PROCESS.diffuse(x, t, eps), t, t - 0.05) - dct2(less_blurred)
    expected = (error * PROCESS.alpha(t) / PROCESS.alpha(t - 0.05) / 0.02).square().mean((1, 2, 3))
    assert torch.allclose(spectral.loss(x, t, eps), expected, rtol=1e-6)


def test_variances_of_samples_are_those_of_the_recursion() -> None:
    one = torch.ones(4000, dtype=torch.float64)
    x = idct2(normal(0, 4000, 1, *SIZE) * VARIANCE.sqrt())
    generator = torch.Generator().manual_seed(1)
    images = sample_heat(
        PREDICTOR,
        plan(20, 0.03),
        PROCESS.diffuse(x, one, normal(2, 4000, 1, *SIZE)),
        noise=lambda like: torch.randn(like.shape, dtype=like.dtype, generator=generator),
    )
    variance = PROCESS.alpha(one[:1])[0, 0] ** 2 * VARIANCE + 0.02**2
    for k in range(20, 0, -1):
        alpha, earlier = (PROCESS.alpha(torch.tensor([level / 20], dtype=torch.float64))[0, 0] for level in (k, k - 1))
        gain = earlier * alpha * VARIANCE / (alpha**2 * VARIANCE + 0.02**2)
        variance = gain**2 * variance + (0.03**2 if k > 1 else 0)
    # The error of a variance from 4,000 normal numbers is 2.2% (one standard deviation).
    assert torch.allclose(dct2(images).square().mean((0, 1)), variance, rtol=0.1)


def test_the_sampler_calls_and_draws_as_it_says() -> None:
    calls: list[tuple[float, float]] = []
    draws: list[int] = []
    seen: list[int] = []

    class Counting:
        process = PROCESS

        def __call__(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
            calls.append((round(float(t[0]) * 20, 6), round(float(s[0]) * 20, 6)))
            return dct2(z)

    def noise(like: Tensor) -> Tensor:
        draws.append(1)
        return torch.zeros_like(like)

    z = normal(0, 2, 1, *SIZE)
    image = sample_heat(Counting(), plan(5, 0.1, start=0.25), z, noise, lambda i, t, z, x_hat: seen.append(i))
    assert calls == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 0)]
    assert (len(draws), seen) == (4, [0, 1, 2, 3, 4])
    assert torch.allclose(image, z)
    with pytest.raises(ValueError, match="steps"):
        plan(0, 0.1)
    with pytest.raises(ValueError, match="delta"):
        plan(5, -0.1)


def test_bound_of_images_in_0_1_is_that_of_images_in_1_1() -> None:
    x = idct2(normal(0, 20, 1, *SIZE) * VARIANCE.sqrt())
    x = (((x + 1) * 127.5).round() / 127.5 - 1).clamp(-1, 1)
    process, model_space = HeatDissipation(SIZE, blur_sigma_max=6.0, levels=20, noise=0.01), ModelSpace(centered=False)

    class Half:
        """The predictor of the signed images, for images in [0, 1]."""

        def __init__(self) -> None:
            self.process = process

        def __call__(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return model_space.dct_from_rgb(PREDICTOR(model_space.to_rgb(z), t, s))

    bank = dct2(x[:5])
    signed = heat_bound(PREDICTOR, x, SeededDraws(20, 3), bank, 0.025, calls=4)
    half = heat_bound(
        Half(), (x + 1) / 2, SeededDraws(20, 3), model_space.dct_from_rgb(bank), 0.0125, calls=4, model_space=model_space
    )
    for name in ("prior", "diffusion", "reconstruction", "bands"):
        torch.testing.assert_close(getattr(half, name), getattr(signed, name))


def test_bound_of_gaussian_data_agrees_with_a_direct_computation() -> None:
    x = idct2(normal(0, 3000, 1, *SIZE) * VARIANCE.sqrt())
    x = (((x + 1) * 127.5).round() / 127.5 - 1).clamp(-1, 1)
    delta, draws = 0.025, SeededDraws(3000, 3)
    bound = heat_bound(PREDICTOR, x, draws, torch.zeros(1, 1, 1, 1), delta, calls=19)
    unit = math.log(2) * x[0].numel()

    diffusion, ratio = 0.0, 0.02 / delta
    for k in range(2, 21):
        t, s = (torch.tensor([level / 20], dtype=torch.float64) for level in (k, k - 1))
        alpha, earlier = PROCESS.alpha(t)[0, 0], PROCESS.alpha(s)[0, 0]
        # What the exact predictor cannot know: the posterior variance of the clean frequency, faded to level k - 1.
        error = earlier**2 * VARIANCE * 0.02**2 / (alpha**2 * VARIANCE + 0.02**2)
        diffusion += float((error / delta**2 + ratio**2 - 1 - 2 * math.log(ratio)).sum()) / 2
    assert bound.diffusion.mean().item() == pytest.approx(diffusion / unit, rel=0.01)

    one = torch.ones(1, dtype=torch.float64)
    prior = (PROCESS.alpha(one)[0, 0] * dct2(x)).square().sum((1, 2, 3)) / (2 * 0.02**2)
    # A single component at 0: the divergence of two Gaussians of one variance, of which one draw is noisy at one frequency.
    assert bound.prior.mean().item() == pytest.approx(prior.mean().item() / unit, rel=0.05)
    assert torch.allclose(bound.bands.sum(1), bound.prior + bound.diffusion)

    t = torch.full((3000,), 0.05, dtype=torch.float64)
    mean = exact(PROCESS.diffuse(x, t, draws(x)), t)
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(-1, 1, 1, 1, 1)
    density = torch.distributions.Normal(mean[:50], delta)
    probability = torch.where(levels > 0.999, 1.0, density.cdf(levels + 1 / 255)) - torch.where(
        levels < -0.999, 0.0, density.cdf(levels - 1 / 255)
    )
    assert torch.allclose(probability.sum(0), torch.ones_like(mean[:50]))
    own = ((x[:50] + 1) * 127.5).round().long()[None]
    direct = probability.gather(0, own).log()[0]
    ours = _level_log_probability(x[:50], mean[:50], delta)
    assert torch.allclose(ours[direct > -15], direct[direct > -15], rtol=1e-6)
    assert ours.isfinite().all()


def test_far_tails_of_a_level_are_finite() -> None:
    x = torch.tensor([-1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    mean = torch.tensor([1.0, -1.0, 0.9, -0.9], dtype=torch.float64)
    assert _level_log_probability(x, mean, 0.02).isfinite().all()
    assert _level_log_probability(x, x, 0.02)[:2].exp().min() > 0.5


def test_errors_by_level_are_those_of_the_loss() -> None:
    x = normal(0, 200, 1, *SIZE)
    perfect = DenoiserPredictor(type("Perfect", (Exact,), {"__call__": lambda self, z, t: x})(), PROCESS)
    times, losses = prediction_errors(perfect, x, lambda like: torch.zeros_like(like), 5, per_octave=1)
    assert times.tolist() == pytest.approx([0.05, 0.25, 0.5, 0.75, 1.0])
    assert losses.abs().max() < 1e-12


def test_the_bank_holds_the_blurred_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 12), np.uint8)
    x = torch.from_numpy(images).double() / 127.5 - 1
    spectrum = dct2(x).square().mean(0)
    height, width = lowest_frequencies(PROCESS, spectrum)
    assert 1 < height < 8
    assignments = (*HEAT, "data.image_size=[8,12]", "process.levels=20", "process.blur_sigma_max=6", "model.multipliers=[1]")
    config = load_config("shapes-blur", parse_overrides([*assignments, "model.attention_levels=[]"]))
    moments = DataMoments(spectrum, torch.zeros_like(spectrum))

    def bank(flip: bool) -> Tensor:
        data = config.data.model_copy(update={"flip": flip})
        return family_of(config.model_copy(update={"data": data})).measure_extras(images, moments)["starts"]

    starts = bank(False)
    whole = torch.zeros(12, 3, 8, 12)
    whole[..., :height, :width] = starts
    blurred = PROCESS.diffuse(x, torch.ones(12, dtype=torch.float64), torch.zeros_like(x))
    assert (idct2(whole) - blurred).abs().max() < PROCESS.noise / 10
    flipped = bank(True)
    assert torch.equal(flipped[::2], starts[::2])
    assert torch.allclose(flipped[1::2, ..., 1], -starts[1::2, ..., 1])


def test_sources_choose_as_they_draw_noise() -> None:
    bank = torch.arange(100.0)[:, None]
    own = ImageNoise(0, range(4)).pick(bank)
    assert torch.equal(own[2:], ImageNoise(0, range(2, 4)).pick(bank))
    assert len(set(own.flatten().tolist())) > 1
    ends = InterpolatedNoise((0, 0), (7, 0), 3, range(3)).pick(bank)
    assert ends[0] == own[0]
    assert ends[2] == ImageNoise(7, [0]).pick(bank)[0]
    assert ends[1] == (ends[0] + ends[2]) / 2
    same = SharedNoise(ImageNoise(0, [0] * 4), ImageNoise(0, range(4))).pick(bank)
    assert torch.equal(same, own[:1].expand(4, 1))


@pytest.fixture(scope="module", params=["spectral", "residual"])
def heat_weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import shell

    folder = tmp_path_factory.mktemp("heat")
    options = settings("train.steps=3", *HEAT, f"objective={request.param}")
    done = shell("train", "--preset", "shapes-blur", "--run", "heat", *options, cwd=folder)
    assert done.code == 0, done.err
    return Run(folder / "heat").weights_path(3)


def test_every_command_works_on_a_heat_model(heat_weights: Path, cli: Cli) -> None:
    run = ("--run", heat_weights.parent.parent)
    assert "starts" in load_weights(heat_weights).data.extras
    for command in (
        ("sample", *run, "--n", 5, "--out", "five.npz"),
        ("sample", *run, "--n", 3, "--out", "three.npz", "--batch-size", 2),
        ("sample", *run, "--n", 3, "--out", "same.npz", "--same-init", "--delta", 0),
        ("sample", *run, "--n", 3, "--out", "path.npz", "--share-noise"),
        ("sample", *run, "--n", 3, "--out", "way.npz", "--interpolate", 7),
        ("animate", "heat.gif", *run, "--direction", "both", "--frames", 4, "--n", 2),
        ("fid", *run, "--n", 12, "--features", "pixels", "--force"),
        ("likelihood", *run, "--n", 8, "--calls", 2),
        ("sweep", *run, "--steps", 4, "--n", 12, "--features", "pixels", "--force"),
        ("results", run[1]),
    ):
        done = cli(*command)
        assert done.code == 0, done.err
    bits = [
        json.loads(cli("likelihood", *run, "--n", 8, "--calls", 2, "--json", *delta).out)["bits_per_dim"]
        for delta in ((), ("--delta", 0.0125), ("--delta", 0.1))
    ]
    assert bits[0] == bits[1] != bits[2]
    five, three, same = (
        np.load(f"{name}.npz")["images"] if "images" in np.load(f"{name}.npz") else np.load(f"{name}.npz")["arr_0"]
        for name in ("five", "three", "same")
    )
    assert np.array_equal(five[:3], three)
    assert not np.array_equal(three[0], three[1])
    assert np.abs(same[0].astype(int) - same[1]).mean() < np.abs(three[0].astype(int) - three[1]).mean()


def test_heat_models_refuse_what_is_not_theirs(heat_weights: Path, cli: Cli) -> None:
    run = ("--run", heat_weights.parent.parent)
    for arguments, text in (
        (("sample", "--sampler", "abm"), "--sampler abm: this model is of the family heat: use heat"),
        (("sample", "--steps", 5), "--steps 5: this model has 4 levels"),
        (
            ("likelihood", "--steps", 5),
            "--steps 5: the bound of heat dissipation has the steps of its levels; leave the option out",
        ),
        (("likelihood", "--delta", 0), "heat dissipation has no bound where its steps add no noise"),
    ):
        done = cli(*arguments, *run)
        assert (done.code, text in done.err) == (2, True), done.err
    done = cli("diagnose", *run)
    objective = json.loads(load_weights(heat_weights).config.model_dump_json())["objective"]
    assert done.code == (2 if objective == "residual" else 0), done.err


def test_diffusion_models_refuse_the_heat_sampler(tiny_run: Path, cli: Cli) -> None:
    done = cli("sample", "--run", tiny_run, "--sampler", "heat")
    assert (done.code, "--sampler heat: this model is of the family diffusion: use abm" in done.err) == (2, True)
    done = cli("sample", "--run", tiny_run, "--delta", "0.1")
    assert (done.code, "--delta 0.1: sampler abm has no such option; it is for heat" in done.err) == (2, True)
    done = cli("likelihood", "--run", tiny_run, "--delta", "0.1")
    assert (done.code, "--delta 0.1: is the noise of heat dissipation's steps" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("assignments", "text"),
    [
        (["process.kind=heat"], "sample.sampler abm: for process.kind heat it must be heat"),
        (["objective=residual"], "objective residual: for process.kind diffusion it must be spectral or v or eps"),
        ([*HEAT, "objective=eps"], "objective eps: for process.kind heat it must be spectral or residual"),
        ([*HEAT, "optim.time_sampling=path"], "heat dissipation trains all levels alike"),
        ([*HEAT, "sample.steps=5"], "sample.steps 5: must be at most process.levels, 4"),
        ([*HEAT, "objective=residual", "sample.steps=2"], "is sampled level by level; set it to process.levels, 4"),
        ([*HEAT, "process.min_scale=0.1"], "process.min_scale: this key is for another process.kind"),
        ([*HEAT, "process.blur_sigma_min=30"], "blur_sigma_min must be below blur_sigma_max"),
        (["process.kind=cold"], "process.kind must be diffusion or heat"),
        ([*HEAT, "sample.final=noisy"], "sample.final: the last step of heat dissipation adds no noise"),
        (["sample.delta=0.1"], "delta is for sampler: heat"),
        (["process.blur_power=3"], "blur_power is for blur_schedule: power or cosine-power"),
    ],
)
def test_contradictions_are_reported(assignments: list[str], text: str) -> None:
    with pytest.raises(UsageError) as error:
        load_config("shapes-blur", parse_overrides(assignments))
    assert text in str(error.value), str(error.value)
