"""`blurdiff restore` and `Model.restore`: photos in, photos out."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from gaussian_photos import SETTINGS, array_of, damaged, drawn, encoded, moments, save_model, to_image
from numpy.typing import NDArray
from PIL import Image

import blurcli as bd
from blurcli import bundled
from blurcli.base import files
from blurcli.config import load_config, parse_overrides
from blurcli.core.measurements import Convolution, defocus
from blurcli.core.windows import window_places
from blurcli.data.photos import Photo, from_picture
from blurcli.families import ModelData
from blurcli.model.inference import build_network
from blurcli.model.pipeline import Pipeline
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restorer import Restorer
from blurcli.model.weights import Weights, load_weights, save_weights

QUICK = ("--steps", 2)
KNOWN = (*QUICK, "--blur", 0.5, "--noise", 2)  # without an estimate, which takes longest
SHARP = drawn((40, 48))
ALPHA = np.random.default_rng(1).integers(0, 256, (40, 48)).astype(np.uint8)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "color.safetensors")
    save_model(folder / "gray.safetensors", 1)
    save_model(folder / "other.safetensors", learned=0.1)
    return folder


@pytest.fixture
def weights(models: Path) -> tuple[str, Path]:
    return "--weights", models / "color.safetensors"


def psnr(one: NDArray[Any], other: NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / ((one - np.rint(other).clip(0, 255).transpose(1, 2, 0)) ** 2).mean()))


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not Path(name).name.startswith(".") and name != "restore.csv"}


# Blur and noise, estimated


def test_blur_and_noise_are_found_and_removed(cli: Cli, weights: tuple[str, Path]) -> None:
    truth = drawn((64, 80))
    given = to_image(damaged(truth, 1.5, 4.0))
    given.save("photo.png")
    done = cli("restore", "photo.png", *weights, "--steps", 4, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    (facts,) = report["photos"]
    assert (report["out"], facts["out"], facts["photo"]) == ("photo-restored.png", "photo-restored.png", "photo.png")
    assert facts["blur"] == pytest.approx(1.5, rel=0.15)
    assert facts["noise"] == pytest.approx(4, rel=0.15)
    assert facts["blur_interval"][0] < 1.5 < facts["blur_interval"][1]
    assert facts["noise_interval"][0] < 4 < facts["noise_interval"][1]
    assert (facts["estimated"], facts["temperature"], facts["calls"]) == (["blur", "noise"], 0.5, 4)
    assert 0.7 < facts["residual_over_noise"] < 1.2
    assert facts["seconds"] >= 0
    assert "photo.png: blur 1." in done.err
    assert "use --blur and --noise to change it; residual 0." in done.err
    assert psnr(array_of(Path("photo-restored.png")), truth) > psnr(np.asarray(given), truth) + 1
    text = cli("restore", "photo.png", *weights, *QUICK)
    assert text.out == "photo-restored.png\n"


def test_a_sharp_photo_is_hardly_changed(cli: Cli, weights: tuple[str, Path]) -> None:
    to_image(drawn((64, 80))).save("photo.png")
    done = cli("restore", "photo.png", *weights, *QUICK, "--temperature", 0, "--json")
    (facts,) = json.loads(done.out)["photos"]
    assert facts["blur"] == 0
    assert "as sharp as the training photos" in done.err
    assert np.abs(array_of(Path("photo-restored.png")) - array_of(Path("photo.png"))).mean() < 1


def test_the_bundled_model_restores_photos(cli: Cli) -> None:
    from matplotlib import cbook

    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as whole:
        truth = np.asarray(whole.crop((190, 70, 254, 134))).transpose(2, 0, 1).astype(float)
    to_image(damaged(truth, 1.5, 4.0)).save("photo.png")
    done = cli("restore", "photo.png", "--steps", 2, "--temperature", 0, "--json")
    assert done.code == 0, done.err
    assert 0.8 < json.loads(done.out)["photos"][0]["blur"] < 2.2
    named = cli("restore", "photo.png", "--steps", 2, "--temperature", 0, "--weights", "photos", "--out", "named.png")
    assert named.code == 0, named.err
    assert Path("named.png").read_bytes() == Path("photo-restored.png").read_bytes()
    assert psnr(array_of(Path("named.png")), truth) > psnr(array_of(Path("photo.png")), truth) + 1


def test_the_bundled_model_leaves_a_sharp_photo(cli: Cli) -> None:
    from matplotlib import cbook

    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as whole:
        whole.crop((158, 40, 254, 136)).save("photo.png")
    done = cli("restore", "photo.png", "--steps", 2, "--temperature", 0, "--json")
    assert json.loads(done.out)["photos"][0]["blur"] == 0
    assert np.abs(array_of(Path("named.png" if done.code else "photo-restored.png")) - array_of(Path("photo.png"))).mean() < 1


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_photo_without_content(cli: Cli, weights: tuple[str, Path], value: int) -> None:
    Image.new("RGB", (40, 24), (value,) * 3).save("photo.png")
    done = cli("restore", "photo.png", *weights, *QUICK, "--temperature", 0)
    assert done.code == 0, done.err
    assert np.abs(array_of(Path("photo-restored.png")) - value).max() <= 1


# What is given


@pytest.fixture
def photo() -> Image.Image:
    return to_image(damaged(SHARP, 1.0, 3.0))


BLURS: dict[str, tuple[tuple[Any, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "defocus": (("--defocus", 2.5), lambda x: defocus((40, 48), 2.5).apply(x)),
    "motion": (("--motion", "7,30"), lambda x: Convolution(bd_motion(7, 30)).apply(x)),
    "kernel": (("--kernel", "k.png"), lambda x: Convolution(COMET / COMET.sum()).apply(x)),
    "array": (("--kernel", "k.npy"), lambda x: Convolution(COMET / COMET.sum()).apply(x)),
}
COMET = torch.tensor([[0, 0, 60, 0, 0], [0, 0, 120, 0, 0], [0, 40, 200, 60, 0], [0, 0, 60, 0, 0], [0, 0, 30, 0, 0]]).double()


def bd_motion(length: float, angle: float) -> torch.Tensor:
    from blurcli.core.kernels import motion

    return motion(length, angle)


@pytest.mark.parametrize("name", BLURS)
def test_a_given_blur_is_taken_away(cli: Cli, weights: tuple[str, Path], name: str) -> None:
    flags, blur = BLURS[name]
    Image.fromarray(COMET.numpy().astype(np.uint8)).save("k.png")
    np.save("k.npy", COMET.numpy())
    given = damaged(blur(torch.from_numpy(SHARP)[None])[0].numpy(), noise=2.0)
    to_image(given).save("photo.png")
    done = cli("restore", "photo.png", *weights, *QUICK, *flags, "--temperature", 0, "--json")
    assert done.code == 0, done.err
    (facts,) = json.loads(done.out)["photos"]
    assert (facts["estimated"], facts["blur_interval"]) == (["noise"], None)
    assert facts["noise"] == pytest.approx(2, rel=0.25)
    assert 0.6 < facts["residual_over_noise"] < 1.3
    assert psnr(array_of(Path("photo-restored.png")), SHARP) > psnr(array_of(Path("photo.png")), SHARP) + 1.5
    assert ("k.png: a kernel of 3x5 pixels" in done.err) == (name == "kernel")


def test_a_motion_has_a_direction(cli: Cli, weights: tuple[str, Path]) -> None:
    """Counterclockwise from the horizontal: the other direction fits worse."""
    blurred = Convolution(bd_motion(9, 30)).apply(torch.from_numpy(SHARP)[None])[0].numpy()
    to_image(damaged(blurred, noise=1.0)).save("photo.png")
    scores = []
    for angle in (30, 150):
        assert cli("restore", "photo.png", *weights, *QUICK, "--motion", f"9,{angle}", "--temperature", 0).code == 0
        scores.append(psnr(array_of(Path("photo-restored.png")), SHARP))
    assert scores[0] > scores[1] + 2


FLAGS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "blur": (("--noise", 3), ("--blur", 1.0)),
    "defocus": (("--noise", 3), ("--defocus", 2)),
    "motion": (("--noise", 3), ("--motion", "5,20")),
    "kernel": (("--noise", 3), ("--kernel", "k.png")),
    "noise": (("--blur", 1), ("--noise", 9)),
    "enlarge": ((), ("--enlarge", 2)),
    "mask": ((), ("--mask", "mask.png")),
    "mask-grow": (("--mask", "mask.png"), ("--mask-grow", 2)),
    "strength": ((), ("--strength", 0.5)),
    "temperature": ((), ("--temperature", 1)),
    "mean": (("--n", 2, "--temperature", 0.5, "--out", "x.png"), ("--mean",)),
    "steps": ((), ("--steps", 5)),
    "seed": ((), ("--seed", 1)),
    "weights": ((), ("--weights", "other.safetensors")),
    "precision": ((), ("--precision", "bf16")),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_do_something(cli: Cli, models: Path, weights: tuple[str, Path], photo: Image.Image, flag: str) -> None:
    photo.save("photo.png")
    Image.fromarray(COMET.numpy().astype(np.uint8)).save("k.png")
    hole().save("mask.png")
    shutil.copy(models / "other.safetensors", "other.safetensors")
    base, changed = FLAGS[flag]
    if flag == "mean":
        base = base[:-2]
    results = []
    for flags in (base, base, (*base, *changed)):
        done = cli("restore", "photo.png", *weights, *QUICK, *flags)
        assert done.code == 0, done.err
        first = Path("photo-restored.png")
        results.append(np.asarray(Image.open(first if first.exists() else "photo-restored/photo/000000.png")).tobytes())
        shutil.rmtree("photo-restored", ignore_errors=True)
        first.unlink(missing_ok=True)
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_run_restores_as_its_weights(cli: Cli, tiny_run: Path, photo: Image.Image) -> None:
    photo.save("photo.png")
    newest = max((tiny_run / "weights").glob("*.safetensors"))
    for flags in (("--run", tiny_run, "--out", "run.png"), ("--weights", newest, "--out", "weights.png")):
        done = cli("restore", "photo.png", *QUICK, *flags)
        assert done.code == 0, done.err
    assert Path("run.png").read_bytes() == Path("weights.png").read_bytes()


def test_enlarging_agrees_with_the_photo(cli: Cli, weights: tuple[str, Path]) -> None:
    """Each pixel of the photo is the mean of those of the result, up to rounding."""
    small = np.rint(SHARP.reshape(3, 20, 2, 24, 2).mean((2, 4))).clip(5, 250)
    to_image(small).save("photo.png")
    done = cli("restore", "photo.png", *weights, *QUICK, "--enlarge", 2, "--noise", 0, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["photos"][0]["temperature"] == 0.5
    large = array_of(Path("photo-restored.png"))
    assert large.shape == (40, 48, 3)
    again = large.reshape(20, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(again - small.transpose(1, 2, 0)).mean() < 1
    assert psnr(large, SHARP) > psnr(small.repeat(2, 1).repeat(2, 2).transpose(1, 2, 0), SHARP) + 0.5


def hole(height: int = 40, width: int = 48) -> Image.Image:
    mask = np.zeros((height, width), np.uint8)
    mask[10:18, 20:30] = 255
    mask[30, 5] = 1
    return Image.fromarray(mask)


@pytest.mark.parametrize("temperature", [0, None])
def test_a_mask_alone_leaves_every_other_pixel(cli: Cli, weights: tuple[str, Path], temperature: float | None) -> None:
    given = np.asarray(to_image(damaged(SHARP * 1.3 - 30, noise=4.0))).copy()  # some are clipped
    filled = np.asarray(hole()) > 0
    given[filled] = (255, 0, 255)
    Image.fromarray(given).save("photo.png")
    hole().save("mask.png")
    flags = () if temperature is None else ("--temperature", temperature)
    done = cli("restore", "photo.png", *weights, *QUICK, "--mask", "mask.png", *flags, "--json")
    assert done.code == 0, done.err
    (facts,) = json.loads(done.out)["photos"]
    assert (facts["estimated"], facts["temperature"]) == ([], 0.5 if temperature is None else 0)
    result = array_of(Path("photo-restored.png"))
    assert np.array_equal(result[~filled], given[~filled])
    truth = (SHARP * 1.3 - 30).clip(0, 255).transpose(1, 2, 0)
    assert np.abs(result - truth)[filled].mean() < 40
    assert np.abs(result - given)[filled].min(-1).max() > 20


def test_a_mask_with_a_blur_restores_the_rest_as_well(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    photo.save("photo.png")
    hole().save("mask.png")
    done = cli("restore", "photo.png", *weights, *QUICK, "--mask", "mask.png", "--blur", 1, "--noise", 3, "--temperature", 0)
    assert done.code == 0, done.err
    result = array_of(Path("photo-restored.png"))
    assert psnr(result, SHARP) > psnr(np.asarray(photo), SHARP)


def test_temperature_zero_has_no_seed(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    photo.save("photo.png")
    hole().save("mask.png")
    results = {}
    for temperature in (0, 1):
        for seed in (0, 1):
            for flags in ((), ("--mask", "mask.png")):
                command = ("restore", "photo.png", *weights, *KNOWN, "--temperature", temperature, "--seed", seed, *flags)
                assert cli(*command).code == 0
                results[temperature, seed, flags] = Path("photo-restored.png").read_bytes()
    assert len(set(results.values())) == 2 + 4


def test_no_noise_is_that_of_rounding(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    photo.save("photo.png")
    done = cli("restore", "photo.png", *weights, *QUICK, "--noise", 0, "--blur", 0, "--temperature", 0, "--json")
    assert done.code == 0, done.err
    (facts,) = json.loads(done.out)["photos"]
    assert facts["noise"] == pytest.approx(1 / 12**0.5, abs=0.01)
    assert np.abs(array_of(Path("photo-restored.png")) - np.asarray(photo)).max() <= 1


# Draws


def test_draws_are_a_folder_per_photo(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    photo.save("photo.png")
    flags = (*weights, *QUICK, "--blur", 1, "--noise", 3, "--temperature", 1)
    done = cli("restore", "photo.png", *flags, "--n", 3, "--out", "out", "--compare", "--json")
    assert done.code == 0, done.err
    names = {"photo/000000.png", "photo/000001.png", "photo/000002.png", "photo-compare.png", "sampling.json"}
    assert set(contents(Path("out"))) == names
    assert json.loads(done.out)["photos"][0]["out"] == str(Path("out/photo"))
    draws = np.stack([array_of(Path(f"out/photo/{i:06d}.png")) for i in range(3)])
    assert draws.std(0).mean() > 1
    assert cli("restore", "photo.png", *flags, "--out", "one.png").code == 0
    assert Path("one.png").read_bytes() == Path("out/photo/000000.png").read_bytes()
    assert cli("restore", "photo.png", *flags, "--n", 3).code == 0
    assert contents(Path("photo-restored")).keys() == names - {"photo-compare.png"}


def test_mean_and_spread_are_those_of_the_draws(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    """Of the draws before they are rounded, as Python has them."""
    photo.save("photo.png")
    flags = (*weights, *QUICK, "--blur", 1, "--noise", 3, "--n", 4)
    assert cli("restore", "photo.png", *flags, "--temperature", 1, "--out", "draws").code == 0
    draws = np.stack([array_of(Path(f"draws/photo/{i:06d}.png")) for i in range(4)])
    done = cli("restore", "photo.png", *flags, "--mean", "--spread", "--compare", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["photos"][0]["temperature"] == 1
    assert np.abs(array_of(Path("photo-restored.png")) - draws.mean(0)).max() <= 1
    with Image.open("photo-restored-spread.png") as stored:
        assert stored.mode.startswith("I;16")
        spread = np.asarray(stored) / 256
    assert spread == pytest.approx(np.sqrt(draws.var(0, ddof=1).mean(-1)), abs=0.6)
    exact = bd.load(weights[1]).restore(photo, blur=1.0, noise=3.0, n=4, temperature=1.0, steps=2)
    assert spread == pytest.approx(exact.spread, abs=0.003)
    assert np.abs(array_of(Path("photo-restored.png")) - exact.mean).max() <= 0.501
    assert Image.open("photo-restored-compare.png").width > 3 * 48
    few = cli("restore", "photo.png", *weights, *QUICK, "--spread", "--blur", 1, "--noise", 3, "--out", "eight")
    assert few.code == 0, few.err
    assert len(list(Path("eight/photo").iterdir())) == 8
    assert Path("eight/photo-spread.png").is_file()


def test_a_comparison_shows_given_restored_and_spread(cli: Cli, weights: tuple[str, Path]) -> None:
    small = to_image(SHARP[:, ::2, ::2])
    small.save("photo.png")
    done = cli("restore", "photo.png", *weights, *QUICK, "--enlarge", 2, "--compare", "--out", "x/y.jpg")
    assert done.code == 0, done.err
    shown = array_of(Path("x/y-compare.png"))
    blocks = np.asarray(small).astype(float).repeat(2, 0).repeat(2, 1)
    assert any(
        np.array_equal(shown[y : y + 40, x : x + 48], blocks)
        for y in range(shown.shape[0] - 39)
        for x in range(shown.shape[1] - 47)
    )
    assert b"made by blurdiff" in Path("x/y-compare.png").read_bytes()
    # A single result is what it is without a comparison, and the spread is that of draws at temperature 1.
    assert cli("restore", "photo.png", *weights, *QUICK, "--enlarge", 2, "--out", "x/alone.jpg").code == 0
    assert Path("x/alone.jpg").read_bytes() == Path("x/y.jpg").read_bytes()
    *_, panel = np.split(shown[-40:], np.flatnonzero((shown[-40:] == shown[-1, 0]).all((0, 2))), 1)
    assert panel.mean() > 1


# Kinds of photos


def restored(cli: Cli, image: Image.Image, *flags: object, name: str = "photo.png", out: str = "out.png") -> Image.Image:
    image.save(name)
    done = cli("restore", name, *QUICK, "--blur", 0.7, "--noise", 2, "--temperature", 0, "--out", out, *flags)
    assert done.code == 0, done.err
    with Image.open(out) as result:
        result.load()
        return result


def test_a_gray_photo_stays_gray(cli: Cli, models: Path) -> None:
    gray = to_image(drawn((40, 48), 1))
    for model in ("color", "gray"):
        result = restored(cli, gray, "--weights", models / f"{model}.safetensors")
        assert (result.mode, result.size) == ("L", (48, 40))
        assert 0.2 < np.abs(np.asarray(result).astype(float) - np.asarray(gray)).mean() < 10


def test_blur_and_noise_of_a_gray_photo_are_found_by_a_color_model(cli: Cli, models: Path) -> None:
    to_image(damaged(drawn((64, 80), 1), 1.5, 4.0)).save("photo.png")
    for model in ("color", "gray"):
        done = cli("restore", "photo.png", *QUICK, "--weights", models / f"{model}.safetensors", "--json")
        (facts,) = json.loads(done.out)["photos"]
        assert facts["blur"] == pytest.approx(1.5, rel=0.2)
        assert facts["noise"] == pytest.approx(4, rel=0.2)


def test_a_color_photo_with_a_gray_model(cli: Cli, models: Path, photo: Image.Image) -> None:
    """Each color as a gray photo of its own."""
    model = ("--weights", models / "gray.safetensors")
    result = np.asarray(restored(cli, photo, *model))
    for i, channel in enumerate(photo.split()):
        alone = restored(cli, channel, *model)
        assert np.abs(np.asarray(alone).astype(int) - result[..., i]).max() <= 1


@pytest.mark.parametrize(("suffix", "model"), [("png", "gray"), ("tif", "color")])
def test_sixteen_bits_keep_their_depth(cli: Cli, models: Path, suffix: str, model: str) -> None:
    ramp = np.linspace(2000, 60000, 64 * 64).reshape(64, 64).astype(np.uint16)
    flags = ("--weights", models / f"{model}.safetensors", "--noise", 0, "--blur", 0)
    result = restored(cli, Image.fromarray(ramp), *flags, name=f"photo.{suffix}", out=f"out.{suffix}")
    assert result.mode.startswith("I;16")
    values = np.asarray(result)
    assert len(np.unique(values)) > 4000
    assert np.abs(values.astype(float) - ramp).max() < 5
    holes = restored(cli, Image.fromarray(ramp), *flags[:2], name=f"photo.{suffix}", out=f"out.{suffix}")
    assert len(np.unique(np.asarray(holes))) > 2000


@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "RGBA", "LA", "YCbCr"])
def test_photos_of_other_modes(cli: Cli, weights: tuple[str, Path], mode: str) -> None:
    image = to_image(SHARP).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(ALPHA))
    name = "photo.tif" if mode in ("CMYK", "YCbCr") else "photo.png"
    image.save(name)
    try:
        Image.open(name).load()
    except OSError:
        pytest.skip("this version of Pillow cannot read the YCbCr that it writes")
    result = restored(cli, image, *weights, "--enlarge", 2, name=name)
    expected = {"RGBA": "RGBA", "LA": "LA", "1": "L"}.get(mode, "RGB")
    assert (result.mode, result.size) == (expected, (96, 80))
    if mode in ("RGBA", "LA"):
        larger = Image.fromarray(ALPHA).resize((96, 80), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(result.getchannel("A")), np.asarray(larger))
    mean = np.asarray(result.convert("RGB")).mean((0, 1))
    assert mean == pytest.approx(np.asarray(Image.open(name).convert("RGB")).mean((0, 1)), abs=10 if mode == "1" else 4)


def test_a_turned_photo_is_upright_and_keeps_its_profile(cli: Cli, weights: tuple[str, Path]) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A maker"
    to_image(SHARP).save("turned.jpg", exif=exif, quality=95, icc_profile=b"a profile")
    done = cli("restore", "turned.jpg", *weights, *QUICK, "--temperature", 0, "--out", "out.jpg")
    assert done.code == 0, done.err
    with Image.open("out.jpg") as result:
        assert result.size == (40, 48)
        assert result.info["icc_profile"] == b"a profile"
        assert (result.getexif()[0x0112], result.getexif()[0x010F]) == (1, "A maker")
        upright = to_image(SHARP).transpose(Image.Transpose.ROTATE_270)
        assert np.abs(np.asarray(result).astype(float) - np.asarray(upright)).mean() < 12


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "trip.2026"
    (place / "day" / "one").mkdir(parents=True)
    to_image(damaged(drawn((20, 24), seed=1), 0.5, 2.0)).save(place / "a.jpg")
    to_image(damaged(drawn((20, 24), seed=2), 0.5, 2.0)).save(place / "a.png")
    to_image(damaged(drawn((24, 20), seed=3), 0.5, 2.0)).save(place / "day" / "one" / "b.png")
    to_image(damaged(drawn((24, 20), 1, seed=4), 0.5, 2.0)).save(place / "day" / "c.tif")
    (place / "notes.txt").write_text("no photo")
    return place


RESULTS = {"a.jpg.png", "a.png.png", "day/one/b.png", "day/c.png"}


def test_a_folder_is_mirrored(cli: Cli, weights: tuple[str, Path], folder: Path) -> None:
    done = cli("restore", folder.name, *weights, *KNOWN, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["out"] == "trip.2026-restored"
    assert {photo["photo"] for photo in report["photos"]} == {f"trip.2026/{name}" for name in photo_names(folder)}
    found = contents(Path("trip.2026-restored"))
    assert set(found) == {*RESULTS, "sampling.json"}
    assert "trip.2026: skipped: 1 without an image's suffix (.txt)" in done.err
    for name, result in (("a.jpg", "a.jpg.png"), ("day/one/b.png", "day/one/b.png"), ("day/c.tif", "day/c.png")):
        assert cli("restore", folder / name, *weights, *KNOWN, "--out", "alone.png").code == 0
        assert Path("alone.png").read_bytes() == found[result]
    with zipfile.ZipFile("trip.zip", "w") as archive:
        for name in photo_names(folder):
            archive.write(folder / name, name)
    done = cli("restore", "trip.zip", *weights, *KNOWN)
    assert done.code == 0, done.err
    assert contents(Path("trip-restored")) == found


def photo_names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.suffix in (".jpg", ".png", ".tif")
    )


def test_a_folder_of_one_photo_is_a_folder(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    Path("one/sub").mkdir(parents=True)
    photo.save("one/sub/x.png")
    assert cli("restore", "one", *weights, *KNOWN).code == 0
    assert set(contents(Path("one-restored"))) == {"sub/x.png", "sampling.json"}
    assert cli("restore", "one", *weights, *KNOWN, "--out", "x.png").code == 0
    assert Path("x.png").read_bytes() == Path("one-restored/sub/x.png").read_bytes()


def test_several_photos_make_a_folder(cli: Cli, weights: tuple[str, Path], folder: Path) -> None:
    done = cli("restore", folder / "a.jpg", folder / "day" / "c.tif", *weights, *KNOWN)
    assert done.code == 0, done.err
    assert set(contents(Path("trip.2026-restored"))) == {"a.png", "c.png", "sampling.json"}
    twice = cli("restore", folder / "a.jpg", folder / "a.jpg", *weights, *KNOWN, "--out", "twice")
    assert (twice.code, "a.jpg.png is the result of two photos" in twice.err) == (2, True)
    shutil.copy(folder / "a.png", folder / "day" / "c-spread.png")
    clash = cli("restore", folder / "day", *weights, *KNOWN, "--mean", "--spread", "--n", 2, "--out", "clash")
    assert (clash.code, "c-spread.png is the result of two photos" in clash.err) == (2, True)
    assert not Path("clash").exists()


def test_a_broken_photo_does_not_stop_the_others(cli: Cli, weights: tuple[str, Path], folder: Path) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:200])
    to_image(SHARP[:, :10, :10]).save(folder / "small.png")
    done = cli("restore", folder, "missing.png", *weights, *KNOWN, "--out", "out")
    assert done.code == 1
    for text in (
        "a.png: not a readable image",
        "small.png: the photo has 10x10 pixels",
        "missing.png: ",
        "3 of 6 photos could not",
    ):
        assert text in done.err, text
    assert "Traceback" not in done.err
    assert set(contents(Path("out"))) == {"a.jpg.png", "day/one/b.png", "day/c.png", "sampling.json"}


def test_a_stopped_folder_is_continued(
    cli: Cli, weights: tuple[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("restore", folder, *weights, *KNOWN, "--out")
    assert cli(*command, "whole").code == 0
    from blurcli.data.photos import Photo

    save, saved = Photo.save, []

    def stopped(photo: Photo, path: Path, comment: str) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        save(photo, path, comment)

    with monkeypatch.context() as patch:
        patch.setattr(Photo, "save", stopped)
        assert cli(*command, "part").code == 130
    assert len(contents(Path("part"))) == 3
    done = cli(*command, "part", "--json")
    assert done.code == 0, done.err
    assert "part: 2 of 4 photos were restored before" in done.err
    assert len(json.loads(done.out)["photos"]) == 2
    assert contents(Path("part")) == contents(Path("whole"))
    Path("part/day/c.png").write_bytes(Path("part/day/c.png").read_bytes()[:-9])
    assert cli(*command, "part").code == 0
    assert contents(Path("part")) == contents(Path("whole"))
    assert "4 of 4 photos were restored before" in cli(*command, "part").err


@pytest.mark.parametrize(
    ("flags", "change"),
    [
        (("--seed", 1), "seed 0 (now 1)"),
        (("--noise", 3), "noise none (now 3)"),
        (("--motion", "5,20"), "motion none (now [5.0, 20.0])"),
        (("--steps", 3), "steps 2 (now 3)"),
        (("--temperature", 1), "temperature 0.5 (now 1)"),
        (("--weights", "other.safetensors"), "weights "),
    ],
)
def test_other_settings_are_refused(
    cli: Cli, models: Path, weights: tuple[str, Path], folder: Path, flags: tuple[Any, ...], change: str
) -> None:
    shutil.copy(models / "other.safetensors", "other.safetensors")
    command = ("restore", folder / "day", *weights, *QUICK, "--out", "out")
    assert cli(*command).code == 0
    before = contents(Path("out"))
    refused = cli(*command, *flags)
    assert refused.code == 2
    assert f"out: holds images of other settings: {change}" in refused.err
    assert contents(Path("out")) == before


def test_a_comparison_is_added_to_a_finished_folder(cli: Cli, weights: tuple[str, Path], folder: Path) -> None:
    command = ("restore", folder / "day", *weights, *KNOWN, "--out", "out")
    assert cli(*command).code == 0
    before = contents(Path("out"))
    assert cli(*command, "--compare").code == 0
    after = contents(Path("out"))
    assert after.keys() - before.keys() == {"c-compare.png", "one/b-compare.png"}
    assert {name: after[name] for name in before} == before


def test_what_was_restored_is_no_photo_of_its_folder(cli: Cli, weights: tuple[str, Path], folder: Path) -> None:
    command = ("restore", folder, *weights, *KNOWN, "--out", folder / "out")
    assert cli(*command).code == 0
    shutil.copy(folder / "out" / "a.png.png", folder / "copy.png")
    done = cli(*command)
    assert done.code == 0, done.err
    assert "4 of 4 photos were restored before" in done.err


# Mistakes


def bad(*flags: object, text: str, code: int = 2) -> Any:
    return pytest.param(flags, code, text, id=" ".join(map(str, flags)) or "nothing")


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        bad(text="restore needs a photo or a folder of photos, or --demo"),
        bad("photo.png", "--demo", text="--demo: brings its own photo"),
        bad("small.png", text="has 10x12 pixels, and the model sees windows of 16x16"),
        bad("photo.png", "--blur", 30, text="--blur 30: leaves nothing of a photo of 48x40 pixels"),
        bad("photo.png", "--defocus", 30, text="--defocus 30: leaves nothing"),
        bad("photo.png", "--motion", "30,0", text="--motion 30,0: leaves nothing"),
        bad("photo.png", "--blur", "nan", text="--blur"),
        bad("photo.png", "--blur", "inf", text="--blur"),
        bad("photo.png", "--motion", "fast", text="--motion fast: must be a length and an angle, such as 9,30"),
        bad("photo.png", "--motion", "9,30,5", text="--motion 9,30,5: must be a length and an angle"),
        bad("photo.png", "--motion", "nan,0", text="--motion"),
        bad("photo.png", "--noise", 256, text="--noise"),
        bad("photo.png", "--enlarge", 17, text="--enlarge"),
        bad("photo.png", "--blur", 1, "--defocus", 2, text="--blur, --defocus: each is the blur of the photo; use one of them"),
        bad("photo.png", "--motion", "5,0", "--kernel", "k.png", text="--motion, --kernel: each is the blur"),
        bad("photo.png", "--kernel", "k.png", "--enlarge", 2, text="--kernel with --enlarge"),
        bad("photo.png", "--mask", "other.png", text="--mask: has 30x30 pixels, and the photo 48x40"),
        bad("photo.png", "--mask", "white.png", text="--mask: is all white: nothing of the photo is left"),
        bad("photo.png", "--mask", "black.png", text="--mask: is all black: there is nothing to fill"),
        bad("photo.png", "again.png", "--mask", "black.png", text="--mask black.png: is for one photo, and there are 2"),
        bad("photo.png", "--mask", "missing.png", text="missing.png: "),
        bad("photo.png", "--mask", "text.png", code=1, text="text.png: not a readable image"),
        bad("photo.png", "--kernel", "black.png", text="black.png: no blur kernel: it is empty"),
        bad("photo.png", "--kernel", "negative.npy", text="negative.npy: no blur kernel: it is flat, or most of it is below 0"),
        bad("photo.png", "--kernel", "large.png", text="--kernel: has 25x3 pixels, more than half of the photo's 48x40"),
        bad("photo.png", "--kernel", "missing.npy", text="missing.npy: "),
        bad("photo.png", "--kernel", "text.png", code=1, text="text.png: not a readable image"),
        bad("photo.png", "--n", 3, "--temperature", 0, text="--temperature 0: gives one image, the same for every draw"),
        bad("photo.png", "--mean", "--temperature", 0, text="leave out --n, --mean and --spread"),
        bad("photo.png", "--spread", "--n", 1, text="--spread: needs several draws; raise --n 1"),
        bad("photo.png", "--temperature", 2, text="--temperature"),
        bad("photo.png", "--steps", 0, text="--steps"),
        bad("photo.png", "--out", "x.gif", text="--out x.gif: unknown suffix; use .png, .jpg"),
        bad(
            "photo.png",
            "again.png",
            "--out",
            "x.png",
            text="--out x.png: is one picture, and there are 2 photos; name a folder",
        ),
        bad("photo.png", "--n", 2, "--out", "x.png", text="--out x.png: is one picture, and there are 2 draws; name a folder"),
        bad("alpha.png", "--out", "x.jpg", "--compare", text="--out x.jpg: JPEG has no transparency, and the photo has"),
        bad("deep.png", "--out", "x.webp", "--compare", text="--out x.webp: WEBP has 8 bits, and the photo has 16"),
        bad("missing.png", text="missing.png: "),
        bad("empty", text="empty: no images in it"),
        bad("text.png", code=1, text="text.png: not a readable image"),
        bad("float.tif", code=1, text="float.tif: not a readable image (floating-point values have no known range: "),
        bad("damaged.zip", code=1, text="damaged.zip: not a readable zip file"),
        bad("photo.png", "--out", "full", text="full: exists and is not an empty folder"),
        bad("photo.png", "--class", "cat", text="--class cat: this model has no classes"),
        bad("--demo", "--out", "x.jpg", text="--out x.jpg: with --demo it is one picture; name a .png"),
        bad("--demo", "--out", "x", text="--out x: with --demo"),
        bad("--demo", "--mask", "other.png", text="--mask: has 30x30 pixels, and the photo 256x256"),
        bad("--demo", "--blur", 90, text="--blur 90: leaves nothing"),
    ],
)
def test_mistakes_are_named(
    cli: Cli, weights: tuple[str, Path], photo: Image.Image, flags: tuple[object, ...], code: int, text: str
) -> None:
    for name in ("photo.png", "again.png"):
        photo.save(name)
    to_image(SHARP[:, :12, :10]).save("small.png")
    Image.new("L", (30, 30), 9).save("other.png")
    Image.new("L", (48, 40), 255).save("white.png")
    Image.new("L", (48, 40)).save("black.png")
    Image.fromarray(COMET.numpy().astype(np.uint8)).save("k.png")
    Image.new("L", (25, 3), 99).save("large.png")
    np.save("negative.npy", -COMET.numpy())
    Path("text.png").write_text("no image")
    Path("damaged.zip").write_text("no archive")
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Image.fromarray(np.zeros((40, 48), np.float32)).save("float.tif")
    Image.fromarray(np.zeros((40, 48), np.uint16)).save("deep.png")
    with_alpha = photo.copy()
    with_alpha.putalpha(9)
    with_alpha.save("alpha.png")
    before = contents(Path())
    done = cli("restore", *weights, *QUICK, *flags)
    assert done.code == code, done.err
    shown = " ".join(done.err.replace("│", " ").split())
    assert text in shown, shown
    assert done.out == ""
    assert "Traceback" not in done.err
    assert contents(Path()) == before


def test_kernels_are_put_right_with_a_line(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    photo.save("photo.png")
    Image.fromarray(np.full((2, 2), 200, np.uint8)).save("even.png")
    np.save("negative.npy", np.array([[0.0, -0.1, 0.0], [0.2, 0.6, 0.3]]))
    for name, text in (
        ("even.png", "even.png: a kernel of 3x3 pixels; its sides are made odd"),
        ("negative.npy", "negative.npy: a kernel of 3x1 pixels; values below 0 are cut, its sides are made odd"),
    ):
        done = cli("restore", "photo.png", *weights, *QUICK, "--kernel", name)
        assert done.code == 0, done.err
        assert text in done.err


def test_models_that_cannot_restore_say_so(cli: Cli, tmp_path: Path, photo: Image.Image) -> None:
    photo.save("photo.png")
    heat = load_config("shapes-heat", parse_overrides(SETTINGS))
    distilled = load_config("shapes-blur", parse_overrides(SETTINGS))
    sample = distilled.sample.model_copy(update={"sampler": "consistency", "steps": 2})
    distilled = distilled.model_copy(update={"objective": "consistency", "sample": sample})
    starts = {"starts": torch.zeros(4, 3, 16, 16, dtype=torch.uint8)}
    for name, config, extras in (("heat", heat, starts), ("distilled", distilled, {})):
        tensors = {key: tensor.detach() for key, tensor in build_network(config).state_dict().items()}
        save_weights(Weights(config, 1, tensors, ModelData(moments(3), None, extras), tmp_path / f"{name}.safetensors"))
    for name, text in (("heat", "this model uses heat dissipation"), ("distilled", "this model is distilled")):
        done = cli("restore", "photo.png", "--weights", f"{name}.safetensors")
        assert (done.code, text in done.err) == (2, True), done.err
        assert not Path("photo-restored.png").exists()
        with pytest.raises(bd.UsageError, match=text):
            bd.load(tmp_path / f"{name}.safetensors").restore(photo)


@pytest.mark.parametrize("flags", [(), ("--enlarge", 3), ("--n", 2, "--mean", "--temperature", 0.5), ("--noise", 9)])
def test_the_demo(cli: Cli, weights: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, flags: tuple[object, ...]) -> None:
    monkeypatch.setattr("blurcli.cli.restoration_score._DEMO_PX", 96)
    done = cli("restore", "--demo", *weights, "--steps", 1, *flags, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["out"] == "restore-demo.png"
    assert report["psnr"] > 20
    assert (report["psnr_given"] is None) == ("--enlarge" in flags)
    assert Image.open("restore-demo.png").width > 3 * 95
    if not flags:
        text = cli("restore", "--demo", *weights, "--steps", 1, "--out", "x/y.png").out.splitlines()
        assert text == [str(Path("x/y.png")), f"PSNR {report['psnr']:.2f} dB (given: {report['psnr_given']:.2f})"]


# Python


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, ()),
        (
            {"blur": 1.0, "noise": 3, "seed": 5, "temperature": 1.0},
            ("--blur", 1, "--noise", 3, "--seed", 5, "--temperature", 1),
        ),
        ({"motion": (5, 20), "noise": 2}, ("--motion", "5,20", "--noise", 2)),
        ({"enlarge": 2, "noise": 2}, ("--enlarge", 2, "--noise", 2)),
        ({"kernel": COMET.numpy()}, ("--kernel", "k.png")),
        ({"kernel": "k.png"}, ("--kernel", "k.png")),
        ({"defocus": 2, "mask": "mask.png"}, ("--defocus", 2, "--mask", "mask.png")),
        ({"mask": np.asarray(hole()) > 0}, ("--mask", "mask.png")),
        ({"mask": hole()}, ("--mask", "mask.png")),
        ({"blur": None, "noise": None, "enlarge": None, "seed": None, "mask": None, "n": None}, ()),
    ],
)
def test_python_gives_the_pixels_of_the_command_line(
    cli: Cli, models: Path, weights: tuple[str, Path], photo: Image.Image, options: dict[str, Any], flags: tuple[object, ...]
) -> None:
    photo.save("photo.png")
    Image.fromarray(COMET.numpy().astype(np.uint8)).save("k.png")
    hole().save("mask.png")
    assert cli("restore", "photo.png", *weights, *QUICK, *flags).code == 0
    model = bd.load(models / "color.safetensors")
    for given in ("photo.png", photo) if flags else (Path("photo.png"), np.asarray(photo)):
        result = model.restore(given, steps=2, **options)
        assert np.array_equal(np.asarray(result.image), array_of(Path("photo-restored.png")))
    assert result.save("python.png") == Path("python.png")
    assert Path("python.png").read_bytes() == Path("photo-restored.png").read_bytes()


def test_draws_in_python(models: Path, photo: Image.Image) -> None:
    model = bd.load(models / "color.safetensors")
    result = model.restore(photo, n=3, temperature=1.0, steps=2)
    assert (result.draws.shape, result.draws.dtype) == ((3, 40, 48, 3), np.float32)
    assert [np.array_equal(np.rint(draw), np.asarray(image)) for draw, image in zip(result.draws, result.images, strict=True)]
    assert result.mean == pytest.approx(result.draws.mean(0), abs=1e-3)
    assert result.spread == pytest.approx(np.sqrt(result.draws.var(0, ddof=1).mean(-1)), abs=1e-3)
    assert result.facts["estimated"] == ["blur", "noise"]
    assert repr(result).startswith("RestoredPhoto(3 of 40x48: ")
    assert "use blur and noise to change it" in repr(result)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result._repr_png_()))), np.asarray(result.image))
    with pytest.raises(bd.UsageError, match="`n` 1: a spread needs at least two draws"):
        _ = model.restore(photo, steps=1).spread
    gray = model.restore(np.asarray(photo)[..., :1], steps=1)
    assert gray.draws.shape == (1, 40, 48, 1)
    assert ", gray: " in repr(gray)
    assert gray.image.mode == "L"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"blur": -1}, "`blur` -1: must be at least 0"),
        ({"blur": 1, "defocus": 1}, "`blur`, `defocus`: each is the blur"),
        ({"noise": "much"}, "`noise` 'much': must be a number"),
        ({"noise": float("nan")}, "`noise` nan"),
        ({"noise": float("inf")}, "`noise` inf"),
        ({"temperature": 2}, "`temperature` 2: must be from 0"),
        ({"n": 0}, "`n` 0: must be at least 1"),
        ({"n": 2.5}, "`n` 2.5: must be a whole number"),
        ({"n": 2, "temperature": 0}, "`temperature` 0: gives one image"),
        ({"steps": 0}, "`steps` 0"),
        ({"enlarge": 17}, "`enlarge` 17: must be from 1 to 16"),
        ({"seed": 2**64}, "`seed` 18446744073709551616: must be from 0"),
        ({"motion": 9}, "`motion` 9: must be a length and an angle"),
        ({"motion": ("a", 3)}, "must be a length and an angle"),
        ({"kernel": np.ones((3, 3, 3))}, r"`kernel` of shape \(3, 3, 3\): must be \(h, w\)"),
        ({"kernel": np.zeros((3, 3))}, r"`kernel` of shape \(3, 3\): it is empty"),
        ({"mask": np.ones((3, 3), bool)}, "`mask`: has 3x3 pixels, and the photo 48x40"),
        ({"mask": Image.new("L", (48, 40))}, "`mask`: is all black"),
        ({"label": "cat"}, "`label` cat"),
    ],
)
def test_mistakes_in_python(models: Path, photo: Image.Image, options: dict[str, Any], text: str) -> None:
    with pytest.raises(bd.UsageError, match=text):
        bd.load(models / "color.safetensors").restore(photo, **options)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (np.zeros((40, 48), np.float32), "`photo` of float32: must be uint8"),
        (np.zeros((40, 48, 2), np.uint8), r"`photo` of shape \(40, 48, 2\)"),
        (np.zeros((40,), np.uint8), r"`photo` of shape \(40,\)"),
        (np.zeros((0, 48, 3), np.uint8), r"`photo` of shape \(0, 48, 3\)"),
        (Image.new("F", (48, 40)), "`photo` of mode F: floating-point values have no known range: save it with 8 or 16 bits"),
        (Image.new("L", (8, 8)), "the photo has 8x8 pixels"),
        ("missing.png", "missing.png"),
    ],
)
def test_photos_that_are_none(models: Path, given: Any, text: str) -> None:
    with pytest.raises(bd.UsageError, match=text):
        bd.load(models / "color.safetensors").restore(given)


def test_unknown_options_in_python(models: Path, photo: Image.Image) -> None:
    with pytest.raises(TypeError, match=r"restore\(\) has no option 'nose'.*noise"):
        bd.load(models / "color.safetensors").restore(photo, nose=3)


def test_a_photo_that_is_written_over_appears_whole(cli: Cli, weights: tuple[str, Path], photo: Image.Image) -> None:
    """A result that cannot be written leaves what was there."""
    photo.save("photo.png")
    Path("out.png").write_text("what was there")
    broken = pytest.MonkeyPatch()
    broken.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    try:
        done = cli("restore", "photo.png", *weights, *QUICK, "--out", "out.png")
    finally:
        broken.undo()
    assert done.code == 1
    assert "out.png: cannot be written (No space left on device)" in done.err
    assert Path("out.png").read_text() == "what was there"
    assert not list(Path().glob(f"{files.PARTIAL}*"))


def test_a_thumbnail_is_not_kept() -> None:
    """It would show the photo as it was, turned as it was."""
    exif = Image.Exif()
    exif[0x0112] = 1
    exif.get_ifd(1)[0x0201] = 99
    content = encoded(to_image(SHARP), "JPEG", exif=exif.tobytes())
    from blurcli.data.photos import read_photo

    kept = Image.Exif()
    kept.load(read_photo(content, "x").exif or b"")
    assert not kept.get_ifd(1)


def test_windows_leave_no_seams() -> None:
    """Where windows begin and end, a smooth slope with noise is as smooth as elsewhere."""
    model = Pipeline.from_weights(load_weights(bundled.PHOTOS_PATH), torch.device("cpu"))
    slope = np.broadcast_to(np.linspace(60, 190, 128), (3, 64, 128))
    given = np.rint(slope + 25 * np.random.default_rng(0).standard_normal(slope.shape)).clip(0, 255)
    restored = Restorer(model)(Photo(given), RestoreOptions(noise=25, blur=0, temperature=0, steps=3)).draws[0]
    assert np.abs(restored - slope).mean() < 0.4 * np.abs(given - slope).mean()
    steps = np.abs(np.diff(restored - slope, axis=2)).mean((0, 1))
    at_windows = np.zeros(len(steps), bool)
    for place in window_places(128, 32):
        at_windows[[column for column in (place - 1, place + 31) if 0 <= column < len(steps)]] = True
    assert steps[at_windows].mean() < 1.06 * steps[~at_windows].mean()  # blended without weights: 1.17


@pytest.mark.parametrize("guide", [None, "other"])
def test_progress_ends_at_the_number_of_windows(models: Path, photo: Image.Image, guide: str | None) -> None:
    model = bd.load(models / "color.safetensors", guide=guide and models / f"{guide}.safetensors").pipeline
    restorer, options, given = Restorer(model), RestoreOptions(noise=3, blur=1, n=2, steps=2), from_picture(photo)
    seen: list[float] = []
    restorer(given, options, seen.append)
    assert seen[-1] == pytest.approx(restorer.work(given, options))
    seen.clear()
    restorer.compared(given, replace(options, n=1), seen.append)
    assert seen[-1] == pytest.approx(restorer.work(given, replace(options, n=1), compared=True))
    assert seen == sorted(seen)
