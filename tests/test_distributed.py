"""Two processes do what one does: the same weights, images and scores; and neither hangs when the other is gone."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import TINY, Cli, Process, Result, settings, shell
from safetensors.torch import load_file
from torch import Tensor

from blurcli.base.distributed import DistributedContext, joined
from blurcli.base.errors import UsageError, UserError
from blurcli.base.runs import Run
from blurcli.config import load_config, parse_overrides
from blurcli.data import Dataset
from blurcli.evaluate import recorded
from blurcli.training import train

CPU = torch.device("cpu")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "blurcli", "--")
TRAIN = ("train", "--preset", "shapes-blur", "--run", "r")
FP32 = ("train.precision=fp32", "model.dropout=0.2", "train.save_every_steps=5", "train.health_every_steps=5")


def ranks(*arguments: object, cwd: Path) -> list[Process]:
    """Two processes with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        Process(*arguments, cwd=cwd, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]


def distributed(*arguments: object, cwd: Path) -> Result:
    """What two processes print together, and the larger exit code."""
    done = [process.result() for process in ranks(*arguments, cwd=cwd)]
    return Result(max(one.code for one in done), "".join(one.out for one in done), "".join(one.err for one in done))


def relative_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest over all tensors."""
    assert a.keys() == b.keys()
    pairs = [(a[name].double(), b[name].double()) for name in a]
    return max(float((x - y).norm() / x.norm()) for x, y in pairs if x.norm())


def test_training_equals_that_of_one_process(tmp_path: Path, cli: Cli) -> None:
    """With dropout; and the two stop in between, and take their shares of a batch in parts."""
    assert cli(*TRAIN, *settings(*FP32, "train.steps=20")).code == 0
    together = tmp_path / "together"
    together.mkdir()
    for steps in (11, 20):
        done = distributed(*TRAIN, *settings(*FP32, "train.micro_batch=1", f"train.steps={steps}"), cwd=together)
        assert done.code == 0, done.err
        assert done.out == f"r/weights/step-{steps:08d}.safetensors\n"  # said once
    one, two = (load_file(folder / "r" / "weights" / "step-00000020.safetensors") for folder in (tmp_path, together))
    # Sums in another order, which 20 steps of Muon make 3e-4 of.
    assert relative_difference(one, two) < 2e-3
    losses, shared = (
        [json.loads(line)["loss"] for line in (folder / "r" / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path, together)
    )
    assert len(losses) == 20
    assert losses == pytest.approx(shared, rel=1e-4)
    assert len(list((together / "r").glob("events.*"))) == 2  # one process writes, at each start


def test_distilling_equals_that_of_one_process(tiny_run: Path, cli: Cli, tmp_path: Path) -> None:
    for steps in (2, 4):
        found = {}
        for name, run in (("one", cli), ("two", distributed)):
            keys = (*FP32[:1], f"train.steps={steps}", "distill.double_every_steps=1")
            options = [part for key in keys for part in ("--set", key)]
            folder = {} if name == "one" else {"cwd": tmp_path}
            done = run("distill", tiny_run, "--run", name, *options, **folder)
            assert done.code == 0, done.err
            found[name] = load_file(tmp_path / name / "weights" / f"step-{steps:08d}.safetensors")
        assert relative_difference(found["one"], found["two"]) < 1e-4


def test_samples_and_scores_are_those_of_one_process(tiny_run: Path, cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path
    torch.set_num_threads(1)  # as torchrun has it: the last digits of a sum depend on it
    # Batches that neither the number of images nor that of processes divides.
    arguments = ("sample", "--run", tiny_run, "--n", 23, "--batch-size", 5)
    assert cli(*arguments, "--out", "a.npz").code == 0
    command = [*TORCHRUN, *map(str, arguments), "--out", "b.npz"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "b.npz\n"
    assert np.array_equal(np.load(folder / "a.npz")["arr_0"], np.load(folder / "b.npz")["arr_0"])

    scoring = ("fid", "--run", tiny_run, "--n", 200, "--repeats", 2, "--force", "--json")
    alone = cli(*scoring, "--batch-size", 64)
    assert alone.code == 0, alone.err
    shared = distributed(*scoring, "--batch-size", 100, cwd=folder)
    assert shared.code == 0, shared.err
    for one, two in zip(json.loads(alone.out)["scores"], json.loads(shared.out)["scores"], strict=True):
        for key in ("fd", "kd", "precision", "recall", "log_spectral_distance", "spectrum", "n", "seed"):
            assert one[key] == two[key]
    assert len(recorded(tiny_run / "evaluations.jsonl")) == 4


def test_a_dead_process_ends_the_job(tmp_path: Path, cli: Cli) -> None:
    first, second = ranks(*TRAIN, *settings("train.steps=1000000", "train.save_every_steps=5"), cwd=tmp_path)
    while not list((tmp_path / "r" / "weights").glob("step-*")):
        assert first.running, first.result().err
        assert second.running, second.result().err
        time.sleep(0.1)
    first.signal(signal.SIGKILL)
    left = second.result(60)
    assert left.code == 1
    assert "another process of the job has ended" in left.err
    # Nothing is lost: one process goes on where two were.
    steps = max(int(path.stem.split("-")[1]) for path in (tmp_path / "r" / "weights").glob("step-*"))
    done = cli(*TRAIN, *settings(f"train.steps={steps + 10}", "train.save_every_steps=5"))
    assert done.code == 0, done.err
    assert "continuing r from step" in done.err


def test_a_lost_connection_is_distinguished_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("init_process_group", "new_group", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda *arguments, **options: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="another process of the job has ended"), joined(CPU):
        raise RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:40721")
    with pytest.raises(RuntimeError, match="of another kind"), joined(CPU):
        raise RuntimeError("of another kind")


def test_a_signal_stops_all_of_them_after_the_same_step(tmp_path: Path) -> None:
    first, second = ranks(*TRAIN, *settings("train.steps=1000000"), cwd=tmp_path)
    while not (tmp_path / "r" / "metrics.jsonl").exists():
        assert first.running, first.result().err
        time.sleep(0.1)
    second.signal(signal.SIGTERM)  # only one of them
    done = first.result(60), second.result(60)
    assert all(one.code for one in done)
    text = "".join(one.err for one in done)
    assert text.count("stopped by SIGTERM after step") == 1
    assert "another process" not in text
    assert (tmp_path / "r" / "state.safetensors").exists()


def test_what_several_processes_cannot_do(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("shapes-blur", parse_overrides([*TINY, "train.batch_size=5"]))
    with pytest.raises(UsageError, match=r"train.batch_size 5: is not divisible by 2 processes; use a multiple"):
        train(
            config,
            Run(tmp_path / "r"),
            Dataset(np.zeros((9, 3, 8, 8), np.uint8), "", ""),
            CPU,
            distributed=DistributedContext(0, 2),
        )
    assert not (tmp_path / "r").exists()
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    done = shell("animate", "x.gif", "--run", tiny_run, cwd=tmp_path)
    assert (done.code, done.err) == (2, "error: animate: runs in one process; torchrun is for train, distill, sample, fid\n")
    done = shell("fid", "--samples", tmp_path, "--run", tiny_run, cwd=tmp_path)
    assert (done.code, "run the command without torchrun" in done.err) == (2, True)
