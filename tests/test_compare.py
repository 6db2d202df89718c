"""The script that runs the unofficial implementation beside ours, with a stand-in for it."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from blurcli.base.errors import UsageError
from blurcli.base.runs import Run
from blurcli.config import load_config, parse_overrides
from blurcli.model.weights import load_weights

CPU = torch.device("cpu")
SETTINGS = [
    "process.blur_schedule=sin2",
    "process.blur_sigma_max=20",
    "train.batch_size=4",
    "data.image_size=8",
    "model.base_channels=32",
    "model.multipliers=[1]",
    "model.attention_levels=[0]",
]

# Of its interface what the script relies on.
MODULES = {
    "model_code/unet.py": """
import torch
from PIL import Image
from safetensors.torch import load_file
class UNetModel(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.dropout = torch.nn.Dropout(config.model.dropout)
    def forward(self, z, t):
        return self.dropout(z) * self.scale
""",
    "model_code/blurring_diffusion.py": """
class BlurringDiffusion:
    def __init__(self, T, res, sigma_blur_max, min_scale, logsnr_min, logsnr_max):
        self.seen = (T, res, sigma_blur_max)
    def loss(self, model, x):
        assert 0 <= x.min() and x.max() <= 1
        return ((model(x, x[:, 0, 0, 0]) - 2 * x) ** 2).mean(), None, None
    def denoise(self, hat_eps, z_t, t, s):
        return z_t * 0 + 0.9999
""",
    "model_code/ema.py": """
class ExponentialMovingAverage:
    def __init__(self, parameters, decay):
        self.shadow_params = [p.clone().detach() for p in parameters]
        self.decay, self.num_updates = decay, 0
    def update(self, parameters):
        self.num_updates += 1
        for s, p in zip(self.shadow_params, parameters):
            s.lerp_(p.detach(), 1 - self.decay)
    def store(self, parameters):
        self.kept = [p.clone() for p in parameters]
    def copy_to(self, parameters):
        for s, p in zip(self.shadow_params, parameters):
            p.data.copy_(s)
    def restore(self, parameters):
        for s, p in zip(self.kept, parameters):
            p.data.copy_(s)
""",
    "scripts/losses.py": """
import torch
from PIL import Image
from safetensors.torch import load_file
def get_optimizer(config, parameters):
    return torch.optim.Adam(parameters, lr=config.optim.lr)
def optimization_manager(config):
    return lambda optimizer, parameters, step: optimizer.step()
""",
    "scripts/sampling_bd.py": """
def get_sampling_fn_blurring_diffusion(config, initial_noise, denoise_fn, indices, device):
    return lambda model: (denoise_fn(None, initial_noise, None, None), config.model.T, [])
""",
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in MODULES.items():
        path = tmp_path / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] in ("model_code", "scripts")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "original"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent / "gpu")
    return importlib.import_module("compare")


def test_theirs_is_trained_kept_and_continued(compare: ModuleType, checkout: Path, tmp_path: Path) -> None:
    config = load_config("cifar10-blur", parse_overrides(SETTINGS))
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    arguments = checkout, config, images, compare.Recipe(1e-2, 4, 10), CPU, tmp_path / "theirs.safetensors"
    theirs = compare.Theirs(*arguments)
    assert theirs.process.seen == (100, 8, 20)
    theirs.train(lambda t: t.seen >= 8)
    assert theirs.network.training
    theirs.train(lambda t: t.step > 100)
    assert not theirs.network.training  # nothing brings its dropout back after a preview
    again = compare.Theirs(*arguments)
    assert (again.step, again.seen, again.seconds) == (101, 404, theirs.seconds)
    torch.testing.assert_close(again.network.state_dict(), theirs.network.state_dict())
    torch.testing.assert_close(again.average.shadow_params, theirs.average.shadow_params)
    torch.testing.assert_close(again.optimizer.state_dict(), theirs.optimizer.state_dict())
    again.train(lambda t: t.step > 101)
    assert not again.network.training


def test_both_samplers_on_their_network(compare: ModuleType, checkout: Path, tmp_path: Path) -> None:
    config = load_config("cifar10-blur", parse_overrides(SETTINGS))
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    theirs = compare.Theirs(checkout, config, images, compare.Recipe(1e-2, 4, 10), CPU, tmp_path / "theirs.safetensors")
    trained = theirs.network.scale.clone()
    (own,) = theirs.draw(3, 0, "theirs")
    assert own.shape == (3, 3, 8, 8)
    assert (own == 254).all()  # 0.9999 * 255, truncated as it does
    (ours,) = theirs.draw(3, 0, "abm-4")
    assert ours.shape == (3, 3, 8, 8)
    assert len({int(value) for value in ours.ravel()}) > 9
    torch.testing.assert_close(theirs.network.scale, trained)  # drawn from the average, and put back


def test_features_of_resized_images(compare: ModuleType) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + x.shape[-1]

    resized = torch.jit.script(compare.Resized(torch.jit.script(Mean()), 32))
    torch.testing.assert_close(resized(torch.full((2, 3, 16, 16), 5.0)), torch.full((2, 3), 37.0))


def test_weights_in_parts(compare: ModuleType, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_PART", 50_000)
    comparison = object.__new__(compare.Comparison)
    comparison.out = tmp_path / "parts"
    comparison.out.mkdir()
    comparison._pack(Run(tiny_run).newest_weights(), "model.safetensors")
    parts = sorted(comparison.out.iterdir())
    assert [part.name for part in parts[:2]] == ["model.safetensors.00", "model.safetensors.01"]
    assert {part.stat().st_size for part in parts[:-1]} == {50_000}
    whole = tmp_path / "whole.safetensors"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert load_weights(whole).config == load_weights(Run(tiny_run).newest_weights()).config


@pytest.fixture
def comparison(compare: ModuleType, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Makes a comparison on 40 images of noise that trains nothing of ours, and whose scores are all 1."""

    class Training:
        returncode = 130
        waits: ClassVar[list[float]] = []
        trained = 0

        def __init__(self, command: list[str], **_: object) -> None:
            self.run = Run(Path(command[command.index("--run") + 1]))
            (steps,) = [int(part.partition("=")[2]) for part in command if part.startswith("train.steps=")]
            Training.trained = min(steps, Training.trained + 1)

        def wait(self, timeout: float | None = None) -> None:
            self.run.weights_path(Training.trained).parent.mkdir(parents=True, exist_ok=True)
            self.run.weights_path(Training.trained).touch()
            self.run.metrics_path.write_text('{"step": 1, "images_per_sec": 9}\n')
            if timeout is not None:
                Training.waits.append(timeout)
                raise subprocess.TimeoutExpired("train", timeout)

        def send_signal(self, number: int) -> None:
            assert number == compare.signal.SIGINT

    stand_in = SimpleNamespace(Popen=Training, TimeoutExpired=subprocess.TimeoutExpired, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(compare, "subprocess", stand_in)
    monkeypatch.setattr(compare.Comparison, "_blurdiff", lambda *arguments: {"fd": 1.0})
    images = tmp_path / "images"
    images.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)):
        Image.fromarray(pixels).save(images / f"{i}.png")

    def make(**changes: object) -> object:
        usual = {"checkout": checkout, "out": tmp_path / "out", "data": str(images), "features": "pixels", "score": 3}
        usual |= {"preset": "cifar10-blur", "assignments": SETTINGS, "samplers": ["abm-4"], "parts": False, "who": "both"}
        made = compare.Comparison(**usual | {"recipe": compare.Recipe(1e-2, 4, 10), "device": CPU} | changes)
        made.training = Training
        return made

    return make


def test_minutes_count_from_the_beginning(compare: ModuleType, comparison: Callable[..., Any], tmp_path: Path) -> None:
    both = comparison()
    short, long = compare.Budget(minutes=0.01), compare.Budget(minutes=0.02)
    for budget in (short, short, long):  # the same again does nothing
        both.compare(20.0, 0, budget)
    first, second = both.training.waits
    assert first == pytest.approx(0.6)
    assert second < 1.2  # what the first has left
    assert [(row["who"], row["sampler"], row["budget"]) for row in both.scores] == [
        (who, sampler, budget)
        for budget in ("0.01 min", "0.02 min")
        for who, sampler in (("ours", "abm-4"), ("theirs", "theirs"), ("theirs", "abm-4"))
    ]
    theirs = [row for row in both.scores if row["sampler"] == "theirs"]
    assert theirs[0]["seen"] < theirs[1]["seen"]
    state = load_file(tmp_path / "out" / "theirs-lr0.01-batch4-blur20-seed0.safetensors")
    assert state["seconds"] >= 1.2


def test_a_score_is_of_the_budget_that_it_names(compare: ModuleType, comparison: Callable[..., Any]) -> None:
    few, more, most = (compare.Budget(images=count) for count in (4, 8, 40))
    for budget in (few, more):
        comparison().compare(20.0, 0, budget)
    for changes in ({"score": 5}, {"samplers": ["abm-4", "ddim-2"]}, {"features": str(Path(__file__))}):
        # Weights of ours are kept at every budget, of theirs the newest only.
        ours = comparison(who="ours", **changes)
        known = len(ours.scores)
        ours.compare(20.0, 0, few)
        assert [(row["budget"], row["seen"]) for row in ours.scores[known:]] == [("4 images", 4)]
        theirs = comparison(who="theirs", **changes)
        with pytest.raises(UsageError, match="beyond 4 images; only its newest state is kept"):
            theirs.compare(20.0, 0, few)
        known = len(theirs.scores)
        theirs.compare(20.0, 0, more)
        assert {(row["budget"], row["seen"]) for row in theirs.scores[known:]} == {("8 images", 8)}
    with pytest.raises(UsageError, match=r"has had 8 images and .* no score at 6 images"):
        comparison(score=5).compare(20.0, 0, compare.Budget(images=6))
    with pytest.raises(UsageError, match="was trained with other settings"):
        comparison(who="theirs", recipe=compare.Recipe(1e-2, 4, 99)).compare(20.0, 0, most)
    with pytest.raises(UsageError, match="was trained with other settings"):
        comparison(assignments=[*SETTINGS, "optim.lr=1e-3"]).compare(20.0, 0, most)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkout": Path("nowhere")}, "nowhere: no checkout of the unofficial implementation"),
        ({"features": "absent.pt"}, "--features absent.pt: no such file"),
        ({"samplers": ["abm"]}, "--samplers abm: write it as a sampler and its steps"),
        ({"samplers": ["abm-0"]}, "--samplers abm-0: write it as"),
        ({"samplers": ["best-20"]}, "--samplers best-20: write it as"),
        ({"preset": "cifar10-heat", "assignments": SETTINGS[2:]}, "not process.kind heat"),
        ({"assignments": [*SETTINGS, "train.batch_size=64"]}, "has 40 images, and 64 are needed"),
    ],
)
def test_errors_are_reported_before_any_training(comparison: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        comparison(**changes)


def test_numbers(compare: ModuleType) -> None:
    assert compare._numbers("0, 2.5", "--blurs", float, 0) == [0, 2.5]
    for text in ("", "a", "3,", "-1", "2.5"):
        with pytest.raises(UsageError, match=f"--seeds {text}: write numbers of at least 0"):
            compare._numbers(text, "--seeds", int, 0)
