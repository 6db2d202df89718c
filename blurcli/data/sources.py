"""Sources of image files: a path or a manually downloaded dataset, opened for one split and packed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from blurcli.cache import cache_folder
from blurcli.data.archives import ImageFiles, open_images
from blurcli.data.dataset import LISTED, Dataset, Request
from blurcli.data.decoder import Decoder
from blurcli.data.manual_datasets import MANUAL_DATASETS
from blurcli.data.packed_cache import digest_of, load_packed, load_record, pack, save_record
from blurcli.errors import UsageError, UserError, option


def load_files(request: Request) -> Dataset:
    """The images of a folder, an archive or a manually downloaded dataset; the sub-folders are the classes.

    Raises:
        UsageError: see `open_source`; or the number of classes differs from the request.
        UserError: too many unreadable images, a damaged archive, a cache that cannot be written.
    """
    with open_source(request.source, request.split, request.image_size) as files:
        dataset = _packed_files(files, request)
        folders = [name.rpartition("/")[0] for name in files.names if name not in dataset.broken]
    if request.classes is None:
        return dataset
    names = tuple(sorted(set(folders)))
    numbers = {name: number for number, name in enumerate(names)}
    return dataset.with_classes(np.array([numbers[folder] for folder in folders]), names, request.classes)


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
    # Files with unchanged stamps are not read again.
    stamps = "".join(f"{name}\0{files.stamp(name)}\0" for name in files.names)
    key = digest_of(f"{place.absolute()}\0{form}\0{stamps}")
    if (known := load_record(key)) is not None and (images := load_packed(known[0], request.shape)) is not None:
        fingerprint, broken = known
        if len(broken) > options.max_broken:
            raise UserError(
                f"{place}: {len(broken)} unreadable files ({', '.join(broken[:LISTED])}), more than data.max_broken, "
                f"{options.max_broken}: repair or remove them, or raise data.max_broken"
            )
        return Dataset(images, fingerprint, str(place), broken)
    decoder = Decoder(files, request.shape, options.value_range, options.max_broken, request.progress)

    def content() -> str:
        return digest_of(f"files/{form}/{decoder.content.hexdigest()}")

    images = pack(decoder, request.shape, content)
    save_record(key, content(), decoder.broken)
    return Dataset(images, content(), str(place), tuple(decoder.broken))
