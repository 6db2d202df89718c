"""Datasets that torchvision downloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from blurcli.base.cache import cache_folder
from blurcli.base.downloads import network_reason
from blurcli.base.errors import UserError, one_line, option
from blurcli.config.source_names import TORCHVISION_DATASETS
from blurcli.data.dataset import Dataset, Request
from blurcli.data.images import Pixels, fit
from blurcli.data.packed_cache import digest_of, load_packed, pack


def load_torchvision(request: Request) -> Dataset:
    """Load one of `TORCHVISION_DATASETS`, downloaded unless it is in the cache.

    Raises:
        UsageError: the number of classes differs from the request.
        UserError: the download failed, or the cache cannot be written.
    """
    fingerprint = _fingerprint(request)
    images = load_packed(fingerprint, request.shape)
    if images is None:
        images = pack(_decoded(request), request.shape, lambda: fingerprint)
    dataset = Dataset(images, fingerprint, f"{request.source} {request.split}")
    if request.classes is None:
        return dataset
    original = _original(request)
    return dataset.with_classes(np.array(original.targets, np.int64), tuple(original.classes), request.classes)


def is_packed(request: Request) -> bool:
    """Whether these images are in the cache, so that nothing is downloaded."""
    return load_packed(_fingerprint(request), request.shape) is not None


def _fingerprint(request: Request) -> str:
    return digest_of(f"{request.source}/{request.split}/{request.form}")


def _original(request: Request) -> Any:
    """The dataset as torchvision provides it: pairs of a Pillow image and a class."""
    import torchvision  # takes seconds, and packed images do not need it

    root, name = cache_folder() / "torchvision", TORCHVISION_DATASETS[request.source]
    try:
        return getattr(torchvision.datasets, name)(root, train=request.split == "train", download=True)
    except (OSError, RuntimeError) as error:
        reason = network_reason(error) or one_line(str(error).strip().partition("\n")[0])
        raise UserError(
            f"{request.source}: cannot be downloaded ({reason}). With a network, run the command again; without one, put the "
            f"files of torchvision.datasets.{name} into {root}, or name images with {option('data')}"
        ) from None


def _decoded(request: Request) -> Iterator[Pixels]:
    channels, height, width = request.shape
    original = _original(request)
    for i in range(len(original)):
        yield fit(original[i][0], height, width, channels)[None]
        request.progress(i + 1, len(original))
