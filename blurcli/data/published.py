"""Known datasets that their publishers give out by hand, in the layouts in which they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blurcli.data.cache import cache_folder
from blurcli.data.places import ImageFiles, of_split, open_images
from blurcli.errors import UsageError, UserError

_THUMBNAIL = 128  # pixels a side of FFHQ's small images
_FFHQ_TRAINING = 60_000  # images; its publisher has appointed the last 10,000 for validation


@dataclass(frozen=True)
class Publication:
    """A dataset that is to be downloaded by hand.

    Attributes:
        page: of its publisher.
        needed: what to take there, and in which form.
    """

    page: str
    needed: str


BY_HAND = {
    "celeba": Publication(
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "img_align_celeba.zip and list_eval_partition.txt"
    ),
    "lsun-church": Publication(
        "https://github.com/fyu/lsun", "the unzipped church_outdoor_train_lmdb and church_outdoor_val_lmdb"
    ),
    "ffhq": Publication(
        "https://github.com/NVlabs/ffhq-dataset",
        f"thumbnails128x128, or for images of more than {_THUMBNAIL} pixels images1024x1024 (the folder or its .zip file)",
    ),
    "afhq": Publication("https://github.com/clovaai/stargan-v2", "afhq.zip or afhq_v2.zip, or the folder that is in it"),
}


def place_of(source: str) -> Path:
    """Where the images of a source lie: its path, or where a dataset that is downloaded by hand is put."""
    return cache_folder() / "downloads" / source if source in BY_HAND else Path(source)


@contextmanager
def open_source(source: str, split: str, image_size: tuple[int, int]) -> Iterator[ImageFiles]:
    """The images of a split.

    Args:
        source: one of `BY_HAND`, or the path of a folder, .zip file or database, which may be laid out like one of them.
        split: `train` or `test`.
        image_size: (height, width) that is wanted, by which FFHQ's folder is chosen.

    Raises:
        UsageError: nothing is there, or nothing of that split; of a dataset by hand the text tells where to get it.
        UserError: a damaged archive.
    """
    place = place_of(source)
    known = BY_HAND.get(source)
    if known is not None and not (place.is_dir() and any(place.iterdir())):
        raise UsageError(
            f"{source}: has to be downloaded by hand, from {known.page}: put {known.needed} into {place}, or name the folder "
            "that they are in with --data"
        )
    if (place / "list_eval_partition.txt").is_file():
        part = _celeba_part(place / "list_eval_partition.txt", split)
        with open_images(_first(place, "img_align_celeba", "img_align_celeba.zip")) as files:
            yield _not_empty(files.only(lambda name: name.rpartition("/")[2] in part), split)
    elif any(place.glob("*_lmdb*")):
        ending = f"_{'train' if split == 'train' else 'val'}_lmdb"
        with open_images(_first(place, *(path.name for path in place.glob(f"*{ending}")), f"*{ending}, unzipped")) as files:
            yield files
    elif folders := [path for name in ("thumbnails128x128", "images1024x1024") for path in place.glob(f"{name}*")]:
        name = "thumbnails128x128" if max(image_size) <= _THUMBNAIL else "images1024x1024"
        if name == "thumbnails128x128" and not any(path.name.startswith(name) for path in folders):
            name = "images1024x1024"
        with open_images(_first(place, name, f"{name}.zip")) as files:
            yield _not_empty(files.only(lambda name: (_number(name) < _FFHQ_TRAINING) == (split == "train")), split)
    else:
        archives = sorted(place.glob("afhq*.zip")) if place.is_dir() else []
        with open_images(archives[-1] if archives else place) as files:
            yield of_split(files, split)


def _first(folder: Path, *names: str) -> Path:
    """The first of these that is in the folder."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UsageError(f"{folder}: {' or '.join(names)} is missing there")


def _not_empty(files: ImageFiles, split: str) -> ImageFiles:
    if not files.names:
        raise UsageError(f"{files.place}: none of its images is of the split {split}")
    return files


def _celeba_part(path: Path, split: str) -> frozenset[str]:
    """The file names of a split, from lines of a name and 0 (training), 1 (validation) or 2 (test)."""
    wanted = "0" if split == "train" else "2"
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        return frozenset(name for name, part in filter(None, lines) if part == wanted)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not CelebA's list of splits ({error}); fetch it again") from None


def _number(name: str) -> int:
    digits = name.rpartition("/")[2].partition(".")[0]
    if not digits.isdecimal():
        raise UserError(f"{name}: FFHQ's files are called by numbers, such as 00000.png")
    return int(digits)
