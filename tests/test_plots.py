from pathlib import Path

import pytest
import torch
from PIL import Image

from blurcli.errors import UsageError, UserError
from blurcli.plots import check_plot, save_errors, save_sweep

ROWS = [
    {"sampler": sampler, "steps": steps, "mean": 1 / steps, "min": 0.9 / steps, "max": 1.2 / steps}
    for sampler in ("abm", "ddim")
    for steps in (5, 20)
]


def test_a_sweep_names_its_samplers_and_axes(tmp_path: Path) -> None:
    save_sweep(ROWS, "FD", tmp_path / "s.svg")
    text = (tmp_path / "s.svg").read_text()
    for word in ("abm", "ddim", "FD", "steps", "20"):
        assert f"<!-- {word}" in text
    save_sweep(ROWS, "FD", tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (1050, 675)


def test_errors_are_coloured_about_one(tmp_path: Path) -> None:
    relative = torch.tensor([[0.01, 1.0], [0.01, 1.0], [0.01, 1e9]])
    save_errors(torch.linspace(0, 1, 3), relative, ["mean", "4-2 px"], tmp_path / "e.png")
    with Image.open(tmp_path / "e.png") as picture:
        pixels = picture.convert("RGB")
        seen = {pixels.getpixel((x, y)) for x in (250, 500, 800) for y in (150, 450)}
    blue, white, red = (5, 48, 97), (247, 247, 247), (103, 0, 31)  # the ends and the middle of RdBu
    assert all(min(sum(abs(a - b) for a, b in zip(colour, c, strict=True)) for c in seen) < 12 for colour in (blue, white, red))


def test_refusals_come_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in .png or .svg"):
        check_plot(tmp_path / "s.jpeg")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        check_plot(tmp_path / "file" / "s.png")
