"""Kill training processes at random moments, and see whether anything is lost: `python tests/chaos.py --kills 200`.

Real processes run the real command line; they are forked from one that has imported everything, so that a kill takes tenths of
a second and not ten. Whatever the moment, all files must be readable, the same command must go on, and the weights in the end
must be those of a training that nobody disturbed, bit for bit.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from conftest import settings

STEPS = 30
LONGEST = 60  # seconds that a training of so many steps may take
OFTEN = ("train.save_every_steps=3", "train.keep=2", "train.preview_every_steps=10", "train.health_every_steps=15")


def command_line(run: str) -> None:
    """Train in a process of its own, as a person would."""
    with Path(f"{run}.log").open("a") as log:
        os.dup2(log.fileno(), 2)
    faulthandler.enable()
    faulthandler.dump_traceback_later(LONGEST, exit=True)  # a process that hangs shall say where
    from blurcli.cli import main

    main(["train", "--preset", "shapes-blur", "--run", run, *settings(f"train.steps={STEPS}", *OFTEN)])


def check_files(run: Path) -> int:
    """Read everything that a run has on disk; returns the step that a training would go on from."""
    from blurcli.base.runs import Run
    from blurcli.config import load_run_config
    from blurcli.model.weights import load_weights
    from blurcli.training.state import load_state

    found = Run(run)
    if found.config_path.exists():
        load_run_config(found.config_path)
    for path in found.all_weights():
        load_weights(path)
    for path in (found.metrics_path, found.health_path):
        # The last line of a killed process may be cut short.
        for line in path.read_text().splitlines()[:-1] if path.exists() else ():
            json.loads(line)
    return max([load_state(path).step for path in found.saved_states()], default=0)


def final_tensors(run: Path) -> dict[str, Any]:
    """What a finished training has learned."""
    from blurcli.base.runs import Run
    from blurcli.model.weights import load_weights
    from blurcli.training.state import load_state

    weights = load_weights(Run(run).weights_path(STEPS)).network
    return weights | load_state(Run(run).state_path).tensors


def chaos(kills: int, seed: int) -> Counter[str]:
    """Trainings in the current folder, killed until there have been so many kills; AssertionError when anything is lost."""
    import torch

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["blurcli.cli", "blurcli.training", "blurcli.base.console"])
    draw = random.Random(seed)
    done: Counter[str] = Counter()

    def start(run: str) -> Any:
        Path(f"{run}.log").touch()
        process = context.Process(target=command_line, args=(run,))
        process.start()
        return process

    start("warm").join()  # the imports and the packed images, so that the next takes the time that a training takes
    begun = time.monotonic()
    start("undisturbed").join()
    duration = time.monotonic() - begun
    expected = final_tensors(Path("undisturbed"))
    while done["kills"] < kills or done["unfinished"]:
        run = Path(f"run-{done['trainings']}")
        saved = check_files(run)
        process = start(str(run))
        if done["kills"] < kills:
            process.join(draw.uniform(0, duration))
        else:
            process.join()
        done["resumes"] += done["unfinished"]
        if process.is_alive():
            number = draw.choice([signal.SIGKILL, signal.SIGTERM])
            os.kill(process.pid, number)
            process.join(2 * LONGEST)
            expected_codes = (0, 2, -signal.SIGKILL, 143, -signal.SIGTERM)
            assert process.exitcode in expected_codes, f"{number.name}: {process.exitcode}\n" + Path(f"{run}.log").read_text()
            done[number.name] += 1
            done["kills"] += 1
        # Killed between its last save and its end, a training is told to be finished by the next command.
        finished = process.exitcode == 0 or "is already trained" in Path(f"{run}.log").read_text()
        if finished:
            found = final_tensors(run)
            assert found.keys() == expected.keys()
            different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
            assert not different, f"{run}: {different}"
            done["trainings"] += 1
        else:
            assert process.exitcode not in (1, 2), Path(f"{run}.log").read_text()
            assert check_files(run) >= saved, "steps that had been saved were lost"
        done["unfinished"] = int(not finished)
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # and nothing waits for a core that a killed process had
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["BLURDIFF_CACHE"] = str(Path(folder) / "cache")
        begun = time.monotonic()
        report = chaos(arguments.kills, arguments.seed)
        print(json.dumps({**report, "seconds": round(time.monotonic() - begun, 1)}))
        os.chdir("/")
    sys.exit()
