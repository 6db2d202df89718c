"""Folders and archives as people have them: links, leftovers, formats, labels of others. Nothing is left out in silence."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, settings
from PIL import Image, ImageCms

from blurcli.base.errors import UserError
from blurcli.config import DataConfig
from blurcli.data import ReadOptions, load_dataset
from blurcli.data import walk as walking
from blurcli.data.archives import open_images
from blurcli.data.images import decode, image_suffixes
from blurcli.data.inspection import inspect_images
from blurcli.data.walk import walk

rng = np.random.default_rng(0)


def put(folder: Path, *names: str, size: int = 8) -> Path:
    """Images of noise with these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(folder / name)
    return folder


# Links


def test_linked_folders_are_read(tmp_path: Path) -> None:
    put(tmp_path / "pool", "cats/1.png", "cats/2.png", "dogs/1.png")
    linked = put(tmp_path / "linked", "own.png")
    (linked / "cats").symlink_to(tmp_path / "pool" / "cats")
    (linked / "dogs").symlink_to(Path("..") / "pool" / "dogs")
    with open_images(linked) as files:
        assert files.names == ("cats/1.png", "cats/2.png", "dogs/1.png", "own.png")
        assert files.skipped == {}
    assert len(load_dataset(str(linked), "train", (8, 8), 3).images) == 4


def test_cycles_end_and_every_file_is_read_once(tmp_path: Path) -> None:
    folder = put(tmp_path / "a", "1.png", "b/2.png")
    (folder / "b" / "again").symlink_to(folder)
    (folder / "0-before-b").symlink_to(folder / "b")
    (folder / "copy.png").symlink_to(folder / "1.png")
    (folder / "new.png").symlink_to(put(tmp_path / "else", "3.png") / "3.png")
    (folder / "nowhere.png").symlink_to(tmp_path / "missing")
    with open_images(folder) as files:
        assert files.names == ("1.png", "b/2.png", "new.png")  # through the real folder, not the link that comes first
        assert files.skipped == {
            "linked twice": ("0-before-b", "b/again", "copy.png"),
            "that cannot be opened": ("nowhere.png",),
        }


def test_links_in_a_circle_and_files_that_vanish_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "a", "1.png", "2.png")
    (folder / "circle").symlink_to("circle")
    (folder / "link.png").symlink_to(put(tmp_path / "else", "3.png") / "3.png")
    (folder / "gone.png").symlink_to(tmp_path / "else" / "3.png")
    identity = walking._identity

    def vanishing(path: Path) -> tuple[int, int]:
        if path.name in ("2.png", "gone.png"):
            raise FileNotFoundError(path)
        return identity(path)

    monkeypatch.setattr(walking, "_identity", vanishing)
    assert walk(folder) == (["1.png", "2.png", "link.png"], {"that cannot be opened": ("circle", "gone.png")})


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may read everything")
def test_a_folder_without_permission_is_counted(tmp_path: Path) -> None:
    folder = put(tmp_path / "a", "1.png", "b/2.png")
    (folder / "b").chmod(0)
    try:
        assert walk(folder) == (["1.png"], {"that cannot be opened": ("b",)})
    finally:
        (folder / "b").chmod(0o755)


# What is left out


@pytest.fixture
def leftovers(tmp_path: Path) -> Path:
    folder = put(tmp_path / "nas", "a.png", "@eaDir/a.png/SYNO_THUMB.png", "#recycle/old.png", ".hidden/c.png", ".d.png")
    (folder / "notes.txt").write_text("x")
    (folder / "phone.mov").write_text("x")
    (folder / "more.TXT").write_text("x")
    return folder


def test_what_is_left_out_is_counted_by_reason(leftovers: Path, tmp_path: Path) -> None:
    with open_images(leftovers) as files:
        assert files.names == ("a.png",)
        assert files.skipped == {
            "hidden": (".d.png", ".hidden"),
            "in a system's own folder": ("#recycle", "@eaDir"),
            "without an image's suffix": ("more.TXT", "notes.txt", "phone.mov"),
        }
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("in/", "")
        for name in ("in/a.png", "in/._a.png", "__MACOSX/a.png", "in/a.csv"):
            archive.writestr(name, (leftovers / "a.png").read_bytes())
    with open_images(tmp_path / "x.zip") as files:
        assert files.names == ("in/a.png",)
        assert {reason: len(names) for reason, names in files.skipped.items()} == {
            "hidden": 1,
            "in a system's own folder": 1,
            "without an image's suffix": 1,
        }


def test_the_name_of_a_dataset_is_no_folder(cli: Cli, tmp_path: Path) -> None:
    assert "cifar10: a dataset that is no files of images; name a folder, .zip" in cli("data", "cifar10").err
    put(tmp_path / "cifar10", "1.png")
    assert cli("data", "cifar10", "--set", "data.image_size=8").code == 0


def test_commands_say_what_they_leave_out(leftovers: Path, cli: Cli) -> None:
    counted = "3 without an image's suffix (.txt, .mov)"
    report = cli("data", leftovers, "--set", "data.image_size=8")
    assert report.code == 0
    assert counted in report.out
    names = json.loads(cli("data", leftovers, "--set", "data.image_size=8", "--json").out)["left_out"]
    assert names["without an image's suffix"] == ["more.TXT", "notes.txt", "phone.mov"]
    trained = cli(
        *("train", "--preset", "shapes-blur", "--data", leftovers, "--run", leftovers.parent / "run"),
        *settings("data.image_size=8", "train.steps=1", "train.batch_size=2", "model.base_channels=4", "model.multipliers=[1]"),
        *settings("model.attention_levels=[]", "model.patch_size=1"),
    )
    assert trained.code == 0, trained.err
    assert counted in trained.err
    put(leftovers, "b.png", "c.png")
    scored = cli("fid", "--samples", leftovers, "--data", leftovers, "--features", "pixels", "--force")
    assert scored.code == 0, scored.err
    assert scored.err.count(counted) == 2  # of the samples and of the reference


def test_a_folder_of_other_files_says_what_is_there(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.mov").write_text("x")
    done = cli("data", tmp_path / "d")
    assert done.code == 2
    assert "no images in it, sub-folders included; there are 1 without an image's suffix (.mov)" in done.err


# Formats


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".jpe", ".JPEG", ".ppm", ".jp2", ".tga", ".ico", ".qoi", ".avif"])
def test_every_format_of_pillow(tmp_path: Path, suffix: str) -> None:
    if suffix.lower() not in Image.registered_extensions():
        pytest.skip(f"this Pillow has no {suffix}")
    form = Image.registered_extensions()[suffix.lower()]
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {form}")
    Image.new("RGB", (16, 16), (200, 10, 30)).save(tmp_path / f"a{suffix}", format=form)
    image = load_dataset(str(tmp_path), "train", (16, 16), 3).images[0]
    assert np.abs(image.mean((1, 2)) - [200, 10, 30]).max() < 8


def test_formats_that_start_other_programs_are_not_read() -> None:
    assert {".png", ".jpg", ".npy", ".gif"} <= set(image_suffixes())
    assert not {".eps", ".ps", ".wmf", ".mpg"} & set(image_suffixes())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 4), 7, np.uint8), 7),
        (np.full((4, 4, 1), 7, np.uint8), 7),
        (np.full((4, 4, 3), 7, np.uint8), 7),
        (np.full((4, 4, 3), 7, np.uint8, order="F"), 7),
        (np.ones((4, 4), bool), 255),
        (np.full((4, 4), 257 * 9, np.uint16), 9),
        (np.full((4, 4), 257 * 9, ">u2"), 9),
        (np.dstack([np.full((4, 4, 3), 0, np.uint8), np.zeros((4, 4), np.uint8)]), 255),  # transparent, over white
    ],
)
def test_arrays(tmp_path: Path, array: np.ndarray, expected: int) -> None:
    np.save(tmp_path / "a.npy", array)
    assert np.all(decode((tmp_path / "a.npy").read_bytes(), "a", 4, 4, 3) == expected)


def test_arrays_of_other_kinds(tmp_path: Path) -> None:
    def saved(array: np.ndarray) -> bytes:
        np.save(tmp_path / "a.npy", array)
        return (tmp_path / "a.npy").read_bytes()

    floats = rng.random((4, 4))
    assert np.array_equal(decode(saved(floats), "a", 4, 4, 1, (0, 1))[0], np.rint(floats.astype(np.float32) * 255))
    for array, text in (
        (floats, "floating-point values have no known range: give it with data.value_range; they are from"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"an array \(2, 4, 4, 3\) of uint8; it must be"),
        (np.zeros((4, 4, 3), np.uint16), "it must be"),
        (np.array(["x"]), "an array of <U1"),
    ):
        with pytest.raises(UserError, match=text):
            decode(saved(array), "a", 4, 4, 3)
    with pytest.raises(UserError, match="damaged"):
        decode(saved(np.zeros((4, 4), np.uint8))[:-1], "a", 4, 4, 3)
    with pytest.raises(UserError, match="a: not a readable image"):
        decode(saved(np.array({"a": 1}, dtype=object)), "a", 4, 4, 3)


def test_lab_is_converted(tmp_path: Path) -> None:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    red = Image.new("RGB", (8, 8), (200, 40, 30))
    converted = ImageCms.profileToProfile(red, srgb, lab, outputMode="LAB")
    assert converted is not None
    converted.save(tmp_path / "a.tiff")
    assert np.abs(decode((tmp_path / "a.tiff").read_bytes(), "a", 8, 8, 3)[:, 0, 0].astype(int) - [200, 40, 30]).max() <= 3


@pytest.mark.parametrize("size", [(41, 20), (20, 41), (42, 20), (20, 20)])
def test_what_only_needs_a_crop_keeps_its_pixels(size: tuple[int, int]) -> None:
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    content = put_array(pixels)
    top, left = (size[1] - 20) // 2, (size[0] - 20) // 2
    assert np.array_equal(decode(content, "x", 20, 20, 3).transpose(1, 2, 0), pixels[top : top + 20, left : left + 20])


def put_array(pixels: np.ndarray) -> bytes:
    """An array as a PNG file."""
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


# Labels of others


def edm(path: Path, labels: object, extra: bool = False) -> Path:
    """An archive in the layout of EDM: chunks of images, labels in dataset.json."""
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8 + extra):
            archive.writestr(f"{i // 4:05d}/img{i:08d}.png", put_array(np.full((8, 8, 3), i, np.uint8)))
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


LABELS = [[f"{i // 4:05d}/img{i:08d}.png", [10, 9, 2][i % 3]] for i in range(8)]


def test_labels_of_dataset_json(tmp_path: Path) -> None:
    data = load_dataset(str(edm(tmp_path / "x.zip", LABELS)), "train", (8, 8), 3, classes=3)
    assert data.classes == ("2", "9", "10")
    assert data.labels is not None
    assert [data.classes[label] for label in data.labels] == [str(label) for _, label in LABELS]
    assert any("the classes come from dataset.json, not the sub-folders" in note for note in data.notes)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(folder)
    within = load_dataset(str(folder), "train", (8, 8), 3, classes=3)
    assert np.array_equal(within.labels, data.labels)
    assert not any("skipped" in note for note in within.notes)
    (folder / "dataset.json").rename(tmp_path / "dataset.json")
    beside = load_dataset(str(folder), "train", (8, 8), 3, classes=3)
    assert np.array_equal(beside.labels, data.labels)


def test_labels_of_none_leave_the_folders(tmp_path: Path) -> None:
    data = load_dataset(str(edm(tmp_path / "x.zip", None)), "train", (8, 8), 3, classes=2)
    assert data.classes == ("00000", "00001")


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (5, "dataset.json: not a list of labels"),
        ([["a", [0.5]]], r"'a': \[0.5\] is not the number or name of a class"),
        (LABELS[:-1], "dataset.json has no label for 1 of its images: 00001/img00000007.png"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: object, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_dataset(str(edm(tmp_path / "x.zip", labels)), "train", (8, 8), 3, classes=3)


def test_report_of_labels(tmp_path: Path, cli: Cli) -> None:
    edm(tmp_path / "x.zip", LABELS)
    done = cli("data", tmp_path / "x.zip", "--set", "data.image_size=8")
    assert "10: 3, 9: 3, 2: 2" in done.out
    assert "with data.classes=3 the classes come from dataset.json, not the sub-folders" in done.out


# What a training makes of the values


def test_data_foretells_what_training_refuses(tmp_path: Path, cli: Cli) -> None:
    """NaN, unknown ranges and empty files: `data` names them with the reason that training gives."""
    folder = put(tmp_path / "d", "fine.png")
    floats = rng.random((8, 8), np.float32)
    Image.fromarray(floats).save(folder / "float.tif")
    floats[3, 3] = np.nan
    Image.fromarray(floats).save(folder / "nan.tif")
    (folder / "empty.png").write_bytes(b"")
    report = json.loads(cli("data", folder, "--set", "data.image_size=8", "--json").out)
    assert report["images"] == 1
    with pytest.raises(UserError) as refused:
        load_dataset(str(folder), "train", (8, 8), 3)
    assert set(report["broken"]) == {"float.tif", "nan.tif", "empty.png"}
    first = str(refused.value)
    assert report["broken"]["empty.png"] == "the file is empty"
    assert "the file is empty" in first
    assert report["broken"]["nan.tif"] == "some of its values are not finite"
    allowed = json.loads(cli("data", folder, *settings("data.image_size=8", "data.value_range=[0,1]"), "--json").out)
    assert set(allowed["broken"]) == {"nan.tif", "empty.png"}
    assert allowed["deep_values"] == pytest.approx([np.nanmin(floats), np.nanmax(floats)])
    data = load_dataset(str(folder), "train", (8, 8), 3, ReadOptions(value_range=(0, 1), max_broken=2))
    assert len(data.images) == 2


def test_what_only_floats_need_is_said(tmp_path: Path, cli: Cli) -> None:
    Image.fromarray(np.linspace(0, 0.75, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "a.tif")
    report = json.loads(cli("data", tmp_path, "--set", "data.image_size=8", "--json").out)
    assert report["then"] == [
        "the unreadable files (1) are too many: training stops, because data.max_broken is 0",
        "floating-point values need a range: use --set 'data.value_range=[0,0.75]'",
    ]


def test_crops_are_told_from_resizing(tmp_path: Path, cli: Cli) -> None:
    Image.new("RGB", (17, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (30, 16)).save(tmp_path / "b.png")
    report = json.loads(cli("data", tmp_path, "--set", "data.image_size=8", "--json").out)
    assert report["then"][:2] == [
        "1 are cropped around the center",
        "1 are resized to cover 8x8 and cropped around the center",
    ]


def test_nearly_black_images_are_told_with_the_flag(tmp_path: Path) -> None:
    for i in range(2):
        values = rng.integers(0, 4081, (8, 8)).astype(np.uint16)
        values[0, 0] = 4080
        Image.fromarray(values).save(tmp_path / f"{i}.tif")
    for _ in range(2):  # packed, and from the cache
        (note,) = load_dataset(str(tmp_path), "train", (8, 8), 1).notes
        assert "to 4080, where 0 is black and 65535 is white: the images are nearly black" in note
        assert "'data.value_range=[0,4095]'" in note
    assert not load_dataset(str(tmp_path), "train", (8, 8), 1, ReadOptions(value_range=(0, 4095))).notes
    (clipped,) = load_dataset(str(tmp_path), "train", (8, 8), 1, ReadOptions(value_range=(0, 1000))).notes
    assert "values outside are clipped" in clipped


def test_doubles_are_what_looks_the_same(tmp_path: Path) -> None:
    for name, color in (("red.png", (255, 0, 0)), ("blue.png", (0, 0, 255))):
        palette = Image.new("P", (8, 8), 0)
        palette.putpalette([*color, *[0] * 765])
        palette.save(tmp_path / name)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "also-red.png")
    with open_images(tmp_path) as files:
        found = inspect_images(files, DataConfig(image_size=8), lambda done, total: None)
    assert found.duplicates == [["also-red.png", "red.png"]]


@pytest.mark.parametrize("command", ["fid", "sweep"])
def test_one_reference_image_is_refused(cli: Cli, tmp_path: Path, command: str) -> None:
    put(tmp_path / "one", "a.png", size=32)
    done = cli(command, "--weights", "shapes-blur", "--data", tmp_path / "one", "--features", "pixels", "--n", 4, "--steps", 1)
    assert done.code == 2
    assert "one: has one image; a reference needs at least two" in done.err


def test_a_name_of_several_lines_is_shown_in_one(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "new\nline\x1b[31m.png").write_bytes(b"no image")
    found = cli("data", "photos")
    assert r"1: new\nline\x1b[31m.png (no format" in found.out
    trained = cli("train", "--data", "photos", "--preset", "folder-small")
    assert trained.code == 1
    assert r"photos/new\nline\x1b[31m.png: not a readable image" in trained.err


def test_values_that_are_not_finite_are_no_range(cli: Cli, tmp_path: Path) -> None:
    """A range would not help: such an image cannot be read."""
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[3, 3] = np.nan
    (tmp_path / "photos").mkdir()
    Image.fromarray(values).save(tmp_path / "photos" / "a.tif")
    found = cli("data", "photos")
    assert "not finite" in found.out
    assert "value_range" not in found.out + found.err


def windows_zip(path: Path, names: dict[str, int], **texts: str) -> Path:
    """An archive with these names as they are, of gray images by their values."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**names, **texts}.items():
            info = zipfile.ZipInfo()
            info.filename = name  # the constructor would make them slashes on Windows
            archive.writestr(info, content if isinstance(content, str) else png_of(content))
    return path


def png_of(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


def test_backslashes_in_archives_are_folders(tmp_path: Path) -> None:
    """For classes, for the split and for labels."""
    members = {
        f"top\\{split}\\{label}\\{i}.png": 9 for split in ("train", "test") for label in ("cat", "dog") for i in range(3)
    }
    archive = windows_zip(tmp_path / "w.zip", {"top\\": 0, "top\\test\\": 0, **members, "top\\__MACOSX\\cat\\x.png": 1})
    loaded = load_dataset(str(archive), "train", (8, 8), 1, classes=2)
    assert loaded.classes == ("cat", "dog")
    assert len(loaded.images) == 6
    assert len(load_dataset(str(archive), "test", (8, 8), 1).images) == 6
    with open_images(archive) as files:
        assert files.skipped == {"in a system's own folder": ("top/__MACOSX/cat/x.png",)}
    labels = json.dumps({"labels": [["a\\0.png", 1], ["b/1.png", 0]]})
    labelled = windows_zip(tmp_path / "l.zip", {"a\\0.png": 1, "b\\1.png": 2}, **{"dataset.json": labels})
    loaded = load_dataset(str(labelled), "train", (8, 8), 1, classes=2)
    assert loaded.labels is not None
    assert (loaded.labels.tolist(), loaded.images[:, 0, 0, 0].tolist()) == ([1, 0], [1, 2])


def test_backslashes_in_archives_lose_no_file(tmp_path: Path) -> None:
    names = {"a\\b.png": 1, "a/b.png": 2, "c\\d\\e.png": 3, "c\\d/e.png": 4, "C:\\x\\f.png": 5, "..\\g.png": 6}
    with open_images(windows_zip(tmp_path / "w.zip", names)) as files:
        found = {name: int(decode(files.read(name), name, 8, 8, 1).max()) for name in files.names}
        assert files.skipped == {"hidden": ("../g.png",)}
    assert found == {"C:/x/f.png": 5, "a/b.png": 2, "a\\b.png": 1, "c/d/e.png": 3, "c\\d/e.png": 4}


@pytest.mark.skipif(os.name == "nt", reason="backslashes separate folders")
def test_backslashes_in_names_of_real_files_stay(tmp_path: Path) -> None:
    (tmp_path / "a\\b.png").write_bytes(png_of(1))
    with open_images(tmp_path) as files:
        assert files.names == ("a\\b.png",)
