"""Settings of an animation are refused or accepted before the work, and read back from the file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from blurcli import visualize
from blurcli.base.errors import OptionError, UsageError
from blurcli.visualize.animations import PICTURE_FORMATS, Timing
from blurcli.visualize.outputs import Presentation

FORWARD = ("--preset", "shapes-noblur", "--direction", "forward", "--n", 1, "--frames", 3)
FRAMES = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (0, 90, 200)]


def netscape_repeats(path: Path) -> int | None:
    """How often a GIF is repeated after the first time, from its bytes; None where it is not."""
    content = path.read_bytes()
    place = content.find(b"NETSCAPE2.0")
    return None if place < 0 else int.from_bytes(content[place + 13 : place + 15], "little")


@pytest.mark.parametrize(("loop", "repeats"), [(0, 0), (1, None), (2, 1), (65536, 65535)])
def test_loop_is_the_number_of_times_played_in_a_gif(tmp_path: Path, loop: int, repeats: int | None) -> None:
    visualize.save_animation(FRAMES, tmp_path / "x.gif", Timing(loop=loop))
    assert netscape_repeats(tmp_path / "x.gif") == repeats


@pytest.mark.parametrize("suffix", [".webp", ".png", ".apng"])
@pytest.mark.parametrize("loop", [0, 1, 2, 65_535])
def test_loop_is_the_number_of_times_played_elsewhere(tmp_path: Path, suffix: str, loop: int) -> None:
    path = tmp_path / f"x{suffix}"
    visualize.save_animation(FRAMES, path, Timing(loop=loop))
    content = path.read_bytes()
    place = content.find(b"ANIM") + 12 if suffix == ".webp" else content.find(b"acTL") + 8
    stored = content[place : place + (2 if suffix == ".webp" else 4)]
    assert int.from_bytes(stored, "little" if suffix == ".webp" else "big") == loop


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
@pytest.mark.parametrize("hold", [0.02, 1.5, 60.0])
def test_times_are_those_asked_for(tmp_path: Path, suffix: str, hold: float) -> None:
    visualize.save_animation(FRAMES, tmp_path / f"x{suffix}", Timing(fps=4, hold_sec=hold))
    seconds = []
    with Image.open(tmp_path / f"x{suffix}") as animation:
        for frame in range(3):
            animation.seek(frame)
            animation.load()
            seconds.append(animation.info["duration"] / 1000)
    assert seconds == pytest.approx([0.25, 0.25, hold])


@pytest.mark.parametrize(("suffix", "least_ms"), [(".gif", 20), (".webp", 11), (".png", 11), (".apng", 11)])
@pytest.mark.parametrize("hold", [0.0, 0.004, 0.011])
def test_no_frame_is_so_short_that_browsers_lengthen_it(tmp_path: Path, suffix: str, least_ms: int, hold: float) -> None:
    """They show a GIF's frame of less than 20 ms, and any other of at most 10 ms, for 100 ms."""
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in range(0, 250, 10)]
    fps = PICTURE_FORMATS[suffix].limits.fps
    visualize.save_animation(frames, tmp_path / f"x{suffix}", Timing(fps=fps, hold_sec=hold))
    shown = []
    with Image.open(tmp_path / f"x{suffix}") as animation:
        for frame in range(len(frames)):
            animation.seek(frame)
            animation.load()
            shown.append(animation.info["duration"])
    assert min(shown) >= least_ms
    assert sum(shown[:-1]) == pytest.approx(1000 * (len(frames) - 1) / fps, abs=10)


@pytest.mark.parametrize("suffix", sorted(set(PICTURE_FORMATS) - {".mp4"}))
def test_what_the_limits_allow_can_be_written(tmp_path: Path, suffix: str) -> None:
    limits = PICTURE_FORMATS[suffix].limits
    extreme = Timing(fps=limits.fps, hold_sec=limits.frame_sec, loop=limits.loop)
    visualize.save_animation(FRAMES, tmp_path / f"x{suffix}", extreme)
    with Image.open(tmp_path / f"x{suffix}") as animation:
        assert getattr(animation, "n_frames", 1) == 3
    for timing in (Timing(fps=limits.fps * 1.01), Timing(hold_sec=limits.frame_sec * 1.01), Timing(loop=limits.loop + 1)):
        with pytest.raises(OptionError):
            visualize.save_animation(FRAMES, tmp_path / f"y{suffix}", timing)
    assert not (tmp_path / f"y{suffix}").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["x.png", "--hold", "70"], "--hold 70: .png shows a frame for at most 65.535 s"),
        (["x.gif", "--hold", "inf"], "--hold inf: must be a finite number"),
        (["x.gif", "--fps", "inf"], "--fps inf: must be a finite number"),
        (["x.html", "--fps", "inf"], "--fps inf: must be a finite number"),
        (
            ["x.gif", "--fps", "60"],
            "--fps 60: .gif shows at most 50 frames per second; lower it, or write .webp or .png or .mp4",
        ),
        (["x.gif", "--fps", "100"], "--fps 100: .gif shows at most 50 frames per second; lower it, or write .mp4"),
        (["x.webp", "--fps", "100"], "--fps 100: .webp shows at most 90 frames per second; lower it, or write .mp4"),
        (["x.png", "--fps", "1000"], "--fps 1000: .png shows at most 90 frames per second; lower it, or write .mp4"),
        (["x.mp4", "--fps", "5000"], "--fps 5000: .mp4 shows at most 1000 frames per second"),
        (["x.webp", "--loop", "70000"], "--loop 70000: .webp is played at most 65,535 times; 0 is endless"),
        (["x.webp", "--scale", "999"], "x.webp: frames of 31968x31968 pixels, and .webp stores at most 16,383 pixels per side"),
    ],
)
def test_settings_are_refused_before_the_work(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    def work(*arguments: object, **options: object) -> None:
        raise AssertionError("begun")

    monkeypatch.setattr("blurcli.visualize.trajectories.forward_trajectory", work)
    done = cli("animate", *arguments, *FORWARD)
    assert done.code == 2
    assert text in done.err


@pytest.mark.parametrize("size", [(300, 6000), (6000, 300), (1, 30000), (30000, 1), (700, 700)])
def test_an_animation_of_any_photo_is_bounded(cli: Cli, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (200, 10, 30)).save(tmp_path / "photo.png")
    done = cli("animate", "x.gif", *FORWARD, "--images", "photo.png")
    assert done.code == 0, done.err
    with Image.open("x.gif") as animation:
        assert max(animation.size) <= 1100


def test_the_size_is_that_of_the_frames(cli: Cli, tmp_path: Path) -> None:
    for look in (Presentation(), Presentation(scale=3, columns=2)):
        options = ["--scale", 3, "--columns", 2] if look.scale else []
        assert cli("animate", "x.png", *FORWARD, *options).code == 0
        with Image.open("x.png") as animation:
            assert animation.size == look.picture_size(1, 1, (32, 32))


def test_one_panel_too_many_is_refused() -> None:
    with pytest.raises(UsageError, match="70000x10 pixels"):
        PICTURE_FORMATS[".gif"].check_size(Path("x.gif"), 70_000, 10)


def test_a_disk_too_small_for_an_animation(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 5))  # type: ignore[attr-defined]
    done = cli("animate", "a.gif", *FORWARD)
    assert done.code == 1
    assert "a.gif: needs about 1 MiB, and 0 MiB are free; choose another disk" in done.err
    assert not (tmp_path / "a.gif").exists()
