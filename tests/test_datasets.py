"""Named datasets, faked in the layouts of their publishers; and every preset on its own data."""

import gzip
import io
import pickle
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from blurcli.base.errors import UsageError, UserError
from blurcli.base.runs import Run
from blurcli.config import load_config, preset_names
from blurcli.data import load_dataset
from blurcli.data.manual_datasets import MANUAL_DATASETS
from blurcli.model.inference import build_network
from blurcli.model.weights import load_weights
from blurcli.training.monitoring import Monitor

COUNT = 6  # images of each split


def picture(number: int, height: int, width: int) -> Image.Image:
    """Gray level `number` in the upper half, which identifies the image; noise below."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 2] = number
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "webp" else {}))
    return file.getvalue()


def make_cifar(root: Path, folder: str, files: list[str], label_key: str, meta: tuple[str, str], classes: int) -> None:
    (root / folder).mkdir(parents=True)
    for name in files:
        rng = np.random.default_rng(len(name))
        entry = {"data": rng.integers(0, 256, (COUNT, 3072), np.uint8), label_key: [i % classes for i in range(COUNT)]}
        (root / folder / name).write_bytes(pickle.dumps(entry))  # what the publisher ships, and torchvision reads
    (root / folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [f"class {i}" for i in range(classes)]}))


def make_mnist(raw: Path) -> None:
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)
        content = struct.pack(">IIII", 0x803, COUNT, 28, 28) + pixels.tobytes()
        labels = struct.pack(">II", 0x801, COUNT) + bytes(i % 10 for i in range(COUNT))
        for name, data in ((f"{split}-images-idx3-ubyte", content), (f"{split}-labels-idx1-ubyte", labels)):
            (raw / name).write_bytes(data)
            (raw / f"{name}.gz").write_bytes(gzip.compress(data))


def make_celeba(folder: Path) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for i in range(3 * COUNT):
            archive.writestr(f"img_align_celeba/{i + 1:06d}.jpg", encoded(picture(i, 218, 178), "jpeg"))
    lines = [f"{i + 1:06d}.jpg {i // COUNT}" for i in range(3 * COUNT)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def make_lsun(folder: Path) -> None:
    for number, split in enumerate(("train", "val")):
        place = folder / f"church_outdoor_{split}_lmdb"
        place.mkdir(parents=True)
        with lmdb.open(str(place), map_size=1 << 24) as database, database.begin(write=True) as transaction:
            for i in range(COUNT):
                image = picture(number * COUNT + i, 256, 300)
                transaction.put(f"{i:040x}".encode(), encoded(image, "webp"))


def make_ffhq(folder: Path) -> None:
    for name, side in (("thumbnails128x128", 128), ("images1024x1024", 1024)):
        for first in (0, 60_000):
            (folder / name / f"{first:05d}").mkdir(parents=True)
            for i in range(first, first + COUNT):
                picture(i % 251, side, side).save(folder / name / f"{first:05d}" / f"{i:05d}.png", compress_level=1)


def make_afhq(folder: Path) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "afhq.zip", "w") as archive:
        for number, split in enumerate(("train", "val")):
            for i in range(COUNT):
                content = encoded(picture(number * COUNT + i, 512, 512), "jpeg")
                kind = ("cat", "dog", "wild")[i % 3]
                archive.writestr(f"afhq/{split}/{kind}/flickr_{kind}_{i:06d}.jpg", content)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that contains every named dataset."""
    cache = tmp_path_factory.mktemp("downloads")
    vision = cache / "torchvision"
    training = [f"data_batch_{i}" for i in range(1, 6)]
    make_cifar(vision, "cifar-10-batches-py", [*training, "test_batch"], "labels", ("batches.meta", "label_names"), 10)
    make_cifar(vision, "cifar-100-python", ["train", "test"], "fine_labels", ("meta", "fine_label_names"), 100)
    for name in ("MNIST", "FashionMNIST"):
        make_mnist(vision / name / "raw")
    for name, make in (("celeba", make_celeba), ("lsun-church", make_lsun), ("ffhq", make_ffhq), ("afhq", make_afhq)):
        make(cache / "downloads" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLURDIFF_CACHE", str(cache))
        # The fakes have other checksums.
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).exists())
        yield cache


def numbers(source: str, split: str, size: int) -> list[int]:
    """The numbers in the upper halves of the images of a split."""
    images = load_dataset(source, split, (size, size), 3).images
    return [round(float(image[:, : size // 3].mean())) for image in images]


@pytest.mark.parametrize(("source", "test"), [("celeba", 2 * COUNT), ("lsun-church", COUNT), ("afhq", COUNT)])
def test_splits(downloads: Path, source: str, test: int) -> None:
    """CelebA has a validation split before the test split; LSUN and AFHQ have two splits."""
    found = numbers(source, "train", 64), numbers(source, "test", 64)
    # AFHQ's are sorted by class.
    assert [sorted(split) for split in found] == [list(range(COUNT)), list(range(test, test + COUNT))]


def test_ffhq_by_size(downloads: Path) -> None:
    assert numbers("ffhq", "train", 128) == numbers("ffhq", "train", 132) == list(range(COUNT))
    assert numbers("ffhq", "test", 64) == [i % 251 for i in range(60_000, 60_000 + COUNT)]
    small, large = (load_dataset("ffhq", "train", (side, side), 3).images for side in (128, 132))
    # The noise of the thumbnails is unchanged; resizing averages the noise of the large images.
    assert small[:, :, 80:].std() > 60
    assert large[:, :, 80:].std() < 30


@pytest.mark.parametrize("source", MANUAL_DATASETS)
def test_the_same_layout_elsewhere(downloads: Path, source: str, tmp_path: Path) -> None:
    shutil.copytree(downloads / "downloads" / source, tmp_path / "mine")
    ours, theirs = (load_dataset(place, "train", (32, 32), 3) for place in (str(tmp_path / "mine"), source))
    assert np.array_equal(ours.images, theirs.images)
    assert ours.fingerprint == theirs.fingerprint


def test_classes_of_afhq_and_cifar(downloads: Path) -> None:
    afhq = load_dataset("afhq", "train", (16, 16), 3, classes=3)
    assert afhq.classes == ("cat", "dog", "wild")
    cifar = load_dataset("cifar100", "test", (32, 32), 3, classes=100)
    assert cifar.labels is not None
    assert cifar.labels.tolist() == list(range(COUNT))
    assert cifar.classes[3] == "class 3"


@pytest.mark.parametrize("source", MANUAL_DATASETS)
def test_a_missing_dataset_names_page_files_and_folder(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURDIFF_CACHE", str(tmp_path))
    known = MANUAL_DATASETS[source]
    with pytest.raises(UsageError) as error:
        load_dataset(source, "train", (64, 64), 3)
    for text in (known.page, known.needed, str(tmp_path / "downloads" / source), "`data`"):
        assert text in str(error.value)


def test_an_incomplete_dataset_names_what_is_missing(downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURDIFF_CACHE", str(tmp_path))
    folder = tmp_path / "downloads"
    (folder / "celeba").mkdir(parents=True)
    (folder / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(UsageError, match=r"celeba: img_align_celeba or img_align_celeba.zip is missing"):
        load_dataset("celeba", "train", (8, 8), 3)
    (folder / "lsun-church").mkdir()
    (folder / "lsun-church" / "church_outdoor_train_lmdb.zip").write_text("")
    with pytest.raises(UsageError, match=r"\*_train_lmdb, unzipped is missing"):
        load_dataset("lsun-church", "train", (8, 8), 3)
    shutil.copytree(downloads / "downloads" / "ffhq" / "thumbnails128x128" / "00000", folder / "ffhq" / "thumbnails128x128")
    with pytest.raises(UsageError, match=r"images1024x1024 or images1024x1024.zip is missing"):
        load_dataset("ffhq", "train", (256, 256), 3)
    with pytest.raises(UsageError, match=r"none of its images belongs to the split test"):
        load_dataset("ffhq", "test", (64, 64), 3)
    (folder / "ffhq" / "thumbnails128x128" / "me.png").write_text("")
    with pytest.raises(UserError, match=r"me.png: FFHQ's files are named by numbers"):
        load_dataset("ffhq", "train", (64, 64), 3)


def test_databases_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"not a readable LMDB database"):
        load_dataset(str(tmp_path), "train", (8, 8), 3)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"an LMDB database: needs the package lmdb: pip install lmdb"):
        load_dataset(str(tmp_path), "train", (8, 8), 3)


def test_data_reports_a_named_dataset(downloads: Path, cli: Cli) -> None:
    done = cli("data", "afhq")
    assert done.code == 0
    assert "512x512" in done.out


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_trains_a_step_on_its_own_data(
    preset: str, cli: Cli, photos: Path, tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Monitor, "_preview", lambda *arguments: None)  # sampling 512x512 takes longer than all the rest
    full = load_config(preset)
    with torch.device("meta"):
        build_network(full)
    # The published heat dissipation takes one step per level.
    steps = full.sample.steps if full.objective == "residual" else 2
    small = [
        f"sample.steps={steps}",
        "model.base_channels=4",
        "model.blocks_per_level=1",
        "train.steps=1",
        "train.batch_size=2",
        "train.preview_images=1",
        "train.health_every_steps=null",
        "data.shapes_count=32",
    ]
    assignments = [part for assignment in small for part in ("--set", assignment)]
    data = ["--data", photos] if preset.startswith("folder-") else []
    done = cli("train", "--preset", preset, "--run", "r", *data, *assignments)
    assert done.code == 0, done.err
    weights = load_weights(Run(tmp_path / "r").weights_path(1))
    assert weights.config.process == full.process
    assert weights.config.objective == full.objective
    assert weights.config.data.image_size == full.data.image_size
