"""What training does when the machine or the numbers fail it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Cli, Process, reporter, settings
from test_train import equal, run_training, start, tiny_config, tiny_data
from torch import Tensor

from blurcli.base import checkpoint
from blurcli.base.errors import UserError
from blurcli.base.runs import Run
from blurcli.model.weights import load_weights
from blurcli.training import Interrupted, Trainer, monitoring, train
from blurcli.training.monitoring import Health
from blurcli.training.state import load_state
from blurcli.visualize import tile

CPU = torch.device("cpu")


def flip_a_bit(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)


# Two generations of the state


def test_two_generations_are_kept(tmp_path: Path) -> None:
    run_training(tmp_path / "r", "train.steps=6", "train.save_every_steps=2")
    run = Run(tmp_path / "r")
    assert load_state(run.state_path).step == 6
    assert load_state(run.previous_state_path).step == 4


@pytest.mark.parametrize("damage", ["bit", "cut", "header", "gone"])
def test_a_damaged_state_falls_back_on_the_one_before(cli: Cli, tmp_path: Path, damage: str) -> None:
    expected = run_training(tmp_path / "a", "train.steps=8")
    start(cli, "--set", "train.steps=6", "--set", "train.save_every_steps=2")
    path = tmp_path / "r" / "state.safetensors"
    if damage == "bit":
        flip_a_bit(path, 0.9)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "header":
        flip_a_bit(path, 0)
    else:  # killed between two renames
        path.unlink()
    done = cli("train", "--run", "r", "--set", "train.steps=8")
    assert done.code == 0, done.err
    assert "continuing r from step 4" in done.err
    assert ("continuing from the state before it" in done.err) == (damage != "gone")
    assert equal(expected, load_state(path).tensors)
    assert Run(tmp_path / "r").damaged_state_path.exists() == (damage != "gone")


def test_a_damaged_state_does_not_take_the_place_of_the_good_one(tmp_path: Path) -> None:
    """Also when the next save is killed between its two renames."""
    run, options = Run(tmp_path / "r"), ("train.save_every_steps=2",)
    run_training(run.path, "train.steps=6", *options)
    flip_a_bit(run.state_path, 0.9)
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target == run.state_path:
            raise KeyboardInterrupt
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run_training(run.path, "train.steps=8", *options)
    assert load_state(run.saved_states()[0]).step == 4


def test_two_damaged_states_are_an_error(cli: Cli, tmp_path: Path) -> None:
    start(cli, "--set", "train.steps=4", "--set", "train.save_every_steps=2")
    for path in Run(tmp_path / "r").saved_states():
        flip_a_bit(path, 0.9)
    done = cli("train", "--run", "r", "--set", "train.steps=8")
    assert done.code == 1
    assert "r/state.safetensors: its content does not match its recorded checksum" in done.err
    assert "r/state.previous.safetensors: its content" in done.err
    assert "start again in another folder (--run)" in done.err


def test_weights_that_a_kill_left_out_are_made_up_for(cli: Cli, tmp_path: Path) -> None:
    """The state is saved first; a run that ended right after it is neither complete nor lost."""
    start(cli)
    weights = Run(tmp_path / "r").weights_path(2)
    expected = load_weights(weights).network
    weights.unlink()
    assert cli("train", "--run", "r").code == 0
    assert equal(load_weights(weights).network, expected)
    assert cli("train", "--run", "r").code == 2


def test_a_lost_configuration_is_no_lost_run(cli: Cli, tmp_path: Path) -> None:
    """The state has it too."""
    start(cli)
    config = tmp_path / "r" / "config.yaml"
    before = config.read_text()
    config.unlink()
    other = cli("train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=4", "optim.lr=0.5"))
    assert other.code == 2
    assert "optim.lr: 0.0015 -> 0.5" in other.err
    start(cli, "--set", "train.steps=4")
    assert config.read_text() == before.replace("  steps: 2  # length", "  steps: 4  # length")


def test_leftovers_of_a_kill_are_removed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r" / "weights").mkdir(parents=True)
    for name in (".partial-config-x.yaml", "weights/.partial-step-x.safetensors"):
        (tmp_path / "r" / name).write_text("half")
    (tmp_path / "r" / "weights" / ".partial-step-x.safetensors").rename(tmp_path / "r" / ".partial-step-x.safetensors")
    (tmp_path / "r" / "weights").rmdir()
    start(cli)
    assert not list((tmp_path / "r").rglob(".partial-*"))


def test_old_weights_are_removed(cli: Cli, tmp_path: Path) -> None:
    start(cli, *(f"--set=train.{key}" for key in ("steps=5", "save_every_steps=1", "keep=2")))
    assert [path.name for path in Run(tmp_path / "r").all_weights()] == [
        "step-00000004.safetensors",
        "step-00000005.safetensors",
    ]


# Signals, kills and the lock


def begin(folder: Path, *assignments: str) -> Process:
    return Process("train", "--preset", "shapes-blur", "--run", "r", *settings(*assignments), cwd=folder)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_training_a_folder(tmp_path: Path) -> None:
    """The second refuses; after the first is killed, it goes on."""
    first = begin(tmp_path, "train.steps=100000", "train.save_every_steps=5")
    run = Run(tmp_path / "r")
    wait_for(lambda: bool(run.all_weights()))
    second = begin(tmp_path, "train.steps=100000")
    refused = second.result()
    assert refused.code == 1
    assert f"r: process {first.pid} on " in refused.err
    assert "is training here; wait for it, or use another folder" in refused.err
    first.signal(signal.SIGKILL)
    first.result()
    reached = load_state(run.saved_states()[0]).step
    third = begin(tmp_path, f"train.steps={reached + 5}").result()
    assert f"continuing r from step {reached}" in third.err
    assert third.code == 0


def test_a_second_signal_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first one's save is under way: older files are intact."""
    config = tiny_config("train.steps=9", "train.save_every_steps=2")
    kept: list[bytes] = []

    def interrupted(*arguments: object) -> None:
        kept.append(Run(tmp_path / "r").state_path.read_bytes())
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    def on_log(metrics: object) -> None:
        if Run(tmp_path / "r").state_path.exists():
            monkeypatch.setattr(checkpoint, "save_file", interrupted)

    with pytest.raises(SystemExit) as stop:
        train(config, Run(tmp_path / "r"), tiny_data(config), CPU, reporter(on_log=on_log))
    assert stop.value.code == 143
    assert Run(tmp_path / "r").state_path.read_bytes() == kept[0]
    assert not list((tmp_path / "r").rglob(".partial-*"))
    monkeypatch.undo()
    assert equal(run_training(tmp_path / "r", "train.steps=9"), run_training(tmp_path / "a", "train.steps=9"))


def test_a_signal_cuts_a_preview_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview may take minutes; it is left undone, and nothing else is."""
    config = tiny_config("train.steps=9", "train.preview_every_steps=2", "sample.steps=1000")
    calls = []

    def count(self: Trainer, x: Tensor, *others: None) -> tuple[Tensor, Tensor]:
        if self.step == 1:
            self.ema.register_forward_pre_hook(lambda *_: calls.append(1) or os.kill(os.getpid(), signal.SIGINT))
        return step(self, x)

    step = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", count)
    with pytest.raises(Interrupted) as stop:
        train(config, Run(tmp_path / "r"), tiny_data(config), CPU, reporter(draw_preview=tile))
    assert stop.value.exit_code == 130
    assert len(calls) == 1
    assert load_state(Run(tmp_path / "r").state_path).step == 2
    assert not Run(tmp_path / "r").preview_path(2).exists()


# Disk


def test_a_full_disk_stops_with_a_message(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated here, where file systems cannot be made; what is on the disk stays, and training can go on."""
    start(cli, "--set", "train.steps=4", "--set", "train.save_every_steps=2")
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.safetensors")}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = cli("train", "--run", "r", "--set", "train.steps=8")
        assert done.code == 1
        assert "No space left on device): free disk space and run the command again" in done.err
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.safetensors")} == before
    assert cli("train", "--run", "r", "--set", "train.steps=8").code == 0
    assert equal(load_state(tmp_path / "r" / "state.safetensors").tensors, run_training(tmp_path / "a", "train.steps=8"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_of_twenty_megabytes(cli: Cli, small_disk: Path, tmp_path: Path) -> None:
    keys = ("train.save_every_steps=2", "train.preview_every_steps=2", "model.base_channels=16")
    command = ["train", "--preset", "shapes-blur", *settings(*keys, "train.steps=60"), "--run"]
    stopped = cli(*command, small_disk / "r")
    assert stopped.code == 1
    assert "No space left on device" in stopped.err
    assert "free disk space" in stopped.err
    run = Run(small_disk / "r")
    reached = load_state(run.state_path).step
    assert 0 < reached < 60
    for path in run.all_weights():
        load_weights(path)
    for path in run.all_weights()[:-1]:
        path.unlink()
    resumed = cli("train", "--run", small_disk / "r", "--set", "train.keep=1")
    assert resumed.code == 0, resumed.err
    assert f"from step {reached}" in resumed.err
    assert cli(*command, "undisturbed").code == 0
    assert equal(load_state(run.state_path).tensors, load_state(tmp_path / "undisturbed" / "state.safetensors").tensors)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir(mode=0o500)
    done = cli("train", "--preset", "shapes-blur", "--run", "r", *settings())
    assert done.code == 1
    assert "r: cannot be written (Permission denied)" in done.err


# Health


class Trouble:
    """Makes some training steps see NaN instead of images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: Callable[[Trainer], bool]) -> None:
        step = Trainer.train_step
        self.seeds: list[tuple[int, int]] = []

        def troubled(trainer: Trainer, x: Tensor, *others: None) -> tuple[Tensor, Tensor]:
            self.seeds.append((trainer.step, trainer.restores))
            return step(trainer, torch.full_like(x, torch.nan) if when(trainer) else x)

        monkeypatch.setattr(Trainer, "train_step", troubled)


def run_with_messages(folder: Path, *assignments: str) -> list[str]:
    config, messages = tiny_config(*assignments), []
    train(config, Run(folder), tiny_data(config), CPU, reporter(notify=messages.append))
    return messages


def test_single_bad_steps_are_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trouble(monkeypatch, lambda trainer: trainer.step in (3, 5))
    messages = run_with_messages(tmp_path / "r", "train.steps=8", "train.log_every_steps=2")
    assert "step 4: 1 of the last 2 steps were skipped: their loss or gradient was not finite" in messages
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 1, 2, 2]
    assert all(line["loss"] > 0 for line in lines)
    assert [line["grad_norm"] is None for line in lines] == [False, True, True, False]


def test_many_bad_steps_bring_back_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(monkeypatch, lambda trainer: trainer.step >= 6 and trainer.restores == 0)
    options = ("train.steps=12", "train.save_every_steps=4", "train.max_bad_steps=3")
    messages = run_with_messages(tmp_path / "r", *options)
    assert "step 9: the last 3 steps had no finite loss and gradient" in messages
    assert any(message.startswith("continuing from the state of step 4 with other noise") for message in messages)
    assert trouble.seeds == [*((step, 0) for step in range(9)), *((step, 1) for step in range(4, 12))]
    steps = [json.loads(line)["step"] for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))
    state = load_state(Run(tmp_path / "r").state_path)
    assert int(state.tensors["health.restores"]) == 1
    # Step 8 was in the middle of the bad ones, and was not saved before it was trained again.
    assert load_state(Run(tmp_path / "r").previous_state_path).tensors["health.restores"] == 1


def test_restored_and_killed_equals_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trouble(monkeypatch, lambda trainer: 6 <= trainer.step < 9 and trainer.restores == 0)
    options = ("train.save_every_steps=4", "train.max_bad_steps=3")
    at_once = run_training(tmp_path / "a", "train.steps=12", *options)
    run_training(tmp_path / "b", "train.steps=7", *options)  # ends among the bad steps
    assert equal(run_training(tmp_path / "b", "train.steps=12", *options), at_once)


def test_a_training_that_stays_bad_ends_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble(monkeypatch, lambda trainer: trainer.step >= 6)
    options = ("train.steps=12", "train.save_every_steps=2", "train.max_bad_steps=2")
    with pytest.raises(
        UserError, match=r"the training diverged, and 3 restored states diverged too: start again .* lower optim.lr"
    ):
        run_with_messages(tmp_path / "r", *options)
    # From the newest state at first, then from the one before it; step 6 was saved once more on that way.
    firsts = [next(step for step, restores in trouble.seeds if restores == number) for number in range(1, 4)]
    assert firsts == [6, 4, 6]
    with pytest.raises(UserError, match="the training diverged, and no state was saved before"):
        run_with_messages(tmp_path / "s", *options, "train.save_every_steps=100")


def test_a_jump_of_the_loss_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.train_step

    def jumping(trainer: Trainer, x: Tensor, *others: None) -> tuple[Tensor, Tensor]:
        loss, norm = step(trainer, x)
        return (100 * loss if trainer.step == 25 else loss), norm

    monkeypatch.setattr(Trainer, "train_step", jumping)
    messages = run_with_messages(tmp_path / "r", "train.steps=30")
    (told,) = [message for message in messages if "the loss jumped" in message]
    assert told.startswith("step 25: ")


def test_a_stale_average_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = torch.full((9, 5), 0.25)
    assert Health(1, [], [], loss, 1.01 * loss).warning == ""
    assert Health(1, [], [], loss, 1.1 * loss).warning.startswith("the loss of the EMA is 1.1 times the loss of the network")
    monkeypatch.setattr(monitoring, "_STALE_EMA", 0)
    told = [m for m in run_with_messages(tmp_path / "r", "train.steps=2", "train.health_every_steps=2") if "EMA" in m]
    assert told[0].startswith("step 2: the loss of the EMA is")
    assert told[0].endswith("lower optim.ema_decay")


def test_the_loss_by_time_and_band(tmp_path: Path) -> None:
    run_training(tmp_path / "r", "train.steps=4", "train.health_every_steps=2")
    lines = [json.loads(line) for line in (tmp_path / "r" / "health.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["bands"] == ["mean", "16-8 px", "8-4 px", "4-2 px", "2-1.41 px"]
    table = torch.tensor(lines[0]["loss"])
    assert table.shape == (len(lines[0]["times"]), len(lines[0]["bands"])) == (9, 5)
    assert table.isfinite().all()
    # At t = 1 the state is the noise; at t = 0 and in fine detail hardly any of it shows.
    assert table[-1].mean() < 0.2 < table[0, -1]
    # A look at it changes nothing.
    assert equal(run_training(tmp_path / "a", "train.steps=4"), load_state(Run(tmp_path / "r").state_path).tensors)


@pytest.mark.parametrize(
    ("steps", "every", "interval"),
    [(5, "auto", 100), (1_600, "auto", 200), (1_000_000, "auto", 1000), (5, "2", 2), (5, "null", None)],
)
def test_health_is_measured_eight_times_in_a_short_training(steps: int, every: str, interval: int | None) -> None:
    config = tiny_config(f"train.steps={steps}", f"train.health_every_steps={every}")
    assert monitoring.health_interval(config.train) == interval


@pytest.mark.parametrize(("every", "measured"), [("auto", [5]), ("2", [2, 4, 5]), ("null", [])])
def test_health_is_measured_at_the_end_too(tmp_path: Path, every: str, measured: list[int]) -> None:
    run_training(tmp_path / "r", "train.steps=5", f"train.health_every_steps={every}")
    path = Run(tmp_path / "r").health_path
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == measured if measured else not path.exists()


def test_deterministic_algorithms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    step = Trainer.train_step
    monkeypatch.setattr(
        Trainer, "train_step", lambda t, *batch: asked.append(torch.are_deterministic_algorithms_enabled()) or step(t, *batch)
    )
    run_training(tmp_path / "a", "train.steps=1")
    run_training(tmp_path / "b", "train.steps=1", "train.deterministic=true")
    assert asked == [False, True]
    assert not torch.are_deterministic_algorithms_enabled()
