"""Training: resume, stops, health, and the files of a run."""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Cli, Process, moments_of, reporter, settings, shell
from PIL import Image
from torch import Tensor

from blurcli.base.checkpoint import Tensors
from blurcli.base.runs import Run
from blurcli.config import Config, load_config, parse_overrides
from blurcli.core import UNet
from blurcli.core.whitened import WhitenedSpace
from blurcli.data import Dataset, ReadOptions, load_dataset
from blurcli.evaluate import denoising
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.model.weights import load_weights
from blurcli.training import Trainer, learning_rate, train
from blurcli.training.monitoring import HEALTH_IMAGES, HEALTH_TIMES
from blurcli.training.state import TrainingState, load_state, save_state
from blurcli.visualize import tile
from blurcli.visualize.previews import preview_files, read_preview

CPU = torch.device("cpu")


def tiny_config(*assignments: str) -> Config:
    return load_config("shapes-blur", parse_overrides([*TINY, *assignments]))


def tiny_data(config: Config) -> Dataset:
    data = config.data
    return load_dataset(data.source, "train", data.image_size, data.channels, ReadOptions(shapes_count=data.shapes_count))


def run_training(folder: Path, *assignments: str) -> Tensors:
    config = tiny_config(*assignments)
    train(config, Run(folder), tiny_data(config), CPU, reporter(draw_preview=tile))
    return load_state(Run(folder).state_path).tensors


def equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "options", [(), ("objective=eps",), ("model.dropout=0.3", "optim.decay_from_step=3"), ("optim.optimizer=muon",)]
)
def test_resumed_equals_uninterrupted(tmp_path: Path, options: tuple[str, ...]) -> None:
    at_once = run_training(tmp_path / "a", "train.steps=12", *options)
    run_training(tmp_path / "b", "train.steps=5", *options)
    in_two = run_training(tmp_path / "b", "train.steps=12", *options)
    assert equal(at_once, in_two)
    a, b = (load_weights(Run(tmp_path / name).weights_path(12)) for name in "ab")
    assert equal(a.network, b.network)
    lines = [json.loads(line)["step"] for line in Run(tmp_path / "b").metrics_path.read_text().splitlines()]
    assert lines == list(range(1, 13))


def test_interrupted_by_a_signal_and_resumed(tmp_path: Path) -> None:
    """As a user does it: Ctrl-C in the middle, the same command again, bit for bit the same weights."""
    command = ["train", "--preset", "shapes-blur", "--run", "b", *settings("train.steps=40")]
    process = Process(*command, cwd=tmp_path)
    metrics = tmp_path / "b" / "metrics.jsonl"
    deadline = time.time() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        assert time.time() < deadline
        time.sleep(0.01)
    process.signal(signal.SIGINT)
    stopped = process.result()
    assert stopped.code == 130
    assert "stopped by SIGINT after step" in stopped.err
    assert "the same command continues" in stopped.err
    stopped_at = load_state(tmp_path / "b" / "state.safetensors").step
    assert 5 <= stopped_at < 40
    again = shell(*command, cwd=tmp_path)
    assert f"continuing b from step {stopped_at}" in again.err
    assert equal(run_training(tmp_path / "a", "train.steps=40"), load_state(tmp_path / "b" / "state.safetensors").tensors)


def test_the_signal_may_come_at_any_time(tmp_path: Path) -> None:
    """SIGTERM between the last log and the end of a step: the step is finished and saved."""
    from blurcli.training import Interrupted

    config = tiny_config("train.steps=30", "train.save_every_steps=1000")
    observer = reporter(on_log=lambda m: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as stop:
        train(config, Run(tmp_path / "r"), tiny_data(config), CPU, observer)
    assert stop.value.exit_code == 143
    assert load_state(tmp_path / "r" / "state.safetensors").step == 1


def test_files_of_a_run(tiny_run: Path) -> None:
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.")}
    assert len(events) == 1
    assert names - events == {
        ".lock",
        "config.yaml",
        "health.jsonl",
        "metrics.jsonl",
        "sessions.jsonl",
        "state.safetensors",
        "weights/step-00000003.safetensors",
        "samples/step-00000003.png",
    }
    assert Image.open(tiny_run / "samples" / "step-00000003.png").size == (34, 34)
    metrics = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3]
    assert set(metrics[0]) == {"step", "loss", "grad_norm", "lr", "images_per_sec", "skipped"}
    (session,) = [json.loads(line) for line in (tiny_run / "sessions.jsonl").read_text().splitlines()]
    assert (session["step"], session["images"], session["device"], session["processes"]) == (0, 64, "cpu", 1)
    assert session["precision"] in ("bf16", "fp32")
    assert {"blurdiff", "torch", "Python", "OS"} <= set(session["versions"])
    assert load_config(str(tiny_run / "config.yaml")).train.steps == 3


def test_tensorboard_has_the_metrics(tiny_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tiny_run))
    board.Reload()
    scalars = {name for name in board.Tags()["scalars"] if not name.startswith(("loss_by_time/", "loss_by_band/"))}
    assert scalars == {"loss", "grad_norm", "lr", "images_per_sec", "skipped"}
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3]
    assert board.Tags()["images"] == ["samples"]


def test_intervals_and_what_is_recorded_at_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record is of its step: metrics since the last one, weights and previews of the EMA then."""
    intervals = [
        f"train.{name}_every_steps={steps}" for name, steps in {"log": 5, "preview": 4, "save": 3, "health": 6}.items()
    ]
    run, losses, averages = Run(tmp_path / "r"), [], []
    step = Trainer.train_step

    def spying(trainer: Trainer, *batch: Tensor) -> tuple[Tensor, Tensor]:
        loss, norm = step(trainer, *batch)
        losses.append(float(loss))
        averages.append({name: tensor.clone() for name, tensor in trainer.ema.state_dict().items()})
        return loss, norm

    monkeypatch.setattr(Trainer, "train_step", spying)
    run_training(run.path, "train.steps=11", "optim.warmup_steps=22", *intervals)
    metrics, health = (
        [json.loads(line) for line in path.read_text().splitlines()] for path in (run.metrics_path, run.health_path)
    )
    assert [line["step"] for line in health] == [6, 11]
    assert [line["step"] for line in metrics] == [5, 10, 11]
    assert [line["lr"] for line in metrics] == pytest.approx([1.5e-3 * done / 22 for done in (5, 10, 11)])
    assert [line["loss"] for line in metrics] == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:10]) / 5, losses[10]])
    assert [path.name for path in run.all_weights()] == [f"step-{done:08d}.safetensors" for done in (3, 6, 9, 11)]
    for done in (3, 6, 9, 11):
        weights = load_weights(run.weights_path(done))
        assert weights.step == done
        assert equal(weights.network, averages[done - 1])
    assert [load_state(path).step for path in (run.previous_state_path, run.state_path)] == [9, 11]
    assert [step for step, _ in preview_files(run)] == [4, 8, 11]
    last = read_preview(*preview_files(run)[-1])
    assert last is not None
    model = Pipeline.from_weights(load_weights(run.weights_path(11)), CPU)
    assert np.array_equal(last.cells((8, 8)), to_uint8(torch.cat(list(model.generate(4, 0)))))
    images = tiny_data(model.config).images
    _, expected = denoising.losses(model, denoising.MeasuredImages(images, min(HEALTH_IMAGES, len(images)), 0), HEALTH_TIMES)
    network, average = (torch.tensor(health[-1][key]) for key in ("loss", "average_loss"))
    torch.testing.assert_close(average, expected.float())
    assert not torch.allclose(network, average, rtol=1e-3)


def test_the_loss_falls(tmp_path: Path) -> None:
    run_training(tmp_path / "r", "train.steps=60", "optim.lr=3e-3", "train.log_every_steps=20", "train.batch_size=16")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_a_step_without_a_finite_loss_is_skipped() -> None:
    """Parameters and optimizer stay bit for bit as they were; the step counts, and so does the fault."""
    trainer = Trainer(tiny_config(), moments_of(torch.ones(3, 8, 8)), CPU)
    trainer.train_step(torch.zeros(4, 3, 8, 8))
    before = {name: tensor.clone() for name, tensor in trainer.state("").tensors.items() if name.startswith(("net.", "adam."))}
    for in_row in (1, 2):
        loss, _ = trainer.train_step(torch.full((4, 3, 8, 8), torch.nan))
        assert loss.isnan()
        assert trainer.consecutive_skips == in_row
        after = trainer.state("").tensors
        assert equal(before, {name: after[name] for name in before})
    trainer.train_step(torch.zeros(4, 3, 8, 8))
    assert trainer.step == 4
    assert (int(trainer.skipped), int(trainer.consecutive_skips)) == (2, 0)
    assert not torch.equal(before["net.first.weight"], trainer.network.first.weight)
    assert all(parameter.isfinite().all() for parameter in trainer.ema.parameters())


def stepped(*options: str) -> Trainer:
    """A trainer after three steps of six images."""
    trainer = Trainer(tiny_config("train.batch_size=6", *options), moments_of(torch.ones(3, 8, 8)), CPU)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        trainer.train_step(torch.randn(6, 3, 8, 8, generator=generator))
    return trainer


@pytest.mark.parametrize(
    "option",
    [
        "train.micro_batch=1",
        "train.micro_batch=4",  # which leaves a smaller part
        "train.micro_batch=99",
        "train.checkpoint_activations=true",
        "train.channels_last=true",
        "train.compile=true",
    ],
)
def test_what_only_costs_or_saves_does_not_change_the_training(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ["model.dropout=0.5", "train.precision=fp32", "optim.lr=1e-3"]
    if option == "train.compile=true":
        base += ["model.multipliers=[1]", "model.attention_levels=[0]"]
        compiler = torch.compile  # traced and differentiated as always, but not translated to C++, which takes a minute
        monkeypatch.setattr(torch, "compile", lambda network, dynamic, mode: compiler(network, backend="aot_eager"))
    plain, other = stepped(*base).network.state_dict(), stepped(*base, option).network.state_dict()
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_passes_get_smaller_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = UNet.forward, []

    def small_memory(network: UNet, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("full")
        return forward(network, x, t, **conditions)

    monkeypatch.setattr(UNet, "forward", small_memory)
    stepped("train.micro_batch=auto")
    assert sizes == [6, 3, *[1] * 18]


def test_memory_that_is_full(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(trainer: Trainer, x: Tensor, labels: None) -> None:
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(Trainer, "train_step", full)
    done = cli("train", "--preset", "shapes-blur", "--run", "r", *settings())
    assert done.code == 1
    assert "out of memory (tried to allocate 9 GiB): in training use --set train.micro_batch=auto" in done.err


def test_previews_do_not_disturb_training(tmp_path: Path) -> None:
    options = ("train.steps=6", "model.dropout=0.5")
    often = run_training(tmp_path / "a", *options, "train.preview_every_steps=1", "train.save_every_steps=1")
    assert equal(often, run_training(tmp_path / "b", *options))
    assert len(list((tmp_path / "a" / "samples").iterdir())) == 6


def test_moving_average(tmp_path: Path) -> None:
    """Against the recursion written out: e <- e + (1 - d) (w - e), d = min(decay, (1 + n) / (10 + n))."""
    trainer = Trainer(tiny_config("optim.ema_decay=0.25"), moments_of(torch.ones(3, 8, 8)), CPU)
    weight, average = trainer.network.first.weight, trainer.ema.first.weight
    expected = weight.detach().clone()
    for n in range(1, 6):
        trainer.train_step(torch.randn(4, 3, 8, 8))
        decay = min(0.25, (1 + n) / (10 + n))
        expected += (1 - decay) * (weight.detach() - expected)
        torch.testing.assert_close(average, expected)
    assert not torch.equal(weight, average)
    assert not average.requires_grad  # or every step would lengthen a graph that is never used


def test_learning_rate() -> None:
    def rates(steps: list[int], *assignments: str) -> list[float]:
        config = tiny_config("optim.lr=1", "optim.warmup_steps=0", "optim.decay_from_step=null", *assignments)
        return [learning_rate(config, step) for step in steps]

    assert rates([0, 1, 3, 50, 99], "optim.warmup_steps=4", "optim.decay_from_step=100") == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert rates([399], "optim.decay_from_step=100") == pytest.approx([0.5])
    assert rates([10**6]) == [1.0]
    assert rates([0, 25, 50, 75, 99], "train.steps=100", "optim.cooldown=0.5") == pytest.approx([1, 1, 1, 0.5, 0.02])
    assert rates([0, 50, 100], "train.steps=100", "optim.cooldown=1") == pytest.approx([1, 0.5, 0])
    both = ("train.steps=200", "optim.cooldown=1", "optim.decay_from_step=25", "optim.warmup_steps=4")
    assert rates([0, 99], *both) == pytest.approx([0.25, 0.5 * 0.505])


def test_gradients_are_clipped() -> None:
    trainer = Trainer(tiny_config("optim.grad_clip=1e-3"), moments_of(torch.ones(3, 8, 8)), CPU)
    trainer.train_step(100 * torch.randn(4, 3, 8, 8))
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.network.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


# Refusals


def start(cli: Cli, *arguments: str) -> None:
    assert cli("train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=2"), *arguments).code == 0


def test_refuses_another_configuration(cli: Cli, tmp_path: Path) -> None:
    start(cli)
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    again = cli("train", "--preset", "shapes-noblur", "--run", "r", *settings("train.steps=9", "optim.lr=0.5"))
    assert again.code == 2
    assert "holds a run with another configuration" in again.err
    assert "process.blur_sigma_max: None -> 0.0" in again.err
    assert "optim.lr: 0.0015 -> 0.5" in again.err
    assert "train.steps" not in again.err
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


def test_a_run_goes_on_as_it_began_when_its_preset_has_changed(cli: Cli) -> None:
    """Its own optimizer, though the preset of its name has another now."""
    start(cli, "--set", "optim.optimizer=adam")
    again = cli("train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=4"))
    assert again.code == 2
    assert "continue it as it began with --run alone" in again.err
    assert "optim.optimizer: adam -> muon" in again.err
    alone = cli("train", "--run", "r", "--set", "train.steps=4")
    assert alone.code == 0, alone.err
    assert load_config("r/config.yaml").optim.optimizer == "adam"


def test_refuses_what_is_trained_already(cli: Cli) -> None:
    start(cli)
    again = cli("train", "--run", "r")
    assert again.code == 2
    assert "is already trained (2 steps); continue with --set train.steps=4" in again.err
    assert cli("train", "--run", "r", "--set", "train.steps=4").code == 0


def test_refuses_other_images(cli: Cli, photos: Path) -> None:
    start(cli)
    again = cli("train", "--run", "r", "--data", photos, "--set", "train.steps=4")
    assert again.code == 2
    assert "was trained on other images" in again.err


def test_refuses_a_folder_of_something_else(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("precious")
    done = cli("train", "--preset", "shapes-blur", "--run", "r", *settings())
    assert done.code == 2
    assert "r: exists, is not empty and is not a run folder" in done.err
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["thesis.tex"]


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: without(t, "adam.exp_avg.first.bias"), "the state is incomplete"),
        (lambda t: t | {"ema.first.bias": torch.zeros(1)}, r"net.first.bias is torch.float32 \(1,\), the network needs"),
        (lambda t: without(t, "health.skipped"), "the state is incomplete .'skipped'.; the file is damaged"),
        (lambda t: t | {"spectrum": -t["spectrum"]}, "spectrum must be finite, positive"),
    ],
)
def test_a_strange_state_is_an_error(cli: Cli, tmp_path: Path, change, text: str) -> None:  # type: ignore[no-untyped-def]
    start(cli)
    path = tmp_path / "r" / "state.safetensors"
    state = load_state(path)
    save_state(
        path, TrainingState(state.config, state.step, state.data, change(state.tensors)), tmp_path / "before.safetensors"
    )
    done = cli("train", "--run", "r", "--set", "train.steps=4")
    assert done.code == 1
    assert re.search(f"state.safetensors: .*{text}", done.err)


def test_a_metrics_line_cut_short_is_dropped(cli: Cli, tmp_path: Path) -> None:
    start(cli)
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1}\n{"st')
    assert cli("train", "--run", "r", "--set", "train.steps=3").code == 0
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert "grad_norm" in lines[-1]


def test_times_may_follow_the_path_of_the_image() -> None:
    config = tiny_config("optim.time_sampling=path")
    spectrum = 60 / (1 + torch.arange(8)[:, None] ** 2 + torch.arange(8) ** 2).double().expand(3, 8, 8)
    trainer = Trainer(config, moments_of(spectrum), CPU)
    times = trainer.family.training_times(trainer.moments)(torch.linspace(0, 1, 1001))
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()
    grid = WhitenedSpace(trainer.family.process, torch.zeros(3, 8, 8).double(), spectrum).time_grid(10, 1.0)
    torch.testing.assert_close(times[::100], torch.tensor(grid[::-1], dtype=torch.float32), atol=2e-3, rtol=0)
    assert (times - torch.linspace(0, 1, 1001)).abs().max() > 0.02
