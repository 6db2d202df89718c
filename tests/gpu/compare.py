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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from original import CALIBRATED_ON, Recipe, Theirs
from torch import Tensor, nn

from blurcli import visualize
from blurcli.base import files
from blurcli.base.errors import UsageError, UserError
from blurcli.base.runs import Run
from blurcli.config import DiffusionConfig, load_config, parse_overrides, resolve_source
from blurcli.core.samplers import SAMPLERS
from blurcli.data import load_dataset
from blurcli.evaluate import hardware
from blurcli.model.inference import choose_device

_PART = 16 * 2**20  # bytes


class Resized(nn.Module):
    """Features of images brought to the side that their network knows."""

    def __init__(self, network: torch.jit.ScriptModule, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 to (B, D)."""
        return self.network(nn.functional.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False))


def _resizing(features: str, side: int, path: Path) -> Path:
    """`path`, where features now lie that bring images to that side first."""
    try:
        network = torch.jit.load(features)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"--resize {side}: --features {features} is no TorchScript file ({str(error).splitlines()[0]})"
        ) from None
    with files.replacing(path) as temporary:
        torch.jit.script(Resized(network, side)).save(str(temporary))
    return path


@dataclass(frozen=True)
class Budget:
    """What a training may take, from its beginning: images seen or, if none are said, minutes."""

    images: int | None = None
    minutes: float = 0.0

    @property
    def label(self) -> str:
        """Its name in the scores."""
        return f"{self.minutes:g} min" if self.images is None else f"{self.images} images"

    def left(self, seen: int, seconds: float) -> float:
        """What is left of it, in images or seconds."""
        return 60 * self.minutes - seconds if self.images is None else self.images - seen


class Ledger:
    """What a training has had, kept beside it: its settings, its seconds, and the images seen at the end of every budget.

    Args:
        path: of the file.
        settings: what the training is; UsageError where the file says something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self.seconds, self.ends = 0.0, dict[str, int]()
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["settings"] != settings:
                raise UsageError(f"{path}: was trained with other settings ({known['settings']}); name another folder")
            self.seconds, self.ends = known["seconds"], known["ends"]

    @property
    def seen(self) -> int:
        """Images trained on."""
        return max(self.ends.values(), default=0)

    def left(self, budget: Budget) -> float:
        """What is left of a budget, in images or seconds: 0 where it was spent before; UsageError where that was passed."""
        if budget.label in self.ends:
            return 0
        left = budget.left(self.seen, self.seconds)
        if left <= 0:
            raise UsageError(
                f"{self._path}: this training has had {self.seen} images and {self.seconds:.0f} s, "
                f"and no score at {budget.label}; give more, or name another folder"
            )
        return left

    def close(self, budget: Budget, seen: int, seconds: float) -> None:
        """Keep that a budget is spent."""
        self.seconds = seconds
        self.ends[budget.label] = seen
        content = {"settings": self._settings, "seconds": self.seconds, "ends": self.ends}
        with files.replacing(self._path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclass
class Comparison:
    """One budget after another, for ours and theirs, kept in a folder.

    Raises:
        UsageError: what would fail after hours of training.
    """

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
    who: str
    device: torch.device
    scores: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the scores that are there, and the images."""
        config = load_config(self.preset, parse_overrides(self.assignments))
        if not isinstance(config.process, DiffusionConfig):
            raise UsageError(f"--preset {self.preset}: theirs is blurring diffusion, not process.kind {config.process.kind}")
        if self.who != "ours" and not (self.checkout / "model_code" / "blurring_diffusion.py").exists():
            raise UsageError(f"{self.checkout}: no checkout of the unofficial implementation")
        if self.features not in ("inception", "pixels") and not Path(self.features).is_file():
            raise UsageError(f"--features {self.features}: no such file")
        for sampler in self.samplers:
            name, _, steps = sampler.rpartition("-")
            if name not in SAMPLERS or not steps.isdigit() or not int(steps):
                raise UsageError(f"--samplers {sampler}: write it as a sampler and its steps, like abm-20")
        self.batch_size = config.train.batch_size
        self._images = torch.from_numpy(
            np.array(load_dataset(self.data, "train", config.data.image_size, config.data.channels).images)
        )
        least = max(self.recipe.batch_size, self.batch_size, CALIBRATED_ON)
        if len(self._images) < least:
            raise UsageError(f"--data {self.data}: has {len(self._images)} images, and {least} are needed")
        self.out.mkdir(parents=True, exist_ok=True)
        self._path = self.out / "results.jsonl"
        if self._path.exists():
            self.scores = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]

    def compare(self, blur: float, seed: int, budget: Budget) -> None:
        """Train with that blur and seed until the budget is spent; draw and score."""
        which = {"blur": blur, "seed": seed, "budget": budget.label, "n": self.score, "features": self.features}
        settings = [*self.assignments, "process.blur_schedule=sin2", f"process.blur_sigma_max={blur:g}", f"seed={seed}"]
        if self.who != "theirs":
            self._ours(settings, budget, {"who": "ours", **which})
        if self.who != "ours":
            self._theirs(settings, budget, {"who": "theirs", **which, **asdict(self.recipe)})

    def report(self) -> None:
        """Print ours over theirs, each with its own sampler, where both are there."""
        for theirs, ours in itertools.product(self.scores, self.scores):
            same = all(theirs[key] == ours[key] for key in ("blur", "seed", "budget", "n", "features"))
            if same and (theirs["who"], theirs["sampler"], ours["who"]) == ("theirs", "theirs", "ours"):
                a, b = (score.get("fid", score.get("fd")) for score in (ours, theirs))
                which = f"blur {ours['blur']:g}, seed {ours['seed']}, {ours['budget']}, {ours['sampler']}"
                their = f"lr {theirs['lr']:g}, batch {theirs['batch_size']}"
                print(f"{which}: {a:.3f} against {b:.3f} ({their}), {a / b:.3f} times")

    def _ours(self, settings: list[str], budget: Budget, which: dict[str, Any]) -> None:
        wanted = self._missing(self.samplers, which)
        if not wanted:
            return
        run = Run(self.out / f"ours-blur{which['blur']:g}-seed{which['seed']}")
        ledger = Ledger(self.out / f"{run.path.name}.json", {"preset": self.preset, "set": settings})
        if left := ledger.left(budget):
            took = self._train_ours(run, settings, budget, left)
            step = int(run.newest_weights().stem.removeprefix("step-"))
            ledger.close(budget, step * self.batch_size, ledger.seconds + took)
        seen = ledger.ends[budget.label]
        weights = run.weights_path(seen // self.batch_size)
        if self.parts:
            self._pack(weights, f"{run.path.name}-{seen}.safetensors")
        for sampler in wanted:
            name, _, steps = sampler.rpartition("-")
            how = ("--weights", weights, "--sampler", name, "--steps", steps, "--device", self.device.type)
            result = self._judged(*how)
            self._blurdiff("sample", *how, "--n", 64, "--out", self.out / f"{run.path.name}-{seen}-{sampler}.png")
            self._add(result, sampler=sampler, **which, seen=seen, seconds=round(_seconds(run, self.batch_size, seen)))

    def _pack(self, weights: Path, name: str) -> None:
        """The weights in 16 bits, in parts that are one file again by `cat NAME.* > NAME`."""
        with tempfile.TemporaryDirectory(dir=self.out) as folder:
            whole = Path(folder) / name
            self._blurdiff("export", whole, "--weights", weights)
            with whole.open("rb") as file:
                for i, part in enumerate(iter(lambda: file.read(_PART), b"")):
                    (self.out / f"{name}.{i:02d}").write_bytes(part)

    def _train_ours(self, run: Run, settings: list[str], budget: Budget, left: float) -> float:
        """`blurdiff train` until the budget is spent: the seconds that the command took."""
        never = 10**9
        steps = never if budget.images is None else budget.images // self.batch_size
        quiet = [f"train.{key}={never}" for key in ("preview_every_steps", "save_every_steps")]
        quiet += [f"train.steps={steps}", "train.health_every_steps=null", "train.log_every_steps=50"]
        arguments = ["--preset", self.preset, "--data", self.data, "--run", str(run.path), "--device", self.device.type]
        arguments += [part for setting in (*settings, *quiet) for part in ("--set", setting)]
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "blurcli", "train", *arguments], stdout=subprocess.DEVNULL)
        try:
            process.wait(left if budget.images is None else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it finishes its step and saves
            process.wait()
        if process.returncode not in (0, 130):
            raise UserError(f"blurdiff train ended with {process.returncode}")
        return time.perf_counter() - begun

    def _theirs(self, settings: list[str], budget: Budget, which: dict[str, Any]) -> None:
        wanted = self._missing(["theirs", *self.samplers], which)
        if not wanted:
            return
        name = f"theirs-lr{self.recipe.lr:g}-batch{self.recipe.batch_size}-blur{which['blur']:g}-seed{which['seed']}"
        ledger = Ledger(self.out / f"{name}.json", {"preset": self.preset, "set": settings, **asdict(self.recipe)})
        config, state = load_config(self.preset, parse_overrides(settings)), self.out / f"{name}.safetensors"
        theirs = Theirs(self.checkout, config, self._images, self.recipe, self.device, state)
        if ledger.left(budget):
            theirs.train(lambda t: budget.left(t.seen, t.seconds) <= 0)
            ledger.close(budget, theirs.seen, theirs.seconds)
        if theirs.seen != ledger.ends[budget.label]:
            raise UsageError(f"{state}: has been trained beyond {budget.label}; only its newest state is kept")
        for sampler in wanted:
            batches, array = list(theirs.draw(self.score, which["seed"], sampler)), self.out / f"{name}.npz"
            file = visualize.ArrayFile(array)
            with file.claimed(self.score) as indices:
                file.write(np.concatenate(batches), indices)
            visualize.save_grid(np.concatenate(batches)[:64], self.out / f"{name}-{theirs.seen}-{sampler}.png", scale=2)
            result = self._judged("--samples", array, "--device", self.device.type)
            self._add(result, sampler=sampler, **which, seen=theirs.seen, seconds=round(theirs.seconds))

    def _missing(self, samplers: list[str], which: dict[str, Any]) -> list[str]:
        """The samplers of which there is no such score yet."""
        there = [score["sampler"] for score in self.scores if which.items() <= score.items()]
        return [sampler for sampler in samplers if sampler not in there]

    def _add(self, result: dict[str, Any], **which: Any) -> None:
        """Keep a score, and print it."""
        metric = "fid" if "fid" in result else "fd"
        line = {**which, metric: result[metric], "hardware": hardware(self.device)}
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
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=self.out)
        if done.returncode:
            raise UserError(f"blurdiff {arguments[0]} ended with {done.returncode}")
        return json.loads(done.stdout)


def _seconds(run: Run, batch_size: int, seen: int) -> float:
    """How long a run of ours has trained until so many images, by its own log."""
    lines = [json.loads(line) for line in run.metrics_path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["step"] * batch_size <= seen]
    steps = np.diff([0, *(line["step"] for line in lines)])
    return float(sum(batch_size * count / line["images_per_sec"] for count, line in zip(steps, lines, strict=True)))


_PAPERS_BLUR = 20.0


def _numbers(text: str, flag: str, kind: type[int] | type[float], least: float) -> list[Any]:
    """The numbers of a list with commas; UsageError for anything else, or one below `least`."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise UsageError(f"{flag} {text}: write numbers of at least {least:g}, with commas between them")
    return numbers


def main(
    checkout: Annotated[Path, typer.Argument(help="Checkout of the unofficial implementation.")],
    out: Annotated[Path, typer.Argument(help="Folder for runs, scores and grids; continued where it is there.")],
    data: Annotated[str, typer.Option(help="Training images.")] = "cifar10",
    features: Annotated[str, typer.Option(help="As for blurdiff fid: inception, pixels or a file.")] = "inception",
    resize: Annotated[int | None, typer.Option(help="Side to which --features, a TorchScript file, gets images.")] = None,
    preset: Annotated[
        str, typer.Option(help="Ours; its network and size are theirs, too; both blur as the paper.")
    ] = "cifar10-blur",
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset.")] = None,
    minutes: Annotated[str, typer.Option(help="Of training, for each process, seed and side, like 10,20.")] = "20",
    images: Annotated[str | None, typer.Option(help="Or: images seen, like 32000,96000.")] = None,
    seeds: Annotated[str, typer.Option(help="Like 0,1,2.")] = "0",
    blurs: Annotated[
        str | None, typer.Option(help="Largest blurs, in pixels. [default: the preset's or else 20, and 0]")
    ] = None,
    score: Annotated[int, typer.Option(help="Samples a score.")] = 10_000,
    samplers: Annotated[str, typer.Option(help="Samplers of ours with their steps, for both.")] = "abm-20",
    their_lr: Annotated[float, typer.Option(help="Their learning rate.")] = 2e-4,
    their_batch: Annotated[int, typer.Option(help="Their batch.")] = 128,
    their_warmup: Annotated[int, typer.Option(help="Their warm-up, in steps.")] = 5000,
    parts: Annotated[bool, typer.Option("--parts", help="Keep our weights, too: in 16 bits, in parts of 16 MiB.")] = False,
    who: Annotated[Literal["ours", "theirs", "both"], typer.Option(help="Whom to train, draw and score.")] = "both",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
) -> None:
    """Train, draw and score; print every score, and in the end the ratios."""
    out = out.absolute()
    if features not in ("inception", "pixels"):
        features = str(Path(features).absolute())
    if resize is not None:
        features = str(_resizing(features, resize, out / "features.pt"))
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
        who=who,
        device=choose_device(device),
    )
    budgets = [Budget(minutes=count) for count in _numbers(minutes, "--minutes", float, 1e-3)]
    if images is not None:
        least = max(their_batch, comparison.batch_size)
        budgets = [Budget(images=count) for count in _numbers(images, "--images", int, least)]
    largest = load_config(preset, parse_overrides(assignments or [])).process.blur_sigma_max or _PAPERS_BLUR
    chosen = _numbers(blurs, "--blurs", float, 0) if blurs is not None else [largest, 0.0]
    for seed, blur, budget in itertools.product(_numbers(seeds, "--seeds", int, 0), chosen, budgets):
        comparison.compare(blur, seed, budget)
    comparison.report()


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"compare.py: {error}")
