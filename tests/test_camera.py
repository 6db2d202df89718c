"""Photos as cameras make them: linear light, clipped values, and scenes that go on beyond the borders."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from gaussian_photos import array_of, drawn, encoded, exactly, restored, save_model, to_image
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.registration import phase_cross_correlation
from torch import Tensor

import blurcli as bd
from blurcli.core import dct2
from blurcli.core.camera import Camera, Exposure, Weighted, from_light, light_slope, to_light
from blurcli.core.colors import RGB, ModelSpace
from blurcli.core.measurements import Convolution, Measurement, defocus, gaussian_blur
from blurcli.core.windows import window_places
from blurcli.data.photos import Photo, read_photo
from blurcli.evaluate.restoration import compare
from blurcli.model.restore_options import LIGHTS, RestoreOptions
from blurcli.model.restorer import Restorer

SIZE = (12, 16)
COMET = torch.tensor([[0.0, 0.1, 0.4], [0.0, 0.2, 0.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
OPPONENT = ModelSpace(opponent=True)
Pixels = NDArray[np.float64]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def gray(folder: Path) -> Path:
    return save_model(folder / "gray.safetensors", channels=1)


@pytest.fixture(scope="module")
def restorer(gray: Path) -> Restorer:
    return Restorer(bd.load(gray).pipeline)


@pytest.fixture(scope="module")
def of_colors(folder: Path) -> Restorer:
    return Restorer(bd.load(save_model(folder / "color.safetensors")).pipeline)


@pytest.fixture(scope="module")
def exact(folder: Path) -> Restorer:
    """Its network adds nothing to the Gaussian of its moments."""
    return Restorer(bd.load(save_model(folder / "exact.safetensors", channels=1, learned=0.0)).pipeline)


def options(**given: Any) -> RestoreOptions:
    return RestoreOptions(**{"temperature": 0.0, "steps": 4, **given})


def taken(truth: Pixels, optics: Measurement, noise: float, linear_light: bool = False, seed: int = 0) -> Pixels:
    """A photo of a scene, (C, H, W) gray levels, neither rounded nor clipped."""
    seen = Camera(optics, linear_light).apply(torch.from_numpy(truth)[None] / 127.5 - 1)[0].numpy()
    return (seen + 1) * 127.5 + noise * np.random.default_rng(seed).standard_normal(seen.shape)


def levels(pixels: Pixels) -> Pixels:
    return np.rint(pixels).clip(0, 255)


def inside(pixels: Pixels, border: int) -> Pixels:
    return pixels[..., border:-border, border:-border]


def psnr(pixels: Pixels, truth: Pixels) -> float:
    return float(10 * np.log10(255**2 / ((levels(pixels) - levels(truth)) ** 2).mean()))


# The curve of sRGB


def test_the_curve_is_that_of_the_standard() -> None:
    stored = torch.tensor([-0.1, 0.0, 10 / 255, 0.04045, 0.5, 1.0, 2.0], dtype=torch.float64)
    # IEC 61966-2-1; (2.055 / 1.055)^2.4 beyond white.
    light = torch.tensor([-0.1 / 12.92, 0.0, 0.0030352698, 0.0031308050, 0.2140411405, 1.0, 4.9538457516], dtype=torch.float64)
    torch.testing.assert_close(to_light(stored), light, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(from_light(light), stored, rtol=1e-7, atol=1e-7)


def test_the_curve_has_an_inverse_and_a_slope() -> None:
    stored = torch.linspace(-0.5, 3, 1001, dtype=torch.float64)
    torch.testing.assert_close(from_light(to_light(stored)), stored, rtol=0, atol=1e-7)  # the standard's two parts miss by 3e-8
    h = 1e-6
    away = (stored - 0.04045).abs() > h  # where the two parts meet
    found = (to_light(stored + h) - to_light(stored - h)) / (2 * h)
    torch.testing.assert_close(light_slope(stored)[away], found[away], rtol=1e-7, atol=1e-8)


# The linear observation near an image


def values(count: int = 1, seed: int = 0, colors: ModelSpace = OPPONENT) -> Tensor:
    """Images in model space, of stored values from 0.05 to 0.95."""
    stored = 0.05 + 0.9 * torch.rand(count, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return colors.from_rgb(2 * stored - 1)


def exposure(photo: Tensor, known: Tensor | None = None) -> Exposure:
    everywhere = torch.ones(photo.shape[-2:], dtype=torch.bool)
    return Exposure(photo, torch.tensor([0.01], dtype=torch.float64), everywhere if known is None else known, photo)


@pytest.mark.parametrize(
    "colors", [RGB, OPPONENT, ModelSpace(opponent=True, centered=False)], ids=["rgb", "opponent", "[0, 1]"]
)
@pytest.mark.parametrize("linear_light", [True, False])
def test_the_derivative_is_that_of_the_camera(linear_light: bool, colors: ModelSpace) -> None:
    camera = Camera(Convolution(COMET), linear_light, colors, steepest=math.inf)
    e, change = values(2, colors=colors), colors.colors(values(2, seed=1, colors=RGB))
    photo, h = camera.apply(e), 1e-6
    observation = camera._linearized(exposure(photo), e)
    expected = (camera.apply(e + h * change) - camera.apply(e - h * change)) / (2 * h)
    torch.testing.assert_close(observation.measurement.apply(change), expected, rtol=1e-5, atol=1e-6)  # float32 weights
    # Where the photo is that of the image, y - g(e) + A e is A e; else the difference is added.
    torch.testing.assert_close(observation.photo, observation.measurement.apply(e))
    error = 0.001 * change
    other = camera._linearized(exposure(photo + error), e)
    weights = other.measurement.after  # type: ignore[attr-defined]
    in_rgb = colors.colors_to_rgb(error) * (weights != 0)
    torch.testing.assert_close(other.photo - observation.photo, colors.colors(in_rgb), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("colors", [RGB, OPPONENT], ids=["rgb", "opponent"])
@pytest.mark.parametrize("optics", [Convolution(COMET), replace(gaussian_blur(SIZE, 1.0), box=2)], ids=["kernel", "boxes"])
def test_a_weighted_measurement_has_a_transpose(optics: Measurement, colors: ModelSpace, before: bool) -> None:
    x, (height, width) = values(2), optics.apply(values()).shape[-2:]
    y = values(2, seed=1)[..., :height, :width]
    after = torch.rand(2, 3, height, width, dtype=torch.float64) * (torch.rand(height, width) < 0.7)
    measurement = Weighted(optics, 0.5 + torch.rand(2, 3, *SIZE, dtype=torch.float64) if before else None, after, colors)
    torch.testing.assert_close((measurement.apply(x) * y).sum((1, 2, 3)), (x * measurement.transpose(y)).sum((1, 2, 3)))
    torch.testing.assert_close(measurement.seen(dct2(x)), measurement.apply(x))
    torch.testing.assert_close(measurement.back(y), dct2(measurement.transpose(y)))
    twice = measurement.repeated(2)
    torch.testing.assert_close(twice.apply(torch.cat([x, x])), torch.cat([measurement.apply(x)] * 2))


@pytest.mark.parametrize("linear_light", [True, False])
def test_only_what_is_no_measurement_has_no_weight(linear_light: bool) -> None:
    """One row of pixels per case; there is no blur, so the prediction is the image."""
    predicted = torch.full((1, 3, *SIZE), 0.5, dtype=torch.float64)
    given, counts, known = predicted.clone(), torch.ones(SIZE, dtype=torch.bool), torch.ones(SIZE, dtype=torch.bool)
    cases = (  # of the photo, of the prediction, and whether the photo measures something
        (1.0, 1.2, False),
        (1.0, 0.9, True),  # predicted darker than white: it must become brighter
        (0.0, -0.1, False) if not linear_light else (0.5, 0.5, True),  # light is never negative
        (0.0, 0.1, True),
        (0.95, 1.2, True),
        (0.05, -0.1, True),
        (0.5, 0.5, True),
    )
    for row, (stored, expected, used) in enumerate(cases):
        predicted[..., row, :], given[..., row, :], counts[row] = expected, stored, used
    known[8], counts[8] = False, False
    camera = Camera(gaussian_blur(SIZE, 0.0), linear_light, OPPONENT)
    photo, e = (OPPONENT.from_rgb(2 * one - 1) for one in (given, predicted))
    weights = camera._linearized(exposure(photo, known), e).measurement.after  # type: ignore[attr-defined]
    assert torch.equal(weights != 0, counts.expand_as(weights))
    if not linear_light:
        assert torch.equal(weights, counts.expand_as(weights).double())


# Linear light or stored values


def city(shape: tuple[int, int], seed: int) -> Pixels:
    """Dark and bright boxes at night, with some texture."""
    random, found = np.random.default_rng(seed), np.full(shape, 20.0)
    for _ in range(14):
        y, x = random.integers(0, shape[0] - 8), random.integers(0, shape[1] - 8)
        height, width = random.integers(3, 12, 2)
        found[y : y + height, x : x + width] = random.choice([5, 40, 90, 160, 230])
    pixels: Pixels = (found + 0.12 * (drawn(shape, 1, seed) - 127.5)).clip(3, 250)
    return pixels


@pytest.mark.parametrize("light", LIGHTS)
def test_the_right_light_restores_better(restorer: Restorer, light: str) -> None:
    truth = city((64, 64), seed=1)
    photo = Photo(levels(taken(truth, gaussian_blur((64, 64), 1.5), 1.0, light == "linear")))
    found = {one: restorer(photo, options(blur=1.5, noise=1.0, light=one)) for one in LIGHTS}
    (wrong,) = set(LIGHTS) - {light}
    quality = {one: psnr(result.draws[0], truth) for one, result in found.items()}
    assert quality[light] > quality[wrong] + 3
    assert quality[light] > psnr(photo.pixels, truth) + 2
    assert [result.facts["light"] for result in found.values()] == list(LIGHTS)


def contrasty(shape: tuple[int, int], seed: int) -> Pixels:
    """A photo of the model's own kind, but of twice the contrast, compressed near black and white."""
    pixels: Pixels = 127.5 + 118 * np.tanh((drawn(shape, 1, seed) - 127.5) / 59)
    return pixels


@pytest.mark.parametrize("light", LIGHTS)
def test_the_light_is_told_by_the_photo(restorer: Restorer, light: str) -> None:
    photo = Photo(levels(taken(contrasty((64, 64), 4), gaussian_blur((64, 64), 1.5), 1.0, light == "linear")))
    known = options(blur=1.5, noise=1.0)
    found = restorer(photo, known)
    assert found.facts["light"] == light
    assert np.array_equal(found.draws, restorer(photo, replace(known, light=light)).draws)
    # Counts of a sensor are linear as they are.
    assert restorer(replace(photo, deep=True), known).facts["light"] == "srgb"


def test_the_light_is_said() -> None:
    for linear_light, words in ((True, " of linear light"), (False, "")):
        found = restored(blur_px=exactly(1.5), noise=exactly(3.0), estimated=("blur", "noise"), linear_light=linear_light)
        assert f"blur 1.5 px{words}, noise 3 gray levels" in found.description
        assert f"estimated Gaussian blur 1.5 px{words}, " in found.methods
        assert found.facts["light"] == LIGHTS[0 if linear_light else 1]


def test_a_light_that_is_none_is_refused(cli: Cli, gray: Path) -> None:
    to_image(drawn((24, 24), 1)).save("photo.png")
    to_image(np.where(np.arange(24) < 5, 255.0, 0.0)[None].repeat(24, 0)[None]).save("mask.png")
    for flags, problem in (
        (("--light", "green"), "--light green: must be linear or srgb"),
        (("--mask", "mask.png", "--light", "linear"), "--light linear: is that of a blur, and --mask alone only fills"),
    ):
        done = cli("restore", "photo.png", "--weights", gray, *flags)
        assert (done.code, problem in " ".join(done.err.split())) == (2, True), done.err
    done = cli("restore", "photo.png", "--weights", gray, "--mask", "mask.png", "--blur", 1, "--light", "linear", "--steps", 1)
    assert done.code == 0, done.err


# Beyond the borders


@pytest.mark.parametrize(("kind", "size"), [("blur", 2.0), ("defocus", 4.0)])
def test_the_border_is_restored_like_the_inside(restorer: Restorer, kind: str, size: float) -> None:
    """Photos are cut out of larger ones, and their border compared with the same places of the larger ones, restored whole."""
    side, margin, width, noise = 144, 40, round(3 * size), 0.3
    optics = gaussian_blur((side, side), size) if kind == "blur" else defocus((side, side), size)
    known = options(**{kind: size}, noise=noise, light="srgb")
    at_border, within, of_whole = [], [], []
    for seed in range(3):
        truth = drawn((side, side), 1, seed)
        given = levels(taken(truth, optics, noise, seed=seed))
        cut = Photo(inside(given, margin))
        error = np.abs(restorer(cut, known).draws[0] - inside(truth, margin))[0]
        border = np.ones(error.shape, bool)
        border[width:-width, width:-width] = False
        at_border.append(error[border].mean())
        within.append(error[~border].mean())
        whole = restorer(Photo(given), replace(known, cropped=False)).draws[0]
        of_whole.append(inside(np.abs(whole - truth), margin)[0][border].mean())
    assert np.mean(at_border) < 1.5 * np.mean(within)
    assert np.mean(at_border) < 1.5 * np.mean(of_whole)


# Clipped values


@pytest.mark.parametrize("light", LIGHTS)
def test_a_clipped_lamp_has_no_dark_ring(restorer: Restorer, light: str) -> None:
    distance = np.hypot(*np.ogrid[-32:32, -32:32])
    truth = 40 + 0.1 * (drawn((64, 64), 1) - 127.5) + 1160 * np.exp(-((distance / 3.5) ** 2) / 2)
    photo = Photo(levels(taken(truth, gaussian_blur((64, 64), 2.0), 2.0, light == "linear")))
    assert (photo.pixels == 255).sum() > 100
    found = restorer(photo, options(blur=2.0, noise=2.0, light=light))
    ring = (distance > 4.5) & (distance < 24)
    assert found.draws[0, 0][ring].min() > truth[0][ring].min() - 10
    assert found.draws.max() > 1.5 * 255
    assert found.residual < 1.15


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("level", [0.0, 255.0])
def test_clean_white_and_black_stay(exact: Restorer, level: float, light: str) -> None:
    given = np.full((1, 32, 40), level)
    found = exact(Photo(given), options(blur=0.5, noise=3.0, light=light)).draws[0]
    assert np.array_equal(levels(found), given)


def test_the_mean_colors_stay(of_colors: Restorer) -> None:
    changes = []
    for seed in range(6):
        truth = 127.5 + 0.8 * (drawn((48, 64), 3, seed) - 127.5)
        given = levels(taken(truth, gaussian_blur((48, 64), 1.5), 3.0, seed=seed))
        found = of_colors(Photo(given), options(blur=1.5, noise=3.0, light="srgb")).draws[0]
        changes.append((levels(found) - given).mean((1, 2)))
    assert np.abs(np.mean(changes, 0)).max() < 0.2


# Kernels


LINE = np.eye(7)[::-1] / 7
ANGLE = np.zeros((7, 7))
ANGLE[:, 0] = ANGLE[6] = 1 / 13
BOX = np.ones((4, 4)) / 16


@pytest.mark.parametrize("kernel", [LINE, ANGLE, BOX], ids=["line", "angle", "even box"])
def test_any_kernel(restorer: Restorer, kernel: Pixels) -> None:
    truth = drawn((80, 96), 1)
    odd = np.pad(kernel, [(0, 1 - side % 2) for side in kernel.shape])
    blurred = ndimage.convolve(truth[0], odd, mode="reflect")[None]
    given = Photo(inside(levels(blurred + 2 * np.random.default_rng(0).standard_normal(blurred.shape)), 12))
    best, one = (restorer(given, options(kernel=kernel, noise=2.0, light="srgb", temperature=t)) for t in (0.0, 1.0))
    assert psnr(best.draws[0], inside(truth, 12)) > psnr(given.pixels, inside(truth, 12)) + 3
    assert 0.85 < one.residual < one.worst_residual < 1.15


# Windows


@pytest.fixture(scope="module", params=["constant", "gradient", "sky"])
def plain(request: pytest.FixtureRequest) -> Pixels:
    """Pictures in which seams would show, (1, 64, 80)."""
    y, x = np.mgrid[:64, :80].astype(float)
    if request.param == "constant":
        return np.full((1, 64, 80), 120.0)
    if request.param == "gradient":
        return (40 + x + y)[None]
    random, sky = np.random.default_rng(0), np.full((1, 64, 80), 18.0)  # with a few stars
    for _ in range(9):
        sky[0] += 150 * np.exp(-((y - random.integers(4, 60)) ** 2 + (x - random.integers(4, 76)) ** 2) / 12.5)
    return sky


def test_windows_leave_no_seams(restorer: Restorer, plain: Pixels) -> None:
    """With so much noise that the network decides how smooth the result is, and not the photo."""
    found = restorer(Photo(plain), options(blur=0.0, noise=8.0)).draws[0]
    change = found - plain
    assert np.abs(change.reshape(4, 16, 5, 16).mean((1, 3))).max() < 1  # every part keeps its brightness
    for axis, side in ((-2, 64), (-1, 80)):
        places = [edge for start in window_places(side, 16) for edge in (start, start + 16) if 0 < edge < side]
        steps = np.abs(np.diff(change, axis=axis).mean(-1 if axis == -2 else -2))[0]
        assert steps[np.array(places) - 1].max() < 1


@pytest.mark.parametrize("windows", [1, 3])
def test_batches_change_nothing(gray: Path, windows: int) -> None:
    photo = Photo(levels(taken(drawn((20, 28), 1), gaussian_blur((20, 28), 0.8), 20.0)))
    found = []
    for batch_size in (64, windows):
        pipeline = bd.load(gray).pipeline
        pipeline._inference._batch_size = batch_size
        found.append(Restorer(pipeline)(photo, options(blur=0.8, noise=20.0, temperature=0.5, steps=2)).draws)
    assert np.abs(found[0] - found[1]).max() < 1


# Files


@pytest.mark.parametrize("light", LIGHTS)
def test_a_file_is_restored_like_the_array(cli: Cli, restorer: Restorer, gray: Path, light: str) -> None:
    truth = 25 + 0.8 * drawn((48, 64), 1)
    seen = taken(truth, gaussian_blur((48, 64), 1.5), 4.0, light == "linear")
    known = options(blur=1.5, noise=4.0, light=light)
    in_memory = psnr(restorer(Photo(seen), known).draws[0], truth)
    read = read_photo(encoded(to_image(seen)), "photo.png")
    assert psnr(restorer(read, known).draws[0], truth) == pytest.approx(in_memory, abs=0.1)
    to_image(seen).save("photo.png")
    flags = ("--blur", 1.5, "--noise", 4, "--light", light, "--temperature", 0, "--steps", 4)
    assert cli("restore", "photo.png", "--weights", gray, *flags).code == 0
    assert psnr(array_of(Path("photo-restored.png"))[None], truth) == pytest.approx(in_memory, abs=0.1)


# Enlarging


@pytest.mark.parametrize("blur", [0.0, 0.6])
def test_an_enlarged_photo_has_its_place_and_its_values(of_colors: Restorer, blur: float) -> None:
    """`blur` is in pixels of the photo; the scene goes on beyond its borders."""
    truth, noise = 25 + 0.8 * drawn((112, 128), 3), 2.0
    optics = replace(gaussian_blur((112, 128), 2 * blur), box=2)
    given = inside(levels(taken(truth, optics, noise)), 12)
    found = of_colors(Photo(given), options(blur=blur, noise=noise, enlarge=2))
    image, sharp = found.draws[0], inside(truth, 24)
    reduced = image.reshape(3, 32, 2, 40, 2).mean((2, 4))
    if not blur:
        assert np.sqrt(((reduced - given) ** 2).mean()) < noise
    assert found.residual < 1.15
    # Without a normalization, which weighs frequencies that are noise alone like the others.
    shift, *_ = phase_cross_correlation(sharp[0], image[0], upsample_factor=100, normalization=None)
    assert np.abs(shift).max() < 0.05
    assert psnr(image, sharp) > psnr(given.repeat(2, 1).repeat(2, 2), sharp) + 1


def test_a_gradient_is_enlarged_to_one(exact: Restorer) -> None:
    ramp = np.broadcast_to(np.linspace(60, 190, 64), (1, 48, 64))
    given = ramp.reshape(1, 24, 2, 32, 2).mean((2, 4))
    found = exact(Photo(given), options(blur=0.0, noise=0.3, enlarge=2)).draws[0]
    assert np.abs(inside(found - ramp, 6)).max() < 0.1  # pixels repeated twice miss by 1.03
    slope = np.polyfit(np.arange(64), found[0].mean(0), 1)[0]
    assert slope == pytest.approx(130 / 63, rel=0.001)


# The spread of draws


@pytest.mark.parametrize(("temperature", "honest"), [(1.0, True), (0.5, False)])
def test_the_coverage_tells_an_honest_spread(exact: Restorer, temperature: float, honest: bool) -> None:
    images = [levels(drawn((16, 16), 1, seed)).astype(np.uint8) for seed in range(80)]
    known = options(blur=1.0, noise=8.0, n=8, mean=True, temperature=temperature, steps=1)
    found = compare(exact, images, known, lambda done: None)
    # Of 4 boxes in each of 80 images a share of 0.9 has a deviation of 0.017, and more as neighbors are alike; that of pixels less.
    for share in (found.coverage, found.coverage_of_means):
        assert share is not None
        assert (abs(share - 0.9) < 0.05) == honest
        assert honest or share < 0.75


def test_a_wrong_brightness_is_noticed_in_the_means_only(monkeypatch: pytest.MonkeyPatch, exact: Restorer) -> None:
    """Draws whose pixels vary like the truth, but around another brightness; sides that are no multiples of 8."""
    random = np.random.default_rng(0)
    image = levels(100 + 20 * random.standard_normal((1, 45, 62)))
    wrong = restored(draws=103 + 20 * random.standard_normal((8, 1, 45, 62)))
    monkeypatch.setattr(Restorer, "__call__", lambda *given: wrong)
    found = compare(exact, [image.astype(np.uint8)], options(n=8, mean=True, temperature=1.0), lambda done: None)
    # Of 2,790 independent pixels a share of 0.9 has a deviation of 0.006. The brightness misses by 1.2 deviations of a box.
    assert found.coverage == pytest.approx(0.9, abs=0.02)
    assert found.coverage_of_means is not None
    assert found.coverage_of_means < 0.8


def test_one_draw_has_no_coverage(exact: Restorer) -> None:
    images = [levels(drawn((16, 16), 1)).astype(np.uint8)]
    found = compare(exact, images, options(noise=4.0), lambda done: None)
    assert (found.coverage, found.coverage_of_means) == (None, None)


def test_a_gray_photo_in_colors_stays_gray(tmp_path: Path) -> None:
    gray = to_image(drawn((40, 48), 1)).convert("RGB")
    gray.save(tmp_path / "photo.png")
    photo = read_photo((tmp_path / "photo.png").read_bytes(), "photo.png")
    model = save_model(tmp_path / "color.safetensors")
    found = Restorer(bd.load(model).pipeline)(photo, RestoreOptions(blur=1, noise=4, steps=2))
    result = photo.with_pixels(found.draws[0])
    result.save(tmp_path / "restored.png")
    with Image.open(tmp_path / "restored.png") as image:
        assert image.mode == "RGB"
        values = np.asarray(image)
    assert np.array_equal(values, np.broadcast_to(values[..., :1], values.shape))
    assert not np.array_equal(values, np.asarray(gray))
