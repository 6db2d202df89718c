"""What comes before the work of a study: its plan, with equal times measured; its cost; and several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base import console, files
from blurcli.base.errors import LockedError, UserError
from blurcli.base.pace import Pace
from blurcli.base.threads import available_cores
from blurcli.workflows.session import load_torch
from blurcli.workflows.study_plan import LOCKS, Plan, check_is_study, folder_of, make_plan, record_study, training_digest
from blurcli.workflows.study_tasks import Task

if TYPE_CHECKING:
    from blurcli.config import Config
    from blurcli.config.study import Study

_SPEEDS = "speeds.jsonl"
_MEASURED_SEC = 3.0
_POLL_SEC = 1.0
_LONGEST_SEC = 1e6
_END_SEC = 60.0  # for a job to save its training after a signal
_FORWARD = 1 / 3  # of the work of a training step per image
_WEIGHTS, _STATE = 4, 2 * 16  # bytes per parameter: of a weights file, and of the two states of a run


@dataclass(frozen=True)
class Cost:
    """What is left to do of the trainings of a variant.

    Attributes:
        variant: its name.
        trainings: their number.
        done: how many of them are finished, with their scores.
        steps: training steps of each.
        seconds: estimated, for all that is left, one after another.
        mib: on the disk, of all of them.
    """

    variant: str
    trainings: int
    done: int
    steps: int | None
    seconds: float
    mib: float


def plan_study(path: Path, data: str | None, out: Path | None, features: Path | None, device: str) -> Plan:
    """Read a study and plan it. With equal times, speeds that are not known yet are measured and kept in the folder.

    Args:
        path: the file of the study.
        data: images instead of the file's.
        out: the folder; None for one in `runs/` with the name of the file.
        features: the network of scores with `features: file`.
        device: as for `inference.choose_device`.

    Raises:
        UsageError: anything is wrong in the file, or the folder belongs to something else.
    """
    from blurcli.config.study import load_study

    study = load_study(path, data)
    folder = folder_of(study, out)
    check_is_study(folder)
    plan = make_plan(study, folder, features)
    return make_plan(study, folder, features, _equal_time_steps(study, plan, device)) if study.equal_time else plan


def _equal_time_steps(study: Study, plan: Plan, device: str) -> dict[str, int]:
    """The steps of each trained variant in the training time of the base's longest training."""
    path = plan.folder / _SPEEDS
    record_study(plan)
    with _lock_when_free(plan.folder / LOCKS / "speeds"):
        lines = files.json_lines(path) if path.exists() else []
        known = {str(line.get("training")): line["sec"] for line in lines if _is_duration(line.get("sec"))}
        seconds = {}
        for variant in study.variants:
            if variant.weights is not None or variant.distilled is not None:
                continue
            key = training_digest(variant.config)
            if key not in known:
                known[key] = _step_sec(variant.config, device, variant.name)
                files.append_json_line(path, {"training": key, "sec": known[key], "variant": variant.name})
            seconds[variant.name] = known[key]
    base = seconds[study.base] * study.steps_of(study.variant(study.base), study.lengths[-1])
    return {name: max(1, round(base / own)) for name, own in seconds.items()}


@contextmanager
def _lock_when_free(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(files.locked(folder, "measuring speeds", console.notify))
                break
            except LockedError:
                time.sleep(_POLL_SEC)
        yield


def _is_duration(value: object) -> bool:
    return isinstance(value, float) and 0 < value < _LONGEST_SEC


def costs(plan: Plan, device: str) -> list[Cost]:
    """What is left of a study, with speeds measured on this machine; the parameters of distillations are their teachers'."""
    load_torch()
    from blurcli.model.inference import empty_network

    found = []
    speeds: dict[str, float] = {}
    for name in dict.fromkeys(task.variant.name for task in plan.tasks):
        own = [task for task in plan.tasks if task.variant.name == name]
        config, left = own[0].config, [task for task in own if plan.left(task)]
        key = training_digest(config)
        if left and key not in speeds:
            speeds[key] = _step_sec(config, device, name)
        parameters = empty_network(config).parameter_count()
        trains = own[0].variant.weights is None
        kept = len(own[0].lengths) or 1
        found.append(
            Cost(
                name,
                len(own) if trains else 0,
                len(own) - len(left),
                max((task.lengths[-1] for task in own if task.lengths), default=None),
                sum(_seconds_left(plan, task, speeds[key]) for task in left),
                (kept * _WEIGHTS + _STATE) * parameters * len(own) * trains / 2**20,
            )
        )
    return found


def _seconds_left(plan: Plan, task: Task, step_sec: float) -> float:
    """Of training, and of the network's calls in scoring; features are not counted."""
    config = task.config
    steps = max(0, task.lengths[-1] - task.run.newest_step()) if task.lengths else 0
    if task.teacher is not None:
        steps = task.variant.assigned.get("train.steps") or task.teacher.config.train.steps // 2
    calls = 0
    for cell in task.missing():
        score = plan.study.scores[cell.number]
        own = (score.n or config.score.n) * cell.request.get("steps", config.sample.steps) * (1 + (cell.guide is not None))
        calls += own if score.likelihood is None else 32 * score.likelihood
    return step_sec * (steps + calls * _FORWARD / config.train.batch_size)


def _step_sec(config: Config, device: str, name: str) -> float:
    load_torch()
    from blurcli.model.inference import choose_device
    from blurcli.workflows.benchmark import training_speed

    with console.waiting(f"measuring a training step of {name}"):
        return training_speed(config, choose_device(device), _MEASURED_SEC).sec


def run_jobs(arguments: Sequence[str], jobs: int, plan: Plan, device: str) -> None:
    """Work on a study with several processes, each on its share of the cores, and on a GPU of its own where there are several.

    Args:
        arguments: of the command that each of them runs.
        jobs: their number.
        plan: the study, whose progress is shown.
        device: as for `inference.choose_device`.

    Raises:
        UserError: one of them failed; the message is its last line.
    """
    record_study(plan)
    folder = plan.folder / "logs"
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"job-{number}.txt" for number in range(1, jobs + 1)]
    gpus = _gpus(device)
    processes = []
    for number, log in enumerate(logs):
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, available_cores() // jobs))}
        if len(gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        with log.open("wb") as file:
            command = [sys.executable, "-m", "blurcli", *arguments]
            # Its own session: a signal to the group would arrive twice, and the second ends a training without saving.
            processes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment, start_new_session=True)
            )
    try:
        pace = Pace(len(plan.cells))
        pace.start(len(plan.rows()))
        with console.progress("scores", len(plan.cells), pace) as update:
            while any(process.poll() is None for process in processes):
                update(len(plan.rows()))
                time.sleep(_POLL_SEC)
    finally:
        _end(processes)
    for process, log in zip(processes, logs, strict=True):
        if process.returncode and any(plan.left(task) for task in plan.tasks):
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise UserError(f"{log}: a job ended with code {process.returncode}: {lines[-1] if lines else 'no message'}")


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop what still runs, and wait until it has saved."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()  # not SIGINT, which is ignored by what a shell started in the background
    for process in running:
        try:
            process.wait(_END_SEC)
        except subprocess.TimeoutExpired:
            process.kill()


def _gpus(device: str) -> list[str]:
    """The GPUs that this process may use, as in CUDA_VISIBLE_DEVICES; empty if it computes elsewhere."""
    load_torch()
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    visible: Any = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
