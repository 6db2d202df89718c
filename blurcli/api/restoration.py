"""The Python interface of restored photos."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from blurcli.api.options import MAX_SEED, check_names, check_pixels, check_range, check_whole
from blurcli.base import console
from blurcli.base.errors import OptionError, spelled
from blurcli.core.kernels import normalize_kernel
from blurcli.data.images import Range
from blurcli.data.photos import ALPHA, Photo, from_picture, grown, read_kernel, read_mask, read_photo
from blurcli.model.pipeline import Pipeline
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restored import Restored
from blurcli.model.restorer import Restorer
from blurcli.workflows import session

_MOST_ENLARGED = 16
PhotoLike = str | Path | Image.Image | NDArray[np.uint8] | NDArray[np.uint16]


class RestoreKeywords(TypedDict, total=False):
    """The known damage of a photo, and how it is restored; lengths in pixels of the given photo.

    Keys:
        blur: standard deviation of a Gaussian blur; estimated if no blur is given.
        defocus: radius of the disk of a defocus blur.
        motion: length of a straight motion, and its angle in degrees, counterclockwise from the horizontal.
        kernel: any other blur: an array (h, w), or a picture of it.
        noise: standard deviation of the noise, in gray levels of 0 to 255; estimated if not given.
        light: `linear` where the blur is of linear light, as that of a lens, or `srgb` where it is of the stored values, as
            that of an image editor; what fits the photo if not given.
        enlarge: pixels of the result per pixel of the photo, along a side.
        mask: the pixels to fill: an array (H, W) of bool; a picture in which all pixels that are not black are filled; or
            `alpha`, for the transparent ones.
        mask_grow: fill so many pixels around the mask, too.
        strength: share of the result in [0, 1]; the rest is the photo as given.
        temperature: 0 gives one image without random detail; 1 draws from the posterior.
        n: number of draws.
        steps: calls of the network per draw.
        seed: of the draws.
        label: of a class-conditional model.
        guidance: classifier-free guidance, or by the guide.
    """

    blur: float
    defocus: float
    motion: tuple[float, float]
    kernel: str | Path | NDArray[np.float64]
    noise: float
    light: str
    enlarge: int
    mask: str | Path | Image.Image | NDArray[np.bool_]
    mask_grow: int
    strength: float
    temperature: float
    n: int
    steps: int
    seed: int
    label: str
    guidance: float


class RestoredPhoto:
    """A restored photo; a notebook shows it as an image.

    Attributes:
        draws: the draws, (n, H, W, C) float32, gray levels of 0 to 255.
        facts: blur and noise, given or estimated, and the residual of the fit to the photo; `value_range`, the values in the
            photo's file of gray levels 0 and 255; `methods`, a sentence for a methods section; as in `blurdiff restore --json`.
    """

    def __init__(self, photo: Photo, restored: Restored) -> None:
        self._photo, self._restored = photo, restored
        self.draws = np.ascontiguousarray(restored.draws.clip(0, 255).transpose(0, 2, 3, 1), dtype=np.float32)
        self.facts = restored.facts

    @property
    def images(self) -> list[Image.Image]:
        """One Pillow image per draw, rounded as by `blurdiff restore`."""
        return [self._photo.with_pixels(draw).picture() for draw in self._restored.draws]

    @property
    def image(self) -> Image.Image:
        """The first draw."""
        return self.images[0]

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean of the draws, (H, W, C) float32: it has the smallest mean squared error."""
        return np.ascontiguousarray(self._restored.mean.transpose(1, 2, 0), dtype=np.float32)

    @property
    def spread(self) -> NDArray[np.float32]:
        """The standard deviation of the draws in gray levels, (H, W) float32; needs at least two draws."""
        if len(self.draws) < 2:
            raise OptionError("n", len(self.draws), "a spread needs at least two draws")
        return self._restored.spread.astype(np.float32)

    def save(self, path: str | Path) -> Path:
        """Write the first draw, byte for byte as `blurdiff restore --out`; returns the path.

        Raises:
            UsageError: the suffix is not a format for photos.
            UserError: it cannot be written.
        """
        path = Path(path).expanduser()
        self._photo.with_pixels(self._restored.draws[0]).save(path, self._restored.comment)
        return path

    def __repr__(self) -> str:
        count, height, width, channels = self.draws.shape
        found = spelled(self._restored.description, str)
        return f"RestoredPhoto({count} of {height}x{width}{', gray' if channels == 1 else ''}: {found})"

    def _repr_png_(self) -> bytes:
        self.image.save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()


def restore(pipeline: Pipeline, photo: PhotoLike, options: RestoreKeywords) -> RestoredPhoto:
    """A restored photo; see `Model.restore`."""
    check_names("restore", options, RestoreKeywords)
    for name, least, most in (("n", 1, None), ("steps", 1, None), ("seed", 0, MAX_SEED), ("enlarge", 1, _MOST_ENLARGED)):
        if options.get(name) is not None:
            check_whole(name, options[name], least, most)  # type: ignore[literal-required]
    check_whole("mask_grow", options.get("mask_grow", 0), 0)
    for name in ("blur", "defocus", "noise", "temperature", "strength"):
        check_range(name, options.get(name), 0)  # type: ignore[arg-type]
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    restorer = Restorer(pipeline, chosen.pop("label", None), chosen.pop("guidance", None))
    mask, grow, given = chosen.pop("mask", None), chosen.pop("mask_grow", 0), _photo(photo, restorer.value_range)
    if grow and mask is None:
        raise OptionError("mask_grow", grow, "needs a mask")
    chosen["kernel"] = _kernel(chosen.get("kernel"))
    if isinstance(mask, str) and mask == ALPHA:
        given, mask = given.opaque(), given.transparent
    if mask is not None:
        chosen["mask"] = grown(_mask(mask), grow)
    if "motion" in chosen:
        chosen["motion"] = _motion(chosen["motion"])
    request = RestoreOptions(**chosen)
    for text in filter(None, (given.note, restorer.warning(given))):
        console.notify(f"warning: {text}")
    with console.progress("restoring", restorer.work(given, request)) as update:
        restored = restorer(given, request, update)
    return RestoredPhoto(given, restored)


def _photo(given: Any, value_range: Range | None) -> Photo:
    if isinstance(given, Image.Image):
        return _from_picture("photo", given, value_range)
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint16 or given.shape[2:] not in ((), (1,)):
            check_pixels("photo", given)
        if given.ndim not in (2, 3) or not given.size or given.shape[2:] not in ((), (1,), (3,), (4,)):
            raise OptionError("photo", f"of shape {given.shape}", "must be (H, W) or (H, W, C) with 1, 3 or 4 channels")
        return from_picture(Image.fromarray(given[..., 0] if given.shape[2:] == (1,) else given), value_range=value_range)
    path = Path(given).expanduser()
    return read_photo(session.read_file(path), str(path), value_range)


def _from_picture(name: str, given: Image.Image, value_range: Range | None = None) -> Photo:
    try:
        return from_picture(given, value_range=value_range)
    except ValueError as error:
        raise OptionError(name, f"of mode {given.mode}", str(error)) from None


def _motion(given: Any) -> tuple[float, float]:
    try:
        length, angle = map(float, given)
    except (TypeError, ValueError):
        raise OptionError("motion", repr(given), "must be a length and an angle, such as (9, 30)") from None
    return length, angle


def _kernel(given: Any) -> NDArray[np.float64] | None:
    if given is None:
        return None
    if not isinstance(given, np.ndarray):
        path = Path(given).expanduser()
        return read_kernel(session.read_file(path), str(path))[0]
    if given.ndim != 2:
        raise OptionError("kernel", f"of shape {given.shape}", "must be (h, w)")
    try:
        return normalize_kernel(torch.from_numpy(np.asarray(given, dtype=np.float64)))[0].numpy()
    except ValueError as error:
        raise OptionError("kernel", f"of shape {given.shape}", str(error)) from None


def _mask(given: Any) -> NDArray[np.bool_]:
    if isinstance(given, Image.Image):
        given = np.any(_from_picture("mask", given).pixels > 0, axis=0)
    if isinstance(given, np.ndarray):
        mask: NDArray[np.bool_] = given > 0
        return mask
    path = Path(given).expanduser()
    return read_mask(session.read_file(path), str(path))
