"""PNG files beyond Pillow's limits: without large texts and color profiles, which pixels do not need, and colors of 16 bits."""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_UNUSED = _TEXTS | {b"iCCP"}
_UPRIGHT = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that can hold the orientation
_LARGEST_UPRIGHT = 1 << 20
_FRAME_BYTES = 12  # of a chunk: length, type and checksum


def without_texts(file: IO[bytes]) -> IO[bytes]:
    """A file, or for a PNG with texts or a color profile the same image without them, in memory.

    Programs store whole workflows in texts, and Pillow refuses an image with texts or a profile above its limit. Texts that can
    hold the orientation are kept. Damaged parts are left to the decoder.
    """
    start = file.tell()
    kept, dropped = _chunks(file)
    if not dropped:
        file.seek(start)
        return file
    image = io.BytesIO()
    for place, size in kept:
        file.seek(place)
        image.write(file.read(size))
    image.seek(0)
    return image


def _chunks(file: IO[bytes]) -> tuple[list[tuple[int, int]], bool]:
    """Offset and size of the chunks of a PNG that its image needs, and whether there are others."""
    start = file.tell()
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return [], False
    kept, dropped = [(start, len(_SIGNATURE))], False
    while len(header := file.read(8)) == 8:
        size, name, place = int.from_bytes(header[:4]), header[4:], file.tell() - 8
        if name in _UNUSED and not (name in _TEXTS and _turns(name, file.read(min(size, _LARGEST_UPRIGHT + 1)))):
            dropped = True
        else:
            kept.append((place, size + _FRAME_BYTES))
        file.seek(place + size + _FRAME_BYTES)
    return kept, dropped


def _turns(name: bytes, text: bytes) -> bool:
    """Whether a text can hold the orientation, and has a reasonable size."""
    if not text.startswith(_UPRIGHT) or len(text) > _LARGEST_UPRIGHT:
        return False
    compressed = text.partition(b"\0")[2]
    if name == b"iTXt":
        compressed = compressed[2:].split(b"\0", 2)[-1] if compressed[:1] == b"\1" else b""
    elif name == b"zTXt":
        compressed = compressed[1:]
    else:
        compressed = b""
    try:
        return not compressed or len(zlib.decompressobj().decompress(compressed, _LARGEST_UPRIGHT)) < _LARGEST_UPRIGHT
    except zlib.error:
        return False


def encoded_deep(values: NDArray[np.uint16], texts: dict[str, str], profile: bytes | None, exif: bytes | None) -> bytes:
    """A PNG of 16 bits per value, which Pillow writes for gray images only.

    Args:
        values: (H, W, 3) or (H, W, 4).
        texts: by their keywords, in Latin-1.
        profile: color profile (ICC); None for none.
        exif: EXIF data; None for none.
    """
    height, width, channels = values.shape
    rows = np.zeros((height, 1 + 2 * channels * width), np.uint8)  # each row begins with the number of its filter: none
    rows[:, 1:] = values.astype(">u2").reshape(height, -1).view(np.uint8)
    parts = [(b"IHDR", struct.pack(">II5B", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0))]
    parts += [(b"tEXt", f"{key}\0{text}".encode("latin-1", "replace")) for key, text in texts.items()]
    if profile is not None:
        parts.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    if exif is not None:
        parts.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    parts += [(b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    framed = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
    return _SIGNATURE + b"".join(framed)
