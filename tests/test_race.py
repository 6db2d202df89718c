"""The script that runs other libraries beside ours: ours and diffusers as they are, EDM by a stand-in, others where installed."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from mutants import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file

from blurcli.base import files
from blurcli.base.errors import UsageError

SETTINGS = [
    "data.image_size=8",
    "model.base_channels=8",
    "model.multipliers=[1,2]",
    "model.attention_levels=[1]",
    "optim.warmup_steps=2",
    "train.batch_size=4",
    "train.precision=fp32",
]
PRESET = str(ROOT / "docs" / "studies" / "cifar10-16.yaml")
COLOR = (220, 40, 130)

# Of EDM's interface what the script relies on.
CHECKOUT = {
    "training/networks.py": """
import torch
class SongUNet(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width, 100))
    def forward(self, x, noise, class_labels=None):
        return x * (1 + self.weight.mean())
class EDMPrecond(torch.nn.Module):
    sigma_min, sigma_max = 0, float("inf")
    def __init__(self, side, channels, model_type, model_channels, channel_mult, num_blocks, attn_resolutions, dropout):
        super().__init__()
        self.shape = (side, channels, model_type, channel_mult, num_blocks, attn_resolutions, dropout)
        self.model = SongUNet(model_channels)
    def forward(self, x, sigma, class_labels=None):
        return self.model(x.float(), sigma)
""",
    "training/loss.py": """
class EDMLoss:
    def __call__(self, net, images):
        assert images.min() >= -1 and images.max() <= 1 and images.min() < -0.5
        return (net(images, images[:, 0, 0, 0]) - 2 * images) ** 2
""",
    "generate.py": """
import torch
def edm_sampler(net, latents, num_steps):
    for i in range(2 * num_steps - 1):
        net(latents, torch.ones(1))
    return latents
""",
}


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("race")


@pytest.fixture
def peers(race: ModuleType) -> ModuleType:
    return importlib.import_module("race_peers")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, content in CHECKOUT.items():
        path = tmp_path / "edm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] in ("training", "generate")]:
        monkeypatch.delitem(sys.modules, name)
    return str(tmp_path / "edm")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty images of nearly one color."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, noise in enumerate(np.random.default_rng(0).integers(-9, 10, (40, 8, 8, 3))):
        Image.fromarray((noise + np.array(COLOR)).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def task(peers: ModuleType, images: Path, tmp_path: Path) -> Callable[..., Any]:
    base = peers.Task(
        *(str(tmp_path / "out"), str(images), PRESET, SETTINGS, "pixels", "cpu", None, 8, False),
        *("diffusers", "own", 1e-4, 0, 16, None, [("ddim", 4)]),
    )
    return lambda **changes: replace(base, **changes)


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return files.json_lines(tmp_path / "out" / "results.jsonl")


@pytest.mark.parametrize(
    ("peer", "draws"), [("ours", [("abm", 2), ("abm", 3)]), ("diffusers", [("ddim", 2), ("dpmpp-2m", 3), ("ddpm", 3)])]
)
def test_a_training_is_scored_and_not_done_again(
    race: ModuleType, task: Callable[..., Any], tmp_path: Path, peer: str, draws: list[tuple[str, int]], monkeypatch: Any
) -> None:
    given = task(peer=peer, lr=1e-3, images=18, draws=draws[:1])
    race.perform(given)
    monkeypatch.setattr(race.CONTESTANTS[peer], "train", None)  # its network is there
    for _ in range(2):
        race.perform(replace(given, draws=draws))
    found = rows(tmp_path)
    assert [(row["sampler"], row["calls"]) for row in found] == draws
    assert {(row["peer"], row["lr"], row["images"], row["n"], row["budget"]) for row in found} == {
        (peer, 1e-3, 20, 8, "18 images")
    }
    assert len({row["fd"] for row in found}) == len(draws)
    assert all(row["fd"] > 0 and row["fd"] == row["fd_pixels"] for row in found)
    assert all(row["seconds"] > 0 and row["seconds_per_1000"] > 0 and row["mib"] > 50 for row in found)
    assert [row["images_per_sec"] for row in found] == [20 / found[0]["seconds"]] * len(draws)
    sampler, about = draws[-1]
    assert load_file(given.folder / f"first-{sampler}-{about}.safetensors")["images"].shape == (8, 3, 8, 8)


@pytest.mark.parametrize("peer", ["ours", "diffusers"])
def test_a_budget_of_seconds(race: ModuleType, task: Callable[..., Any], tmp_path: Path, peer: str) -> None:
    draws = [(race.CONTESTANTS[peer].samplers[0], 2)]
    race.perform(task(peer=peer, lr=1e-3, images=None, seconds=0.4, draws=draws))
    (row,) = rows(tmp_path)
    assert row["budget"] == "0.4 s"
    assert 0.4 <= row["seconds"] < 10
    assert row["images"] % 4 == 0
    assert row["images"] > 0


class Known(torch.nn.Module):
    """In place of a network: what it would give if all images were of the color CLEAN."""

    def __init__(self, give: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.give = give

    def forward(self, x: torch.Tensor, t: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.give(x, t.reshape(-1, 1, 1, 1), CLEAN.expand_as(x))


CLEAN = torch.tensor([0.7, -0.6, 0.1]).reshape(3, 1, 1)


def preconditioned(x: torch.Tensor, sigma: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """The output behind the preconditioning of Karras et al. (2022), with data of standard deviation 0.5."""
    total = sigma**2 + 0.5**2
    return (clean - 0.5**2 / total * x * total.sqrt()) / (0.5 * sigma / total.sqrt())


def make_exact(own: Any) -> None:
    """Put the exact network into a peer."""
    if own.task.peer == "diffusers":
        powers = own._schedule.alphas_cumprod
        own.module = Known(lambda x, t, clean: (x - powers[t].sqrt() * clean) / (1 - powers[t]).sqrt())
    elif own.task.peer == "ddpm-pytorch":
        powers = own.module.alphas_cumprod  # it predicts v = (sqrt(power) x - clean) / sqrt(1 - power)
        own.module.model = Known(lambda x, t, clean: (powers[t].sqrt() * x - clean) / (1 - powers[t]).sqrt())
    elif own.task.peer == "edm":
        own.module.model = Known(lambda x, t, clean: preconditioned(x, (4 * t).exp(), clean))
    else:
        own.module.inner_model = Known(preconditioned)


def check_exact(own: Any) -> None:
    """With the exact network, the loss is nothing, and every sampler draws the color."""
    make_exact(own)
    assert own.loss(CLEAN.expand(6, 3, 8, 8)).item() < 1e-3
    for sampler in own.samplers:
        drawn = own.sample(sampler, own.calls(sampler, 20), (2, 3, 8, 8))
        torch.testing.assert_close(drawn.float(), CLEAN.expand_as(drawn), rtol=0, atol=0.02)


@pytest.mark.parametrize("peer", ["diffusers", "ddpm-pytorch", "k-diffusion"])
def test_loss_and_samplers_with_an_exact_network(task: Callable[..., Any], race: ModuleType, peer: str) -> None:
    if peer != "diffusers":
        pytest.importorskip(peer.replace("ddpm", "denoising_diffusion").replace("-", "_"), exc_type=ImportError)
    check_exact(race.CONTESTANTS[peer](task(peer=peer)))


def test_the_trained_network_is_kept(task: Callable[..., Any], race: ModuleType) -> None:
    given = task(recipe="tuned", lr=1e-2, images=120)
    dataset = race.load_dataset(given.data, "train", (8, 8), 3)
    trained, fresh = (race.CONTESTANTS["diffusers"](given) for _ in range(2))
    x = torch.from_numpy(np.array(dataset.images)).float() / 127.5 - 1
    before = fresh.loss(x).item()
    trained.train(dataset)
    assert sum(len(batch) for batch in fresh.draw("ddim", 2)) == given.n  # reads it
    assert fresh.loss(x).item() < 0.8 * before


def test_the_example_of_diffusers(race: ModuleType, peers: ModuleType, task: Callable[..., Any]) -> None:
    optimization = pytest.importorskip("diffusers.optimization")
    average = importlib.import_module("diffusers.training_utils").EMAModel(
        [torch.nn.Parameter(torch.zeros(1))], decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
    )
    own = race.CONTESTANTS["diffusers"](task())
    optimizer = own.optimizer(1.0)
    (schedule,) = optimization.get_cosine_schedule_with_warmup(optimizer, 500, 2000).lr_lambdas
    for step in (0, 10, 499, 500, 501, 1200, 1999):
        assert own.factor(step, step / 2000) == pytest.approx(schedule(step))
        assert own.decay(step) == pytest.approx(average.get_decay(step + 1))
    ours = race.CONTESTANTS["ours"](task(peer="ours", lr=1e-3))
    sizes = sum(one.numel() for one in own.module.parameters()), peers.empty_network(ours.config).parameter_count()
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_the_recipe_tuned_has_the_schedule_of_the_preset(race: ModuleType, task: Callable[..., Any]) -> None:
    cooled = task(recipe="tuned", assignments=[*SETTINGS, "optim.warmup_steps=4", "optim.cooldown=0.5"], images=80)
    contestant, rates = race.CONTESTANTS["diffusers"](cooled), []
    optimizer = contestant.optimizer(1.0)
    contestant.optimizer = lambda lr: optimizer
    optimizer.register_step_pre_hook(lambda *call: rates.append(optimizer.param_groups[0]["lr"]))
    contestant.train(race.load_dataset(cooled.data, "train", (8, 8), 3))
    warm, cold = [1 / 4, 2 / 4, 3 / 4], [2 * (1 - step / 20) for step in range(11, 20)]
    assert rates == pytest.approx([*warm, *[1.0] * 8, *cold])


def test_edm_from_its_checkout(race: ModuleType, task: Callable[..., Any], checkout: str, tmp_path: Path) -> None:
    given = task(peer="edm", lr=1e-3, edm=checkout, images=400)
    edm = race.CONTESTANTS["edm"](given)
    assert edm.module.shape == (8, 3, "SongUNet", [1, 2], 1, [4], 0)
    assert [edm.factor(9, share) for share in (0, 0.025, 0.05, 0.5)] == [0, 0.5, 1, 1]
    assert (edm.decay(0), edm.decay(1000), edm.decay(10**9)) == pytest.approx((0, 0.5 ** (1 / 50), 0.5 ** (4 / 500_000)))
    calls = []
    edm.module.model.register_forward_hook(lambda *call: calls.append(call))
    for about, expected in ((20, 19), (35, 35), (100, 99)):
        calls.clear()
        assert edm.calls("heun", about) == expected
        edm.sample("heun", expected, (1, 3, 8, 8))
        assert len(calls) == expected
    before = edm.module.model.network.weight.mean().item()
    edm.train(race.load_dataset(given.data, "train", (8, 8), 3))
    kept = load_file(given.folder / "network.safetensors")
    assert kept["model.network.weight"].mean() > before + 1e-3  # towards 1


def test_averages_of_others(race: ModuleType, task: Callable[..., Any]) -> None:
    ema = pytest.importorskip("ema_pytorch")
    pytest.importorskip("denoising_diffusion_pytorch")
    network = torch.nn.Linear(1, 1)
    average, own = ema.EMA(network, beta=0.995, update_every=10), race.CONTESTANTS["ddpm-pytorch"](task(peer="ddpm-pytorch"))
    expected = network.weight.detach().clone()
    for step in range(150):
        with torch.no_grad():
            network.weight.fill_(float(step % 37))
            average.update()
            expected.lerp_(network.weight, 1 - own.decay(step))
        torch.testing.assert_close(average.ema_model.weight.detach(), expected)


@pytest.fixture
def pretended(race: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trainings whose distance is known: their number of the learning rate away from 3e-3, and less by dpmpp-2m."""
    done: list[Any] = []

    def perform(task: Any) -> None:
        missing = race._missing(task)
        if missing:
            done.append(task)
        for sampler, about in missing:
            fd = 1 + abs(task.lr - 3e-3) * 1000 - 0.5 * (sampler == "dpmpp-2m") + task.seed + 10 / about
            row = {**task.key, "sampler": sampler, "about": about, "calls": about, "fd": fd, "fd_pixels": 2 * fd}
            row |= {"precision": 0.5, "recall": 0.25, "images_per_sec": 100.0, "seconds_per_1000": 3.0, "mib": 700}
            files.append_json_line(
                Path(task.out) / "results.jsonl", row | {"parameters": 1_230_000, "folder": task.folder.name}
            )
            path = race._first(task.folder, sampler, about)
            path.parent.mkdir(exist_ok=True)
            save_file({"images": torch.full((64, 3, 8, 8), task.seed, dtype=torch.uint8)}, path)

    monkeypatch.setattr(race, "_in_own_process", perform)
    return done


def test_the_best_learning_rate_of_seed_0_is_used(
    race: ModuleType, images: Path, tmp_path: Path, pretended: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = {
        "preset": PRESET,
        "assignments": SETTINGS,
        "features": "pixels",
        "peers": "ours,diffusers",
        "n": 9,
        "device": "cpu",
    }

    def run(**changes: Any) -> None:
        arguments = {
            "edm": None,
            "recipes": "own,tuned",
            "lrs": "1e-3,4e-3",
            "images": "400",
            "seconds": None,
            "cpu_clock": False,
        }
        race.run(out, str(images), **options, **arguments | {"calls": "20,35", "seeds": "0"} | changes)

    run(seeds="1")
    assert [(one.peer, one.recipe) for one in pretended] == [("ours", "own"), ("diffusers", "own")]
    assert "diffusers, tuned: its learning rates have no results of seed 0 yet" in capsys.readouterr().out
    pretended.clear()
    run(seeds="0,1")
    tuned = [(one.lr, one.seed, {about for _, about in one.draws}) for one in pretended if one.recipe == "tuned"]
    assert tuned == [(1e-3, 0, {35}), (4e-3, 0, {35}), (4e-3, 0, {20, 35}), (4e-3, 1, {20, 35})]
    assert [{sampler for sampler, _ in one.draws} for one in pretended[-2:]] == [
        {*race.CONTESTANTS["diffusers"].samplers},
        {"dpmpp-2m"},
    ]
    pretended.clear()
    run(seeds="0,1")
    assert not pretended
    header, _, *lines = (out / "table.md").read_text().splitlines()
    assert "FD, about 20 calls | FD, about 35 calls" in header
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(row[1], row[2], row[3], row[4], row[5]) for row in cells] == [
        ("diffusers", "tuned", "0.004", "2", "1.23"),
        ("ours", "own", "0.001", "2", "1.23"),
        ("diffusers", "own", "0.0001", "2", "1.23"),
    ]
    assert cells[0][7] == "2.29 ± 0.71 (dpmpp-2m, 35)"
    assert Image.open(out / "grid-diffusers.png").size[0] > 8 * 8
    with pytest.raises(UsageError, match="was raced with another n; name another folder"):
        options["n"] = 10
        run()


def test_one_of_two_commands_trains(race: ModuleType, task: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    given = task()
    with files.locked(given.folder, "racing", print):
        race._in_own_process(given)
    assert "left out" in capsys.readouterr().out
    assert not (given.folder / "training.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peers": "diffuser"}, "--peers diffuser: must be some of ours, .*; did you mean 'diffusers'"),
        ({"peers": "edm"}, "--peers edm: no --edm: no checkout of it; name one with --edm PATH"),
        ({"peers": "edm", "edm": Path("nowhere")}, "nowhere: no checkout of it"),
        ({"peers": "ddpm-pytorch"}, "ddpm-pytorch: needs the package denoising-diffusion-pytorch: pip install denoising-"),
        ({"peers": "k-diffusion"}, "k-diffusion: needs the package k-diffusion: pip install k-diffusion"),
        ({"seconds": "9", "assignments": [*SETTINGS, "optim.cooldown=0.2"]}, "--seconds: optim.cooldown needs a known number"),
        ({"recipes": "best"}, "--recipes best: must be own, tuned"),
        ({"lrs": "0"}, "--lrs 0: write numbers of at least 1e-09"),
        ({"features": "absent.pt"}, "--features .*absent.pt: no such file"),
        ({"assignments": [*SETTINGS, "data.classes=2"]}, "has classes, and the others know none"),
    ],
)
def test_errors_are_reported_before_any_training(
    race: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    for name in ("denoising_diffusion_pytorch", "k_diffusion"):
        monkeypatch.setitem(sys.modules, name, None)
    usual = {"preset": PRESET, "assignments": SETTINGS, "features": "pixels", "peers": "ours", "edm": None, "device": "cpu"}
    usual |= {"recipes": "own", "lrs": "1e-3", "seeds": "0", "images": "8", "seconds": None, "calls": "20", "n": 9}
    with pytest.raises(UsageError, match=message):
        race.run(tmp_path / "out", str(images), **usual | {"cpu_clock": False} | changes)


def test_the_exit_code_of_wrong_usage(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "race.py"), "table", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"race.py: {tmp_path}: has no results\n"
