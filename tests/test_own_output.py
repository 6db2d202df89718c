"""What blurdiff wrote among a person's images is never data: runs, sample folders, caches, grids, animations and plots."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, settings
from matplotlib.figure import Figure
from PIL import Image
from PIL.ExifTags import IFD, Base

import blurcli as bd
from blurcli.base.errors import UsageError
from blurcli.config import load_run_config
from blurcli.data import load_dataset
from blurcli.data import outputs as own_outputs
from blurcli.data.archives import open_images
from blurcli.data.packed_cache import pack
from blurcli.data.photos import Photo
from blurcli.visualize import ImageFolder, figures, save_grid
from blurcli.visualize.animations import save_animation

OWN = "made by blurdiff"


def pixels(count: int = 4) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 3, 8, 8), np.uint8)


def names_in(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The images, and what is left out as blurdiff's."""
    with open_images(path) as files:
        return files.names, files.skipped.get(OWN, ())


def sample_folder(folder: Path) -> None:
    images = ImageFolder(folder, {})
    with images.claimed(len(pixels())) as missing:
        images.write(pixels(), missing)
    (folder / "sampling.json").touch()


@pytest.fixture
def littered(photos: Path, tiny_run: Path) -> Path:
    """Ten photos with whatever commands write, at several depths."""
    shutil.copytree(tiny_run, photos / "runs" / "photos")
    shutil.copytree(tiny_run, photos / "elsewhere" / "deep" / "by --run")
    sample_folder(photos / "elsewhere" / "samples")
    save_grid(pixels(), photos / "grid.png")
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)  # far longer than the part that is read
    pictures = [Image.fromarray(image) for image in noise]
    for suffix in (".gif", ".webp", ".png", ".apng"):
        save_animation(pictures, photos / "elsewhere" / f"moving{suffix}")
    (figure := Figure()).subplots()
    figures.save_figure(figure, photos / "loss.png")
    return photos


MADE = (
    "elsewhere/deep/by --run",
    *(f"elsewhere/moving{suffix}" for suffix in (".apng", ".gif", ".png", ".webp")),
    "elsewhere/samples",
    "grid.png",
    "loss.png",
    "runs/photos",
)
PHOTOS = tuple(f"{i}.png" for i in range(10))


def test_everything_written_is_left_out(littered: Path, tmp_path: Path) -> None:
    assert names_in(littered) == (PHOTOS, MADE)
    archive = Path(shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path, "photos"))  # with a folder of that name in it
    assert names_in(archive) == (tuple(f"photos/{name}" for name in PHOTOS), tuple(f"photos/{name}" for name in MADE))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_named_itself_is_read(littered: Path, tmp_path: Path, kind: str) -> None:
    samples = littered / "elsewhere" / "samples"
    if kind == "zip":
        samples = Path(shutil.make_archive(str(tmp_path / "s"), "zip", littered / "elsewhere", "samples"))
    assert [len(names) for names in names_in(samples)] == [4, 0]
    assert len(names_in(littered / "runs" / "photos" / "samples")[0]) == 1  # marked pictures, and nothing else
    assert names_in(littered / "grid.png") == (("grid.png",), ())
    with (
        pytest.raises(UsageError, match=f"no images in it, sub-folders included; there are 1 {OWN}"),
        open_images(littered / "runs"),
    ):
        pass


def test_other_files_of_such_names_do_not_make_an_output(tmp_path: Path) -> None:
    for name in ("a/config.yaml", "b/weights/x", "c/metrics.jsonl", "d/samples/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        save_grid(pixels(), tmp_path / name[0] / "x.png")
        Image.fromarray(pixels(1)[0].transpose(1, 2, 0)).save(tmp_path / name[0] / "photo.png")
    assert names_in(tmp_path) == (tuple(f"{x}/photo.png" for x in "abcd"), tuple(f"{x}/x.png" for x in "abcd"))


@pytest.mark.parametrize("known", [True, False])
def test_the_cache_is_left_out(photos: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """By its place, and later, when $BLURDIFF_CACHE is another, by its tag."""
    monkeypatch.setenv("BLURDIFF_CACHE", str(photos / "cache"))
    pack([pixels()], (3, 8, 8), lambda: "0" * 32)
    assert (photos / "cache" / "images" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    if not known:
        monkeypatch.delenv("BLURDIFF_CACHE")
        monkeypatch.setenv("BLURDIFF_CACHE", str(photos.parent / "other"))
    assert names_in(photos) == (PHOTOS, ("cache",) if known else ("cache/images",))


def test_pictures_are_opened_once(littered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names_in(littered)
    monkeypatch.setattr(own_outputs, "_is_marked", None)
    assert names_in(littered) == (PHOTOS, MADE)
    Image.new("RGB", (8, 8)).save(littered / "new.png")
    with pytest.raises(TypeError):
        names_in(littered)


def test_the_images_stay_the_same(littered: Path, photos: Path) -> None:
    """The fingerprint is that of the photos alone, so that a training continues."""
    load = lambda: load_dataset(str(photos), "train", (8, 8), 3)  # noqa: E731
    with_outputs = load()
    assert len(with_outputs.images) == 10
    for name in MADE:
        path = photos / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert load().fingerprint == with_outputs.fingerprint


def test_commands_in_the_folder_of_images(cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, sample, animate and score where the photos are; the same training goes on with the same photos."""
    monkeypatch.chdir(photos)
    tiny = settings("data.image_size=8", "train.batch_size=2")
    assert cli("train", "--data", ".", *tiny, "--set", "train.steps=3").out.strip().startswith("runs/photos/weights/")
    for command in (
        ("sample", "--n", 4),
        ("sample", "--n", 4, "--out", "grid.png"),
        ("animate", "process.gif", "--n", 2, "--frames", 3),
        ("animate", "frames", "--n", 2, "--frames", 3),
    ):
        done = cli(*command)
        assert done.code == 0, done.err
        assert "using runs/photos/weights" in done.err
    sample_folder(photos / "mine")
    more = cli("train", "--data", ".", *tiny, "--set", "train.steps=4")
    assert more.code == 0, more.err
    assert "continuing runs/photos from step 3" in more.err
    assert "10 images" in more.err
    assert f"skipped: 7 {OWN}; blurdiff data" in more.err
    found = json.loads(cli("data", ".", "--json").out)
    assert (found["images"], len(found["left_out"][OWN])) == (10, 7)
    scored = cli("fid", "--samples", "mine", "--data", ".", "--features", "pixels", "--force", "--json", "--size", 8)
    assert json.loads(scored.out)["reference_images"] == 10
    shown = cli(
        "animate", "--direction", "forward", "--images", ".", "--n", 64, "--frames", 2, "all.png", "--strip", "--scale", 1
    )
    assert shown.code == 0, shown.err
    with Image.open("all.png") as strip:
        assert strip.height == 10 * 9 - 1
    assert cli("train", "--data", "..", "--set", "train.steps=1", *tiny).code == 0
    assert load_run_config(Path(f"runs/{photos.parent.name}/config.yaml")).data.source == str(photos.parent)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"])
def test_restored_photos(photos: Path, suffix: str) -> None:
    """In every format, also with a color profile and EXIF data that are longer than the part that is read."""
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[Base.MakerNote] = random.bytes(40_000)
    restored = Photo(random.random((3, 64, 64)) * 255, profile=random.bytes(6000), exif=exif.tobytes())
    restored.save(photos / f"restored{suffix}")
    assert names_in(photos) == (PHOTOS, (f"restored{suffix}",))


def test_grids_in_python(photos: Path) -> None:
    images = bd.Images(pixels().transpose(0, 2, 3, 1))
    images.save(photos / "grid.png")
    assert names_in(photos)[1] == ("grid.png",)


def test_a_damaged_archive_is_reported_where_it_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"x" * 5000)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[35:45] = b"\xff" * 10
    (tmp_path / "x.zip").write_bytes(content)
    assert names_in(tmp_path / "x.zip") == (("a.png",), ())
