"""Sources of image files: a path or a manually downloaded dataset, opened for one split and packed once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from blurcli.base.cache import cache_folder
from blurcli.base.errors import UsageError, UserError, option, quoted
from blurcli.data import notes
from blurcli.data.archives import ImageFiles, open_images
from blurcli.data.dataset import LISTED, Dataset, Request
from blurcli.data.decoder import Decoder
from blurcli.data.images import Range
from blurcli.data.labels import LABELS_FILE, class_names
from blurcli.data.manual_datasets import MANUAL_DATASETS
from blurcli.data.packed_cache import Record, digest_of, load_packed, load_record, pack, save_record

_RECORD_VERSION = 2  # raise it when files are read differently


def load_files(request: Request) -> Dataset:
    """The images of a folder, an archive or a manually downloaded dataset; the sub-folders are the classes.

    Raises:
        UsageError: see `open_source`; or the number of classes differs from the request.
        UserError: too many unreadable images, a damaged archive, a cache that cannot be written.
    """
    with open_source(request.source, request.split, request.image_size) as files:
        dataset = _packed_files(files, request)
        labels = files.labels() if request.classes is not None else None
    if request.classes is None:
        return dataset
    used = [name for name in files.names if name not in dataset.broken]
    folders = [name.rpartition("/")[0] for name in used]
    if labels is None:
        of_image = folders
    else:
        missing = [name for name in used if name not in labels]
        if missing and isinstance(request.classes, tuple):
            return dataset
        if missing:
            shown = ", ".join(missing[:LISTED]) + (", ..." if len(missing) > LISTED else "")
            raise UserError(f"{files.place}: {LABELS_FILE} has no label for {len(missing):,} of its images: {shown}")
        of_image = [labels[name] for name in used]
        if len(set(folders)) > 1:
            note = f"{files.place}: the classes come from {LABELS_FILE}, not the sub-folders"
            dataset = replace(dataset, notes=(*dataset.notes, note))
    names = class_names(set(of_image))
    numbers = {name: number for number, name in enumerate(names)}
    return dataset.with_classes(np.array([numbers[name] for name in of_image]), names, request.classes)


@contextmanager
def open_source(source: str, split: str, image_size: tuple[int, int]) -> Iterator[ImageFiles]:
    """Open the images of a split.

    Args:
        source: one of `MANUAL_DATASETS`, or the path of a folder, .zip file or LMDB database, possibly in the layout of one of
            these datasets.
        split: `train` or `test`.
        image_size: wanted (height, width) in pixels, for datasets that are published in several sizes.

    Raises:
        UsageError: there are no images, or none of that split; for a manual dataset the message names the publisher's page.
        UserError: the archive is damaged.
    """
    known = MANUAL_DATASETS.get(source)
    place = Path(source) if known is None else cache_folder() / "downloads" / source
    if known is not None and not (place.is_dir() and any(place.iterdir())):
        raise UsageError(
            f"{source}: must be downloaded manually from {known.page}: put {known.needed} into {place}, or name their folder "
            f"with {option('data')}"
        )
    layout = next((dataset for dataset in MANUAL_DATASETS.values() if dataset.matches(place)), None)
    if layout is not None:
        with layout.open(place, split, image_size) as files:
            yield files
    else:
        with open_images(place) as files:
            yield files.of_split(split)


def _packed_files(files: ImageFiles, request: Request) -> Dataset:
    place, options, form = files.place, request.options, request.form
    if options.value_range is not None:
        form += f"/{options.value_range[0]:g}..{options.value_range[1]:g}"
    patches = math.ceil(options.crops / len(files.names)) if options.crop == "random" else None
    if patches is not None:
        form += f"/patches{patches}"
    # Files with unchanged stamps are not read again.
    stamps = "".join(f"{name}\0{files.stamp(name)}\0" for name in files.names)
    key = digest_of(f"{place.absolute()}\0{form}\0{_RECORD_VERSION}\0{stamps}")
    known = load_record(key)
    if known is not None and (images := load_packed(known.fingerprint, request.shape)) is not None:
        broken = known.broken
        if len(broken) > options.max_broken:
            raise UserError(
                f"{place}: {len(broken)} unreadable files ({', '.join(broken[:LISTED])}), more than data.max_broken, "
                f"{options.max_broken}: repair or remove them, or raise data.max_broken"
            )
        return Dataset(images, known.fingerprint, str(place), broken, _notes(files, known.values, options.value_range))
    decoder = Decoder(files, request.shape, options.value_range, options.max_broken, request.progress, patches)

    def content() -> str:
        return digest_of(f"files/{form}/{decoder.content.hexdigest()}")

    images = pack(decoder, request.shape, content)
    record = Record(content(), tuple(decoder.broken), decoder.values)
    save_record(key, record)
    return Dataset(images, record.fingerprint, str(place), record.broken, _notes(files, record.values, options.value_range))


def _notes(files: ImageFiles, values: Range | None, value_range: Range | None) -> tuple[str, ...]:
    ignored = notes.count_by_reason(files.skipped)
    return tuple(
        f"{files.place}: {note}"
        for note in (
            f"skipped: {ignored}; blurdiff data {quoted(files.place)} --json lists them" if ignored else None,
            None if values is None else notes.depth(values, value_range),
        )
        if note
    )
