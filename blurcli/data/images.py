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

_LARGE = 1 << 24  # pixels; larger images are decoded one at a time
_one_large = threading.Lock()
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see `decoding`

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Range = tuple[float, float]
Progress = Callable[[int, int], None]


def decode(content: bytes, name: str, height: int, width: int, channels: int, value_range: Range | None = None) -> Images:
    """Decode an image file to (C, H, W) uint8: rotated upright, resized with antialiasing, cropped around the center.

    An image that already has the size keeps its exact pixels. Transparent images are composited over white. Of an animation
    the first frame is used.

    Args:
        content: bytes of the file.
        name: name of the file, for messages.
        height: in pixels.
        width: in pixels.
        channels: 1 for gray, 3 for color.
        value_range: the values that become 0 and 255 in gray images of more than 8 bits, with clipping; None for (0, 65535).
            8-bit images are used as they are.

    Raises:
        UserError: the content is not a readable image; the message contains `name`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image, decoding(image):
            ImageOps.exif_transpose(image, in_place=True)
            return fit(_eight_bit(image, value_range), height, width, channels)
    except Exception as error:  # on damaged content decoders raise nearly anything
        raise UserError(f"{name}: not a readable image ({reason(error)}); repair or remove the file") from None


def upright_size(content: bytes, name: str) -> tuple[int, int]:
    """Height and width of an image file after rotation to upright.

    Args:
        content: bytes of the file.
        name: name of the file, for messages.

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
    """The reason for an unreadable image, from the decoder's exception."""
    if isinstance(error, UnidentifiedImageError):  # its text names only an address in memory
        return f"none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__


@contextmanager
def decoding(image: Image.Image) -> Iterator[None]:
    """Guard the decoding of an image: ValueError for more pixels than Pillow considers safe, where Pillow only warns.

    Large images are decoded one at a time, because every thread needs the memory for one.
    """
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS or sys.maxsize
    if pixels > limit:
        raise ValueError(f"{image.width}x{image.height} pixels are more than the limit of {limit:,}")
    with _one_large if pixels > _LARGE else nullcontext():
        yield


def fit(image: Image.Image, height: int, width: int, channels: int) -> Images:
    """An 8-bit image as (C, H, W) uint8, resized with antialiasing, cropped around the center, composited over white."""
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
    """Whether an image has gray levels of more than 8 bits."""
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
