"""`blurdiff animate`: frames read back from its files."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, settings, shell
from PIL import Image

import blurcli as bd
from blurcli.config import load_config, parse_overrides
from blurcli.core import BlurringDiffusion, HeatDissipation, dct2, idct2
from blurcli.core.rng import ImageNoise
from blurcli.families import family_of
from blurcli.model.pipeline import to_uint8
from blurcli.visualize import Timing
from blurcli.visualize.frames import frame_pictures
from blurcli.visualize.outputs import OUTPUTS
from blurcli.visualize.trajectories import AnimatedProcess, Panel, Trajectory, View, forward_trajectory, uniform_times


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as animation:
        frames = []
        for i in range(animation.n_frames):  # type: ignore[attr-defined]
            animation.seek(i)
            frames.append(np.asarray(animation.convert("RGB")).copy())
        return frames


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).copy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.fixture(scope="module")
def heat_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heat")
    options = settings("train.steps=2", "process.levels=6", "process.blur_sigma_max=6", "sample.steps=6")
    assert shell("train", "--preset", "shapes-heat", "--run", "heat", *options, cwd=folder).code == 0
    return folder / "heat"


# the reverse process


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("spacing", ["steps", "time", "logsnr"])
def test_reverse_animation_ends_in_the_sample(cli: Cli, tiny_run: Path, tmp_path: Path, suffix: str, spacing: str) -> None:
    """Exactly, with the preset's number of steps and any number of frames."""
    out = f"p.{suffix}"
    arguments = ("--run", tiny_run, "--n", 4, "--frames", 5, "--scale", 1, "--seed", 2, "--spacing", spacing)
    assert cli("animate", out, *arguments).code == 0
    assert cli("sample", "--run", tiny_run, "--n", 4, "--seed", 2, "--scale", 1, "--out", "s.png").code == 0
    frames = frames_of(tmp_path / out)
    assert len(frames) == 5
    assert np.array_equal(frames[-1], pixels(tmp_path / "s.png"))
    assert frames[0].std() > 80  # noise of standard deviation 127 gray levels, clipped


def test_every_step_can_be_seen(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    """With one frame more than steps, frames are the sampler's states; a frame between two states is their mean."""
    base = ("--run", tiny_run, "--n", 2, "--scale", 1, "--steps", 4, "--sampler", "ddim")
    times = {}
    for frames in (5, 9):
        done = cli("animate", f"{frames}.png", *base, "--frames", frames, "--json")
        times[frames] = json.loads(done.out)["times"]
    assert times[5] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert times[9] == pytest.approx(np.linspace(1, 0, 9))
    five, nine = frames_of(tmp_path / "5.png"), frames_of(tmp_path / "9.png")
    assert all(np.array_equal(a, b) for a, b in zip(five, nine[::2], strict=True))
    # Frames are clipped to 0..255, so only where neither neighbor is clipped.
    between, a, b = nine[1].astype(float), five[0].astype(float), five[1].astype(float)
    seen = ((a > 0) & (a < 255) & (b > 0) & (b < 255)).nonzero()
    assert np.abs(between - (a + b) / 2)[seen].max() <= 1


def test_default_spacing(cli: Cli, tiny_run: Path) -> None:
    base = ("--run", tiny_run, "--n", 1, "--scale", 1, "--frames", 5, "--json")
    alone = json.loads(cli("animate", "a.png", *base, "--steps", 4).out)["times"]
    assert alone == json.loads(cli("animate", "a.png", *base, "--steps", 4, "--spacing", "steps").out)["times"]
    assert alone != [1.0, 0.75, 0.5, 0.25, 0.0]  # abm places its steps by the spectrum
    both = json.loads(cli("animate", "a.png", *base, "--direction", "both").out)["times"]
    assert both == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


# the forward process


def test_forward_animation_starts_at_the_images(cli: Cli, tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ["--run", tiny_run, "--direction", "forward", "--images", photos / "0.png", "--frames", 4, "--scale", 1]
    done = cli("animate", "f.png", *arguments, "--show", "z", "--json")
    assert json.loads(done.out)["frames"] == 4
    frames = frames_of(tmp_path / "f.png")
    centred = Image.open(photos / "0.png").crop((2, 0, 14, 12)).resize((8, 8), Image.Resampling.BICUBIC)
    inside = slice(1, -1)  # the outermost pixels also depend on what is beyond the edge of the crop
    assert np.abs(frames[0].astype(int) - np.asarray(centred).astype(int))[inside, inside].max() <= 1
    assert not np.array_equal(frames[1], frames[2])


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_a_photo_keeps_its_size_and_needs_no_model(cli: Cli, photos: Path, tmp_path: Path, suffix: str) -> None:
    arguments = ("--direction", "forward", "--preset", "cifar10-blur-paper", "--images", photos / "0.png")
    done = cli("animate", f"f.{suffix}", *arguments, "--frames", 6, "--scale", 1, "--show", "z")
    assert done.code == 0, done.err
    frames = frames_of(tmp_path / f"f.{suffix}")
    own = pixels(photos / "0.png")
    assert frames[0].shape == own.shape == (12, 16, 3)
    if suffix != "gif":  # 256 colors
        assert np.array_equal(frames[0], own)
    process = BlurringDiffusion((12, 16), blur_sigma_max=20)
    x = torch.from_numpy(own).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = to_uint8(process.diffuse(x, torch.tensor([0.4]), ImageNoise(0, [0])(x)))[0].permute(1, 2, 0).numpy()
    assert difference(frames[2], expected) < (20 if suffix == "gif" else 0.01)


@pytest.mark.parametrize(("size", "shape"), [("20", (20, 20)), ("8x24", (8, 24)), (None, (384, 512))])
def test_sizes_of_a_photo(cli: Cli, tmp_path: Path, size: str | None, shape: tuple[int, int]) -> None:
    """The photo's size, at most 512; or --size."""
    Image.effect_noise((1024, 768), 50).save(tmp_path / "large.png")
    arguments = (
        "--direction",
        "forward",
        "--preset",
        "mnist-noblur.yaml",
        "--images",
        "large.png",
        "--frames",
        2,
        "--scale",
        1,
    )
    (tmp_path / "mnist-noblur.yaml").write_text("extends: mnist-blur\nprocess: {blur_schedule: sin2, blur_sigma_max: 0}\n")
    assert cli("animate", "f.png", *arguments, *(("--size", size) if size else ())).code == 0
    assert frames_of(tmp_path / "f.png")[0].shape[:2] == shape


def test_a_folder_has_the_size_of_the_preset(cli: Cli, photos: Path, tmp_path: Path) -> None:
    arguments = ("--direction", "forward", "--preset", "folder-blur", "--images", photos, "--frames", 2, "--scale", 1)
    assert cli("animate", "f.png", *arguments, "--n", 3, "--columns", 3).code == 0
    assert frames_of(tmp_path / "f.png")[0].shape == (64, 3 * 65 - 1, 3)


def test_keys_of_the_preset(cli: Cli, photos: Path, tmp_path: Path) -> None:
    arguments = (
        "--direction",
        "forward",
        "--preset",
        "shapes-blur",
        "--images",
        photos / "0.png",
        "--frames",
        5,
        "--scale",
        1,
        "--show",
        "z",
    )
    shown = []
    for sigma in (0, 20):
        path = settings("process.blur_schedule=sin2", f"process.blur_sigma_max={sigma}")
        assert cli("animate", "f.png", *arguments, *path).code == 0
        shown.append(frames_of(tmp_path / "f.png"))
    assert np.array_equal(shown[0][0], shown[1][0])
    assert difference(shown[0][1], shown[1][1]) > 10


def test_times_even_in_the_log_snr() -> None:
    process = BlurringDiffusion(8, logsnr_min=-6, logsnr_max=8)
    times = torch.tensor(uniform_times(process, 8, "logsnr"), dtype=torch.float64)
    torch.testing.assert_close(process.logsnr(times), torch.linspace(8, -6, 8, dtype=torch.float64))
    signal = process.alpha(times)[:, 0, 0, 0] / process.sigma(times).flatten()  # the image's mean is not blurred
    torch.testing.assert_close(2 * torch.log(signal), process.logsnr(times))
    torch.testing.assert_close(process.blur_sigma(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 10.0, 20.0]))
    heat = HeatDissipation(8, noise=0.02)
    torch.testing.assert_close(heat.logsnr(times), 2 * torch.log(1 / heat.sigma(times)).flatten())


# both directions, comparisons, estimates


@pytest.mark.parametrize("kind", ["diffusion", "heat"])
def test_both_directions_meet(cli: Cli, tiny_run: Path, heat_run: Path, tmp_path: Path, kind: str) -> None:
    """In the same noise; and heat dissipation in the same blurred images."""
    run = heat_run if kind == "heat" else tiny_run
    both = ("--run", run, "--direction", "both", "--n", 2, "--frames", 6, "--scale", 1, "--json")
    assert json.loads(cli("animate", "b.png", *both).out)["frames"] == 12
    frames = frames_of(tmp_path / "b.png")
    if kind == "heat":  # the two frames are equal and stored once
        assert len(frames) == 11
        return
    # The last forward frame and the first reverse frame differ by the signal that is left: exp(-5).
    differences = [difference(a, b) for a, b in itertools.pairwise(frames)]
    assert len(frames) == 12
    assert differences[5] < 3
    assert differences[0] > 3


def test_estimates_of_the_clean_images(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    base = ("--run", tiny_run, "--n", 2, "--frames", 4, "--scale", 1)
    assert cli("animate", "z.png", *base).code == cli("animate", "x.png", *base, "--show", "x_hat").code == 0
    assert cli("animate", "both.png", *base, "--show", "both").code == 0
    z, x_hat, both = (frames_of(tmp_path / f"{name}.png") for name in ("z", "x", "both"))
    assert np.array_equal(x_hat[-1], z[-1])
    assert x_hat[0].std() < z[0].std() / 2  # the estimate from pure noise is about the mean image
    height, width = z[0].shape[:2]
    assert np.array_equal(both[1][20:, :width][:height], z[1])  # under their titles
    assert both[1].shape[0] == height + 20
    forward_base = (*base, "--direction", "forward")
    assert cli("animate", "f.png", *forward_base, "--show", "x_hat").code == 0
    assert cli("animate", "g.png", *forward_base).code == 0
    estimates, states = frames_of(tmp_path / "f.png"), frames_of(tmp_path / "g.png")
    assert np.array_equal(estimates[0], states[0])
    assert estimates[-1].std() < states[-1].std() / 2


def test_three_processes_under_one_clock(cli: Cli, tiny_run: Path, heat_run: Path, tmp_path: Path) -> None:
    names = ("--run", tiny_run, "--compare", heat_run, "--compare", tiny_run / "weights" / "step-00000003.safetensors")
    done = cli("animate", "c.png", *names, "--n", 1, "--frames", 5, "--scale", 40, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["times"] == [1.0, 0.75, 0.5, 0.25, 0.0]
    frames = frames_of(tmp_path / "c.png")
    assert len(frames) == 5
    side = 8 * 40
    assert frames[0].shape[0] == 20 + side
    for frame in frames:  # the same seed; the first and the last panel show the same model
        assert np.array_equal(frame[20:, :side], frame[20:, -side:][:, :side])


def test_processes_without_models_are_compared(photos: Path) -> None:
    names = ["shapes-blur", "shapes-noblur", "shapes-heat"]
    processes = [AnimatedProcess(name, family_of(load_config(name)).process) for name in names]
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    view = View(uniform_times(processes[0].process, 5, "time"))
    trajectory = forward_trajectory(processes, images, 0, view)
    shown = ["blur 0.5 px per noise/signal", "plain diffusion, no blur", "heat dissipation, up to 24 px"]
    assert [panel.title for panel in trajectory.panels] == [f"{what} ({name})" for what, name in zip(shown, names, strict=True)]
    blur, noise, heat = (panel.frames for panel in trajectory.panels)
    assert all(np.array_equal(frames[0], images) for frames in (blur, noise, heat))
    assert difference(blur[-1], noise[-1]) < 1  # the same noise, and nearly nothing else
    assert heat[-1].std() < 20 < blur[-1].std()


def test_a_heat_model_estimates_the_clean_image(cli: Cli, heat_run: Path, tmp_path: Path) -> None:
    assert cli("animate", "h.png", "--run", heat_run, "--n", 2, "--frames", 3, "--show", "x_hat", "--scale", 1).code == 0
    assert cli("animate", "z.png", "--run", heat_run, "--n", 2, "--frames", 3, "--scale", 1).code == 0
    assert len(frames_of(tmp_path / "h.png")) == 3
    assert difference(frames_of(tmp_path / "h.png")[0], frames_of(tmp_path / "z.png")[0]) > 1


# files


def test_scale_fps_hold_loop_columns_and_sampler(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    base = ["animate", "a.png", "--run", tiny_run, "--n", 1, "--frames", 3, "--sampler", "ddim"]
    assert cli(*base).code == 0
    default = frames_of(tmp_path / "a.png")
    assert default[0].shape == (512, 512, 3)
    with Image.open(tmp_path / "a.png") as animation:
        assert animation.info["loop"] == 0
    assert cli(*base, "--n", 2, "--columns", 1, "--scale", 2, "--fps", 4, "--hold", 3, "--loop", 2).code == 0
    with Image.open(tmp_path / "a.png") as animation:
        assert animation.size == (16, 2 * 16 + 2)
        assert animation.info["loop"] == 2
        durations = []
        for i in range(3):
            animation.seek(i)
            durations.append(animation.info["duration"])
    assert durations == [250, 250, 3000]
    for extra in (["--steps", 9], ["--sampler", "euler"]):
        assert cli(*base, *extra).code == 0
        assert not np.array_equal(frames_of(tmp_path / "a.png")[-1], default[-1])


def test_labels(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    base = ("--run", tiny_run, "--n", 1, "--frames", 3, "--scale", 40)
    assert cli("animate", "plain.png", *base).code == cli("animate", "text.png", *base, "--labels").code == 0
    plain, text = frames_of(tmp_path / "plain.png"), frames_of(tmp_path / "text.png")
    for before, after in zip(plain, text, strict=True):
        assert after.shape == (before.shape[0] + 20, before.shape[1], 3)
        assert np.array_equal(after[:-20], before)
        assert after[-20:].max() > 100
    assert not np.array_equal(text[0][-20:], text[1][-20:])  # times differ


@pytest.mark.parametrize(
    ("process", "final", "last"),
    [
        ("tiny", "denoised", "t 0.00  no noise  blur 0.0 px"),
        ("tiny", "noisy", "t 0.00  log-SNR +10.0  blur 0.0 px"),
        ("heat", None, "t 0.00  no noise  blur 0.0 px"),
    ],
)
def test_a_label_says_what_its_frame_shows(tiny_run: Path, heat_run: Path, process: str, final: str | None, last: str) -> None:
    """States with their noise and blur, estimates and finished images without; blur beyond the image is no number."""
    run = tiny_run if process == "tiny" else heat_run
    model = bd.load(run)
    images = np.zeros((1, *model.image_shape), np.uint8)
    options = {} if final is None else {"final": final}
    forward, reverse = model.animate(1, direction="both", images=images, frames=3, show="both", **options).trajectories  # type: ignore[arg-type]
    title = f"{model.pipeline.process.title} ({run.name})"
    for one in (forward, reverse):
        states, estimates = one.panels
        assert [states.title, estimates.title] == [f"states z_t: {title}", f"estimates x_hat: {title}"]
        assert estimates.labels == [f"t {t:.2f}" for t in one.times]
    assert reverse.panels[0].labels[-1] == last
    assert forward.panels[0].labels[0] == "t 0.00  no noise  blur 0.0 px"
    end = {"tiny": "t 1.00  log-SNR -10.0  blur > 8 px", "heat": "t 1.00  log-SNR +7.8  blur 6.0 px"}[process]
    assert forward.panels[0].labels[-1] == reverse.panels[0].labels[0] == end
    alone, _ = model.animate(1, direction="forward", images=images, frames=3, show="blur").trajectories[0].panels  # type: ignore[arg-type]
    assert alone.title == f"blur alone: {title}"
    assert [label.split("  ")[1] for label in alone.labels] == ["no noise"] * 3


def test_panels_stay_in_their_places() -> None:
    """Labels that are wider than the images, and change their width with time, move nothing."""

    def panel(title: str, *labels: str) -> Panel:
        return Panel(title, BlurringDiffusion(8), [np.zeros((1, 3, 8, 8), np.uint8) for _ in labels], list(labels))

    forward = Trajectory("forward", [0, 1], [panel("a", "wide label", "l"), panel("b", "l", "wide")])
    reverse = Trajectory("reverse", [1, 0], [panel("a", "the widest label", "l"), panel("b", "l", "l")])
    pictures = [np.asarray(one) for one in frame_pictures([forward, reverse], 1, labels=True)]
    assert len({one.shape for one in pictures}) == 1
    assert all(np.array_equal(one[:20], pictures[0][:20]) for one in pictures)  # the titles


def test_a_strip_shows_all_frames_at_once(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    base = ("--run", tiny_run, "--n", 2, "--scale", 3)
    assert cli("animate", "strip.png", *base, "--strip").code == cli("animate", "a.png", *base, "--frames", 8).code == 0
    with Image.open(tmp_path / "strip.png") as strip:
        assert getattr(strip, "n_frames", 1) == 1
        assert strip.size == (8 * (24 + 3) - 3, 2 * 24 + 3)
    shown, frames = pixels(tmp_path / "strip.png"), frames_of(tmp_path / "a.png")
    assert np.array_equal(shown[:24, :24], frames[0][:24, :24])
    assert np.array_equal(shown[:24, -24:], frames[-1][:24, :24])
    assert cli("animate", "both.png", *base, "--strip", "--direction", "both", "--labels", "--frames", 3).code == 0
    assert pixels(tmp_path / "both.png").shape[0] == 2 * (51 + 20 + 3 * 20) + 8


def test_a_folder_of_single_frames(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    base = ("--run", tiny_run, "--n", 2, "--frames", 3)
    assert cli("animate", "frames", *base).code == cli("animate", "a.png", *base).code == 0
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png"]
    for name, frame in zip(names, frames_of(tmp_path / "a.png"), strict=True):
        assert np.array_equal(pixels(tmp_path / "frames" / name), frame)
    done = cli("animate", "frames", *base)
    assert (done.code, done.err.splitlines()[-1]) == (2, "error: frames: exists and is not an empty folder; choose another one")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["frames", "--fps", "3"], "--fps: frames is a folder of single frames; leave out --fps"),
        (["a.mov"], "a.mov: unknown format of an animation; end the name in .gif, .webp, .png, .apng, .mp4, .html"),
        (["a.gif", "--fps", "90"], "--fps 90: .gif shows at most 50 frames per second"),
        (["a.gif", "--images", "x"], "--images: applies to the forward process; add --direction forward"),
        (["a.gif", "--direction", "forward", "--steps", "60"], "apply to the reverse process"),
        (["a.gif", "--direction", "forward", "--sampler", "ddim"], "apply to the reverse process"),
        (["a.gif", "--direction", "forward", "--images", "absent"], "absent': no such folder, .zip file or dataset"),
        (["a.gif", "--direction", "forward", "--images", "absent.png"], "absent.png: cannot be read (No such file"),
        (["a.gif", "--frames", "1"], "Invalid value for"),
        (["a.gif", "--spacing", "steps", "--direction", "both"], "applies to a single reverse process"),
        (["a.gif", "--spacing", "steps", "--compare", "shapes-blur"], "leave out --direction and --compare"),
        (["a.gif", "--compare", "shapes-blur"], "shapes-blur: is a preset, and this needs a trained model"),
        (["a.gif", "--compare", "mnist-blur", "--direction", "forward"], "its images are 1x8x8, the others 3x8x8"),
        (["a.gif", "--compare", "absent"], "preset 'absent' is unknown"),
        (["a.gif", "--preset", "shapes-blur"], "has no trained model; add --direction forward"),
        (
            ["a.gif", "--preset", "shapes-blur", "--direction", "forward"],
            "a preset has no trained model; use --preset, or --run or --weights",
        ),
        (["a.gif", "--size", "9", "--direction", "forward"], "a trained model has a fixed size"),
        (["a.gif", "--set", "seed=1", "--direction", "forward"], "a trained model has a fixed size and fixed keys"),
        (["a.gif", "--strip"], "end the name in .png"),
        (
            ["a.png", "--strip", "--fps", "3", "--hold", "1"],
            "--fps, --hold: a.png is a still picture with one row per image; leave out",
        ),
        (["a.html", "--scale", "3"], "--scale: a.html is a page, which has a zoom"),
        (["a.mp4", "--loop", "3"], "--loop 3: a video file stores no loop count"),
    ],
)
def test_refused_options(cli: Cli, tiny_run: Path, tmp_path: Path, arguments: list[str], text: str) -> None:
    done = cli("animate", *arguments, "--run", tiny_run)
    assert done.code == 2
    assert text in " ".join(done.err.split())
    assert list(tmp_path.iterdir()) == []


def test_refused_presets_and_heat_models(cli: Cli, tmp_path: Path, heat_run: Path, photos: Path) -> None:
    for arguments, text in (
        (
            ("--preset", "shapes-blur", "--direction", "forward", "--show", "x_hat"),
            "is a preset, and this needs a trained model",
        ),
        (("--preset", "shapes-blur", "--direction", "forward", "--size", "0x3"), "--size 0x3: must be a number of pixels"),
        (
            ("--preset", "folder-blur", "--direction", "forward"),
            "this preset has no images of its own; name some with --images",
        ),
        (
            ("--run", heat_run, "--spacing", "logsnr"),
            "--spacing logsnr: the noise of this process is the same at all times; use time",
        ),
    ):
        done = cli("animate", "a.gif", *arguments)
        assert done.code == 2
        assert text in " ".join(done.err.split())
    (photos / "broken.png").write_text("no picture")
    done = cli("animate", "a.gif", "--preset", "shapes-blur", "--direction", "forward", "--images", photos / "broken.png")
    assert done.code == 1
    assert "broken.png: not a readable image" in done.err
    assert not (tmp_path / "a.gif").exists()


def test_the_help_names_every_format_and_the_default_timing(cli: Cli) -> None:
    text = " ".join(cli("animate", "--help").out.split())
    assert all(suffix in text for suffix in OUTPUTS)
    assert f"Frames per second. [default: {Timing().fps:g}]" in text
    assert f"Duration of the last frame in seconds. [default: {Timing().hold_sec:g}]" in text


def test_a_photo_shows_its_blur_beside_the_noise(cli: Cli, tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "me.png")
    command = ("--direction", "forward", "--images", "me.png", "--frames", 3, "--scale", 1)
    assert cli("animate", "frames", *command, "--preset", "shapes-blur").code == 0
    assert cli("animate", "plain", *command, "--preset", "shapes-noblur").code == 0  # nothing to show beside the noise
    first, middle = (np.asarray(Image.open(tmp_path / "frames" / f"{i:04d}.png"), float) for i in (0, 1))
    assert first.shape[1] > 2 * 16
    assert np.asarray(Image.open(tmp_path / "plain" / "0000.png")).shape == (16, 16, 3)
    process = family_of(load_config("shapes-blur", parse_overrides(["data.image_size=16"]))).process
    spectrum = dct2(torch.from_numpy(photo.transpose(2, 0, 1)).double())
    alpha = process.alpha(torch.tensor([0.5], dtype=torch.float64))
    expected = idct2(spectrum * (alpha / alpha[0, 0, 0, 0])[0]).numpy().transpose(1, 2, 0)
    height = first.shape[0] - 16  # of the titles
    assert np.abs(middle[height:, :16] - expected.clip(0, 255)).max() <= 1
    assert np.abs(first[height:, :16] - photo).max() <= 1
    refused = cli("animate", "x.gif", "--preset", "shapes-blur", "--show", "x_hat", *command)
    assert "needs a trained model" in refused.err
    assert "--show blur: applies to the forward process" in cli("animate", "x.gif", "--show", "blur").err
