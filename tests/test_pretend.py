"""Every command on a pretend accelerator, with float64 and without: no operation mixes devices, no training step waits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "pretend.py"
TINY = {
    "data.image_size": 8,
    "data.shapes_count": 24,
    "model.base_channels": 8,
    "model.multipliers": "[1,1]",
    "model.attention_levels": "[1]",
    "model.dropout": 0.1,
    "train.batch_size": 4,
    "train.preview_images": 2,
    "train.precision": "fp32",
    "sample.steps": 3,
}


def train(preset: str, run: str, steps: int, *more: str) -> list[str]:
    assignments = [f"{key}={value}" for key, value in {**TINY, "train.steps": steps}.items()]
    return ["train", "--preset", preset, "--run", run, *(p for a in (*assignments, *more) for p in ("--set", a))]


def restore(name: str, *more: str) -> list[str]:
    return ["restore", "photo.png", "--run", "blur", "--steps", "2", "--out", f"{name}.png", *more]


def sample(run: str, *more: str) -> list[str]:
    name = "-".join([run, *(m.strip("-") for m in more)])
    return ["sample", "--run", run, "--n", "3", "--out", f"{name}.npz", *more]


RESTORED = ("alone", "moved", "filled", "larger")
COMPARED = [
    train("shapes-blur", "blur", 2),
    train("shapes-blur", "blur", 4, "train.health_every_steps=null"),  # continues
    *(sample("blur", "--sampler", method) for method in ("abm", "ab2", "euler", "ancestral", "ddim", "dpmpp-2m")),
    sample("blur", "--final", "denoised"),
    train("shapes-heat", "heat", 2),
    sample("heat"),
    train("shapes-blur", "eps", 2, "objective=eps", "train.health_every_steps=null"),
    sample("eps"),
    train("shapes-classes", "classes", 2, "optim.loss_weight=min-snr", "data.augment=0.2"),
    sample("classes", "--class", "circle", "--guidance", "2"),
    ["distill", "blur", "--set", "train.steps=2", "--set", "distill.double_every_steps=1"],
    sample("blur-distilled"),
    restore("alone", "--temperature", "0"),
    restore("moved", "--motion", "2,30", "--noise", "4", "--n", "2", "--mean"),
    restore("filled", "--mask", "mask.png"),
    restore("larger", "--enlarge", "2", "--blur", "1"),
]
OTHERS = [
    ["animate", "both.gif", "--run", "blur", "--n", "1", "--frames", "3", "--direction", "both", "--show", "both"],
    ["fid", "--run", "blur", "--n", "4", "--force"],
    ["likelihood", "--run", "blur", "--n", "2", "--calls", "1"],
    ["likelihood", "--run", "heat", "--n", "2"],
    ["diagnose", "--run", "blur", "--n", "2"],
    ["report", "blur", "--n", "2"],
    ["sweep", "--run", "blur", "--n", "4", "--steps", "2", "--force"],
    ["bench", "--preset", "tiny.yaml", "--seconds", "0.01", "--batch-size", "2"],
]


def report(folder: Path, commands: list[list[str]], *flags: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(60, 200, (10, 14, 3), np.uint8)
    (folder / "tiny.yaml").write_text(
        "data: {image_size: 8}\nmodel: {base_channels: 8, multipliers: [1], attention_levels: []}\n"
    )
    Image.fromarray(pixels).save(folder / "photo.png")
    Image.fromarray((pixels[..., 0] > 150).astype(np.uint8) * np.uint8(255)).save(folder / "mask.png")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "report.json", *flags],
        input=json.dumps(commands),
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {**found, "errors": done.stderr}


@pytest.fixture(scope="module", params=["float64", "no float64"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where all commands ran on the device, and their report."""
    folder = tmp_path_factory.mktemp("device")
    flags = ["--no-float64"] if request.param == "no float64" else []
    return folder, report(folder, [*COMPARED, *OTHERS], *flags)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the same commands ran on the CPU."""
    folder = tmp_path_factory.mktemp("cpu")
    found = report(folder, [[*command, "--device", "cpu"] for command in COMPARED])
    assert [end["code"] for end in found["ends"]] == [0] * len(COMPARED), found["errors"]
    return folder


def test_every_command_runs(ran: tuple[Path, dict[str, Any]]) -> None:
    _, found = ran
    assert "on pretend" in found["errors"]
    assert [end["code"] for end in found["ends"]] == [0] * len([*COMPARED, *OTHERS]), found["errors"]


def test_no_training_step_waits_for_the_device(ran: tuple[Path, dict[str, Any]]) -> None:
    assert ran[1]["waits"] == []


def test_results_are_those_of_the_cpu(ran: tuple[Path, dict[str, Any]], on_cpu: Path) -> None:
    """Weights agree to rounding, images to one gray level."""
    folder, _ = ran
    weights = sorted(path.relative_to(on_cpu) for path in on_cpu.glob("*/weights/*.safetensors"))
    images = sorted(path.relative_to(on_cpu) for path in on_cpu.glob("*.npz"))
    assert len(weights) == 6
    assert len(images) == 11
    restored = {
        path: [np.asarray(Image.open(root / f"{path}.png")).astype(int) for root in (folder, on_cpu)] for path in RESTORED
    }
    for path in weights:
        ours, theirs = load_file(folder / path), load_file(on_cpu / path)
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, atol=1e-4, rtol=1e-3, msg=f"{path}: {name}")
    for path in images:
        ours, theirs = (np.load(root / path)["arr_0"].astype(int) for root in (folder, on_cpu))
        assert np.abs(ours - theirs).max() <= 1, path
    for name, (ours, theirs) in restored.items():
        assert np.abs(ours - theirs).max() <= 1, name


def test_the_device_finds_faults() -> None:
    """What the other tests rely on."""
    code = """
import torch, pretend
library = pretend.register()
a = torch.ones(3, device="pretend")
for fault in (lambda: a + torch.ones(3), lambda: a.numpy(), lambda: torch.cat([a, torch.ones(3)])):
    try:
        fault()
    except (RuntimeError, TypeError) as error:
        print("refused")
with pretend.watched():
    a.sum().item(), bool(a.sum() > 1), a.cpu(), a.nonzero(), a.tolist(), float(a.sum())
    a + 1, a * torch.tensor(2.0), a.to(torch.bfloat16), torch.ones(3).to("pretend")
print(len(pretend.Rules.waits))
pretend.Rules.float64 = False
try:
    a.double()
except TypeError:
    print("refused")
"""
    path = {"PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **path}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * 3 + ["6"] + ["refused"]
