"""The training images of the bundled model of photos: those of CIFAR-10, and eleven free photos that packages bring.

    python docs/photos.py FOLDER

The photos are those of scikit-image and scikit-learn, which must be installed, without the six on which restoration is measured
(astronaut, chelsea, coffee, rocket, china and Matplotlib's grace_hopper). CIFAR-10 is downloaded, unless it is here already.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import typer
from PIL import Image

from blurcli.data import load_dataset

_OF_SKIMAGE = "brick camera coins grass gravel moon motorcycle_left motorcycle_right hubble_deep_field retina"
PHOTOS = {"skimage": ("data", _OF_SKIMAGE.split()), "sklearn": ("datasets/images", ["flower"])}


def main(folder: Path) -> None:
    """Copy the photos, and write the images of CIFAR-10 as PNG."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    (folder / "cifar10").mkdir(exist_ok=True)
    for package, (place, names) in PHOTOS.items():
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise SystemExit(f"{package} is not installed: pip install scikit-image scikit-learn")
        for name in names:
            (path,) = (Path(found.submodule_search_locations[0]) / place).glob(f"{name}.*g")
            shutil.copy(path, folder / "photos")
    for i, pixels in enumerate(load_dataset("cifar10", "train", (32, 32), 3).images):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / "cifar10" / f"{i:05d}.png")


if __name__ == "__main__":
    typer.run(main)
