"""Ablate the training recipe: one change at a time, with equal images seen, network and seed.

    python docs/ablations.py DATA FEATURES RESULTS

Trains a network of 1.11 M parameters on DATA (a folder of CIFAR-10) at 16x16, or at 32x32 in the rows with that name, scores
2,000 samples of 20 steps of `abm` in FEATURES, appends a line to RESULTS and prints a table. Existing rows of RESULTS are not
measured again. Some trainings keep several averages of their weights, one row each.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from blurcli import evaluate
from blurcli.config import Config, load_config, parse_overrides
from blurcli.core.objectives import OBJECTIVES
from blurcli.data import Batches, Dataset, load_dataset, measure_moments
from blurcli.evaluate.denoising import MeasuredImages, denoising_errors
from blurcli.families import ModelData
from blurcli.model.pipeline import Pipeline
from blurcli.training import Trainer

BASE = [
    *("data.image_size=16", "process.blur_schedule=sin2", "process.blur_sigma_max=10", "sample.final=noisy"),
    *("model.base_channels=32", "model.multipliers=[1,2,2]"),
    *("model.blocks_per_level=1", "model.attention_levels=[2]", "model.dropout=0", "optim.lr=1e-3", "optim.beta2=0.99"),
    *("optim.warmup_steps=100", "optim.decay_from_step=500", "optim.ema_decay=0.999", "train.batch_size=64"),
]
LARGE = ["data.image_size=32", "process.blur_sigma_max=20"]
VARIANTS = {
    "default": [],
    "seed 1": ["seed=1"],
    "seed 2": ["seed=2"],
    "lr 5e-4": ["optim.lr=5e-4"],
    "lr 2e-3": ["optim.lr=2e-3"],
    "no decay of lr": ["optim.decay_from_step=null"],
    "beta2 0.999": ["optim.beta2=0.999"],
    "no flips": ["data.flip=false"],
    "dropout 0.1": ["model.dropout=0.1"],
    "batch 32": ["train.batch_size=32"],
    "batch 128": ["train.batch_size=128"],
    "times uniform": ["optim.time_sampling=uniform"],
    "loss weight of the paper": ["optim.loss_weight=paper"],
    "loss weight min-snr": ["optim.loss_weight=min-snr"],
    "loss weight sigmoid": ["optim.loss_weight=sigmoid"],
    "objective v": ["objective=v"],
    "objective eps": ["objective=eps"],
    "attention at 8x8, too": ["model.attention_levels=[1,2]"],
    "two blocks, 24 channels": ["model.blocks_per_level=2", "model.base_channels=24"],
    "patches of 2, 64 channels": [
        *("model.patch_size=2", "model.base_channels=64", "model.multipliers=[1,2]", "model.attention_levels=[1]")
    ],
    "32x32": LARGE,
    "32x32, patches of 2, 64 channels": [
        *(*LARGE, "model.patch_size=2", "model.base_channels=64", "model.multipliers=[1,2]", "model.attention_levels=[1]")
    ],
}
LENGTHS: dict[str, Callable[[int], float]] = {
    "none": lambda step: 0.0,
    "0.99": lambda step: 0.99,
    **{f"power {power}": (lambda step, power=power: (1 - 1 / step) ** (power + 1)) for power in (4, 8, 16, 32, 64)},
}
"""EMA decay at a step, counted from 1. `power` is the exponent of the power-function averages of Karras et al. (2024), whose
length grows with the training."""


def train(config: Config, dataset: Dataset, steps: int) -> tuple[Trainer, dict[str, nn.Module], float]:
    """A trainer after `steps` steps, networks with the weights averaged as in `LENGTHS`, and the seconds of training."""
    moments = measure_moments(dataset.images, config.data.flip)
    if not OBJECTIVES[config.objective].opponent_colors:
        moments = replace(moments, opponent_spectrum=None)
    trainer = Trainer(config, moments, torch.device("cpu"))
    batches = Batches(dataset.images, config.train.batch_size, config.seed, config.data.flip, trainer.device)
    averages = {name: copy.deepcopy(trainer.ema) for name in LENGTHS}
    started = time.perf_counter()
    for step in range(1, steps + 1):
        trainer.train_step(batches(step - 1))
        with torch.no_grad():
            for name, network in averages.items():
                pair = list(network.parameters()), list(trainer.network.parameters())
                torch._foreach_lerp_(*pair, 1 - LENGTHS[name](step))
    return trainer, averages, time.perf_counter() - started


def rows(name: str) -> dict[str, str]:
    """The rows of a variant's training, each with the name of its average; empty for the trainer's own EMA."""
    others = LENGTHS if name in ("default", "no decay of lr") else ()
    return {name: "", **{f"{name}, average {length}": length for length in others}}


def main(
    data: Annotated[str, typer.Argument(help="Folder of the CIFAR-10 training images.")],
    features: Annotated[str, typer.Argument(help="Features as for blurdiff fid: pixels or a file.")],
    results: Annotated[Path, typer.Argument(help="JSON lines file; an existing one is continued.")],
    steps: Annotated[int, typer.Option(min=100, help="Training steps of 64 images.")] = 1000,
    only: Annotated[list[str] | None, typer.Option(help="Variants to train. [default: all]")] = None,
) -> None:
    """Measure the missing rows, and print all rows as a table."""
    if unknown := set(only or ()) - set(VARIANTS):
        raise typer.BadParameter(f"{'; '.join(unknown)}: unknown (known: {'; '.join(VARIANTS)})", param_hint="--only")
    results.touch()
    known = [json.loads(line) for line in results.read_text().splitlines()]
    known = [row for row in known if (row["steps"], row["features"]) == (steps, features)]
    device = torch.device("cpu")
    network = evaluate.load_features(features, "clean", device)

    @cache
    def images_and_scorer(size: tuple[int, int]) -> tuple[Dataset, evaluate.Scorer]:
        dataset = load_dataset(data, "train", size, 3)
        reference = evaluate.image_reference(dataset, "train", network, lambda done: None)
        return dataset, evaluate.Scorer(network, reference, device)

    def score(trainer: Trainer, average: nn.Module, dataset: Dataset, scorer: evaluate.Scorer) -> dict[str, Any]:
        pipeline = Pipeline(trainer.config, average, ModelData(trainer.moments), device)
        if trainer.family.objective.calibrated:
            gain = denoising_errors(pipeline, MeasuredImages(dataset.images, 32, trainer.config.seed)).gain
            pipeline = Pipeline(trainer.config, average, ModelData(trainer.moments, gain), device)
        images = evaluate.ModelImages(pipeline, trainer.step, 2000, 0, pipeline.sampling("abm", 20))
        return scorer.score(images, lambda done: None)

    for name in only or VARIANTS:
        missing = {row: length for row, length in rows(name).items() if row not in [made["name"] for made in known]}
        if not missing:
            continue
        config = load_config("cifar10-blur", parse_overrides([*BASE, *VARIANTS[name]]))
        dataset, scorer = images_and_scorer(config.data.image_size)
        trainer, averages, seconds = train(config, dataset, steps * 64 // config.train.batch_size)
        for title, length in missing.items():
            found = score(trainer, averages[length] if length else trainer.ema, dataset, scorer)
            row = {"name": title, "steps": steps, "features": features, "fd": found["fd"]}
            row |= {"log_spectral_distance": found["log_spectral_distance"], "seconds": round(seconds)}
            row |= {"parameters": trainer.network.parameter_count(), "hardware": found["hardware"]}
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            known.append(row)
    print("| | FD | log-spectral distance | seconds |\n|---|---|---|---|")
    for row in known:
        print(f"| {row['name']} | {row['fd']:.3f} | {row['log_spectral_distance']:.3f} | {row['seconds']} |")


if __name__ == "__main__":
    typer.run(main)
