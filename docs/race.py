"""blurdiff beside the libraries that people choose instead: the same images, budget, precision and about the same size.

    git clone https://github.com/NVlabs/edm
    pip install diffusers denoising-diffusion-pytorch k-diffusion "setuptools<70"
    python docs/race.py run OUT IMAGES --features FILE --edm edm --seeds 0,1,2
    python docs/race.py table OUT                              # the table of what was computed

The networks, losses, optimizers and samplers of the others are called by `race_peers.py` beside this. All get the same batches,
which are only mirrored. Each is trained by two recipes: `own`, with the learning rate, decay and average that it publishes (a
length stated as a part of its training is a part of the budget), and `tuned`, with the preset's warm-up, decay and average, and
the learning rate of `--lrs` with the best distance of seed 0. Ours has its preset only. The sampler is chosen by seed 0, too.

Every training is a process of its own, and several commands can share OUT: what is in OUT/results.jsonl is not done again.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from race_peers import CONTESTANTS, Peer, Task
from safetensors.torch import load_file, save_file

from blurcli.base import files
from blurcli.base.errors import LockedError, UsageError, UserError, did_you_mean
from blurcli.base.memory import keep_freed_memory
from blurcli.base.tables import write_table
from blurcli.config import load_config, parse_overrides, resolve_source, to_json
from blurcli.data import load_dataset
from blurcli.evaluate import Scorer, StoredImages, hardware, image_reference, load_features
from blurcli.evaluate.paired import Spread
from blurcli.model.inference import choose_device, resolve_precision
from blurcli.visualize import save_grid

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_GRID = 64  # images
_MIDDLE = 35  # calls, about, at which learning rates and samplers are chosen
Row = dict[str, Any]


def results(out: Path) -> list[Row]:
    """The lines of a race."""
    return files.json_lines(out / "results.jsonl")


def perform(task: Task) -> None:
    """Train, unless that is done; draw, score and keep what is not yet in the results."""
    missing = _missing(task)
    if not missing:
        return
    contestant, data = CONTESTANTS[task.peer](task), task.config().data
    dataset = load_dataset(task.data, "train", data.image_size, data.channels)
    path, on_gpu = task.folder / "training.json", contestant.device.type == "cuda"
    if not path.exists():
        took = contestant.train(dataset)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if platform.system() == "Darwin" else 10)
        took["mib"] = torch.cuda.max_memory_allocated() >> 20 if on_gpu else peak
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps(took), encoding="utf-8")
    training = json.loads(path.read_text(encoding="utf-8"))
    scorers = []
    for features in (load_features(name, "clean", contestant.device) for name in (task.features, "pixels")):
        reference = image_reference(dataset, "train", features, lambda done: None)
        scorers.append(Scorer(features, reference, contestant.device))
    for sampler, about in missing:
        begun = task.clock()
        images = torch.cat([*contestant.draw(sampler, about)])
        seconds = task.clock() - begun
        with files.replacing(_first(task.folder, sampler, about)) as temporary:
            save_file({"images": images[:_GRID].clone()}, temporary)
        score, pixels = (one.score(StoredImages([images], len(images), {}), lambda done: None) for one in scorers)
        row = {**task.key, "sampler": sampler, "about": about, "calls": contestant.calls(sampler, about), "n": task.n}
        row |= {"fd": score[scorers[0].metric], "fd_pixels": pixels["fd"], "features": scorers[0].features.key}
        row |= {"precision": score["precision"], "recall": score["recall"], **training}
        row |= {"images_per_sec": training["images"] / training["seconds"], "seconds_per_1000": 1000 * seconds / task.n}
        row |= {"network_precision": resolve_precision(contestant.config, contestant.device)}
        row |= {"hardware": hardware(contestant.device), "folder": task.folder.name, "versions": score["versions"]}
        files.append_json_line(Path(task.out) / "results.jsonl", row)
        print(json.dumps(row), flush=True)


def _missing(task: Task) -> list[tuple[str, int]]:
    """The draws of a task that are not in the results."""
    known = [(row["sampler"], row["about"]) for row in results(Path(task.out)) if task.key.items() <= row.items()]
    return [(sampler, about) for sampler, about in task.draws if (sampler, about) not in known]


def _first(folder: Path, sampler: str, about: int) -> Path:
    """The first images of a training by a sampler."""
    return folder / f"first-{sampler}-{about}.safetensors"


@app.command(hidden=True)
def one(task: str) -> None:
    """Perform a task, given as JSON."""
    keep_freed_memory()
    perform(Task(**json.loads(task)))


def _in_own_process(task: Task) -> None:
    """Perform a task, unless it is done or another command performs it."""
    if not _missing(task):
        return
    try:
        with files.locked(task.folder, "racing", print):
            command = [sys.executable, __file__, "one", json.dumps(asdict(task))]
            if code := subprocess.run(command, env=os.environ | {"TQDM_DISABLE": "1"}).returncode:
                raise UserError(f"{task.folder}: its process ended with {code}")
    except LockedError as error:
        print(f"left out: {error}", flush=True)


def middle(abouts: Iterable[int]) -> int:
    """The number of calls at which learning rates and samplers are chosen."""
    return min(abouts, key=lambda about: abs(about - _MIDDLE))


def best_rate(rows: list[Row], peer: str, budget: str, lrs: list[float] | None = None) -> float | None:
    """The learning rate with the best distance of seed 0, by its best sampler; None while some of `lrs` have none."""
    rows = [row for row in rows if (row["peer"], row["budget"], row["recipe"], row["seed"]) == (peer, budget, "tuned", 0)]
    if not rows:
        return None
    at = middle(row["about"] for row in rows)
    rows = [row for row in rows if row["about"] == at and (lrs is None or row["lr"] in lrs)]
    if lrs is not None and {*lrs} - {row["lr"] for row in rows}:
        return None
    return float(min(rows, key=lambda row: row["fd"])["lr"])


def _entered(chosen: str | None, edm: str | None) -> list[str]:
    """The contestants; all that can be imported, unless some are named.

    Raises:
        UsageError: one that is named is unknown, or cannot be imported.
    """
    names = [*CONTESTANTS] if chosen is None else chosen.split(",")
    entered = []
    for name in names:
        if name not in CONTESTANTS:
            raise UsageError(f"--peers {name}: must be some of {', '.join(CONTESTANTS)}{did_you_mean(name, CONTESTANTS)}")
        try:
            CONTESTANTS[name].check(edm)
            entered.append(name)
        except UserError as error:
            if chosen is not None:
                raise UsageError(f"--peers {error.text}") from None
            print(f"left out: {error}", flush=True)
    return entered


def _numbers(text: str, flag: str, kind: type[int] | type[float], least: float) -> list[Any]:
    """The numbers of a list with commas; UsageError for anything else, or one below `least`."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not min(numbers) >= least:
        raise UsageError(f"{flag} {text}: write numbers of at least {least:g}, with commas between them")
    return numbers


def _keep_settings(out: Path, task: Task, fingerprint: str) -> None:
    """Write down what all trainings of a race share; UsageError where the folder says something else."""
    path = out / "settings.json"
    settings = {"preset": to_json(task.config()), "data": fingerprint, "features": task.features, "n": task.n}
    settings["cpu_clock"] = task.cpu_clock
    if not path.exists():
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    known = json.loads(path.read_text(encoding="utf-8"))
    if different := [key for key in settings if known.get(key) != settings[key]]:
        raise UsageError(f"{out}: was raced with another {' and '.join(different)}; name another folder")


def _tasks(base: Task, recipes: list[str], seeds: list[int], lrs: list[float], calls: list[int]) -> Iterator[Task]:
    """The trainings of a contestant at a budget, one after another, because the results of some decide on others."""
    kind = CONTESTANTS[base.peer]
    draws = [(sampler, about) for about in calls for sampler in kind.samplers]
    if not issubclass(kind, Peer):
        yield from _of_seeds(replace(base, recipe="own", lr=base.config().optim.lr, draws=draws), seeds)
        return
    if "own" in recipes:
        yield from _of_seeds(replace(base, recipe="own", lr=kind.lr, draws=draws), seeds)
    if "tuned" not in recipes:
        return
    base = replace(base, recipe="tuned")
    if 0 in seeds:
        at = [(sampler, about) for sampler, about in draws if about == middle(calls)]
        yield from (replace(base, lr=lr, seed=0, draws=at) for lr in lrs)
    best = best_rate(results(Path(base.out)), base.peer, base.key["budget"], lrs)
    if best is None:
        print(f"left out: {base.peer}, tuned: its learning rates have no results of seed 0 yet; run this again", flush=True)
        return
    yield from _of_seeds(replace(base, lr=best, draws=draws), seeds)


def _of_seeds(base: Task, seeds: list[int]) -> Iterator[Task]:
    """A training by several seeds; those after seed 0 are drawn from by the samplers that are best in seed 0."""
    for task in (replace(base, seed=seed) for seed in seeds):
        rows = [row for row in results(Path(base.out)) if replace(base, seed=0).key.items() <= row.items()]
        best = {about: _best(rows, about)[0]["sampler"] for about in {row["about"] for row in rows}} if task.seed else {}
        yield replace(task, draws=[(sampler, about) for sampler, about in task.draws if best.get(about, sampler) == sampler])


@app.command()
def run(
    out: Annotated[Path, typer.Argument(help="Folder for networks, results and the table; continued where it is there.")],
    data: Annotated[str, typer.Argument(help="Training images: a folder, or a dataset's name.")],
    features: Annotated[str, typer.Option(help="As for blurdiff fid: inception, pixels or a file.")],
    preset: Annotated[str, typer.Option(help="Ours; the others have its size.")] = "docs/studies/faster-16.yaml",
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset.")] = None,
    edm: Annotated[Path | None, typer.Option(help="Checkout of EDM.")] = None,
    peers: Annotated[str | None, typer.Option(help="Like ours,edm. [default: all that can be imported]")] = None,
    recipes: Annotated[str, typer.Option(help="own, tuned or both.")] = "own,tuned",
    lrs: Annotated[str, typer.Option(help="Learning rates of the recipe tuned.")] = "2.5e-4,1e-3,4e-3",
    seeds: Annotated[str, typer.Option(help="Like 0,1,2.")] = "0",
    images: Annotated[str | None, typer.Option(help="Training images, like 64000. [default: 64000 without --seconds]")] = None,
    seconds: Annotated[str | None, typer.Option(help="Seconds of training steps, like 300: trainings of their own.")] = None,
    calls: Annotated[str, typer.Option(help="Network calls, about.")] = "20,35,100",
    n: Annotated[int, typer.Option(help="Samples of a score.")] = 2000,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "auto",
    cpu_clock: Annotated[
        bool, typer.Option("--cpu-clock", help="Measure CPU time: for one thread, on a machine that has other work.")
    ] = False,
) -> None:
    """Train, draw and score; print every result and, in the end, the table."""
    source, checkout = resolve_source(data), None if edm is None else str(edm.absolute())
    names, chosen = _entered(peers, checkout), recipes.split(",")
    if not {*chosen} <= {"own", "tuned"}:
        raise UsageError(f"--recipes {recipes}: must be own, tuned, or both with a comma")
    if features not in ("inception", "pixels"):
        features = str(Path(features).absolute())
        if not Path(features).is_file():
            raise UsageError(f"--features {features}: no such file")
    limits: list[tuple[int | None, float | None]] = []
    if images is not None or seconds is None:
        limits += [(count, None) for count in _numbers(images or "64000", "--images", int, 1)]
    if seconds is not None:
        if load_config(preset, parse_overrides(assignments or [])).optim.cooldown:
            raise UsageError("--seconds: optim.cooldown needs a known number of steps; use --images")
        limits += [(None, count) for count in _numbers(seconds, "--seconds", float, 1e-3)]
    rates, first = _numbers(lrs, "--lrs", float, 1e-9), (f"{out.absolute()}", source, preset, assignments or [], features)
    base = Task(*first, choose_device(device).type, checkout, n, cpu_clock, names[0], "own", rates[0], 0, *limits[0], [])
    config = base.config()
    if config.data.classes is not None:
        raise UsageError(f"--preset {preset}: has classes, and the others know none here; add --set data.classes=null")
    dataset = load_dataset(source, "train", config.data.image_size, config.data.channels)
    numbers, counts = _numbers(seeds, "--seeds", int, 0), _numbers(calls, "--calls", int, 3)
    _keep_settings(out, base, dataset.fingerprint)
    for limit in limits:
        for name in names:
            at = replace(base, peer=name, images=limit[0], seconds=limit[1])
            for task in _tasks(at, chosen, numbers, rates, counts):
                _in_own_process(task)
    table(out)


@app.command()
def table(out: Path) -> None:
    """Write and print OUT/table.md, and write OUT/grid-PEER.png: samples of seed 0 by the best recipe and sampler."""
    rows = results(out)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["recipe"] == "own" or row["lr"] == best_rate(rows, row["peer"], row["budget"]):
            groups.setdefault((row["budget"], row["peer"], row["recipe"]), []).append(row)
    abouts = sorted({row["about"] for row in rows})
    if not abouts:
        raise UsageError(f"{out}: has no results")
    columns = ["budget", "library", "recipe", "lr", "seeds", "M parameters", *(f"FD, about {about} calls" for about in abouts)]
    columns += ["FD of pixels", "precision", "recall", "training images/s", "s per 1,000 samples", "MiB"]
    lines = []
    for (budget, peer, recipe), own in groups.items():
        chosen = {about: _best(own, about) for about in abouts}
        at = chosen.get(middle(abouts), [])
        seeds = len({row["seed"] for row in own})
        cells = [f"{own[0]['lr']:g}", f"{seeds}", f"{own[0]['parameters'] / 1e6:.2f}"]
        cells += [
            f"{_text(one, 'fd')} ({one[0]['sampler']}, {one[0]['calls']})" if one else "" for one in map(chosen.get, abouts)
        ]
        cells += [_text(at, key) for key in ("fd_pixels", "precision", "recall", "images_per_sec", "seconds_per_1000", "mib")]
        order = Spread({row["seed"]: row["fd"] for row in at}).mean if at else float("inf")
        lines.append((budget, order, [budget, peer, recipe, *cells]))
    written = write_table(columns, [line for _, _, line in sorted(lines)], "markdown")
    with files.replacing(out / "table.md") as temporary:
        temporary.write_text(written, encoding="utf-8")
    print(written, end="")
    for peer in {row["peer"] for row in rows}:
        of_seed = [row for row in rows if (row["peer"], row["seed"], row["about"]) == (peer, 0, middle(abouts))]
        if of_seed:
            best = min(of_seed, key=lambda row: row["fd"])
            first = load_file(_first(out / best["folder"], best["sampler"], best["about"]))["images"]
            save_grid(first.numpy(), out / f"grid-{peer}.png")


def _best(rows: list[Row], about: int) -> list[Row]:
    """The rows at about so many calls of the sampler with the smallest distance in the first seed."""
    rows = [row for row in rows if row["about"] == about]
    first = min(rows, key=lambda row: (row["seed"], row["fd"]), default=None)
    return [row for row in rows if first is not None and row["sampler"] == first["sampler"]]


def _text(rows: list[Row], key: str) -> str:
    """Mean ± standard deviation over the seeds."""
    return Spread({row["seed"]: float(row[key]) for row in rows}).text if rows else ""


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        print(f"race.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
