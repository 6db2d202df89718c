"""Grids and animations, read back with Pillow."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blurcli import render
from blurcli.errors import UsageError, UserError
from blurcli.render import animations


def images(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, 4, 6), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_hold_every_image(channels: int) -> None:
    batch = images(7, channels)
    tiled = render.tile(batch)
    assert tiled.shape == (3 * 5 - 1, 3 * 7 - 1, channels)
    for i in range(7):
        y, x = i // 3 * 5, i % 3 * 7
        assert np.array_equal(tiled[y : y + 4, x : x + 6], batch[i].transpose(1, 2, 0))
    assert render.tile(batch, columns=7).shape == (4, 7 * 7 - 1, channels)


def test_grid_is_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    batch = images(1)
    render.save_grid(batch, tmp_path / "x.png", scale=3)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(pixels, batch[0].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1))


def pictures(*frames: np.ndarray, scale: int = 1) -> list[Image.Image]:
    return [render.picture(render.tile(frame), scale) for frame in frames]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "apng"])
def test_animations(tmp_path: Path, suffix: str, channels: int) -> None:
    frames = [images(2, channels, seed) for seed in range(5)]
    path = tmp_path / f"x.{suffix}"
    render.save_animation(pictures(*frames, scale=2), path, fps=8, hold_sec=1.0, loop=3)
    with Image.open(path) as animation:
        assert animation.n_frames == 5  # type: ignore[attr-defined]
        assert animation.info["loop"] == 3
        durations = []
        for i, frame in enumerate(frames):
            animation.seek(i)
            animation.load()
            durations.append(animation.info["duration"])
            expected = np.asarray(render.picture(render.tile(frame), 2).convert("RGB")).astype(int)
            error = np.abs(np.asarray(animation.convert("RGB")).astype(int) - expected)
            # 256 colours for five frames of pure noise: the worst that a palette can meet.
            assert error.max() == 0 if suffix != "gif" or channels == 1 else error.mean() < 25
    assert durations == ([120, 130, 130, 120, 1000] if suffix == "gif" else [125, 125, 125, 125, 1000])


def test_one_palette_for_all_frames(tmp_path: Path) -> None:
    frames = [images(2, 3, seed) for seed in range(4)]
    frames[1][:] = frames[0]
    frames[1][0, :, 0, 0] ^= 255
    render.save_animation(pictures(*frames), tmp_path / "x.gif", fps=10)
    with Image.open(tmp_path / "x.gif") as animation:
        first = np.asarray(animation.convert("RGB")).copy()
        animation.seek(1)
        second = np.asarray(animation.convert("RGB"))
    # What did not change in the images does not change on the screen: no flicker.
    assert np.array_equal(first.reshape(-1, 3)[1:], second.reshape(-1, 3)[1:])


def test_noise_takes_few_colours_and_leaves_the_others_to_the_image() -> None:
    """A ramp, in which bands would show, and noise: the ramp keeps its shades, and noise costs less than the 11 bits a pixel of a palette of its own."""
    ramp = np.broadcast_to(np.linspace(0, 255, 150).astype(np.uint8)[:, None], (1, 3, 150, 150))
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, 150, 150), np.uint8)
    content = io.BytesIO()
    frames = animations._one_palette(pictures(noise, ramp))
    shown = [np.asarray(frame.convert("RGB")).astype(int) for frame in frames]
    assert np.array_equal(shown[1], render.tile(ramp))
    assert len(np.unique(shown[0].reshape(-1, 3), axis=0)) <= 64
    frames[0].save(content, format="GIF")
    assert content.tell() < 150 * 150 * 9 / 8


@pytest.mark.parametrize("channels", [1, 3])
def test_videos(tmp_path: Path, channels: int) -> None:
    import av

    frames = [np.full((1, channels, 5, 7), 30 * k, np.uint8) for k in range(6)]
    render.save_animation(pictures(*frames, scale=3), tmp_path / "x.mp4", fps=8, hold_sec=1.0)
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (22, 16)  # even, for yuv420p
        decoded = list(container.decode(video=0))
        assert container.duration == 5 * 125_000 + 1_000_000  # microseconds
    assert [round(float(frame.pts * frame.time_base), 3) for frame in decoded] == [k * 0.125 for k in range(6)]
    for frame, expected in zip(decoded, frames, strict=True):
        assert np.abs(frame.to_ndarray(format="rgb24")[:15, :21].astype(int) - int(expected.max())).max() <= 3


def test_names_and_speeds_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = pictures(images(1))
    with pytest.raises(UsageError, match=r"x.mov: the name of an animation must end in .gif, .webp"):
        render.save_animation(one, tmp_path / "x.mov", fps=10)
    with pytest.raises(UsageError, match=r"--fps 60: a GIF shows at most 50 frames a second"):
        render.save_animation(one, tmp_path / "x.gif", fps=60)
    with pytest.raises(UsageError, match=r"--loop 2: a video does not say"):
        render.save_animation(one, tmp_path / "x.mp4", fps=60, loop=2)
    render.save_animation(pictures(images(1), images(1, seed=1)), tmp_path / "x.webp", fps=60)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"x.mp4: videos need one package more: pip install av"):
        render.check_animation(tmp_path / "x.mp4", fps=10)


def test_arrays_have_the_usual_layout(tmp_path: Path) -> None:
    batches = [images(2), images(1, seed=1)]
    render.write_npz(iter(batches), 3, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        assert file.files == ["arr_0"]
        assert np.array_equal(file["arr_0"], np.concatenate(batches).transpose(0, 2, 3, 1))


def test_an_array_is_written_as_it_comes_and_whole_or_not_at_all(tmp_path: Path) -> None:
    def batches() -> Iterator[render.Images]:
        for number in range(9):
            # All before but what waits in a buffer is on the disk already.
            written = sum(path.stat().st_size for path in tmp_path.iterdir())
            assert written >= (number - 1) * images(1).nbytes * 100
            yield np.repeat(images(1), 100, axis=0)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        render.write_npz(batches(), 1000, tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())
