"""Points and filaments as a fluorescence microscope sees them, and how well they are restored: the table of docs/science.md.

    python docs/fluorescence.py training FOLDER       # training images
    blurdiff train --data FOLDER --for restore --hours 0.5 --set 'data.value_range=[0,4095]'
    python docs/fluorescence.py example FOLDER        # what a user has: a photo, an image of a point; and the truth
    python docs/fluorescence.py compare MODEL --light 1    # beside Richardson-Lucy; a line of JSON per image
    python docs/fluorescence.py show                  # the tables of what was computed
    python docs/fluorescence.py count MODEL           # points that are missed, and false
    python docs/fluorescence.py picture MODEL OUT     # the picture of docs/science.md

Images are counts of a camera of 12 bits in TIFFs of 16 bits, with 100 counts where there is no light. It needs scikit-image.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from scipy.ndimage import gaussian_filter, median_filter
from scipy.signal import fftconvolve
from scipy.special import j1

import blurcli as bd
from blurcli.core import idct2
from blurcli.core.restoration import Observation
from blurcli.data.photos import from_picture, read_kernel
from blurcli.model.degradation import degradation_of
from blurcli.model.restore_options import RestoreOptions, optics_of
from blurcli.model.restorer import Restorer
from blurcli.visualize import grid_picture

app = typer.Typer(pretty_exceptions_enable=False)
Array = np.ndarray[Any, Any]
OFFSET, WHITE, GAIN = 100, 4095, 1.5  # counts without light, the largest count, and counts per electron
READ_NOISE = 2.0  # electrons
SHARP_PX, ZERO_PX, PSF_PX = 0.8, 4.5, 32  # deviation of a point in the truth; first zero of the Airy disk; side of its image
SIZE, MARGIN, TUNED, TESTED, SEEDS = 128, 24, 8, 16, 3
ITERATIONS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150)
NOISES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # times the estimated noise
BRIGHT = 600  # counts of a point over its surroundings
ORACLE = "Richardson-Lucy, best for each image"
RESULTS = Path("demo/fluorescence.jsonl")


# Images


def scene(size: int, random: np.random.Generator, rings: bool = False) -> Array:
    """An undamaged image in counts, (size, size): points and filaments, or only rings, on a smooth background."""
    light = np.zeros((size, size))
    for _ in range(random.poisson(size**2 / (700 if rings else 1200))):
        place = random.uniform(0, size, (1, 2))
        if rings:
            angle = np.linspace(0, 2 * np.pi, 200)
            places = place + random.uniform(3, 7) * np.stack([np.sin(angle), np.cos(angle)], 1)
            _add(light, places, random.lognormal(np.log(100), 0.4))
        else:
            _add(light, place, random.lognormal(np.log(3500), 0.4))
    for _ in range(0 if rings else random.poisson(size**2 / 3000)):
        _add(light, _filament(size, random), 0.5 * random.lognormal(np.log(500), 0.4))
    wide = gaussian_filter(random.standard_normal((size, size)), 20, mode="wrap")
    background = 90 + 30 * np.clip(wide / wide.std() + 1, 0, None)
    return OFFSET + GAIN * (gaussian_filter(light, SHARP_PX) + background)


def _filament(size: int, random: np.random.Generator) -> Array:
    """Places along a curve whose direction changes smoothly, (n, 2), half a pixel apart."""
    n = random.integers(60, 400)
    bends = gaussian_filter(random.standard_normal(n), 12, mode="nearest")
    direction = random.uniform(0, 2 * np.pi) + np.cumsum(bends) * 0.15
    steps = np.stack([np.sin(direction), np.cos(direction)], axis=1).cumsum(0) / 2
    return random.uniform(0, size, 2) + steps - steps[n // 2]


def _add(light: Array, places: Array, electrons: float) -> None:
    """Add so many electrons at each place (row, column), shared between four pixels."""
    inside = places[((places >= 0) & (places < np.array(light.shape) - 1)).all(1)]
    corner = inside.astype(int)
    share = inside - corner
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - share[:, 0]) * np.abs(1 - right - share[:, 1])
            np.add.at(light, (corner[:, 0] + down, corner[:, 1] + right), electrons * weight)


def airy(side: int) -> Array:
    """An Airy disk, (side, side), of sum 1."""
    place = np.arange(side) - side // 2
    x = np.maximum(np.hypot(place[:, None], place) * 3.8317 / ZERO_PX, 1e-9)
    disk = (2 * j1(x) / x) ** 2
    return disk / disk.sum()


def point_image() -> Array:
    """What a camera sees of one point: the measured kernel, in counts."""
    random, psf = np.random.default_rng(7), airy(PSF_PX)
    return np.rint(OFFSET + random.poisson(3500 * psf / psf.max()) + random.normal(0, 3, psf.shape)).astype(np.uint16)


def photo_of(truth: Array, light: float, random: np.random.Generator, constant: bool = False) -> Array:
    """A photo of a truth with a margin, without it: counts, uint16.

    Args:
        truth: in counts.
        light: electrons, relative to GAIN; the camera amplifies them to the same counts.
        random: of the noise.
        constant: with normal noise of the same mean variance in all pixels, instead of that of electrons and reading.
    """
    electrons = fftconvolve((truth - OFFSET) / GAIN * light, airy(2 * MARGIN + 1), "same")[MARGIN:-MARGIN, MARGIN:-MARGIN]
    if constant:
        seen = electrons + random.normal(0, np.sqrt(electrons.mean() + READ_NOISE**2), electrons.shape)
    else:
        seen = random.poisson(electrons) + random.normal(0, READ_NOISE, electrons.shape)
    return np.rint(OFFSET + seen * GAIN / light).clip(0, WHITE).astype(np.uint16)


def pairs(first: int, count: int, light: float, kind: str, seeds: int = 1) -> list[tuple[str, Array, Array]]:
    """Name, photo and truth of images that no training image equals."""
    found = []
    for i in range(first, first + count):
        truth = scene(SIZE + 2 * MARGIN, np.random.default_rng([1, i]), kind == "rings")
        for seed in range(seeds):
            photo = photo_of(truth, light, np.random.default_rng([2, i, seed]), kind == "constant")
            found.append((f"{i}.{seed}", photo, truth[MARGIN:-MARGIN, MARGIN:-MARGIN]))
    return found


@app.command()
def training(folder: Path, n: int = 400, size: int = 256) -> None:
    """Write training images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        _write(folder / f"{i:04d}.tif", scene(size, np.random.default_rng([0, i])))


@app.command()
def example(folder: Path, light: float = 1.0) -> None:
    """Write a photo, the image of a point and the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    ((_, photo, truth),) = pairs(TUNED, 1, light, "photons")
    for name, counts in (("cells", photo), ("psf", point_image()), ("truth", truth)):
        _write(folder / f"{name}.tif", counts)


def _write(path: Path, counts: Array) -> None:
    Image.fromarray(np.rint(counts).clip(0, WHITE).astype(np.uint16)).save(path)


# Methods


def richardson_lucy(photo: Array, kernel: Array, iterations: int) -> Array:
    """Of scikit-image, on electrons: it assumes their noise."""
    from skimage.restoration import richardson_lucy

    light = np.pad(photo.astype(float) - OFFSET, MARGIN, "symmetric").clip(0) / WHITE
    found = richardson_lucy(light, kernel, num_iter=iterations, clip=False)
    return OFFSET + WHITE * found[MARGIN:-MARGIN, MARGIN:-MARGIN]


@torch.inference_mode()
def wiener(photo: Array, kernel: Array, noise: float, restorer: Restorer) -> Array:
    """The Wiener filter with the moments of the training images, and noise in gray levels."""
    space = restorer.photos.space((SIZE, SIZE))
    y = restorer.model.moments.to_model_space(torch.from_numpy(photo.astype(float))[None, None] * 2 / WHITE - 1)
    measurement = optics_of(RestoreOptions(kernel=kernel), (SIZE, SIZE), 0.0)
    x = idct2(Observation(y, measurement, torch.tensor([noise / 127.5])).condition(space.mean[None].double(), space.variance))
    return (restorer.model.to_rgb(x)[0, 0].double().numpy() + 1) / 2 * WHITE


def blurdiff(model: bd.Model, photo: Array, **options: Any) -> Array:
    """The draws in counts, (n, H, W)."""
    return model.restore(photo, **options).draws[..., 0].astype(float) / 255 * WHITE


def scores(found: Array, truth: Array) -> dict[str, float]:
    """PSNR and SSIM with the range of the truth, and the root mean square error over the standard deviation of the truth."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    span = np.ptp(truth)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return {
        "psnr": float(peak_signal_noise_ratio(truth, found, data_range=span)),
        "nrmse": float(np.sqrt(((found - truth) ** 2).mean()) / truth.std()),
        "ssim": float(structural_similarity(truth, found, data_range=span, **how)),
    }


@app.command()
def compare(
    weights: Path, light: float = 1.0, kind: str = "photons", draws: int = 8, seeds: int = SEEDS, out: Path = RESULTS
) -> None:
    """Score the methods on test images; kind is photons, constant (normal noise of the same mean variance), or rings."""
    torch.set_num_threads(1)
    model = bd.load(weights)
    restorer, kernel = Restorer(model.pipeline), _kernel()
    tuning, tested = (pairs(first, n, light, kind, s) for first, n, s in ((0, TUNED, 1), (TUNED, TESTED, seeds)))

    def noise_of(photo: Array) -> float:
        known = from_picture(Image.fromarray(photo), value_range=restorer.value_range)
        return degradation_of(restorer.photos, known, RestoreOptions(kernel=kernel)).noise.value

    def restored(photo: Array, noise: float | None = None, **options: Any) -> Array:
        return blurdiff(model, photo, kernel=kernel, noise=noise, **options)

    def tuned(run: Callable[[Array, float, float], Array], parameters: tuple[float, ...]) -> float:
        noisy = [(photo, noise_of(photo), truth) for _, photo, truth in tuning]
        return max(parameters, key=lambda p: statistics.fmean(scores(run(y, s, p), x)["psnr"] for y, s, x in noisy))

    # Each from the photo, its estimated noise in gray levels, and a parameter.
    methods: dict[str, tuple[Callable[[Array, float, float], Array], tuple[float, ...]]] = {
        "given": (lambda y, s, _: y.astype(float), (0.0,)),
        "Richardson-Lucy": (lambda y, s, n: richardson_lucy(y, kernel, int(n)), ITERATIONS),
        "Wiener filter": (lambda y, s, k: wiener(y, kernel, k * s, restorer), NOISES),
        "temperature 0": (lambda y, s, _: restored(y, temperature=0.0)[0], (0.0,)),
        "temperature 0, noise tuned": (lambda y, s, k: restored(y, k * s, temperature=0.0)[0], NOISES),
    }
    chosen = {name: tuned(run, parameters) if len(parameters) > 1 else 0.0 for name, (run, parameters) in methods.items()}
    print(chosen, flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        for name, photo, truth in tested:
            noise, found = noise_of(photo), dict[str, dict[str, Any]]()
            for method, (run, parameters) in methods.items():
                image, seconds = _timed(partial(run, photo, noise, chosen[method]))
                found[method] = {**scores(image, truth), "seconds": seconds, "tuned": chosen[method], "noise": noise}
                if method == "Richardson-Lucy":
                    each = (scores(run(photo, noise, parameter), truth) for parameter in parameters)
                    found[ORACLE] = {**max(each, key=itemgetter("psnr")), "seconds": seconds}
            if draws:
                drawn, seconds = _timed(partial(restored, photo, temperature=1.0, n=draws))
                found[f"mean of {draws} draws"] = {**scores(drawn.mean(0), truth), "seconds": seconds}
                found["one draw"] = {**scores(drawn[0], truth), "seconds": seconds / draws}
            for method, values in found.items():
                file.write(json.dumps({"light": light, "kind": kind, "image": name, "method": method, **values}) + "\n")
            file.flush()
            print(name, {method: round(values["psnr"], 2) for method, values in found.items()}, flush=True)


def _timed(run: Callable[[], Array]) -> tuple[Array, float]:
    started = time.perf_counter()
    found = run()
    return found, time.perf_counter() - started


def _kernel() -> Array:
    """The kernel of `point_image`, as `blurdiff restore --kernel` reads it."""
    Image.fromarray(point_image()).save(content := io.BytesIO(), "TIFF")
    kernel, done = read_kernel(content.getvalue(), "psf.tif")
    print(f"kernel of {kernel.shape}: {', '.join(done)}")
    return kernel


@app.command()
def show(file: Path = RESULTS) -> None:
    """Means over images and seeds, with the standard error over images, as Markdown."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for light, kind in dict.fromkeys((row["light"], row["kind"]) for row in rows):
        print(
            f"\nlight {light:g}, {kind}\n\n| method | PSNR (dB) | NRMSE | SSIM | over Richardson-Lucy (dB) | seconds | tuned |"
        )
        print("|---|---|---|---|---|---|---|")
        found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if (row["light"], row["kind"]) == (light, kind):
                found[row["method"]][row["image"].split(".")[0]].append(row)

        def by_image(method: str, value: str) -> Array:
            return np.array([statistics.fmean(one[value] for one in group) for group in found[method].values()])  # noqa: B023

        for method in found:
            cells = [_cell(by_image(method, value), digits) for value, digits in (("psnr", 2), ("nrmse", 3), ("ssim", 3))]
            ahead = by_image(method, "psnr") - by_image(ORACLE, "psnr")
            seconds = statistics.median(row["seconds"] for group in found[method].values() for row in group)
            tuned = {row["tuned"] for group in found[method].values() for row in group if "tuned" in row}
            print(f"| {method} | {' | '.join(cells)} | {_cell(ahead, 2)} | {seconds:.2f} | {', '.join(map(str, tuned))} |")


def _cell(values: Array, digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / len(values) ** 0.5:.{digits}f}"


@app.command()
def count(weights: Path, lights: tuple[float, float] = (1.0, 0.1), iterations: tuple[int, int] = (30, 7)) -> None:
    """Points per image that are in the truth, missed, and false, by method."""
    torch.set_num_threads(1)
    model, kernel = bd.load(weights), _kernel()
    for light, n in zip(lights, iterations, strict=True):
        found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for _, photo, truth in pairs(TUNED, TESTED, light, "photons"):
            draws = blurdiff(model, photo, kernel=kernel, temperature=1.0, n=8)
            images = {
                "Richardson-Lucy": richardson_lucy(photo, kernel, n),
                "temperature 0": blurdiff(model, photo, kernel=kernel, temperature=0.0)[0],
                "mean of 8 draws": draws.mean(0),
                "one draw": draws[0],
            }
            for method, image in images.items():
                missed, false = _unmatched(truth, image), _unmatched(image, truth)
                found[method].append((len(_peaks(truth, BRIGHT)), missed, false))
        for method, counts in found.items():
            print(f"| light {light:g} | {method} | {' | '.join(_cell(column, 1) for column in np.array(counts).T)} |")


def _peaks(image: Array, least: float) -> Array:
    from skimage.feature import peak_local_max

    return peak_local_max(image - median_filter(image, 15), min_distance=2, threshold_abs=least, exclude_border=4)


def _unmatched(image: Array, other: Array) -> int:
    """Bright points of an image without one of at least a third of the brightness in the other, at most 3 px away."""
    bright, known = _peaks(image, BRIGHT), _peaks(other, BRIGHT / 3)
    away = np.linalg.norm(bright[:, None] - known[None], axis=-1)
    return int((away.min(1, initial=np.inf) > 3).sum())


# Light, kind and iterations of Richardson-Lucy (the best of the tuning images), by row of docs/fluorescence.png.
PICTURED = ((1.0, "photons", 30, TUNED), (0.1, "photons", 7, TUNED), (0.1, "rings", 7, TUNED + 1))


@app.command()
def picture(weights: Path, out: Path) -> None:
    """Photos beside Richardson-Lucy, blurdiff, its spread and the truth; brightness is the root of the counts."""
    model, kernel, panels = bd.load(weights), _kernel(), []
    for light, kind, iterations, number in PICTURED:
        ((_, photo, truth),) = pairs(number, 1, light, kind)
        one = blurdiff(model, photo, kernel=kernel, temperature=0.0)
        draws = blurdiff(model, photo, kernel=kernel, temperature=1.0, n=8)
        shown = (photo, richardson_lucy(photo, kernel, iterations), one[0], draws[0], draws.std(0, ddof=1) + 150, truth)
        panels += [np.sqrt((counts.clip(150) - 150) / 1500).clip(0, 1) * 255 for counts in shown]
    titles = ("photo", "Richardson-Lucy", "temperature 0", "a draw", "spread", "truth")
    grid_picture(np.rint(np.stack(panels))[:, None].astype(np.uint8), scale=1, titles=titles).save(out)


if __name__ == "__main__":
    app()
