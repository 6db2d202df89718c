"""Side by side with the unofficial implementation: same images, network shape, budget and scorer, with blur and without.

    git clone https://github.com/soumik-kanad/blurring_diffusion
    python tests/gpu/compare.py blurring_diffusion comparison --minutes 20

Ours is `blurdiff train` and `blurdiff fid`, as anybody runs them; of theirs, `original.py` beside this calls the parts.

Budgets count minutes of training (ours with the start of the command and compiling, theirs without), or images seen, from the
beginning: a folder that has ten minutes already is continued by `--minutes 20`, so that a machine may be lent in pieces.
`results.jsonl` gets one line a score.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from original import Recipe, Theirs
from torch import Tensor, nn

from blurcli import render
from blurcli.cli.common import resolve_source
from blurcli.config import load_config, parse_overrides
from blurcli.data import load_dataset
from blurcli.evaluate import hardware
from blurcli.network import choose_device
from blurcli.runs import Run

_PART = 16 * 2**20  # bytes


class Resized(nn.Module):
    """Features of images brought to the side that their network knows."""

    def __init__(self, network: torch.jit.ScriptModule, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 to (B, D)."""
        return self.network(nn.functional.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False))


@dataclass(frozen=True)
class Budget:
    """What a training may take, from its beginning: images seen or, if none are said, minutes."""

    images: int | None = None
    minutes: float = 0.0


@dataclass
class Comparison:
    """One budget after another, for ours and theirs, kept in a folder."""

    checkout: Path
    out: Path
    data: str
    features: str
    preset: str
    assignments: list[str]
    score: int
    samplers: list[str]
    recipe: Recipe
    parts: bool
    device: torch.device
    scores: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the scores that are there, and the images."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._path = self.out / "results.jsonl"
        if self._path.exists():
            self.scores = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        wanted = load_config(self.preset, parse_overrides(self.assignments)).data
        self._images = torch.from_numpy(np.array(load_dataset(self.data, "train", wanted.image_size, wanted.channels).images))

    def compare(self, blur: float, seed: int, budget: Budget, who: str) -> None:
        """Train with that blur and seed until the budget is spent; draw and score."""
        which = {"blur": blur, "seed": seed, "budget": budget.images or f"{budget.minutes:g} min", "n": self.score}
        settings = [*self.assignments, f"process.blur_sigma_max={blur:g}", f"seed={seed}"]
        if who != "theirs":
            self._ours(settings, budget, which)
        if who != "ours":
            self._theirs(settings, budget, {**which, "lr": self.recipe.lr, "batch": self.recipe.batch_size})

    def report(self) -> None:
        """Print ours over theirs, each with its own sampler, where both are there."""
        for theirs, ours in itertools.product(self.scores, self.scores):
            same = all(theirs[key] == ours[key] for key in ("blur", "seed", "budget", "n", "features"))
            if same and (theirs["who"], theirs["sampler"], ours["who"]) == ("theirs", "theirs", "ours"):
                a, b = (score.get("fid", score.get("fd")) for score in (ours, theirs))
                which = f"blur {ours['blur']:g}, seed {ours['seed']}, {ours['budget']}, {ours['sampler']}"
                print(f"{which}, their lr {theirs['lr']:g}: {a:.3f} against {b:.3f}, {a / b:.3f} times")

    def _ours(self, settings: list[str], budget: Budget, which: dict[str, Any]) -> None:
        batch_size = load_config(self.preset, parse_overrides(settings)).train.batch_size
        steps = budget.images and budget.images // batch_size
        run = Run(self.out / f"ours-blur{which['blur']:g}-seed{which['seed']}")
        wanted = self._missing("ours", self.samplers, which)
        if not wanted:
            return
        weights = run.weights_path(steps) if steps else None
        if weights is None or not weights.exists():
            self._train_ours(run, settings, steps, budget.minutes)
            weights = run.newest_weights()
        seen = batch_size * int(weights.stem.removeprefix("step-"))
        seconds = _seconds(run, batch_size)
        if self.parts:
            self._pack(weights, f"{run.path.name}-{seen}.safetensors")
        for sampler in wanted:
            name, steps = sampler.rsplit("-", 1)
            how = ("--weights", weights, "--sampler", name, "--steps", steps, "--device", self.device.type)
            result = self._judged(*how)
            self._blurdiff("sample", *how, "--n", 64, "--out", self.out / f"{run.path.name}-{seen}-{sampler}.png")
            self._add(result, who="ours", sampler=sampler, **which, seen=seen, seconds=round(seconds))

    def _pack(self, weights: Path, name: str) -> None:
        """The weights in 16 bits, in parts that are one file again by `cat NAME.* > NAME`."""
        with tempfile.TemporaryDirectory(dir=self.out) as folder:
            whole = Path(folder) / name
            self._blurdiff("export", whole, "--weights", weights)
            with whole.open("rb") as file:
                for i, part in enumerate(iter(lambda: file.read(_PART), b"")):
                    (self.out / f"{name}.{i:02d}").write_bytes(part)

    def _train_ours(self, run: Run, settings: list[str], steps: int | None, minutes: float) -> None:
        """`blurdiff train` to that step, or until all its commands have taken the minutes."""
        clock = self.out / f"{run.path.name}.seconds"
        before = float(clock.read_text(encoding="utf-8")) if clock.exists() else 0.0
        if not steps and before >= 60 * minutes:
            return
        never = 10**9
        quiet = [f"train.{key}={never}" for key in ("preview_every_steps", "save_every_steps")]
        quiet += [f"train.steps={steps or never}", "train.health_every_steps=null", "train.log_every_steps=50"]
        arguments = ["--preset", self.preset, "--data", self.data, "--run", str(run.path), "--device", self.device.type]
        arguments += [part for setting in (*settings, *quiet) for part in ("--set", setting)]
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "blurcli", "train", *arguments], stdout=subprocess.DEVNULL)
        try:
            process.wait(None if steps else 60 * minutes - before)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it finishes its step and saves
            process.wait()
        if process.returncode not in (0, 130):
            raise SystemExit(f"blurdiff train ended with {process.returncode}")
        clock.write_text(f"{before + time.perf_counter() - begun}", encoding="utf-8")

    def _theirs(self, settings: list[str], budget: Budget, which: dict[str, Any]) -> None:
        wanted = self._missing("theirs", ["theirs", *self.samplers], which)
        if not wanted:
            return
        config = load_config(self.preset, parse_overrides(settings))
        name = f"theirs-lr{which['lr']:g}-blur{which['blur']:g}-seed{which['seed']}"
        state = self.out / f"{name}.safetensors"
        theirs = Theirs(self.checkout, config, self._images, self.recipe, self.device, state)
        theirs.train(lambda t: t.seen >= budget.images if budget.images else t.seconds >= 60 * budget.minutes)
        for sampler in wanted:
            batches, array = list(theirs.draw(self.score, which["seed"], sampler)), self.out / f"{name}.npz"
            render.write_npz(iter(batches), self.score, array)
            render.save_grid(np.concatenate(batches)[:64], self.out / f"{name}-{theirs.seen}-{sampler}.png", scale=2)
            result = self._judged("--samples", array, "--device", self.device.type)
            self._add(result, who="theirs", sampler=sampler, **which, seen=theirs.seen, seconds=round(theirs.seconds))

    def _missing(self, who: str, samplers: list[str], which: dict[str, Any]) -> list[str]:
        """The samplers of which there is no such score yet."""
        there = [score for score in self.scores if all(score.get(key) == value for key, value in {"who": who, **which}.items())]
        return [sampler for sampler in samplers if sampler not in [score["sampler"] for score in there]]

    def _add(self, result: dict[str, Any], **which: Any) -> None:
        """Keep a score, and print it."""
        metric = "fid" if "fid" in result else "fd"
        line = {**which, metric: result[metric], "features": self.features, "hardware": hardware(self.device)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.scores.append(line)
        print(json.dumps(line), flush=True)

    def _judged(self, *arguments: object) -> dict[str, Any]:
        """A score against the training images."""
        return self._blurdiff("fid", "--data", self.data, "--features", self.features, "--n", self.score, "--force", *arguments)

    def _blurdiff(self, *arguments: object) -> dict[str, Any]:
        """What a command of ours says in JSON."""
        command = [sys.executable, "-m", "blurcli", *map(str, arguments), "--json"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=self.out).stdout)


def _seconds(run: Run, batch_size: int) -> float:
    """How long a run of ours has trained, by its own log."""
    lines = [json.loads(line) for line in run.metrics_path.read_text(encoding="utf-8").splitlines()]
    steps = np.diff([0, *(line["step"] for line in lines)])
    return float(sum(batch_size * count / line["images_per_sec"] for count, line in zip(steps, lines, strict=True)))


def main(
    checkout: Annotated[Path, typer.Argument(help="Checkout of the unofficial implementation.")],
    out: Annotated[Path, typer.Argument(help="Folder for runs, scores and grids; continued where it is there.")],
    data: Annotated[str, typer.Option(help="Training images.")] = "cifar10",
    features: Annotated[str, typer.Option(help="As for blurdiff fid: inception, pixels or a file.")] = "inception",
    resize: Annotated[int | None, typer.Option(help="Side to which --features, a TorchScript file, gets images.")] = None,
    preset: Annotated[str, typer.Option(help="Ours; its network, size and blur are theirs, too.")] = "cifar10-blur",
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset.")] = None,
    minutes: Annotated[str, typer.Option(help="Of training, for each process, seed and side, like 10,20.")] = "20",
    images: Annotated[str | None, typer.Option(help="Or: images seen, like 32000,96000.")] = None,
    seeds: Annotated[str, typer.Option(help="Like 0,1,2.")] = "0",
    blurs: Annotated[str | None, typer.Option(help="Largest blurs. [default: the preset's, and 0]")] = None,
    score: Annotated[int, typer.Option(help="Samples a score.")] = 10_000,
    samplers: Annotated[str, typer.Option(help="Samplers of ours with their steps, for both.")] = "abm-20",
    their_lr: Annotated[float, typer.Option(help="Their learning rate.")] = 2e-4,
    their_batch: Annotated[int, typer.Option(help="Their batch.")] = 128,
    their_warmup: Annotated[int, typer.Option(help="Their warm-up, in steps.")] = 5000,
    parts: Annotated[bool, typer.Option("--parts", help="Keep our weights, too: in 16 bits, in parts of 16 MiB.")] = False,
    who: Annotated[str, typer.Option(help="ours, theirs or both.")] = "both",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train, draw and score; print every score, and in the end the ratios."""
    out = out.absolute()
    if resize is not None:
        out.mkdir(parents=True, exist_ok=True)
        torch.jit.script(Resized(torch.jit.load(features), resize)).save(str(out / "features.pt"))
        features = str(out / "features.pt")
    elif features not in ("inception", "pixels"):
        features = str(Path(features).absolute())
    comparison = Comparison(
        checkout=checkout.absolute(),
        out=out,
        data=resolve_source(data),
        features=features,
        preset=preset,
        assignments=assignments or [],
        score=score,
        samplers=samplers.split(","),
        recipe=Recipe(their_lr, their_batch, their_warmup),
        parts=parts,
        device=choose_device(device),
    )
    largest = load_config(preset, parse_overrides(assignments or [])).process.blur_sigma_max
    if images:
        budgets = [Budget(images=int(count)) for count in images.split(",")]
    else:
        budgets = [Budget(minutes=float(count)) for count in minutes.split(",")]
    for seed, blur, budget in itertools.product(
        map(int, seeds.split(",")), [float(blur) for blur in blurs.split(",")] if blurs else [largest, 0.0], budgets
    ):
        comparison.compare(blur, seed, budget, who)
    comparison.report()


if __name__ == "__main__":
    typer.run(main)
