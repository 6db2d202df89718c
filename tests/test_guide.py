"""Autoguidance: away from a weaker version of the model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, settings, shell

from blurcli.base.checkpoint import content_hash
from blurcli.base.errors import OptionError
from blurcli.core.guidance import GuidedNetwork
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import load_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with weights of two steps."""
    folder = tmp_path_factory.mktemp("guide")
    options = settings("train.steps=20", "train.save_every_steps=10", "optim.lr=0.01")
    done = shell("train", "--preset", "shapes-blur", "--run", "tiny", *options, cwd=folder)
    assert done.code == 0, done.err
    return folder / "tiny"


def weights(run: Path, step: int) -> Path:
    return run / "weights" / f"step-{step:08d}.safetensors"


def arrays(path: str) -> np.ndarray:
    with np.load(path) as content:
        return np.array(content[content.files[0]]).astype(int)


def test_the_output_moves_away_from_the_guide() -> None:
    own, worse = (lambda x, t, **conditions: 3 * x), (lambda x, t, **conditions: x)
    x, t = torch.ones(2, 1, 1, 1), torch.ones(2)
    guided = GuidedNetwork(own, worse)
    assert [float(guided(x, t, guidance=w)[0]) for w in (0.0, 1.0, 2.0)] == [1.0, 3.0, 5.0]
    seen: list[object] = []

    def with_labels(x: torch.Tensor, t: torch.Tensor, /, **conditions: object) -> torch.Tensor:
        seen.append(conditions["labels"])
        return x

    labels = torch.tensor([1, 2])
    GuidedNetwork(with_labels, with_labels)(x, t, labels=labels, guidance=2.0)
    assert seen == [labels, labels]  # the same class for both


def test_weights_of_one_and_of_the_model_itself_change_nothing(cli: Cli, run: Path) -> None:
    last, first = weights(run, 20), weights(run, 10)
    cli("sample", "--weights", last, "--n", 3, "--out", "plain.npz")
    for name, guide, guidance in (("one", first, 1), ("itself", last, 3)):
        done = cli("sample", "--weights", last, "--n", 3, "--out", f"{name}.npz", "--guide", guide, "--guidance", guidance)
        assert done.code == 0, done.err
        assert np.abs(arrays(f"{name}.npz") - arrays("plain.npz")).max() <= 1
    done = cli("sample", "--weights", last, "--n", 3, "--out", "guided.npz", "--guide", first)
    assert done.code == 0, done.err
    assert np.abs(arrays("guided.npz") - arrays("plain.npz")).max() > 1


def test_guided_by_the_definition(run: Path) -> None:
    """x_hat is an affine function of the network's output, so guiding one guides the other."""
    last, first = load_weights(weights(run, 20)), load_weights(weights(run, 10))
    guided = Pipeline.from_weights(last, CPU, guide=first)
    plain, weaker = (Pipeline.from_weights(one, CPU) for one in (last, first))
    z = torch.randn(4, 3, *guided.process.shape, generator=torch.Generator().manual_seed(0))
    own, worse = (one.denoise(z, 0.5, 0) for one in (plain, weaker))
    found = guided.denoise(z, 0.5, 0, guided.sampling(guidance=1.7))
    torch.testing.assert_close(found, worse + 1.7 * (own - worse), atol=1e-4, rtol=1e-4)


def test_network_calls_are_those_that_are_made(run: Path) -> None:
    """Two per step where the guide is called, too."""
    guided = Pipeline.from_weights(load_weights(weights(run, 20)), CPU, guide=load_weights(weights(run, 10)))
    assert guided.guide is not None
    called: list[object] = []
    for network in (guided.network, guided.guide.network):
        network.register_forward_hook(lambda *of: called.append(of[0]))
    list(guided.generate(1, 0, guided.sampling("ddim", 1, guidance=2.0)))  # the first call of a network tries batch sizes
    for guidance in (1.0, 2.0):
        sampling = guided.sampling("ddim", 3, guidance=guidance)
        called.clear()
        list(guided.generate(1, 0, sampling))
        assert len(called) == sampling.calls == (3 if guidance == 1 else 6)


def test_a_score_names_the_guide(cli: Cli, run: Path) -> None:
    command = ["fid", "--weights", weights(run, 20), "--n", 4, "--force", "--features", "pixels", "--data", "shapes", "--json"]
    guided = json.loads(cli(*command, "--guide", weights(run, 10), "--guidance", 1.5).out)
    assert guided["guidance"] == 1.5
    assert guided["guide"] == content_hash(dict(load_weights(weights(run, 10)).network))[:16]
    assert json.loads(cli(*command).out)["guide"] is None
    shown = cli("results").out
    assert f"abm guidance 1.5 by {guided['guide']} " in shown


def test_animations_can_be_guided(cli: Cli, run: Path) -> None:
    done = cli("animate", "x.gif", "--weights", weights(run, 20), "--n", 1, "--frames", 2, "--guide", weights(run, 10))
    assert done.code == 0, done.err


def test_guidance_needs_classes_or_a_guide(cli: Cli, run: Path) -> None:
    done = cli("sample", "--weights", weights(run, 20), "--guidance", 2)
    assert done.code == 2
    assert "or name weaker weights with --guide" in done.err


def test_a_guide_of_another_kind_is_refused(cli: Cli, run: Path, tmp_path: Path) -> None:
    options = settings("train.steps=1", "process.blur_noise_ratio=0.1", "objective=eps")
    assert cli("train", "--preset", "shapes-blur", "--run", "other", *options).code == 0
    done = cli("sample", "--weights", weights(run, 20), "--guide", weights(tmp_path / "other", 1))
    assert done.code == 2
    assert "was trained with another process and another objective than the model" in done.err
    options = settings("train.steps=1", "data.shapes_count=9")
    assert cli("train", "--preset", "shapes-blur", "--run", "others", *options).code == 0
    with pytest.raises(OptionError, match="another training images"):
        Pipeline.from_weights(load_weights(weights(run, 20)), CPU, guide=load_weights(weights(tmp_path / "others", 1)))
