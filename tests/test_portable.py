"""Every command without what only POSIX systems have, see portable.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import settings
from PIL import Image

SCRIPT = Path(__file__).parent / "portable.py"


def train(run: str, steps: int, *more: str) -> list[str]:
    source = [] if "--data" in more else ["--preset", "shapes-blur"]
    return ["train", *source, "--run", run, *settings(f"train.steps={steps}", "train.save_every_steps=1"), *more]


COMMANDS = [
    train("r", 2),
    train("r", 4),  # continues
    train("own", 1, "--data", "photos", "--set", "data.image_size=8"),
    ["data", "photos", "--json"],
    ["sample", "--run", "r", "--n", "2", "--out", "grid.png"],
    ["sample", "--run", "r", "--n", "2", "--out", "samples.npz"],
    ["sample", "--run", "r", "--n", "2", "--out", "folder"],
    ["animate", "a.gif", "--run", "r", "--n", "1", "--frames", "3"],
    ["animate", "a.html", "--run", "r", "--n", "1", "--frames", "3"],
    ["fid", "--run", "r", "--n", "4", "--force"],
    ["fid", "--samples", "samples.npz", "--data", "photos", "--features", "pixels", "--force"],
    ["likelihood", "--run", "r", "--n", "2"],
    ["diagnose", "--run", "r", "--n", "2"],
    ["sweep", "--run", "r", "--n", "4", "--steps", "2", "--force"],
    ["results", "r"],
    ["plot", "r", "--out", "plots"],
    ["report", "r", "--n", "2"],
    ["presets"],
    ["bench", "--preset", "shapes-blur", "--seconds", "0.1", "--batch-size", "2"],
    ["export", "shared.safetensors", "--run", "r"],
    ["sample", "--weights", "shared.safetensors", "--n", "2", "--out", "again.png"],
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The ends of all commands by what was asked, and the folder."""
    folder = tmp_path_factory.mktemp("portable")
    (folder / "photos").mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    environment = {
        **os.environ,
        "PYTHONPATH": str(SCRIPT.parent.parent),
        "BLURDIFF_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-X", "warn_default_encoding", str(SCRIPT), "report.json"]
    done = subprocess.run(
        command, input=json.dumps(COMMANDS), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {" ".join(end["command"]): end for end in ends} | {"errors": done.stderr}, folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:40])
def test_command_runs(ran: tuple[dict[str, Any], Path], command: list[str]) -> None:
    ends, _ = ran
    assert ends[" ".join(command)]["code"] == 0, ends["errors"]


def test_a_run_continues(ran: tuple[dict[str, Any], Path]) -> None:
    _, folder = ran
    assert sorted(path.name for path in (folder / "r" / "weights").iterdir())[-1] == "step-00000004.safetensors"
    assert (folder / "r" / "state.previous.safetensors").exists()
