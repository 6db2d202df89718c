"""Datasets by name or path, each packed once into one uint8 array on disk and memory-mapped from then on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blurcli.data.cache import cache_folder, cached, digest_of, pack, recall, remember
from blurcli.data.decoder import Decoder
from blurcli.data.images import Images, Labels, Progress, Range, fit
from blurcli.data.places import ImageFiles
from blurcli.data.published import BY_HAND, open_source
from blurcli.data.shapes import KINDS, MOST_OBJECTS, VERSION, draw_shapes
from blurcli.errors import UsageError, UserError, did_you_mean

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
NAMES = ("shapes", *_TORCHVISION, *BY_HAND)
_PACKING = "2"  # part of every fingerprint: raise it when the same files would be packed into other pixels

Shape = tuple[int, int, int]


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
        source: one of `NAMES`, or the path of a folder, a .zip file or an LMDB database. Where there are sub-folders `train`
            and `test` (or `val`), those for `split` are read; `train` may be everything, where there are none.
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
    shape = (channels, *image_size)
    form = f"{_PACKING}/{channels}x{image_size[0]}x{image_size[1]}"
    if source == "shapes":
        return _shapes(split, form, shape, shapes_count, shapes_objects, classes)
    if source in _TORCHVISION:
        return _torchvision_dataset(source, split, form, shape, classes, progress)
    if not Path(source).exists() and len(Path(source).parts) == 1 and source not in BY_HAND:
        raise UsageError(
            f"data {source!r}: no such folder, .zip file or dataset{did_you_mean(source, NAMES)} "
            f"(datasets: {', '.join(NAMES)}); name your images with --data"
        )
    if value_range is not None:
        form += f"/{value_range[0]:g}..{value_range[1]:g}"
    with open_source(source, split, image_size) as files:
        dataset = _file_dataset(files, form, shape, value_range, max_broken, progress)
        folders = [name.rpartition("/")[0] for name in files.names if name not in dataset.broken]
    if classes is None:
        return dataset
    found = tuple(sorted(set(folders)))
    numbers = {folder: number for number, folder in enumerate(found)}
    return _labelled(dataset, np.array([numbers[folder] for folder in folders]), found, classes)


def _labelled(dataset: Dataset, labels: Labels, names: tuple[str, ...], wanted: int) -> Dataset:
    if len(names) != wanted:
        shown = ", ".join(name or "no sub-folder" for name in names[:10]) + (", ..." if len(names) > 10 else "")
        raise UsageError(f"data.classes {wanted}: {dataset.name} has {len(names)} ({shown}); set it to that number, or to null")
    return replace(dataset, labels=labels, classes=names)


def _shapes(split: str, form: str, shape: Shape, count: int, objects: int, classes: int | None) -> Dataset:
    seed = {"train": 0, "test": 1}[split]
    channels, height, width = shape
    few = f"{objects} object/" if objects < MOST_OBJECTS else ""
    fingerprint = digest_of(f"shapes-{VERSION}/{split}/{count}/{few}{form}")
    images = cached(fingerprint, shape)
    if images is None:
        images = pack([draw_shapes(count, height, width, channels, seed, objects)[0]], shape, lambda: fingerprint)
    dataset = Dataset(images, fingerprint, f"shapes {split}")
    if classes is None:
        return dataset
    if objects > 1:
        raise UsageError("data.classes: shapes have classes where there is one in an image: set data.shapes_objects to 1")
    _, kinds = draw_shapes(count, 1, 1, 1, seed, objects)  # the size changes no random number
    return _labelled(dataset, kinds, KINDS, classes)


def _file_dataset(
    files: ImageFiles, form: str, shape: Shape, value_range: Range | None, max_broken: int, progress: Progress
) -> Dataset:
    place = files.place
    # Files that look the same as at the last time are not read again only to find that they are.
    stamps = "".join(f"{name}\0{files.stamp(name)}\0" for name in files.names)
    key = digest_of(f"{place.absolute()}\0{form}\0{stamps}")
    if (known := recall(key)) is not None and (images := cached(known[0], shape)) is not None:
        fingerprint, broken = known
        if len(broken) > max_broken:
            raise UserError(
                f"{place}: {len(broken)} broken files ({', '.join(broken[:10])}), more than data.max_broken, {max_broken}: "
                "repair or remove them, or allow as many"
            )
        return Dataset(images, fingerprint, str(place), broken)
    decoder = Decoder(files, shape, value_range, max_broken, progress)

    def content() -> str:
        return digest_of(f"files/{form}/{decoder.content.hexdigest()}")

    images = pack(decoder, shape, content)
    remember(key, content(), decoder.broken)
    return Dataset(images, content(), str(place), tuple(decoder.broken))


def _torchvision_dataset(source: str, split: str, form: str, shape: Shape, classes: int | None, progress: Progress) -> Dataset:
    import torchvision

    channels, height, width = shape
    root = cache_folder() / "torchvision"
    fingerprint = digest_of(f"{source}/{split}/{form}")

    def fetched() -> Any:
        try:
            return getattr(torchvision.datasets, _TORCHVISION[source])(root, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{source}: could not be downloaded ({error}). With a network, run the command again; without one, put the "
                f"files that torchvision.datasets.{_TORCHVISION[source]} expects into {root}, or give images with --data"
            ) from None

    def decoded() -> Iterator[Images]:
        original = fetched()
        for i in range(len(original)):
            yield fit(original[i][0], height, width, channels)[None]
            progress(i + 1, len(original))

    images = cached(fingerprint, shape)
    if images is None:
        images = pack(decoded(), shape, lambda: fingerprint)
    dataset = Dataset(images, fingerprint, f"{source} {split}")
    if classes is None:
        return dataset
    original = fetched()
    return _labelled(dataset, np.array(original.targets, np.int64), tuple(original.classes), classes)
