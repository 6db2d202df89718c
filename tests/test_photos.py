"""Photos as phones and programs store them: HEIC and AVIF, PNG with large texts and profiles, damaged EXIF data."""

import importlib.util
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, shell
from PIL import Image, PngImagePlugin, features

from blurcli.base.errors import UsageError
from blurcli.data import load_dataset
from blurcli.data.archives import open_images
from blurcli.data.images import UnreadableError, decode, image_suffixes, upright_size
from blurcli.data.stream import open_stream

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)
SMOOTH = Image.linear_gradient("L").resize((32, 16)).convert("RGB")
WITHOUT = "HEIC (pip install pillow-heif reads them)"
needs_heif = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif")


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes, last: bool = False) -> bytes:
    """A PNG with one more chunk, after its header or before its end."""
    png = encoded(PHOTO, "PNG")
    place = len(png) - 12 if last else 8 + 25
    return png[:place] + chunk(kind, content) + png[place:]


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


LARGE = bytes(3_000_000)
TEXT = zlib.compress(LARGE)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"workflow\0\0" + TEXT),
        (b"iTXt", b"workflow\0\1\0\0\0" + TEXT),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TEXT),
        (b"zTXt", b"Raw profile type exif\0\0" + TEXT),
        (b"tEXt", b"workflow\0" + b"x" * (65 << 20)),
        (b"iCCP", b"profile\0\0" + TEXT),
        (b"iCCP", b"profile\0\7nonsense"),
        (b"iCCP", b""),
        (b"zTXt", b"short\0\5of another method"),
    ],
)
def test_texts_and_profiles_of_any_size_do_not_hide_the_pixels(kind: bytes, content: bytes, last: bool) -> None:
    stored = with_chunk(kind, content, last)
    assert np.array_equal(decode(stored, "x", 8, 12, 3), PIXELS.transpose(2, 0, 1))
    assert upright_size(stored, "x") == (8, 12)
    assert (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY) == (1 << 20, 64 << 20)


def test_what_decides_the_pixels_of_a_png_is_kept() -> None:
    """Its transparency, and the orientation in EXIF data, wherever they are."""
    raw = b"\nexif\n" + f"{len(exif(6)):8}\n".encode() + exif(6).hex().encode() + b"\n"
    xmp = b'<x:xmpmeta xmlns:tiff="t"><a tiff:Orientation="6"/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x", zip=True)
    for stored in (
        encoded(PHOTO, "PNG", exif=exif(6), pnginfo=text),
        with_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        assert upright_size(stored, "x") == (12, 8)
        assert np.array_equal(decode(stored, "x", 12, 8, 3), np.rot90(PIXELS, -1).transpose(2, 0, 1))
    glass = encoded(Image.new("L", (8, 8), 7), "PNG", transparency=7, pnginfo=text)
    assert decode(glass, "x", 8, 8, 1).min() == 255


@pytest.mark.parametrize("cut", [9, 20, 40, 60, 200])
def test_a_truncated_png_with_texts_is_still_unreadable(cut: int) -> None:
    with pytest.raises(UnreadableError):
        decode(with_chunk(b"tEXt", b"a\0b")[:cut], "x", 8, 12, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_rotated_upright(form: str, orientation: int) -> None:
    image = Image.linear_gradient("L").resize((6, 4))
    stored = encoded(image, form, exif=exif(orientation))
    size = (6, 4) if orientation >= 5 else (4, 6)
    assert upright_size(stored, "x") == size
    with Image.open(io.BytesIO(stored)) as reference:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(reference).convert("L"))
    assert np.array_equal(decode(stored, "x", *size, 1)[0], expected)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "damaged", [b"nonsense", b"Exif\0\0II*\0", b"Exif\0\0" + exif(6)[6:20], b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40]
)
def test_damaged_exif_data_do_not_hide_the_pixels(form: str, damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / f"x.{form.lower()}").write_bytes(encoded(SMOOTH, form, exif=damaged))
    assert load_dataset(str(tmp_path), "train", (16, 32), 3).images.shape == (1, 3, 16, 32)
    assert open_stream(tmp_path, 3).shape == (3, 16, 32)


def test_pillows_warnings_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded(SMOOTH, "JPEG", exif=b"Exif\0\0" + exif(6)[6:20]))
    done = shell("data", ".", cwd=tmp_path)
    assert (done.code, "Warning" in done.err) == (0, False), done.err


@pytest.fixture
def heic() -> bytes:
    from pillow_heif import from_pillow

    buffer = io.BytesIO()
    from_pillow(SMOOTH).save(buffer, quality=95)
    return buffer.getvalue()


@needs_heif
@pytest.mark.parametrize("name", ["a.heic", "a.HEIC", "a.heif", "a.jpg"])
def test_heic_is_read(tmp_path: Path, heic: bytes, name: str) -> None:
    """In a folder, in an archive and by itself; nothing is registered in Pillow, which belongs to the caller."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / name).write_bytes(heic)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(f"in/{name}", heic)
    for place in (folder, tmp_path / "x.zip", folder / name):
        with open_images(place) as files:
            found = decode(files.read(files.names[0]), "x", 16, 32, 3)
        assert np.abs(found.astype(int) - np.asarray(SMOOTH).transpose(2, 0, 1)).mean() < 3
    assert open_stream(folder, 3).shape == (3, 16, 32)
    assert "HEIF" not in Image.OPEN


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pillow_heif" else real(name))
    image_suffixes.cache_clear()
    yield
    image_suffixes.cache_clear()


@pytest.mark.usefixtures("without_heif")
def test_without_its_reader_heic_is_told_apart(tmp_path: Path, cli: Cli) -> None:
    header = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic"
    folder = tmp_path / "d"
    folder.mkdir()
    for name in ("a.heic", "b.HEIC", "c.hif", "notes.txt"):
        (folder / name).write_bytes(header)
    with pytest.raises(UsageError, match="no images in it"):
        load_dataset(str(folder), "train", (8, 8), 3)
    PHOTO.save(folder / "x.png")
    loaded = load_dataset(str(folder), "train", (8, 8), 3)
    assert f"skipped: 3 {WITHOUT}, 1 without an image's suffix (.txt); " in loaded.notes[0]
    with pytest.raises(UsageError, match=r"a.heic: cannot be read: HEIC \(pip install pillow-heif reads them\)"):
        load_dataset(str(folder / "a.heic"), "train", (8, 8), 3)
    done = cli("sample", "--weights", "shapes-blur", "--n", 1, "--init-image", folder / "a.heic")
    assert done.code == 1
    assert "(HEIC, which is read after: pip install pillow-heif); install it, or remove the file" in done.err


@pytest.mark.skipif(not features.check("avif"), reason="needs a Pillow with AVIF")
def test_avif_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stored = encoded(SMOOTH, "AVIF", quality=95)
    found = decode(stored, "x", 16, 32, 3).astype(int)
    assert np.abs(found - np.asarray(SMOOTH).transpose(2, 0, 1)).mean() < 3
    (tmp_path / "x.AVIF").write_bytes(stored)
    with open_images(tmp_path) as files:
        assert files.names == ("x.AVIF",)
    monkeypatch.setattr("blurcli.data.images._formats", lambda: ("PNG",))
    with pytest.raises(UnreadableError, match=r"AVIF, which is read after: pip install --upgrade 'pillow>=11\.3'"):
        decode(stored, "x", 16, 32, 3)


def test_photos_are_read_without_a_change_to_pillow() -> None:
    code = (
        "from PIL import Image, PngImagePlugin; before = len(Image.OPEN); import blurcli.data.images as images\n"
        "images.image_suffixes(); print('pillow_heif' in __import__('sys').modules, 'HEIF' in Image.OPEN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
