"""Features: averaged pixels, networks from files, and Inception as clean-fid feeds it."""

import shutil
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from blurcli.base.errors import UserError
from blurcli.data import ReadOptions, load_dataset
from blurcli.evaluate import array_batches, image_reference, inception, load_features, measure
from blurcli.evaluate.distances import frechet_distance, kernel_distance
from blurcli.evaluate.metrics import metrics_in

CPU = torch.device("cpu")


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels_are_averages_of_blocks() -> None:
    images = random_images(3, 3, 32, 16)
    expected = (images.double() / 127.5 - 1).reshape(3, 3, 8, 4, 8, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(load_features("pixels", "clean", CPU)(images), expected)


# Networks from files


class ColorStatistics(torch.nn.Module):
    """Mean and spread of each color, values 0..255."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)


def exported(path: Path, dynamic: bool) -> Path:
    batch = {0: torch.export.Dim("batch")} if dynamic else None
    program = torch.export.export(ColorStatistics(), (torch.rand(2, 3, 4, 4),), dynamic_shapes=(batch,))
    torch.export.save(program, path)
    return path


@pytest.fixture
def feature_file(tmp_path: Path) -> Path:
    path = tmp_path / "statistics.pt"
    torch.jit.script(ColorStatistics()).save(str(path))
    return path


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_a_network_sees_color_in_0_to_255(feature_file: Path, tmp_path: Path, kind: str) -> None:
    path = feature_file if kind == "torchscript" else exported(tmp_path / "statistics.pt2", dynamic=True)
    features = load_features(str(path), "clean", CPU)
    for count in (2, 5):
        gray = torch.full((count, 1, 4, 4), 200, dtype=torch.uint8)
        assert features(gray).tolist() == [[200.0] * 3 + [0.0] * 3] * count
    assert [metric.name for metric in metrics_in(features)[:2]] == ["fd", "kd"]
    assert features.key.startswith(f"{kind}-")


def test_an_exported_network_of_fixed_batch_is_explained(tmp_path: Path) -> None:
    features = load_features(str(exported(tmp_path / "fixed.pt2", dynamic=False)), "clean", CPU)
    with pytest.raises(UserError, match=r"fixed.pt2: fails on a batch of \(3, 3, 4, 4\).*dynamic_shapes for the batch"):
        features(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))


def test_a_file_that_is_no_network_or_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`features` .*absent.pt: no such file; .* pixels"):
        load_features(str(tmp_path / "absent.pt"), "clean", CPU)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(UserError, match=r"not a readable TorchScript or torch.export file"):
        load_features(str(tmp_path / "text.pt"), "clean", CPU)
    for name, network in (("flat", torch.nn.Linear(5, 2)), ("image", torch.nn.Identity())):
        torch.jit.script(network).save(str(tmp_path / f"{name}.pt"))
        with pytest.raises(UserError, match=rf"{name}.pt: (fails on a batch of \(2, 3, 4, 4\)|returns features of shape)"):
            load_features(str(tmp_path / f"{name}.pt"), "clean", CPU)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


# Inception


class Tuple(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Whole(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).int()


class Nothing(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :0]


class Raising(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] == 7, "only sevens"
        return x.flatten(1)


class Huge(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() * 1e200


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Tuple, "returns a tuple instead of one floating-point tensor"),
        (Whole, "returns torch.int32 instead of one"),
        (Nothing, r"returns features of shape \(2, 0\) instead of \(2, D\)"),
        (Raising, r"fails on a batch of \(2, 3, 8, 8\) \(.*only sevens"),
        (Huge, "features of some images are not finite"),
    ],
)
def test_networks_that_are_of_no_use(tmp_path: Path, network: type[torch.nn.Module], text: str) -> None:
    path = tmp_path / "n.pt"
    torch.jit.script(network()).save(str(path))
    features = load_features(str(path), "clean", CPU)
    with pytest.raises(UserError, match=f"n.pt: {text}"):
        measure([torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)], 2, features)


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (350, 310), (299, 299)])
@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow", "legacy_pytorch"])
def test_resized_pixels_are_those_of_clean_fid(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    """To the last bit, through clean-fid's own loader of files."""
    from cleanfid.utils import ResizeDataset

    images = random_images(3, 3, *size)
    images[1] = 255 * (images[1] > 127)  # overshoots
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    theirs = torch.stack([ResizeDataset(paths, mode)[i] for i in range(3)])
    assert torch.equal(inception.resize(images, mode), theirs)


@pytest.fixture(scope="module")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for the network of `legacy_pytorch`."""
    from cleanfid import inception_pytorch

    torch.manual_seed(0)
    with (
        mock.patch.object(inception_pytorch, "load_state_dict_from_url"),
        mock.patch.object(torch.nn.Module, "load_state_dict"),
    ):
        network = inception_pytorch.fid_inception_v3()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("state") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shapes, and other shapes that are noisy."""
    images = np.array(load_dataset("shapes", "train", (24, 32), 3, ReadOptions(shapes_count=16)).images)
    noise = np.random.default_rng(0).normal(0, 30, images[:8].shape)
    sets = {"noisy": (images[:8] + noise).clip(0, 255).astype(np.uint8), "clean": images[8:]}
    folder = tmp_path_factory.mktemp("folders")
    for name, members in sets.items():
        (folder / name).mkdir()
        for i, image in enumerate(members):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / name / f"{i}.png")
    return folder / "noisy", folder / "clean"


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow", "legacy_pytorch"])
def test_distances_are_those_of_clean_fid(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mode: str,
    folders: tuple[Path, Path],
    inception_file: Path,
    state_file: Path,
) -> None:
    """The same folders, the same network, found where clean-fid looks for it."""
    from cleanfid import features as clean_features
    from cleanfid import fid as clean_fid

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(
        inception, "_clean_fid_path", lambda mode: tmp_path / ("hub/checkpoints" if "py" in mode else "") / name
    )
    name = state_file.name if mode == "legacy_pytorch" else inception_file.name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    shutil.copy(state_file, tmp_path / "hub" / "checkpoints")
    shutil.copy(inception_file, tmp_path)
    wrapper = clean_features.InceptionV3W
    monkeypatch.setattr(clean_features, "InceptionV3W", lambda path, **options: wrapper(str(tmp_path), **options))
    options = {"mode": mode, "num_workers": 0, "device": CPU, "verbose": False}
    with warnings.catch_warnings(action="ignore"):
        network = clean_fid.build_feature_extractor(mode, CPU, use_dataparallel=False)
        theirs = [torch.from_numpy(clean_fid.get_folder_features(str(folder), network, **options)) for folder in folders]

    features = load_features("inception", mode, CPU)
    assert features.key.startswith(f"inception-{mode}-")
    assert [metric.name for metric in metrics_in(features)[:2]] == ["fid", "kid"]
    assert "is not the published Inception network" in features.warning
    ours = [measure(array_batches(load_dataset(str(folder), "train", (24, 32), 3).images), 8, features) for folder in folders]
    for measured, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(measured.features, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    if (
        mode == "clean"
    ):  # in all modes the same functions of the features; of all 2,048, clean-fid's matrix root takes half a minute
        with warnings.catch_warnings(action="ignore"):
            fid = clean_fid.fid_from_feats(*(features[:, :256].numpy() for features in theirs))
        ours_fid = frechet_distance(*(moments for one in ours for moments in (one.mean[:256], one.covariance[:256, :256])))
        # clean-fid takes moments in float32, ours sums in float64.
        assert ours_fid == pytest.approx(fid, rel=1e-4)


def test_subsets_are_those_of_clean_fid() -> None:
    from cleanfid.fid import kernel_distance as theirs

    ours, reference = torch.randn(1500, 16), torch.randn(1200, 16) + 0.2
    np.random.seed(0)  # noqa: NPY002  the generator that clean-fid draws from
    expected = theirs(ours.numpy(), reference.numpy())
    assert kernel_distance(ours, reference)[0] == pytest.approx(expected, rel=1e-4)


def test_reference_is_measured_once(photos: Path) -> None:
    from blurcli.base.cache import cache_folder
    from blurcli.evaluate import Features

    dataset = load_dataset(str(photos), "train", (8, 8), 3)
    calls: list[int] = []

    def embed(images: Tensor) -> Tensor:
        calls.append(len(images))
        return images.double().flatten(1)[:, :4]

    def reference(key: str) -> Tensor:
        return image_reference(
            dataset, "train", Features(lambda x: x, embed, key, key), lambda done: None
        ).statistics.covariance

    first = reference("test-features")
    assert torch.equal(reference("test-features"), first)
    assert calls == [10]
    for path in (cache_folder() / "statistics").iterdir():
        path.write_bytes(b"damaged")
    assert torch.equal(reference("test-features"), first)
    assert calls == [10, 10]
    reference("other-features")
    assert calls == [10, 10, 10]
