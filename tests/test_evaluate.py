"""Scores: the Frechet distance, the features, and the command's protocol."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import Cli
from PIL import Image
from torch import Tensor

from blurcli import evaluate
from blurcli.data import load_dataset
from blurcli.data.dataset import cache_folder
from blurcli.errors import UserError
from blurcli.evaluate import Features, Moments, array_batches, frechet_distance, load_features, moments_of, reference_moments

CPU = torch.device("cpu")


def random_moments(seed: int, dimensions: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dimensions, dimensions, dtype=torch.float64, generator=generator)
    return torch.randn(dimensions, dtype=torch.float64, generator=generator), root @ root.T


def test_frechet_distance_against_a_matrix_square_root() -> None:
    (m1, s1), (m2, s2) = random_moments(1), random_moments(2)
    root = scipy.linalg.sqrtm((s1 @ s2).numpy()).real
    expected = ((m1 - m2) ** 2).sum().item() + (s1 + s2).trace().item() - 2 * np.trace(root)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(m2, s2, m1, s1) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_commuting_covariances() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64), torch.tensor([9.0, 1.0, 0.0], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    assert frechet_distance(zero, a.diag(), zero + 2, b.diag()) == pytest.approx(12 + (1 - 3) ** 2 + (2 - 1) ** 2)


def test_a_distance_to_oneself_is_zero() -> None:
    mean, covariance = random_moments(3)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-9)


def test_moments_do_not_depend_on_the_batches() -> None:
    features = 1e4 + torch.randn(500, 5, dtype=torch.float64)
    expected = features.mean(0), torch.from_numpy(np.cov(features.numpy(), rowvar=False))
    for size in (1, 7, 500):
        moments = Moments()
        for part in torch.split(features, size):
            moments.add(part)
        assert moments.count == 500
        for ours, theirs in zip(moments.finish(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_covariance_needs_two_images() -> None:
    moments = Moments()
    moments.add(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least two"):
        moments.finish()


def test_pixels_are_averages_of_blocks() -> None:
    images = torch.randint(0, 256, (3, 3, 32, 16), dtype=torch.uint8)
    expected = (images.double() / 127.5 - 1).reshape(3, 3, 8, 4, 8, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(load_features("pixels", "clean", CPU).extract(images), expected)


@pytest.fixture
def feature_file(tmp_path: Path) -> Path:
    """A TorchScript network: mean and spread of each colour, values 0..255."""

    class Statistics(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)

    path = tmp_path / "statistics.pt"
    torch.jit.script(Statistics()).save(str(path))
    return path


def test_torchscript_sees_colour_in_0_to_255(feature_file: Path) -> None:
    features = load_features(str(feature_file), "clean", CPU)
    grey = torch.full((2, 1, 4, 4), 200, dtype=torch.uint8)
    assert features.extract(grey).tolist() == [[200.0] * 3 + [0.0] * 3] * 2
    assert features.metric == "fd"
    assert features.key.startswith("torchscript-")


def test_torchscript_that_is_none_or_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--features .*absent.pt: no such file; .* pixels, inception"):
        load_features(str(tmp_path / "absent.pt"), "clean", CPU)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(UserError, match="not a readable TorchScript file"):
        load_features(str(tmp_path / "text.pt"), "clean", CPU)
    for name, network in (("flat", torch.nn.Linear(5, 2)), ("image", torch.nn.Identity())):
        torch.jit.script(network).save(str(tmp_path / f"{name}.pt"))
        with pytest.raises(UserError, match=rf"{name}.pt: (fails on images of \(3, 4, 4\)|gives features of shape)"):
            load_features(str(tmp_path / f"{name}.pt"), "clean", CPU).extract(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow", "legacy_pytorch"])
def test_inception_is_fed_as_clean_fid_feeds_it(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A stand-in for the network, which cannot be had without the internet: it hands back the pixels that it was given."""
    import cleanfid.features
    from cleanfid.resize import build_resizer

    monkeypatch.setattr(cleanfid.features, "build_feature_extractor", lambda *a, **k: lambda x: x.flatten(1))
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    features = load_features("inception", mode, CPU)
    expected = np.stack([build_resizer(mode)(image) for image in images.permute(0, 2, 3, 1).numpy()])
    assert features.metric == "fid"
    np.testing.assert_array_equal(features.extract(images).numpy(), expected.transpose(0, 3, 1, 2).reshape(2, -1))


def test_inception_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import cleanfid.features

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(cleanfid.features, "build_feature_extractor", fail)
    with pytest.raises(UserError, match=r"Inception network .* cannot be had: no route to host.*--features pixels"):
        load_features("inception", "clean", CPU)


def test_reference_is_measured_once(photos: Path) -> None:
    dataset = load_dataset(str(photos), "train", (8, 8), 3)
    calls: list[int] = []

    def extract(images: Tensor) -> Tensor:
        calls.append(len(images))
        return images.double().flatten(1)[:, :4]

    features = Features(extract, "test-features", "fd")
    first = reference_moments(dataset, features, lambda done: None)
    again = reference_moments(dataset, features, lambda done: None)
    assert calls == [10]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for path in (cache_folder() / "moments").iterdir():
        path.write_bytes(b"damaged")
    reference_moments(dataset, features, lambda done: None)
    assert calls == [10, 10]
    reference_moments(dataset, Features(extract, "other-features", "fd"), lambda done: None)
    assert calls == [10, 10, 10]


def test_data_against_itself_noise_and_more_noise() -> None:
    images = np.array(load_dataset("shapes", "train", (16, 16), 3, shapes_count=1500).images)
    features = load_features("pixels", "clean", CPU)
    moments = lambda array: moments_of(array_batches(array), features, lambda done: None).finish()  # noqa: E731
    noise = np.random.default_rng(0).normal(0, 1, images[:750].shape)
    scores = [
        frechet_distance(*moments((images[:750] + std * noise).clip(0, 255).astype(np.uint8)), *moments(images[750:]))
        for std in (0, 30, 90)
    ]
    assert scores[0] < scores[1] < scores[2]


# The command


def test_score_of_a_run_and_its_protocol(cli: Cli, tiny_run: Path) -> None:
    done = cli("fid", "--run", tiny_run, "--n", 50, "--seed", 3, "--name", "trial", "--json")
    assert done.code == 0, done.err
    score = json.loads(done.out)
    assert score["fd"] > 0
    assert "fid" not in score
    expected = {"name": "trial", "n": 50, "seed": 3, "sampler": "abm", "steps": 2, "step": 3, "features": "pixels-8x8"}
    assert {key: score[key] for key in expected} == expected
    assert json.loads((tiny_run / "evaluations.jsonl").read_text().splitlines()[-1]) == score
    text = cli("fid", "--run", tiny_run, "--n", 50, "--seed", 3)
    assert text.out.startswith(f"FD {score['fd']:.4f}  (pixels-8x8; 50 images against 64 of shapes train)")
    assert "50 images for 192 features" in text.err


def test_score_depends_on_what_is_asked(cli: Cli, tiny_run: Path, feature_file: Path, photos: Path) -> None:
    score = lambda *a: json.loads(cli("fid", "--run", tiny_run, "--n", 20, "--json", *a).out)["fd"]  # noqa: E731
    base = score()
    assert score() == base
    assert score("--batch-size", 3) == base
    for change in (
        ["--seed", 1],
        ["--steps", 5],
        ["--sampler", "ddim"],
        ["--sampler", "ddim", "--eta", 1],
        ["--split", "test"],
        ["--features", feature_file],
        ["--data", photos],
        ["--n", 21],
    ):
        assert score(*change) != base, change


def test_existing_images(cli: Cli, tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    """A folder, a zip and an array of the same images get the same score, by any route to the reference."""
    assert cli("sample", "--run", tiny_run, "--n", 20, "--out", "folder").code == 0
    assert cli("sample", "--run", tiny_run, "--n", 20, "--out", "x.npz").code == 0
    import shutil

    shutil.make_archive("folder", "zip", "folder")
    model = json.loads(cli("fid", "--run", tiny_run, "--n", 20, "--json").out)["fd"]
    for samples in ("folder", "folder.zip", "x.npz"):
        done = cli("fid", "--samples", samples, "--run", tiny_run, "--json")
        assert json.loads(done.out)["fd"] == pytest.approx(model, rel=1e-9), samples
    other = cli("fid", "--samples", photos, "--data", photos, "--features", "pixels", "--json")
    assert json.loads(other.out)["fd"] == pytest.approx(0, abs=1e-9)
    fewer = cli("fid", "--samples", photos, "--data", photos, "--features", "pixels", "--n", 5, "--json")
    assert json.loads(fewer.out)["n"] == 5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--samples", "photos"], "--samples needs something to compare with"),
        (["--samples", "photos", "--data", "photos", "--n", "11"], "holds 10 images; --n 11 cannot be scored"),
        (["--samples", "photos", "--data", "photos", "--steps", "3"], "do not go with it"),
        (["--samples", "photos", "--data", "photos", "--seed", "3"], "do not go with it"),
        (["--samples", "absent", "--data", "photos"], "absent: no such file or folder"),
        (["--samples", "photos", "--data", "absent"], "absent: no such file or folder"),
        (["--n", "1"], "Invalid value for '--n'"),
    ],
)
def test_wrong_usage(cli: Cli, photos: Path, arguments: list[str], text: str) -> None:
    done = cli("fid", *arguments)
    assert done.code == 2
    assert text in " ".join(done.err.split())


def test_a_weights_file_alone_does_not_name_its_data(cli: Cli, photos: Path, tmp_path: Path) -> None:
    from conftest import settings

    assert cli("train", "--preset", "shapes-blur", "--data", photos, "--run", "r", *settings("train.steps=1")).code == 0
    weights = tmp_path / "r" / "weights" / "step-00000001.safetensors"
    done = cli("fid", "--weights", weights, "--n", 4)
    assert done.code == 2
    assert "give them with --data" in done.err
    assert cli("fid", "--weights", weights, "--n", 4, "--data", photos).code == 0
    assert cli("fid", "--run", "r", "--n", 4).code == 0


def test_to_uint8_rounds() -> None:
    from blurcli.model import to_uint8

    values = torch.tensor([-2.0, -1.0, -1 + 0.6 / 127.5, 1 - 0.4 / 127.5, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255, 255]


def test_evaluations_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        evaluate.record(tmp_path / "absent" / "evaluations.jsonl", {})


def test_images_are_read_as_they_are(photos: Path) -> None:
    """The scored pixels of a folder are its files' pixels: no resizing on the way."""
    dataset = load_dataset(str(photos), "train", (12, 16), 3)
    first = np.asarray(Image.open(photos / "0.png")).transpose(2, 0, 1)
    assert np.array_equal(dataset.images[0], first)
