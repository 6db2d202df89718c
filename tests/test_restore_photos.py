"""What a restored photo keeps, what it says of itself, and what hidden, clipped or deep pixels do."""

import csv
import io
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
import torch
from conftest import Cli
from gaussian_photos import array_of, damaged, drawn, save_model, to_image
from numpy.typing import NDArray
from PIL import Image

import blurcli as bd
from blurcli.base.errors import UsageError
from blurcli.base.version import __version__
from blurcli.core.measurements import gaussian_blur
from blurcli.data.photos import Photo, read_photo
from blurcli.data.png import encoded_deep
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restorer import Restorer

KNOWN = ("--steps", 2, "--blur", 0.5, "--noise", 2)
SHARP = drawn((40, 48))
LENS = np.hypot(*np.ogrid[-20:20, -24:24]) < 15


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "color.safetensors"
    save_model(path)
    return path


@pytest.fixture
def weights(model_path: Path) -> tuple[str, Path]:
    return "--weights", model_path


def cut_out(hidden: int) -> Image.Image:
    """A photo of which a disk is visible; the rest has alpha 0 and this color."""
    image = np.asarray(to_image(SHARP)).copy()
    image[~LENS] = hidden
    return Image.fromarray(np.dstack([image, LENS * np.uint8(255)]))


# Transparency


def test_hidden_colors_influence_no_visible_pixel(cli: Cli, weights: tuple[str, Path]) -> None:
    results = []
    for hidden in (0, 255):
        cut_out(hidden).save("photo.png")
        done = cli("restore", "photo.png", *weights, "--steps", 2, "--json")
        assert done.code == 0, done.err
        results.append(np.asarray(Image.open("photo-restored.png")))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0][..., 3], LENS * 255)


def test_transparent_pixels_are_a_mask_on_request_only(cli: Cli, weights: tuple[str, Path]) -> None:
    photo = cut_out(0)
    photo.save("photo.png")
    Image.fromarray(~LENS).save("mask.png")
    photo.convert("RGB").save("opaque.png")
    assert cli("restore", "photo.png", *weights, "--steps", 2, "--mask", "alpha", "--out", "a.png").code == 0
    assert cli("restore", "opaque.png", *weights, "--steps", 2, "--mask", "mask.png", "--out", "b.png").code == 0
    filled = Image.open("a.png")
    assert filled.mode == "RGB"
    assert np.array_equal(np.asarray(filled), array_of(Path("b.png")))
    assert np.array_equal(np.asarray(filled)[LENS], np.asarray(photo)[LENS, :3])
    refused = cli("restore", "opaque.png", *weights, "--mask", "alpha")
    assert (refused.code, "--mask alpha: the photo has no transparency" in refused.err) == (2, True)
    assert np.array_equal(np.asarray(bd.load(weights[1]).restore(photo, mask="alpha", steps=2).image), np.asarray(filled))


def test_every_photo_of_a_folder_has_its_own_transparency(cli: Cli, weights: tuple[str, Path]) -> None:
    Path("photos").mkdir()
    cut_out(9).save("photos/a.png")
    cut_out(9).transpose(Image.Transpose.ROTATE_180).save("photos/b.png")
    command = ("restore", "photos", *weights, "--steps", 2, "--mask", "alpha")
    assert cli(*command).code == 0
    assert cli("restore", "photos/b.png", *weights, "--steps", 2, "--mask", "alpha", "--out", "alone.png").code == 0
    assert Path("alone.png").read_bytes() == Path("photos-restored/b.png").read_bytes()
    assert "were restored before" in cli(*command).err
    other = cli(*command, "--mask-grow", 1)
    assert (other.code, "mask_grow 0 (now 1)" in other.err) == (2, True)


def test_a_mask_grows_by_whole_pixels(cli: Cli, weights: tuple[str, Path]) -> None:
    to_image(SHARP).save("photo.png")
    hole = np.zeros((40, 48), bool)
    hole[10:14, 20:22] = True
    Image.fromarray(hole).save("mask.png")
    assert cli("restore", "photo.png", *weights, "--steps", 2, "--mask", "mask.png", "--mask-grow", 3).code == 0
    changed = (array_of(Path("photo-restored.png")) != np.asarray(to_image(SHARP))).any(-1)
    assert changed[7:17, 17:25].mean() > 0.9
    changed[7:17, 17:25] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("photo.png", "--mask-grow", 2), "--mask-grow 2: needs a --mask"),
        (("--demo", "--mask", "alpha"), "--mask alpha, --strip: are for photos"),
        (("--demo", "--strip"), "--mask alpha, --strip: are for photos"),
    ],
)
def test_what_would_change_nothing_is_refused(cli: Cli, flags: tuple[object, ...], problem: str) -> None:
    done = cli("restore", *flags)
    assert (done.code, problem in done.err) == (2, True), done.err


def test_a_mask_grows_in_python(model_path: Path) -> None:
    hole = np.zeros((40, 48), bool)
    hole[10:14, 20:22] = True
    model, photo = bd.load(model_path), to_image(SHARP)
    grown = model.restore(photo, mask=hole, mask_grow=1, steps=2).draws
    hole[9:15, 19:23] = True
    assert np.array_equal(model.restore(photo, mask=hole, steps=2).draws, grown)
    with pytest.raises(UsageError, match="`mask_grow` 1: needs a mask"):
        model.restore(photo, mask_grow=1)


# Strength


def test_strength_mixes_photo_and_result(cli: Cli, weights: tuple[str, Path]) -> None:
    to_image(damaged(SHARP, noise=8)).save("photo.png")
    given, found = np.asarray(Image.open("photo.png")).astype(float), {}
    for strength in (0, 0.25, 1):
        assert cli("restore", "photo.png", *weights, *KNOWN, "--strength", strength).code == 0
        found[strength] = array_of(Path("photo-restored.png")).astype(float)
    assert np.array_equal(found[0], given)
    assert np.abs(found[1] - given).mean() > 1
    inside = (found[1] > 0) & (found[1] < 255)  # the result may be darker than black, before it is mixed
    assert np.abs(found[0.25] - (0.75 * given + 0.25 * found[1]))[inside].max() <= 1
    refused = cli("restore", "photo.png", *weights, "--strength", 0.5, "--enlarge", 2)
    assert (refused.code, "--strength 0.5: mixes in the photo" in refused.err) == (2, True)


# The fit to the photo


@pytest.fixture(scope="module")
def restorer(model_path: Path) -> Restorer:
    return Restorer(bd.load(model_path).pipeline)


def blurred(noise: float) -> Photo:
    truth = drawn((64, 96), seed=3)
    seen = gaussian_blur((64, 96), 1.0).apply(torch.from_numpy(truth)[None])[0].numpy()
    return Photo(np.rint(seen + noise * np.random.default_rng(0).standard_normal(seen.shape)).clip(0, 255))


@pytest.mark.parametrize(("factor", "low", "high"), [(1, 0.85, 1.15), (0.5, 1.5, 2.2), (2, 0.4, 0.7)])
def test_the_residual_tells_a_wrong_noise(restorer: Restorer, factor: float, low: float, high: float) -> None:
    options = RestoreOptions(blur=1.0, noise=6.0 * factor, temperature=1.0, steps=4)
    found = restorer(blurred(6.0), options)
    assert low < found.residual < high
    assert found.residual <= found.worst_residual < 1.25 * found.residual
    assert ("does not fit" in found.description) == (factor == 0.5)


def test_the_worst_part_is_named(restorer: Restorer) -> None:
    """A part with noise that the rest does not have."""
    photo = blurred(3.0)
    pixels = photo.pixels.copy()
    size = restorer.model.process.shape[0]
    pixels[:, :size, :size] = (pixels + 9 * np.random.default_rng(1).standard_normal(pixels.shape)).clip(0, 255)[
        :, :size, :size
    ]
    found = restorer(Photo(pixels), RestoreOptions(blur=1.0, noise=3.0, temperature=1.0, steps=4))
    assert found.worst_residual > 2 > found.residual
    assert found.facts["worst_residual_over_noise"] == found.worst_residual
    if found.residual <= 1.5:
        assert re.search(r"residual \d\.\d\d \(worst part \d\.\d\)", found.description)


def test_unknown_pixels_are_no_misfit(restorer: Restorer) -> None:
    photo = blurred(3.0)
    mask = np.zeros((64, 96), bool)
    mask[:20, :30] = True
    spoiled = Photo(np.where(mask, 255.0, photo.pixels))
    found = restorer(spoiled, RestoreOptions(blur=1.0, noise=3.0, mask=mask, temperature=1.0, steps=4))
    assert found.residual < found.worst_residual < 1.4


# What is written


def test_a_folder_has_a_table(cli: Cli, weights: tuple[str, Path]) -> None:
    Path("photos").mkdir()
    for name in ("a", "b, c"):
        to_image(damaged(SHARP, noise=4)).save(f"photos/{name}.png")
    assert cli("restore", "photos", *weights, "--steps", 2, "--blur", 0.5).code == 0
    Path("photos-restored/b, c.png").unlink()
    assert cli("restore", "photos", *weights, "--steps", 2, "--blur", 0.5).code == 0
    with Path("photos-restored/restore.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == ["photos/a.png", "photos/b, c.png", "photos/b, c.png"]
    assert rows[0]["estimated"] == "noise"
    assert float(rows[0]["blur"]) == 0.5
    assert 2 < float(rows[0]["noise"]) < 8
    assert float(rows[0]["residual_over_noise"]) <= float(rows[0]["worst_residual_over_noise"])
    assert float(rows[1]["seconds"]) > 0


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_a_restored_photo_says_so(cli: Cli, weights: tuple[str, Path], form: str) -> None:
    to_image(damaged(SHARP, noise=4)).save("photo.png")
    assert cli("restore", "photo.png", *weights, "--steps", 2, "--noise", 4, "--seed", 7, "--out", f"x.{form}").code == 0
    with Image.open(f"x.{form}") as image:
        comment = image.info["Comment"] if form == "png" else image.info["comment"].decode()
    assert comment.startswith("Restored by a generative model")
    assert f"blurdiff {__version__} restore --noise 4 --temperature 0.5 --steps 2 --seed 7\n" in comment
    digest = bd.load(weights[1]).pipeline.digest
    assert f"\nRestored with blurdiff {__version__} (weights {digest}, fp32; estimated Gaussian blur " in comment
    assert comment.endswith(" px, noise 4 gray levels of 255; 2 network calls, temperature 0.5, draws with seed 7).")


def test_metadata_are_kept_or_left_out(cli: Cli, weights: tuple[str, Path]) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    to_image(SHARP).save("photo.png", exif=exif, icc_profile=b"a profile")
    for flags, kept in (((), True), (("--strip",), False)):
        assert cli("restore", "photo.png", *weights, *KNOWN, *flags).code == 0
        with Image.open("photo-restored.png") as image:
            assert (image.info.get("icc_profile") == b"a profile") == kept
            assert (image.getexif().get(0x010F) == "A maker") == kept


def test_a_model_of_reduced_images_warns(cli: Cli, weights: tuple[str, Path], tmp_path: Path) -> None:
    to_image(SHARP).save("photo.png")
    warned = cli("restore", "photo.png", *weights, *KNOWN).err
    assert warned.count("was trained on reduced images") == 1
    assert "blurdiff train --data FOLDER --for restore" in warned
    height, width = bd.load(weights[1]).image_shape[:2]
    to_image(SHARP[:, :height, :width]).save("photo.png")
    assert "reduced" not in cli("restore", "photo.png", *weights, *KNOWN).err
    to_image(SHARP).save("photo.png")
    assert "reduced" not in cli("restore", "photo.png", *KNOWN).err  # the bundled model, of patches


# Colors of 16 bits


def deep(alpha: bool = False) -> NDArray[np.uint16]:
    values = np.linspace(2000, 60000, 3 * 40 * 48).reshape(3, 40, 48).transpose(1, 2, 0)
    return np.dstack([values, *([LENS * 65535] if alpha else [])]).astype(np.uint16)


def decoded(content: bytes) -> NDArray[np.uint16]:
    with av.open(io.BytesIO(content), format="png_pipe") as file:
        return next(file.decode(video=0)).to_ndarray()


@pytest.mark.parametrize("alpha", [False, True])
def test_colors_of_sixteen_bits_keep_their_depth(cli: Cli, weights: tuple[str, Path], alpha: bool) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A maker", 6
    values = deep(alpha)
    Path("photo.png").write_bytes(encoded_deep(values, {}, b"a profile", exif.tobytes()))
    done = cli("restore", "photo.png", *weights, "--steps", 2, "--blur", 0, "--noise", 0)
    assert done.code == 0, done.err
    content = Path("photo-restored.png").read_bytes()
    found = decoded(content)
    upright = np.rot90(values, -1)
    assert found.shape == upright.shape
    seen = upright[..., 3:] > 0 if alpha else np.ones((48, 40, 1), bool)
    assert np.abs(found[..., :3].astype(float) - upright[..., :3])[seen[..., 0]].max() < 6
    assert len(np.unique(found[..., :3][seen[..., 0]])) > 1500
    if alpha:
        assert np.array_equal(found[..., 3], upright[..., 3])
    with Image.open(io.BytesIO(content)) as image:
        image.verify()
    with Image.open(io.BytesIO(content)) as image:
        assert image.info["icc_profile"] == b"a profile"
        assert (image.getexif()[0x010F], image.getexif()[0x0112]) == ("A maker", 1)
        assert image.text["Software"] == "made by blurdiff"  # type: ignore[attr-defined]
    read = read_photo(content, "x")
    assert read.deep
    assert np.array_equal(np.rint(read.pixels * 257).transpose(1, 2, 0), found[..., :3])
    assert read.picture().mode == ("RGBA" if alpha else "RGB")


def test_colors_of_sixteen_bits_are_written_as_png_only(tmp_path: Path) -> None:
    photo = Photo(np.zeros((3, 8, 8)), deep=True)
    with pytest.raises(UsageError, match=r"colors of 16 bits, which are written as \.png only"):
        photo.save(tmp_path / "x.tif")
    assert not list(tmp_path.iterdir())


def test_colors_of_sixteen_bits_in_tiff(tmp_path: Path) -> None:
    values = deep()
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", compression="zlib")
    read = read_photo((tmp_path / "x.tif").read_bytes(), "x")
    assert read.deep
    assert np.array_equal(np.rint(read.pixels * 257).transpose(1, 2, 0), values)


def test_without_a_reader_of_sixteen_bits_that_is_said(
    cli: Cli, weights: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("photo.png").write_bytes(encoded_deep(deep(), {}, None, None))
    monkeypatch.setitem(sys.modules, "av", None)
    done = cli("restore", "photo.png", *weights, *KNOWN)
    assert (done.code, "colors have 16 bits, and 8 are read; pip install av reads all 16" in done.err) == (0, True)
    assert Image.open("photo-restored.png").mode == "RGB"
