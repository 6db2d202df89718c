import json
from pathlib import Path

import pytest
import torch
from conftest import Cli, settings

from blurcli.config import load_config
from blurcli.model.inference import has_native_bf16
from blurcli.workflows import benchmark

TRAIN_STEPS, SAMPLE_STEPS = 1200, 7
ARGUMENTS = (
    *("bench", "--preset", "shapes-blur", *settings(f"train.steps={TRAIN_STEPS}", f"sample.steps={SAMPLE_STEPS}")),
    *("--seconds", 0, "--device", "cpu"),
)


def test_what_bench_tells(cli: Cli, tmp_path: Path) -> None:
    done = cli(*ARGUMENTS, "--batch-size", 6, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    (row,) = result["rows"]
    assert row["variant"] == "as the preset says"
    flops = dict(zip(("calls", "training"), benchmark.model_flops(load_config("shapes-blur")), strict=True))
    assert flops["training"] > 2.5 * flops["calls"]
    for part in ("training", "calls"):
        speed = row[part]
        assert speed["images_per_sec"] == pytest.approx(6 / speed["sec"])
        assert speed["fastest_sec"] <= speed["sec"]
        assert speed["rounds"] >= 3
        assert 0 < speed["utilisation"] < 1.5
        assert speed["peak_mib"] > 10
    assert 0 < result["shares"]["data"] < 1
    assert 0 < result["shares"]["diffusion"] < 1
    assert 0 < result["import_sec"] < min(result["first_step_sec"], result["first_call_sec"])
    assert result["train_sec"] == pytest.approx(TRAIN_STEPS * row["training"]["sec"])
    assert result["sample_64_sec"] == pytest.approx(64 / 6 * SAMPLE_STEPS * row["calls"]["sec"])
    assert not list(tmp_path.iterdir())  # it leaves nothing


def test_large_batches_are_measured_by_smaller_ones_on_a_cpu(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the training is foretold with the preset's batch."""
    config, cpu = load_config("shapes-blur"), torch.device("cpu")
    speed = 1e9 * benchmark.model_flops(config)[1]
    monkeypatch.setattr("blurcli.workflows.benchmark.matrix_product_flops", lambda precision, device: speed)
    assert benchmark.affordable_batch(config, cpu, 1) == config.train.batch_size == 24
    assert [benchmark.affordable_batch(config, cpu, images * 2e-9) for images in (23, 16, 15, 0)] == [16, 16, 8, 1]
    assert benchmark.affordable_batch(config, torch.device("cuda"), 0) == 24
    done = cli(*ARGUMENTS, "--json")
    assert done.code == 0, done.err
    assert "measuring steps of 1 images instead of 4, which take long on this CPU" in done.err
    result = json.loads(done.out)
    assert result["train_batch_size"] == 1
    assert result["train_sec"] == pytest.approx(4 * TRAIN_STEPS * result["rows"][0]["training"]["sec"])


def test_variants_are_compared_with_the_plain_one(cli: Cli) -> None:
    done = cli(*ARGUMENTS, "--compare", "--batch-size", 4)
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.startswith(("fp32", "bf16"))]
    assert len(rows) == (4 if has_native_bf16(torch.device("cpu")) else 2)
    assert rows[0].count("1.00x") == 2


def test_flops_are_those_of_the_published_network() -> None:
    """19.15 GFLOP an image, as counted for the original implementation's network."""
    forward, training = benchmark.model_flops(load_config("cifar10-blur"))
    assert forward == pytest.approx(19.15e9, rel=1e-3)
    assert training == pytest.approx(3 * forward, rel=0.01)


def test_the_fast_preset_fits_into_half_an_hour() -> None:
    """By count, of a GPU that sustains 40 TFLOP/s in it."""
    config = load_config("cifar10-blur-fast")
    images = config.train.steps * config.train.batch_size
    assert images > 5e6
    assert images * benchmark.model_flops(config)[1] / 40e12 < 30 * 60


def test_the_largest_batch_needs_a_gpu(cli: Cli) -> None:
    done = cli(*ARGUMENTS, "--max-batch")
    assert (done.code, "only a GPU reports full memory in time" in done.err) == (2, True)


def test_bf16_is_compared_where_the_hardware_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("shapes-blur")
    monkeypatch.setattr("blurcli.workflows.benchmark.has_native_bf16", lambda device: False)
    assert [*benchmark.variants(config, torch.device("cpu"))] == ["fp32", "fp32, channels last"]
    wanted = benchmark.changed(config, {"precision": "bf16"})
    assert [*benchmark.variants(wanted, torch.device("cpu"))][2:] == ["bf16", "bf16, channels last"]
    monkeypatch.setattr("blurcli.workflows.benchmark.has_native_bf16", lambda device: True)
    assert [*benchmark.variants(config, torch.device("cpu"))][2:] == ["bf16", "bf16, channels last"]


def test_compiling_is_compared_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("shapes-blur")
    monkeypatch.setattr("blurcli.workflows.benchmark.has_native_bf16", lambda device: True)
    assert [*benchmark.variants(config, torch.device("cuda"))][-1] == "bf16, channels last, compiled"
    wanted = benchmark.changed(config, {"compile": True})
    assert wanted.sample.compile
    assert benchmark.variants(wanted, torch.device("cpu"))["bf16, compiled"]["compile"]
