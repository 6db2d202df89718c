"""Packing images beside torchvision's ImageFolder reading them once, in processes of their own, with peak memory.

    python docs/packing.py FOLDER [SIZE]

FOLDER has the images in sub-folders, all of SIZE pixels a side (128). Every way is taken twice, in turn; only the second time
counts, when the files are in the system's cache for all.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def pack(folder: Path, size: int) -> int:
    """Into the cache, as a training would."""
    from blurcli.data import load_dataset

    return len(load_dataset(str(folder), "train", (size, size), 3).images)


def image_folder(folder: Path, size: int) -> int:
    """Read once by ImageFolder behind a DataLoader with a process for every core, as uint8 tensors."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor

    loader = DataLoader(ImageFolder(folder, pil_to_tensor), batch_size=64, num_workers=os.cpu_count() or 1)
    return sum(len(images) for images, _ in loader)


def plain_loop(folder: Path, size: int) -> int:
    """Read once by ImageFolder in one process."""
    from torchvision.datasets import ImageFolder

    return sum(1 for _ in ImageFolder(folder))


WAYS = {way.__name__: way for way in (pack, image_folder, plain_loop)}


def main(folder: Path, size: int) -> None:
    """Print seconds and peak memory of every way."""
    for counts in (False, True):
        for name in WAYS:
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, str(folder), str(size), name]
                told = subprocess.run(
                    command, env={**os.environ, "BLURDIFF_CACHE": cache}, check=True, capture_output=True, text=True
                )
            if counts:
                print(told.stdout, end="")


if __name__ == "__main__":
    place, side = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 128
    if len(sys.argv) < 4:
        main(place, side)
    else:
        import torch  # noqa: F401  so that its import is in nobody's time

        started = time.perf_counter()
        count = WAYS[sys.argv[3]](place, side)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{sys.argv[3]:>12}: {count:,} images in {seconds:.1f} s, at most {peak:.0f} MiB in the process")
