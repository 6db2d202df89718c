"""The same promises on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Cli, moments_of, settings

from blurcli.config import Config, load_config, parse_overrides
from blurcli.core import BlurringDiffusion, dct2, idct2, sample
from blurcli.data import Batches
from blurcli.families import ModelData
from blurcli.model.inference import build_network
from blurcli.model.pipeline import Pipeline
from blurcli.training import Trainer
from blurcli.training.state import load_state
from blurcli.workflows import benchmark

CUDA = torch.device("cuda")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_core_agrees_with_the_cpu() -> None:
    process = BlurringDiffusion((12, 8))
    x, eps = torch.randn(2, 2, 3, 12, 8, dtype=torch.float64)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    torch.testing.assert_close(dct2(x.cuda()).cpu(), dct2(x))
    torch.testing.assert_close(idct2(x.cuda()).cpu(), idct2(x))
    torch.testing.assert_close(process.diffuse(x.cuda(), t.cuda(), eps.cuda()).cpu(), process.diffuse(x, t, eps))
    shrink = lambda z, t: z * 0.5  # noqa: E731
    torch.testing.assert_close(sample(shrink, process, x.cuda(), 5).cpu(), sample(shrink, process, x, 5))


def test_train_resume_sample_animate_and_score(cli: Cli, tmp_path: Path) -> None:
    for steps in (2, 4):
        done = cli("train", "--preset", "shapes-blur", "--run", "r", "--device", "cuda", *settings(f"train.steps={steps}"))
        assert done.code == 0, done.err
    assert "on cuda" in done.err
    assert cli("sample", "--run", "r", "--n", 3, "--device", "cuda").code == 0
    assert cli("animate", "p.gif", "--run", "r", "--device", "cuda").code == 0
    assert cli("fid", "--run", "r", "--n", 20, "--force", "--device", "cuda").code == 0
    assert cli("sample", "--run", "r", "--n", 3, "--device", "cpu", "--out", "cpu.png").code == 0
    for given in ([], ["--motion", "5,30", "--n", 2, "--mean"], ["--enlarge", 2]):
        assert cli("restore", "cpu.png", "--run", "r", "--steps", 2, "--device", "cuda", *given).code == 0


def test_measuring_a_calibrated_model(cli: Cli) -> None:
    train = ["train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=2", "objective=eps")]
    assert cli(*train, "--device", "cuda").code == 0
    for command in (["likelihood", "--n", 20], ["diagnose", "--n", 20], ["sweep", "--n", 20, "--steps", 3]):
        done = cli(*command, "--run", "r", "--device", "cuda", "--json")
        assert done.code == 0, done.err


def test_resumed_equals_uninterrupted_with_deterministic_algorithms(cli: Cli, tmp_path: Path) -> None:
    command = ["train", "--preset", "shapes-blur", "--device", "cuda", *settings("train.deterministic=true")]
    for run, lengths in (("a", [12]), ("b", [5, 12])):
        for steps in lengths:
            done = cli(*command, "--run", run, "--set", f"train.steps={steps}")
            assert done.code == 0, done.err
    a, b = (load_state(tmp_path / run / "state.safetensors").tensors for run in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def tiny_config(*options: str) -> Config:
    return load_config("shapes-blur", parse_overrides([*TINY, *options]))


@pytest.mark.parametrize("options", [(), ("data.classes=3", "data.augment=0.5", "optim.time_sampling=path")])
def test_a_step_waits_for_nothing(options: tuple[str, ...]) -> None:
    """Nothing in a training step asks the GPU for a value, or the CPU could not run ahead."""
    trainer = Trainer(tiny_config("model.dropout=0.1", *options), moments_of(torch.ones(3, 8, 8), opponent=True), CUDA)
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), np.uint8)
    batches = Batches(images, 4, 0, True, CUDA, labels=np.arange(64) % 3 if options else None)
    for _ in range(3):  # what is compiled, cached and allocated at first
        trainer.train_step(batches(trainer.step), batches.labels(trainer.step))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step(batches(trainer.step), batches.labels(trainer.step))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("option", ["train.compile=true", "train.channels_last=false", "train.checkpoint_activations=true"])
def test_what_only_costs_or_saves_does_not_change_the_training(option: str) -> None:
    networks = []
    for options in ((), (option,)):
        base = ("train.precision=fp32", "train.compile=false", "model.dropout=0.5")
        trainer = Trainer(tiny_config(*base, *options), moments_of(torch.ones(3, 8, 8)), CUDA)
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            trainer.train_step(torch.randn(4, 3, 8, 8, generator=generator).cuda())
        networks.append(trainer.network.state_dict())
    for name, tensor in networks[0].items():
        torch.testing.assert_close(networks[1][name], tensor, rtol=1e-2, atol=1e-4, msg=name)


def test_replayed_graphs_give_the_same_images() -> None:
    images = []
    for compiled in ("false", "true"):
        config = tiny_config("train.precision=fp32", f"sample.compile={compiled}", "sample.steps=7")
        torch.manual_seed(0)
        network = build_network(config).cuda().eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        model = Pipeline(config, network, ModelData(moments_of(torch.full((3, 8, 8), 0.3))), CUDA)
        images.append(torch.cat([x.cpu() for x in model.generate(11, seed=0, batch_size=4)]))  # the last batch is filled up
    torch.testing.assert_close(images[1], images[0], rtol=1e-3, atol=1e-3)


def test_batches_that_fit() -> None:
    config = tiny_config()
    network = build_network(config).cuda().eval()
    assert Pipeline(config, network, ModelData(moments_of(torch.ones(3, 8, 8))), CUDA).batch_size == 512
    assert benchmark.largest_training_batch(config, CUDA) >= 512
    trainer = Trainer(tiny_config("train.micro_batch=auto"), moments_of(torch.ones(3, 8, 8)), CUDA)
    trainer.train_step(torch.zeros(4, 3, 8, 8).cuda())


def test_bench(cli: Cli) -> None:
    done = cli("bench", "--preset", "shapes-blur", *settings(), "--seconds", 0, "--device", "cuda", "--compare", "--max-batch")
    assert done.code == 0, done.err
    assert "bf16, channels last, compiled" in done.out
