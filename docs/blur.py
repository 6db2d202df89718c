"""Compare paths of the blur with no blur, with equal network, images seen and seeds.

    python docs/blur.py train IMAGES FOLDER     trains and scores what is missing
    python docs/blur.py table FOLDER            prints means, spreads and paired differences to no blur
    python docs/blur.py stripes FOLDER          draws images whose spectrum does not fall: IMAGES of another kind

IMAGES is `shapes`, or a data set as for `blurdiff train --data`. FOLDER keeps the runs, and `scores.jsonl`: a line per run and
number of images seen, with the scores of 2,000 samples (20 steps of `abm`, with the noise of t = 0 as in the paper), and the
bound on the likelihood of 256 test images.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

NETWORK = [
    *("model.base_channels=32", "model.multipliers=[1,2,2]", "model.blocks_per_level=1", "model.attention_levels=[2]"),
    *("model.patch_size=1", "model.dropout=0", "optim.lr=1e-3", "optim.beta2=0.99", "optim.warmup_steps=100"),
    *("optim.decay_from_step=500", "optim.ema_decay=0.999"),
]


def process(schedule: str, limit: float | None, ratio: float | None = None) -> list[str]:
    """The settings of a path of the blur."""
    values = {"blur_schedule": schedule, "blur_sigma_max": limit, "blur_noise_ratio": ratio}
    return [f"process.{key}={json.dumps(value)}" for key, value in values.items()]


def paths(size: int) -> dict[str, list[str]]:
    """The paths by name, for images of `size` pixels; the paper's 20 px are for 32."""
    return {
        "none": process("sin2", 0),
        **{f"ratio {r:g}": process("noise-ratio", None, r) for r in (0.125, 0.25, 0.5, 1, 2)},
        **{
            f"ratio {ratio:g}, up to {limit:g}": process("noise-ratio", limit, ratio)
            for ratio, limit in product((0.5, 1), (1, 2))
        },
        "sin2 20 (of 32)": process("sin2", 20 * size / 32),
        "sin2 2.5": process("sin2", 2.5),
    }


MEASURES = {
    "fd": "FD",
    "pixel_fd": "FD, pixels",
    "precision": "precision",
    "recall": "recall",
    "lsd": "LSD",
    "bits": "bits/dim",
}
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t of a two-sided 95% interval by degrees of freedom."""

app = typer.Typer(add_completion=False)
Names = Annotated[list[str] | None, typer.Option(help="Paths, by name. [default: all]")]


def blurdiff(*arguments: object) -> str:
    """Run a command on one thread and return its output."""
    command = [sys.executable, "-m", "blurcli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout


def measure(weights: Path, images: str, features: str) -> dict[str, float]:
    """The scores of a weights file."""
    samples = weights.with_suffix(".npz")
    blurdiff("sample", "--weights", weights, "--n", 2000, "--final", "noisy", "--out", samples)
    scores = {
        chosen: json.loads(blurdiff("fid", "--samples", samples, "--data", images, "--features", chosen, "--json"))
        for chosen in dict.fromkeys((features, "pixels"))
    }
    score = scores[features]
    bits = json.loads(blurdiff("likelihood", "--weights", weights, "--data", images, "--split", "test", "--n", 256, "--json"))
    found = {key: score[key] for key in ("fd", "precision", "recall")}
    return found | {"pixel_fd": scores["pixels"]["fd"], "lsd": score["log_spectral_distance"], "bits": bits["bits_per_dim"]}


def known_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of `scores.jsonl`."""
    file = folder / "scores.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@app.command()
def train(
    images: str,
    folder: Path,
    features: Annotated[str, typer.Option(help="As for blurdiff fid.")] = "pixels",
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 16,
    seen: Annotated[int, typer.Option(help="Images seen in training; a longer training continues a shorter one.")] = 64_000,
    batch: Annotated[int, typer.Option(help="Images per training step.")] = 64,
    only: Names = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    part: Annotated[str, typer.Option(help="I/N: every Nth training from the Ith on, for N processes side by side.")] = "1/1",
    setting: Annotated[list[str] | None, typer.Option("--set", help="Other settings; name another folder for them.")] = None,
) -> None:
    """Train and score each path with each seed; what is in FOLDER is not done again."""
    index, count = map(int, part.split("/"))
    folder.mkdir(parents=True, exist_ok=True)
    source = ["--preset", "shapes-blur"] if images == "shapes" else ["--preset", "cifar10-blur", "--data", images]
    jobs = list(product(map(int, seeds.split(",")), only or paths(size)))
    for seed, path in jobs[index - 1 :: count]:
        key = {"size": size, "path": path, "seed": seed, "seen": seen}
        if any(key.items() <= row.items() for row in known_rows(folder)):
            continue
        run = folder / f"{size}-{path.replace(' ', '-')}-{seed}"
        steps = seen // batch
        settings = [
            f"data.image_size={size}",
            *NETWORK,
            *paths(size)[path],
            f"seed={seed}",
            f"train.steps={steps}",
            f"train.batch_size={batch}",
        ]
        settings += [f"train.save_every_steps={steps}", f"train.preview_every_steps={steps}", "train.keep=10", *(setting or [])]
        weights = run / "weights" / f"step-{steps:08d}.safetensors"
        if not weights.exists():
            blurdiff("train", *source, "--run", run, *(part for pair in settings for part in ("--set", pair)))
        row = key | measure(weights, images, features)
        with (folder / "scores.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def interval(values: list[float]) -> float:
    """Half the width of the 95% interval of a mean, by Student's t."""
    if len(values) < 2:
        return math.nan
    return T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def table_rows(rows: list[dict[str, Any]], base: str) -> Iterator[str]:
    """A Markdown table: the mean of each measure, and for FD the mean of the paired differences to `base`."""
    yield "| size | images seen | path | seeds | " + " | ".join(MEASURES.values()) + f" | FD less that of {base} |"
    yield "|---|---|---|---|" + "---|" * (len(MEASURES) + 1)
    groups: dict[tuple[int, int, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["size"], row["seen"], row["path"]), {})[row["seed"]] = row
    for (size, seen, path), by_seed in sorted(groups.items(), key=lambda item: item[0][:2]):
        cells = []
        for measure_name in MEASURES:
            values = [row[measure_name] for row in by_seed.values()]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        others = groups.get((size, seen, base), {})
        differences = [row["fd"] - others[seed]["fd"] for seed, row in by_seed.items() if seed in others]
        paired = f"{statistics.mean(differences):+.4f} ± {interval(differences):.4f}" if differences and path != base else ""
        yield f"| {size} | {seen:,} | {path} | {len(by_seed)} | " + " | ".join(cells) + f" | {paired} |"


@app.command()
def stripes(
    folder: Path,
    n: Annotated[int, typer.Option(help="Number of training images; there are a tenth as many test images.")] = 10_000,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 16,
) -> None:
    """Draw stripes of two colors, of any direction and of a width of 1.25 to 4 pixels."""
    rng, fine = np.random.default_rng(0), 4
    rows, columns = (np.mgrid[: size * fine, : size * fine] + 0.5) / fine
    for split, count in (("train", n), ("test", n // 10)):
        (folder / split).mkdir(parents=True)
        for index in range(count):
            angle, period, phase = rng.uniform(0, math.pi), rng.uniform(2.5, 8), rng.uniform()
            wave = (rows * math.sin(angle) + columns * math.cos(angle)) / period + phase
            colors = rng.uniform(0, 255, (2, 3))
            picture = colors[(wave % 1 < 0.5).astype(int)].reshape(size, fine, size, fine, 3).mean((1, 3))
            Image.fromarray(picture.round().astype(np.uint8)).save(folder / split / f"{index:05d}.png")


@app.command()
def table(folder: Path, base: Annotated[str, typer.Option(help="Path to compare with.")] = "none") -> None:
    """Print the scores: mean and standard deviation over seeds, paired differences with their 95% interval."""
    for line in table_rows(known_rows(folder), base):
        print(line)


if __name__ == "__main__":
    app()
