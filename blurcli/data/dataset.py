"""Datasets by name or path, each packed once into one uint8 array on disk and memory-mapped from then on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blurcli import files
from blurcli.data.images import ImageFiles, Images, Labels, Progress, Range, decode_all, fit, open_images
from blurcli.data.shapes import KINDS, MOST_OBJECTS, VERSION, draw_shapes
from blurcli.errors import UsageError, UserError, did_you_mean

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
NAMES = ("shapes", *_TORCHVISION)
_PACKING = "2"  # part of every fingerprint: raise it when the same files would be packed into other pixels


@dataclass(frozen=True)
class Dataset:
    """Images of one size.

    Attributes:
        images: (N, C, H, W) uint8, usually memory-mapped and read-only.
        fingerprint: hash of what the images are made from: the same for the same pixels, wherever their files lie.
        name: how a message calls it.
        broken: files that could not be read and are not among the images.
        labels: the class of every image, (N,), where classes were asked for; else None.
        classes: names of the classes, in the order of their numbers; empty where none were asked for.
    """

    images: Images
    fingerprint: str
    name: str
    broken: tuple[str, ...] = ()
    labels: Labels | None = None
    classes: tuple[str, ...] = ()


def load_dataset(
    source: str,
    split: str,
    image_size: tuple[int, int],
    channels: int,
    *,
    shapes_count: int = 20_000,
    shapes_objects: int = MOST_OBJECTS,
    classes: int | None = None,
    value_range: Range | None = None,
    max_broken: int = 0,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The images of a dataset, resized and cropped to (height, width), from the cache where they were packed before.

    Args:
        source: `shapes`, `cifar10`, `mnist`, `fashion-mnist`, or the path of a folder or .zip file. Of a folder that has
            sub-folders `train` and `test`, the one for `split` is read.
        split: `train` or `test`.
        image_size: (height, width) in pixels.
        channels: 1 (grey) or 3 (colour).
        shapes_count: how many images `shapes` draws.
        shapes_objects: most objects in such an image; with 1, the kind of the object is its class.
        classes: how many classes there must be; None where they do not matter. Of files, the sub-folders are the classes.
        value_range: of files, the values of deep grey images that become 0 and 255, see `decode`.
        max_broken: of files, how many may be broken, and are left out.
        progress: called as `progress(done, total)` while files are decoded.

    Raises:
        UsageError: no such dataset, or no images in it, or no such split, or other classes than asked for.
        UserError: too many broken images, a failed download, a cache that cannot be written.
    """
    height, width = image_size
    form = f"{_PACKING}/{channels}x{height}x{width}"
    if source == "shapes":
        seed = {"train": 0, "test": 1}[split]

        def draw(out: Images) -> list[int]:
            out[:], _ = draw_shapes(shapes_count, height, width, channels, seed, shapes_objects)
            return []

        objects = f"{shapes_objects} object/" if shapes_objects < MOST_OBJECTS else ""
        fingerprint = _digest(f"shapes-{VERSION}/{split}/{shapes_count}/{objects}{form}")
        images = _packed(fingerprint, (shapes_count, channels, height, width), draw)
        dataset = Dataset(images, fingerprint, f"shapes {split}")
        if classes is None:
            return dataset
        if shapes_objects > 1:
            raise UsageError("data.classes: shapes have classes where there is one in an image: set data.shapes_objects to 1")
        _, kinds = draw_shapes(shapes_count, 1, 1, 1, seed, shapes_objects)  # the size changes no random number
        return _labelled(dataset, kinds, KINDS, classes)
    if source in _TORCHVISION:
        return _torchvision_dataset(source, split, form, (channels, height, width), classes, progress)
    if value_range is not None:
        form += f"/{value_range[0]:g}..{value_range[1]:g}"
    dataset = _file_dataset(Path(source), split, form, (channels, height, width), value_range, max_broken, progress)
    if classes is None:
        return dataset
    with open_images(split_folder(Path(source), split)) as image_files:
        folders = [name.rpartition("/")[0] for name in image_files.names if name not in dataset.broken]
    found = tuple(sorted(set(folders)))
    numbers = {folder: number for number, folder in enumerate(found)}
    return _labelled(dataset, np.array([numbers[folder] for folder in folders]), found, classes)


def _labelled(dataset: Dataset, labels: Labels, names: tuple[str, ...], wanted: int) -> Dataset:
    if len(names) != wanted:
        shown = ", ".join(name or "no sub-folder" for name in names[:10]) + (", ..." if len(names) > 10 else "")
        raise UsageError(f"data.classes {wanted}: {dataset.name} has {len(names)} ({shown}); set it to that number, or to null")
    return replace(dataset, labels=labels, classes=names)


def cache_folder() -> Path:
    """Where packed and downloaded data are kept: $BLURDIFF_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("BLURDIFF_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blurdiff"


def split_folder(path: Path, split: str) -> Path:
    """Where the images of a split lie: in a sub-folder, where there are `train` and `test`, else all are for training.

    Raises:
        UsageError: there is no such path, or no such split.
    """
    if not path.exists() and len(path.parts) == 1:
        raise UsageError(
            f"data {str(path)!r}: no such folder, .zip file or dataset{did_you_mean(str(path), NAMES)} "
            f"(datasets: {', '.join(NAMES)}); name your images with --data"
        )
    if (path / "train").is_dir() and (path / "test").is_dir():
        return path / split
    if split == "test":
        raise UsageError(
            f"{path}: has no sub-folders train and test, from which --split test could take images; name the "
            "test images themselves with --data"
        )
    return path


def _file_dataset(
    path: Path,
    split: str,
    form: str,
    shape: tuple[int, int, int],
    value_range: Range | None,
    max_broken: int,
    progress: Progress,
) -> Dataset:
    path = split_folder(path, split)
    with open_images(path) as image_files:
        names = image_files.names
        fingerprint = _digest(f"files/{form}/{_content_digest(image_files)}")
        record = _cached(f"{fingerprint}.broken.json")
        broken = _read_names(record)
        if len(broken) > max_broken:
            raise UserError(
                f"{path}: {len(broken)} broken files ({', '.join(broken[:10])}), more than data.max_broken, {max_broken}: "
                "repair or remove them, or allow as many"
            )

        def pack(out: Images) -> list[int]:
            rows = decode_all(image_files, out, value_range, max_broken, progress)
            if rows:
                with files.replacing(record) as temporary:
                    temporary.write_text(json.dumps([names[i] for i in rows]), encoding="utf-8")
            return rows

        images = _packed(fingerprint, (len(names), *shape), pack, len(broken))
    return Dataset(images, fingerprint, str(path), tuple(_read_names(record)))


def _read_names(path: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _content_digest(image_files: ImageFiles) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in image_files.names:
        try:
            content = image_files.read(name)
        except UserError:
            content = b"unreadable"
        digest.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return digest.hexdigest()


def _torchvision_dataset(
    source: str, split: str, form: str, shape: tuple[int, int, int], classes: int | None, progress: Progress
) -> Dataset:
    import torchvision

    channels, height, width = shape
    root = cache_folder() / "torchvision"
    fingerprint = _digest(f"{source}/{split}/{form}")
    count = {"train": 50_000 if source.startswith("cifar") else 60_000, "test": 10_000}[split]

    def fetched() -> Any:
        try:
            return getattr(torchvision.datasets, _TORCHVISION[source])(root, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{source}: could not be downloaded ({error}). With a network, run the command again; without one, put the "
                f"files that torchvision.datasets.{_TORCHVISION[source]} expects into {root}, or give images with --data"
            ) from None

    def pack(out: Images) -> list[int]:
        dataset = fetched()
        for i in range(count):
            out[i] = fit(dataset[i][0], height, width, channels)
            progress(i + 1, count)
        return []

    dataset = Dataset(_packed(fingerprint, (count, *shape), pack), fingerprint, f"{source} {split}")
    if classes is None:
        return dataset
    original = fetched()
    return _labelled(dataset, np.array(original.targets, np.int64), tuple(original.classes), classes)


def _cached(name: str) -> Path:
    return cache_folder() / "images" / name


def _packed(fingerprint: str, shape: tuple[int, ...], pack: Callable[[Images], list[int]], left_out: int = 0) -> Images:
    """The array cached under `fingerprint`, memory-mapped; made by `pack(out)` where it is not there yet, or damaged.

    `pack` says which rows of its array of `shape` are of no use; the cached array is without them, as many as `left_out`.
    """
    path = _cached(f"{fingerprint}.npy")
    try:
        cached: Images = np.load(path, mmap_mode="r", allow_pickle=False)
        if cached.shape == (shape[0] - left_out, *shape[1:]) and cached.dtype == np.uint8:
            return cached
    except (OSError, ValueError, EOFError):
        pass
    with files.replacing(path) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        rows = pack(out)
        out.flush()
        if rows:
            kept = np.delete(np.arange(len(out)), rows)
            with files.replacing(temporary) as smaller:
                fewer = np.lib.format.open_memmap(smaller, mode="w+", dtype=np.uint8, shape=(len(kept), *shape[1:]))
                for row, i in enumerate(kept):
                    fewer[row] = out[i]
                fewer.flush()
    packed: Images = np.load(path, mmap_mode="r", allow_pickle=False)
    return packed


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
