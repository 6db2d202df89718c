"""The precision of the network is chosen, recorded, and never mixed."""

import inspect
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from conftest import Cli, settings

import blurcli as bd
from blurcli.cli import app
from blurcli.cli.common import PrecisionOption
from blurcli.config.schema import TrainConfig
from blurcli.evaluate import comparable, recorded, subject_of
from blurcli.model.inference import has_native_bf16

BUNDLED = ("--weights", "shapes", "--steps", 2)


def pixels(path: Path) -> np.ndarray:
    with np.load(path) as file:
        return next(iter(file.values()))


def test_every_command_with_a_device_has_a_precision() -> None:
    commands = {info.name: inspect.signature(info.callback or (lambda: None)).parameters for info in app.registered_commands}
    with_device = {name for name, found in commands.items() if "device" in found}
    # In a study it is a key of the file, because variants may differ in it.
    assert with_device - {"study"} == {name for name, found in commands.items() if "precision" in found}
    choices = get_args(get_args(get_args(PrecisionOption)[0])[0])
    assert set(choices) == set(get_args(TrainConfig.model_fields["precision"].annotation))


def test_samples_are_computed_in_it(cli: Cli) -> None:
    """Both are chosen here whatever the hardware has, and Python makes the same pixels."""
    made = {}
    for precision in ("fp32", "bf16"):
        done = cli("sample", *BUNDLED, "--n", 2, "--precision", precision, "--out", f"{precision}.npz", "--json")
        assert json.loads(done.out)["network_precision"] == precision
        made[precision] = pixels(Path(f"{precision}.npz"))
        images = bd.load("shapes", precision=precision).sample(2, steps=2)
        np.testing.assert_array_equal(images.array, made[precision])
        assert images.source["network_precision"] == precision
    assert (made["fp32"] != made["bf16"]).any()
    hardware = "bf16" if has_native_bf16(bd.load("shapes").pipeline.device) else "fp32"
    cli("sample", *BUNDLED, "--n", 2, "--out", "auto.npz")
    np.testing.assert_array_equal(pixels(Path("auto.npz")), made[hardware])
    with pytest.raises(bd.UsageError, match="must be one of auto, bf16, fp32"):
        bd.load("shapes", precision="fp16")


def test_a_guide_computes_in_it_too(tiny_run: Path) -> None:
    model = bd.load(tiny_run, guide=tiny_run, precision="bf16")
    assert model.pipeline.guide is not None
    assert model.pipeline.guide.config.train.precision == "bf16"


def test_the_presets_own_is_the_default(cli: Cli, tmp_path: Path) -> None:
    done = cli("train", "--preset", "shapes-blur", "--run", "r", "--precision", "bf16", *settings("train.steps=1"))
    assert done.code == 0, done.err
    assert "precision: bf16" in Path("r/config.yaml").read_text()
    assert json.loads(cli("sample", "--run", "r", "--n", 1, "--json").out)["network_precision"] == "bf16"


def test_a_folder_holds_images_of_one(cli: Cli) -> None:
    command = ("sample", *BUNDLED, "--out", "folder")
    assert cli(*command, "--n", 1, "--precision", "fp32").code == 0
    refused = cli(*command, "--n", 2, "--precision", "bf16")
    assert refused.code == 2
    assert "network_precision fp32 (now bf16)" in refused.err
    # A folder of an earlier version, which recorded neither, is continued.
    record = json.loads(Path("folder/sampling.json").read_text())
    older = {key: value for key, value in record.items() if key not in ("network_precision", "blurdiff")}
    Path("folder/sampling.json").write_text(json.dumps(older))
    assert cli(*command, "--n", 2, "--precision", "bf16").code == 0


def test_measurements_record_it(cli: Cli, tiny_run: Path) -> None:
    for command in ("likelihood", "diagnose"):
        done = cli(command, "--run", tiny_run, "--n", 2, "--precision", "bf16", "--json")
        assert json.loads(done.out)["network_precision"] == "bf16"


def test_scores_in_different_ones_are_apart(cli: Cli, tiny_run: Path) -> None:
    score = ("fid", "--run", tiny_run, "--features", "pixels", "--n", 200, "--steps", 1, "--batch-size", 100, "--force")
    for precision in ("fp32", "bf16"):
        assert cli(*score, "--precision", precision).code == 0
    scores = recorded(tiny_run / "evaluations.jsonl")
    assert [one["network_precision"] for one in scores] == ["fp32", "bf16"]
    assert len({subject_of(one) for one in scores}) == 2
    group, *_ = comparable(scores)
    assert {group.title(row).split()[-1] for row in group.rows} == {"fp32", "bf16"}
    shown = cli("results", tiny_run).out
    assert "fp32" in shown
    assert "bf16" in shown
    alone, *_ = comparable(scores[:1])
    assert "fp32" not in alone.title(alone.rows[0])


def test_where_no_network_is_called_it_is_refused(cli: Cli, photos: Path) -> None:
    for command in (
        ("fid", "--samples", photos, "--data", photos),
        ("animate", "x.gif", "--preset", "shapes-blur", "--direction", "forward"),
    ):
        done = cli(*command, "--precision", "fp32")
        assert (done.code, "--precision" in done.err) == (2, True)
