"""A measure and a reference: what turns images into a score."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import blurcli
from blurcli import download, files
from blurcli.data import Dataset
from blurcli.data.cache import cache_folder
from blurcli.distributed import ALONE, Team
from blurcli.errors import UsageError, UserError
from blurcli.evaluate import distances, inception
from blurcli.evaluate.features import Features
from blurcli.evaluate.statistics import Statistics, array_batches, contribute, measure, part_size
from blurcli.model import Model, to_uint8

_VERSION = "1"  # of cached statistics: raise it when more is kept, or other values
_PUBLISHED_NAME = re.compile(r"cleanfid:(?P<data>[\w-]+)(:(?P<size>\d+|na))?(:(?P<split>\w+))?")
_PUBLISHED_URL = "https://www.cs.cmu.edu/~clean-fid/stats/"


@dataclass(frozen=True)
class Reference:
    """What images are compared with.

    Attributes:
        name: how a message calls it.
        hash: of what it was measured from.
        statistics: of its images; with a count of 0 where their number is not known.
        split: `train` or `test`, or what else a publisher calls it.
    """

    name: str
    hash: str
    statistics: Statistics
    split: str


@dataclass(frozen=True)
class Judge:
    """A measure and a reference: what turns images into a line of evaluations.jsonl.

    Attributes:
        features: what the images are seen by.
        reference: what they are compared with.
        device: where networks run.
    """

    features: Features
    reference: Reference
    device: torch.device

    @property
    def metric(self) -> str:
        """The key of the Frechet distance: "fid", or "fd" in other features than Inception's."""
        return self.features.metric

    @property
    def protocol(self) -> dict[str, Any]:
        """What a score must name of the measure and the reference, to be taken again."""
        return {
            "reference": self.reference.name,
            "reference_images": self.reference.statistics.count or None,
            "reference_hash": self.reference.hash,
            "split": self.reference.split,
            "features": self.features.key,
            "features_sha256": self.features.sha256,
            "mode": self.features.mode,
            "device": str(self.device),
        }

    def check_enough(self, count: int, what: str = "--n", otherwise: str = "--force scores all the same") -> None:
        """UsageError where so few images are asked for, or are in the reference, that their covariance is singular.

        Args:
            count: of the images to be scored.
            what: how the user calls that number.
            otherwise: the way out besides taking more.
        """
        dimensions = len(self.reference.statistics.mean)
        known = self.reference.statistics.count
        for number, whose in ((count, f"{what} {count}"), (known, f"{self.reference.name}: {known} images")):
            if 0 < number <= dimensions:
                raise UsageError(
                    f"{whose}: too few for the {dimensions:,} features of {self.features.key}: the covariance of no more than "
                    f"{dimensions:,} images is singular, and the distance far too high: take more; {otherwise}"
                )

    def score(
        self,
        batches: Iterable[Tensor],
        count: int,
        protocol: dict[str, Any],
        on_batch: Callable[[int], None],
        team: Team = ALONE,
        size: int = 0,
    ) -> dict[str, Any]:
        """The score of `count` images in uint8 batches (B, C, H, W), and all that must be known of it.

        Args:
            protocol: how the images were made.
            on_batch: gets the number of images so far.
            team: see `measure`.
            size: see `measure`.
        """
        started = time.perf_counter()
        statistics = measure(batches, count, self.features, on_batch, team, size)
        return {
            **self._distances(statistics),
            "n": statistics.count,
            **protocol,
            **self.protocol,
            "seconds": round(time.perf_counter() - started, 1),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "hardware": hardware(self.device),
            "versions": versions(),
            "size": list(statistics.power.shape) if statistics.power is not None else None,
            "spectrum": _rounded(statistics.power),
            "reference_spectrum": _rounded(self.reference.statistics.power),
        }

    def score_model(
        self,
        model: Model,
        protocol: dict[str, Any],
        on_batch: Callable[[int], None],
        *,
        batch_size: int | None = None,
        team: Team = ALONE,
        **labels: str,
    ) -> dict[str, Any]:
        """The score of the images that a model makes by a protocol, that of `model_protocol`.

        Args:
            batch_size: images in flight at a time; by default the preset's.
            team: the processes that share the work; the others `contribute_images`.
            labels: what the line shall say besides.
        """
        size = _shared_batch(model, protocol["n"], batch_size, team)
        images = _images(model, protocol, size, team)
        return self.score(images, protocol["n"], {**labels, **protocol}, on_batch, team, size)

    def _distances(self, ours: Statistics) -> dict[str, float | None]:
        """Every distance that what is known of the reference allows; the others are None."""
        reference, kernel = self.reference.statistics, self.features.kernel_metric
        moments = ours.mean, ours.covariance, reference.mean, reference.covariance
        values: dict[str, float | None] = {self.metric: distances.frechet_distance(*moments)}
        values |= dict.fromkeys((kernel, f"{kernel}_std", "precision", "recall", "log_spectral_distance"))
        if ours.features is not None and reference.features is not None:
            values[kernel], values[f"{kernel}_std"] = distances.kernel_distance(ours.features, reference.features)
            if ours.radii is not None and reference.radii is not None:
                manifolds = ours.features, ours.radii, reference.features, reference.radii
                values["precision"], values["recall"] = distances.precision_recall(*manifolds)
        if ours.power is not None and reference.power is not None and ours.power.shape == reference.power.shape:
            values["log_spectral_distance"] = distances.log_spectral_distance(ours.power, reference.power)
        return values


def model_protocol(model: Model, step: int, n: int, seed: int, solver: dict[str, Any]) -> dict[str, Any]:
    """What a score must name of `n` images of a model after `step` training steps, to be taken again.

    Args:
        seed: of the images 0 to n - 1.
        solver: sampler, steps, eta and the rest, as from `Model.solver`.
    """
    return {
        "n": n,
        "weights_sha256": model.digest,
        "step": step,
        **solver,
        "calibrated": model.calibrated,
        "seed": seed,
        "images": f"0-{n - 1}",
    }


def contribute_images(
    model: Model, protocol: dict[str, Any], features: Features, team: Team, batch_size: int | None = None
) -> None:
    """This process's part of what `Judge.score_model` does on the first process of the team; arguments as there."""
    size = _shared_batch(model, protocol["n"], batch_size, team)
    contribute(_images(model, protocol, size, team), features, team)


def _shared_batch(model: Model, count: int, batch_size: int | None, team: Team) -> int:
    """Images in flight at a time: with a team, the same on all processes, and in whole parts of a measurement."""
    size = batch_size or model.batch_size
    if team.size == 1:
        return size
    part = part_size((model.config.data.channels, *model.config.data.image_size))
    return part * max(1, min(team.least(size), -(-count // team.size)) // part)


def _images(model: Model, protocol: dict[str, Any], batch_size: int, team: Team) -> Iterator[Tensor]:
    how = {key: protocol[key] for key in ("seed", "sampler", "steps", "eta", "delta", "label", "guidance")}
    return map(to_uint8, model.generate(protocol["n"], batch_size=batch_size, team=team, **how))


def _rounded(power: Tensor | None) -> list[float] | None:
    """A radial power spectrum to the digits that a plot needs."""
    return None if power is None else [float(f"{value:.4g}") for value in distances.radial_spectrum(power)[0].tolist()]


def image_reference(dataset: Dataset, split: str, features: Features, on_batch: Callable[[int], None]) -> Reference:
    """The statistics of a dataset's `split`, kept in the cache under the hash of (data, split, size, features)."""
    key = hashlib.blake2b(f"{_VERSION}/{dataset.fingerprint}/{features.key}".encode(), digest_size=16).hexdigest()
    path = cache_folder() / "statistics" / f"{key}.npz"
    statistics = Statistics.load(path)
    if statistics is None:
        files.check_writable(path)
        statistics = measure(array_batches(dataset.images), len(dataset.images), features, on_batch)
        statistics.save(path)
    return Reference(dataset.name, dataset.fingerprint, statistics, split)


def file_reference(name: str, features: Features, height: int, split: str, progress: download.Progress) -> Reference:
    """Statistics as clean-fid publishes them: `cleanfid:NAME[:SIZE[:SPLIT]]`, by default of the images' height and `split`.

    Only moments are published there, so only the FID can be taken against them.

    Raises:
        UsageError: a name of another form, or features that are not Inception's.
        UserError: they cannot be downloaded.
    """
    parts = _PUBLISHED_NAME.fullmatch(name)
    if parts is None:
        raise UsageError(
            f"--reference {name}: write cleanfid:NAME[:SIZE[:SPLIT]], such as cleanfid:cifar10 or cleanfid:ffhq:256:trainval70k"
        )
    if features.mode is None:
        raise UsageError(f"--reference {name}: holds statistics of Inception's features, not of {features.key}")
    split = (parts["split"] or split).lower()
    file = f"{parts['data']}_{features.mode}_{split}_{parts['size'] or height}.npz".lower()
    path = cache_folder() / "cleanfid" / file
    if not path.is_file():
        try:
            download.fetch(_PUBLISHED_URL + file, path, _read_published, progress)
        except UserError as error:
            raise UserError(
                f"--reference {name}: {error}. Without a network, put {file} at {path}, or measure a reference here: --data"
            ) from None
    digest = download.verify(path)
    return Reference(f"{name} ({file})", digest, _read_published(path), split)


def _read_published(path: Path) -> Statistics:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[key]).double() for key in ("mu", "sigma"))
        if len(mean) != inception.DIMENSIONS:
            raise ValueError(f"of {len(mean)} features instead of {inception.DIMENSIONS}")
        return Statistics(0, mean, covariance)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of statistics ({error})") from None


def versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "pillow", "clean-fid")}
    return {"blurdiff": blurcli.__version__, **packages}


def hardware(device: torch.device) -> str:
    """The processor that does the arithmetic, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"
