from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Process, Result

from blurcli.core.moments import DataMoments

# Small enough that a step takes milliseconds; 8 px and two levels still use every kind of layer.
TINY = (
    "data.image_size=8",
    "data.shapes_count=64",
    "model.base_channels=8",
    "model.multipliers=[1,2]",
    "model.attention_levels=[1]",
    "model.blocks_per_level=1",
    "model.patch_size=1",
    "optim.warmup_steps=2",
    "train.batch_size=4",
    "train.log_every_steps=1",
    "train.preview_every_steps=3",
    "train.preview_images=4",
    "sample.steps=2",
)


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BLURDIFF_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("BLURDIFF_INCEPTION", None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers whichever tests ran before."""
    torch.manual_seed(0)


class SeededDraws:
    """Noise and uniform numbers for `count` images from one generator."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._generator = count, torch.Generator().manual_seed(seed)

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=self._generator)

    def uniform(self) -> torch.Tensor:
        return torch.rand(self._count, dtype=torch.float64, generator=self._generator)


def reporter(**given: Any) -> Any:
    """A reporter of a training with these methods and `draw_preview`; others do nothing."""
    from blurcli.training import SilentReporter

    made = SilentReporter()
    vars(made).update(given)
    return made


def moments_of(second_moment: torch.Tensor, opponent: bool = False) -> DataMoments:
    """Data moments with mean 0, and with the same spectrum in opponent colors where these are wanted."""
    return DataMoments(second_moment, torch.zeros_like(second_moment), second_moment if opponent else None)


__all__ = ["Process", "Result"]

Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line in this process, in an empty folder."""
    from blurcli.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(int(exit_.value.code or 0), captured.out, captured.err)

    return run


def shell(*arguments: object, cwd: Path) -> Result:
    """Run a command line in a process of its own."""
    return Process(*arguments, cwd=cwd).result()


def settings(*assignments: str) -> list[str]:
    """--set arguments for a tiny model, and then the given ones."""
    return [part for assignment in (*TINY, *assignments) for part in ("--set", assignment)]


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = shell("train", "--preset", "shapes-blur", "--run", "tiny", *settings("train.steps=3"), cwd=folder)
    assert done.code == 0, done.err
    return folder / "tiny"


@pytest.fixture
def tiny_run(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a tiny model, trained for three steps as a user would; each test has a copy of its own."""
    return Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("run") / "tiny"))


class StandIn(torch.nn.Module):
    """Inception's interface, which clean-fid and blurcli rely on, over arithmetic that takes a millisecond."""

    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.mix = torch.nn.Buffer(torch.randn(192, 2048, generator=generator) / 14)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.nn.functional.adaptive_max_pool2d(x, 8).flatten(1) @ self.mix)[:, :, None, None]

    def __init__(self) -> None:
        super().__init__()
        self.layers = StandIn.Layers()

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        x = torch.nn.functional.interpolate(img, size=[299, 299], mode="bilinear", align_corners=False)
        return self.layers.forward((x - 128) / 128)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for Inception's TorchScript file, which cannot be had without the internet."""
    path = tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt"
    torch.jit.script(StandIn().eval()).save(str(path))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten small color images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 16, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder
