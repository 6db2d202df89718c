"""The command line as a user meets it."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Cli, settings, shell
from numpy.typing import NDArray
from PIL import Image

import blurcli
from blurcli.cli import app
from blurcli.model.inference import choose_device, has_native_bf16
from blurcli.visualize import image_folder, picture

COMMANDS = [info.name or "" for info in app.registered_commands]


def test_help_lists_the_commands(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(command in done.out for command in COMMANDS)
    assert cli().code == 2


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"blurdiff {blurcli.__version__}\n"


def test_a_users_session(tmp_path: Path) -> None:
    """Train, sample, animate and score, with no run named: the newest is taken, and said."""
    assert shell("train", "--preset", "shapes-blur", "--run", "runs/old", *settings("train.steps=1"), cwd=tmp_path).code == 0
    trained = shell("train", "--preset", "shapes-blur", *settings("train.steps=2"), cwd=tmp_path)
    assert trained.code == 0, trained.err
    assert trained.out == "runs/shapes-blur/weights/step-00000002.safetensors\n"
    assert re.search(
        r"trained to step 2 in \d s, loss \d.\d+, \d+ images/s; samples in runs/shapes-blur/\S+.png\n", trained.err
    )
    sampled = shell("sample", "--n", 4, cwd=tmp_path)
    assert "using runs/shapes-blur/weights/step-00000002.safetensors" in sampled.err
    assert Image.open(tmp_path / sampled.out.strip()).size == (510, 510)  # two by two of 8x8, enlarged
    assert shell("animate", "process.gif", cwd=tmp_path).out == "process.gif\n"
    with Image.open(tmp_path / "process.gif") as animation:
        assert animation.n_frames == 41  # type: ignore[attr-defined]
    scored = shell("fid", "--n", 10, "--force", "--json", cwd=tmp_path)
    assert json.loads(scored.out)["fd"] > 0


# train


def test_dry_run_prints_the_preset_and_does_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("train", "--preset", "cifar10-noblur", "--set", "train.steps=7", "--dry-run")
    config = yaml.safe_load(done.out)
    assert (config["process"]["blur_sigma_max"], config["train"]["steps"]) == (0, 7)
    assert json.loads(cli("train", "--preset", "cifar10-noblur", "--dry-run", "--json").out)["process"]["blur_sigma_max"] == 0
    assert list(tmp_path.iterdir()) == []


def test_data_goes_into_the_preset_as_an_absolute_path(cli: Cli, photos: Path) -> None:
    config = yaml.safe_load(cli("train", "--preset", "folder-blur", "--data", "photos", "--dry-run").out)
    assert config["data"]["source"] == str(photos)
    assert (
        yaml.safe_load(cli("train", "--preset", "folder-blur", "--data", "mnist", "--dry-run").out)["data"]["source"] == "mnist"
    )


def test_json_of_train(cli: Cli) -> None:
    done = cli("train", "--preset", "shapes-blur", "--run", "r", "--json", *settings("train.steps=1"))
    assert json.loads(done.out) == {"run": "r", "weights": "r/weights/step-00000001.safetensors", "step": 1}


# sample


def grid_of(folder: Path, count: int) -> list[bytes]:
    assert sorted(path.name for path in folder.glob("[!.]*")) == [*(f"{i:06d}.png" for i in range(count)), "sampling.json"]
    return [(folder / f"{i:06d}.png").read_bytes() for i in range(count)]


@pytest.mark.parametrize("sampler", ["abm", "ab2", "ancestral"])
def test_an_image_does_not_depend_on_its_batch(cli: Cli, tiny_run: Path, tmp_path: Path, sampler: str) -> None:
    common = ["sample", "--run", tiny_run, "--seed", 1, "--sampler", sampler, "--steps", 4]
    for size, count in ((8, 8), (3, 8), (5, 6)):
        assert cli(*common, "--n", count, "--batch-size", size, "--out", f"b{size}").code == 0
    whole = grid_of(tmp_path / "b8", 8)
    assert len(set(whole)) == 8
    assert grid_of(tmp_path / "b3", 8) == whole
    assert grid_of(tmp_path / "b5", 6) == whole[:6]


def test_outputs_hold_the_same_images(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    for out in ("grid.png", "folder", "x.npz"):
        done = cli("sample", "--run", tiny_run, "--n", 3, "--out", out)
        assert done.out == f"{out}\n"
    with np.load(tmp_path / "x.npz") as file:
        array = file["arr_0"]
    assert array.shape == (3, 8, 8, 3)
    enlarged = np.asarray(Image.open(tmp_path / "grid.png"))
    scale = enlarged.shape[0] // 17  # two images and the gap between them
    assert scale == 30  # about 512 pixels
    grid = enlarged[::scale, ::scale]
    assert np.array_equal(grid.repeat(scale, 0).repeat(scale, 1), enlarged)
    for i, (y, x) in enumerate([(0, 0), (0, 9), (9, 0)]):
        single = np.asarray(Image.open(tmp_path / "folder" / f"{i:06d}.png"))
        assert np.array_equal(single, array[i])
        assert np.array_equal(single, grid[y : y + 8, x : x + 8])


def test_a_grid_is_enlarged_as_asked(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    assert cli("sample", "--run", tiny_run, "--n", 3, "--scale", 2, "--out", "grid.png").code == 0
    assert Image.open(tmp_path / "grid.png").size == (34, 34)
    assert cli("sample", "--run", tiny_run, "--n", 1, "--out", "one.png").code == 0
    assert Image.open(tmp_path / "one.png").size == (8, 8)
    refused = cli("sample", "--run", tiny_run, "--n", 3, "--scale", 2, "--out", "x.npz")
    assert (refused.code, "--scale 2: enlarges a grid" in refused.err) == (2, True)


def test_seed_steps_and_sampler_change_the_images(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    seen = set()
    for i, extra in enumerate(([], ["--seed", 1], ["--steps", 7], ["--sampler", "ddim"], ["--final", "noisy"])):
        assert cli("sample", "--run", tiny_run, "--n", 16, "--out", f"{i}.npz", *extra).code == 0
        with np.load(tmp_path / f"{i}.npz") as file:
            seen.add(file["arr_0"].tobytes())
    assert len(seen) == 5


def test_weights_alone(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    weights = tiny_run / "weights" / "step-00000003.safetensors"
    done = json.loads(cli("sample", "--weights", weights, "--n", 2, "--json").out)
    assert done == {
        "out": "step-00000003-abm-2-seed0-n2.png",
        "n": 2,
        "sampler": "abm",
        "steps": 2,
        "eta": 0.0,
        "delta": None,
        "label": None,
        "guidance": 1.0,
        "final": "denoised",
        "seed": 0,
        "weights": str(weights),
        "calibrated": False,
        "network_precision": "bf16" if has_native_bf16(torch.device("cpu")) else "fp32",
        "interpolate": None,
        "same_init": False,
        "share_noise": False,
    }
    assert (tmp_path / done["out"]).exists()
    other = cli("sample", "--weights", weights, "--n", 2, "--sampler", "ddim", "--steps", 3, "--eta", 0.5, "--final", "noisy")
    assert other.out == "step-00000003-ddim-3-seed0-n2-eta0.5-noisy.png\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--n", "0"], 2, "Invalid value for"),
        (["--steps", "0"], 2, "Invalid value for"),
        (["--sampler", "dimm"], 2, "'dimm' is not one of"),
        (["--out", "x.jpeg"], 2, "unknown suffix; use .png (a grid), .npz (an array), or a folder"),
        (["--out", "full"], 2, "exists and is not an empty folder"),
        (["--out", "full/a.txt/x.png"], 1, "cannot be written"),
        (["--out", "full/a.txt/x"], 1, "cannot be written"),
        (["--run", "absent"], 2, "absent: no such run folder"),
        (["--run", "full"], 2, "full: not a run folder"),
        (["--weights", "absent.safetensors"], 2, "absent.safetensors: no such file"),
        (["--weights", "full/a.txt"], 1, "not a readable safetensors file"),
        (["--weights", "a", "--run", "b"], 2, "give one of them, not both"),
        (["--nonsense"], 2, "No such option"),
        (["--eta", "0.5"], 2, "--eta 0.5: sampler abm has no such option; it is for ddim"),
        (["--sampler", "ddim", "--eta", "2"], 2, "Invalid value for '--eta'"),
        (["--strength", "0.5"], 2, "add --init-image"),
        (["--init-blurred"], 2, "add --init-image"),
        (["--init-image", "absent.png"], 2, "absent.png: cannot be read (No such file or directory)"),
        (["--init-image", "full/a.txt"], 1, "full/a.txt: not a readable image"),
        (["--init-image", "full/a.txt", "--strength", "0"], 2, "--strength 0: must be above 0"),
        (["--interpolate", "1", "--n", "1"], 2, "needs at least two images"),
        (["--interpolate", "1", "--same-init"], 2, "use one of them"),
        (["--interpolate", "5", "--seed", "5"], 2, "--interpolate 5: is the same as --seed"),
        (["--seed", str(2**64)], 2, "Invalid value for '--seed'"),
        (["--eta", "nan", "--sampler", "ddim"], 2, "Invalid value for '--eta'"),
        (["--same-init", "--share-noise", "--sampler", "ancestral"], 2, "use one of them"),
        (["--no-calibration"], 2, "has no calibration; only models with objective=eps have one"),
    ],
)
def test_what_sample_refuses(cli: Cli, tiny_run: Path, tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("precious")
    if "--run" not in arguments and "--weights" not in arguments:
        arguments = ["--run", str(tiny_run), *arguments]
    done = cli("sample", *arguments)
    assert done.code == code
    assert text in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert done.out == ""
    assert (tmp_path / "full" / "a.txt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


# where samples begin


@pytest.fixture
def arrays(cli: Cli, tiny_run: Path, tmp_path: Path) -> Callable[..., NDArray[np.uint8]]:
    """The images that `blurdiff sample` makes, (N, H, W, C)."""

    def make(*arguments: object) -> NDArray[np.uint8]:
        done = cli("sample", "--run", tiny_run, "--out", "x.npz", "--steps", 5, *arguments)
        assert done.code == 0, done.err
        with np.load(tmp_path / "x.npz") as file:
            return file["arr_0"]

    return make


Arrays = Callable[..., NDArray[np.uint8]]


def test_init_image_stays_near_the_photo_at_little_strength(arrays: Arrays, tmp_path: Path) -> None:
    ramp = np.linspace(40, 215, 8)
    photo = np.stack([np.add.outer(ramp, ramp) / 2] * 3, axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "ramp.png")
    distance = [
        np.abs(arrays("--init-image", "ramp.png", "--strength", strength, "--n", 8).astype(int) - photo).mean()
        for strength in (0.02, 0.2, 1)
    ]
    assert distance[0] < 5
    assert distance[0] < distance[1] < distance[2]
    several = arrays("--init-image", "ramp.png", "--n", 3)
    assert len({image.tobytes() for image in several}) == 3
    assert np.array_equal(several, arrays("--init-image", "ramp.png", "--n", 3, "--strength", 0.6, "--batch-size", 2))


def test_a_blurred_photo_is_not_blurred_again(arrays: Arrays, tmp_path: Path) -> None:
    """A photo with fine detail, taken as blurred already, keeps it; taken as sharp, loses it to the blur."""
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    contrast = [
        np.abs(np.diff(arrays("--init-image", "stripes.png", "--strength", 0.5, "--n", 8, *extra).astype(int), axis=2)).mean()
        for extra in ([], ["--init-blurred"])
    ]
    assert contrast[1] > 1.3 * contrast[0]


@pytest.mark.parametrize("sampler", ["abm", "ancestral"])
def test_interpolation_goes_from_one_seed_to_another(arrays: Arrays, sampler: str) -> None:
    between = arrays("--interpolate", 9, "--seed", 4, "--n", 6, "--sampler", sampler)
    start, end = (arrays("--seed", seed, "--n", 1, "--sampler", sampler)[0] for seed in (4, 9))
    # The way back from float64 may round the last of 8 bits differently.
    assert np.abs(between[0].astype(int) - start).max() <= 1
    assert np.abs(between[-1].astype(int) - end).max() <= 1
    steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(between)]
    assert max(steps) < 0.5 * np.abs(start.astype(int) - end).mean()


@pytest.mark.parametrize("solver", [["--sampler", "ancestral"], ["--sampler", "ddim", "--eta", 1]])
def test_one_start_and_one_noise(arrays: Arrays, solver: list[object]) -> None:
    """Image 0 is the same in all: its start and its noise are those that the others share."""
    own, same_init, shared = (arrays("--n", 4, *solver, *extra) for extra in ([], ["--same-init"], ["--share-noise"]))
    for variant in (same_init, shared):
        assert np.array_equal(variant[0], own[0])
        assert len({image.tobytes() for image in variant}) == 4
        assert not np.array_equal(variant[1:], own[1:])
    assert not np.array_equal(same_init[1:], shared[1:])


def test_a_deterministic_sampler_has_no_noise_to_share(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    same = cli("sample", "--run", tiny_run, "--n", 3, "--same-init", "--out", "same")
    assert "abm draws no noise per step: all images will be the same" in same.err
    assert len(set(grid_of(tmp_path / "same", 3))) == 1
    shared = cli("sample", "--run", tiny_run, "--n", 3, "--share-noise", "--sampler", "ddim", "--out", "shared")
    assert "ddim draws no noise per step: --share-noise changes nothing" in shared.err
    assert cli("sample", "--run", tiny_run, "--n", 3, "--sampler", "ddim", "--out", "own").err.count("warning") == 0
    assert grid_of(tmp_path / "shared", 3) == grid_of(tmp_path / "own", 3)


def test_the_name_of_a_grid_tells_how_it_was_made(cli: Cli, tiny_run: Path, photos: Path) -> None:
    names = set()
    for extra in (
        [],
        ["--sampler", "ddim", "--eta", 1],
        ["--sampler", "ddim", "--eta", 1, "--same-init"],
        ["--sampler", "ddim", "--eta", 1, "--share-noise"],
        ["--interpolate", 5],
        ["--init-image", photos / "0.png"],
        ["--init-image", photos / "0.png", "--strength", 0.3],
        ["--init-image", photos / "0.png", "--init-blurred"],
    ):
        names.add(cli("sample", "--run", tiny_run, "--n", 2, *extra).out)
    assert len(names) == 8


def test_without_any_run_the_bundled_model_is_used(cli: Cli, tmp_path: Path) -> None:
    done = cli("sample", "--n", 2, "--steps", 2, "--out", "a.npz")
    assert done.code == 0, done.err
    assert "using the bundled model (--weights shapes-blur)" in " ".join(done.err.split())
    (tmp_path / "shapes-blur").mkdir()  # a run folder, seen from runs/
    assert cli("sample", "--weights", "shapes-blur", "--n", 2, "--steps", 2, "--out", "b.npz").code == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert cli("animate", "p.gif", "--n", 1, "--steps", 2).code == 0
    done = cli("plot")
    assert done.code == 2
    assert "no run with weights in runs/" in done.err


def test_the_newest_run_is_preferred_to_the_bundled_model(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "runs" / "mine")
    done = cli("sample", "--n", 1)
    assert "using runs/mine/weights/step-00000003.safetensors" in done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_asked_for_and_absent(cli: Cli, tiny_run: Path) -> None:
    done = cli("sample", "--run", tiny_run, "--device", "cuda")
    assert done.code == 2
    assert "--device cuda: PyTorch finds no such device; use cpu" in done.err
    assert choose_device("auto").type == "cpu"


# presets and errors


def test_presets(cli: Cli) -> None:
    listed = cli("presets").out
    assert "cifar10-blur-paper" in listed
    assert set(json.loads(cli("presets", "--json").out)) >= {"shapes-blur", "mnist-blur"}
    shown = cli("presets", "shapes-blur").out
    assert yaml.safe_load(shown)["data"]["source"] == "shapes"
    assert "# largest blur, in pixels; 0 is plain denoising diffusion" in shown
    assert json.loads(cli("presets", "shapes-blur", "--json").out) == yaml.safe_load(shown)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["train"], 2, "train needs --data FOLDER with your images, or --preset NAME"),
        (["train", "--run", "absent"], 2, "no run to continue"),
        (["train", "--preset", "shapes-blr"], 2, "did you mean 'shapes-blur'?"),
        (["train", "--preset", "absent.yaml"], 2, "absent.yaml: no such file"),
        (["train", "--preset", "shapes-blur", "--set", "train.stepz=3"], 2, "did you mean 'train.steps'?"),
        (["train", "--preset", "shapes-blur", "--set", "train.steps"], 2, "use key=value"),
        (["train", "--preset", "folder-blur"], 2, "name your images with --data"),
        (["train", "--preset", "folder-blur", "--data", "empty"], 2, "no images in it"),
        (["train", "--preset", "folder-blur", "--data", "broken"], 1, "a.png: not a readable image"),
        (["train", "--preset", "shapes-blur", "--run", "broken/a.png/r"], 1, "cannot be written"),
        (["presets", "cifar"], 2, "preset 'cifar' is unknown"),
        (["paint"], 2, "No such command 'paint'"),
    ],
)
def test_wrong_usage(cli: Cli, tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("not a picture")
    done = cli(*arguments)
    assert done.code == code
    assert text in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(cli: Cli) -> None:
    for arguments in (["--debug", "presets", "absent"], ["presets", "absent", "--debug"]):
        done = cli(*arguments)
        assert done.code == 2
        assert "Traceback" in done.err
        assert "preset 'absent' is unknown" in done.err


def test_an_unexpected_error_is_reported_as_a_bug(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("blurcli.config.preset_names", fail)
    done = cli("presets")
    assert done.code == 1
    assert "ZeroDivisionError: division by zero (a bug in blurdiff: --debug shows where)" in done.err
    assert "Traceback" not in done.err


def test_sampling_into_a_folder_continues(tiny_run: Path, cli: Cli, tmp_path: Path) -> None:
    """As a process that was killed leaves it: images, half an image, and the record."""
    sample = ("sample", "--run", tiny_run, "--n", 12, "--batch-size", 5)
    assert cli(*sample, "--out", "whole").code == 0
    assert cli(*sample, "--out", "broken").code == 0
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert grid_of(whole, 12) == grid_of(broken, 12)

    drawn = itertools.count()

    def drawing(pixels: NDArray[np.uint8]) -> Image.Image:
        if next(drawn) == 7:
            raise KeyboardInterrupt
        return picture(pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_folder, "picture", drawing)
        assert cli(*sample, "--out", "killed").code == 130
    killed = tmp_path / "killed"
    assert len(list(killed.glob("*.png"))) == 7
    (killed / ".partial-000007-x.png").write_bytes(b"half")
    other = cli(*sample, "--seed", 1, "--out", "killed")
    assert other.code == 2
    assert "killed: holds images of other settings: seed 0 (now 1); choose another folder with --out" in other.err
    fewer = cli("sample", "--run", tiny_run, "--n", 6, "--out", "killed")
    assert (fewer.code, "killed: holds 7 images, more than --n 6" in fewer.err) == (2, True)
    done = cli(*sample, "--out", "killed")
    assert done.code == 0, done.err
    assert "killed: continuing after 7 of 12 images" in done.err
    assert grid_of(killed, 12) == grid_of(whole, 12)


def test_a_disk_too_small_for_an_array(tiny_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 5))  # type: ignore[attr-defined]
    done = cli("sample", "--run", tiny_run, "--n", 2, "--out", "a.npz")
    assert (done.code, "a.npz: needs about 1 MiB, and 0 MiB are free; choose another disk" in done.err) == (1, True)
    assert not (tmp_path / "a.npz").exists()
