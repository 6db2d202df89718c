"""Datasets that must be downloaded manually, in the layouts of their publishers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from blurcli.base.errors import UsageError, UserError
from blurcli.data.archives import ImageFiles, open_images

_THUMBNAIL_PX = 128  # side of FFHQ's small images
_FFHQ_TRAINING = 60_000  # images; the last 10,000 are for validation


@dataclass(frozen=True)
class ManualDataset:
    """A dataset that must be downloaded manually.

    Attributes:
        page: the publisher's page.
        needed: the files to download, and their form.
        matches: whether a folder has the publisher's layout; False for a path that is not a folder.
        open: `open(folder, split, image_size)` opens the images of a split, from the files that fit the (height, width).
    """

    page: str
    needed: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, str, tuple[int, int]], AbstractContextManager[ImageFiles]]


@contextmanager
def _celeba(folder: Path, split: str, image_size: tuple[int, int]) -> Iterator[ImageFiles]:
    part = _celeba_part(folder / "list_eval_partition.txt", split)
    with open_images(_first(folder, "img_align_celeba", "img_align_celeba.zip")) as files:
        yield _not_empty(files.only(lambda name: name.rpartition("/")[2] in part), split)


@contextmanager
def _lsun(folder: Path, split: str, image_size: tuple[int, int]) -> Iterator[ImageFiles]:
    ending = f"_{'train' if split == 'train' else 'val'}_lmdb"
    names = [path.name for path in folder.glob(f"*{ending}")]
    with open_images(_first(folder, *names, f"*{ending}, unzipped")) as files:
        yield files


@contextmanager
def _ffhq(folder: Path, split: str, image_size: tuple[int, int]) -> Iterator[ImageFiles]:
    small = max(image_size) <= _THUMBNAIL_PX and any(folder.glob("thumbnails128x128*"))
    name = "thumbnails128x128" if small else "images1024x1024"
    with open_images(_first(folder, name, f"{name}.zip")) as files:
        yield _not_empty(files.only(lambda name: (_number(name) < _FFHQ_TRAINING) == (split == "train")), split)


@contextmanager
def _afhq(folder: Path, split: str, image_size: tuple[int, int]) -> Iterator[ImageFiles]:
    with open_images(max(folder.glob("afhq*.zip"))) as files:
        yield files.of_split(split)


MANUAL_DATASETS = {
    "celeba": ManualDataset(
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "img_align_celeba.zip and list_eval_partition.txt",
        lambda folder: (folder / "list_eval_partition.txt").is_file(),
        _celeba,
    ),
    "lsun-church": ManualDataset(
        "https://github.com/fyu/lsun",
        "the unzipped church_outdoor_train_lmdb and church_outdoor_val_lmdb",
        lambda folder: any(folder.glob("*_lmdb*")),
        _lsun,
    ),
    "ffhq": ManualDataset(
        "https://github.com/NVlabs/ffhq-dataset",
        f"thumbnails128x128, or for images of more than {_THUMBNAIL_PX} pixels images1024x1024 (the folder or its .zip file)",
        lambda folder: any(any(folder.glob(f"{name}*")) for name in ("thumbnails128x128", "images1024x1024")),
        _ffhq,
    ),
    "afhq": ManualDataset(
        "https://github.com/clovaai/stargan-v2",
        "afhq.zip, afhq_v2.zip or the folder inside them",
        lambda folder: any(folder.glob("afhq*.zip")),
        _afhq,
    ),
}
"""The datasets by name. A folder with one of these layouts is read likewise, at any place; the first match counts."""


def _first(folder: Path, *names: str) -> Path:
    """The first of these names that exists in the folder."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UsageError(f"{folder}: {' or '.join(names)} is missing")


def _not_empty(files: ImageFiles, split: str) -> ImageFiles:
    if not files.names:
        raise UsageError(f"{files.place}: none of its images belongs to the split {split}")
    return files


def _celeba_part(path: Path, split: str) -> frozenset[str]:
    """The file names of a split, from lines with a name and 0 (training), 1 (validation) or 2 (test)."""
    wanted = "0" if split == "train" else "2"
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        return frozenset(name for name, part in filter(None, lines) if part == wanted)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not CelebA's list of splits ({error}); download it again") from None


def _number(name: str) -> int:
    digits = name.rpartition("/")[2].partition(".")[0]
    if not digits.isdecimal():
        raise UserError(f"{name}: FFHQ's files are named by numbers, such as 00000.png")
    return int(digits)
