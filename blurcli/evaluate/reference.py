"""Reference statistics: measured on a dataset and cached, or published by clean-fid."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blurcli.base import downloads, files
from blurcli.base.cache import cache_folder
from blurcli.base.errors import UsageError, UserError, option
from blurcli.data import Dataset
from blurcli.evaluate import inception
from blurcli.evaluate.features import Features
from blurcli.evaluate.statistics import Statistics, array_batches, measure

_VERSION = "1"  # of cached statistics; raise it when their content changes
_PUBLISHED_NAME = re.compile(r"cleanfid:(?P<data>[\w-]+)(:(?P<size>\d+|na))?(:(?P<split>\w+))?")
_PUBLISHED_URL = "https://www.cs.cmu.edu/~clean-fid/stats/"


@dataclass(frozen=True)
class Reference:
    """The images that others are compared with.

    Attributes:
        name: their name in messages.
        hash: hash of the data, or of the published file.
        statistics: of the images; the count is 0 if their number is unknown.
        split: `train`, `test`, or another name of the publisher.
    """

    name: str
    hash: str
    statistics: Statistics
    split: str


def image_reference(dataset: Dataset, split: str, features: Features, on_batch: Callable[[int], None]) -> Reference:
    """The reference of a dataset's `split`, cached under the hash of (data, split, size, features).

    Args:
        dataset: the images.
        split: its name in the score.
        features: the feature extractor.
        on_batch: receives the number of images done; it is not called for cached statistics.

    Raises:
        UsageError: a single image.
        UserError: the cache cannot be written, or features are not finite.
    """
    if len(dataset.images) < 2:
        raise UsageError(
            f"{dataset.name}: has one image; a reference needs at least two, and for a score that means something "
            f"many more: name other images with {option('data')}"
        )
    key = hashlib.blake2b(f"{_VERSION}/{dataset.fingerprint}/{features.key}".encode(), digest_size=16).hexdigest()
    path = cache_folder() / "statistics" / f"{key}.npz"
    statistics = Statistics.load(path)
    if statistics is None:
        files.check_writable(path)
        statistics = measure(array_batches(dataset.images), len(dataset.images), features, on_batch)
        statistics.save(path)
    return Reference(dataset.name, dataset.fingerprint, statistics, split)


def published_reference(name: str, features: Features, height: int, split: str, progress: downloads.Progress) -> Reference:
    """Published statistics of clean-fid: mean and covariance, which only the FID needs.

    Args:
        name: `cleanfid:NAME[:SIZE[:SPLIT]]`.
        features: Inception.
        height: the default SIZE, in pixels.
        split: the default SPLIT.
        progress: receives the bytes of the download.

    Raises:
        UsageError: a name in another form, or features other than Inception's.
        UserError: the download fails.
    """
    parts = _PUBLISHED_NAME.fullmatch(name)
    if parts is None:
        raise UsageError(
            f"{option('reference')} {name}: unknown form; write cleanfid:NAME[:SIZE[:SPLIT]], such as cleanfid:cifar10 or "
            "cleanfid:ffhq:256:trainval70k"
        )
    if features.mode is None:
        raise UsageError(
            f"{option('reference')} {name}: holds statistics of Inception's features, not of {features.key}; use "
            f"{option('features')} inception"
        )
    split = (parts["split"] or split).lower()
    file = f"{parts['data']}_{features.mode}_{split}_{parts['size'] or height}.npz".lower()
    path = cache_folder() / "cleanfid" / file
    if not path.is_file():
        try:
            downloads.fetch(_PUBLISHED_URL + file, path, _read_published, progress)
        except downloads.DownloadError as error:
            raise UserError(
                f"{option('reference')} {name}: cannot be downloaded: {error.reason}. Measure a reference with "
                f"{option('data')}, or put {file} at {path} (from {error.url})"
            ) from None
    digest = downloads.verify(path)
    return Reference(f"{name} ({file})", digest, _read_published(path), split)


def _read_published(path: Path) -> Statistics:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[key]).double() for key in ("mu", "sigma"))
        if len(mean) != inception.DIMENSIONS:
            raise ValueError(f"{len(mean)} features instead of {inception.DIMENSIONS}")
        return Statistics(0, mean, covariance)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of statistics ({error})") from None
