"""Streams of existing images, decoded when they are needed."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blurcli.base.errors import UsageError, UserError
from blurcli.data.stream import Stream, open_stream


def contents(stream: Stream, n: int | None = None) -> np.ndarray:
    return np.concatenate(list(stream.batches(n or stream.count)))


def test_images_are_read_unchanged(photos: Path, tmp_path: Path) -> None:
    """A folder, an archive and an array of the same images give the same pixels."""
    pixels = np.stack([np.asarray(Image.open(photos / f"{i}.png")) for i in range(10)])
    shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    np.savez(tmp_path / "raw.npz", pixels)
    np.savez_compressed(tmp_path / "packed.npz", images=pixels)
    for place in ("photos", "photos.zip", "raw.npz", "packed.npz"):
        stream = open_stream(tmp_path / place, 3)
        assert (stream.count, stream.shape) == (10, (3, 12, 16))
        assert np.array_equal(contents(stream), pixels.transpose(0, 3, 1, 2)), place


def test_a_smaller_number_is_evenly_spaced(tmp_path: Path) -> None:
    """Files and arrays are often sorted by class; here they take more than one chunk."""
    np.savez(tmp_path / "x.npz", np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8))
    assert contents(open_stream(tmp_path / "x.npz", 1), 3)[:, 0, 0, 0].tolist() == [0, 99, 199]
    (tmp_path / "many").mkdir()
    for i in range(130):
        Image.new("L", (4, 4), i).save(tmp_path / "many" / f"{i:03d}.png")
    assert contents(open_stream(tmp_path / "many", 1), 129)[:, 0, 0, 0].tolist() == [*range(128), 129]


def test_sizes_of_files_must_agree_unless_one_is_given(photos: Path) -> None:
    turned = Image.new("RGB", (12, 16))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(photos / "turned.jpg", exif=exif)
    assert open_stream(photos, 3).shape == (3, 12, 16)
    Image.new("RGB", (16, 13)).save(photos / "z.png")
    message = r"must have one size: 0.png has \(12, 16\), z.png has \(13, 16\); use `size` 12 to resize"
    with pytest.raises(UsageError, match=message):
        open_stream(photos, 3)
    assert contents(open_stream(photos, 1, (8, 8))).shape == (12, 1, 8, 8)
    (photos / "zz.png").write_text("no image")
    (photos / "z.png").unlink()
    with pytest.raises(UserError, match=r"zz.png: not a readable image"):
        open_stream(photos, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png", ".webp"])
def test_rotated_images_have_their_upright_size(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "turned"
    folder.mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / f"a{suffix}", exif=exif)
    stream = open_stream(folder, 3)
    assert stream.shape == (3, 32, 24)
    if suffix in (".tif", ".png"):
        assert np.array_equal(contents(stream)[0].transpose(1, 2, 0), np.rot90(np.asarray(image), -1))


def test_gray_array_without_a_channel(tmp_path: Path) -> None:
    np.savez(tmp_path / "gray.npz", np.zeros((3, 4, 5), np.uint8))
    assert contents(open_stream(tmp_path / "gray.npz", 3)).shape == (3, 1, 4, 5)
    with pytest.raises(UsageError, match="is an array: resize it where it is created"):
        open_stream(tmp_path / "gray.npz", 3, (8, 8))


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"a": np.zeros((2, 4, 4, 3)), "b": np.zeros(2)}, r"holds 2 arrays \(a.npy, b.npy\)"),
        ({"a": np.zeros((2, 4, 4, 3))}, "holds float64"),
        ({"a": np.zeros((2, 3, 4, 4), np.uint8)}, r"holds uint8 \(2, 3, 4, 4\)"),
        ({"a": np.zeros((0, 4, 4, 3), np.uint8)}, r"holds uint8 \(0, 4, 4, 3\)"),
        ({"a": np.zeros((2, 0, 4, 3), np.uint8)}, r"holds uint8 \(2, 0, 4, 3\)"),
        ({"a": np.zeros((3, 4, 4, 2), np.uint8).T}, "in Fortran order"),
        ({"a": np.array([{}], object)}, "holds object"),
    ],
)
def test_npz_of_another_content(tmp_path: Path, arrays: dict, text: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=text):
        open_stream(tmp_path / "x.npz", 3)


def test_a_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"not a readable .npz"):
        open_stream(path, 3)
    np.savez(path, np.zeros((100, 4, 4, 3), np.uint8))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("arr_0.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", content[:-1])
    with pytest.raises(UserError, match="truncated"):
        open_stream(path, 3)
    np.savez_compressed(path, np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), np.uint8))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    stream = open_stream(path, 3)
    with pytest.raises(UserError, match=r"not a readable .npz"):
        contents(stream)
