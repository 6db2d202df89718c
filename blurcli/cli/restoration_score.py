"""`blurdiff restore --score` and `--demo`: images are damaged, restored, and compared with the originals."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import UsageError, option
from blurcli.workflows.session import read_file

if TYPE_CHECKING:
    from blurcli.base.runs import Run
    from blurcli.model.restore_options import RestoreOptions
    from blurcli.model.restorer import Restorer

_DEMO_PX, _DEMO_CORNER = 256, (40, 128)  # of the sample photo: a square, and its upper left pixel


@dataclass(frozen=True)
class UndamagedImages:
    """The undamaged images, and the features to compare them in.

    Attributes:
        n: their number; None for 256, or all.
        data: --data; None for the run's own.
        split: --split; None for the preset's.
        features: --features; None for `pixels`.
    """

    n: int | None
    data: str | None
    split: str | None
    features: str | None


def score(
    restorer: Restorer, options: RestoreOptions, images: UndamagedImages, run: Run | None, labels: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Damage, restore and compare images, and record the score.

    Args:
        restorer: the model.
        options: the damage, and how it is restored.
        images: the undamaged images.
        run: the run of the model; None for a weights file alone.
        labels: further keys of the score.

    Returns:
        The score, and the text to print.

    Raises:
        UsageError: no damage is given, or there are no such images.
    """
    import numpy as np
    import torch

    from blurcli import evaluate
    from blurcli.base import console, files
    from blurcli.evaluate.metrics import Comparison
    from blurcli.evaluate.restoration import compare
    from blurcli.workflows.scoring import evaluations_path, fetch_features
    from blurcli.workflows.session import chosen_count, reference_images

    if not options.damage:
        raise UsageError(f"{option('score')}: needs the damage, such as {option('blur')} 2 {option('noise')} 6")
    model = restorer.model
    split = images.split or model.config.score.split
    dataset = reference_images(model.config, run, images.data, split)
    count = chosen_count(images.n, dataset)
    truth = np.array(dataset.images[np.linspace(0, len(dataset.images) - 1, count).astype(int)])
    record = evaluations_path(run)
    files.check_writable(record)
    features = fetch_features(images.features or "pixels", "clean", model.device, None)
    started = time.perf_counter()
    with console.progress(f"restoring {count:,} images", count) as update:
        compared = compare(restorer, list(truth), options, update)
    seconds = time.perf_counter() - started
    ours, theirs = (evaluate.measure([torch.from_numpy(pixels)], count, features) for pixels in (compared.restored, truth))
    sampling, several = restorer.sampling(options), options.count > 1
    found: dict[str, Any] = {
        "psnr": compared.psnr,
        "ssim": compared.ssim,
        "psnr_given": compared.psnr_given,
        "restored_fd": Comparison(ours, theirs).frechet,
        "coverage": compared.coverage,
        "coverage_of_means": compared.coverage_of_means,
        "spread_correlation": compared.correlation,
        "damage": options.damage,
        "temperature": options.chosen_temperature,
        "draws": options.count if several else None,
        "n": count,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        **{name: getattr(sampling, name) for name in ("label", "guidance", "guide")},
        "seed": options.seed,
        **labels,
        "weights_sha256": model.digest,
        "network_precision": model.precision,
        "features": features.key,
        "features_sha256": features.sha256,
        "split": split,
        "reference": dataset.name,
        "reference_hash": dataset.fingerprint,
        "device": str(model.device),
        "seconds": round(seconds, 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "hardware": evaluate.hardware(model.device),
        "versions": evaluate.versions(),
    }
    evaluate.record(record, found)
    rows = {
        "PSNR (dB)": f"{compared.psnr:.2f}",
        "PSNR of the damaged images": "" if compared.psnr_given is None else f"{compared.psnr_given:.2f}",
        "SSIM": f"{compared.ssim:.4f}",
        f"FD to the undamaged images ({features.key})": f"{found['restored_fd']:.4f}",
        "pixels within the central 90% (coverage)": "" if compared.coverage is None else f"{compared.coverage:.1%}",
        "means of 8x8 pixels, likewise": "" if compared.coverage_of_means is None else f"{compared.coverage_of_means:.1%}",
        "correlation of spread and error": "" if compared.correlation is None else f"{compared.correlation:.2f}",
        "seconds per image": f"{seconds / count:.2f}",
    }
    text = "\n".join(f"{title}: {value}" for title, value in rows.items() if value)
    draws = f", mean of {options.count} draws" if several else ""
    return found, f"{options.damage}; {count:,} images of {dataset.name}, {sampling.steps} calls{draws}\n{text}"


def demo(restorer: Restorer, options: RestoreOptions, out: Path) -> tuple[dict[str, Any], str]:
    """Degrade and restore Matplotlib's sample photo; returns the result, and the text to print."""
    import numpy as np
    from matplotlib import cbook

    from blurcli.base import console
    from blurcli.data.photos import read_photo
    from blurcli.evaluate.restoration import degrade, psnr
    from blurcli.visualize.comparison import save_comparison

    path = Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    whole = read_photo(read_file(path), str(path))
    side = _DEMO_PX // options.enlarge
    top, left = _DEMO_CORNER
    cut = whole.pixels[:, top : top + side * options.enlarge, left : left + side * options.enlarge]
    photo = replace(whole, pixels=np.ascontiguousarray(cut), exif=None)
    # The part is degraded as it is: its borders are reflected, and blur is that of the stored values.
    options = replace(options, cropped=False, light=options.light or (None if options.only_fills else "srgb"))
    if not (options.has_blur or options.noise is not None or options.enlarge > 1 or options.mask is not None):
        known = replace(options, blur=2.0, noise=4.0)
    else:
        known = options
    restorer.work(replace(photo, pixels=photo.pixels[:, :side, :side]), options)  # checks the options first
    given = degrade(photo, known, seed=0)
    with console.progress("restoring the sample photo", restorer.work(given, options, compared=True)) as update:
        restored, spread = restorer.compared(given, options, update)
    console.notify(f"the sample photo: {restored.description}")
    result = photo.with_pixels(restored.mean if options.mean else restored.draws[0])
    save_comparison(given, result, spread, out, photo)
    alike = given.pixels.shape == photo.pixels.shape
    scores = {"psnr_given": psnr(given, photo) if alike else None, "psnr": psnr(result, photo)}
    text = "" if scores["psnr_given"] is None else f" (given: {scores['psnr_given']:.2f})"
    return {"out": str(out), **restored.facts, **scores}, f"{out}\nPSNR {scores['psnr']:.2f} dB{text}"
