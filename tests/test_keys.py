"""Every key of a preset does something: changed alone, it changes what a run leaves behind or how it is sampled or scored."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Cli, reporter
from PIL import Image
from torch import Tensor

from blurcli.base.errors import UsageError, UserError
from blurcli.base.runs import Run
from blurcli.config import Config, flatten, load_config, parse_overrides
from blurcli.core import UNet
from blurcli.core.unet import _ResidualBlock
from blurcli.data import ReadOptions, load_dataset
from blurcli.evaluate import recorded
from blurcli.model.inference import build_network
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import load_weights
from blurcli.training import Trainer, train
from blurcli.visualize import tile

CPU = torch.device("cpu")
BASE = (*TINY, "train.steps=3", "train.precision=fp32", "score.n=12", "score.features=pixels")


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """How networks are called in training, and what is given to torch.compile, which does nothing to it."""
    trace: dict[str, list[Any]] = {"passes": [], "layouts": [], "blocks": [], "compiled": []}
    forward, residual = UNet.forward, _ResidualBlock.forward

    def traced_forward(network: UNet, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        if network.training:
            trace["passes"].append(len(x))
            trace["layouts"].append(x.is_contiguous(memory_format=torch.channels_last))
        return forward(network, x, t, **conditions)

    def traced_residual(block: _ResidualBlock, *arguments: Tensor) -> Tensor:
        trace["blocks"] += [1] * block.training
        return residual(block, *arguments)

    def compiled(network: UNet, **options: Any) -> UNet:
        trace["compiled"].append(network.training)
        return network

    monkeypatch.setattr(UNet, "forward", traced_forward)
    monkeypatch.setattr(_ResidualBlock, "forward", traced_residual)
    monkeypatch.setattr(torch, "compile", compiled)
    return trace


def outcome(config: Config, folder: Path, cli: Cli, trace: dict[str, list[Any]], part: str = "") -> dict[str, Any]:
    """All that a run, its samples and its score show; or its weights only."""
    for events in trace.values():
        events.clear()
    data = config.data
    options = ReadOptions.of(data)
    dataset = load_dataset(data.source, "train", data.image_size, data.channels, options, classes=data.classes)
    deterministic: list[bool] = []
    observer = reporter(
        on_log=lambda metrics: deterministic.append(torch.are_deterministic_algorithms_enabled()), draw_preview=tile
    )
    weights_path = train(config, Run(folder), dataset, CPU, observer)
    weights = load_weights(weights_path)
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights.network.values())).hexdigest()
    if part == "weights":
        return {"weights": digest}
    batches = list(Pipeline.from_weights(weights, CPU).generate(5, seed=0))
    score = json.loads(cli("fid", "--run", folder, "--force", "--json").out)
    logged, health = (
        [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []
        for path in (folder / "metrics.jsonl", folder / "health.jsonl")
    )
    return {
        **{name: list(events) for name, events in trace.items()},
        "weights": digest,
        "files": sorted(p.name for p in folder.rglob("*") if p.parent.name in ("weights", "samples")),
        "previews": [path.read_bytes() for path in sorted((folder / "samples").glob("*.png"))],
        "logged": logged,
        "health": health,
        "events": len(list(folder.glob("events.*"))),
        "deterministic": deterministic,
        "batches": [tuple(batch.shape) for batch in batches],
        "images": hashlib.sha256(torch.cat(batches).numpy().tobytes()).hexdigest(),
        "training_scores": [
            (line["step"], line["n"], line["features"])
            for line in recorded(folder / "evaluations.jsonl")
            if line["name"] == "training"
        ],
        "score": {key: score.get(key) for key in ("fd", "fid", "n", "split", "features", "sampler", "steps")},
    }


# Another value for every key, and the part of the outcome that must differ.
CHANGES: dict[str, tuple[str, str]] = {
    "seed": ("1", "weights"),
    "objective": ("eps", "weights"),
    "data.source": ("PHOTOS", "weights"),
    "data.image_size": ("[8, 12]", "batches"),
    "data.channels": ("1", "batches"),
    "data.crop": ("random", "weights"),
    "data.crops": ("10", "weights"),
    "data.centered": ("false", "weights"),
    "data.flip": ("false", "weights"),
    "data.shapes_count": ("32", "weights"),
    "data.shapes_objects": ("1", "weights"),
    "data.classes": ("3", "weights"),
    "data.augment": ("0.5", "weights"),
    "data.value_range": ("[0, 4095]", "weights"),
    "data.max_broken": ("1", "weights"),
    "process.blur_sigma_max": ("0", "weights"),
    "process.kind": ("heat", "weights"),
    "process.blur_schedule": ("linear", "weights"),
    "process.blur_power": ("3", "weights"),
    "process.blur_noise_ratio": ("3", "weights"),
    "process.blur_sigma_min": ("1", "weights"),
    "process.levels": ("3", "weights"),
    "process.noise": ("0.05", "weights"),
    "process.min_scale": ("0.1", "weights"),
    "process.logsnr_min": ("-5", "weights"),
    "process.logsnr_max": ("5", "weights"),
    "model.base_channels": ("12", "weights"),
    "model.multipliers": ("[1, 1]", "weights"),
    "model.blocks_per_level": ("2", "weights"),
    "model.attention_levels": ("[]", "weights"),
    "model.head_channels": ("8", "weights"),
    "model.dropout": ("0.5", "weights"),
    "model.patch_size": ("2", "weights"),
    "model.time_scale": ("100", "weights"),
    "model.norm_groups": ("4", "weights"),
    "optim.optimizer": ("adam", "weights"),
    "optim.lr": ("1e-2", "weights"),
    "optim.beta2": ("0.5", "weights"),
    "optim.warmup_steps": ("9", "weights"),
    "optim.decay_from_step": ("1", "weights"),
    "optim.cooldown": ("1", "weights"),
    "optim.grad_clip": ("1e-9", "weights"),
    "optim.loss_weight": ("paper", "weights"),
    "optim.time_sampling": ("uniform", "weights"),
    "optim.class_dropout": ("1", "weights"),
    "optim.ema_decay": ("0", "weights"),
    "train.steps": ("2", "files"),
    "train.batch_size": ("5", "weights"),
    "train.precision": ("bf16", "weights"),
    "train.micro_batch": ("2", "passes"),
    "train.checkpoint_activations": ("true", "blocks"),
    "train.channels_last": ("true", "layouts"),
    "train.compile": ("true", "compiled"),
    "train.trackers": ("[]", "events"),
    "train.log_every_steps": ("2", "logged"),
    "train.preview_every_steps": ("2", "files"),
    "train.preview_images": ("9", "previews"),
    "train.save_every_steps": ("2", "files"),
    "train.score_every_steps": ("2", "training_scores"),
    "train.keep": ("1", "files"),
    "train.health_every_steps": ("2", "health"),
    "train.max_bad_steps": ("2", "weights"),
    "train.deterministic": ("true", "deterministic"),
    "train.score_images": ("195", "training_scores"),
    "train.score_features": ("inception", "training_scores"),
    "sample.sampler": ("ddim", "images"),
    "sample.steps": ("3", "images"),
    "sample.delta": ("0.1", "images"),
    "sample.guidance": ("4", "images"),
    "sample.eta": ("0.5", "images"),
    "sample.final": ("noisy", "images"),
    "sample.batch_size": ("2", "batches"),
    "sample.compile": ("true", "compiled"),
    "score.n": ("13", "score"),
    "score.split": ("test", "score"),
    "score.mode": ("legacy_tensorflow", "score"),
    "score.features": ("inception", "score"),
}


HEAT = ("process.kind=heat", "process.levels=4", "sample.sampler=heat", "sample.delta=0.01", "optim.time_sampling=uniform")


def test_the_table_has_every_key() -> None:
    heat = load_config("shapes-heat")
    known = {*flatten(Config()), *flatten(heat)}  # type: ignore[call-arg]
    assert set(CHANGES) == {key for key in known if not key.startswith("distill.")}  # test_distill.py tries these


@pytest.fixture(scope="module")
def unchanged() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("key", CHANGES)
def test_key_does_something(
    key: str,
    tmp_path: Path,
    photos: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    inception_file: Path,
    unchanged: dict[str, Any],
    traced: dict[str, list[Any]],
) -> None:
    monkeypatch.setenv("BLURDIFF_INCEPTION", str(inception_file))
    value, part = CHANGES[key]
    assigned = HEAT if key == "process.kind" else [f"{key}={photos if value == 'PHOTOS' else value}"]
    base = [*BASE, *(["train.health_every_steps=null"] if part == "weights" else [])]
    if key in ("process.blur_sigma_min", "process.levels", "process.noise", "sample.delta"):
        base += HEAT
    if key in ("data.classes", "optim.class_dropout", "sample.guidance"):
        base += ["data.shapes_objects=1"]
    if key in ("optim.class_dropout", "sample.guidance"):
        base += ["data.classes=3"]
    if key == "process.blur_power":
        base += ["process.blur_schedule=cosine-power", "process.blur_power=2"]
    if key == "process.blur_noise_ratio":
        base += ["process.blur_schedule=noise-ratio", "process.blur_sigma_max=null", "process.blur_noise_ratio=0.5"]
    if key.startswith("train.score"):
        # More images than the features have dimensions.
        base += ["data.shapes_count=200", "train.score_every_steps=3", "train.score_images=193"]
    if key == "score.mode":
        base.append("score.features=inception")
    if key == "train.max_bad_steps":
        step = Trainer.train_step
        monkeypatch.setattr(Trainer, "train_step", lambda t, x, *others: step(t, x.log() if t.step and not t.restores else x))
        base += ["train.save_every_steps=1"]
    if key == "data.value_range":
        for i in range(9):
            Image.fromarray(np.random.default_rng(i).integers(0, 4096, (8, 8)).astype(np.uint16)).save(photos / f"{i}.png")
    if key == "data.max_broken":
        (photos / "broken.png").write_text("no image")
    if key == "data.crops":
        base.append("data.crop=random")
    if key in ("data.value_range", "data.max_broken", "data.crop", "data.crops"):
        base.append(f"data.source={photos}")
    if key == "train.keep":
        base.append("train.save_every_steps=1")
    if key == "sample.eta":
        base.append("sample.sampler=ddim")
    if key == "data.max_broken":
        with pytest.raises(UserError, match=r"broken.png: not a readable image"):
            outcome(load_config("shapes-blur", parse_overrides(base)), tmp_path / "base", cli, traced)
        assert outcome(load_config("shapes-blur", parse_overrides([*base, *assigned])), tmp_path / "changed", cli, traced)
        return
    basis = " ".join(base)
    if basis not in unchanged:
        unchanged[basis] = outcome(load_config("shapes-blur", parse_overrides(base)), tmp_path / "base", cli, traced, part)
    config = load_config("shapes-blur", parse_overrides([*base, *assigned]))
    if key == "train.score_features":
        with pytest.raises(UsageError, match=r"193: too few for the 2,048 features of inception"):
            outcome(config, tmp_path / "changed", cli, traced)
        return
    changed = outcome(config, tmp_path / "changed", cli, traced, part)
    assert changed[part] != unchanged[basis][part]
    if part != "weights":
        return
    again = (
        outcome(load_config("shapes-blur", parse_overrides(base)), tmp_path / "again", cli, traced, part)
        if key == "seed"
        else None
    )
    assert again is None or again["weights"] == unchanged[basis]["weights"]  # or any difference would be worth nothing


def test_the_published_network_is_what_the_preset_builds() -> None:
    with torch.device("meta"):
        assert build_network(load_config("cifar10-blur")).parameter_count() == 61_060_867
