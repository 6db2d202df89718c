"""What it takes to restore several photos: time and disk, before it begins."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blurcli.cli.restoration_files import Source, Target

if TYPE_CHECKING:
    from blurcli.model.restore_options import RestoreOptions
    from blurcli.model.restorer import Restorer

_PROBE_PX = 128  # side of what is restored to measure the speed
_FEW = 3  # photos of which nobody asks how long they take


@dataclass(frozen=True)
class Task:
    """Photos that are left to restore, and how."""

    sources: Sequence[Source]
    target: Target
    options: RestoreOptions
    compare: bool

    def announce(self, restorer: Restorer) -> None:
        """Print how long several photos take, and what they need on the disk.

        Raises:
            UserError: the disk has not so much left.
        """
        from blurcli.base import console, files
        from blurcli.base.pace import duration

        sizes = [found for source in self.sources if (found := _size(source)) is not None]
        pixels = sum(width * height for width, height, _ in sizes)
        if len(sizes) < _FEW:
            return
        options = self.options
        results = (options.count if not options.mean else 1) + options.spread + 4 * self.compare
        size = sum(math.prod(one) for one in sizes) * results * options.enlarge**2
        files.check_space(self.target.path, size)
        seconds = self._seconds_per_pixel(restorer) * pixels
        console.notify(
            f"{len(sizes):,} photos, {pixels / 1e6:.1f} megapixels: about {duration(seconds)}, and at most "
            f"{math.ceil(size / 2**20):,} MiB in {self.target.path}"
        )

    def _seconds_per_pixel(self, restorer: Restorer) -> float:
        """Measured on the corner of a gray ramp with noise, which is as much work as any photo."""
        import numpy as np

        from blurcli.data.photos import Photo

        ramp = np.linspace(40, 200, _PROBE_PX) + np.random.default_rng(0).normal(0, 4, (3, _PROBE_PX, _PROBE_PX))
        probe, options = Photo(ramp), replace(self.options, mask=None, kernel=None)
        if not options.has_blur and options.enlarge == 1:
            options = replace(options, blur=1.0)  # as most photos have some
        restorer(probe, replace(options, steps=1, n=2 if options.spread else None))  # the first call takes longer
        started = time.perf_counter()
        restorer(probe, options)
        return (time.perf_counter() - started) / _PROBE_PX**2


def _size(source: Source) -> tuple[int, int, int] | None:
    """Width, height and bytes per pixel, from the header of a photo; None for what is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source.content())) as image:
            return (*image.size, len(image.getbands()) * (2 if "16" in image.mode else 1))
    except Exception:  # it is reported when its turn comes
        return None
