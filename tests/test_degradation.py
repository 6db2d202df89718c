"""What is found in a photo: blur under compression, blur that differs, noise of colors; and what a folder of photos takes."""

import io
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from gaussian_photos import damaged, drawn, save_model, to_image
from numpy.typing import NDArray
from PIL import Image

import blurcli as bd
from blurcli.data.photos import Photo, read_photo
from blurcli.model.degradation import degradation_of
from blurcli.model.photo_space import PhotoSpace
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restorer import Restorer

SHARP = drawn((192, 224))
AUTOMATIC = RestoreOptions(temperature=0.0)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "color.safetensors", learned=0.0)


@pytest.fixture(scope="module")
def restorer(model_path: Path) -> Restorer:
    return Restorer(bd.load(model_path).pipeline)


@pytest.fixture(scope="module")
def photos(restorer: Restorer) -> PhotoSpace:
    return restorer.photos


def jpeg(pixels: NDArray[np.float64], quality: int, subsampling: int = 0, orientation: int = 1) -> Photo:
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    to_image(pixels).save(content, "JPEG", quality=quality, subsampling=subsampling, exif=exif)
    return read_photo(content.getvalue(), "photo.jpg")


# Compression


@pytest.mark.parametrize("quality", [95, 85, 70, 50])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_compression_is_no_blur(photos: PhotoSpace, quality: int, subsampling: int) -> None:
    photo = jpeg(SHARP, quality, subsampling)
    found = degradation_of(photos, photo, AUTOMATIC)
    assert found.blur_px.value <= 0.3
    assert found.noise.low > 1  # of rounding the coefficients, however little noise there was before


@pytest.mark.parametrize("quality", [90, 75])
def test_blur_is_found_under_compression(photos: PhotoSpace, quality: int) -> None:
    """Without the steps of the file, what rounding leaves of high frequencies is taken for detail, and no blur is found."""
    photo = jpeg(damaged(SHARP, blur=2.0, noise=2), quality)
    assert degradation_of(photos, photo, AUTOMATIC).blur_px.value == pytest.approx(2.0, abs=0.4)


def test_a_compressed_photo_is_called_that(restorer: Restorer) -> None:
    small = drawn((64, 64))
    assert restorer(jpeg(small, 80), AUTOMATIC).description.startswith("compressed; ")
    assert "compressed" not in restorer(Photo(np.rint(small).clip(0, 255)), AUTOMATIC).description
    assert "compressed" not in restorer(jpeg(small, 80), RestoreOptions(blur=1, noise=4)).description


def test_the_steps_turn_with_the_photo() -> None:
    upright, turned = (jpeg(SHARP, 50, orientation=way).steps for way in (1, 6))
    assert upright is not None
    assert turned is not None
    assert not np.array_equal(upright, upright.T)
    assert np.array_equal(turned, upright.T)
    assert upright[0, 1] == 11  # table K.1 of ITU T.81, whose second row begins with 12
    assert upright[1, 0] == 12


# Blur that differs


def test_the_sharpest_part_decides(photos: PhotoSpace) -> None:
    blurred, sharp = damaged(SHARP, blur=3.0, noise=2), damaged(SHARP, blur=0.9, noise=2, seed=1)
    half = np.concatenate([sharp[..., :112], blurred[..., 112:]], -1)
    found = degradation_of(photos, Photo(np.rint(half).clip(0, 255)), AUTOMATIC)
    assert found.blur_range is not None
    assert found.blur_px.value == found.blur_range[0] == pytest.approx(0.9, abs=0.25)
    assert found.blur_range[1] == pytest.approx(3.0, abs=0.6)
    whole = degradation_of(photos, Photo(np.rint(blurred).clip(0, 255)), AUTOMATIC)
    assert whole.blur_range is None
    assert whole.blur_px.value == pytest.approx(3.0, abs=0.4)


def test_blur_that_differs_is_reported(restorer: Restorer) -> None:
    half = np.concatenate([SHARP[..., :112], damaged(SHARP, blur=3.0)[..., 112:]], -1)
    found = restorer(Photo(np.rint(half).clip(0, 255)), RestoreOptions(temperature=0.0, steps=1))
    assert "the blur differs over the photo (0 to " in found.description
    assert found.facts["blur_range"][0] == 0


# Noise of colors


@pytest.mark.parametrize(("luma", "chroma", "apart"), [(6.0, 18.0, True), (5.0, 5.0, False), (8.0, 2.0, False)])
def test_noise_of_colors(restorer: Restorer, luma: float, chroma: float, apart: bool) -> None:
    """It is at least that of brightness, because cameras smooth colors."""
    random = np.random.default_rng(0)
    white, colors = random.standard_normal((2, *SHARP.shape))
    gray = np.broadcast_to(white.mean(0), SHARP.shape)  # of white noise, its part in brightness
    colors = colors - colors.mean(0)
    photo = Photo(np.rint(SHARP + luma * gray + chroma * colors).clip(0, 255))
    found = degradation_of(restorer.photos, photo, AUTOMATIC)
    assert found.noise.value == pytest.approx(luma, rel=0.25)
    assert found.color_noise == pytest.approx(max(luma, chroma), rel=0.25)
    assert (", of colors " in restorer(photo, RestoreOptions(temperature=0.0, steps=1)).description) == apart


def test_colors_are_smoothed_by_their_own_noise(restorer: Restorer) -> None:
    truth = drawn((64, 64))
    colors = np.random.default_rng(0).standard_normal(truth.shape)
    photo = Photo(np.rint(truth + 15 * (colors - colors.mean(0))).clip(0, 255))
    errors = [
        float(np.square(restorer(photo, options).draws[0] - truth).mean())
        for options in (AUTOMATIC, RestoreOptions(temperature=0.0, blur=0, noise=1.0))
    ]
    assert errors[0] < 0.5 * errors[1]


# A folder


def test_several_photos_are_announced(cli: Cli, model_path: Path) -> None:
    Path("photos").mkdir()
    for i in range(3):
        to_image(damaged(drawn((40, 48), seed=i), noise=4)).save(f"photos/{i}.png")
    Path("photos/broken.png").write_bytes(b"no image")
    command = ("restore", "photos", "--weights", model_path, "--steps", 1)
    first = cli(*command)
    assert "3 photos, 0.0 megapixels: about " in first.err
    assert "and at most 1 MiB in photos-restored" in first.err
    assert " megapixels" not in cli(*command).err  # one photo is left, which is broken


def test_a_full_disk_is_noticed_first(cli: Cli, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photos").mkdir()
    for i in range(3):
        to_image(drawn((40, 48), seed=i)).save(f"photos/{i}.png")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1000))
    done = cli("restore", "photos", "--weights", model_path, "--steps", 1)
    assert (done.code, "photos-restored: needs about 1 MiB, and 0 MiB are free" in done.err) == (1, True)
    assert not list(Path("photos-restored").glob("*.png"))
