"""Kinds of image files that users have: how they are decoded, and what `blurdiff data` reports of them."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, settings
from PIL import Image
from test_data import encode

from blurcli.base.errors import UserError
from blurcli.config import DataConfig
from blurcli.data import ReadOptions, load_dataset
from blurcli.data.archives import open_images
from blurcli.data.images import decode
from blurcli.data.inspection import inspect_images

rng = np.random.default_rng(0)


def test_deep_values_are_mapped_from_the_given_range(tmp_path: Path) -> None:
    """The documented mapping: low to 0, high to 255, linear between, clipped beyond."""
    values = rng.integers(0, 4096, (8, 8)).astype(np.uint16)
    content = encode(Image.fromarray(values), tmp_path / "x.png")
    expected = np.rint((values.clip(100, 3000) - 100.0) * 255 / 2900)
    assert np.abs(decode(content, "x", 8, 8, 1, (100, 3000))[0] - expected).max() == 0
    floats = rng.random((8, 8), np.float32) * 4 - 2
    content = encode(Image.fromarray(floats), tmp_path / "x.tif")
    decoded = decode(content, "x", 8, 8, 1, (-1, 1))[0]
    assert np.abs(decoded - (floats.clip(-1, 1) + 1) * 127.5).max() <= 0.501
    with pytest.raises(UserError, match=r"x: .*floating-point values have no known range: give it with data.value_range"):
        decode(content, "x", 8, 8, 1)
    floats[3, 3] = np.nan
    with pytest.raises(UserError, match="some of its values are not finite"):
        decode(encode(Image.fromarray(floats), tmp_path / "x.tif"), "x", 8, 8, 1, (-1, 1))


def test_a_range_leaves_eight_bits_alone(tmp_path: Path) -> None:
    content = encode(Image.new("L", (8, 8), 77), tmp_path / "x.png")
    assert np.all(decode(content, "x", 8, 8, 1, (0, 4095)) == 77)


def test_another_range_is_another_dataset(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    Image.fromarray(rng.integers(0, 4096, (8, 8)).astype(np.uint16)).save(tmp_path / "d" / "x.png")
    whole, own = (load_dataset(str(tmp_path / "d"), "train", (8, 8), 1, ReadOptions(value_range=r)) for r in (None, (0, 4095)))
    assert whole.fingerprint != own.fingerprint
    assert whole.images.max() <= 16 < own.images.max()


def test_cmyk_palette_and_animation(tmp_path: Path) -> None:
    cmyk = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "x.jpg")
    assert np.abs(decode(cmyk, "x", 8, 8, 3)[:, 0, 0].astype(int) - [255, 0, 0]).max() <= 4
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(encode(palette, tmp_path / "x.png"), "x", 8, 8, 3)[:, 0, 0].tolist() == [10, 20, 30]
    assert decode(encode(palette, tmp_path / "y.png", transparency=1), "y", 8, 8, 3)[:, 0, 0].tolist() == [255] * 3
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    animated = encode(frames[0], tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(animated, "x", 8, 8, 3)[:, 0, 0].tolist() == [255, 0, 0]


def test_half_transparent_edges_do_not_bleed(tmp_path: Path) -> None:
    """Fully transparent black does not darken the opaque pixels beside it when resized."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, 16:] = [255, 255, 255, 255]
    assert decode(encode(Image.fromarray(pixels), tmp_path / "x.png"), "x", 8, 8, 3).min() >= 250


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (5000, 3)])
def test_tiny_and_long_images(tmp_path: Path, size: tuple[int, int]) -> None:
    content = encode(Image.new("RGB", size, "blue"), tmp_path / "x.png")
    assert np.all(decode(content, "x", 8, 12, 3).reshape(3, -1).T == [0, 0, 255])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_above_the_pixel_limit_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    content = encode(Image.new("1", (40, 26)), tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x: .*40x26 pixels are more than the limit of 1,000"):
        decode(content, "x", 8, 8, 3)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    colors = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    colors.save(folder / "a.png")
    colors.save(folder / "sub" / "again.webp", lossless=True)
    Image.new("L", (30, 9), 5).save(folder / "gray.png")
    Image.fromarray(rng.integers(100, 900, (8, 8)).astype(np.uint16)).save(folder / "deep.png")
    Image.new("RGBA", (4, 4), (1, 2, 3, 4)).save(folder / "seen-through.png")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 12)).save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_text("no image")
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:-40])
    (folder / "notes.txt").write_text("no image by its name")
    return folder


def test_inspection(mixed: Path) -> None:
    with open_images(mixed) as files:
        found = inspect_images(files, DataConfig(image_size=8), lambda done, total: None)
    assert found.images == 7
    assert set(found.broken) == {"broken.png", "cut.jpg"}
    assert found.broken["broken.png"] == "no format that Pillow knows"
    assert found.left_out == {"without an image's suffix": ("notes.txt",)}
    assert found.modes == {"RGB": 4, "L": 1, "I;16": 1, "RGBA": 1}
    assert found.sizes == {(8, 8): 4, (9, 30): 1, (4, 4): 1, (8, 12): 1}
    assert (found.turned, found.transparent, found.animated) == (1, 1, ["moving.webp"])
    assert found.deep_values is not None
    assert 100 <= found.deep_values[0] < found.deep_values[1] < 900
    assert found.duplicates == [["a.png", "sub/again.webp"]]


def test_report(cli: Cli, mixed: Path) -> None:
    options = ["--set", "data.image_size=8"]
    done = cli("data", mixed, *options)
    assert done.code == 0
    for text in (
        "broken.png (no format",
        "skipped                     1 without an image's suffix (.txt)",
        "a.png = sub/again.webp",
        "too many: training stops",
        "data.value_range=[",
    ):
        assert text in done.out
    allowed = cli("data", mixed, *options, "--set", "data.max_broken=2", "--json")
    assert allowed.code == 0
    report = json.loads(allowed.out)
    assert report["images"] == 7
    assert report["sizes"]["8x8"] == 4
    assert "the unreadable files (2) are skipped" in report["then"]
    gray = cli("data", mixed, "--set", "data.channels=1", "--set", "data.value_range=[0,1000]", *options)
    assert "lose their colors" in gray.out
    assert "0 is black and 1000 is white" in gray.out
    assert "to keep their range" not in gray.out
    assert not list(Path().glob("**/*.npy"))


def test_report_of_images_that_need_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / "d" / f"{i}.png")
    done = cli("data", "d", "--set", "data.image_size=8", "--set", "data.channels=1")
    assert done.code == 0
    assert "all are used unchanged, 8x8" in done.out
    assert "all are gray: use data.channels=1" in cli("data", "d", "--preset", "folder-blur", "--set", "data.image_size=8").out
    assert cli("data", "absent").code == 2


@pytest.mark.parametrize(("mode", "side"), [("RGB", 30), ("L", 12), ("RGB", 90)])
def test_report_against_what_training_chooses(cli: Cli, tmp_path: Path, mode: str, side: int) -> None:
    (tmp_path / "d").mkdir()
    for i, size in enumerate([(side, side), (side, 2 * side), (side, side + 1), (side, side + 1), (4 * side, 2 * side)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "d" / f"{i}.png")
    chosen = json.loads(cli("train", "--data", "d", "--set", "train.steps=1", "--dry-run", "--json").out)["data"]
    report = json.loads(cli("data", "d", "--json").out)
    assert (report["preset"], report["image_size"]) == ("folder-small", chosen["image_size"])
    shown = cli("data", "d").out
    assert f"smallest {side}x{side}, median {side}x{side + 1}, largest {4 * side}x{2 * side}" in " ".join(shown.split())
    height, width = chosen["image_size"]
    assert f"with the preset folder-small at {height}x{width}{', gray' if mode == 'L' else ''}:" in shown
    assert f"5 are resized to cover {height}x{width}" in shown
    assert "channels" not in shown
    other = json.loads(cli("data", "d", "--preset", "cifar10-blur", "--json").out)
    assert (other["preset"], other["image_size"]) == ("cifar10-blur", [32, 32])


def test_broken_files_are_skipped_and_named_up_to_a_limit(cli: Cli, mixed: Path, tmp_path: Path) -> None:
    command = ["train", "--preset", "shapes-blur", "--data", mixed, *settings("train.steps=1")]
    done = cli(*command, "--run", "r", "--set", "data.max_broken=1")
    assert done.code == 1
    assert "cut.jpg: not a readable image" in done.err
    assert "(more than data.max_broken, 1)" in done.err
    assert not (tmp_path / "r").exists()
    for run in "rs":  # the second time from the cache
        done = cli(*command, "--run", run, "--set", "data.max_broken=2")
        assert done.code == 0, done.err
        assert "2 unreadable files are skipped: broken.png, cut.jpg" in done.err
        assert "7 images" in done.err
    fewer = cli(*command, "--run", "t", "--set", "data.max_broken=1")
    assert fewer.code == 1
    assert "2 unreadable files (broken.png, cut.jpg), more than data.max_broken, 1" in " ".join(fewer.err.split())
    dataset = load_dataset(str(mixed), "train", (8, 8), 3, ReadOptions(max_broken=2))
    assert np.array_equal(dataset.images[0], np.asarray(Image.open(mixed / "a.png")).transpose(2, 0, 1))
    assert np.array_equal(dataset.images[-1], load_dataset(str(mixed / "turned.jpg"), "train", (8, 8), 3).images[0])


def test_only_broken_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.png").write_text("no image")
    with pytest.raises(UserError, match="none of its 1 images can be read"):
        load_dataset(str(tmp_path / "d"), "train", (8, 8), 3, ReadOptions(max_broken=9))


def test_names_in_an_archive_are_never_paths(tmp_path: Path, photos: Path) -> None:
    """They only identify contents: nothing is unpacked to disk."""
    before = set(tmp_path.rglob("*"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../../escaped.png", "/tmp/absolute.png", "a\\..\\b.png"):
            archive.write(photos / "0.png", name)
    # ".." starts with a dot like a hidden name, and backslashes separate folders.
    assert len(load_dataset(str(tmp_path / "x.zip"), "train", (8, 8), 3).images) == 1
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "x.zip"}
    assert not Path("/tmp/absolute.png").exists()


def test_a_blur_is_suggested_by_the_spectrum(cli: Cli, tmp_path: Path) -> None:
    """It leaves half a percent of the variance; for a single wave the heat equation gives its size."""
    height, width = 16, 24
    wave = np.cos(np.pi / width * 2 * (np.arange(width) + 0.5))  # DCT frequency 2 along the rows
    (tmp_path / "d").mkdir()
    pixels = np.broadcast_to(128 + 100 * wave, (height, width)).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "d" / "a.png")
    arguments = ("data", "d", "--set", f"data.image_size=[{height},{width}]", "--set", "data.channels=1")
    assert json.loads(cli(*arguments, "--json").out)["blur"] is None  # in proportion to the noise, there is no largest
    arguments += ("--set", "process.blur_schedule=sin2", "--set", "process.blur_sigma_max=32")
    found = json.loads(cli(*arguments, "--json").out)["blur"]
    eigenvalue = (np.pi * 2 / width) ** 2
    assert found["suggested_px"] == pytest.approx(np.sqrt(np.log(1 / 0.005) / eigenvalue), rel=0.05)  # two digits
    assert found["preset_px"] == 32
    assert found["preset_leaves"] < 1e-6
    assert "a blur of 8.8 px leaves 0.5% of the variance" in cli(*arguments).out
    Image.new("L", (9, 9), 128).save(tmp_path / "d" / "a.png")
    assert json.loads(cli(*arguments, "--json").out)["blur"] is None
