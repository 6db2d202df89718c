"""The same promises on a GPU."""

from pathlib import Path

import pytest
import torch
from conftest import Cli, settings

from blurcli.checkpoint import load_state
from blurcli.core import BlurringDiffusion, dct2, idct2, sample

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
