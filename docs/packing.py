"""Time and peak memory of packing images, compared with reading them once through torchvision's ImageFolder.

    python docs/packing.py FOLDER [SIZE]

FOLDER has square images in sub-folders, SIZE pixels per side (default 128). Each method runs twice, in a process of its own;
only the second run is reported, when the files are in the system's cache for all methods.
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
    """Pack into the cache, as a training does."""
    from blurcli.data import load_dataset

    return len(load_dataset(str(folder), "train", (size, size), 3).images)


def image_folder(folder: Path, size: int) -> int:
    """Read once as uint8 tensors through ImageFolder and a DataLoader with one process per core."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor

    from blurcli.base.threads import available_cores

    loader = DataLoader(ImageFolder(folder, pil_to_tensor), batch_size=64, num_workers=available_cores())
    return sum(len(images) for images, _ in loader)


def plain_loop(folder: Path, size: int) -> int:
    """Read once through ImageFolder in one process."""
    from torchvision.datasets import ImageFolder

    return sum(1 for _ in ImageFolder(folder))


METHODS = {method.__name__: method for method in (pack, image_folder, plain_loop)}


def main(folder: Path, size: int) -> None:
    """Print seconds and peak memory of each method."""
    for reported in (False, True):
        for name in METHODS:
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, str(folder), str(size), name]
                done = subprocess.run(
                    command, env={**os.environ, "BLURDIFF_CACHE": cache}, check=True, capture_output=True, text=True
                )
            if reported:
                print(done.stdout, end="")


if __name__ == "__main__":
    folder, side = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 128
    if len(sys.argv) < 4:
        main(folder, side)
    else:
        import torch  # noqa: F401  so that no method is timed with its import

        started = time.perf_counter()
        count = METHODS[sys.argv[3]](folder, side)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{sys.argv[3]:>12}: {count:,} images in {seconds:.1f} s, at most {peak:.0f} MiB in the process")
