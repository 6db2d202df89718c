"""Grids and animations, read back with Pillow."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blurcli import visualize
from blurcli.base.errors import OptionError, UsageError, UserError
from blurcli.visualize import Timing
from blurcli.visualize.palettes import with_shared_palette


def images(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, 4, 6), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_hold_every_image(channels: int) -> None:
    batch = images(7, channels)
    tiled = visualize.tile(batch)
    assert tiled.shape == (3 * 5 - 1, 3 * 7 - 1, channels)
    for i in range(7):
        y, x = i // 3 * 5, i % 3 * 7
        assert np.array_equal(tiled[y : y + 4, x : x + 6], batch[i].transpose(1, 2, 0))
    assert visualize.tile(batch, columns=7).shape == (4, 7 * 7 - 1, channels)


def test_grid_is_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    batch = images(1)
    visualize.save_grid(batch, tmp_path / "x.png", scale=3)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(pixels, batch[0].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1))


def pictures(*frames: np.ndarray, scale: int = 1) -> list[Image.Image]:
    return [visualize.picture(visualize.tile(frame), scale) for frame in frames]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "apng"])
def test_animations(tmp_path: Path, suffix: str, channels: int) -> None:
    frames = [images(2, channels, seed) for seed in range(5)]
    path = tmp_path / f"x.{suffix}"
    visualize.save_animation(pictures(*frames, scale=2), path, Timing(fps=8, hold_sec=1.0, loop=3))
    with Image.open(path) as animation:
        assert animation.n_frames == 5  # type: ignore[attr-defined]
        assert animation.info["loop"] == (2 if suffix == "gif" else 3)  # a GIF counts the repetitions
        durations = []
        for i, frame in enumerate(frames):
            animation.seek(i)
            animation.load()
            durations.append(animation.info["duration"])
            expected = np.asarray(visualize.picture(visualize.tile(frame), 2).convert("RGB")).astype(int)
            error = np.abs(np.asarray(animation.convert("RGB")).astype(int) - expected)
            # 256 colors for five frames of pure noise: the worst case of a palette.
            assert error.max() == 0 if suffix != "gif" or channels == 1 else error.mean() < 25
    assert durations == ([120, 130, 130, 120, 1000] if suffix == "gif" else [125, 125, 125, 125, 1000])


def test_one_palette_for_all_frames(tmp_path: Path) -> None:
    frames = [images(2, 3, seed) for seed in range(4)]
    frames[1][:] = frames[0]
    frames[1][0, :, 0, 0] ^= 255
    visualize.save_animation(pictures(*frames), tmp_path / "x.gif", Timing(fps=10))
    with Image.open(tmp_path / "x.gif") as animation:
        first = np.asarray(animation.convert("RGB")).copy()
        animation.seek(1)
        second = np.asarray(animation.convert("RGB"))
    # Pixels that do not change in the images do not change on the screen: no flicker.
    assert np.array_equal(first.reshape(-1, 3)[1:], second.reshape(-1, 3)[1:])


def smooth_picture(side: int = 150) -> np.ndarray:
    """Hues and brightness that change slowly in both directions."""
    y, x = np.mgrid[0:side, 0:side] / side
    return np.stack([255 * x, 80 + 140 * y, 230 - 120 * x * y], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("noise_first", [True, False])
@pytest.mark.parametrize("scale", [1, 4])
def test_smooth_regions_take_most_colors_and_noise_the_rest(noise_first: bool, scale: int) -> None:
    """Noise costs less than the 11 bits per pixel of a palette of its own."""
    smooth = smooth_picture(150 // scale).repeat(scale, 0).repeat(scale, 1)
    noise = np.random.default_rng(0).integers(0, 256, (150 // scale, 150 // scale, 3), np.uint8)
    noisy = Image.fromarray(noise.repeat(scale, 0).repeat(scale, 1))
    order = [noisy, Image.fromarray(smooth)] if noise_first else [Image.fromarray(smooth), noisy]
    shown = with_shared_palette(order)
    assert shown[0].getpalette() == shown[1].getpalette()
    clean, rough = (shown[1], shown[0]) if noise_first else (shown[0], shown[1])
    assert np.abs(np.asarray(clean.convert("RGB")).astype(int) - smooth).mean() < 3  # exact mapping to 192 colors: 2.7
    assert len(np.unique(np.asarray(clean))) >= 200
    content = io.BytesIO()
    rough.save(content, format="GIF")
    assert content.tell() < 150 * 150 * 9.5 / 8


def test_a_gray_ramp_has_no_visible_bands() -> None:
    """Pillow looks colors up in cells of 4 gray levels: no shade is off by more, and neighbors in the ramp stay ordered."""
    ramp = np.broadcast_to(np.linspace(0, 255, 150).astype(np.uint8)[:, None, None], (150, 150, 3))
    noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    shown = np.asarray(with_shared_palette([Image.fromarray(noise), Image.fromarray(ramp.copy())])[1].convert("RGB")).astype(
        int
    )
    assert np.abs(shown - ramp).max() <= 3
    assert (np.diff(shown[:, 0, 0]) >= 0).all()
    assert len(np.unique(shown)) >= 60
    gray = [Image.fromarray(frame[..., 0].copy()) for frame in (noise, ramp)]  # 256 shades: exact
    assert all(np.array_equal(a, b) for a, b in zip(with_shared_palette(gray), gray, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_videos(tmp_path: Path, channels: int) -> None:
    import av

    frames = [np.full((1, channels, 5, 7), 30 * k, np.uint8) for k in range(6)]
    visualize.save_animation(pictures(*frames, scale=3), tmp_path / "x.mp4", Timing(fps=8, hold_sec=1.0))
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (22, 16)  # even, for yuv420p
        decoded = list(container.decode(video=0))
        assert container.duration == 5 * 125_000 + 1_000_000  # microseconds
    assert [round(float(frame.pts * frame.time_base), 3) for frame in decoded] == [k * 0.125 for k in range(6)]
    for frame, expected in zip(decoded, frames, strict=True):
        assert np.abs(frame.to_ndarray(format="rgb24")[:15, :21].astype(int) - int(expected.max())).max() <= 3


def test_unknown_suffixes_and_impossible_timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = pictures(images(1))
    with pytest.raises(UsageError, match=r"x.mov: unknown format of an animation; end the name in .gif, .webp"):
        visualize.save_animation(one, tmp_path / "x.mov")
    with pytest.raises(OptionError, match=r"`fps` 60: .gif shows at most 50 frames per second"):
        visualize.save_animation(one, tmp_path / "x.gif", Timing(fps=60))
    with pytest.raises(OptionError, match=r"`loop` 2: a video file stores no loop count"):
        visualize.save_animation(one, tmp_path / "x.mp4", Timing(fps=60, loop=2))
    assert list(tmp_path.iterdir()) == []
    visualize.save_animation(pictures(images(1), images(1, seed=1)), tmp_path / "x.webp", Timing(fps=60))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"x.mp4: needs the package av: pip install av"):
        visualize.check_animation(tmp_path / "x.mp4", Timing())


def test_arrays_have_the_layout_of_evaluation_scripts(tmp_path: Path) -> None:
    batches, file = [images(2), images(1, seed=1)], visualize.ArrayFile(tmp_path / "x.npz")
    with file.claimed(3) as indices:
        file.write(batches[0], indices[:2])
        file.write(batches[1], indices[2:])
    with np.load(tmp_path / "x.npz") as stored:
        assert stored.files == ["arr_0"]
        assert np.array_equal(stored["arr_0"], np.concatenate(batches).transpose(0, 2, 3, 1))


def test_an_array_is_written_batch_by_batch_and_atomically(tmp_path: Path) -> None:
    file = visualize.ArrayFile(tmp_path / "x.npz")
    with pytest.raises(UserError, match="no more"), file.claimed(1000) as indices:
        for number in range(9):
            # All earlier batches are on disk, except for a buffer.
            written = sum(path.stat().st_size for path in tmp_path.iterdir())
            assert written >= (number - 1) * images(1).nbytes * 100
            file.write(np.repeat(images(1), 100, axis=0), indices[100 * number : 100 * (number + 1)])
        raise UserError("no more")
    assert not list(tmp_path.iterdir())


def test_a_grid_whose_images_fail_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"before")
    file = visualize.GridFile(tmp_path / "x.png")
    with pytest.raises(UserError, match="no more"), file.claimed(4) as indices:
        file.write(images(2), indices[:2])
        raise UserError("no more")
    assert (tmp_path / "x.png").read_bytes() == b"before"


def test_columns_of_a_grid_have_titles() -> None:
    images = np.full((6, 3, 32, 32), 90, np.uint8)
    plain = np.asarray(visualize.grid_picture(images, columns=3, scale=2))
    titled = np.asarray(visualize.grid_picture(images, scale=2, titles=("circle", "square", "a very long name of a class")))
    assert np.array_equal(titled[18:], plain)
    assert [int(titled[:18, x : x + 64].max()) > 200 for x in (0, 66, 132)] == [True] * 3
    assert not titled[:18, 64:66].any()  # no title leaves its column
    other = visualize.grid_picture(images, columns=2, scale=2, titles=("circle", "square", "triangle"))
    assert other.height == (3 * 33 - 1) * 2  # columns of mixed classes have no titles
