"""Scores of restored images: against direct computations, and as records."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from gaussian_photos import SIDE, drawn, save_model
from PIL import Image
from scipy import ndimage

from blurcli.data.photos import Photo
from blurcli.evaluate.restoration import degrade, psnr, ssim
from blurcli.model.restore_options import RestoreOptions

pytest.importorskip("skimage", reason="SSIM is scikit-image's")


def photo(seed: int, shape: tuple[int, int] = (SIDE, SIDE)) -> Photo:
    return Photo(np.rint(drawn(shape, seed=seed)).clip(0, 255))


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        photo(i).picture().save(folder / f"{i:02d}.png")
    return folder


def test_damage_is_what_the_options_tell() -> None:
    truth = photo(0, (40, 60))
    blurred = degrade(truth, RestoreOptions(blur=1.5), 0)
    expected = ndimage.gaussian_filter(truth.pixels, (0, 1.5, 1.5), mode="reflect", truncate=8)
    assert np.abs(blurred.pixels - expected).max() <= 1
    noisy, again, other = (degrade(truth, RestoreOptions(noise=8), seed).pixels for seed in (0, 0, 1))
    assert (noisy - truth.pixels).std() == pytest.approx(8, rel=0.05)
    assert (noisy == again).all()
    assert (noisy != other).any()
    reduced = degrade(photo(0, (41, 60)), RestoreOptions(enlarge=2), 0)
    assert reduced.pixels.shape == (3, 20, 30)


def test_every_damage_has_a_name_of_its_own() -> None:
    """Scores are comparable where the damage has the same name."""
    kernels = [np.eye(3) / 3, np.fliplr(np.eye(3)) / 3]
    masks = [np.arange(16).reshape(4, 4) < 4, np.arange(16).reshape(4, 4) >= 12]
    options = [RestoreOptions(**{name: value}) for name in ("blur", "defocus", "noise") for value in (1.0, 2.0)]
    options += [
        RestoreOptions(enlarge=2),
        RestoreOptions(enlarge=3),
        RestoreOptions(motion=(3, 0)),
        RestoreOptions(motion=(3, 9)),
    ]
    options += [RestoreOptions(kernel=kernel) for kernel in kernels] + [RestoreOptions(mask=mask) for mask in masks]
    assert len({one.damage for one in options}) == len(options)


def test_scores_are_by_their_formulas() -> None:
    one, other = Photo(np.full((3, 16, 16), 100.4)), Photo(np.full((3, 16, 16), 110.0))
    assert psnr(one, other) == pytest.approx(10 * np.log10(255**2 / 100))  # of rounded pixels
    assert psnr(Photo(np.full((1, 8, 8), 300.0)), Photo(np.full((1, 8, 8), 255.0))) > 100  # and clipped ones
    truth = photo(0, (40, 40))
    assert ssim(truth, truth) == pytest.approx(1)
    assert ssim(degrade(truth, RestoreOptions(blur=2), 0), truth) < 0.9


def test_a_score_is_recorded_and_ranked(cli: Cli, tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.safetensors", learned=0.0), images(tmp_path / "data", 6)
    command = [
        "restore",
        "--score",
        "--data",
        data,
        "--split",
        "train",
        "--weights",
        model,
        "--n",
        6,
        "--blur",
        1.5,
        "--noise",
        6,
    ]
    done = cli(*command, "--temperature", 0, "--json")
    assert done.code == 0, done.err
    score = json.loads(done.out)
    options = RestoreOptions(blur=1.5, noise=6)
    given = [psnr(degrade(photo(i), options, i), photo(i)) for i in range(6)]
    assert score["psnr_given"] == pytest.approx(np.mean(given))
    assert score["psnr"] > score["psnr_given"] + 1  # the model is exact
    assert score["damage"] == "blur 1.5 px, noise 6"
    assert (score["n"], score["temperature"], score["steps"], score["coverage"]) == (6, 0, 10, None)
    (line,) = (tmp_path / "runs/evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["psnr"] == score["psnr"]
    text = cli(*command, "--mean", "--n", 3)
    assert re.search(r"\(coverage\): [\d.]+%\nmeans of 8x8 pixels, likewise: [\d.]+%\n", text.out)
    shown = cli("results")
    assert "PSNR in dB, of images restored after blur 1.5 px, noise 6, seed 0: 6 images" in shown.out
    assert "abm temperature 1 mean of 8" in shown.out


def test_coverage_is_that_of_an_exact_posterior(cli: Cli, tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.safetensors", learned=0.0), images(tmp_path / "data", 12)
    command = ["restore", "--score", "--data", data, "--split", "train", "--weights", model, "--steps", 2, "--json"]
    score = json.loads(cli(*command, "--blur", 1.5, "--noise", 6, "--mean").out)
    assert score["coverage"] == pytest.approx(0.9, abs=0.03)
    assert 0.8 < score["coverage_of_means"] <= 1  # of 12 images of 3 channels and 4 boxes
    assert score["draws"] == 8


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--score",), "--score: needs the damage, such as --blur 2 --noise 6"),
        (("--score", "photo.png", "--blur", 2), "--score: takes its images from --data"),
        (("photo.png", "--data", "data"), "--data, --split, --features: are for --score"),
    ],
)
def test_what_makes_no_sense_is_refused(options: tuple[object, ...], problem: str, cli: Cli, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m.safetensors")
    Image.new("RGB", (20, 20)).save("photo.png")
    done = cli("restore", *options, "--weights", model)
    assert done.code == 2
    assert problem in " ".join(done.err.split())
