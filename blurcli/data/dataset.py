"""Datasets by name or path, each packed once into one uint8 array on disk and memory-mapped from then on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blurcli import files
from blurcli.data.images import ImageFiles, Images, Progress, decode_all, fit, open_images
from blurcli.data.shapes import VERSION, draw_shapes
from blurcli.errors import UsageError, UserError, did_you_mean

_TORCHVISION = {"cifar10": "CIFAR10", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
NAMES = ("shapes", *_TORCHVISION)
_PACKING = "1"  # part of every fingerprint: raise it when the same files would be packed into other pixels


@dataclass(frozen=True)
class Dataset:
    """Images of one size.

    Attributes:
        images: (N, C, H, W) uint8, usually memory-mapped and read-only.
        fingerprint: hash of what the images are made from: the same for the same pixels, wherever their files lie.
        name: how a message calls it.
    """

    images: Images
    fingerprint: str
    name: str


def load_dataset(
    source: str,
    split: str,
    image_size: tuple[int, int],
    channels: int,
    *,
    shapes_count: int = 20_000,
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
        progress: called as `progress(done, total)` while files are decoded.

    Raises:
        UsageError: no such dataset, or no images in it, or no such split.
        UserError: a broken image, a failed download, a cache that cannot be written.
    """
    height, width = image_size
    form = f"{_PACKING}/{channels}x{height}x{width}"
    if source == "shapes":
        seed = {"train": 0, "test": 1}[split]

        def draw(out: Images) -> None:
            out[:] = draw_shapes(shapes_count, height, width, channels, seed)

        fingerprint = _digest(f"shapes-{VERSION}/{split}/{shapes_count}/{form}")
        return Dataset(_packed(fingerprint, (shapes_count, channels, height, width), draw), fingerprint, f"shapes {split}")
    if source in _TORCHVISION:
        return _torchvision_dataset(source, split, form, (channels, height, width), progress)
    return _file_dataset(Path(source), split, form, (channels, height, width), progress)


def cache_folder() -> Path:
    """Where packed and downloaded data are kept: $BLURDIFF_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("BLURDIFF_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blurdiff"


def _file_dataset(path: Path, split: str, form: str, shape: tuple[int, int, int], progress: Progress) -> Dataset:
    if not path.exists() and len(path.parts) == 1:
        raise UsageError(
            f"data {str(path)!r}: no such folder, .zip file or dataset{did_you_mean(str(path), NAMES)} "
            f"(datasets: {', '.join(NAMES)}); name your images with --data"
        )
    if (path / "train").is_dir() and (path / "test").is_dir():
        path = path / split
    elif split == "test":
        raise UsageError(
            f"{path}: has no sub-folders train and test, from which --split test could take images; name the "
            "test images themselves with --data"
        )
    with open_images(path) as image_files:
        fingerprint = _digest(f"files/{form}/{_content_digest(image_files)}")
        images = _packed(fingerprint, (len(image_files.names), *shape), lambda out: decode_all(image_files, out, progress))
    return Dataset(images, fingerprint, str(path))


def _content_digest(image_files: ImageFiles) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in image_files.names:
        content = image_files.read(name)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _torchvision_dataset(source: str, split: str, form: str, shape: tuple[int, int, int], progress: Progress) -> Dataset:
    import torchvision

    channels, height, width = shape
    root = cache_folder() / "torchvision"
    fingerprint = _digest(f"{source}/{split}/{form}")
    count = {"train": 50_000 if source == "cifar10" else 60_000, "test": 10_000}[split]

    def pack(out: Images) -> None:
        try:
            dataset = getattr(torchvision.datasets, _TORCHVISION[source])(root, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{source}: could not be downloaded ({error}). With a network, run the command again; without one, put the "
                f"files that torchvision.datasets.{_TORCHVISION[source]} expects into {root}, or give images with --data"
            ) from None
        for i in range(count):
            out[i] = fit(dataset[i][0], height, width, channels)
            progress(i + 1, count)

    return Dataset(_packed(fingerprint, (count, *shape), pack), fingerprint, f"{source} {split}")


def _packed(fingerprint: str, shape: tuple[int, ...], pack: Callable[[Images], None]) -> Images:
    """The array cached under `fingerprint`, memory-mapped; made by `pack(out)` where it is not there yet, or damaged."""
    path = cache_folder() / "images" / f"{fingerprint}.npy"
    try:
        cached: Images = np.load(path, mmap_mode="r", allow_pickle=False)
        if cached.shape == shape and cached.dtype == np.uint8:
            return cached
    except (OSError, ValueError, EOFError):
        pass
    with files.replacing(path) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        pack(out)
        out.flush()
    packed: Images = np.load(path, mmap_mode="r", allow_pickle=False)
    return packed


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
