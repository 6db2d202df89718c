"""The floor of a score: real images against each other."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from blurcli.base.cache import cache_folder
from blurcli.evaluate import Reference, Statistics
from blurcli.evaluate.distances import frechet_distance
from blurcli.evaluate.floor import floor_of
from blurcli.evaluate.statistics import RunningMoments


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sums = RunningMoments()
    sums.add(features)
    return sums.finish()


@pytest.fixture
def reference() -> Reference:
    features = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7) + 3
    return Reference("some", "abc", Statistics(400, *moments(features), features, torch.ones(400)), "train")


def test_it_is_the_distance_of_two_halves(reference: Reference) -> None:
    floor = floor_of(reference, "some-features", 150)
    assert floor is not None
    features = reference.statistics.features
    assert features is not None
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    direct = frechet_distance(*moments(features[order[:150]]), *moments(features[order[150:]]))
    assert (floor.n, floor.others) == (150, 250)
    assert floor.distance == pytest.approx(direct, rel=1e-6)


def test_it_is_measured_once(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (cache_folder() / "statistics").glob("floor-*.json"):
        path.unlink()
    first = floor_of(reference, "f", 100)
    monkeypatch.setattr("blurcli.evaluate.floor.frechet_distance", None)
    assert floor_of(reference, "f", 100) == first
    (path,) = (cache_folder() / "statistics").glob("floor-*.json")
    path.write_text("{")
    with pytest.raises(TypeError):  # a damaged one is measured again
        floor_of(reference, "f", 100)


def test_where_there_is_none(reference: Reference) -> None:
    assert floor_of(reference, "f", 6) is None  # as many as features
    largest = floor_of(reference, "f", 10_000)
    assert largest is not None
    assert largest.n == 200
    published = replace(reference, statistics=replace(reference.statistics, features=None, radii=None))
    assert floor_of(published, "f", 100) is None


def test_a_score_is_placed(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "real.zip", "w") as archive:
        for index in range(460):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer := io.BytesIO(), "PNG")
            archive.writestr(f"{index}.png", buffer.getvalue())
    np.savez(tmp_path / "made.npz", rng.integers(0, 200, (210, 8, 8, 3), np.uint8))
    command = ("fid", "--samples", "made.npz", "--data", "real.zip", "--features", "pixels")
    score = json.loads(cli(*command, "--json").out)
    floor = score["floor"]
    assert (floor["n"], floor["others"]) == (210, 250)
    text = cli(*command).out
    ratio = f"{score['fd'] / floor['distance']:.2g}"
    assert (
        f"FD of real images {floor['distance']:.4f}  (210 of them against the 250 others; this score is {ratio} times that)"
        in text
    )
