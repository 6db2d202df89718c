"""Classes: where they come from, what the network is told, and guidance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, settings, shell
from PIL import Image

import blurcli
from blurcli.base.errors import UsageError
from blurcli.base.runs import Run
from blurcli.core import UNet
from blurcli.data import Batches, ReadOptions, load_dataset
from blurcli.data.shapes import KINDS, draw_shapes
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import load_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def class_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    options = settings("train.steps=40", "optim.lr=0.01")
    done = shell("train", "--preset", "shapes-classes", "--run", "tiny", *options, cwd=folder)
    assert done.code == 0, done.err
    return folder / "tiny"


def arrays(path: str) -> np.ndarray:
    with np.load(path) as content:
        return np.array(content[content.files[0]])


def test_shapes_of_one_object_are_labelled_with_its_kind() -> None:
    images, kinds = draw_shapes(300, 32, 32, 3, seed=0, objects=1)
    assert set(kinds.tolist()) == {0, 1, 2}
    bright = (images.max(1) > 150).reshape(300, -1).mean(1)
    # A circle covers pi r^2, a triangle of this kind about 0.6 of it.
    assert bright[kinds == 0].mean() > bright[kinds == 1].mean() > bright[kinds == 2].mean()
    dataset = load_dataset("shapes", "train", (16, 16), 3, ReadOptions(shapes_count=300, shapes_objects=1), classes=3)
    assert dataset.classes == KINDS
    assert np.array_equal(dataset.labels, kinds)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"set data.shapes_objects to 1"):
        load_dataset("shapes", "train", (16, 16), 3, ReadOptions(shapes_count=30), classes=3)


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog", "wild")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(number + 1):
                Image.new("RGB", (8, 8), (80 * number, i, 0)).save(folder / f"{i}.png")
    (tmp_path / "train" / "dog" / "broken.png").write_text("no image")
    dataset = load_dataset(str(tmp_path), "train", (8, 8), 3, ReadOptions(max_broken=1), classes=3)
    assert dataset.classes == ("cat", "dog", "wild")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert (dataset.images[:, 0, 0, 0] // 80).tolist() == dataset.labels.tolist()
    with pytest.raises(UsageError, match=r"data.classes 5: .* has 3 \(cat, dog, wild\); set it to that"):
        load_dataset(str(tmp_path), "train", (8, 8), 3, ReadOptions(max_broken=1), classes=5)


def test_batches_keep_images_and_classes_together() -> None:
    images = np.arange(10, dtype=np.uint8).repeat(3).reshape(10, 3, 1, 1)
    labels = np.arange(10) % 4
    batches = Batches(images, 4, 0, False, CPU, slice(1, 3), labels)
    for step in range(4):
        own = batches.labels(step)
        assert own is not None
        assert torch.equal(own, ((batches(step)[:, 0, 0, 0] + 1) * 127.5).round().long() % 4)


def test_a_network_without_labels_is_unconditional() -> None:
    torch.manual_seed(0)
    net = UNet(base_channels=8, multipliers=(1,), blocks_per_level=1, attention_levels=(), classes=3).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    assert torch.equal(net(x, t), net(x, t, None, torch.tensor([3, 3])))
    assert not torch.equal(net(x, t), net(x, t, None, torch.tensor([0, 1])))


def test_guidance_of_one_is_the_conditional_model_and_more_goes_beyond(class_run: Path) -> None:
    model = Pipeline.from_weights(load_weights(Run(class_run).newest_weights()), CPU)
    assert model.classes is not None
    assert model.classes.names == KINDS
    assert sum(model.classes.counts) == 64

    def images(label: str, guidance: float) -> torch.Tensor:
        return torch.cat(list(model.generate(3, 0, model.sampling(steps=1, label=label, guidance=guidance))))

    told, untold = images("circle", 1.0), images("none", 1.0)
    called: list[bool] = []
    call = model._inference._call

    def counting(x: torch.Tensor, t: torch.Tensor, /, **conditions: torch.Tensor) -> torch.Tensor:
        called.append("labels" in conditions)
        return call(x, t, **conditions)

    model._inference._call = counting
    assert torch.equal(images("circle", 1.0), told)
    assert called == [True]  # nothing but the conditional network was asked
    # One step is affine in what the network says.
    assert torch.allclose(images("circle", 3.0), untold + 3 * (told - untold), atol=1e-4)
    assert torch.allclose(images("circle", 0.0), untold, atol=1e-5)
    assert not torch.allclose(told, untold, atol=1e-4)


def test_network_calls_are_those_that_are_made(class_run: Path) -> None:
    """Two per step with guidance, unless the images have no class."""
    model = Pipeline.from_weights(load_weights(Run(class_run).newest_weights()), CPU)
    called: list[object] = []
    model.network.register_forward_hook(lambda *of: called.append(of[0]))
    list(model.generate(1, 0, model.sampling("ddim", 1)))  # the first call tries batch sizes
    for label, guidance, calls in ((None, 1.0, 3), (None, 2.0, 6), ("circle", 2.0, 6), ("none", 2.0, 3)):
        sampling = model.sampling("ddim", 3, label=label, guidance=guidance)
        called.clear()
        list(model.generate(1, 0, sampling))
        assert len(called) == sampling.calls == calls, label


def test_which_class_an_image_has(class_run: Path, cli: Cli) -> None:
    model = Pipeline.from_weights(load_weights(Run(class_run).newest_weights()), CPU)
    as_in_data = model.sampling()
    drawn = model.conditions(range(3000), 0, as_in_data)["labels"]
    assert torch.equal(drawn[7:9], model.conditions(range(7, 9), 0, as_in_data)["labels"])
    assert not torch.equal(drawn, model.conditions(range(3000), 1, as_in_data)["labels"])
    assert model.classes is not None
    shares = np.array(model.classes.counts) / 64
    assert np.bincount(drawn.numpy()) / 3000 == pytest.approx(shares, abs=0.04)
    assert model.conditions(range(5), 0, model.sampling(label="all"))["labels"].tolist() == [0, 1, 2, 0, 1]
    for arguments in (("--class", "square"), ("--class", "all", "--guidance", 2), ("--class", "none"), ()):
        done = cli("sample", "--run", class_run, "--n", 3, *arguments)
        assert done.code == 0, done.err
    done = cli("fid", "--run", class_run, "--n", 12, "--features", "pixels", "--force", "--guidance", 2, "--json")
    assert '"guidance": 2.0' in done.out, done.err
    shown = []
    for label in ("circle", "square"):
        done = cli("animate", "x.png", "--run", class_run, "--n", 1, "--frames", 3, "--class", label, "--guidance", 3)
        assert done.code == 0, done.err
        shown.append(Path("x.png").read_bytes())
    assert shown[0] != shown[1]
    done = cli("animate", "x.png", "--run", class_run, "--direction", "forward", "--class", "circle")
    assert (done.code, "apply to the reverse process" in " ".join(done.err.split())) == (2, True)
    done = cli("sample", "--run", class_run, "--class", "cirle")
    assert (done.code, "did you mean 'circle'?" in done.err) == (2, True)


def test_a_model_without_classes_says_so(tiny_run: Path, cli: Cli) -> None:
    for arguments in (("--class", "circle"), ("--guidance", "2")):
        done = cli("sample", "--run", tiny_run, *arguments)
        assert (done.code, "this model has no classes" in done.err) == (2, True)


def test_damaged_classes_are_reported(class_run: Path) -> None:
    from dataclasses import replace

    from blurcli.base.errors import UserError
    from blurcli.model.weights import Classes, save_weights

    weights = load_weights(Run(class_run).newest_weights())
    path = class_run / "other.safetensors"
    save_weights(replace(weights, path=path, classes=Classes(("a",), (1,))))
    with pytest.raises(UserError, match=r"other.safetensors: its classes cannot be read"):
        load_weights(path)


def test_a_grid_of_all_classes_has_a_titled_column_for_each(cli: Cli, class_run: Path, tmp_path: Path) -> None:
    assert cli("sample", "--run", class_run, "--class", "all", "--n", 6, "--scale", 4, "--out", "all.png").code == 0
    with Image.open(tmp_path / "all.png") as grid:
        assert grid.size == (3 * 9 * 4 - 4, 2 * 9 * 4 - 4 + 18)
    blurcli.load(class_run).sample(6, label="all").save(tmp_path / "ours.png", scale=4)
    assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "all.png").read_bytes()
    assert cli("sample", "--run", class_run, "--class", "square", "--n", 6, "--scale", 4, "--out", "one.png").code == 0
    with Image.open(tmp_path / "one.png") as grid:
        assert grid.height == 2 * 9 * 4 - 4
