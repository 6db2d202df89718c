"""Experiment trackers: what each gets, how runs continue, and that none can disturb a training."""

import json
import os
import re
import shutil
import signal
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli, Process, reporter, settings
from test_train import equal, tiny_config, tiny_data

from blurcli import trackers
from blurcli.base.errors import UsageError
from blurcli.base.runs import Run
from blurcli.config import flatten
from blurcli.model.weights import load_weights
from blurcli.trackers import TRACKERS, TrackedRun, dispatch, process
from blurcli.trackers.dispatch import Trackers
from blurcli.trackers.identity import Identity, Place
from blurcli.training import Interrupted, Metrics, Trainer, train
from blurcli.training.state import load_state
from blurcli.visualize import tile

CPU = torch.device("cpu")
TRAIN = ("train", "--preset", "shapes-blur", "--run", "r")
STEPS = ("train.steps=3", "train.health_every_steps=3")

# A package in a file, for a tracker in a process of its own; it prints, as packages do, and writes down how it is called.
TRACKIO = """
import json, os, time

print("hello from trackio")

def note(call, *values):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps([call, *values]) + "\\n")

class Image:
    def __init__(self, picture):
        self.shape = picture.shape

class Run:
    def log(self, values, step):
        note("log", step, {name: getattr(value, "shape", value) for name, value in values.items()})

def init(**options):
    note("init", options, os.getpgrp() == os.getpid())
    return Run()

def finish():
    note("finish")
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the calls to a `trackio` that stands in for the package."""
    package(tmp_path, monkeypatch, TRACKIO)
    return tmp_path / "notes"


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "trackio.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))


def noted(notes: Path, call: str) -> list[Any]:
    lines = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    return [line[1:] for line in lines if line[0] == call]


def run_training(folder: Path, *assignments: str) -> list[str]:
    """Train; returns the messages."""
    messages: list[str] = []
    config = tiny_config(*assignments)
    train(config, Run(folder), tiny_data(config), CPU, reporter(notify=messages.append, draw_preview=tile))
    return messages


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Run(folder).metrics_path.read_text().splitlines()]


# What is logged


def test_a_tracker_gets_all_that_is_logged(tmp_path: Path, notes: Path) -> None:
    messages = run_training(tmp_path / "r", *STEPS, "train.trackers=[trackio]", "train.preview_images=2")
    ((options, alone),) = noted(notes, "init")
    assert alone  # Ctrl-C in a terminal goes to all processes of a group
    assert options["project"] == "blurdiff"
    assert options["config"] == flatten(tiny_config(*STEPS, "train.trackers=[trackio]", "train.preview_images=2"))
    values: dict[int, dict[str, Any]] = {step: {} for step in (1, 2, 3)}
    for step, new in noted(notes, "log"):
        values[step] |= new
    for line in logged(tmp_path / "r"):
        assert line.items() - {("step", line["step"])} <= values[line["step"]].items()
    health = json.loads(Run(tmp_path / "r").health_path.read_text())
    for place, t in enumerate(health["times"]):
        assert values[3][f"loss_by_time/{t:g}"] == pytest.approx(np.mean(health["loss"][place]))
    for place, band in enumerate(health["bands"]):
        assert values[3][f"loss_by_band/{band}"] == pytest.approx(np.mean([row[place] for row in health["loss"]]))
    assert values[3]["samples"] == [8, 17, 3]
    assert noted(notes, "finish") == [[]]
    assert f"trackio: trackio show --project blurdiff, run {options['name']}" in messages
    assert not list(tmp_path.glob("r/events.*"))


def test_pictures_pass_unchanged(tmp_path: Path) -> None:
    """From the training to the process of a tracker."""
    for channels in (1, 3):
        picture = np.random.default_rng(0).integers(0, 256, (3, 5, channels), np.uint8)
        passed = json.loads(json.dumps({"picture": picture}, default=process._plain_picture))
        np.testing.assert_array_equal(process._picture(passed["picture"]), picture)


def test_tensorboard_is_as_it_was(tmp_path: Path) -> None:
    """The same names and values as in the files of the run; a resumed run replaces steps that were not saved."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_training(tmp_path / "r", *STEPS, "train.save_every_steps=2", "train.trackers=tensorboard")
    run = Run(tmp_path / "r")
    health = json.loads(run.health_path.read_text())
    board = EventAccumulator(str(run.path))
    board.Reload()
    for name in ("loss", "grad_norm", "lr", "images_per_sec", "skipped"):
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert shown == [(line["step"], pytest.approx(line[name])) for line in logged(run.path)]
    assert [event.step for event in board.Images("samples")] == [3]
    names = {f"loss_by_time/{t:g}" for t in health["times"]} | {f"loss_by_band/{band}" for band in health["bands"]}
    assert {name for name in board.Tags()["scalars"] if "/" in name} == names
    assert not board.Tags()["tensors"]
    assert len(list(run.path.glob("events.*"))) == 1
    run.state_path.unlink()  # as if step 3 had not been saved
    time.sleep(1.1)  # the names of event files have seconds
    run_training(run.path, "train.steps=4", "train.health_every_steps=3")
    board = EventAccumulator(str(run.path))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4]
    assert not run.trackers_path.exists()


# The trackers themselves, with modules of the same interface


class Calls(list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    """Calls of functions, each as name, arguments and options."""

    def function(self, name: str, returned: Any = None) -> Any:
        def function(*arguments: Any, **options: Any) -> Any:
            self.append((name, arguments, options))
            return returned(*arguments, **options) if callable(returned) else returned

        return function

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, options) for called, arguments, options in self if called == name]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Calls to modules `wandb`, `trackio` and `mlflow` that stand in for the packages."""
    calls = Calls()
    for name in ("wandb", "trackio", "mlflow", "mlflow.entities", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    wandb, trackio, mlflow, entities, exceptions = (
        sys.modules[name] for name in ("wandb", "trackio", "mlflow", "mlflow.entities", "mlflow.exceptions")
    )
    run = SimpleNamespace(
        id="abc", step=0, url="https://wandb.example/abc", dir="d/files", settings=SimpleNamespace(mode="online")
    )
    for name in ("log", "define_metric", "finish"):
        setattr(run, name, calls.function(f"wandb.{name}"))
    wandb.init = calls.function("wandb.init", run)
    wandb.Settings, wandb.Image = dict, lambda picture: ("image", picture.shape)
    trackio.init = calls.function("trackio.init", SimpleNamespace(log=calls.function("trackio.log")))
    trackio.Image, trackio.finish = wandb.Image, calls.function("trackio.finish")

    class MlflowException(Exception):  # noqa: N818
        error_code = "RESOURCE_DOES_NOT_EXIST"

    def get_run(identity: str) -> Any:
        if identity == "lost":
            raise MlflowException
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage="active"))

    client = SimpleNamespace(get_run=get_run)
    for name in ("update_run", "log_batch", "log_dict", "log_image", "set_terminated"):
        setattr(client, name, calls.function(f"mlflow.{name}"))
    client.create_run = calls.function("mlflow.create_run", SimpleNamespace(info=SimpleNamespace(run_id="123")))
    mlflow.MlflowClient, mlflow.get_tracking_uri = lambda: client, lambda: "file:m"
    mlflow.set_experiment = calls.function("mlflow.set_experiment", SimpleNamespace(experiment_id="7"))
    entities.Metric = entities.Param = lambda *values: values
    exceptions.MlflowException = MlflowException
    return calls


def tracked(tmp_path: Path, identity: str | None = None) -> TrackedRun:
    return TrackedRun("r", str(tmp_path), str(tmp_path / "trackers"), {"seed": 0, "train.keep": None}, identity)


def test_wandb(calls: Calls, tmp_path: Path) -> None:
    tracker = TRACKERS["wandb"]()
    assert tracker.begin(tracked(tmp_path)) == "abc"
    assert tracker.location == "https://wandb.example/abc"
    tracker.metrics(5, {"loss": 1.0})
    tracker.image(5, "samples", np.zeros((2, 2, 1), np.uint8))
    tracker.rewind(3)
    for step in (4, 5, 6):
        tracker.metrics(step, {"loss": 2.0})
    tracker.end("interrupted")
    ((_, options),) = calls.of("wandb.init")
    assert (options["project"], options["name"], options["id"], options["resume"]) == ("blurdiff", "r", None, None)
    assert options["config"] == {"seed": 0, "train.keep": None}
    assert calls.of("wandb.define_metric")[-1] == (("*",), {"step_metric": "step"})
    # Rows rise, or wandb would drop them.
    assert [(values["step"], options["step"]) for (values,), options in calls.of("wandb.log")] == [
        (5, 5),
        (5, 5),
        (4, 6),
        (5, 7),
        (6, 8),
    ]
    assert calls.of("wandb.log")[1][0][0]["samples"] == ("image", (2, 2, 1))
    assert calls.of("wandb.finish") == [((), {"exit_code": 1})]


def test_wandb_continues_a_run(calls: Calls, tmp_path: Path) -> None:
    sys.modules["wandb"].init(id=None).step = 9  # as the server knows it
    tracker = TRACKERS["wandb"]()
    tracker.begin(tracked(tmp_path, "abc"))
    tracker.metrics(6, {"loss": 1.0})
    tracker.metrics(20, {"loss": 1.0})
    tracker.end("finished")
    options = calls.of("wandb.init")[-1][1]
    assert (options["id"], options["resume"], options["allow_val_change"]) == ("abc", "allow", True)
    assert [(values["step"], options["step"]) for (values,), options in calls.of("wandb.log")] == [(6, 9), (20, 20)]
    assert calls.of("wandb.finish") == [((), {"exit_code": 0})]


def test_trackio(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    tracker = TRACKERS["trackio"]()
    name = tracker.begin(tracked(tmp_path))
    assert name is not None
    assert name.startswith("r-")
    tracker.image(5, "samples", np.zeros((2, 2, 1), np.uint8))
    tracker.end("finished")
    assert TRACKERS["trackio"]().begin(tracked(tmp_path)) != name
    assert TRACKERS["trackio"]().begin(tracked(tmp_path, name)) == name
    assert [(options["project"], options["resume"]) for _, options in calls.of("trackio.init")] == [
        ("mine", "never"),
        ("mine", "never"),
        ("mine", "allow"),
    ]
    assert calls.of("trackio.log") == [(({"samples": ("image", (2, 2, 3))},), {"step": 5})]
    assert calls.of("trackio.finish") == [((), {})]


def test_mlflow(calls: Calls, tmp_path: Path) -> None:
    tracker = TRACKERS["mlflow"]()
    assert tracker.begin(tracked(tmp_path)) == "123"
    tracker.metrics(5, {"loss": 1.0, "lr": 0.5})
    tracker.image(5, "samples", np.zeros((2, 2, 1), np.uint8))
    tracker.end("interrupted")
    assert calls.of("mlflow.set_experiment") == [(("blurdiff",), {})]
    assert calls.of("mlflow.create_run") == [(("7",), {"run_name": "r"})]
    ((_, params), (_, metrics)) = calls.of("mlflow.log_batch")
    assert params == {"params": [("seed", "0"), ("train.keep", "None")]}
    assert [(name, value, step) for name, value, _, step in metrics["metrics"]] == [("loss", 1.0, 5), ("lr", 0.5, 5)]
    assert abs(metrics["metrics"][0][2] / 1000 - time.time()) < 3600
    assert calls.of("mlflow.log_image")[0][1] == {"key": "samples", "step": 5}
    assert calls.of("mlflow.set_terminated") == [(("123",), {"status": "KILLED"})]


def test_mlflow_continues_a_run(calls: Calls, tmp_path: Path) -> None:
    """Its parameters stay, which MLflow refuses to change; a run that the store does not have begins anew."""
    assert TRACKERS["mlflow"]().begin(tracked(tmp_path, "old")) == "old"
    assert calls.of("mlflow.update_run") == [(("old",), {"status": "RUNNING"})]
    assert not calls.of("mlflow.log_batch")
    assert TRACKERS["mlflow"]().begin(tracked(tmp_path, "lost")) == "123"


def test_a_deleted_run_begins_anew(calls: Calls, tmp_path: Path) -> None:
    begin = sys.modules["wandb"].init

    def init(**options: Any) -> Any:
        if options["id"] == "gone":
            raise RuntimeError("run me/blurdiff/gone was previously created and deleted; try a new run name (409)")
        return begin(**options)

    sys.modules["wandb"].init = init
    tracker = TRACKERS["wandb"]()
    assert tracker.begin(tracked(tmp_path, "gone")) == "abc"
    assert tracker.location == "https://wandb.example/abc (a new run: gone was deleted)"
    assert [(options["id"], options["resume"]) for _, options in calls.of("wandb.init")] == [(None, None)]
    mlflow = TRACKERS["mlflow"]()
    assert mlflow.begin(tracked(tmp_path, "lost")) == "123"
    assert mlflow.location == "run 123 in file:m (a new run: lost does not exist)"


def test_a_disabled_wandb_has_no_identity(calls: Calls, tmp_path: Path) -> None:
    sys.modules["wandb"].init(id=None).settings.mode = "disabled"
    tracker = TRACKERS["wandb"]()
    assert tracker.begin(tracked(tmp_path)) is None
    assert tracker.location == ""


# Resume


def test_a_copy_has_a_run_of_its_own_and_a_moved_folder_its_old_one(tmp_path: Path, notes: Path) -> None:
    def names(folder: str, steps: int) -> list[str]:
        messages = run_training(tmp_path / folder, f"train.steps={steps}", "train.trackers=[trackio]")
        told.append(any(f"{folder} is a copy of {tmp_path}" in message for message in messages))
        return [options["name"] for options, _ in noted(notes, "init")]

    told: list[bool] = []
    names("r", 1)
    for copy in ("beside", "kept"):
        shutil.copytree(tmp_path / "r", tmp_path / copy)
    (tmp_path / "r").rename(tmp_path / "renamed")
    names("renamed", 2)  # the same folder
    names("beside", 2)  # its original is no longer where it was
    names("beside", 3)
    shutil.copytree(tmp_path / "renamed", tmp_path / "second")
    names("second", 3)  # its original is there
    found = names("renamed", 3)
    runs = [found.index(name) for name in found]
    assert runs == [0, 0, 2, 2, 4, 0]
    assert told == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("change", "is_copy"),
    [
        ({}, False),
        ({"path": "/elsewhere"}, False),
        ({"path": "/elsewhere", "inode": 1}, True),
        ({"path": "/elsewhere", "inode": 1, "host": "other"}, False),
        ({"path": "/elsewhere", "inode": 1, "device": 1}, False),
        ({"path": "original", "inode": 1, "device": 1}, True),
    ],
)
def test_what_is_a_copy(tmp_path: Path, change: dict[str, Any], is_copy: bool) -> None:
    for folder in ("r", "original"):
        (tmp_path / folder / "trackers").mkdir(parents=True)
    if change.get("path") == "original":
        change = {**change, "path": str(tmp_path / "original")}
    identity = Identity("abc", replace(Place.of(tmp_path / "r"), **change))
    for folder in ("r", "original"):
        identity.write(tmp_path / folder / "trackers" / "wandb.id")
    path = tmp_path / "r" / "trackers" / "wandb.id"
    assert Identity.read(path) == identity
    assert (identity.original(path) is not None) == is_copy


@pytest.mark.parametrize(
    ("content", "place", "found"),
    [
        (b"abc\n", None, Identity("abc")),
        (b"abc\n", b"\xff{", Identity("abc")),
        (b"abc\n", b'{"path": 1}', Identity("abc")),
        (b"", None, None),
        (b"\xff\x00abc\n", None, None),
        (b"\0\0\n", None, None),
    ],
)
def test_identities_of_earlier_versions_and_damaged_ones(
    tmp_path: Path, content: bytes, place: bytes | None, found: Identity | None
) -> None:
    (tmp_path / "wandb.id").write_bytes(content)
    if place is not None:
        (tmp_path / "wandb.folder").write_bytes(place)
    assert Identity.read(tmp_path / "wandb.id") == found


def test_a_resumed_run_continues_the_trackers_run(tmp_path: Path, notes: Path) -> None:
    for steps in (2, 4):
        run_training(tmp_path / "r", f"train.steps={steps}", "train.trackers=[trackio]")
    (new, _), (continued, _) = noted(notes, "init")
    assert (new["resume"], continued["resume"]) == ("never", "allow")
    assert new["name"] == continued["name"]
    assert (tmp_path / "r" / "trackers" / "trackio.id").read_text() == f"{new['name']}\n"
    assert [step for step, values in noted(notes, "log") if "loss" in values] == [1, 2, 3, 4]


def test_trackers_may_change_when_a_run_continues(tmp_path: Path, notes: Path) -> None:
    for steps, names in ((1, "[]"), (2, "[trackio]"), (3, "[tensorboard]")):
        run_training(tmp_path / "r", f"train.steps={steps}", f"train.trackers={names}")
    assert [step for step, values in noted(notes, "log") if "loss" in values] == [2]
    assert len(list(tmp_path.glob("r/events.*"))) == 1


def test_going_back_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the step from which a run is resumed, and to the one that is restored after divergence."""
    seen: list[int] = []
    monkeypatch.setattr(TRACKERS["tensorboard"], "rewind", lambda tracker, step: seen.append(step))
    right = Trainer.train_step

    def diverging(trainer: Trainer, x: torch.Tensor, *others: Any) -> Any:
        return right(trainer, x * torch.nan if trainer.step >= 4 and not trainer.restores else x, *others)

    monkeypatch.setattr(Trainer, "train_step", diverging)
    run_training(tmp_path / "r", "train.steps=8", "train.save_every_steps=3", "train.max_bad_steps=2")
    run_training(tmp_path / "r", "train.steps=9")
    assert seen == [0, 3, 8]


# Faults

FAULTS = {
    "import": ('print("hello', 'raise RuntimeError("broken"); print("hello', "RuntimeError: broken"),
    "begin": ("    return Run()", "    raise ConnectionError('no network\\nat all')", "ConnectionError: no network \\("),
    "metrics": ('        note("log"', '        raise ValueError; note("log"', "ValueError"),
    "end": ('    note("finish")', "    raise OSError(28, 'No space left on device')", "OSError: .*No space left on device"),
    "exit": ("    return Run()", "    os._exit(7)", "its process ended, with exit code 7"),
    "hang": ('    note("finish")', "    time.sleep(99)", "has not stored everything within 0.5 s"),
}


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing tracks."""
    folder = tmp_path_factory.mktemp("untracked") / "r"
    run_training(folder, *STEPS, "train.trackers=[]")
    assert {path.name for path in folder.iterdir()}.isdisjoint({"trackers", "wandb"})
    assert not list(folder.glob("events.*"))
    return folder


def assert_same_result(folder: Path, other: Path) -> None:
    """The same bytes, but for the names of the trackers in the configuration."""
    ours, theirs = (load_state(Run(path).state_path) for path in (folder, other))
    assert equal(ours.tensors, theirs.tensors)
    a, b = (load_weights(Run(path).weights_path(3)) for path in (folder, other))
    assert equal(a.network, b.network)
    assert Run(folder).preview_path(3).read_bytes() == Run(other).preview_path(3).read_bytes()
    assert Run(folder).health_path.read_bytes() == Run(other).health_path.read_bytes()
    timeless = [[{**line, "images_per_sec": 0} for line in logged(path)] for path in (folder, other)]
    assert timeless[0] == timeless[1]


def test_a_tracker_that_works_changes_nothing(tmp_path: Path, notes: Path, untracked: Path) -> None:
    messages = run_training(tmp_path / "r", *STEPS, "train.trackers=[trackio,tensorboard]")
    assert not any("warning" in message for message in messages)
    assert_same_result(tmp_path / "r", untracked)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tracker_that_fails_is_dropped(fault: str, tmp_path: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, text = FAULTS[fault]
    assert TRACKIO.count(right) == 1
    package(tmp_path, monkeypatch, TRACKIO.replace(right, wrong))
    if fault == "hang":
        monkeypatch.setattr(process, "END_SEC", 0.5)
        monkeypatch.setattr(dispatch, "_SILENT_SEC", 0.1)
    messages = run_training(tmp_path / "r", *STEPS, "train.trackers=[trackio]")
    (warning,) = [message for message in messages if "warning" in message]
    assert re.match(f"warning: trackio: {text}.*trackers/trackio.log.; the training continues without it", warning)
    assert_same_result(tmp_path / "r", untracked)


@pytest.mark.parametrize("call", ["image", "end"])
def test_tensorboard_that_fails_is_dropped(call: str, tmp_path: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TRACKERS["tensorboard"], call, fail)
    messages = run_training(tmp_path / "r", *STEPS)
    (warning,) = [message for message in messages if "warning" in message]
    assert warning.startswith("warning: tensorboard: OSError: [Errno 28] No space left on device; the training continues")
    assert_same_result(tmp_path / "r", untracked)


def test_a_tracker_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is logged meanwhile, until too much waits for it."""
    package(tmp_path, monkeypatch, "import time; time.sleep(99)")
    monkeypatch.setattr(process, "_MAX_WAITING", 30)
    messages: list[str] = []
    tracked = Trackers(["trackio"], Run(tmp_path / "r"), {"seed": 0}, messages.append)
    picture = np.zeros((256, 256, 3), np.uint8)  # more than a pipe holds
    for step in range(60):
        tracked.image(step, "samples", picture)
    tracked.end("finished")
    (warning,) = messages
    assert "trackio: lags 30 calls behind" in warning


def test_a_missing_package_is_an_error_before_anything_is_done(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, command in (
        ("wandb", "pip install wandb"),
        ("trackio", "pip install trackio"),
        ("mlflow", "pip install mlflow-skinny sqlalchemy alembic"),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        # Nor are the images read, which may take long.
        done = cli(*TRAIN, *settings(f"train.trackers=[tensorboard,{name}]", "data.source=no-such-images"))
        assert done.code == 2
        assert f"train.trackers: {name} needs the package {name}; install it: {command}" in done.err
        assert not list(tmp_path.iterdir())
        config = tiny_config(f"train.trackers=[{name}]")
        with pytest.raises(UsageError, match=command):
            train(config, Run(tmp_path / "r"), tiny_data(config), CPU)


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the one that wandb makes where it runs."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_such_package").mkdir()
    assert not trackers._is_installed("no_such_package")
    assert trackers._is_installed("json")


def test_messages_of_packages_go_to_the_log(cli: Cli, tmp_path: Path, notes: Path) -> None:
    done = cli(*TRAIN, *settings(*STEPS, "train.trackers=[trackio]"), "--json")
    assert done.code == 0
    assert json.loads(done.out)["step"] == 3
    assert "hello" not in done.out + done.err
    assert (tmp_path / "r" / "trackers" / "trackio.log").read_text() == "hello from trackio\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_run_ends_with_the_training(number: int, tmp_path: Path, notes: Path) -> None:
    """After Ctrl-C, and when the training is killed."""
    training = Process(*TRAIN, *settings("train.steps=100000", "train.trackers=[trackio]"), cwd=tmp_path)
    deadline = time.time() + 120
    while len(noted(notes, "log")) < 3:
        assert time.time() < deadline
        time.sleep(0.05)
    training.signal(number)
    assert training.result().code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    while not noted(notes, "finish"):
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed"])
def test_trackers_know_how_it_ended(status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(TRACKERS["tensorboard"], "end", lambda tracker, status: seen.append(status))

    def on_log(metrics: Metrics) -> None:
        if status == "interrupted":
            os.kill(os.getpid(), signal.SIGTERM)
        if status == "failed":
            raise RuntimeError

    config = tiny_config("train.steps=2")
    with suppress(Interrupted, RuntimeError):
        train(config, Run(tmp_path / "r"), tiny_data(config), CPU, reporter(on_log=on_log))
    assert seen == [status]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("[wandbb]", r"train.trackers: got \['wandbb'\]; tracker 'wandbb' is unknown; did you mean 'wandb'\? \(known: tensorb"),
        ("[wandb, mlflow, wandb]", "train.trackers: .*tracker 'wandb' appears twice"),
        ("null", "train.trackers: got None"),
    ],
)
def test_wrong_names(value: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        tiny_config(f"train.trackers={value}")


def test_names() -> None:
    assert tiny_config().train.trackers == ("tensorboard",)
    assert tiny_config("train.trackers=[]").train.trackers == ()
    assert tiny_config("train.trackers=mlflow").train.trackers == ("mlflow",)


# The packages themselves, where they are installed


def skip_without(package: str) -> None:
    if not trackers._is_installed(package):
        pytest.skip(f"the package {package} is not installed")


def offline(cwd: Path, name: str, steps: int, **environment: str) -> str:
    command = (*TRAIN, *settings(f"train.steps={steps}", "train.health_every_steps=3", f"train.trackers=[{name}]"))
    done = Process(*command, cwd=cwd, environment=environment).result()
    assert done.code == 0, done.err
    assert "warning" not in done.err
    return (cwd / "r" / "trackers" / f"{name}.id").read_text().strip()


def test_wandb_offline(tmp_path: Path) -> None:
    """Twice, as a resumed run; both parts have one identity, and the commands that upload them are named."""
    skip_without("wandb")
    offline_mode = {"WANDB_MODE": "offline", "WANDB_DIR": "", "WANDB_ERROR_REPORTING": "false"}
    first, second = (offline(tmp_path, "wandb", steps, **offline_mode) for steps in (3, 5))
    assert first == second
    parts = sorted((tmp_path / "r" / "trackers" / "wandb").glob(f"offline-run-*-{first}"))
    assert len(parts) == 2
    rows = [row for part in parts for row in wandb_rows(part / f"run-{first}.wandb")]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert losses == {line["step"]: line["loss"] for line in logged(tmp_path / "r")}
    assert all(row["_step"] == row["step"] for row in rows)
    assert any("loss_by_band/mean" in row for row in rows)
    assert len(list(parts[0].glob("files/media/images/samples_3_*.png"))) == 1


def wandb_rows(path: Path) -> list[dict[str, float]]:
    """The numbers of each logged row in a file of wandb, which is a log as LevelDB writes it."""
    content, place, records, record = path.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            records.append(record)
            record = b""
    rows = []
    for record in records:
        # Fields of a protocol buffer: the name, the tag of `value_json`, its length and its text.
        fields = [
            (m[1].decode(), record[m.end() : m.end() + m[2][0]])
            for m in re.finditer(rb"([a-z_/]+)\x82\x01(.)", record, re.DOTALL)
        ]
        rows.append({name: float(value) for name, value in fields if re.fullmatch(rb"[-+.e0-9]+", value)})
    return [row for row in rows if "_step" in row and "step" in row]


def test_trackio_local(tmp_path: Path) -> None:
    skip_without("trackio")
    first, second = (offline(tmp_path, "trackio", steps, TRACKIO_DIR=str(tmp_path / "local")) for steps in (3, 5))
    assert first == second
    with sqlite3.connect(tmp_path / "local" / "blurdiff.db") as database:
        rows = database.execute("select step, metrics from metrics where run_name = ?", [first]).fetchall()
    losses = {step: json.loads(values)["loss"] for step, values in rows if "loss" in json.loads(values)}
    assert losses == {line["step"]: line["loss"] for line in logged(tmp_path / "r")}
    assert len(list(tmp_path.glob(f"local/media/blurdiff/{first}/3/*.png"))) == 1


def test_mlflow_files(tmp_path: Path) -> None:
    skip_without("mlflow")
    store = {"MLFLOW_TRACKING_URI": f"file:{tmp_path / 'store'}", "MLFLOW_ALLOW_FILE_STORE": "true"}
    first, second = (offline(tmp_path, "mlflow", steps, **store) for steps in (3, 5))
    assert first == second
    (folder,) = tmp_path.glob(f"store/*/{first}")
    lines = [line.split() for line in (folder / "metrics" / "loss").read_text().splitlines()]
    assert {int(step): float(value) for _, value, step, *_ in lines} == {
        line["step"]: line["loss"] for line in logged(tmp_path / "r")
    }
    assert (folder / "params" / "train.steps").read_text() == "3"
    assert "train.steps: 5" in (folder / "artifacts" / "config.yaml").read_text()
    assert len(list((folder / "artifacts" / "images").glob("samples?step?3?timestamp*.png"))) == 1
