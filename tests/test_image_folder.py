"""Folders of sampled images: continued, extended, completed, and refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from filelock import FileLock

import blurcli as bd
from blurcli.base import files
from blurcli.base.errors import UsageError, UserError
from blurcli.visualize import ImageFolder

SETTINGS = {"seed": 0}


def fill(folder: Path, count: int = 3, settings: dict[str, object] = SETTINGS) -> list[int]:
    """Sample into a folder, image i all of value i; returns the indices of the images that were made."""
    out = ImageFolder(folder, settings)
    with out.claimed(count) as missing:
        for index in missing:
            out.write(np.full((1, 3, 8, 8), index, np.uint8), [index])
    return missing


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.is_file()}


Fault = Callable[[Path], object]
FAULTS: dict[str, tuple[Fault, list[int]]] = {
    "nothing": (lambda folder: None, []),
    "the record half written": (lambda folder: (erase(folder), (folder / ".partial-sampling-x.json").touch()), [0, 1, 2]),
    "an image half written": (lambda folder: (folder / "000002.png").rename(folder / ".partial-000002-x.png"), [2]),
    "lost": (lambda folder: (folder / "000001.png").unlink(), [1]),
    "of 0 bytes": (lambda folder: (folder / "000000.png").write_bytes(b""), [0]),
    "cut": (lambda folder: cut(folder / "000001.png"), [1]),
    "zeros": (lambda folder: (folder / "000001.png").write_bytes(bytes(80)), [1]),
    "a link to nowhere": (lambda folder: ((folder / "000001.png").unlink(), (folder / "000001.png").symlink_to("no")), [1]),
    "an empty record": (lambda folder: (erase(folder), (folder / "sampling.json").touch()), [0, 1, 2]),
    "files of the system": (lambda folder: leave(folder), []),
    "only files of the system": (lambda folder: (erase(folder), leave(folder)), [0, 1, 2]),
}


def erase(folder: Path) -> None:
    for path in folder.glob("[!.]*"):
        path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def leave(folder: Path) -> None:
    for name in (".DS_Store", ".nfs000001", "Thumbs.db", "desktop.ini", "._000000.png"):
        (folder / name).touch()
    for name in ("lost+found", "@eaDir"):
        (folder / name).mkdir()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_is_made_and_nothing_else(tmp_path: Path, fault: str) -> None:
    fill(tmp_path)
    whole = content(tmp_path)
    spoil, expected = FAULTS[fault]
    spoil(tmp_path)
    assert fill(tmp_path) == expected
    assert {name: data for name, data in content(tmp_path).items() if name in whole} == whole
    assert not list(tmp_path.glob(".partial*"))
    assert fill(tmp_path) == []


def test_more_images_extend_a_folder_and_fewer_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    (tmp_path / "000000.png").unlink()
    assert fill(tmp_path, 4) == [0, 2, 3]
    with pytest.raises(UsageError, match="holds 4 images, more than `n` 3; choose another folder with `out`, or use `n` 4"):
        fill(tmp_path, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "sampling.json").write_text('{"seed": 1, "eta": 0.5}'),
            r"eta 0.5 \(now none\), seed 1 \(now 0\)",
        ),
        (
            lambda folder: (folder / "sampling.json").write_text('{"seed": 1, "blurdiff": "0.0.7"}'),
            r"of other settings \(by blurdiff 0.0.7; this is [\d.]+\): seed 1 \(now 0\)",
        ),
        (lambda folder: (folder / "sampling.json").write_bytes(b"\xff"), "sampling.json: cannot be read"),
        (lambda folder: (folder / "sampling.json").unlink(), "exists and is not an empty folder"),
    ],
    ids=["other settings", "another version", "torn", "no record"],
)
def test_other_images_are_left_alone(tmp_path: Path, spoil: Fault, message: str) -> None:
    fill(tmp_path)
    spoil(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=message):
        fill(tmp_path)
    assert content(tmp_path) == before


def test_a_second_sampling_is_refused_at_once(tmp_path: Path) -> None:
    first = ImageFolder(tmp_path / "out", SETTINGS)
    with first.claimed(3) as missing:
        first.write(np.zeros((1, 3, 8, 8), np.uint8), missing[:1])
        half = tmp_path / "out" / ".partial-000001-x.png"
        half.touch()
        with pytest.raises(UserError, match=r"out: process \d+ on .* is sampling here; wait for it, or use another folder"):
            fill(tmp_path / "out")
        assert half.exists()
    assert fill(tmp_path / "out") == [1, 2]


def test_a_lock_without_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process works here"):
        fill(tmp_path)


def test_a_finished_folder_on_the_command_line(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    sample = ("sample", "--run", tiny_run, "--seed", 1)
    assert cli(*sample, "--n", 5, "--out", "whole").code == 0
    assert cli(*sample, "--n", 3, "--out", "out").code == 0
    record = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert (record["seed"], record["blurdiff"], len(record["weights"])) == (1, bd.__version__, 16)
    again = cli(*sample, "--n", 3, "--out", "out", "--json")
    assert (again.code, json.loads(again.out)["n"]) == (0, 3)
    assert "out: is complete, with 3 images of these settings" in again.err
    assert "sampling 0 images" not in again.err
    more = cli(*sample, "--n", 5, "--out", "out")
    assert "out: continuing after 3 of 5 images" in more.err
    for index in (1, 3):
        (tmp_path / "out" / f"{index:06d}.png").unlink()
    gaps = cli(*sample, "--n", 5, "--out", "out", "--batch-size", 1)
    assert "out: making 2 of 5 images, which are missing or damaged" in gaps.err
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    pixels = cli("fid", "--samples", "out", "--data", "whole", "--features", "pixels", "--force", "--json")
    assert (json.loads(pixels.out)["fd"] < 1e-6, "skipped" in pixels.err) == (True, False)


def test_another_photo_at_the_same_path_is_another_setting(cli: Cli, tiny_run: Path, photos: Path) -> None:
    sample = ("sample", "--run", tiny_run, "--n", 2, "--init-image", "photos/0.png", "--out", "out")
    assert cli(*sample).code == 0
    assert cli(*sample).code == 0
    (photos / "1.png").replace(photos / "0.png")
    refused = cli(*sample)
    assert (refused.code, "out: holds images of other settings: init_image " in refused.err) == (2, True)


def test_other_weights_at_the_same_path_are_another_setting(cli: Cli, tiny_run: Path) -> None:
    sample = ("sample", "--run", tiny_run, "--n", 2, "--steps", 2, "--out", "out")
    assert cli(*sample).code == 0
    assert cli("train", "--run", tiny_run, "--set", "train.steps=4").code == 0
    refused = cli(*sample)
    assert (refused.code, "out: holds images of other settings: weights " in refused.err) == (2, True)


def test_python_continues_a_folder_of_the_command_line(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    assert cli("sample", "--run", tiny_run, "--n", 2, "--out", "out").code == 0
    images = bd.load(tiny_run).sample(3)
    images.save("out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    with pytest.raises(UsageError, match="not an empty folder"):
        images[:2].save("out")
    images[1:].save("part")
    assert (tmp_path / "part/000000.png").read_bytes() == (tmp_path / "out/000001.png").read_bytes()
    assert cli("sample", "--run", tiny_run, "--n", 2, "--out", "part").code == 2


def test_a_new_folder_takes_the_place_of_one_with_files_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    leave(tmp_path / "out")
    files.check_new_folder(tmp_path / "out")
    with files.new_folder(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("a")
    assert (tmp_path / "out" / "sub" / "a.txt").read_text() == "a"
    assert (tmp_path / "out" / "lost+found").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UsageError, match="not an empty folder"):
        files.check_new_folder(tmp_path / "out")
