"""Distill a trained model with several seeds, and compare few steps with many of the model itself.

    python docs/distill.py measure TEACHER IMAGES FOLDER    distills, samples and scores what is missing
    python docs/distill.py table FOLDER                     prints means and spreads

TEACHER is a run or a weights file, with `{seed}` in its name for a teacher per seed; IMAGES is as for `blurdiff train --data`.
FOLDER keeps the runs, and `scores.jsonl`: a line per seed, sampler and number of steps, with the scores of 2,000 samples.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer
from blur import blurdiff, known_rows

from blurcli.base.runs import Run
from blurcli.config import load_run_config

TEACHER_STEPS, DISTILLED_STEPS = (2, 4, 8, 20), (1, 2, 4)

app = typer.Typer(add_completion=False)


def score(run: str | Path, images: str, features: str, steps: int, options: tuple[object, ...]) -> dict[str, Any]:
    """The scores of samples of a run, or of a weights file."""
    model = ("--weights" if Path(run).is_file() else "--run", run)
    arguments = ("--steps", steps, "--data", images, "--features", features, *options, "--json")
    found = json.loads(blurdiff("fid", *model, *arguments))
    return {key: found[key] for key in ("fd", "precision", "recall", "log_spectral_distance")}


def finished(run: Run) -> bool:
    """Whether a run has the weights of its last step."""
    return run.config_path.exists() and run.weights_path(load_run_config(run.config_path).train.steps).exists()


@app.command()
def measure(
    teacher: str,
    images: str,
    folder: Path,
    features: Annotated[str, typer.Option(help="As for blurdiff fid.")] = "pixels",
    n: Annotated[int, typer.Option(help="Samples per score.")] = 2000,
    seeds: Annotated[str, typer.Option(help="Seeds of the distillation and of its samples, separated by commas.")] = "0,1,2",
    setting: Annotated[list[str] | None, typer.Option("--set", help="Keys of the distillation; name another folder.")] = None,
) -> None:
    """Distill and score with each seed; what is in FOLDER is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in map(int, seeds.split(",")):
        own, run = teacher.format(seed=seed), folder / f"seed-{seed}"
        if not finished(Run(run)):
            keys = [f"seed={seed}", *(setting or [])]
            blurdiff("distill", own, "--data", images, "--run", run, *(part for key in keys for part in ("--set", key)))
        runs = [(own, "abm", steps) for steps in TEACHER_STEPS] + [(run, "consistency", steps) for steps in DISTILLED_STEPS]
        for source, sampler, steps in runs:
            key = {"seed": seed, "sampler": sampler, "steps": steps, "n": n, "features": Path(features).name}
            if any(key.items() <= row.items() for row in known_rows(folder)):
                continue
            options = ("--sampler", sampler, "--n", n, "--seed", 1000 * seed, "--final", "denoised", "--force")
            row = key | score(source, images, features, steps, options)
            with (folder / "scores.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


@app.command()
def table(folder: Path) -> None:
    """Print the scores: each seed's FD, its mean and standard deviation, and the ratio to the most steps of the teacher."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in known_rows(folder):
        groups.setdefault((row["sampler"], row["steps"]), []).append(row)
    reference = statistics.mean(row["fd"] for row in groups["abm", TEACHER_STEPS[-1]])
    print("| sampler | steps | FD, seed by seed | mean | over abm 20 | precision | recall | log-spectral distance |")
    print("|---|---|---|---|---|---|---|---|")
    for (sampler, steps), rows in sorted(groups.items()):
        values = [row["fd"] for row in sorted(rows, key=lambda row: int(row["seed"]))]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        others = (
            f"{statistics.mean(row[key] for row in rows):.3f}" for key in ("precision", "recall", "log_spectral_distance")
        )
        cells = [sampler, str(steps), ", ".join(f"{value:.3f}" for value in values), f"{statistics.mean(values):.3f}{spread}"]
        print("| " + " | ".join([*cells, f"{statistics.mean(values) / reference:.2f}", *others]) + " |")


if __name__ == "__main__":
    app()
