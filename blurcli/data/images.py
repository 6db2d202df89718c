"""Image files, decoded to uint8 of one size."""

from __future__ import annotations

import io
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from blurcli.errors import UserError

_LARGE = 1 << 24  # pixels of an image that is decoded alone, whatever the number of threads
_one_large = threading.Lock()
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see `decoding`

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Range = tuple[float, float]
Progress = Callable[[int, int], None]


def decode(content: bytes, name: str, height: int, width: int, channels: int, value_range: Range | None = None) -> Images:
    """One image file as (C, H, W) uint8: turned upright, resized with antialiasing and cropped about its centre.

    An image that already has the size keeps its exact pixels. Transparency is laid over white. Of an animation the first
    frame is taken.

    Args:
        content: of the file.
        name: of the file, for messages.
        height: in pixels.
        width: in pixels.
        channels: 1 for grey, 3 for colour.
        value_range: the values that become 0 and 255 in grey images of more than 8 bits, those beyond being clipped; None for
            (0, 65535). 8-bit images are taken as they are.

    Raises:
        UserError: the content is no readable image; the text has `name`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image, decoding(image):
            ImageOps.exif_transpose(image, in_place=True)
            return fit(_eight_bit(image, value_range), height, width, channels)
    except Exception as error:  # on damaged content decoders raise nearly anything
        raise UserError(f"{name}: not a readable image ({reason(error)}); repair or remove the file") from None


def upright_size(content: bytes, name: str) -> tuple[int, int]:
    """Height and width of an image file, once it is turned upright.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        UserError: as `decode`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image, decoding(image):
            upright = ImageOps.exif_transpose(image)
            return upright.height, upright.width
    except Exception as error:  # on damaged content decoders raise nearly anything
        raise UserError(f"{name}: not a readable image ({reason(error)}); repair or remove the file") from None


def reason(error: Exception) -> str:
    """What a decoder has to say of a broken image."""
    if isinstance(error, UnidentifiedImageError):  # whose text names only an address in memory
        return f"none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__


@contextmanager
def decoding(image: Image.Image) -> Iterator[None]:
    """To decode an image in; ValueError where it has more pixels than Pillow deems safe, of which Pillow only warns.

    Large images are decoded one at a time, since every thread would need the memory for one.
    """
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS or sys.maxsize
    if pixels > limit:
        raise ValueError(f"{image.width}x{image.height} pixels are more than the limit of {limit:,}")
    with _one_large if pixels > _LARGE else nullcontext():
        yield


def fit(image: Image.Image, height: int, width: int, channels: int) -> Images:
    """An 8-bit image as (C, H, W) uint8, resized with antialiasing, cropped about its centre, and laid over white."""
    wanted = "L" if channels == 1 else "RGB"
    if image.has_transparency_data:
        small = _fit(image if image.mode == "RGBA" else image.convert("RGBA"), height, width)
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert(wanted)
    else:
        small = _fit(image if image.mode == wanted else image.convert(wanted), height, width)
    pixels = np.asarray(small)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def is_deep(image: Image.Image) -> bool:
    """Whether its values are grey levels of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _eight_bit(image: Image.Image, value_range: Range | None) -> Image.Image:
    if not is_deep(image):
        return image
    if value_range is None and image.mode == "F":
        raise ValueError("floating-point values have no known range: give it with data.value_range")
    low, high = value_range or (0, 65535)
    values = np.array(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("some of its values are not finite")
    values -= low
    values *= 255 / (high - low)
    return Image.fromarray(np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8))
