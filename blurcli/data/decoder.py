"""Decoding of many image files in threads, in order, in constant memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from blurcli.base.downloads import Progress
from blurcli.base.errors import UserError, option
from blurcli.base.parallel import ahead
from blurcli.base.threads import available_cores
from blurcli.data.archives import ImageFiles
from blurcli.data.images import Decoded, Pixels, Range, decode_described


class Decoder:
    """An iterable of the readable images among files, (1, C, H, W) uint8 each, or of their patches, (N, C, H, W).

    Args:
        files: the files.
        shape: (C, H, W), to which all images are resized and cropped.
        value_range: see `decode`.
        max_broken: largest number of unreadable files that are skipped.
        progress: called as `progress(done, total)`.
        patches: largest number of random patches per file, see `decode_described`; None for whole images.

    Attributes:
        broken: unreadable files so far.
        content: hash of the names and contents of all files so far.
        values: smallest and largest value of the gray images of more than 8 bits so far; None if there are none.

    Raises:
        UserError: while iterating: more than `max_broken` unreadable files, which the message names, or no readable file.
    """

    def __init__(
        self,
        files: ImageFiles,
        shape: tuple[int, int, int],
        value_range: Range | None,
        max_broken: int,
        progress: Progress,
        patches: int | None = None,
    ) -> None:
        self._files = files
        self._shape = shape
        self._value_range = value_range
        self._max_broken = max_broken
        self._progress = progress
        self._patches = patches
        self.broken: list[str] = []
        self.content = hashlib.blake2b(digest_size=16)
        self.values: Range | None = None

    def __iter__(self) -> Iterator[Pixels]:
        names, errors = self._files.names, list[UserError]()
        # With several processes, one decodes with all cores while the others wait.
        decoded = ahead(self._decoded, names, self._bytes_of, available_cores())
        with closing(decoded):
            for done, (name, (content, image)) in enumerate(zip(names, decoded, strict=True), start=1):
                self.content.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape"))
                self.content.update(content)
                if isinstance(image, UserError):
                    self.broken.append(name)
                    errors.append(image)
                    if len(errors) > self._max_broken:
                        raise UserError("; ".join(map(str, errors)) + _allowance(self._max_broken))
                else:
                    if image.odd_crop:
                        self.content.update(b"odd crop")  # other pixels than in caches of earlier versions
                    if image.values is not None:
                        self.values = hull(self.values, image.values)
                    yield np.ascontiguousarray(image.pixels)
                self._progress(done, len(names))
        if len(errors) == len(names):
            raise UserError(f"{self._files.place}: none of its {len(names)} images can be read; the first error: {errors[0]}")

    def _bytes_of(self, name: str) -> int:
        return self._files.bytes_of(name) + math.prod(self._shape) * (self._patches or 1)

    def _decoded(self, name: str) -> tuple[bytes, Decoded | UserError]:
        content = b"unreadable"
        try:
            content = self._files.read(name)
            place = f"{self._files.place / name}"
            return content, decode_described(content, place, self._shape, self._value_range, self._patches)
        except UserError as error:
            return content, error


def hull(known: Range | None, more: Range) -> Range:
    """The smallest range that contains two."""
    return more if known is None else (min(known[0], more[0]), max(known[1], more[1]))


def _allowance(max_broken: int) -> str:
    if max_broken:
        return f" (more than data.max_broken, {max_broken})"
    return f", or skip such files with {option('set')} data.max_broken=N; blurdiff data lists them"
