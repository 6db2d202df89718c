"""Decoding of image files to uint8 of one size."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from blurcli.base.errors import UserError, one_line
from blurcli.data.png import without_texts

_UNLIMITED_PIXELS = 1 << 26  # decoded at a time if Pillow has no limit per image

# Pillow lists these, but decodes them with other programs or with handlers that are rarely installed.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_NPY = ".npy"

# Formats of photos that the oldest supported Pillow cannot read: suffixes, brands in the header, the fix.
_PHOTOS = {
    "HEIC": (
        (".heic", ".heics", ".heif", ".heifs", ".hif"),
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"),
        "pip install pillow-heif",
    ),
    "AVIF": ((".avif", ".avifs"), (b"avif", b"avis"), "pip install --upgrade 'pillow>=11.3'"),
}
_BRANDS_BYTES = 64

_PATCHES_PER_AREA = 4  # random patches; more would repeat each other

_ORIENTATION = 0x0112  # EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = 5
"""From this orientation on, rows are columns."""

Pixels = NDArray[np.uint8]
"""Images (N, C, H, W), or one picture (height, width, C), in 0..255."""
Labels = NDArray[np.int64]
Range = tuple[float, float]


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Suffixes, in lower case, of the files that are read: the formats that the installed packages decode, and .npy."""
    known = {suffix for suffix, form in Image.registered_extensions().items() if form in _formats()}
    if importlib.util.find_spec("pillow_heif") is not None:
        known.update(_PHOTOS["HEIC"][0])
    return (*sorted(known), _NPY)


def missing_reader(name: str) -> str | None:
    """The format of a photo that the installed packages cannot read, and the fix; None for any other name."""
    if name.lower().endswith(image_suffixes()):
        return None
    found = (f"{form} ({fix} reads them)" for form, (ends, _, fix) in _PHOTOS.items() if name.lower().endswith(ends))
    return next(found, None)


@functools.cache
def _formats() -> tuple[str, ...]:
    registered = set(Image.registered_extensions().values())
    return tuple(form for form in Image.OPEN if form in registered - _NOT_DECODED)


@dataclass(frozen=True)
class Decoded:
    """An image file, decoded.

    Attributes:
        pixels: (1, C, H, W) uint8, or patches (N, C, H, W).
        values: smallest and largest value, for gray images of more than 8 bits.
        odd_crop: whether it was only cropped, by an odd number of pixels. Earlier versions resampled such images.
    """

    pixels: Pixels
    values: Range | None
    odd_crop: bool


def decode(content: bytes, name: str, height: int, width: int, channels: int, value_range: Range | None = None) -> Pixels:
    """Decode an image file to (C, H, W) uint8: rotated upright, resized with antialiasing, cropped around the center.

    An image that has the size exactly in one direction is only cropped, and keeps its pixels. Transparent images are composited
    over white. For animations the first frame is used.

    Args:
        content: bytes of the file, in a format that Pillow decodes or NumPy's .npy format: (height, width) of numbers, or
            (height, width, 1, 3 or 4) uint8.
        name: name of the file, for messages.
        height: in pixels.
        width: in pixels.
        channels: 1 for gray, 3 for color.
        value_range: the values that become 0 and 255 in gray images of more than 8 bits, with clipping; None for (0, 65535).
            8-bit images are used unchanged.

    Raises:
        UserError: the content is not a readable image; the message contains `name`.
    """
    pixels: Pixels = decode_described(content, name, (channels, height, width), value_range).pixels[0]
    return pixels


def decode_described(
    content: bytes, name: str, shape: tuple[int, int, int], value_range: Range | None = None, patches: int | None = None
) -> Decoded:
    """Decode as `decode` to a shape (C, H, W), and return the properties of the file as well.

    With `patches`, decode at most that many patches of this shape, at full detail and random places that depend only on the
    content. A small image has fewer: four for each patch that fits without overlap.
    """
    channels, height, width = shape
    with opened(io.BytesIO(content), name) as image:
        image = upright(image)
        values = deep_values(image)
        eight_bit = _eight_bit(image, value_range, values)
        if patches is not None and image.width >= width and image.height >= height:
            whole = fit(eight_bit, image.height, image.width, channels)
            return Decoded(_patches(whole, height, width, patches, content), values, odd_crop=False)
        odd = (image.width - width) % 2 or (image.height - height) % 2
        odd_crop = bool(odd and _cover(image, height, width) == 1)
        return Decoded(fit(eight_bit, height, width, channels)[None], values, odd_crop)


def _patches(image: Pixels, height: int, width: int, most: int, content: bytes) -> Pixels:
    rows, columns = image.shape[1] - height + 1, image.shape[2] - width + 1
    apart = (image.shape[1] // height) * (image.shape[2] // width)
    count = min(most, _PATCHES_PER_AREA * apart, rows * columns)
    random = np.random.default_rng(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()))
    places = np.stack(np.divmod(random.choice(rows * columns, count, replace=False), columns), axis=1)
    return np.stack([image[:, y : y + height, x : x + width] for y, x in places])


@contextmanager
def opened(file: IO[bytes], name: str) -> Iterator[Image.Image]:
    """Open an image file, for the block to decode.

    Args:
        file: the file, open for reading, at position 0.
        name: its name, for messages.

    Raises:
        UserError: the content cannot be decoded, here or in the block; the message contains `name`.
    """
    try:
        with _open(file) as image, _decoding(image):
            yield image
    except _MissingReaderError as error:
        raise UnreadableError(name, str(error), "install it, or remove the file") from None
    except Exception as error:  # decoders raise nearly anything on damaged content
        raise UnreadableError(name, _reason(error)) from None


class _Budget:
    """A budget that threads share."""

    def __init__(self) -> None:
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, amount: int, most: int) -> Iterator[None]:
        """Use an amount while the block runs; wait until the total is at most `most`, or nothing else is in use."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + amount <= most)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()


_pixels = _Budget()


class UnreadableError(UserError):
    """An image file cannot be decoded.

    Args:
        name: of the file.
        reason: the cause.
        remedy: the fix.
    """

    def __init__(self, name: str, reason: str, remedy: str = "repair or remove the file") -> None:
        super().__init__(f"{one_line(name)}: not a readable image ({reason}); {remedy}")
        self.reason = reason


def upright_size(content: bytes, name: str) -> tuple[int, int]:
    """Height and width of an image file after rotation to upright.

    Args:
        content: bytes of the file.
        name: name of the file, for messages.

    Raises:
        UserError: as `decode`.
    """
    with opened(io.BytesIO(content), name) as image:
        turned = upright(image)
        return turned.height, turned.width


def upright(image: Image.Image) -> Image.Image:
    """An image rotated upright by its EXIF data."""
    image.load()  # some formats rotate by themselves
    return turned(image, orientation(image))


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image rotated upright from an orientation, as EXIF data number them."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """The orientation in the EXIF data of an image; 1, upright, if they cannot be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data do not matter
        return 1
    return found if isinstance(found, int) else 1


def deep_values(image: Image.Image) -> Range | None:
    """Smallest and largest value of a gray image of more than 8 bits; None for other images, or if a value is not finite."""
    if not is_deep(image):
        return None
    values = np.asarray(image)
    return (float(values.min()), float(values.max())) if values.size and np.isfinite(values).all() else None


def is_deep(image: Image.Image) -> bool:
    """Whether an image has gray levels of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _open(file: IO[bytes]) -> Image.Image:
    start = file.tell()
    if not file.read(1):
        raise ValueError("the file is empty")
    file.seek(start)
    magic = file.read(len(npy.MAGIC_PREFIX))
    file.seek(start)
    if magic == npy.MAGIC_PREFIX:
        return _array(file)
    form = _photo_format(file)
    if form == "HEIC" and importlib.util.find_spec("pillow_heif") is not None:
        from pillow_heif.as_plugin import HeifImageFile

        heif: Image.Image = HeifImageFile(file)  # without registering it in Pillow, which is the caller's choice
        return heif
    if form is not None and (form == "HEIC" or form not in _formats()):
        raise _MissingReaderError(f"{form}, which is read after: {_PHOTOS[form][2]}")
    return Image.open(without_texts(file), formats=_formats())


def _photo_format(file: IO[bytes]) -> str | None:
    """The key of `_PHOTOS` for the header of a file; None for other formats."""
    start = file.tell()
    header = file.read(_BRANDS_BYTES)
    file.seek(start)
    if header[4:8] != b"ftyp":
        return None
    size = int.from_bytes(header[:4])
    brands = [header[place : place + 4] for place in range(8, min(size, len(header)), 4)]
    # Both formats share brands, which stand for HEIC; AVIF has its own brand as well.
    return next((form for form in ("AVIF", "HEIC") if not {*brands}.isdisjoint(_PHOTOS[form][1])), None)


class _MissingReaderError(Exception):
    """A format needs a package that is not installed."""


def _array(file: IO[bytes]) -> Image.Image:
    shape, by_columns, dtype = read_array_header(file)
    content = file.read()
    if dtype.kind not in "buif" or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError("damaged" if dtype.kind in "buif" else f"an array of {dtype}")
    stored = np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")
    values = stored.astype(dtype.newbyteorder("="))
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    eight_bit = values.dtype == np.uint8
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4) and eight_bit)):
        raise ValueError(f"an array {shape} of {dtype}; it must be (height, width), or uint8 (height, width, 3 or 4)")
    if dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif not eight_bit and values.dtype != np.uint16:
        values = values.astype(np.float32)
    return Image.fromarray(np.ascontiguousarray(values))


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, Fortran order and dtype of an array in the .npy format; the file is then at the first value."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    return shape, by_columns, dtype


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text has only an address in memory
        return "no format that Pillow knows"
    return str(error) or type(error).__name__


@contextmanager
def _decoding(image: Image.Image) -> Iterator[None]:
    """Limit the decoding of an image: ValueError for more pixels than Pillow considers safe, where Pillow only warns.

    All threads together decode no more pixels at a time than one image may have.
    """
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS or sys.maxsize
    if pixels > limit:
        raise ValueError(f"{image.width}x{image.height} pixels are more than the limit of {limit:,}")
    with _pixels.held(pixels, Image.MAX_IMAGE_PIXELS or _UNLIMITED_PIXELS):
        yield


def fit(image: Image.Image, height: int, width: int, channels: int) -> Pixels:
    """An 8-bit image as (C, H, W) uint8, resized with antialiasing, cropped around the center, composited over white."""
    wanted = "L" if channels == 1 else "RGB"
    if image.has_transparency_data:
        small = _fit(image if image.mode == "RGBA" else image.convert("RGBA"), height, width)
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert(wanted)
    else:
        colors = rgb(image) if image.mode == "LAB" else image
        small = _fit(colors if colors.mode == wanted else colors.convert(wanted), height, width)
    pixels = np.asarray(small)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def rgb(image: Image.Image) -> Image.Image:
    """An image in CIE Lab, converted to sRGB: Pillow does this only with color profiles."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # not in place
    return converted


def _cover(image: Image.Image, height: int, width: int) -> float:
    """The scale at which an image just covers a size."""
    return max(height / image.height, width / image.width)


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    if _cover(image, height, width) == 1:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def _eight_bit(image: Image.Image, value_range: Range | None, values: Range | None) -> Image.Image:
    if not is_deep(image):
        return image
    pixels = np.array(image, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError("some of its values are not finite")
    if value_range is None and image.mode == "F":
        known = f"; they are from {values[0]:g} to {values[1]:g}" if values else ""
        raise ValueError(f"floating-point values have no known range: give it with data.value_range{known}")
    low, high = value_range or (0, 65535)
    pixels -= low
    pixels *= 255 / (high - low)
    return Image.fromarray(np.rint(pixels, out=pixels).clip(0, 255, out=pixels).astype(np.uint8))
