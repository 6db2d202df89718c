"""Photos of cameras and microscopes: 16 bits in their own values, measured kernels, and the sentence for a methods section."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import Cli
from gaussian_photos import damaged, drawn, exactly, restored, save_model
from numpy.typing import NDArray
from PIL import Image

import blurcli as bd
from blurcli.base.version import __version__
from blurcli.core.kernels import response
from blurcli.core.measurements import gaussian_blur
from blurcli.data.photos import Photo, read_photo
from blurcli.model.restore_options import RestoreOptions, digest

QUICK = ("--steps", 2)
DESCRIPTION = 270
TWELVE_BITS = (100.0, 100.0 + 65535 / 16)  # 16 times finer than those of 16 bits, and 100 counts without light


@pytest.fixture(scope="session")
def gray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "gray.safetensors", 1)


@pytest.fixture(scope="session")
def of_counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model of training images in counts of a camera."""
    setting = "data.value_range=[{},{}]".format(*TWELVE_BITS)
    return save_model(tmp_path_factory.mktemp("models") / "counts.safetensors", 1, 0.02, setting)


def seen(noise: float = 3.0) -> NDArray[np.float64]:
    """A photo in gray levels, (40, 48)."""
    return damaged(drawn((40, 48), 1), 1.0, noise)[0].clip(1, 254)


def sixteen(levels: NDArray[np.float64]) -> NDArray[np.uint16]:
    """In 16 bits whose last four are 0."""
    return (np.rint(levels * 257 / 16) * 16).astype(np.uint16)


def stored(path: str) -> tuple[NDArray[Any], str]:
    """The values of a TIFF, and its description."""
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
        return file.pages[0].asarray(), file.pages[0].tags[DESCRIPTION].value


# 16 bits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "predictor": True, "byteorder": ">"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        "tiff_lzw",
        "tiff_adobe_deflate",
    ],
    ids=str,
)
def test_tiffs_of_all_kinds_come_back_bit_for_bit(cli: Cli, gray: Path, options: Any) -> None:
    values = np.random.default_rng(0).integers(20_000, 65536, (40, 48)).astype(np.uint16)
    if isinstance(options, str):
        Image.fromarray(values).save("x.tif", compression=options)
    else:
        tifffile.imwrite("x.tif", values, photometric="minisblack", **options)
    done = cli("restore", "x.tif", "--weights", gray, *QUICK, "--strength", 0, "--out", "y.tif")
    assert done.code == 0, done.err
    back, _ = stored("y.tif")
    assert back.dtype == np.uint16
    assert np.array_equal(back, values)


def test_a_ramp_keeps_its_levels(cli: Cli, gray: Path) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 15 + 2000
    tifffile.imwrite("x.tif", ramp, photometric="minisblack", byteorder=">")
    done = cli("restore", "x.tif", "--weights", gray, *QUICK, "--blur", 0, "--noise", 0, "--out", "y.tif")
    assert done.code == 0, done.err
    back, _ = stored("y.tif")
    assert len(np.unique(back)) > 4000
    assert np.abs(back.astype(int) - ramp).max() <= 3


def test_of_a_stack_the_first_page_is_restored(cli: Cli, gray: Path) -> None:
    first = sixteen(seen())
    tifffile.imwrite("x.tif", np.stack([first, first[::-1], first]), imagej=True)
    done = cli("restore", "x.tif", "--weights", gray, *QUICK, "--strength", 0, "--out", "y.tif")
    assert "x.tif: the first of its 3 pages is restored" in done.err
    back, description = stored("y.tif")
    assert np.array_equal(back, first)
    assert "images=3" not in description  # that would be read as a stack
    assert description.startswith("Restored by a generative model")


def test_damaged_pages_after_the_first_do_not_matter() -> None:
    tifffile.imwrite(buffer := io.BytesIO(), np.stack([sixteen(seen()), sixteen(seen())[::-1]]), photometric="minisblack")
    content = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        for tag, value in ((256, 16), (258, 77)):  # another width, and no number of bits
            content[file.pages[1].tags[tag].valueoffset] = value
    assert np.array_equal(sixteen(read_photo(bytes(content), "x").pixels[0]), sixteen(seen()))


# The photo's own values


def test_counts_are_restored_as_sixteen_bits_are(cli: Cli, gray: Path, of_counts: Path) -> None:
    """Twelve bits with an offset, by a model of such images, are the gray levels of 16 bits."""
    fine = sixteen(seen())
    tifffile.imwrite("fine.tif", fine, photometric="minisblack")
    tifffile.imwrite("counts.tif", fine // 16 + 100, photometric="minisblack")
    known = (*QUICK, "--blur", 1, "--noise", 3)
    one = cli("restore", "fine.tif", "--weights", gray, *known, "--out", "a.tif", "--json")
    other = cli("restore", "counts.tif", "--weights", of_counts, *known, "--out", "b.tif", "--json")
    assert (one.code, other.code) == (0, 0), one.err + other.err
    a, b = stored("a.tif")[0].astype(float), stored("b.tif")[0].astype(float)
    assert np.abs(a - fine).mean() > 100
    assert np.abs(((b - 100) * 16).clip(0, 65535) - a).max() <= 9
    ranges = [json.loads(done.out)["photos"][0]["value_range"] for done in (one, other)]
    assert ranges == [[0, 65535], list(TWELVE_BITS)]
    assert "noise 3 gray levels of 255 (771 gray levels of 65,535)" in one.err
    assert "noise 3 gray levels of 255 (48.2 gray levels of 4,095.9375)" in other.err


def test_the_model_gives_the_range_in_python(of_counts: Path) -> None:
    counts = sixteen(seen()) // 16 + 100
    model = bd.load(of_counts)
    for photo in (counts, Image.fromarray(counts)):
        found = model.restore(photo, steps=2, strength=0.0)
        assert found.facts["value_range"] == list(TWELVE_BITS)
        assert np.array_equal(np.asarray(found.image), counts)
        low, high = found.facts["value_range"]
        assert found.mean[..., 0] * ((high - low) / 255) + low == pytest.approx(counts, abs=0.01)


def test_rounding_is_to_the_photos_own_values(gray: Path) -> None:
    assert Photo(seen()[None], True, own_range=(51, 102)).least_noise == pytest.approx(5 * 0.29)
    assert Photo(seen()[None], True).least_noise == pytest.approx(0.29 / 257)


@pytest.mark.parametrize(
    ("highest", "text"),
    [
        (
            4000,
            "x.tif: nearly black to the model: its largest value is 4,000, and white is 65,535; multiply all, or use a model",
        ),
        (60_000, ""),
    ],
)
def test_twelve_bits_in_sixteen_are_noticed(cli: Cli, gray: Path, highest: int, text: str) -> None:
    tifffile.imwrite("x.tif", np.linspace(100, highest, 40 * 48).reshape(40, 48).astype(np.uint16), photometric="minisblack")
    done = cli("restore", "x.tif", "--weights", gray, *QUICK, "--blur", 1, "--noise", 1)
    assert (text in done.err, "black to the model" in done.err) == (True, bool(text))
    assert not text or "--set 'data.value_range=[0,4095]'" in done.err


def test_a_dark_photo_of_known_values_is_no_problem(cli: Cli, of_counts: Path) -> None:
    tifffile.imwrite("x.tif", np.linspace(110, 900, 40 * 48).reshape(40, 48).astype(np.uint16), photometric="minisblack")
    assert "values" not in cli("restore", "x.tif", "--weights", of_counts, *QUICK, "--strength", 0).err


def test_values_beyond_those_of_training_are_noticed(cli: Cli, of_counts: Path) -> None:
    tifffile.imwrite("x.tif", np.linspace(90, 9000, 40 * 48).reshape(40, 48).astype(np.uint16), photometric="minisblack")
    done = cli("restore", "x.tif", "--weights", of_counts, *QUICK, "--strength", 0, "--out", "y.tif")
    assert "its values are from 90 to 9,000, and those of the model's training images from 100 to 4,195.9375" in done.err
    assert (stored("y.tif")[0].min(), stored("y.tif")[0].max()) == (90, 9000)


def test_mean_and_spread_are_in_the_photos_values(cli: Cli, of_counts: Path) -> None:
    counts = sixteen(seen()) // 16 + 100
    tifffile.imwrite("x.tif", counts, photometric="minisblack")
    command = ("restore", "x.tif", "--weights", of_counts, *QUICK, "--noise", 3, "--n", 3, "--mean", "--spread")
    assert cli(*command, "--out", "y.tif").code == 0
    assert cli(*command, "--out", "y.png").code == 0
    exact = bd.load(of_counts).restore("x.tif", noise=3, n=3, steps=2, temperature=1)
    per_level = (TWELVE_BITS[1] - TWELVE_BITS[0]) / 255
    mean, _ = stored("y.tif")
    assert mean == pytest.approx(exact.mean[..., 0] * per_level + 100, abs=0.51)
    spread, text = stored("y-spread.tif")
    assert spread.dtype == np.float32
    assert spread == pytest.approx(exact.spread * per_level, rel=1e-5)
    assert text == "Standard deviation of the draws in each pixel: in values of the photo, black 100 and white 4195.9375"
    with Image.open("y-spread.png") as image:
        assert np.asarray(image) == pytest.approx(exact.spread * 256, abs=0.51)
        assert image.info["Comment"].endswith(": 256 per gray level, white 255 gray levels")
    assert not Path("y-spread.tiff").exists()


def test_little_noise_of_sixteen_bits_is_noise() -> None:
    def described(value_range: tuple[float, float]) -> str:
        return restored(noise=exactly(0.2), value_range=value_range).description

    assert described((0, 255)).startswith("no noise")
    assert described((0, 65535)).startswith("noise 0.2 gray levels of 255 (51.4 gray levels of 65,535)")


# The sentence


def sentence(estimated: tuple[str, ...] = (), value_range: tuple[float, float] = (0, 255), **options: Any) -> str:
    found = {"noise": exactly(3.14159), **({"blur_px": exactly(1.834)} if "blur" in estimated else {})}
    return restored(estimated=estimated, value_range=value_range, options=RestoreOptions(**options), **found).methods


KERNEL = np.ones((3, 3)) / 9
MASK = np.arange(10).reshape(2, 5) < 3


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        (
            {"estimated": ("blur", "noise")},
            {"mean": True},
            "estimated Gaussian blur 1.83 px, estimated noise 3.14 gray levels of 255; 10 network calls, temperature 1, "
            "mean of 8 draws with seed 0",
        ),
        (
            {"value_range": (0, 4095), "estimated": ("noise",)},
            {"kernel": KERNEL, "temperature": 0},
            f"kernel {digest(KERNEL)}, estimated noise 50.5 gray levels of 4,095; 10 network calls, temperature 0",
        ),
        (
            {"value_range": (0, 65535)},
            {"blur": 2, "noise": 3.14159, "seed": 7, "strength": 0.5},
            "Gaussian blur 2 px, noise 807 gray levels of 65,535; 10 network calls, temperature 0.5, draws with seed 7, "
            "strength 0.5",
        ),
        (
            {},
            {"mask": MASK, "n": 3, "steps": 5},
            f"30% missing (mask {digest(MASK)}); 5 network calls, temperature 0.5, draws with seed 0",
        ),
        (
            {},
            {"defocus": 4, "noise": 3, "enlarge": 2, "spread": True},
            "defocus 4 px, reduced 2 times, noise 3.14 gray levels of 255; 10 network calls, temperature 1, draws with seed 0",
        ),
    ],
    ids=["estimated", "kernel", "given", "mask", "enlarged"],
)
def test_the_sentence_for_a_methods_section(given: dict[str, Any], options: dict[str, Any], expected: str) -> None:
    assert sentence(**given, **options) == f"Restored with blurdiff {__version__} (weights 0123, bf16; {expected})."


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_files_and_facts_have_the_sentence(cli: Cli, gray: Path, suffix: str) -> None:
    Image.fromarray(np.rint(seen()).astype(np.uint8)).save("x.png")
    done = cli("restore", "x.png", "--weights", gray, *QUICK, "--seed", 5, "--out", f"y.{suffix}", "--json")
    (facts,) = json.loads(done.out)["photos"]
    assert f"weights {bd.load(gray).pipeline.digest}, fp32; estimated Gaussian blur" in facts["methods"]
    with Image.open(f"y.{suffix}") as image:
        comment = image.info["Comment"] if suffix == "png" else image.getexif()[DESCRIPTION]
    assert comment.endswith(f"\n{facts['methods']}")
    assert b"made by blurdiff" in Path(f"y.{suffix}").read_bytes()[-2048:] + Path(f"y.{suffix}").read_bytes()[:2048]


def test_a_photos_own_description_is_kept(cli: Cli, gray: Path) -> None:
    tifffile.imwrite("x.tif", sixteen(seen()), photometric="minisblack", description="slide 7")
    assert cli("restore", "x.tif", "--weights", gray, *QUICK, "--out", "y.tif").code == 0
    assert stored("y.tif")[1] == "slide 7"
    assert cli("restore", "x.tif", "--weights", gray, *QUICK, "--strip", "--out", "y.tif").code == 0
    assert stored("y.tif")[1].startswith("Restored by a generative model")


# Measured kernels


def measured(side: int, peak: float, sigma: float = 1.7) -> NDArray[np.uint16]:
    """An image of a point: a Gaussian in photons, on 100 counts without light and with noise of 3 counts."""
    random, line = np.random.default_rng(0), np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma**2))
    return np.rint(100 + random.poisson(peak * np.outer(line, line)) + random.normal(0, 3, (side, side))).astype(np.uint16)


@pytest.mark.parametrize("form", ["tif", "npy"])
@pytest.mark.parametrize(("side", "peak"), [(33, 40_000), (32, 3000), (64, 3000)])
def test_a_measured_kernel_is_that_of_its_light(cli: Cli, gray: Path, side: int, peak: float, form: str) -> None:
    values = measured(side, peak)
    if form == "tif":
        tifffile.imwrite("psf.tif", values, photometric="minisblack", byteorder=">")
    else:
        np.save("psf.npy", values.astype(np.float32))
    tifffile.imwrite("x.tif", sixteen(damaged(drawn((144, 160), 1))[0].clip(1, 254)), photometric="minisblack")
    done = cli("restore", "x.tif", "--weights", gray, "--steps", 1, "--kernel", f"psf.{form}", "--noise", 3)
    assert done.code == 0, done.err
    assert "its border is subtracted; values within its noise are 0" in done.err.replace(",", ";")
    from blurcli.data.photos import read_kernel

    kernel, _ = read_kernel(Path(f"psf.{form}").read_bytes(), "psf")
    assert all(length % 2 for length in kernel.shape)
    error = response(torch.from_numpy(kernel), (64, 64)) - gaussian_blur((64, 64), 1.7).response
    assert error.abs().max() < 0.012


def test_of_a_stack_the_first_kernel_is_used(cli: Cli, gray: Path) -> None:
    tifffile.imwrite("psf.tif", np.stack([measured(21, 3000)] * 4), photometric="minisblack")
    tifffile.imwrite("x.tif", sixteen(seen()), photometric="minisblack")
    done = cli("restore", "x.tif", "--weights", gray, "--steps", 1, "--kernel", "psf.tif", "--noise", 3)
    assert "the first of its 4 pages is used" in done.err
