"""The tables of docs/restoring.md. Every result is a line of a file; what is in it is not computed again.

    python docs/restore.py thumbnails TEST_IMAGES MODEL --features FILE    # PSNR, SSIM and FD by task and number of calls
    python docs/restore.py wrong TEST_IMAGES MODEL                         # the effect of a wrong blur or noise
    python docs/restore.py photos TRAINING_PHOTOS PHOTOS MODEL...          # whole photos, beside classical methods
    python docs/restore.py camera PHOTOS MODEL                             # photos as a camera gives them
    python docs/restore.py models PHOTOS MODEL... --features FILE          # models beside each other, 5 and 10 calls
    python docs/restore.py blind PHOTOS TEST_IMAGES MODEL                  # estimated blur and noise
    python docs/restore.py picture PHOTOS MODEL OUT                        # the picture of README.md
    python docs/restore.py show FILE...                                    # the tables of what was computed

It needs scikit-image, and the comparisons in `thumbnails` deepinv (0.5): pip install scikit-image deepinv.
"""

from __future__ import annotations

import io
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

from blurcli.base.errors import spelled
from blurcli.core import dct2, idct2
from blurcli.core.camera import from_light, to_light
from blurcli.core.measurements import DctFilter, Mask, Measurement, gaussian_blur
from blurcli.core.restoration import Observation, restore
from blurcli.data.photos import Photo, read_photo
from blurcli.evaluate.distances import frechet_distance
from blurcli.evaluate.features import load_features
from blurcli.evaluate.restoration import degrade, psnr, ssim
from blurcli.model.degradation import degradation_of
from blurcli.model.inference import choose_device
from blurcli.model.pipeline import Pipeline
from blurcli.model.restore_options import RestoreOptions, optics_of
from blurcli.model.restorer import Restorer
from blurcli.model.weights import load_weights
from blurcli.visualize import grid_picture

app = typer.Typer(pretty_exceptions_enable=False)
SIDE = 32
BLURS, NOISES = (1, 2), (2, 6, 25)
CALLS, TEMPERATURES = (3, 5, 10, 20), (0.0, 0.5, 1.0)
DRAWS = 8
SMALL_NOISE = 0.01 * 127.5  # gray levels, where something else than noise is to be undone
Features = Callable[[Tensor], Tensor]


class Results:
    """Lines of JSON in a file, each with the key of what was computed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._known = {json.loads(line)["key"] for line in lines}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def add(self, key: str, compute: Callable[[], dict[str, Any]]) -> None:
        """Compute and write a line, unless it is there."""
        if key in self._known:
            return
        line = json.dumps({"key": key, **compute()})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def tasks() -> dict[str, tuple[Measurement, float]]:
    """Measurement and noise in gray levels by name."""
    ones = torch.ones(SIDE, SIDE, dtype=torch.float64)
    hole = torch.ones(SIDE, SIDE, dtype=torch.bool)
    hole[9:23, 8:24] = False
    scattered = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    blurred = {f"blur {b} px, noise {g}": (gaussian_blur((SIDE, SIDE), float(b)), float(g)) for b in BLURS for g in NOISES}
    return {
        **blurred,
        "enlarged 2 times": (DctFilter(ones, 2), SMALL_NOISE),
        "enlarged 4 times": (DctFilter(ones, 4), SMALL_NOISE),
        "50% missing": (Mask(scattered > 0.5), SMALL_NOISE),
        "70% missing": (Mask(scattered > 0.7), SMALL_NOISE),
        "a hole of 14x16": (Mask(hole), SMALL_NOISE),
    }


@app.command()
def thumbnails(
    images: Path,
    weights: Path,
    features: Annotated[Path, typer.Option()],
    n: int = 256,
    seeds: int = 3,
    out: Path = Path("demo/restore/thumbnails.jsonl"),
    peers: bool = True,
) -> None:
    """PSNR, SSIM and FD of restored test images of the model's size."""
    results, model = Results(out), _model(weights)
    embed = load_features(f"{features}", "clean", torch.device("cpu"))
    x8 = _thumbnails(images, n)
    truth = _embedded(embed, x8)

    def score(restored: Tensor, seconds: float) -> dict[str, Any]:
        levels = _levels(model, restored)
        found = [(psnr(Photo(one), Photo(true)), ssim(Photo(one), Photo(true))) for one, true in zip(levels, x8, strict=True)]
        quality, structure = np.array(found).mean(0).tolist()
        return {
            "psnr": quality,
            "ssim": structure,
            "fd": frechet_distance(*_embedded(embed, levels), *truth),
            "seconds": round(seconds, 1),
        }

    def method(run: Callable[[], Tensor]) -> dict[str, Any]:
        started = time.perf_counter()
        with torch.inference_mode():
            restored = run()
        return score(restored, time.perf_counter() - started)

    x = model.to_model_space(x8)
    for seed in range(seeds):
        for name, (measurement, levels) in tasks().items():
            photos = _observed(x, measurement, levels, seed)
            key = f"{name}|{seed}"
            results.add(f"{key}|wiener|0", partial(method, partial(_wiener, model, photos, x.shape)))
            for calls in CALLS:
                for temperature in TEMPERATURES:
                    draw = partial(_restored, model, photos, x.shape, temperature, calls, seed)
                    results.add(f"{key}|T {temperature:g}|{calls}", partial(method, draw))
            if peers:
                for calls in (10, 20, 100) if seed == 0 else (10, 20):
                    for peer in (ddrm, diffpir):
                        run = partial(peer, model, photos, x.shape, measurement, levels, calls, seed)
                        results.add(f"{key}|{peer.__name__}|{calls}", partial(method, run))
    for name, (measurement, levels) in tasks().items():
        photos = _observed(x, measurement, levels, 0)
        for calls in CALLS:

            def mean(photos: Observation = photos, calls: int = calls) -> Tensor:
                draws = [_restored(model, photos, x.shape, 1.0, calls, seed) for seed in range(DRAWS)]
                return torch.stack(draws).mean(0)

            results.add(f"{name}|0|mean of {DRAWS}|{calls}", partial(method, mean))


@app.command()
def wrong(images: Path, weights: Path, n: int = 256, out: Path = Path("demo/restore/wrong.jsonl")) -> None:
    """The effect of a wrong blur or noise on PSNR, 10 calls."""
    results, model = Results(out), _model(weights)
    x8 = _thumbnails(images, n)
    x = model.to_model_space(x8)
    for blur, levels in ((1.0, 6.0), (2.0, 6.0)):
        given = _observed(x, gaussian_blur((SIDE, SIDE), blur), levels, 0)
        for by_blur, by_noise in ((1, 1), (0.7, 1), (1.4, 1), (1, 0.5), (1, 2)):
            told = replace(given, measurement=gaussian_blur((SIDE, SIDE), blur * by_blur), noise=given.noise * by_noise)
            for temperature in (0.0, 1.0):

                def run(told: Observation = told, temperature: float = temperature) -> dict[str, Any]:
                    with torch.inference_mode():
                        restored = _restored(model, told, x.shape, temperature, 10, 0)
                        levels = _levels(model, restored)
                    quality = [psnr(Photo(one), Photo(true)) for one, true in zip(levels, x8, strict=True)]
                    return {"psnr": statistics.fmean(quality), "residual": float(told.residual(restored).mean())}

                results.add(
                    f"blur {blur:g} px, noise {levels:g}|blur x {by_blur:g}, noise x {by_noise:g}|T {temperature:g}", run
                )


# Whole photos, beside classical methods of scikit-image.

CROP = 256
DAMAGES = {
    **{
        f"blur {b:g} px, noise {g:g}": RestoreOptions(blur=b, noise=g, light="srgb", cropped=False)
        for b in (1.5, 3.0)
        for g in (2.0, 8.0, 40.0)
    },
    "enlarged 2 times": RestoreOptions(enlarge=2, noise=1.0, cropped=False),
}
_PAD = 24


@app.command()
def photos(
    training: Path,
    images: Path,
    weights: list[Path],
    out: Path = Path("demo/restore/photos.jsonl"),
    crop: int = CROP,
    automatic: bool = True,
) -> None:
    """PSNR and SSIM of restored photos (the middle of each), beside classical methods tuned on the training photos."""
    results = Results(out)
    known, unseen = (_middles(folder, crop) for folder in (training, images))
    known = dict([*known.items()][::3])  # of eleven, four
    for name, damage in DAMAGES.items():
        given = {photo: degrade(truth, damage, 0) for photo, truth in unseen.items()}
        learned = [(degrade(truth, damage, 0), truth) for truth in known.values()]
        for method, (run, parameters) in classical(damage).items():
            if f"{name}|{next(iter(unseen))}|{method}" in results:
                continue
            best = max(parameters, key=partial(_mean_psnr, run, learned))
            for photo, truth in unseen.items():
                oracle = max(psnr(run(given[photo], parameter), truth) for parameter in parameters)
                measure = partial(_timed, partial(run, given[photo], best), truth, parameter=best, oracle=oracle)
                results.add(f"{name}|{photo}|{method}", measure)
        for photo, truth in unseen.items():
            if damage.enlarge == 1:
                results.add(f"{name}|{photo}|given", partial(_timed, lambda: given[photo], truth))  # noqa: B023  called at once
            for number, file in enumerate(weights):
                key, restorer = f"{name}|{photo}|{file.stem}", Restorer(_model(file))
                told = {f"T {t:g}": replace(damage, temperature=t) for t in (TEMPERATURES if number == 0 else (0.0,))}
                if automatic and number == 0 and damage.enlarge == 1:
                    told["automatic"] = RestoreOptions(temperature=0.0)  # also of light and borders
                results.add(f"{key} Wiener", partial(_timed, partial(_linear, restorer, given[photo], damage), truth))
                for how, options in told.items():
                    results.add(f"{key} {how}", partial(_timed, partial(_ours, restorer, given[photo], options), truth))


# Models beside each other. A name that ends in -0, -1, ... is a seed of the training.

MODEL_TASKS = ("blur 1.5 px, noise 2", "blur 3 px, noise 8", "enlarged 2 times")
_APART = 16  # px between the windows of SIDE x SIDE pixels whose features are compared


@app.command()
def models(
    images: Path,
    weights: list[Path],
    features: Annotated[Path, typer.Option()],
    out: Path = Path("demo/restore/models.jsonl"),
    crop: int = 192,
) -> None:
    """PSNR, SSIM and FD of restored photos by model, temperature and number of calls; FD is that of all windows together."""
    results, truths = Results(out), _middles(images, crop)
    embed = load_features(str(features), "clean", choose_device("auto"))
    truth = _embedded(embed, _cut(list(truths.values())))
    for file in weights:
        restorer, (model, _, seed) = Restorer(_model(file)), file.stem.rpartition("-")
        for name in MODEL_TASKS:
            given = [degrade(photo, DAMAGES[name], i) for i, photo in enumerate(truths.values())]
            for calls, temperature in ((5, 0.0), (10, 0.0), (5, 1.0), (10, 1.0)):
                options = replace(DAMAGES[name], temperature=temperature, steps=calls)

                def run(restorer: Restorer = restorer, given: list[Photo] = given, options: RestoreOptions = options) -> Any:
                    found = [Photo(np.rint(_ours(restorer, photo, options).pixels.clip(0, 255))) for photo in given]
                    scores = [_timed(lambda: one, true) for one, true in zip(found, truths.values(), strict=True)]  # noqa: B023
                    means = {key: statistics.fmean(score[key] for score in scores) for key in ("psnr", "ssim")}
                    return means | {"fd": frechet_distance(*_embedded(embed, _cut(found)), *truth)}

                results.add(f"{name}|{seed}|{model or seed} T {temperature:g}, {calls} calls", run)


def _cut(photos: list[Photo]) -> np.ndarray[Any, Any]:
    """Windows of SIDE x SIDE pixels of photos of one size."""
    whole = np.stack([photo.pixels for photo in photos])
    windows = np.lib.stride_tricks.sliding_window_view(whole, (SIDE, SIDE), (2, 3))[:, :, ::_APART, ::_APART]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, whole.shape[1], SIDE, SIDE)


# Photos as a camera gives them: blurred in linear light, with shot and read noise, clipped, cut from larger ones, and JPEG.

EXPOSURE, WELL, READ = 1.3, 3000, 5  # highlights are clipped; electrons at white, and of noise
VIEWS = {
    "Gaussian 1.5 px": RestoreOptions(blur=1.5),
    "Gaussian 3 px": RestoreOptions(blur=3.0),
    "disk of 3 px": RestoreOptions(defocus=3.0),
    "sharp": RestoreOptions(blur=0.0),
}
_BEYOND = 24  # px of the scene beyond the border


@app.command()
def camera(
    images: Path,
    weights: Path,
    out: Path = Path("demo/restore/camera.jsonl"),
    crop: int = 192,
    quality: int = 85,
    seeds: int = 1,
    told_noise: float = 3.5,
) -> None:
    """PSNR and SSIM of photos as a camera gives them, restored automatically, and with the true blur and light.

    The same with the blur taken to be of stored values, and the image reflected at the borders, is what `cropped=False` does.
    """
    results, restorer = Results(out), Restorer(_model(weights))
    for seed in range(seeds):
        for name, whole in _middles(images, crop + 2 * _BEYOND).items():
            for view, damage in VIEWS.items():
                given, truth = _photographed(whole, damage, quality, seed)
                known = replace(damage, noise=told_noise, temperature=0.0)
                ways = {
                    "automatic, T 0": RestoreOptions(temperature=0.0),
                    "automatic, T 0.5": RestoreOptions(),
                    "known, T 0": replace(known, light="linear"),
                    "known, of stored values": replace(known, light="srgb"),
                    "known, reflected borders": replace(known, light="linear", cropped=False),
                    "known, of stored values, reflected borders": replace(known, light="srgb", cropped=False),
                }
                results.add(f"{view}|{name} {seed}|given", partial(_timed, lambda: given, truth))  # noqa: B023  called at once
                for way, options in ways.items():
                    run = partial(_ours, restorer, given, options)
                    results.add(f"{view}|{name} {seed}|{way}", partial(_timed, run, truth))


def _photographed(whole: Photo, damage: RestoreOptions, quality: int, seed: int) -> tuple[Photo, Photo]:
    """A photo of a scene, and its truth: the exposed scene without blur and noise."""
    light = EXPOSURE * to_light(torch.from_numpy(whole.pixels)[None] / 255)
    seen = optics_of(damage, (light.shape[-2], light.shape[-1]), 0.0).apply(light)[0].numpy()
    noise = np.random.default_rng(seed).standard_normal(seen.shape)
    seen = seen + noise * np.sqrt(seen.clip(0) / WELL + (READ / WELL) ** 2)
    inside = (slice(None), slice(_BEYOND, -_BEYOND), slice(_BEYOND, -_BEYOND))
    levels, truth = (np.rint(255 * from_light(torch.from_numpy(one).clamp(0, 1)).numpy()) for one in (seen, light[0].numpy()))
    content = io.BytesIO()
    Photo(levels[inside]).picture().save(content, "JPEG", quality=quality)
    return read_photo(content.getvalue(), "x.jpg"), Photo(truth[inside])


def _mean_psnr(run: Callable[[Photo, float], Photo], photos: list[tuple[Photo, Photo]], parameter: float) -> float:
    return statistics.fmean(psnr(run(given, parameter), truth) for given, truth in photos)


@app.command()
def blind(images: Path, thumbnails_of: Path, weights: Path, out: Path = Path("demo/restore/blind.jsonl"), n: int = 48) -> None:
    """Estimated blur and noise of damaged photos of three sizes, and of thumbnails."""
    results, restorer = Results(out), Restorer(_model(weights))
    truths = {str(SIDE): [Photo(pixels.astype(np.float64)) for pixels in _thumbnails(thumbnails_of, n)]}
    for size in (128, 256, 10_000):
        truths[str(size) if size < 10_000 else "whole"] = list(_middles(images, size).values())
    for size, originals in truths.items():
        for kind in ("blur", "defocus"):
            for width in (0.0, 0.7, 1.0, 1.5, 2.0, 3.0):
                for levels in (0.0, 2.0, 6.0, 25.0):
                    damage = RestoreOptions(**{kind: width}, noise=levels)

                    def run(damage: RestoreOptions = damage, originals: list[Photo] = originals) -> dict[str, Any]:
                        found = [
                            degradation_of(restorer.photos, degrade(truth, damage, i), RestoreOptions())
                            for i, truth in enumerate(originals)
                        ]
                        blurs, noises = ([getattr(one, key).value for one in found] for key in ("blur_px", "noise"))
                        return {
                            "blur": np.quantile(blurs, (0.1, 0.5, 0.9)).tolist(),
                            "noise": np.quantile(noises, (0.1, 0.5, 0.9)).tolist(),
                        }

                    if kind == "blur" or width > 0:
                        results.add(f"{size}|{kind} {width:g}|noise {levels:g}", run)


def classical(damage: RestoreOptions) -> dict[str, tuple[Callable[[Photo, float], Photo], tuple[float, ...]]]:
    """Methods that restore a photo by one parameter, and the values to try."""
    from skimage import restoration

    if damage.enlarge > 1:
        ways = {"bicubic": Image.Resampling.BICUBIC, "Lanczos": Image.Resampling.LANCZOS}
        return {name: (partial(_resized, way=way, factor=damage.enlarge), (0.0,)) for name, way in ways.items()}
    reach = math.ceil(4 * (damage.blur or 0))
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * max(damage.blur or 0, 1e-3) ** 2))
    psf = np.outer(line, line) / line.sum() ** 2

    def by_channel(function: Callable[[np.ndarray[Any, Any], float], np.ndarray[Any, Any]]) -> Callable[[Photo, float], Photo]:
        def run(photo: Photo, parameter: float) -> Photo:
            padded = np.pad(photo.pixels / 255, ((0, 0), (_PAD, _PAD), (_PAD, _PAD)), "symmetric")
            found = np.stack([function(channel, parameter) for channel in padded])
            return Photo(found[:, _PAD:-_PAD, _PAD:-_PAD] * 255)

        return run

    noise = (damage.noise or 0) / 255
    return {
        "Richardson-Lucy": (
            by_channel(lambda y, n: restoration.richardson_lucy(y, psf, num_iter=int(n))),
            (2, 5, 10, 20),
        ),
        "Wiener-Hunt": (
            by_channel(lambda y, balance: restoration.wiener(y, psf, balance)),
            tuple(10.0**k for k in np.arange(-4, 1.1, 0.5)),
        ),
        "unsupervised Wiener": (by_channel(lambda y, _: restoration.unsupervised_wiener(y, psf, rng=0)[0]), (0.0,)),
        "total variation": (
            by_channel(lambda y, weight: restoration.denoise_tv_chambolle(y, weight=weight)),
            tuple(noise * k for k in (0.5, 1, 2)),
        ),
        "non-local means": (
            by_channel(lambda y, h: restoration.denoise_nl_means(y, 5, 6, h=h, sigma=noise)),
            tuple(noise * k for k in (0.6, 0.8)),
        ),
    }


def _resized(photo: Photo, _: float, way: Image.Resampling, factor: int) -> Photo:
    height, width = photo.pixels.shape[1:]
    picture = photo.picture().resize((width * factor, height * factor), way)
    return Photo(np.asarray(picture, dtype=np.float64).transpose(2, 0, 1))


def _ours(restorer: Restorer, photo: Photo, options: RestoreOptions) -> Photo:
    return Photo(restorer(photo, options).draws[0])


@torch.inference_mode()
def _linear(restorer: Restorer, photo: Photo, damage: RestoreOptions) -> Photo:
    """The Wiener filter with the model's moments."""
    height, width = photo.pixels.shape[1:]
    space = restorer.photos.space((height * damage.enlarge, width * damage.enlarge))
    x = restorer.model.moments.to_model_space(torch.from_numpy(photo.pixels)[None] / 127.5 - 1)
    seen = optics_of(damage, space.process.shape, 0.0)
    found = Observation(x, seen, torch.tensor([(damage.noise or 0) / 127.5]))
    y = idct2(found.condition(space.mean[None].double(), space.variance))
    return Photo((restorer.model.to_rgb(y)[0].double().numpy() + 1) * 127.5)


def _timed(run: Callable[[], Photo], truth: Photo, **more: Any) -> dict[str, Any]:
    started = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - started
    return {"psnr": psnr(found, truth), "ssim": ssim(found, truth), "seconds": round(seconds, 2), **more}


def _middles(folder: Path, side: int) -> dict[str, Photo]:
    """The middle of every photo in a folder, in color, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64).transpose(2, 0, 1)
        top, left = (max(0, (own - side) // 2) for own in pixels.shape[1:])
        found[path.stem] = Photo(np.ascontiguousarray(pixels[:, top : top + side, left : left + side]))
    return found


PICTURED = {"grace_hopper": (2.0, 4.0, 40, 128), "chelsea": (2.0, 8.0, 22, 97), "astronaut": (0.0, 25.0, 0, 96)}
"""Blur and noise of the photos of docs/restored.png, and the upper left pixel of what is shown."""


@app.command()
def picture(images: Path, weights: Path, out: Path) -> None:
    """Three photos: given, restored with estimated blur and noise, and undamaged."""
    restorer, whole, panels = Restorer(_model(weights)), _middles(images, 10_000), []
    for name, (blur, noise, top, left) in PICTURED.items():
        truth = Photo(whole[name].pixels[:, top : top + CROP, left : left + CROP])
        given = degrade(truth, RestoreOptions(blur=blur, noise=noise), 0)
        found = restorer(given, RestoreOptions())
        restored = Photo(found.draws[0])
        print(f"{name}: PSNR {psnr(given, truth):.2f}, restored {psnr(restored, truth):.2f}; {spelled(found.description, str)}")
        panels += [given, restored, truth]
    levels = np.stack([np.rint(panel.pixels).clip(0, 255).astype(np.uint8) for panel in panels])
    grid_picture(levels, scale=1, titles=("given", "restored", "undamaged")).save(out)


@app.command()
def show(files: list[Path]) -> None:
    """The means over seeds or photos of what was computed, as Markdown."""
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            task, _, method = row["key"].split("|", 2)
            found[task, method].append(row)
        tasks_of, methods = ([*dict.fromkeys(key[i] for key in found)] for i in (0, 1))
        for value in ("psnr", "ssim", "fd", "seconds"):
            if any(value in row for row in rows):
                print(f"\n{file.stem}, {value}\n\n| method | {' | '.join(tasks_of)} |\n|---|{'---|' * len(tasks_of)}")
                for method in methods:
                    cells = [_cell([row[value] for row in found[task, method] if value in row]) for task in tasks_of]
                    print(f"| {method} | {' | '.join(cells)} |")


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) == 3 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _restored(model: Pipeline, photos: Observation, shape: torch.Size, temperature: float, calls: int, seed: int) -> Tensor:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1000 + seed))
    return restore(model.model.denoiser, model.model.space, photos, temperature * w, calls)


def _wiener(model: Pipeline, photos: Observation, shape: torch.Size) -> Tensor:
    space = model.model.space
    return idct2(photos.condition(space.mean.expand(shape).double(), space.variance, 300))


def _observed(x: Tensor, measurement: Measurement, levels: float, seed: int) -> Observation:
    """Photos of images in model space, with noise in gray levels."""
    s = levels / 127.5
    seen = measurement.apply(x.double())
    noise = torch.randn(seen.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = seen + s * noise
    if isinstance(measurement, Mask):
        y = measurement.known * y
    return Observation(y, measurement, torch.tensor([s]))


# The comparisons: deepinv's own code, which works on images in [0, 1], around the same network.


def _vp_denoiser(model: Pipeline, shape: torch.Size) -> Callable[..., Tensor]:
    """`x_hat = denoiser(x, sigma)` of images with white noise, in [0, 1], by a model of blurring diffusion.

    A state of the model has less of the high frequencies than an image with the noise of its time, so these are reduced, and
    the noise that they bring is filled up to that of the state.
    """
    process = model.process

    @torch.inference_mode()
    def denoise(x: Tensor, sigma: Any, **_: Any) -> Tensor:
        ratio = max(2 * float(torch.as_tensor(sigma).flatten()[0]), 1e-6)
        t = process.time_at(torch.tensor(-2 * math.log(ratio), dtype=torch.float64)).reshape(1)
        alpha, s = process.alpha(t), process.sigma(t)
        known = alpha * dct2(model.moments.to_model_space(2 * x.double() - 1))
        missing = (s**2 - (alpha * ratio) ** 2).clamp(min=0).sqrt()
        z = idct2(known + missing * torch.randn(shape, dtype=torch.float64)).float()
        x_hat = model.model.denoiser(z, t.float().expand(len(z)))
        return (model.to_rgb(x_hat) + 1) / 2

    return denoise


def _physics(measurement: Measurement, levels: float, shape: torch.Size) -> Any:
    import deepinv

    noise = deepinv.physics.GaussianNoise(levels / 255)
    make = partial(deepinv.physics.DecomposablePhysics, noise_model=noise)
    if isinstance(measurement, Mask):
        return make(mask=measurement.known.float()[None, None].expand(1, *shape[1:]).clone())
    assert isinstance(measurement, DctFilter)
    if measurement.box == 1:
        transform = {"U": idct2, "U_adjoint": dct2, "V": idct2, "V_adjoint": dct2}
        return make(**transform, mask=measurement.response.float()[None, None].expand(1, *shape[1:]).clone())
    # The singular vectors of box averages: an orthonormal basis of every box, whose first vector is constant.
    box = measurement.box
    places = torch.zeros(shape[-2:])
    places[::box, ::box] = 1 / box

    def blocks(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        rows, columns = x.shape[-2] // box, x.shape[-1] // box
        cut = x.reshape(*x.shape[:-2], rows, box, columns, box).transpose(-3, -2)
        return function(cut).transpose(-3, -2).reshape(x.shape)

    def spread(y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[:-2], *shape[-2:])
        x[..., ::box, ::box] = y
        return x

    return make(
        U=lambda x: x[..., ::box, ::box],
        U_adjoint=spread,
        V=partial(blocks, function=idct2),
        V_adjoint=partial(blocks, function=dct2),
        mask=places[None, None].expand(1, *shape[1:]).clone(),
    )


def _given(model: Pipeline, photos: Observation, measurement: Measurement) -> Tensor:
    """Photos as deepinv gets them: in [0, 1], and missing pixels 0."""
    y = (model.to_rgb(photos.photo.float()) + 1) / 2
    return measurement.known * y if isinstance(measurement, Mask) else y


def ddrm(
    model: Pipeline, photos: Observation, shape: torch.Size, measurement: Measurement, levels: float, calls: int, seed: int
) -> Tensor:
    """DDRM (Kawar et al. 2022, arXiv 2201.11793) as deepinv has it."""
    import deepinv

    torch.manual_seed(seed)
    method = deepinv.sampling.DDRM(_vp_denoiser(model, shape), sigmas=np.linspace(1, 0, calls))
    found = method(_given(model, photos, measurement), _physics(measurement, levels, shape))
    return model.moments.to_model_space(2 * found.float() - 1)


def diffpir(
    model: Pipeline, photos: Observation, shape: torch.Size, measurement: Measurement, levels: float, calls: int, seed: int
) -> Tensor:
    """DiffPIR (Zhu et al. 2023, arXiv 2305.08995) as deepinv has it."""
    import deepinv

    torch.manual_seed(seed)
    method = deepinv.sampling.DiffPIR(_vp_denoiser(model, shape), deepinv.optim.L2(), sigma=levels / 255, max_iter=calls)
    found = method(_given(model, photos, measurement), _physics(measurement, levels, shape))
    return model.moments.to_model_space(2 * found.float() - 1)


def _model(weights: Path) -> Pipeline:
    return Pipeline.from_weights(load_weights(weights), choose_device("auto"))


def _thumbnails(images: Path, n: int) -> np.ndarray[Any, Any]:
    """`n` images of the model's size, evenly spaced, (n, 3, 32, 32) uint8."""
    names = sorted(images.rglob("*.png"))
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, n).astype(int)]
    return np.stack([np.asarray(Image.open(name).convert("RGB")).transpose(2, 0, 1) for name in chosen])


def _levels(model: Pipeline, x: Tensor) -> np.ndarray[Any, Any]:
    return ((model.to_rgb(x.float()).clamp(-1, 1) + 1) * 127.5).round().numpy()


def _embedded(embed: Features, levels: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    found = embed(torch.from_numpy(levels.astype(np.uint8))).double()
    return found.mean(0), found.T.cov()


if __name__ == "__main__":
    app()
