"""Weights files: what they hold, and what happens to damaged ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from safetensors import safe_open
from safetensors.torch import save_file

from blurcli.base import files
from blurcli.base.checkpoint import content_hash
from blurcli.base.errors import UsageError, UserError
from blurcli.base.runs import Run
from blurcli.core import dct2
from blurcli.data import ReadOptions, load_dataset
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import load_weights, save_weights, to_half_precision
from blurcli.training.state import load_state

CPU = torch.device("cpu")


@pytest.fixture
def weights_file(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(Run(tiny_run).newest_weights(), tmp_path / "w.safetensors"))


def test_one_file_is_enough(weights_file: Path) -> None:
    weights = load_weights(weights_file)
    assert weights.step == 3
    assert weights.config.data.image_size == (8, 8)
    images = torch.cat(list(Pipeline.from_weights(weights, CPU).generate(2, seed=0)))
    assert images.shape == (2, 3, 8, 8)
    assert torch.isfinite(images).all()


def test_metadata_and_spectrum(weights_file: Path) -> None:
    with safe_open(weights_file, framework="pt") as file:
        metadata = file.metadata()
        spectrum = file.get_tensor("spectrum")
    assert metadata["format_version"] == "1"
    assert metadata["step"] == "3"
    assert json.loads(metadata["config"])["objective"] == "spectral"
    images = load_dataset("shapes", "train", (8, 8), 3, ReadOptions(shapes_count=64)).images
    expected = dct2(torch.from_numpy(np.array(images)).double() / 127.5 - 1).square().mean(0)
    torch.testing.assert_close(spectrum, expected, rtol=1e-6, atol=1e-5)  # 1e-5: the variance of rounding, a floor


def test_saved_and_loaded_weights_are_equal(weights_file: Path, tmp_path: Path) -> None:
    weights = load_weights(weights_file)
    again = type(weights)(**{**vars(weights), "path": tmp_path / "new" / "again.safetensors"})
    save_weights(again)
    loaded = load_weights(again.path)
    assert loaded.config == weights.config
    assert all(torch.equal(loaded.network[name], tensor) for name, tensor in weights.network.items())


def test_export_takes_half_the_bytes_and_gives_nearly_the_same_images(cli: Cli, weights_file: Path, tmp_path: Path) -> None:
    done = cli("export", "half.safetensors", "--weights", weights_file, "--json")
    assert done.code == 0, done.err
    half = tmp_path / "half.safetensors"
    assert json.loads(done.out)["bytes"] == half.stat().st_size
    with safe_open(half, framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys() if name.startswith("net.")} == {torch.float16}  # noqa: SIM118
    one, other = (
        torch.cat(list(Pipeline.from_weights(load_weights(path), CPU).generate(4, seed=0))) for path in (weights_file, half)
    )
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_export_keeps_quiet_about_where_images_lay(weights_file: Path, tmp_path: Path) -> None:
    weights = load_weights(weights_file)
    assert to_half_precision(weights, tmp_path / "w.safetensors").config.data.source == "shapes"
    for secret in ("/home/me/secret/cats", "/home/me/secret/shapes", "secret/shapes"):  # the last two are no dataset's name
        data = weights.config.data.model_copy(update={"source": secret})
        hidden = replace(weights, config=weights.config.model_copy(update={"data": data}))
        assert to_half_precision(hidden, tmp_path / "w.safetensors").config.data.source == "images"


def test_what_export_refuses(cli: Cli, weights_file: Path, tmp_path: Path) -> None:
    before = weights_file.read_bytes()
    for out, text in ((weights_file, "already exists; use another name"), ("a.pt", "use the suffix .safetensors")):
        done = cli("export", out, "--weights", weights_file)
        assert done.code == 2
        assert text in done.err
    assert weights_file.read_bytes() == before
    weights = load_weights(weights_file)
    weights.network["down.0.block.conv_1.bias"][0] = 1e5
    with pytest.raises(UserError, match=r"net.down.0.block.conv_1.bias does not fit into 16 bits"):
        to_half_precision(weights, tmp_path / "w.safetensors")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x.safetensors: no such file"):
        load_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_file(weights_file: Path, keep: int) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"w.safetensors: not a readable safetensors file .* use another copy"):
        load_weights(weights_file)


def rewrite(path: Path, change_tensors=lambda t: None, change_metadata=lambda m: None) -> None:  # type: ignore[no-untyped-def]
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change_tensors(tensors)
    change_metadata(metadata)
    metadata.pop("sha256")  # whoever wants to deceive can compute it too
    save_file(tensors, path, {**metadata, "sha256": content_hash(tensors, metadata)})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.pop("format"), "not a weights file of blurdiff"),
        (lambda m: m.update(kind="state"), "not a weights file of blurdiff"),
        (lambda m: m.update(format_version="9"), "has format version 9; this blurdiff reads 1"),
        (lambda m: m.update(step="-3"), "its step '-3' is not a number"),
        (lambda m: m.update(config="{"), "configuration is not JSON"),
        (lambda m: m.update(config='{"seed": -1}'), "w.safetensors: seed: got -1"),
    ],
)
def test_strange_metadata(weights_file: Path, change, text: str) -> None:  # type: ignore[no-untyped-def]
    rewrite(weights_file, change_metadata=change)
    with pytest.raises(UserError, match=text):
        load_weights(weights_file)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("spectrum"), "tensor 'spectrum' is missing"),
        (lambda t: t.pop("net.first.bias"), r"net.first.bias is missing"),
        (lambda t: t.update({"net.extra": torch.zeros(1)}), r"net.extra is unknown"),
        (
            lambda t: t.update({"net.first.bias": torch.zeros(3)}),
            r"net.first.bias is torch.float32 \(3,\), the network needs torch.float32 \(8,\)",
        ),
        (lambda t: t.update(spectrum=-t["spectrum"]), "spectrum must be finite, positive"),
        (lambda t: t.update(spectrum=torch.ones(3, 4, 4)), "does not fit images"),
        (lambda t: t.update(opponent=-t["opponent"]), "spectrum must be finite, positive"),
        (lambda t: t.update(opponent=torch.ones(8, 8)), "does not fit an opponent spectrum"),
        (lambda t: t.update(gain=torch.ones(3, 2)), r"gain of shape \(3, 2\) must be .* the file is damaged"),
    ],
)
def test_strange_tensors(weights_file: Path, change, text: str) -> None:  # type: ignore[no-untyped-def]
    rewrite(weights_file, change_tensors=change)
    with pytest.raises(UserError, match=text):
        Pipeline.from_weights(load_weights(weights_file), CPU)


def test_a_state_is_no_weights_file(tiny_run: Path, weights_file: Path) -> None:
    with pytest.raises(UsageError, match="not a weights file"):
        load_weights(Run(tiny_run).state_path)
    with pytest.raises(UsageError, match="not a state file"):
        load_state(weights_file)


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with files.replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"x.txt: cannot be written .*choose another location"),
        files.replacing(tmp_path / "file" / "x.txt"),
    ):
        pass
    with pytest.raises(UserError, match="free disk space and run the command again"), files.replacing(tmp_path / "x.txt"):
        raise OSError(28, "No space left on device")
