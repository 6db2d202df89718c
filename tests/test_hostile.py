"""Input that nobody meant: whatever it is, a person gets one message, and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import moments_of
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from blurcli.base.errors import UsageError, UserError
from blurcli.config import Config, flatten, from_json, load_config, parse_overrides, resolve_source, to_json, to_yaml
from blurcli.data.archives import open_images
from blurcli.data.images import decode
from blurcli.data.stream import open_stream
from blurcli.evaluate import load_features, recorded
from blurcli.evaluate.statistics import Statistics
from blurcli.families import ModelData
from blurcli.model.weights import Weights, load_weights, save_weights
from blurcli.training.state import load_state

HERE = Path(__file__).parent
often = hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def script(name: str, *arguments: str) -> dict[str, Any]:
    """Run one of the scripts beside this file; they print a report as JSON, and what is wrong after it."""
    command = [sys.executable, str(HERE / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (report,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(json.loads(report))


def test_killed_at_random_moments() -> None:
    report = script("chaos.py", "--kills", "4")
    assert report["kills"] == report.get("SIGKILL", 0) + report.get("SIGTERM", 0) == 4
    assert report["trainings"] >= 1
    assert not report["unfinished"]


def test_three_hundred_damaged_inputs() -> None:
    assert script("hostile.py")["inputs"] >= 300


def test_random_inputs_of_every_kind() -> None:
    """A few of the cases of `python tests/fuzz.py`."""
    report = script("fuzz.py", "12")
    assert report["faults"] == 0
    assert report["cases"] == 8 * 12


# Properties of the configuration

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=9
)
sections = st.dictionaries(st.sampled_from([*Config.model_fields, "extends", "color"]), anything, max_size=3)
values = st.fixed_dictionaries({}, optional=dict.fromkeys(flatten(Config()), anything))  # type: ignore[call-arg]


def one_or_the_other(*arguments: Any) -> None:
    try:
        assert isinstance(load_config(*arguments), Config)
    except UsageError as error:
        assert str(error).strip()


@often
@given(sections)
def test_any_yaml_is_a_preset_or_an_error(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    one_or_the_other(str(path))


@often
@given(values)
@example({"seed": {")": None}})
def test_any_values_are_a_preset_or_an_error(content: dict[str, Any]) -> None:
    one_or_the_other("shapes-blur", [(f"--set {key}", key, value) for key, value in content.items()])


@often
@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"a: 1e999")
@example(b"? !!set {a}\n: 1")
def test_any_bytes_are_a_preset_or_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    one_or_the_other(str(path))


@often
@given(st.text(max_size=30))
@example("train.steps=")
@example("=1")
@example("a..b=1")
@example("seed=!!python/name:os.system")
def test_any_assignment_is_an_override_or_an_error(text: str) -> None:
    try:
        overrides = parse_overrides([text])
    except UsageError:
        return
    one_or_the_other("shapes-blur", overrides)


@often
@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**63 - 1),
            "objective": st.sampled_from(["spectral", "eps"]),
            "data.source": st.text(min_size=1, max_size=20),
            "data.value_range": st.none() | st.tuples(st.floats(-1e6, 0), st.floats(1e-3, 1e6)).map(list),
            "process.blur_sigma_max": st.floats(0, 1e6),
            "process.logsnr_min": st.floats(-30, -1e-3),
            "optim.lr": st.floats(1e-300, 1),
            "optim.decay_from_step": st.none() | st.integers(1, 10**12),
            "train.score_every_steps": st.none() | st.integers(1, 10**9),
        }
    )
)
def test_what_is_written_is_read_again(tmp_path: Path, content: dict[str, Any]) -> None:
    config = load_config("shapes-blur", [(key, key, value) for key, value in content.items()])
    assert from_json(to_json(config), "x") == config
    (tmp_path / "x.yaml").write_text(to_yaml(config), encoding="utf-8")
    # A path in a file is relative to the file.
    source = resolve_source(config.data.source, tmp_path)
    expected = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
    assert load_config(str(tmp_path / "x.yaml")) == expected


# Properties of the readers


@often
@given(st.binary(max_size=300))
def test_any_bytes_in_any_file_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    def read_images(path: Path) -> None:
        with open_images(path) as files:
            for name in files.names:
                files.read(name)

    readers = {
        "w.safetensors": load_weights,
        "s.safetensors": load_state,
        "a.zip": read_images,
        "a.npz": lambda path: list(open_stream(path, 3).batches(2)),
        "f.pt": lambda path: load_features(str(path), "clean", torch.device("cpu")),
        "i.png": lambda path: decode(path.read_bytes(), "i.png", 8, 8, 3),
        "e.jsonl": recorded,
        "c.npz": Statistics.load,
    }
    for name, read in readers.items():
        (tmp_path / name).write_bytes(content)
        try:
            read(tmp_path / name)
        except UserError as error:
            assert name in str(error)


@pytest.fixture(scope="module")
def whole(trained_once: Path) -> bytes:
    return next((trained_once / "weights").iterdir()).read_bytes()


@often
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_of_a_weights_file_flips_unseen(tmp_path: Path, whole: bytes, place: float, bit: int) -> None:
    content = bytearray(whole)
    content[int(place * len(content))] ^= 1 << bit
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        load_weights(tmp_path / "w.safetensors")


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=5), st.integers(0, 4), max_size=4
    )
)
@often
def test_weights_of_any_tensors_come_back(tmp_path: Path, shapes: dict[str, int]) -> None:
    network = {name: torch.from_numpy(np.random.default_rng(0).random(size)) for name, size in shapes.items()}
    data = ModelData(moments_of(torch.ones(3, 8, 8)))
    weights = Weights(load_config("shapes-blur"), 7, network, data, tmp_path / "w.safetensors")
    save_weights(weights)
    read = load_weights(weights.path)
    assert read.network.keys() == network.keys()
    assert all(torch.equal(read.network[name], tensor) for name, tensor in network.items())
