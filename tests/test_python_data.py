"""Images in memory as data, in Python: arrays, lists and torch's data sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

import blurcli as bd
from blurcli.api.data import source_of
from blurcli.base.errors import UsageError, UserError
from blurcli.config import load_run_config, parse_overrides
from blurcli.data import load_dataset

SETTINGS = {key: value for _, key, value in parse_overrides((*TINY, "data.image_size=8"))}
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]


class Labelled(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, items: list[Any], labels: list[Any]) -> None:
        self.items, self.labels = items, labels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise AssertionError("past the end")
        return self.items[index], self.labels[index]


def files(folder: Path) -> list[str]:
    for i, picture in enumerate(PICTURES):
        picture.save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(len(PICTURES))]


@pytest.mark.parametrize(
    "data",
    [
        PIXELS,
        torch.from_numpy(PIXELS).movedim(3, 1),
        bd.Images(PIXELS),
        PICTURES,
        list(PIXELS),
        [torch.from_numpy(pixels).movedim(2, 0) for pixels in PIXELS],
        files,
        Labelled(PICTURES, ["no number"] * 6),
    ],
    ids=["array", "tensor", "Images", "pictures", "arrays", "tensors", "files", "Dataset"],
)
def test_every_kind_gives_the_same_images(tmp_path: Path, data: Any) -> None:
    source = source_of(data(tmp_path) if callable(data) else data)
    assert source == source_of(data(tmp_path) if callable(data) else data)
    assert np.array_equal(load_dataset(str(source), "train", (8, 8), 3).images, PIXELS.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("number", [int, np.int64, torch.tensor])
def test_numbers_of_classes(number: Any) -> None:
    data = load_dataset(
        str(source_of(Labelled(PICTURES, [number(i) for i in (10, 2, 2, 10, 2, 2)]))), "train", (8, 8), 3, classes=2
    )
    assert data.classes == ("2", "10")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 1, 0, 0, 0, 0]  # sorted by name


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_modes_of_pictures(mode: str) -> None:
    base = PICTURES[0].convert("RGB")
    picture = base if mode == "LAB" else base.convert(mode)
    images = load_dataset(str(source_of([picture, picture])), "train", (8, 8), 3).images
    assert images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (5, "is a int; give a folder"),
        ({"a": 1}, "is a dict; give a folder"),
        (iter(PICTURES), "give a folder"),
        ([], "has no images"),
        (PIXELS[0], r"is a ndarray \(8, 8, 3\); give"),
        (PIXELS.astype(np.float32), r"image 0 is a ndarray \(8, 8, 3\) of float32; .*; leave out transforms such as ToTensor"),
        ([torch.rand(3, 8, 8)], r"image 0 is a Tensor \(3, 8, 8\) of float32"),
        ([PIXELS[0], {"image": 1}], r"image 1 is a dict \(\) of object"),
        ([np.zeros((8, 8, 5), np.uint8)], r"image 0 is a ndarray \(8, 8, 5\) of uint8"),
        (["absent.png"], "absent.png: cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_data(data: Any, text: str) -> None:
    for call in (lambda: bd.train(data=data), lambda: bd.score(bd.Images(PIXELS), data=data, features="pixels")):
        with pytest.raises(UsageError, match=text):
            call()


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    PICTURES[0].resize((200, 200)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    with Image.open(tmp_path / "a.png") as damaged, pytest.raises(UserError, match="image 1 cannot be read"):
        source_of([PICTURES[0], damaged])


def test_the_same_call_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    model = bd.train(data=PIXELS, steps=1, settings=SETTINGS)
    assert model.run is not None
    assert model.run.path == Path("runs/images")
    more = bd.train(data=PICTURES[::-1], steps=1, settings=SETTINGS)
    assert more.run is not None
    assert more.run.path == Path("runs/images-2")
    source = Path(load_run_config(Path("runs/images/config.yaml")).data.source)
    source.unlink()  # as after the cache was emptied
    again = bd.train(data=list(PIXELS), steps=2, settings=SETTINGS)
    assert again.step == 2
    assert "continuing runs/images from step 1" in capsys.readouterr().err
    assert bd.score(bd.Images(PIXELS), data=PIXELS, features="pixels", force=True)["fd"] == pytest.approx(0, abs=1e-3)
    with pytest.raises(UsageError, match="both set the length"):
        bd.train(data=PIXELS, hours=1, steps=5)
