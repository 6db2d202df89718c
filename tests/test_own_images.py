"""`train --data FOLDER` without a preset: what is chosen, and what is said."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from blurcli import console, training_setup
from blurcli.config import load_config, parse_overrides
from blurcli.errors import UserError
from blurcli.training_setup import choose

TINY = "model.base_channels=8", "model.multipliers=[1]", "model.attention_levels=[]", "train.batch_size=2"


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_setup, "_step_sec", lambda config, device: 0.3)


def photos(folder: Path, count: int, size: tuple[int, int], mode: str = "RGB") -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).convert("RGB").save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("size", "mode", "expected", "channels"), [((90, 61), "RGB", 64, 3), ((28, 28), "L", 32, 1), ((12, 400), "RGB", 16, 3)]
)
def test_size_and_colors_follow_the_images(
    tmp_path: Path, size: tuple[int, int], mode: str, expected: int, channels: int
) -> None:
    choice = choose(str(photos(tmp_path / "p", 5, size, mode)), "cpu")
    assert choice.config.data.image_size == (expected, expected)
    assert (choice.config.data.channels, choice.config.data.augment) == (channels, 0.12)
    assert choice.config.model == load_config("folder-small").model
    assert choice.config.train.steps == 12_000  # an hour of 0.3 s
    assert choice.reasons[0].startswith(f"5 images, shorter side {min(size)} px, {'gray' if channels == 1 else 'in color'}")
    assert choice.reasons[0].endswith("12,000 steps: about 60 min on this computer")
    assert choice.reasons[1] == "for a GPU: --preset folder-blur"


def test_a_gpu_takes_the_large_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurcli.inference.choose_device", lambda name: torch.device("cuda"))
    choice = choose(str(photos(tmp_path / "p", 3, (70, 70))), "auto")
    assert choice.config.model == load_config("folder-blur").model
    assert choice.config.train.steps == load_config("folder-blur").train.steps


def test_own_settings_count_more(tmp_path: Path) -> None:
    own = parse_overrides(["train.steps=7", "data.image_size=16", "data.augment=0"])
    choice = choose(str(photos(tmp_path / "p", 3, (70, 70))), "cpu", own)
    assert (choice.config.train.steps, choice.config.data.image_size, choice.config.data.augment) == (7, (16, 16), 0)
    assert "16x16; 7 steps: about 2 s" in choice.reasons[0]


def test_many_images_are_not_augmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_setup, "_FEW_IMAGES", 3)
    assert choose(str(photos(tmp_path / "p", 3, (70, 70))), "cpu").config.data.augment == 0


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match=r"a.png: not a readable image"):
        choose(str(tmp_path), "cpu")


def test_the_same_command_continues(cli: Cli, tmp_path: Path) -> None:
    photos(tmp_path / "cats", 4, (20, 20))
    command = ["train", "--data", "cats", *(part for key in TINY for part in ("--set", key))]
    first = cli(*command, "--set", "train.steps=1")
    assert first.code == 0, first.err
    assert first.out.strip() == "runs/cats/weights/step-00000001.safetensors"
    assert "preset folder-small at 16x16" in first.err
    second = cli(*command, "--set", "train.steps=2")
    assert second.code == 0, second.err
    assert "continuing runs/cats from step 1" in second.err


@pytest.mark.parametrize(("steps", "warned"), [(10**9, True), (100, False)])
def test_weeks_are_foretold_at_the_first_steps(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, warned: bool
) -> None:
    photos(tmp_path / "cats", 2, (20, 20))
    monkeypatch.setattr(sys.modules["blurcli.cli.progress"], "_MEASURED_SEC", 0.0)
    told: list[str] = []

    def stop_when_told(text: str) -> None:
        told.append(text)
        if ("steps/s" in text and not warned) or "warning" in text:
            raise UserError("enough")

    monkeypatch.setattr(console, "notify", stop_when_told)
    command = ["train", "--preset", "folder-small", "--data", "cats", "--set", "data.image_size=16"]
    command += [part for key in TINY for part in ("--set", key)]
    assert cli(*command, "--set", f"train.steps={steps}").code == 1
    assert told[-1].startswith("warning: on this computer without a GPU" if warned else "100 steps at")


def test_a_dataset_has_presets_of_its_own(cli: Cli) -> None:
    done = cli("train", "--data", "cifar10")
    assert done.code == 2
    assert "--data cifar10: choose a preset for it with --preset" in done.err
