"""What a careless change breaks without an error: each test here fails when one line of the product is wrong."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, SeededDraws, moments_of, reporter
from torch import Tensor, nn

from blurcli import evaluate
from blurcli.base.runs import Run
from blurcli.config import Config, load_config, parse_overrides
from blurcli.core import BlurringDiffusion, HeatDissipation, UNet, dct2, idct2, sample
from blurcli.core.augment import LABEL_SIZE
from blurcli.core.execution import FixedBatches
from blurcli.core.heat import DenoiserPredictor
from blurcli.core.heat_likelihood import heat_bound
from blurcli.core.rng import ImageNoise
from blurcli.core.unet import Architecture, _fourier, _norm
from blurcli.core.weighting import LOSS_WEIGHTS
from blurcli.core.whitened import WhitenedSpace
from blurcli.data import Batches, ReadOptions, load_dataset
from blurcli.families import ModelData
from blurcli.model.pipeline import Pipeline
from blurcli.training import Trainer, train
from blurcli.training import trainer as trainer_module
from blurcli.training.adam import Adam
from blurcli.training.monitoring import Health, Snapshots
from blurcli.visualize import tile

CPU = torch.device("cpu")


def tiny_config(*assignments: str) -> Config:
    return load_config("shapes-blur", parse_overrides([*TINY, *assignments]))


def tiny_trainer(*assignments: str) -> Trainer:
    return Trainer(tiny_config(*assignments), moments_of(torch.ones(3, 8, 8)), CPU)


def calls_of(network: nn.Module) -> list[dict[str, Any]]:
    """The keyword arguments of every call of a network from now on."""
    calls: list[dict[str, Any]] = []
    network.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


def asymmetric(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(7))


# Training


def test_ema_starts_with_a_short_average() -> None:
    """With a decay of 0.9999 from the start, three steps would leave the EMA where it began; warm-up decays 2/11, 3/12, 4/13."""
    trainer = tiny_trainer("optim.ema_decay=0.9999")
    weight = trainer.network.first.weight
    expected = weight.detach().clone()
    for decay in (2 / 11, 3 / 12, 4 / 13):
        trainer.train_step(asymmetric())
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(trainer.ema.first.weight, expected)


def test_augmentation_labels_reach_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer("data.augment=0.5")
    labels = torch.zeros(4, LABEL_SIZE)
    labels[1, 0] = labels[3, 1] = 1  # two images are mirrored
    monkeypatch.setattr(trainer_module, "draw_augment_labels", lambda count, probability, device: labels)
    seen: list[Tensor] = []
    loss = trainer.objective.loss
    monkeypatch.setattr(trainer.objective, "loss", lambda x, *rest, **more: seen.append(x) or loss(x, *rest, **more))
    calls, x = calls_of(trainer.network), asymmetric()
    trainer.train_step(x)
    assert torch.equal(calls[0]["augment_labels"], labels)
    assert torch.equal(seen[0][0], x[0])
    assert not torch.equal(seen[0][1], x[1])


@pytest.mark.parametrize(("share", "expected"), [("0", [0, 1, 2, 0]), ("1", [3, 3, 3, 3])])
def test_class_dropout_is_the_share_without_a_class(share: str, expected: list[int]) -> None:
    trainer = tiny_trainer("data.classes=3", f"optim.class_dropout={share}")
    calls = calls_of(trainer.network)
    trainer.train_step(asymmetric(), torch.tensor([0, 1, 2, 0]))
    assert calls[0]["labels"].tolist() == expected


def test_class_dropout_is_a_probability() -> None:
    trainer = tiny_trainer("data.classes=3", "optim.class_dropout=0.1", "train.batch_size=400")
    calls = calls_of(trainer.network)
    trainer.train_step(torch.zeros(400, 3, 8, 8), torch.zeros(400, dtype=torch.int64))
    assert 15 <= int((calls[0]["labels"] == 3).sum()) <= 70


def test_every_step_draws_its_own_noise_times_and_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer("model.dropout=0.5")
    drawn: list[tuple[Tensor, Tensor]] = []
    loss = trainer.objective.loss

    def spying(x: Tensor, t: Tensor, eps: Tensor, *rest: Tensor | None, **more: Tensor) -> Tensor:
        drawn.append((t, eps))
        return loss(x, t, eps, *rest, **more)

    monkeypatch.setattr(trainer.objective, "loss", spying)
    calls = calls_of(trainer.network)
    for _ in range(3):
        trainer.train_step(asymmetric())
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(drawn[a][0], drawn[b][0])
        assert not torch.equal(drawn[a][1], drawn[b][1])
        assert not torch.equal(calls[a]["dropout_seeds"], calls[b]["dropout_seeds"])


def test_every_step_draws_its_own_flips() -> None:
    """One image with a bright left half: a batch shows which of its copies are mirrored."""
    image = np.zeros((1, 1, 4, 4), np.uint8)
    image[..., :2] = 255
    batches = Batches(image, 64, 0, True, CPU)
    flips = [(batches(step)[:, 0, 0, 0] < 0).tolist() for step in range(3)]
    assert flips[0] != flips[1] != flips[2] != flips[0]
    assert all(16 < sum(flipped) < 48 for flipped in flips)


def test_the_loss_weight_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {}
    for factor in (1.0, 3.0):
        monkeypatch.setitem(LOSS_WEIGHTS, "balanced", lambda share, factor=factor: torch.full_like(share, factor))
        losses[factor] = float(tiny_trainer("optim.loss_weight=balanced").train_step(asymmetric())[0])
    assert losses[3.0] == pytest.approx(3 * losses[1.0], rel=1e-5)


def test_adam_has_the_betas_of_the_preset() -> None:
    optimizer = tiny_trainer("optim.beta2=0.98", "optim.optimizer=adam").optimizer
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.98)


def test_adam_is_that_of_pytorch() -> None:
    """Bit for bit, over steps of which one is skipped."""
    ours, theirs = ([torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(5))] for _ in range(2))
    own, reference = Adam({"a": ours[0], "b": ours[1]}, 0.9, 0.98), torch.optim.Adam(theirs, betas=(0.9, 0.98), fused=True)
    for lr, bad in ((1e-2, False), (3e-3, True), (1e-3, False), (1e-3, False)):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        own.step(lr, torch.tensor(bad))
        reference.found_inf = torch.tensor(float(bad))
        reference.param_groups[0]["lr"] = lr
        reference.step()
    for mine, other, name in zip(ours, theirs, "ab", strict=True):
        assert torch.equal(mine, other)
        assert all(torch.equal(own.state[name][key], value) for key, value in reference.state[other].items())


def test_looks_leave_the_networks_in_their_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health checks, previews, scores and calibration run in evaluation mode; every training step runs in training mode."""
    options = ("train.steps=4", "train.health_every_steps=1", "train.preview_every_steps=1", "train.save_every_steps=1")
    config = tiny_config(*options, "model.dropout=0.5", "objective=eps", "train.score_every_steps=2", "train.score_images=200")
    dataset = load_dataset("shapes", "train", config.data.image_size, 3, ReadOptions(shapes_count=256))
    modes: list[tuple[bool, bool]] = []
    step = Trainer.train_step

    def spying(self: Trainer, *batch: Any) -> tuple[Tensor, Tensor]:
        modes.append((self.network.training, self.ema.training))
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "train_step", spying)
    train(config, Run(tmp_path / "r"), dataset, CPU, reporter(draw_preview=tile))
    assert modes == [(True, False)] * 4


def test_health_is_measured_without_dropout() -> None:
    trainer = tiny_trainer("model.dropout=0.9")
    trainer.train_step(asymmetric())
    snapshots = Snapshots(load_dataset("shapes", "train", (8, 8), 3, ReadOptions(shapes_count=64)))
    modes: list[bool] = []
    for network in (trainer.network, trainer.ema):
        network.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    first, second = (Health.measure(trainer, snapshots) for _ in range(2))
    assert modes
    assert not any(modes)
    assert torch.equal(first.network, second.network)
    assert trainer.network.training


def test_sampling_is_without_dropout(tiny_run: Path) -> None:
    from blurcli.model.weights import load_weights

    weights = load_weights(Run(tiny_run).newest_weights())
    model = weights.config.model.model_copy(update={"dropout": 0.9})
    config = weights.config.model_copy(update={"model": model})
    pipeline = Pipeline.from_weights(type(weights)(**{**vars(weights), "config": config}), CPU)
    assert not pipeline.network.training
    first, second = (torch.cat(list(pipeline.generate(3, seed=0))) for _ in range(2))
    assert torch.equal(first, second)


# The network


def test_fourier_features() -> None:
    """cos and sin of 1000 t / 10000^(k / n), as DDPM embeds its 1000 steps (Ho et al. 2020)."""
    t = 0.37
    expected = [math.cos(1000 * t / 10_000 ** (k / 4)) for k in range(4)]
    expected += [math.sin(1000 * t / 10_000 ** (k / 4)) for k in range(4)]
    found = _fourier(torch.tensor([t], dtype=torch.float64), 8, Architecture().time_scale)[0].tolist()
    assert found == pytest.approx(expected, abs=1e-4)  # float32 angles of some 1000 rad


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (12, 3), (32, 8), (64, 16), (128, 32), (256, 32)])
def test_groups_of_normalization(channels: int, groups: int) -> None:
    assert _norm(channels).num_groups == groups


def test_what_starts_at_zero() -> None:
    """The last convolution of every block, every attention's projection, and the output: nothing else has zero weights."""
    network = UNet(3, base_channels=8, multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,))
    zero = {name for name, value in network.named_parameters() if name.endswith("weight") and not value.any()}
    expected = {name for name, _ in network.named_parameters() if name.endswith(("conv_2.weight", "project.weight"))}
    assert zero == expected | {"last.2.weight"}
    assert len(expected) == 12


def test_calls_of_a_fixed_size_are_padded() -> None:
    sizes: list[int] = []

    def network(x: Tensor, t: Tensor, /, labels: Tensor) -> Tensor:
        sizes.append(len(x))
        assert len(t) == len(labels) == len(x)
        return x * t[:, None, None, None] + labels[:, None, None, None]

    x, t, labels = torch.randn(5, 1, 2, 2), torch.rand(5), torch.arange(5)
    found = FixedBatches(network, 4)(x, t, labels=labels)
    assert sizes == [4, 4]
    assert torch.equal(found, x * t[:, None, None, None] + labels[:, None, None, None])


@pytest.mark.parametrize("agreeing", [(4, 8, 16), (8, 16), ()])
def test_a_few_images_are_called_in_the_smallest_size_that_agrees(agreeing: tuple[int, ...]) -> None:
    sizes: list[int] = []

    def network(x: Tensor, t: Tensor, /) -> Tensor:
        sizes.append(len(x))
        return x

    call = FixedBatches(network, 32, lambda size: size in agreeing)
    for count in (1, 4, 9, 33, 64):
        assert len(call(torch.zeros(count, 1, 2, 2), torch.zeros(count))) == count
    small = min(agreeing, default=32)
    assert sizes == [small, small, 16 if agreeing else 32, 32, small, 32, 32]


# Randomness


def test_the_key_of_a_stream_is_seed_then_index() -> None:
    stream = np.random.Generator(np.random.Philox(key=np.array([3, 5], np.uint64)))
    expected = stream.standard_normal((1, 2, 2), dtype=np.float32)
    assert np.array_equal(ImageNoise(3, [5])(torch.empty(1, 1, 2, 2))[0].numpy(), expected)


# Samplers, against straightforward implementations


class Curved:
    """Gaussian data with a smooth nonlinear part, so that F is not zero and changes along the way."""

    def __init__(self, process: BlurringDiffusion, variance: Tensor) -> None:
        self.process, self.variance = process, variance

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        x_hat = idct2(alpha * self.variance * dct2(z) / (alpha**2 * self.variance + sigma**2))
        return x_hat + 0.3 * torch.sin(2 * x_hat + t[:, None, None, None])


PROCESS = BlurringDiffusion(8, 10.0)
VARIANCE = 4 / (1 + torch.arange(8.0)[:, None] ** 2 + torch.arange(8.0) ** 2).double()
SPACE = WhitenedSpace(PROCESS, torch.zeros_like(VARIANCE), VARIANCE)


def at(t: float) -> Tensor:
    return torch.tensor([t], dtype=torch.float64)


def slope_at(w: Tensor, t: float) -> Tensor:
    z = idct2(SPACE.unwhiten(w, at(t)))
    return SPACE.slope(w, dct2(Curved(PROCESS, VARIANCE)(z, at(t).expand(len(z)))), at(t))


def run(method: Callable[[Tensor, list[float]], Tensor], times: list[float], noise: Tensor) -> Tensor:
    return idct2(SPACE.unwhiten(method(dct2(noise), times), at(0.0)))


def test_ab2_limits_its_ratio() -> None:
    ratios: list[float] = []

    def ab2(w: Tensor, times: list[float]) -> Tensor:
        before: tuple[Tensor, Tensor] | None = None
        for t, s in itertools.pairwise(times):
            f, dphi = slope_at(w, t), SPACE.angle(at(s)) - SPACE.angle(at(t))
            ratio = torch.zeros_like(dphi) if before is None else dphi / before[1]
            ratios.append(float(ratio.max()))
            f_before = f if before is None else before[0]
            w, before = w + dphi * (f + ratio.clamp(max=2) / 2 * (f - f_before)), (f, dphi)
        return w

    noise = ImageNoise(0, range(2))(torch.empty(2, 1, 8, 8, dtype=torch.float64))
    expected = run(ab2, [1 - i / 5 for i in range(6)], noise)
    assert max(ratios) > 4  # the limit matters here
    found = sample(Curved(PROCESS, VARIANCE), PROCESS, noise, 5, "ab2", spectrum=VARIANCE)
    torch.testing.assert_close(found, expected)


def test_abm_predicts_corrects_and_ends_without_extrapolation() -> None:
    """The formulas of `core.samplers.abm`, written out with lists of all slopes and times."""
    times = SPACE.time_grid(4, 1.0)

    def abm(w: Tensor, times: list[float]) -> Tensor:
        slopes: list[Tensor] = []
        corrected: list[Tensor] = []
        for i in range(len(times) - 1):
            slopes.append(slope_at(w, times[i]))
            if i > 0:
                m_0, m_1, m_2 = SPACE.clock_moments(times[i - 1], times[i])
                first = (slopes[i] - slopes[i - 1]) / (times[i] - times[i - 1])
                w = corrected[i - 1] + m_0 * slopes[i - 1] + m_1 * first
                if i > 1:
                    earlier = (slopes[i - 1] - slopes[i - 2]) / (times[i - 1] - times[i - 2])
                    second = (first - earlier) / (times[i] - times[i - 2])
                    w = w + (m_2 - (times[i] - times[i - 1]) * m_1) * second
            corrected.append(w)
            m_0, m_1, _ = SPACE.clock_moments(times[i], times[i + 1])
            w = w + m_0 * slopes[i]
            if 0 < i < len(times) - 2:
                w = w + m_1 * (slopes[i] - slopes[i - 1]) / (times[i] - times[i - 1])
        return w

    noise = ImageNoise(0, range(2))(torch.empty(2, 1, 8, 8, dtype=torch.float64))
    found = sample(Curved(PROCESS, VARIANCE), PROCESS, noise, 4, "abm", spectrum=VARIANCE)
    torch.testing.assert_close(found, run(abm, times, noise))


# Likelihood and scores


def test_the_heat_prior_is_a_mean_over_its_components() -> None:
    """N copies of one component are the same mixture as one of them."""
    process = HeatDissipation((8, 8), blur_sigma_max=6.0, levels=4)
    predictor = DenoiserPredictor(lambda z, t: z, process)
    x = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    one = torch.zeros(1, 1, 2, 2)
    bounds = [heat_bound(predictor, x, SeededDraws(3, 0), one.expand(n, 1, 2, 2), 0.02, calls=1) for n in (1, 50)]
    torch.testing.assert_close(bounds[0].prior, bounds[1].prior)


def test_scores_of_other_numbers_of_images_are_not_ranked_together() -> None:
    base = {"fd": 1.0, "features": "pixels", "reference_hash": "a", "size": [8, 8], "seed": 0, "weights_sha256": "w", "step": 1}
    groups = evaluate.comparable([{**base, "n": n} for n in (100, 200)])
    assert [group.protocol["n"] for group in groups] == [100, 200]
    assert all(len(group.rows) == 1 for group in groups)


def test_gain_and_moments_reach_the_model() -> None:
    config = tiny_config("objective=eps")
    torch.manual_seed(0)
    from blurcli.model.inference import build_network

    network = build_network(config).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    images = []
    for gain in (None, torch.zeros(5, 8)):
        data = ModelData(moments_of(torch.full((3, 8, 8), 0.3)), gain)
        images.append(torch.cat(list(Pipeline(config, network, data, CPU).generate(2, seed=0))))
    assert not torch.allclose(images[0], images[1], atol=1e-2)
