"""Every option does what it says: none is dropped on its way from Python or the command line to the model and to the records."""

import functools
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Cli, settings
from PIL import Image

import blurcli as bd
from blurcli.base.runs import Run
from blurcli.config import Config, load_config, parse_overrides
from blurcli.data import load_dataset
from blurcli.evaluate import denoising
from blurcli.evaluate.features import load_features
from blurcli.evaluate.likelihood import likelihood_bound
from blurcli.families import LikelihoodConfig, ModelData, family_of
from blurcli.model import inference
from blurcli.model.inference import build_network
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import Classes, Weights, save_weights
from blurcli.visualize import markup, plots
from blurcli.workflows import benchmark

MODELS: dict[str, tuple[str, ...]] = {
    "plain": ("shapes-blur", "sample.sampler=ddim"),
    "weaker": ("shapes-blur", "seed=1"),
    "classes": ("shapes-blur", "sample.sampler=ddim", "data.classes=3"),
    "classes2": ("shapes-blur", "seed=2", "data.classes=3"),
    "undropped": ("shapes-blur", "data.classes=3", "optim.class_dropout=0"),
    "eps": ("shapes-blur", "sample.sampler=ddim", "objective=eps"),
    "heat": ("shapes-heat", "process.levels=6"),
}
# Model, options that are needed, the one that must change something, and the flags of them.
OPTIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[object, ...]]] = {
    "sampler": ("plain", {}, {"sampler": "abm"}, ("--sampler", "abm")),
    "steps": ("plain", {}, {"steps": 3}, ("--steps", 3)),
    "eta": ("plain", {}, {"eta": 0.5}, ("--eta", 0.5)),
    "delta": ("heat", {}, {"delta": 0.1}, ("--delta", 0.1)),
    "label": ("classes", {}, {"label": "triangle"}, ("--class", "triangle")),
    "guidance": ("classes", {"label": "square"}, {"guidance": 3.0}, ("--class", "square", "--guidance", 3)),
    "final": ("plain", {}, {"final": "noisy"}, ("--final", "noisy")),
    "guide": ("plain", {}, {"guide": "weaker.safetensors"}, ("--guide", "weaker.safetensors")),
    "calibrated": ("eps", {}, {"calibrated": False}, ("--no-calibration",)),
    "precision": ("plain", {}, {"precision": "bf16"}, ("--precision", "bf16")),
    "seed": ("plain", {}, {"seed": 7}, ("--seed", 7)),
}
LOADING = ("guide", "calibrated", "precision")
NOT_ANIMATED = ("eta", "final", "calibrated")  # which `blurdiff animate` leaves to the preset
CHANGING = ("time", "seconds", "weights")
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 3, 8, 8), np.uint8)
ARRAY = np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights files, of networks that are random and moments of random images."""
    folder = tmp_path_factory.mktemp("models")
    for name, (preset, *assignments) in MODELS.items():
        config = load_config(preset, parse_overrides([*TINY, "train.precision=fp32", *assignments]))
        torch.manual_seed(config.seed)
        network = {key: value + 0.1 * torch.randn(value.shape) for key, value in build_network(config).state_dict().items()}
        family = family_of(config)
        moments = family.measure_moments(PIXELS)
        gain = torch.full((5, 8), 0.5) if family.objective.calibrated else None
        data = ModelData(moments, gain, family.measure_extras(PIXELS, moments))
        classes = Classes(("circle", "square", "triangle"), (3, 2, 1)) if config.data.classes else None
        save_weights(Weights(config, 1, network, data, folder / f"{name}.safetensors", classes))
    for i, pixels in enumerate(ARRAY):
        path = folder / "images" / ("train" if i % 2 else "test") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


class Made:
    """What a model makes with some options: images, an animation, a score, and the record of a folder of the images."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        loading = {key: value for key, value in options.items() if key in LOADING}
        own = {key: value for key, value in options.items() if key not in LOADING}
        model = bd.load(f"{name}.safetensors", **loading)
        images = model.sample(3, **own)
        self.images, self.record = images.array, images._record
        self.animation = model.animate(1, frames=2, **own)
        self.score = model.score(features="pixels", n=3, force=True, **own)

    @property
    def frames(self) -> np.ndarray:
        return np.stack(self.animation.trajectories[0].panels[0].frames)


@functools.cache
def made(name: str, options: str) -> Made:
    return Made(name, json.loads(options))


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_models(cli: Cli, models: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(models)
    model, needed, option, flags = OPTIONS[name]
    before, after = (made(model, json.dumps(options)) for options in (needed, needed | option))
    assert not np.array_equal(before.images, after.images)
    assert not np.array_equal(before.frames, after.frames)
    assert before.score["fd"] != after.score["fd"]
    assert before.record != after.record

    weights = ("--weights", f"{model}.safetensors")
    assert cli("sample", *weights, "--n", 3, *flags, "--out", "x.npz").code == 0
    with np.load("x.npz") as stored:
        assert np.array_equal(stored["arr_0"], after.images)
    theirs = json.loads(cli("fid", *weights, "--features", "pixels", "--n", 3, "--force", *flags, "--json").out)
    assert {key for key, value in after.score.items() if theirs[key] != value} <= set(CHANGING)
    if name not in NOT_ANIMATED:
        assert cli("animate", "x.gif", *weights, "--n", 1, "--frames", 2, "--scale", 1, *flags).code == 0
        after.animation.save("y.gif", scale=1)
        assert Path("x.gif").read_bytes() == Path("y.gif").read_bytes()


PHOTO = {"init_image": "photo.png"}
STARTS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[object, ...]]] = {
    "init_image": ({}, PHOTO, ("--init-image", "photo.png")),
    "strength": (PHOTO, {"strength": 0.3}, ("--init-image", "photo.png", "--strength", 0.3)),
    "init_blurred": (PHOTO, {"init_blurred": True}, ("--init-image", "photo.png", "--init-blurred")),
    "interpolate": ({}, {"interpolate": 5}, ("--interpolate", 5)),
    "same_init": ({}, {"same_init": True}, ("--same-init",)),
    "share_noise": ({"sampler": "ancestral"}, {"share_noise": True}, ("--sampler", "ancestral", "--share-noise")),
}


@pytest.mark.parametrize("name", STARTS)
def test_options_of_the_start(cli: Cli, models: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(models)
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save("photo.png")
    needed, option, flags = STARTS[name]
    model = bd.load("plain.safetensors")
    before, after = model.sample(3, **needed), model.sample(3, **needed | option)
    assert not np.array_equal(before.array, after.array)
    assert before._record != after._record
    assert cli("sample", "--weights", "plain.safetensors", "--n", 3, *flags, "--out", "x.npz").code == 0
    with np.load("x.npz") as stored:
        assert np.array_equal(stored["arr_0"], after.array)


MORE = {"batch_size": ("--batch-size", 2), "weights": ("--weights", "plain.safetensors"), "repeats": ("--repeats", 2)}
FLAGS = {name: flags[-2:] for name, (*_, flags) in OPTIONS.items()}


@pytest.mark.parametrize("name", [*FLAGS, *MORE])
def test_images_that_are_there_are_not_made(cli: Cli, name: str) -> None:
    done = cli("fid", "--samples", "nowhere", "--data", "shapes", *(FLAGS | MORE)[name])
    assert (done.code, "--samples: scores stored images; leave out" in done.err) == (2, True)
    if name in OPTIONS and name not in ("guide", "calibrated"):
        with pytest.raises(bd.UsageError, match=f"`{name}`: decide how a model makes images"):
            bd.score(bd.Images(ARRAY), "shapes", **OPTIONS[name][2])


@pytest.mark.parametrize("name", [name for name in FLAGS if name not in ("seed", *NOT_ANIMATED)])
def test_a_forward_process_is_not_sampled(cli: Cli, models: Path, name: str) -> None:
    weights = models / f"{OPTIONS[name][0]}.safetensors"
    done = cli("animate", "x.gif", "--weights", weights, "--direction", "forward", *FLAGS[name])
    problem = "no network is called here" if name == "precision" else "apply to the reverse process"
    assert (done.code, problem in " ".join(done.err.split())) == (2, True)
    if name not in LOADING:
        with pytest.raises(bd.UsageError, match=f"`{name}`: apply to the reverse process"):
            bd.load(weights).animate(1, direction="forward", images=ARRAY, **OPTIONS[name][2])


def test_what_has_no_effect_is_refused(models: Path, tmp_path: Path) -> None:
    model = bd.load(models / "plain.safetensors")
    for call, problem in (
        (lambda: bd.score(bd.Images(ARRAY), "shapes", n=17), "`n` 17: there are 16 images; use at most 16"),
        (lambda: model.score(precision="bf16"), "`precision` bf16: is chosen when a model is loaded"),
        (lambda: model.score(features="pixels", mode="clean"), "`mode` clean: is for `features` inception, not pixels"),
        (lambda: bd.Images(ARRAY).save(tmp_path / "x.npz", scale=2), "`scale` 2: enlarges a grid"),
        (lambda: bd.Images(ARRAY).save(tmp_path / "x", scale=2), "`scale` 2: enlarges a grid"),
    ):
        with pytest.raises(bd.UsageError) as error:
            call()  # type: ignore[no-untyped-call]
        assert problem in str(error.value)
    for call in (lambda: model.denoise(np.zeros((1, 3, 8, 8)), 0.5, steps=3), lambda: model.animate(1, frames=2).frames(fps=3)):
        with pytest.raises(TypeError, match=r"steps|fps"):
            call()


GUIDED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("plain", {}, {}),
    ("plain", {"guide": "weaker.safetensors"}, {}),
    ("plain", {"guide": "weaker.safetensors"}, {"guidance": 1.0}),
    ("classes", {}, {}),
    ("classes", {}, {"guidance": 3.0}),
    ("classes", {}, {"guidance": 3.0, "label": "none"}),
    ("classes", {"guide": "classes2.safetensors"}, {"guidance": 3.0, "label": "none"}),
]


@pytest.mark.parametrize(("name", "loading", "options"), GUIDED)
def test_progress_ends_at_the_number_of_images(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str, loading: dict[str, Any], options: dict[str, Any]
) -> None:
    """A guided image is two calls of networks, and one image."""
    monkeypatch.chdir(models)
    model = bd.load(f"{name}.safetensors", **loading)
    seen: list[float] = []
    list(model.pipeline.generate(5, 0, model.sampling({**options, "steps": 2}), batch_size=3, on_progress=seen.append))
    assert seen == [1.5, 3, 4, 5]


# Other commands: all options at once, against what is recorded and what Python computes


@dataclass
class Told:
    """Where and in which precision networks were computed."""

    flags: tuple[object, ...] = ("--device", "xpu", "--precision", "bf16")
    devices: set[str] = field(default_factory=set)
    precisions: set[str] = field(default_factory=set)


@pytest.fixture
def told(models: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """A command in the folder of the models, all of whose networks must have the device and precision that it is told."""
    monkeypatch.chdir(models)
    told, resolve = Told(), inference.resolve_precision

    def resolving(config: Config, device: torch.device) -> str:
        told.precisions.add(config.train.precision)
        return resolve(config, device)

    def choosing(name: str) -> torch.device:
        told.devices.add(name)
        return torch.device("cpu")

    monkeypatch.setattr(inference, "resolve_precision", resolving)
    monkeypatch.setattr(inference, "choose_device", choosing)
    monkeypatch.setattr("blurcli.api.training.choose_device", choosing)
    monkeypatch.setattr(markup, "written", lambda write, suffix: b"<svg/>")
    for name in ("save_errors", "save_sweep"):
        monkeypatch.setattr(plots, name, lambda *_: None)
    yield told
    assert told.devices == {"xpu"}
    assert told.precisions == {"bf16"}


EPS = ("--weights", "eps.safetensors", "--no-calibration", "--data", "images", "--split", "test", "--n", 3, "--json")


def unscaled() -> tuple[bd.Model, denoising.MeasuredImages]:
    """What `EPS` and seed 5 name."""
    images = load_dataset(str(Path("images").absolute()), "test", (8, 8), 3).images
    model = bd.load("eps.safetensors", calibrated=False, precision="bf16", device="xpu")
    return model, denoising.MeasuredImages(images, 3, 5)


def test_options_of_diagnose(cli: Cli, told: Told) -> None:
    found = json.loads(cli("diagnose", *EPS, "--seed", 5, "--out", "d.svg", *told.flags).out)
    model, images = unscaled()
    expected = denoising.denoising_errors(model.pipeline, images, times=33, per_octave=1)
    assert found["relative_error"] == expected.relative.tolist()
    assert (found["out"], found["network_precision"]) == ("d.svg", "bf16")


def test_options_of_likelihood(cli: Cli, told: Told) -> None:
    found = json.loads(cli("likelihood", *EPS, "--seed", 5, "--calls", 2, "--steps", 4, *told.flags).out)
    model, images = unscaled()
    bound = likelihood_bound(model.pipeline, images, LikelihoodConfig(2, 4))
    assert found["bits_per_dim"] == float(bound.total.mean())
    recorded = {"n": 3, "steps": 4, "calls": 2, "seed": 5, "calibrated": False, "split": "test"}
    assert recorded.items() <= found.items()
    assert (found["step"], found["weights"], found["network_precision"]) == (1, "eps.safetensors", "bf16")


def test_options_of_sweep(cli: Cli, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    pixels = load_features("pixels", "clean", torch.device("cpu"))
    monkeypatch.setattr("blurcli.workflows.scoring.fetch_features", lambda *given: asked.append(given) or pixels)
    scored = ("--features", "inception", "--inception", "i.pt", "--mode", "legacy_tensorflow", "--force")
    swept = ("--samplers", "ancestral", "--steps", "1,2", "--seed", 5, "--seeds", 2, "--out", "s.svg")
    found = json.loads(cli("sweep", *EPS, *scored, *swept, *told.flags).out)
    recorded = {"metric": "fd", "out": "s.svg", "n": 3, "calibrated": False, "network_precision": "bf16"}
    recorded |= {"split": "test", "device": "cpu"}
    assert recorded.items() <= found.items()
    assert [(row["sampler"], row["steps"], row["seeds"]) for row in found["rows"]] == [("ancestral", n, 2) for n in (1, 2)]
    model, options = unscaled()[0], {"features": "inception", "inception": "i.pt", "mode": "legacy_tensorflow"}
    options |= {"split": "test", "n": 3, "force": True, "sampler": "ancestral", "steps": 2, "device": "xpu", "name": "mine"}
    scores = [model.score("images", seed=seed, **options) for seed in (5, 6)]
    assert found["rows"][1]["mean"] == np.mean([score["fd"] for score in scores])
    assert (scores[0]["name"], scores[0]["split"]) == ("mine", "test")
    assert asked == [("inception", "legacy_tensorflow", torch.device("cpu"), Path("i.pt"))] * 3


def test_options_of_sweeps_reference(cli: Cli, models: Path) -> None:
    done = cli("sweep", "--weights", models / "plain.safetensors", "--data", "shapes", "--reference", "cleanfid:cifar10")
    assert "--reference and --data: both name a reference" in done.err
    with pytest.raises(bd.UsageError, match="`reference` and `data`: both name a reference"):
        bd.score(bd.Images(ARRAY), "shapes", reference="cleanfid:cifar10")


def test_options_of_report_and_push(cli: Cli, told: Told) -> None:
    weights = "plain.safetensors"
    done = cli("report", weights, "--data", "images", "--n", 3, "--no-animation", "--out", "r.html", *told.flags)
    assert done.code == 0, done.err
    page = Path("r.html").read_text(encoding="utf-8")
    assert ">3 images of " in page
    assert "reverse process, animated" not in page
    pushed = ("push", weights, "me/it", "--license", "mit", "--no-animation", "--n", 3, "--dry-run", "pushed")
    assert cli(*pushed, *told.flags).code == 0
    bd.load("pushed/model.safetensors", device="xpu", precision="bf16").sample(3).save("own.png", scale=1)
    assert np.array_equal(small("pushed/samples.png"), small("own.png"))


def small(path: str) -> np.ndarray:
    """A grid of 2 x 2 images without its enlargement."""
    with Image.open(path) as picture:
        return np.asarray(picture.resize((17, 17), Image.Resampling.NEAREST))


def test_options_of_restore(cli: Cli, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurcli.evaluate.restoration.ssim", lambda *_: 1.0)  # its windows are larger than these images
    Image.fromarray(np.tile(ARRAY[0], (2, 2, 1))).save("photo.png")
    options = {"blur": 0.5, "noise": 3.0, "steps": 1}
    by_class = {"label": "square", "guidance": 3.0}
    model = bd.load("classes.safetensors", guide="classes2.safetensors", device="xpu", precision="bf16")
    plain, guided = (np.asarray(model.restore("photo.png", **options, **more).image) for more in ({}, by_class))
    assert not np.array_equal(plain, guided)
    common = ("restore", "--weights", "classes.safetensors", "--blur", 0.5, "--noise", 3, "--steps", 1, *told.flags)
    flags = ("--class", "square", "--guidance", 3, "--guide", "classes2.safetensors")
    assert cli(*common, "photo.png", *flags).code == 0
    with Image.open("photo-restored.png") as found:
        assert np.array_equal(np.asarray(found), guided)
    scored = ("--score", "--data", "images", "--split", "test", "--n", 2, "--json")
    score = json.loads(cli(*common, *scored, *flags).out)
    assert (score["label"], score["guidance"], score["guide"]) == ("square", 3, model.pipeline.sampling().guide)
    assert (score["split"], score["n"], score["network_precision"]) == ("test", 2, "bf16")
    assert score["reference_hash"] == load_dataset(str(Path("images").absolute()), "test", (8, 8), 3).fingerprint


def test_a_draw_depends_on_its_number_alone(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the draws that are made with it; its class, too."""
    model, photo = bd.load(models / "undropped.safetensors"), np.tile(ARRAY[0], (1, 2, 1))
    draws = []
    for pixels in (1 << 18, 1):
        monkeypatch.setattr("blurcli.model.restorer._DRAWN_PIXELS", pixels)
        draws.append(model.restore(photo, blur=0.5, noise=3.0, steps=1, n=4, temperature=1.0).draws)
    assert draws[0] == pytest.approx(draws[1], abs=0.01)


def test_options_of_training(cli: Cli, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Config] = []
    runs: list[str] = []

    def enough(config: Config, run: Run, *more: object, **options: object) -> None:
        asked.append(config)
        runs.append(str(run.path))
        raise bd.UserError("enough")

    monkeypatch.setattr("blurcli.training.train", enough)
    monkeypatch.setattr("blurcli.api.training.run_training", enough)
    monkeypatch.setattr(benchmark, "measure", lambda name, config, *_: enough(config, Run(Path("none"))))
    train = ("train", "--data", "images", "--run", "a", "--for", "restore", *settings("train.steps=7"))
    assert cli(*train, *told.flags).code == 1
    distill = ("distill", "plain.safetensors", "--data", "shapes", "--run", "b", "--set", "train.steps=7")
    assert cli(*distill, *told.flags).code == 1
    assert cli("bench", "--preset", "shapes-blur", *settings("train.steps=7"), "--batch-size", 1, *told.flags).code == 1
    own = {"device": "xpu", "steps": 7, "settings": typed(TINY) | {"train.precision": "bf16"}}
    with pytest.raises(bd.UserError, match="enough"):
        bd.train(data=ARRAY, run="c", purpose="restore", **own)
    own["settings"] = {"train.precision": "bf16"}
    with pytest.raises(bd.UserError, match="enough"):
        bd.distill("plain.safetensors", "shapes", run="d", **own)
    assert [config.train.steps for config in asked] == [7] * 5
    assert runs == ["a", "b", "none", "c", "d"]
    assert [config.data.crop for config in asked] == ["random", "center", "center", "random", "center"]
    told.precisions |= {config.train.precision for config in asked}


def typed(assignments: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for _, key, value in parse_overrides(assignments)}


def test_options_of_prefetch(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    module = sys.modules["blurcli.cli.prefetch"]
    for name in ("fetch_features", "fetch_reference"):
        monkeypatch.setattr(module, name, lambda *given: seen.append(given) or SimpleNamespace(key="k", name="n"))
    scored = ("--set", "score.features=inception", "--set", "data.image_size=8", "--set", "data.shapes_count=9")
    prefetch = ("prefetch", "--preset", "shapes-blur", "--set", "score.split=test")
    mode, reference = ("--mode", "legacy_pytorch"), ("--reference", "cleanfid:x")
    done = cli(*prefetch, *scored, *mode, *reference)
    assert done.code == 0, done.err
    assert [given[:2] for given in seen] == [("inception", "legacy_pytorch"), ("cleanfid:x", seen[1][1])]
    assert seen[1][2:] == (8, "test")
    for flags in (mode, reference):
        done = cli(*prefetch, *scored[2:], *flags)
        assert (done.code, f"{' '.join(flags)}: is for Inception's features" in " ".join(done.err.split())) == (2, True)


def test_batches_are_as_large_as_asked(cli: Cli, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    empty = Pipeline._empty
    monkeypatch.setattr(Pipeline, "_empty", lambda self, count: sizes.append(count) or empty(self, count))
    weights = ("--weights", models / "plain.safetensors", "--n", 3, "--batch-size", 2)
    for call in (
        lambda: bd.load(models / "plain.safetensors").sample(3, batch_size=2),
        lambda: cli("sample", *weights, "--out", "x.npz"),
        lambda: cli("fid", *weights, "--features", "pixels", "--force"),
        lambda: cli("sweep", *weights, "--features", "pixels", "--force", "--samplers", "ddim", "--steps", 1, "--out", "s.png"),
    ):
        sizes.clear()
        call()
        assert sizes == [2, 1]


def test_options_of_estimates(models: Path) -> None:
    model, z = bd.load(models / "classes.safetensors"), np.random.default_rng(0).normal(size=(6, 3, 8, 8))
    found = [model.denoise(z, 0.5, **options) for options in ({"label": "circle"}, {"label": "square"}, {}, {"seed": 3})]
    found.append(model.denoise(z, 0.5, label="circle", guidance=3.0))
    found.append(model.denoise(z, 0.6, label="circle"))
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(found, 2))


def test_options_of_animations(models: Path, tmp_path: Path) -> None:
    model = bd.load(models / "weaker.safetensors")  # sampled by abm, whose steps are not uniform in time
    steps, times, both = (model.animate(2, frames=5, **more) for more in ({}, {"spacing": "time"}, {"show": "both"}))
    assert times.trajectories[0].times == [1, 0.75, 0.5, 0.25, 0] != steps.trajectories[0].times
    assert [len(one.trajectories[0].panels) for one in (steps, both)] == [1, 2]
    assert [steps.frames(**more)[0].size for more in ({"scale": 1}, {"scale": 2, "columns": 1})] == [(17, 8), (16, 34)]
    assert steps.frames(scale=1, labels=True)[0].height > 8
    look = {"fps": 4.0, "hold_sec": 2.0, "loop": 3, "scale": 1, "columns": 1}
    with Image.open(steps.save(tmp_path / "x.gif", **look)) as picture:
        assert (picture.size, picture.info["duration"], picture.info["loop"]) == ((8, 17), 250, 2)
