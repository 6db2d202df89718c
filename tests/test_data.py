"""Loading datasets by name, folder or archive, and cutting them into batches."""

import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blurcli.base.cache import cache_folder
from blurcli.base.errors import UsageError, UserError
from blurcli.config import load_config, parse_overrides
from blurcli.core import dct2
from blurcli.core.colors import to_opponent
from blurcli.data import Batches, ReadOptions, load_dataset, measure_moments
from blurcli.data.images import decode, decode_described
from blurcli.data.packed_cache import pack
from blurcli.data.shapes import draw_shapes


def encode(image: Image.Image, path: Path, **options: object) -> bytes:
    image.save(path, **options)  # type: ignore[arg-type]
    return path.read_bytes()


# Shapes


def test_shapes_are_a_function_of_the_seed_and_the_index() -> None:
    few, many = draw_shapes(3, 16, 16, 3, seed=0)[0], draw_shapes(1500, 16, 16, 3, seed=0)[0]
    assert np.array_equal(few, many[:3])
    assert not np.array_equal(few, draw_shapes(3, 16, 16, 3, seed=1)[0])
    assert not np.array_equal(many[0], many[1024])


def test_shapes_have_objects_brighter_than_their_background() -> None:
    images = draw_shapes(200, 32, 32, 3, seed=0)[0].max(axis=1)
    bright = (images > 150).mean(axis=(1, 2))
    assert images.shape == (200, 32, 32)
    assert bright.min() > 0.02
    assert bright.max() < 0.5


@pytest.mark.parametrize("size", [(16, 16), (20, 33)])
def test_shapes_of_any_size_and_in_gray(size: tuple[int, int]) -> None:
    assert draw_shapes(2, *size, 1, seed=0)[0].shape == (2, 1, *size)


def test_shapes_splits_differ() -> None:
    train, test = (load_dataset("shapes", split, (8, 8), 3, ReadOptions(shapes_count=5)) for split in ("train", "test"))
    assert train.images.shape == (5, 3, 8, 8)
    assert train.fingerprint != test.fingerprint
    assert not np.array_equal(train.images, test.images)


# Files


def test_images_of_the_size_keep_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    content = encode(Image.fromarray(pixels), tmp_path / "x.png")
    assert np.array_equal(decode(content, "x", 8, 6, 3), pixels.transpose(2, 0, 1))


def test_other_sizes_are_cropped_around_the_center_and_antialiased(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 100  # only the central square is in the crop
    cropped = decode(encode(Image.fromarray(pixels), tmp_path / "x.png"), "x", 10, 10, 3)
    assert np.all(cropped[:, :, 2:-2] == 100)
    assert np.abs(cropped.astype(int) - 100).max() < 10  # the filter reaches a little beyond the edge
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    small = decode(encode(Image.fromarray(checkers.astype(np.uint8)), tmp_path / "y.png"), "y", 8, 8, 1)
    assert np.abs(small.astype(int) - 127).max() < 12  # without antialiasing: 0 and 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    content = encode(Image.new("RGB", (9, 9), (200, 100, 50)), tmp_path / f"x.{suffix}")
    assert np.abs(decode(content, "x", 8, 8, 3).astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes(tmp_path: Path, mode: str, channels: int) -> None:
    suffix = "tif" if mode == "I" else "png"
    image = Image.new(mode, (8, 8)) if mode in ("I;16", "I") else Image.new("L", (8, 8), 255).convert(mode)
    if mode in ("I;16", "I"):
        image.putdata([65535] * 64)
    assert np.all(decode(encode(image, tmp_path / f"x.{suffix}"), "x", 8, 8, channels) == 255)


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    ramp = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    decoded = decode(encode(Image.fromarray(ramp), tmp_path / "x.png"), "x", 8, 8, 1)
    np.testing.assert_array_equal(decoded[0], np.rint(ramp / 257).astype(np.uint8))


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    content = encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), tmp_path / "x.png")
    assert np.all(decode(content, "x", 8, 8, 3) == 255)


def test_photographs_are_rotated_upright(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8))
    image.paste(255, (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert decode(encode(image, tmp_path / "x.png", exif=exif), "x", 8, 8, 1)[0, :, 0].tolist() == [0] * 4 + [255] * 4


def test_folder_zip_and_single_file_give_the_same_images(photos: Path, tmp_path: Path) -> None:
    (photos / "nested.d").mkdir()
    shutil.move(photos / "3.png", photos / "nested.d" / "3.png")
    (photos / ".hidden.png").write_text("no image")
    (photos / "notes.txt").write_text("no image")
    folder = load_dataset(str(photos), "train", (8, 8), 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in photos.rglob("*.png"):
            archive.write(path, path.relative_to(photos))
        archive.writestr("__MACOSX/0.png", "no image")
    zipped = load_dataset(str(tmp_path / "a.zip"), "train", (8, 8), 3)
    assert folder.images.shape == (10, 3, 8, 8)
    assert np.array_equal(folder.images, zipped.images)
    assert folder.fingerprint == zipped.fingerprint
    single = load_dataset(str(photos / "0.png"), "train", (8, 8), 3)
    assert np.array_equal(single.images[0], folder.images[0])


def test_packed_once_and_again_when_the_content_changes(photos: Path) -> None:
    calls: list[int] = []
    load = lambda: load_dataset(str(photos), "train", (9, 9), 3, progress=lambda done, total: calls.append(done))  # noqa: E731
    first = load()
    assert calls == list(range(1, 11))
    assert np.array_equal(load().images, first.images)
    assert len(calls) == 10
    Image.new("RGB", (16, 12), "red").save(photos / "0.png")
    assert load().fingerprint != first.fingerprint
    assert len(calls) == 20


def test_a_damaged_cache_is_rebuilt(photos: Path) -> None:
    images = np.array(load_dataset(str(photos), "train", (8, 8), 1).images)
    for path in Path(load_dataset(str(photos), "train", (8, 8), 1).images.filename).parent.glob("*.npy"):  # type: ignore[attr-defined]
        path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(load_dataset(str(photos), "train", (8, 8), 1).images, images)


def test_train_and_test_folders(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "both" / "train")
    (tmp_path / "both" / "test").mkdir()
    shutil.copy(photos / "4.png", tmp_path / "both" / "test")
    assert len(load_dataset(str(tmp_path / "both"), "train", (8, 8), 3).images) == 10
    assert len(load_dataset(str(tmp_path / "both"), "test", (8, 8), 3).images) == 1
    with pytest.raises(UsageError, match="has no sub-folders train and test"):
        load_dataset(str(photos), "test", (8, 8), 3)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda p: None,
            UsageError,
            "x.: no such folder, .zip file or dataset; if the images have moved, name their new place",
        ),
        (lambda p: p.mkdir(), UsageError, "x: no images in it"),
        (lambda p: p.write_text("x"), UsageError, "x: neither a folder, a .zip file nor an image"),
    ],
)
def test_paths_without_images(tmp_path: Path, make, error: type[Exception], text: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "x")
    with pytest.raises(error, match=text):
        load_dataset(str(tmp_path / "x"), "train", (8, 8), 3)


def test_a_misspelt_dataset() -> None:
    with pytest.raises(UsageError, match=r"data 'cifar': no such folder, .zip file or dataset; did you mean 'cifar10'"):
        load_dataset("cifar", "train", (8, 8), 3)


@pytest.mark.parametrize("damage", ["text", "truncated", "empty", "float"])
def test_broken_images_are_named_and_leave_no_cache(photos: Path, damage: str) -> None:
    whole = encode(Image.new("RGB", (64, 64), "red"), photos / "5.jpg")
    if damage == "float":
        Image.new("F", (8, 8)).save(photos / "6.tiff")
    else:
        (photos / "6.jpg").write_bytes({"text": b"hello", "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    for _ in range(2):
        with pytest.raises(UserError, match=r"6\.(jpg|tiff): not a readable image .*; repair or remove the file"):
            load_dataset(str(photos), "train", (8, 8), 3)


def test_a_truncated_zip(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"x.zip: not a readable zip file"):
        load_dataset(str(tmp_path / "x.zip"), "train", (8, 8), 3)


def test_a_failed_download_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(
        UserError, match=r"cifar10: cannot be downloaded \(no network connection\).*torchvision.*or name images with `data`"
    ):
        load_dataset("cifar10", "train", (32, 32), 3)


@pytest.mark.parametrize(("name", "attribute"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("cifar10", "CIFAR10")])
def test_torchvision_datasets(monkeypatch: pytest.MonkeyPatch, name: str, attribute: str) -> None:
    """With a fake in place of the downloaded dataset: images are read as torchvision returns them, item by item."""
    import torchvision

    calls = []

    class FakeDataset:
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            calls.append((train, download))

        def __len__(self) -> int:
            return 400

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            return Image.new("L", (28, 28), i % 256), 0

    monkeypatch.setattr(torchvision.datasets, attribute, FakeDataset)
    dataset = load_dataset(name, "test", (4, 4), 1)
    assert dataset.images.shape == (400, 1, 4, 4)
    assert dataset.images[300, 0, 0, 0] == 300 % 256
    assert calls == [(False, True)]


# The cache


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable comes first, then the user's cache folder by the rules of the system."""
    monkeypatch.setenv("BLURDIFF_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"
    monkeypatch.delenv("BLURDIFF_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "blurdiff"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache" / "blurdiff"


def test_fingerprints_are_stable() -> None:
    """Existing caches and runs depend on them. The values are those of packing version 2 and shapes version 1."""
    plain = load_dataset("shapes", "train", (8, 12), 3, ReadOptions(shapes_count=5))
    single = load_dataset("shapes", "test", (8, 8), 1, ReadOptions(shapes_count=5, shapes_objects=1))
    assert plain.fingerprint == "314e39574612dc2979514e06f471dd0b"
    assert single.fingerprint == "c68feb67ce745aa162959211c1b8d7c0"


# Batches


def make_batches(count: int = 10, size: int = 4, seed: int = 0, flip: bool = False) -> Batches:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    return Batches(images, size, seed, flip, torch.device("cpu"))


def test_batches_are_a_function_of_seed_and_step() -> None:
    one, other = make_batches(flip=True), make_batches(flip=True)
    forward = [one(step) for step in range(8)]
    backward = [other(step) for step in reversed(range(8))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not torch.equal(make_batches(seed=1, flip=True)(0), forward[0])


@pytest.mark.parametrize("size", [3, 4, 10, 25])
def test_every_epoch_contains_every_image_once(size: int) -> None:
    batches = make_batches(10, size)
    stream = np.concatenate([batches.indices(step) for step in range(40)])
    epochs = stream[: len(stream) // 10 * 10].reshape(-1, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_are_scaled_to_minus_one_and_one() -> None:
    batch = Batches(np.array([[[[0, 255]]]], np.uint8), 1, 0, False, torch.device("cpu"))(0)
    assert batch.dtype == torch.float32
    assert batch.flatten().tolist() == [-1.0, 1.0]


def test_half_of_the_images_are_mirrored() -> None:
    images = np.array([[[[0, 255]]]], np.uint8)
    batch = Batches(images, 400, 0, True, torch.device("cpu"))(0)
    mirrored = (batch[:, 0, 0, 0] == 1).float().mean()
    assert 0.4 < mirrored < 0.6  # four deviations of 400 draws
    assert torch.all(Batches(images, 400, 0, False, torch.device("cpu"))(0)[:, 0, 0, 0] == -1)


def measured(images: np.ndarray, flip: bool) -> tuple[torch.Tensor, ...]:
    found = measure_moments(images, flip)
    assert found.opponent_spectrum is not None
    return found.second_moment, found.mean, found.opponent_spectrum


def test_moments_against_their_definition(photos: Path) -> None:
    images = load_dataset(str(photos), "train", (8, 8), 3).images
    u = dct2(torch.from_numpy(np.array(images)).double() / 127.5 - 1)
    spectrum, mean, opponent = measured(images, flip=False)
    torch.testing.assert_close(spectrum, (u**2).mean(0))
    torch.testing.assert_close(mean, u.mean(0))
    torch.testing.assert_close(opponent, (to_opponent(u) ** 2).mean(0))


def test_moments_with_flips_are_those_of_the_mirrored_data(photos: Path) -> None:
    images = load_dataset(str(photos), "train", (8, 8), 3).images
    both = np.concatenate([images, images[..., ::-1]])
    for ours, direct in zip(measured(images, flip=True), measured(both, flip=False), strict=True):
        torch.testing.assert_close(ours, direct)


def test_constant_images_have_a_positive_variance() -> None:
    spectrum, mean, _ = measured(np.full((5, 1, 4, 4), 7, np.uint8), flip=True)
    assert torch.all(spectrum > mean**2)


def test_large_images_are_measured_in_parts_and_fewer_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from blurcli.data import moments

    images = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), np.uint8)
    whole = measured(images, flip=False)
    monkeypatch.setattr(moments, "_CHUNK_VALUES", 7 * 3 * 8 * 8)
    for ours, direct in zip(measured(images, flip=False), whole, strict=True):
        torch.testing.assert_close(ours, direct)
    monkeypatch.setattr(moments, "_MAX_VALUES", 3 * 8 * 8)
    monkeypatch.setattr(moments, "_ENOUGH_IMAGES", 2)
    for ours, direct in zip(measured(images, flip=False), measured(images[[0, -1]], flip=False), strict=True):
        torch.testing.assert_close(ours, direct)


def test_images_that_are_known_are_not_written_again() -> None:
    """Another training may have them mapped, and Windows replaces no mapped file; a damaged file is replaced."""
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    first = pack([images], (3, 2, 2), lambda: "known")
    path = Path(first.filename)  # type: ignore[attr-defined]
    inode = path.stat().st_ino
    assert (pack([images], (3, 2, 2), lambda: "known") == images).all()
    assert path.stat().st_ino == inode
    path.write_bytes(path.read_bytes()[:-1])
    assert (pack([images], (3, 2, 2), lambda: "known") == images).all()


# Random patches

PATCHES = ReadOptions(crop="random", crops=1000)


def is_part(patch: np.ndarray, image: np.ndarray) -> bool:
    """Whether a patch (C, h, w) is somewhere in an image (C, H, W)."""
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)[0]
    return bool((windows == patch).all((-3, -2, -1)).any())


def test_random_patches_are_at_full_detail(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    found = decode_described(encode(Image.fromarray(pixels), tmp_path / "x.png"), "x", (3, 8, 12), patches=7)
    assert (found.pixels.shape, found.pixels.dtype) == ((7, 3, 8, 12), np.uint8)
    assert all(is_part(patch, pixels.transpose(2, 0, 1)) for patch in found.pixels)
    assert len({patch.tobytes() for patch in found.pixels}) == 7
    assert not found.odd_crop


def test_random_patches_depend_on_the_content_alone(tmp_path: Path) -> None:
    first, second = (np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8) for i in (0, 1))
    content = encode(Image.fromarray(first), tmp_path / "x.png")
    once, again = (decode_described(content, name, (3, 8, 8), patches=20).pixels for name in ("a", "b"))
    assert np.array_equal(once, again)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name, pixels in (("one/a.png", first), ("two/z.png", first), ("two/b.png", second)):
        Image.fromarray(pixels).save(tmp_path / name)
    one, two = (
        load_dataset(str(tmp_path / name), "train", (8, 8), 3, replace(PATCHES, crops=20 * count)).images
        for name, count in (("one", 1), ("two", 2))
    )
    assert np.array_equal(one, once)
    assert np.array_equal(two[20:], once)
    places = decode_described(encode(Image.fromarray(second), tmp_path / "y.png"), "y", (3, 8, 8), patches=20).pixels
    assert np.array_equal(two[:20], places)


def test_images_have_places_of_their_own(tmp_path: Path) -> None:
    ramp = np.arange(225, dtype=np.uint8).reshape(15, 15)
    places = [
        decode_described(encode(Image.fromarray(ramp + np.uint8(more)), tmp_path / "x.png"), "x", (1, 4, 4), patches=9).pixels
        for more in (0, 10)
    ]
    assert sorted(places[0][:, 0, 0, 0]) != sorted(places[1][:, 0, 0, 0] - 10)


def test_random_patches_are_spread_over_the_image(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (64, 200))
    found = decode_described(encode(Image.fromarray(ramp), tmp_path / "x.png"), "x", (1, 8, 8), patches=300).pixels
    left = found[:, 0, 0, 0].astype(int)
    assert left.min() < 10
    assert left.max() > 182
    assert np.histogram(left, 4, (0, 193))[0].min() > 40


@pytest.mark.parametrize(
    ("size", "most"), [((8, 8), 1), ((8, 9), 2), ((9, 9), 4), ((15, 15), 4), ((16, 16), 16), ((24, 16), 24)]
)
def test_a_small_image_has_fewer_patches(tmp_path: Path, size: tuple[int, int], most: int) -> None:
    """Four for each that fits beside others, and no more than there are places."""
    pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    content = encode(Image.fromarray(pixels), tmp_path / "x.png")
    found = decode_described(content, "x", (1, 8, 8), patches=100).pixels
    assert len(found) == most
    assert len({patch.tobytes() for patch in found}) == most
    assert len(decode_described(content, "x", (1, 8, 8), patches=1).pixels) == 1


@pytest.mark.parametrize("size", [(6, 30), (30, 6), (5, 5)])
def test_smaller_images_are_enlarged_as_for_center_crops(tmp_path: Path, size: tuple[int, int]) -> None:
    content = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, size, np.uint8)), tmp_path / "x.png")
    found = decode_described(content, "x", (1, 8, 8), patches=100).pixels
    assert np.array_equal(found, decode(content, "x", 8, 8, 1)[None])


def test_patches_of_all_kinds_of_images(tmp_path: Path) -> None:
    """Deep values by their range, transparency over white, and turned upright."""
    deep = np.random.default_rng(0).integers(0, 4096, (20, 20)).astype(np.uint16)
    found = decode_described(encode(Image.fromarray(deep), tmp_path / "x.png"), "x", (1, 8, 8), (0, 4095), patches=3)
    assert all(is_part(patch, np.rint(deep * (255 / 4095)).astype(np.uint8)[None]) for patch in found.pixels)
    assert found.values == (deep.min(), deep.max())
    clear = encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), tmp_path / "y.png")
    assert decode_described(clear, "y", (3, 8, 8), patches=3).pixels.min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.new("L", (40, 8)), tmp_path / "z.png", exif=exif)
    assert decode_described(turned, "z", (1, 40, 8), patches=3).pixels.shape == (1, 1, 40, 8)


def test_patches_are_cached_apart_from_center_crops(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {
        "center": ReadOptions(),
        "random": ReadOptions(crop="random", crops=20),
        "more": ReadOptions(crop="random", crops=30),
        "as many": ReadOptions(crop="random", crops=11),
    }
    found = {name: load_dataset(str(photos), "train", (8, 8), 3, options) for name, options in ways.items()}
    assert [len(dataset.images) for dataset in found.values()] == [10, 20, 30, 20]
    assert len({dataset.fingerprint for dataset in found.values()}) == 3
    assert found["random"].fingerprint == found["as many"].fingerprint  # two patches per file in both
    assert load_dataset(str(photos), "train", (8, 8), 3, replace(ways["center"], crops=7)).fingerprint == (
        found["center"].fingerprint
    )
    monkeypatch.setattr("blurcli.data.decoder.decode_described", lambda *_: pytest.fail("read again"))
    for name, options in ways.items():
        again = load_dataset(str(photos), "train", (8, 8), 3, options)
        assert np.array_equal(again.images, found[name].images)


def test_broken_files_have_no_patches(photos: Path) -> None:
    (photos / "3.png").write_text("no image")
    with pytest.raises(UserError, match=r"3.png: not a readable image"):
        load_dataset(str(photos), "train", (8, 8), 3, replace(PATCHES, crops=20))
    dataset = load_dataset(str(photos), "train", (8, 8), 3, replace(PATCHES, crops=20, max_broken=1))
    assert (len(dataset.images), dataset.broken) == (18, ("3.png",))


def test_patches_have_no_classes() -> None:
    with pytest.raises(UsageError, match=r"crop random is for models without classes: set data.classes to null"):
        load_config("folder-restore", parse_overrides(["data.source=x", "data.classes=3"]))
    assert load_config("folder-restore", parse_overrides(["data.source=x"])).data.crop == "random"
