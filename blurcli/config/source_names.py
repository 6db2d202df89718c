"""The source of a preset's images: a dataset's name or a path."""

from __future__ import annotations

import os
from pathlib import Path

from blurcli.base.errors import UsageError, option

TORCHVISION_DATASETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""The classes in `torchvision.datasets` by their names here. Each has the arguments `root`, `train` and `download`."""

DATASET_NAMES = ("shapes", *TORCHVISION_DATASETS, "celeba", "lsun-church", "ffhq", "afhq")
"""Names of datasets; any other source is a path. The last ones are those of `data.manual_datasets`, which needs imports that a
preset does not."""


def resolve_source(source: str, folder: Path = Path()) -> str:
    """A source as a dataset's name or an absolute path, which is valid in any working directory.

    Args:
        source: a dataset's name; or a path, in which `~` is the home folder.
        folder: base of a relative path; by default the working directory.

    Returns:
        The name or path; a word that is neither is returned unchanged.

    Raises:
        UsageError: an empty source, which as a path would be the working directory.
    """
    if not source.strip():
        raise UsageError(f"{option('data')}: is empty; name a folder of images, or . for this one")
    if source in DATASET_NAMES:
        return source
    path = os.path.abspath(folder / expand_home(source))  # noqa: PTH100  (links stay as they are named)
    return path if Path(path).exists() or len(Path(source).parts) != 1 else source


def expand_home(path: str) -> str:
    """A path with a leading `~` or `~user` replaced by that home folder, if there is one."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        return path
