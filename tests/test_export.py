"""Folders for diffusers: the images of `blurdiff sample`, where blurdiff is not installed; and what export refuses."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Cli, settings, shell
from numpy.typing import NDArray
from safetensors import safe_open

from blurcli import bundled
from blurcli.base import files
from blurcli.base.errors import UserError
from blurcli.base.runs import Run
from blurcli.model.weights import Weights, load_weights, save_weights
from blurcli.portable import bundle as bundling
from blurcli.portable.bundle import NotPortableError, bundle
from blurcli.portable.folder import write_folder

SCRIPT = Path(__file__).parent / "exported.py"
# Enough of a learning rate that after a few steps the network matters.
LEARN = ("train.steps=4", "optim.lr=0.01", "train.precision=fp32")
MODELS = {
    "noblur": ("shapes-noblur", "objective=v"),
    "gray": ("shapes-blur", "data.channels=1", "data.image_size=[8,16]", "objective=eps"),
    "heat": ("shapes-heat", "process.levels=6", "sample.steps=6"),
    "residual": ("shapes-heat", "process.levels=6", "sample.steps=6", "objective=residual"),
    "classes": ("shapes-classes", "data.augment=0.2"),
}
# Model, arguments of `blurdiff sample`, arguments of the pipeline.
CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "the bundled model": ("bundled", [], {}),
    "another seed": ("blur", ["--seed", 2**64 - 1], {"seed": 2**64 - 1}),
    "steps": ("blur", ["--steps", 5], {"num_inference_steps": 5}),
    "ancestral, with noise at the end": (
        "blur",
        ["--sampler", "ancestral", "--steps", 4, "--final", "noisy"],
        {"sampler": "ancestral", "num_inference_steps": 4, "final": "noisy"},
    ),
    "ddim": (
        "noblur",
        ["--sampler", "ddim", "--eta", 0.5, "--steps", 4],
        {"sampler": "ddim", "eta": 0.5, "num_inference_steps": 4},
    ),
    "dpmpp-2m": ("noblur", ["--sampler", "dpmpp-2m", "--steps", 3], {"sampler": "dpmpp-2m", "num_inference_steps": 3}),
    "eps with a gain": ("gray", [], {}),
    "heat": ("heat", [], {}),
    "heat, fewer steps": ("heat", ["--steps", 3, "--delta", 0.02], {"num_inference_steps": 3, "delta": 0.02}),
    "residual": ("residual", [], {}),
    "classes by frequency": ("classes", [], {}),
    "classes by frequency, of another seed": ("classes", ["--seed", 7], {"seed": 7}),
    "one class, guided": ("classes", ["--class", "square", "--guidance", 3], {"class_labels": "square", "guidance_scale": 3.0}),
    "all classes": ("classes", ["--class", "all"], {"class_labels": [0, "square", 2, 0, 1]}),
    "in bf16": ("bf16", [], {"autocast": True}),
    "no class": ("classes", ["--class", "none"], {"class_labels": "none"}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown sampler": ("blur", {"sampler": "heat"}, "`sampler` heat: this model is of the family diffusion: use abm"),
    "steps of residual": ("residual", {"num_inference_steps": 5}, "`num_inference_steps` 5: this model has 6 levels"),
    "no steps": ("blur", {"num_inference_steps": 0}, "num_inference_steps must be at least 1, not 0"),
    "unknown class": ("classes", {"class_labels": "hexagon"}, "unknown class (known: circle, square, triangle, none, all)"),
    "class out of range": ("classes", {"class_labels": 3}, "class_labels 3: the classes are 0 to 2: circle, square, triangle"),
    "too few classes": ("classes", {"class_labels": [0, 1]}, "class_labels has 2 classes for 5 images"),
    "classes of a model without": ("blur", {"class_labels": 0}, "class_labels 0: this model has no classes"),
    "guidance of a model without": ("blur", {"guidance_scale": 2.0}, "guidance_scale 2: this model has no classes; use 1"),
    "unknown output": ("blur", {"output_type": "latent"}, "unknown output_type 'latent': choose one of pil, np, pt"),
}
COUNT = 5


def with_precision(precision: str, weights: Weights, path: Path) -> Path:
    """The same weights for a network that runs in this precision, whatever the hardware has."""
    train = weights.config.train.model_copy(update={"precision": precision})
    save_weights(replace(weights, config=weights.config.model_copy(update={"train": train}), path=path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def models(folder: Path, trained_once: Path) -> dict[str, Path]:
    """Weights files by name."""
    tiny = load_weights(Run(trained_once).newest_weights())
    found = {
        "bundled": with_precision("fp32", load_weights(bundled.PATH), folder / "bundled.safetensors"),
        "blur": with_precision("fp32", tiny, folder / "blur.safetensors"),
        "bf16": with_precision("bf16", tiny, folder / "bf16.safetensors"),
    }
    for name, (preset, *assignments) in MODELS.items():
        done = shell("train", "--preset", preset, "--run", name, *settings(*LEARN, *assignments), cwd=folder)
        assert done.code == 0, done.err
        found[name] = Run(folder / name).newest_weights()
    return found


@pytest.fixture(scope="module")
def report(folder: Path, models: dict[str, Path]) -> dict[str, NDArray[Any]]:
    """What a process without blurdiff samples from the exported models."""
    pytest.importorskip("diffusers", reason="exported folders are loaded by diffusers")
    for name, path in models.items():
        write_folder(load_weights(path), folder / f"{name}-folder")
    cases = [
        (name, str(folder / f"{model}-folder"), {"batch_size": COUNT} | ({"seed": 0} | options))
        for name, (model, *_, options) in CASES.items()
    ]
    cases += [
        (name, str(folder / f"{model}-folder"), {"batch_size": COUNT, "seed": 0} | options)
        for name, (model, options, _) in REFUSED.items()
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(folder / "report.npz")],
        input=json.dumps(cases),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "report.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("case", CASES)
def test_the_images_are_those_of_blurdiff_sample(
    case: str, cli: Cli, models: dict[str, Path], report: dict[str, NDArray[Any]]
) -> None:
    model, arguments, _ = CASES[case]
    done = cli("sample", "--weights", models[model], "--n", COUNT, "--out", "own.npz", "--device", "cpu", *arguments)
    assert done.code == 0, done.err
    with np.load("own.npz") as arrays:
        expected = arrays[arrays.files[0]]
    assert report[case].dtype == np.uint8
    assert report[case].reshape(-1).std() > 5
    np.testing.assert_array_equal(report[case], expected.reshape(report[case].shape))


@pytest.mark.parametrize("case", REFUSED)
def test_the_pipeline_explains_what_it_refuses(case: str, report: dict[str, NDArray[Any]]) -> None:
    assert REFUSED[case][-1] in str(report[case])


def test_the_pipeline_is_one_of_diffusers(report: dict[str, NDArray[Any]]) -> None:
    checks = json.loads(str(report["checks"]))
    assert len(checks) == 12
    assert [name for name, holds in checks.items() if not holds] == []


def test_the_folder_is_in_the_layout_of_diffusers(folder: Path, models: dict[str, Path], report: Any) -> None:
    exported = folder / "gray-folder"
    assert sorted(str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()) == [
        "README.md",
        "model_index.json",
        "pipeline.py",
        "process/blurdiff_process.py",
        "process/config.json",
        "process/diffusion_pytorch_model.safetensors",
        "unet/blurdiff_unet.py",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    with safe_open(exported / "process" / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        assert {"gain", "mean", "spectrum"} <= set(file.keys())
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in exported.rglob("*") if path.is_file()} == {0o666 & ~umask}


def test_the_command(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("export", "empty", "--format", "diffusers", "--run", tiny_run, "--json")
    assert done.code == 0, done.err
    written = [path for path in (tmp_path / "empty").rglob("*") if path.is_file()]
    assert json.loads(done.out)["format"] == "diffusers"
    assert json.loads(done.out)["bytes"] == sum(path.stat().st_size for path in written)
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_what_the_command_refuses(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for out, text in {
        "full": "full: already exists and is not empty; use another name",
        "file": "file: already exists; use another name",
        "link": "link: already exists; use another name",
        ".": "is the current folder; use the name of a new one",
        "x.safetensors": "--format diffusers writes a folder; use a name without the suffix .safetensors",
    }.items():
        done = cli("export", out, "--format", "diffusers", "--run", tiny_run)
        assert done.code == 2
        assert text in " ".join(done.err.split())
    done = cli("export", "model", "--run", tiny_run)
    assert done.code == 2
    assert "--format diffusers for a folder" in " ".join(done.err.split())
    assert cli("export", "model", "--format", "onnx", "--run", tiny_run).code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_of_an_unfinished_folder_is_left(cli: Cli, tiny_run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    weights = load_weights(Run(tiny_run).newest_weights())

    def full(tensors: object, path: Path, *arguments: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("blurcli.portable.folder.save_file", full)
        with pytest.raises(UserError, match=r"out: cannot be written \(No space left on device\): free disk space"):
            write_folder(weights, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(UserError, match=r"out: needs about 1 MiB, and 0 MiB are free"):
            write_folder(weights, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unfinished_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{files.PARTIAL}model-x" / "unet").mkdir(parents=True)
    (tmp_path / f"{files.PARTIAL}model-x" / f"{files.PARTIAL}inside").write_text("half")
    (tmp_path / f"{files.PARTIAL}file").write_text("half")
    (tmp_path / "kept").write_text("whole")
    files.remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "kept"]


def test_damaged_weights_are_not_exported(tiny_run: Path, tmp_path: Path) -> None:
    weights = load_weights(Run(tiny_run).newest_weights())
    del weights.network["first.weight"]
    with pytest.raises(UserError, match=r"net.first.weight is missing"):
        write_folder(weights, tmp_path / "out")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ("WIDTH = 2\n", "one: WIDTH is already taken by blurcli.made.other, and exported models"),
        ("from math import tau as WIDTH\n", "one: WIDTH is already taken by math.tau, and exported models"),
        ("import blurcli.core.dct\n", "other, line 1: write `from blurcli.x import name`"),
        ("from blurcli.core.dct import dct2 as transform\n", "other, line 1: write `from blurcli.x import name`"),
        ("from blurcli.core import dct\n", "other, line 1: dct is not defined in what it imports"),
        ("from blurcli.core.nothing import it\n", "blurcli.core.nothing: its source is missing"),
        ("from blurcli.core.dct import dct3\n", "other, line 1: dct3 is not defined in what it imports"),
    ],
)
def test_what_cannot_be_in_one_file(other: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "blurcli.made.one": "from blurcli.made.other import helper\nWIDTH = 1\n",
        "blurcli.made.other": other + "def helper(): pass\n",
        "blurcli.core.dct": "def dct2(): pass\n",
    }
    read = bundling.read_source
    monkeypatch.setattr(bundling, "read_source", lambda name: (made[name], None) if name in made else read(name))
    with pytest.raises(NotPortableError, match=re.escape(text)):
        bundle("blurcli.made.one")


def test_a_file_needs_nothing_of_blurdiff_and_little_else() -> None:
    for name in ("unet", "process", "pipeline"):
        tree = ast.parse(bundle(f"blurcli.portable.{name}"))
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        roots = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names)
        assert roots <= {"torch", "numpy", "diffusers", "safetensors"}
