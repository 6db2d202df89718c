"""Animations of how a photo is restored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from gaussian_photos import damaged, drawn, save_model, to_image
from numpy.typing import NDArray
from PIL import Image

import blurcli as bd
from blurcli.core.measurements import gaussian_blur
from blurcli.data.photos import Photo
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restorer import Restorer
from blurcli.visualize.restoration_frames import RestorationAnimation

KNOWN = ("--blur", 1, "--noise", 4, "--steps", 3)
SHARP = drawn((40, 48))
GIVEN = np.rint(damaged(SHARP, 1.0, 4)).clip(0, 255)
SCALE = 10  # of a photo of 48x40 pixels to about 512


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "color.safetensors")


@pytest.fixture
def weights(model_path: Path) -> tuple[str, Path]:
    return "--weights", model_path


@pytest.fixture(scope="module")
def restorer(model_path: Path) -> Restorer:
    return Restorer(bd.load(model_path).pipeline)


def estimates_of(restorer: Restorer, options: RestoreOptions) -> list[NDArray[np.float64]]:
    found: dict[int, NDArray[np.float64]] = {}
    restorer(Photo(GIVEN), options, on_step=lambda i, x_hat: found.update({i: x_hat}))
    assert list(found) == list(range(options.steps))
    return list(found.values())


def frames_of(path: Path) -> list[tuple[NDArray[np.uint8], float]]:
    """The frames of an animation, and their durations in ms."""
    frames = []
    with Image.open(path) as animation:
        for i in range(animation.n_frames):  # type: ignore[attr-defined]
            animation.seek(i)
            frames.append((np.asarray(animation.convert("RGB")), animation.info["duration"]))
    return frames


def at_own_size(frame: NDArray[np.uint8], scale: int = SCALE) -> NDArray[np.uint8]:
    """The photo in a frame, without the caption."""
    height = 40 * scale
    pixels = frame[:height:scale, ::scale]
    assert np.array_equal(frame[:height], pixels.repeat(scale, 0).repeat(scale, 1))
    return pixels


@pytest.mark.parametrize("suffix", [".png", ".apng", ".webp"])
def test_from_the_photo_to_the_result(cli: Cli, weights: tuple[str, Path], restorer: Restorer, suffix: str) -> None:
    to_image(GIVEN).save("photo.png")
    assert cli("restore", "photo.png", *weights, *KNOWN, "--out", "alone.png").code == 0
    done = cli("restore", "photo.png", *weights, *KNOWN, "--animate", f"x{suffix}")
    assert done.code == 0, done.err
    assert Path("photo-restored.png").read_bytes() == Path("alone.png").read_bytes()
    frames, lengths = zip(*frames_of(Path(f"x{suffix}")), strict=True)
    estimates = estimates_of(restorer, RestoreOptions(blur=1, noise=4, steps=3))
    wanted = [np.asarray(to_image(one)) for one in (GIVEN, *estimates)] + [np.asarray(Image.open("alone.png"))]
    assert len(frames) == len(wanted) == 5
    for frame, own in zip(frames, wanted, strict=True):
        assert np.array_equal(at_own_size(frame), own)
        assert frame[400:].any()  # a caption
    assert len({frame[400:].tobytes() for frame in frames}) == 5
    assert [round(length) for length in lengths] == [1000, 250, 250, 250, 3000]


def test_a_gif_has_all_frames(cli: Cli, weights: tuple[str, Path]) -> None:
    to_image(GIVEN).save("photo.png")
    assert cli("restore", "photo.png", *weights, *KNOWN, "--n", 2, "--out", "draws", "--animate", "x.gif").code == 0
    frames = frames_of(Path("x.gif"))
    assert len(frames) == 5
    last = at_own_size(frames[-1][0]).astype(float)
    assert np.abs(last - np.asarray(Image.open("draws/photo/000000.png"))).mean() < 6  # of 256 colors
    # A draw that is done is made again for its animation.
    Path("x.gif").unlink()
    assert cli("restore", "photo.png", *weights, *KNOWN, "--n", 2, "--out", "draws", "--animate", "x.gif").code == 0
    assert len(frames_of(Path("x.gif"))) == 5


def test_estimates_agree_with_the_photo(restorer: Restorer) -> None:
    """They are conditioned on it, from the first step on, and come closer to the draw."""
    options = RestoreOptions(blur=1, noise=4, steps=10, temperature=1.0)
    estimates = estimates_of(restorer, options)
    (draw,) = restorer(Photo(GIVEN), options).draws
    for x_hat in estimates:
        again = gaussian_blur((40, 48), 1.0).apply(torch.from_numpy(x_hat)[None])[0].numpy()
        assert np.sqrt(((again - GIVEN) ** 2).mean()) < 1.1 * 4
    errors = [np.abs(x_hat - draw).mean() for x_hat in estimates]
    assert errors[4:] == sorted(errors[4:], reverse=True)
    assert errors[-1] < errors[0] / 4


@pytest.mark.parametrize("at_once", [1, 1 << 18])
def test_estimates_are_those_of_the_first_draw(restorer: Restorer, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("blurcli.model.restorer._DRAWN_PIXELS", at_once)
    single, several = (estimates_of(restorer, RestoreOptions(blur=1, noise=4, steps=2, temperature=1.0, n=n)) for n in (1, 3))
    for one, other in zip(single, several, strict=True):
        assert np.allclose(one, other, atol=1e-3)


def test_estimates_keep_what_the_result_keeps(restorer: Restorer) -> None:
    mask = np.zeros((40, 48), bool)
    mask[10:20, 10:30] = True
    for x_hat in estimates_of(restorer, RestoreOptions(mask=mask, steps=2)):
        assert np.array_equal(x_hat[:, ~mask], GIVEN[:, ~mask])
        assert not np.array_equal(x_hat[:, mask], GIVEN[:, mask])
    weak, full = (
        estimates_of(restorer, RestoreOptions(blur=1, noise=4, steps=2, strength=strength)) for strength in (0.5, 1.0)
    )
    for half, whole in zip(weak, full, strict=True):
        assert np.allclose(half, (GIVEN + whole) / 2)


def test_a_gray_model_animates_colors(tmp_path: Path) -> None:
    gray = Restorer(bd.load(save_model(tmp_path / "gray.safetensors", channels=1)).pipeline)
    options = RestoreOptions(blur=1, noise=4, steps=2, n=2)
    for x_hat in estimates_of(gray, options):
        assert x_hat.shape == GIVEN.shape
        assert np.abs(x_hat - SHARP).mean() < np.abs(GIVEN - SHARP).mean()


def test_photos_of_other_kinds_and_sizes(tmp_path: Path) -> None:
    """Transparency over white, 16 bits, gray, an enlarged one, and a large one, which is reduced."""
    alpha = np.full((40, 48), 255, np.uint8)
    alpha[:20] = 0
    for name, photo, result in (
        ("alpha", Photo(SHARP, alpha=alpha), SHARP),
        ("deep", Photo(SHARP[:1], deep=True), SHARP[:1]),
        ("clear", Photo(SHARP[:1], alpha=alpha), SHARP[:1]),
        ("enlarged", Photo(SHARP), SHARP.repeat(2, 1).repeat(2, 2)),
    ):
        animation = RestorationAnimation(tmp_path / f"{name}.png", 1)
        animation.started(photo)(0, result / 2)
        animation.save(result)
        frames = [at_own_size(frame) for frame, _ in frames_of(tmp_path / f"{name}.png")]
        seen = np.asarray(to_image(SHARP if len(result) == 3 else SHARP[:1].repeat(3, 0))).copy()
        if photo.alpha is not None:
            seen[:20] = 255
        assert np.array_equal(frames[0], seen)
        assert np.array_equal(frames[-1], seen)
        assert not np.array_equal(frames[1], seen)
    large = np.tile(SHARP, (1, 2, 43))
    animation = RestorationAnimation(tmp_path / "large.png", 1)
    animation.started(Photo(large))(0, large / 2)
    animation.save(large)
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (48 * 43 // 3, 80 // 3 + 1 + 20)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("a.png", "b.png", "--animate", "x.gif"), "--animate x.gif: is for one photo, and there are 2; name one of them"),
        (("a.png", "--animate", "x.html"), "--animate x.html: unknown suffix; use .gif, .webp, .png, .apng, .mp4"),
        (("a.png", "--animate", "folder"), "--animate folder: unknown suffix"),
        (("a.png", "--animate", "x.gif", "--mean"), "--animate x.gif: shows one draw, and --mean averages several"),
        (
            ("a.png", "--animate", "a-restored.png"),
            "--animate a-restored.png: is the photo, or its result; choose another name",
        ),
        (("a.png", "--animate", "./a.png"), "--animate a.png: is the photo, or its result; choose another name"),
        (("--demo", "--animate", "x.gif"), "--animate x.gif: is for a photo that is restored; leave out --demo and --score"),
        (("--score", "--animate", "x.gif"), "--animate x.gif: is for a photo that is restored"),
    ],
)
def test_what_cannot_be_animated_is_refused(cli: Cli, weights: tuple[str, Path], flags: tuple[object, ...], text: str) -> None:
    for name in "ab":
        to_image(GIVEN).save(f"{name}.png")
    done = cli("restore", *flags, *weights, *KNOWN)
    assert (done.code, text in done.err) == (2, True), done.err
    assert {path.name for path in Path().iterdir()} == {"a.png", "b.png"}


def test_a_page_and_an_animation(cli: Cli, weights: tuple[str, Path]) -> None:
    to_image(GIVEN).save("a.png")
    assert cli("restore", "a.png", *weights, *KNOWN, "--out", "x.html", "--animate", "x.webp").code == 0
    assert Path("x.html").is_file()
    assert len(frames_of(Path("x.webp"))) == 5
    done = cli("restore", "a.png", *weights, *KNOWN, "--compare", "--animate", "y.webp")
    assert done.code == 0, done.err
    assert Path("y.webp").read_bytes() == Path("x.webp").read_bytes()
