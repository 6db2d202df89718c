"""A dataset, and a request to a loader for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from blurcli.base.downloads import Progress
from blurcli.base.errors import UsageError
from blurcli.config import DataConfig
from blurcli.data.images import Labels, Pixels, Range

_PACKING_VERSION = "2"  # part of every fingerprint: raise it when the packed pixels of the same files change
LISTED = 10
"""Largest number of names in a message."""

WantedClasses = int | tuple[str, ...]
"""The number of classes that images must have; or the names of those of a model, which give the labels their numbers."""


@dataclass(frozen=True)
class Dataset:
    """Images of one size.

    Attributes:
        images: (N, C, H, W) uint8, usually memory-mapped and read-only.
        fingerprint: hash of the content that the images are made from, independent of its location.
        name: name for messages.
        broken: unreadable files, which are not among the images.
        notes: messages for the user about the images.
        labels: the class of every image, int64 (N,), for a class-conditional model; else None.
        classes: names of the classes in the order of their numbers; empty without labels.
    """

    images: Pixels
    fingerprint: str
    name: str
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    labels: Labels | None = None
    classes: tuple[str, ...] = ()

    def with_classes(self, labels: Labels, names: tuple[str, ...], wanted: WantedClasses) -> Dataset:
        """This dataset with labels (N,) and the names of the classes.

        For the classes of a model it stays without labels where it has a class that the model does not have.

        Raises:
            UsageError: the number of classes differs.
        """
        if isinstance(wanted, tuple):
            if not set(names) <= set(wanted):
                return self
            return replace(self, labels=np.array([wanted.index(name) for name in names])[labels], classes=wanted)
        if len(names) != wanted:
            shown = ", ".join(name or "no sub-folder" for name in names[:LISTED]) + (", ..." if len(names) > LISTED else "")
            raise UsageError(f"data.classes {wanted}: {self.name} has {len(names)} ({shown}); set it to that, or to null")
        return replace(self, labels=labels, classes=names)


@dataclass(frozen=True)
class ReadOptions:
    """How images are read; each option is for some sources only.

    Attributes:
        shapes_count: number of images that `shapes` draws.
        shapes_objects: largest number of objects per image of `shapes`, 1 or 2; with 1, the kind of the object is its class.
        value_range: for files, the values of deep gray images that become 0 and 255, see `decode`.
        max_broken: for files, the largest number of unreadable ones that are skipped.
        crop: for files, `center`, or `random` for patches at full detail.
        crops: about how many patches, from all files together.
    """

    shapes_count: int = 20_000
    shapes_objects: int = 2
    value_range: Range | None = None
    max_broken: int = 0
    crop: str = "center"
    crops: int = 100_000

    @classmethod
    def of(cls, config: DataConfig) -> ReadOptions:
        """The options of a configuration."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Request:
    """A request to a loader.

    Attributes:
        source: name of the dataset, or a path.
        split: `train` or `test`.
        shape: (C, H, W) of the images.
        options: how they are read.
        classes: the classes of the images; None for no labels.
        progress: called as `progress(done, total)` while images are decoded.
    """

    source: str
    split: str
    shape: tuple[int, int, int]
    options: ReadOptions
    classes: WantedClasses | None
    progress: Progress

    @property
    def form(self) -> str:
        """The form of the packed images, as a part of their fingerprint."""
        channels, height, width = self.shape
        return f"{_PACKING_VERSION}/{channels}x{height}x{width}"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.shape[1:]


Loader = Callable[[Request], Dataset]
"""Loads one kind of dataset, from the cache if it is packed there."""
