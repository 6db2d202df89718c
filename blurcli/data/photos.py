"""Photos at their own size, with transparency, color profile and EXIF data, which restoration keeps."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from blurcli.base import files
from blurcli.base.errors import UsageError, option
from blurcli.core.kernels import normalize_kernel
from blurcli.data.images import Range, is_deep, opened, orientation, rgb, turned, upright
from blurcli.data.notes import is_nearly_black, suggested_range
from blurcli.data.outputs import OUTPUT, mark
from blurcli.data.png import encoded_deep

_ON_THEIR_SIDES = (5, 6, 7, 8)  # orientations
_ORIENTATION, _SOFTWARE, _DESCRIPTION = 0x0112, 0x0131, 0x010E  # EXIF
_DEEP, _DEEPEST = 257.0, 65535  # values of 16 bits per gray level, and the largest of them
_WHITE = 255.0  # gray levels
ALPHA = "alpha"
"""What takes the place of a mask's file: the transparent pixels are the mask."""

_QUALITY = 95  # of JPEG and WebP
# EXIF tags that describe the photo: description, maker, model, orientation, resolution, software, date, artist, copyright,
# EXIF, GPS, and those of Windows. Other tags of a TIFF describe how its pixels are stored.
_KEPT_TAGS = {270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 33432, 34665, 34853, 18246, 18249, *range(40091, 40096)}
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_OPAQUE = ("JPEG",)
_OTHER_COLORS = ("CMYK", "LAB", "YCbCr", "HSV")  # their profiles are neither RGB nor gray
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_FORM, _BITS_PER_SAMPLE = 24, 258  # offset of bits and kind of colors in a PNG; tag of a TIFF
_LARGEST_PROFILE = 1 << 24
ROUNDING = 0.29
"""The smallest noise in gray levels, from rounding to 8 bits: 1 / sqrt(12)."""


@dataclass(frozen=True)
class Photo:
    """A photo, upright.

    Attributes:
        pixels: (C, H, W) float64, gray levels from 0 to 255, C 1 or 3.
        deep: whether it has 16 bits per value.
        alpha: transparency, (H, W) uint8; None for an opaque photo.
        profile: its color profile (ICC); None for none.
        exif: its EXIF data; None for none.
        steps: the steps of a JPEG's brightness, in gray levels per frequency of blocks of 8x8 pixels; None for other formats.
        in_color: whether a gray photo is stored in red, green and blue, as its result is.
        note: what was lost or is odd in reading; empty for nothing.
        own_range: values in its file of gray levels 0 and 255; None for the full range of its bits.
    """

    pixels: NDArray[np.float64]
    deep: bool = False
    alpha: NDArray[np.uint8] | None = None
    profile: bytes | None = None
    exif: bytes | None = None
    note: str = ""
    own_range: Range | None = None
    steps: NDArray[np.float64] | None = None
    in_color: bool = False

    @property
    def value_range(self) -> Range:
        """The values in its file of gray levels 0 and 255."""
        return self.own_range or (0.0, float(_DEEPEST) if self.deep else _WHITE)

    @property
    def least_noise(self) -> float:
        """The noise of rounding, in gray levels."""
        low, high = self.value_range
        return ROUNDING * _WHITE / (high - low)

    @property
    def unclipped(self) -> NDArray[np.bool_]:
        """Pixels without a value of 0 or the maximum, (H, W)."""
        inside: NDArray[np.bool_] = np.all((self.pixels > 0) & (self.pixels < 255), axis=0)
        return inside

    @property
    def transparent(self) -> NDArray[np.bool_]:
        """Pixels that are not visible at all, (H, W).

        Raises:
            UsageError: the photo is opaque.
        """
        if self.alpha is None:
            raise UsageError(f"{option('mask')} {ALPHA}: the photo has no transparency")
        hidden: NDArray[np.bool_] = self.alpha == 0
        return hidden

    def opaque(self) -> Photo:
        """The photo without its transparency."""
        return replace(self, alpha=None)

    def with_hidden_filled(self) -> Photo:
        """The photo with the color of the nearest visible pixel where alpha is 0: hidden colors must not influence others."""
        if self.alpha is None or (hidden := self.transparent).all() or not hidden.any():
            return self
        return replace(self, pixels=filled(self.pixels, hidden))

    def with_pixels(self, pixels: NDArray[np.float64]) -> Photo:
        """The photo with other pixels (C, H', W'); H' and W' are whole multiples of H and W."""
        alpha, (height, width) = self.alpha, pixels.shape[1:]
        if alpha is not None and alpha.shape != (height, width):
            alpha = np.asarray(Image.fromarray(alpha).resize((width, height), Image.Resampling.BICUBIC))
        return replace(self, pixels=pixels, alpha=alpha)

    def picture(self) -> Image.Image:
        """The photo as a Pillow image, rounded; colors of 16 bits to 8 bits, because Pillow has no others."""
        if self.deep and len(self.pixels) == 1:
            low, high = self.value_range
            values = low + self.pixels[0] * ((high - low) / _WHITE)
            return Image.fromarray(np.rint(values).clip(0, _DEEPEST).astype(np.uint16))
        levels = np.rint(self.pixels).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))
        if self.in_color:
            image = image.convert("RGB")
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        return image

    def check_fits(self, path: Path) -> None:
        """Check that the format of a path, by its suffix, can store the photo completely.

        Raises:
            UsageError: it cannot, or the suffix is unknown.
        """
        form = photo_format(path)
        if form in _OPAQUE and self.alpha is not None:
            raise UsageError(f"{option('out')} {path}: JPEG has no transparency, and the photo has; write a .png")
        if self.deep and form not in ("PNG", "TIFF"):
            raise UsageError(f"{option('out')} {path}: {form} has 8 bits, and the photo has 16; write a .png or .tif")
        if self.deep and len(self.pixels) > 1 and form != "PNG":
            raise UsageError(f"{option('out')} {path}: the photo has colors of 16 bits, which are written as .png only")

    def save(self, path: Path, comment: str = "") -> None:
        """Write it as PNG, JPEG, WebP or TIFF, by the suffix of the path.

        Args:
            path: the file; an existing one is replaced.
            comment: stored beside the pixels; in TIFF and WebP as the description, unless the photo has its own.

        Raises:
            UsageError: see `check_fits`.
            UserError: it cannot be written.
        """
        self.check_fits(path)
        form = photo_format(path)
        image, marks = self.picture(), mark(form)
        if self.exif is not None:
            exif = Image.Exif()
            exif.load(self.exif)
            if "exif" in marks:
                exif[_SOFTWARE] = marks["exif"][_SOFTWARE]
            marks["exif"] = exif
        if "exif" in marks and form != "JPEG" and comment:
            marks["exif"].setdefault(_DESCRIPTION, comment)
        if self.profile is not None:
            marks["icc_profile"] = self.profile
        if form in ("JPEG", "WEBP"):
            marks["quality"] = _QUALITY
        if form == "JPEG":
            marks["subsampling"] = 0  # colors as sharp as the brightness
            marks["comment"] = comment
        elif form == "PNG" and comment:
            marks["pnginfo"].add_text("Comment", comment)
        with files.replacing(path) as temporary:
            if self.deep and len(self.pixels) > 1:
                texts = {"Software": OUTPUT, **({"Comment": comment} if comment else {})}
                temporary.write_bytes(encoded_deep(self._deep_values(), texts, self.profile, self.exif))
            else:
                image.save(temporary, format=form, **marks)

    def _deep_values(self) -> NDArray[np.uint16]:
        values = np.rint(self.pixels * _DEEP).clip(0, _DEEPEST)
        if self.alpha is not None:
            values = np.concatenate([values, self.alpha[None] * _DEEP])
        return values.astype(np.uint16).transpose(1, 2, 0)


def photo_format(path: Path) -> str:
    """The format of a photo by the suffix of its path, by Pillow's name.

    Raises:
        UsageError: the suffix is unknown.
    """
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise UsageError(f"{option('out')} {path}: unknown suffix; use {', '.join(_FORMATS)}, or a folder")
    return form


def read_photo(content: bytes, name: str, value_range: Range | None = None) -> Photo:
    """A photo from the content of its file.

    Args:
        content: of a format that Pillow decodes, or .npy.
        name: of the file, for messages.
        value_range: the values that become gray levels 0 and 255 in gray photos of 16 bits; None for (0, 65535).

    Raises:
        UserError: it is not a readable image; the message contains `name`.
    """
    with opened(io.BytesIO(content), name) as image:
        photo = from_picture(image, _png_profile(content), value_range)
        if not _has_deep_colors(image, content):
            return photo
        try:
            import av  # Pillow reads colors with 8 bits

            with av.open(io.BytesIO(content), "r", format=f"{str(image.format).lower()}_pipe") as file:
                values = next(file.decode(video=0)).to_ndarray()
            channels = [np.asarray(turned(Image.fromarray(values[..., i]), orientation(image))) for i in range(3)]
        except Exception as error:  # FFmpeg raises many types, for compressions that it does not know, too
            way = "pip install av reads all 16" if isinstance(error, ImportError) else "save it as an ordinary PNG for all 16"
            lost = f"its colors have 16 bits, and 8 are read; {way}"
            return replace(photo, note="; ".join(filter(None, (photo.note, lost))))
        return replace(photo, pixels=np.stack(channels) / _DEEP, deep=True)


def read_kernel(content: bytes, name: str) -> tuple[NDArray[np.float64], list[str]]:
    """A blur kernel from the content of a file: gray, or the mean of its colors; see `core.kernels.normalize_kernel`.

    Raises:
        UserError: it is not readable, or not a kernel.
    """
    with opened(io.BytesIO(content), name) as image:
        pages = _pages(image)
        values = np.array(image if is_deep(image) else image.convert("RGB"), dtype=np.float64)
    try:
        kernel, done = normalize_kernel(torch.from_numpy(values if values.ndim == 2 else values.mean(-1)))
    except ValueError as error:
        raise UsageError(f"{name}: no blur kernel: {error}") from None
    return kernel.numpy(), [*([f"the first of its {pages:,} pages is used"] if pages > 1 else []), *done]


def read_mask(content: bytes, name: str) -> NDArray[np.bool_]:
    """The pixels to fill, (H, W), from the content of a file: all that are not black.

    Raises:
        UserError: it is not a readable image.
    """
    photo = read_photo(content, name)
    mask: NDArray[np.bool_] = np.any(photo.pixels > 0, axis=0)
    return mask


def grown(mask: NDArray[np.bool_], px: int) -> NDArray[np.bool_]:
    """A mask (H, W) with all pixels that are at most `px` pixels away from it, in rows, columns and diagonals."""
    from scipy.ndimage import maximum_filter

    wider: NDArray[np.bool_] = maximum_filter(mask, 2 * px + 1, mode="constant")
    return wider


def filled(pixels: NDArray[np.float64], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Images (..., H, W) with the values of the nearest other pixel where (H, W) is hidden, but not everywhere."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    near: NDArray[np.float64] = pixels[..., rows, columns]
    return near


def from_picture(image: Image.Image, profile: bytes | None = None, value_range: Range | None = None) -> Photo:
    """A photo from a Pillow image: upright, gray or red, green and blue.

    Args:
        image: of any mode.
        profile: its color profile, if it is not in `image.info`.
        value_range: see `read_photo`.

    Raises:
        ValueError: its values have no known range.
    """
    profile = None if image.mode in _OTHER_COLORS else profile or image.info.get("icc_profile")
    pages = _pages(image)
    exif = _upright_exif(image, pages)
    notes = [f"the first of its {pages:,} pages is restored"] if pages > 1 else []
    steps = _quantization(image)
    image = upright(image)
    if is_deep(image):
        values = np.array(image, dtype=np.float64)[None]
        if image.mode == "F" or values.min() < 0 or values.max() > _DEEPEST:
            what = "floating-point values have" if image.mode == "F" else "values beyond 16 bits have"
            raise ValueError(f"{what} no known range: save it with 8 or 16 bits")
        low, high = value_range or (0.0, float(_DEEPEST))
        notes += filter(None, [_unlike((float(values.min()), float(values.max())), value_range)])
        levels = (values - low) / ((high - low) / _WHITE)
        return Photo(levels, deep=True, profile=profile, exif=exif, note="; ".join(notes), own_range=value_range)
    gray, alpha = image.mode in ("1", "L", "LA"), None
    if image.has_transparency_data:
        image = image.convert("RGBA") if image.mode not in ("LA", "RGBA") else image
        alpha = np.asarray(image.getchannel("A"))
    colors = rgb(image) if image.mode == "LAB" else image
    pixels = np.asarray(colors.convert("L" if gray else "RGB"), dtype=np.float64)
    pixels = pixels[None] if gray else pixels.transpose(2, 0, 1)
    in_color = not gray and bool((pixels == pixels[:1]).all())
    pixels = pixels[:1] if in_color else pixels
    return Photo(pixels, False, alpha, profile, exif, "; ".join(notes), steps=steps, in_color=in_color)


def _quantization(image: Image.Image) -> NDArray[np.float64] | None:
    """The steps of a JPEG's brightness, of the upright photo."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return None
    table = np.array(tables[0], dtype=np.float64).reshape(8, 8)
    return table.T if orientation(image) in _ON_THEIR_SIDES else table


def _has_deep_colors(image: Image.Image, content: bytes) -> bool:
    """Whether a PNG or TIFF has colors of 16 bits."""
    if image.format == "PNG":
        return content[_PNG_FORM : _PNG_FORM + 2] in (b"\x10\x02", b"\x10\x06")
    return image.mode in ("RGB", "RGBA") and set(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())) == {16}


def _png_profile(content: bytes) -> bytes | None:
    """The color profile of a PNG, which `opened` drops; None without one, and for other formats."""
    place = len(_PNG)
    while content.startswith(_PNG) and len(content) >= place + 8:
        size, name = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        if name == b"iCCP":
            compressed = content[place + 8 : place + 8 + size].partition(b"\0")[2][1:]
            try:
                return zlib.decompressobj().decompress(compressed, _LARGEST_PROFILE)
            except zlib.error:
                return None
        place = len(content) if name == b"IDAT" else place + size + 12
    return None


def _pages(image: Image.Image) -> int:
    """The number of pages of a TIFF; 1 for other formats, whose further frames belong to an animation or to the camera."""
    if image.format != "TIFF":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # damaged pages after the first do not matter; Pillow is left in them
        image.seek(0)
        return 1


def _unlike(values: Range, known: Range | None) -> str:
    """A note if 16-bit values do not fit those of the training images, or fill 12 bits where the model has no own range."""
    low, high = (f"{value:,.10g}" for value in values)
    if known is None:
        start, end = suggested_range(values)
        text = (
            f"nearly black to the model: its largest value is {high}, and white is {_DEEPEST:,}; multiply all, or use a model "
            f"that was trained with the range of the camera, such as {option('set')} 'data.value_range=[{start:g},{end:g}]'"
        )
        return text if is_nearly_black(values, (0, _DEEPEST)) else ""
    if known[0] <= values[0] <= values[1] <= known[1]:
        return ""
    black, white = (f"{value:,.10g}" for value in known)
    return f"its values are from {low} to {high}, and those of the model's training images from {black} to {white}"


def _upright_exif(image: Image.Image, pages: int) -> bytes | None:
    """The EXIF data that are kept; those of a stack without the description, which can count its pages."""
    try:
        exif = Image.Exif()  # a copy: the image needs its own to be rotated
        exif.load(image.getexif().tobytes())
        for tag in [tag for tag in exif if tag not in _KEPT_TAGS or (pages > 1 and tag == _DESCRIPTION)]:
            del exif[tag]
        if _ORIENTATION in exif:
            exif[_ORIENTATION] = 1
        return exif.tobytes() if exif else None
    except Exception:  # damaged EXIF data do not matter
        return None
