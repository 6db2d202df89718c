"""A network that was trained with classes only is never called without them.

Its embedding of "no class" is poisoned before the training, which never uses it: a single call without labels shows.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli, settings
from PIL import Image
from torch import Tensor

import blurcli
from blurcli.base.errors import UsageError
from blurcli.base.runs import Run
from blurcli.cli import main
from blurcli.core import UNet
from blurcli.core.guidance import GuidedNetwork
from blurcli.core.windows import window_count
from blurcli.data import ReadOptions, load_dataset
from blurcli.data.shapes import KINDS
from blurcli.model.inference import build_network
from blurcli.model.pipeline import Pipeline
from blurcli.model.restore_options import RestoreOptions
from blurcli.model.restorer import Restorer
from blurcli.model.weights import load_weights, save_weights

CPU = torch.device("cpu")
KEYS = (
    *("data.classes=3", "data.shapes_objects=1", "optim.class_dropout=0"),
    *("train.steps=2", "train.health_every_steps=1", "train.trackers=[]"),
)
TRAINED = {
    "eps": ["shapes-blur", "objective=eps"],  # calibrated
    "heat": ["shapes-heat", "process.levels=6"],
    "teacher": ["shapes-blur"],
}


def poisoned(config: Any) -> UNet:
    network = build_network(config)
    with torch.no_grad():
        assert network.labels is not None
        network.labels.weight[-1] = math.nan
    return network


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: those of `TRAINED`, and `teacher-distilled`."""
    folder = tmp_path_factory.mktemp("only-classes")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr("blurcli.training.trainer.build_network", poisoned)
        commands = [
            ["train", "--preset", preset, "--run", name, *settings(*KEYS, *keys)] for name, (preset, *keys) in TRAINED.items()
        ]
        health = ("train.steps=2", "train.health_every_steps=1", "train.trackers=[]")
        distill = ["distill", "teacher", *(part for key in health for part in ("--set", key))]
        for command in (*commands, distill):
            with pytest.raises(SystemExit) as ended:
                main(command)
            assert not ended.value.code, command
    return folder


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """The labels of every call of a model in the test; each must have some."""
    seen: list[Any] = []
    call = GuidedNetwork.__call__

    def spying(self: GuidedNetwork, x: Tensor, t: Tensor, /, labels: Tensor | None = None, **conditions: Any) -> Tensor:
        seen.append(labels)
        return call(self, x, t, labels=labels, **conditions)

    monkeypatch.setattr(GuidedNetwork, "__call__", spying)
    yield seen
    assert seen
    assert all(one is not None for one in seen)


@pytest.mark.parametrize("run", [*TRAINED, "teacher-distilled"])
def test_training_measures_with_classes(runs: Path, run: str) -> None:
    lines = [json.loads(line) for line in (runs / run / "health.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert np.isfinite([line["loss"], line["average_loss"]]).all()
    weights = load_weights(Run(runs / run).newest_weights())
    assert weights.network["labels.weight"][-1].isnan().all()  # the poison is still there
    assert (weights.data.gain is not None) == (run == "eps")
    if weights.data.gain is not None:
        assert weights.data.gain.isfinite().all()
        assert weights.data.gain.max() > 0


FORWARD = ("animate", "x.png", "--n", 2, "--frames", 3, "--direction")
COMMANDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "likelihood": ("eps", ("likelihood", "--n", 3, "--calls", 2)),
    "likelihood of heat": ("heat", ("likelihood", "--n", 3, "--calls", 2)),
    "diagnose": ("eps", ("diagnose", "--n", 2, "--out", "d.png")),
    "sample": ("eps", ("sample", "--n", 2, "--out", "x.npz")),
    "sample of heat": ("heat", ("sample", "--n", 2, "--out", "x.npz")),
    "sample, distilled": ("teacher-distilled", ("sample", "--n", 2, "--out", "x.npz")),
    "fid": ("eps", ("fid", "--n", 4, "--features", "pixels", "--force")),
    "animate": ("eps", ("animate", "x.png", "--n", 2, "--frames", 3, "--show", "both")),
    "animate forward": ("eps", (*FORWARD, "forward", "--show", "x_hat")),
    "animate both": ("heat", (*FORWARD, "both", "--show", "x_hat")),
    "animate one class": ("teacher", (*FORWARD, "forward", "--show", "x_hat", "--images", "photo.png", "--class", "circle")),
    "restore": ("teacher", ("restore", "photo.png", "--blur", 1, "--noise", 3, "--steps", 2)),
    "restore one class": ("eps", ("restore", "photo.png", "--blur", 1, "--noise", 3, "--steps", 2, "--class", "square")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_give_the_network_classes(cli: Cli, runs: Path, labels: list[Tensor], name: str) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)).save("photo.png")
    run, (command, *arguments) = COMMANDS[name]
    done = cli(command, *arguments, "--run", runs / run, "--json")
    assert done.code == 0, done.err
    assert "NaN" not in done.out
    if "--class" in arguments:
        assert {int(label) for one in labels for label in one} == {KINDS.index(str(arguments[-1]))}


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plots, which take a second each."""
    monkeypatch.setattr("blurcli.visualize.plots.save_errors", lambda *arguments: None)


@pytest.mark.usefixtures("_undrawn")
def test_measured_images_have_their_own_classes(cli: Cli, runs: Path, labels: list[Tensor]) -> None:
    """By the names of the sub-folders, which may be some of the classes, and not by the numbers of those."""
    done = cli("likelihood", "--run", runs / "eps", "--n", 5, "--calls", 1, "--json")
    own = load_dataset("shapes", "train", (8, 8), 3, ReadOptions(shapes_count=64, shapes_objects=1), classes=3).labels
    assert own is not None
    assert labels.pop().tolist() == own[[0, 15, 31, 47, 63]].tolist()
    assert json.loads(done.out)["label"] == "own"
    for i, kind in enumerate(("square", "square", "triangle")):
        Path("some", kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(Path("some", kind, f"{i}.png"))
    for command in (("likelihood", "--calls", 1), ("diagnose",)):
        labels.clear()
        done = cli(*command, "--run", runs / "eps", "--data", "some", "--json")
        assert done.code == 0, done.err
        assert {tuple(one.tolist()) for one in labels} == {(1, 1, 2)}
        assert json.loads(done.out)["label"] == "own"
    labels.clear()
    assert cli(*FORWARD, "forward", "--show", "x_hat", "--run", runs / "eps", "--images", "some").code == 0
    shuffled = np.array([1, 1, 2])[np.random.default_rng(0).permutation(3)[:2]]
    assert {tuple(one.tolist()) for one in labels} == {tuple(shuffled.tolist())}


UNKNOWN = (
    ("likelihood", "--data", "photos"),
    ("diagnose", "--data", "photos"),
    (*FORWARD, "forward", "--show", "x_hat", "--images", "photos"),
)


@pytest.mark.usefixtures("_undrawn")
def test_images_of_unknown_classes_are_refused_or_measured_without(cli: Cli, runs: Path, photos: Path) -> None:
    for command in UNKNOWN:
        done = cli(*command, "--run", runs / "eps")
        assert done.code == 2
        error = " ".join(done.err.split())
        assert "the classes of the images are unknown, and this model was trained without unconditional images" in error
        assert "use images in sub-folders that are named as its classes (circle, square, triangle)" in error
        assert ("or name their class with --class" in error) == (command[0] == "animate")
    weights = load_weights(Run(runs / "eps").newest_weights())
    network = {**weights.network, "labels.weight": torch.nan_to_num(weights.network["labels.weight"], nan=0.5)}
    optim = weights.config.optim.model_copy(update={"class_dropout": 0.1})
    config = weights.config.model_copy(update={"optim": optim})
    save_weights(replace(weights, config=config, network=network, path=Path("both.safetensors")))
    for command in UNKNOWN:
        done = cli(*command, "--weights", "both.safetensors", "--json")
        assert done.code == 0, done.err
        assert "without classes" in " ".join(done.err.split())
        if command[0] != "animate":
            assert json.loads(done.out)["label"] == "none"


def test_no_class_is_refused_where_it_was_never_trained(cli: Cli, runs: Path) -> None:
    done = cli("sample", "--run", runs / "eps", "--class", "none")
    assert done.code == 2
    message = "--class none: this model was trained without unconditional images (optim.class_dropout: 0); name a class, or all"
    assert message in " ".join(done.err.split())
    done = cli("distill", runs / "teacher", "--run", "new", "--set", "optim.class_dropout=0.1")
    assert done.code == 2
    assert "trained without unconditional images (optim.class_dropout: 0); leave it out" in " ".join(done.err.split())
    weights = load_weights(Run(runs / "eps").newest_weights())
    optim = weights.config.optim.model_copy(update={"class_dropout": 0.1})
    able = replace(weights, config=weights.config.model_copy(update={"optim": optim}))
    assert Pipeline.from_weights(able, CPU).sampling(label="none").label == "none"
    with pytest.raises(UsageError, match="its guide was trained without unconditional images"):
        Pipeline.from_weights(able, CPU, guide=weights).sampling(label="none")


def test_an_exported_pipeline_refuses_no_class(runs: Path) -> None:
    pytest.importorskip("diffusers")
    from blurcli.portable.folder import _process_config
    from blurcli.portable.process import BlurdiffProcess

    process = BlurdiffProcess(**_process_config(load_weights(Run(runs / "eps").newest_weights())))
    with pytest.raises(ValueError, match="trained without unconditional images"):
        process.labels("none", 2, 0)
    assert process.labels("all", 2, 0) == [0, 1]


def test_every_draw_of_a_photo_has_its_class(runs: Path, labels: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their number at a time, and in every window of the photo."""
    from blurcli.data.photos import Photo

    photo = Photo(np.random.default_rng(0).uniform(0, 255, (3, 8, 20)))
    model = Pipeline.from_weights(load_weights(Run(runs / "teacher").newest_weights()), CPU)
    options = RestoreOptions(blur=1.0, noise=3.0, n=4, steps=1, cropped=False)
    Restorer(model, "all")(photo, options)
    together = torch.cat(labels).tolist()
    assert together == [label for label in (0, 1, 2, 0) for _ in range(window_count((8, 20), (8, 8)))]
    labels.clear()
    monkeypatch.setattr("blurcli.model.restorer._DRAWN_PIXELS", 1)
    Restorer(model, "all")(photo, options)
    assert torch.cat(labels).tolist() == together


def test_the_errors_in_a_report(runs: Path, labels: list[Tensor]) -> None:
    from blurcli.base import console
    from blurcli.cli.report import _images
    from blurcli.visualize.report_pictures import Subject, error_part

    run = Run(runs / "eps")
    model = Pipeline.from_weights(load_weights(run.newest_weights()), CPU)
    images = _images(model, run, None)
    assert images is not None
    assert images.labels is not None
    parts = error_part(Subject("x", run, 2, model, images, 2), console.progress)
    assert "missing" not in [part.form for part in parts]
    assert {tuple(one.tolist()) for one in labels} == {tuple(images.labels[[0, -1]].tolist())}


def test_in_python(runs: Path, labels: list[Tensor]) -> None:
    model = blurcli.load(runs / "eps", device="cpu")
    images = model.sample(2)
    options: Any = {"direction": "forward", "images": images, "show": "x_hat", "frames": 3}
    with pytest.raises(UsageError, match="or name their class with `label`"):
        model.animate(2, **options)
    labels.clear()
    model.animate(2, label="triangle", **options)
    model.denoise(np.zeros((2, 3, 8, 8), np.float32), 0.5, label="triangle")
    assert {tuple(one.tolist()) for one in labels} == {(2, 2)}
