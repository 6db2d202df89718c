"""The registry of datasets. To add one, enter it in the table of its kind, or write a loader in its own file."""

from __future__ import annotations

from pathlib import Path

from blurcli.base.cache import cache_folder
from blurcli.base.downloads import Progress
from blurcli.base.errors import UsageError, did_you_mean, option
from blurcli.config.source_names import TORCHVISION_DATASETS
from blurcli.data.dataset import Dataset, Loader, ReadOptions, Request, WantedClasses
from blurcli.data.manual_datasets import MANUAL_DATASETS
from blurcli.data.shapes import load_shapes
from blurcli.data.sources import load_files
from blurcli.data.torchvision_datasets import is_packed, load_torchvision

DATASETS: dict[str, Loader] = {
    "shapes": load_shapes,
    **dict.fromkeys(TORCHVISION_DATASETS, load_torchvision),
    **dict.fromkeys(MANUAL_DATASETS, load_files),
}
"""The loaders by the name of the dataset; any other source is a path, read by `load_files`."""

_DEFAULTS = ReadOptions()


def load_dataset(
    source: str,
    split: str,
    image_size: tuple[int, int],
    channels: int,
    options: ReadOptions = _DEFAULTS,
    *,
    classes: WantedClasses | None = None,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """Load a dataset, resized and cropped to one size, from the cache if it is packed there.

    Args:
        source: one of `DATASETS`, or the path of a folder, a .zip file, an LMDB database or an image. With sub-folders `train`
            and `test` (or `val`) the one of `split` is read; without them all images are for training.
        split: `train` or `test`.
        image_size: (height, width) in pixels.
        channels: 1 (gray) or 3 (color).
        options: how the images are read.
        classes: expected number of classes; or the names of a model's, for its labels, and for no labels where the images
            have other classes; None for no labels. The sub-folders of files are their classes.
        progress: called as `progress(done, total)` while images are decoded.

    Raises:
        UsageError: there is no such dataset, image or split, or the number of classes differs.
        UserError: too many unreadable images, a failed download, a cache that cannot be written.
    """
    loader = DATASETS.get(source)
    if loader is None and not Path(source).exists():
        if len(Path(source).parts) == 1:
            hint = f"dataset{did_you_mean(source, DATASETS)} (datasets: {', '.join(DATASETS)}); name your images with"
        else:
            hint = "dataset; if the images have moved, name their new place with"
        raise UsageError(f"data {source!r}: no such folder, .zip file or {hint} {option('data')}")
    return (loader or load_files)(Request(source, split, (channels, *image_size), options, classes, progress))


def is_available(source: str, split: str, image_size: tuple[int, int], channels: int) -> bool:
    """Whether `load_dataset` with these arguments finds images without a download."""
    if source in TORCHVISION_DATASETS:
        return is_packed(Request(source, split, (channels, *image_size), _DEFAULTS, None, lambda done, total: None))
    if source in MANUAL_DATASETS:
        return (cache_folder() / "downloads" / source).is_dir()
    return source in DATASETS or Path(source).exists()
