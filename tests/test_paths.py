"""Paths and numbers in presets and on the command line, and names that terminals cannot print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli, settings
from PIL import Image

from blurcli.base.cache import cache_folder
from blurcli.base.errors import UsageError, UserError
from blurcli.config import DATASET_NAMES, load_config, parse_overrides
from blurcli.data import DATASETS


def preset(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


# Paths


def test_names_of_datasets_are_not_paths() -> None:
    assert set(DATASET_NAMES) == set(DATASETS)


def test_a_path_in_a_preset_is_relative_to_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "images").mkdir(parents=True)
    (tmp_path / "cifar10").mkdir()
    own = preset(tmp_path / "there" / "own.yaml", "extends: folder-blur\ndata: {source: images}\n")
    above = preset(tmp_path / "there" / "deep" / "own.yaml", "extends: ../own.yaml\n")
    dataset = preset(tmp_path / "dataset.yaml", "extends: folder-blur\ndata: {source: cifar10}\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("there/own.yaml").data.source == load_config(own).data.source == str(tmp_path / "there" / "images")
    assert load_config(above).data.source == str(tmp_path / "there" / "images")
    assert load_config(dataset).data.source == "cifar10"
    assert load_config(own, parse_overrides(["data.source=there/images"])).data.source == str(tmp_path / "there" / "images")


def test_home_in_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    preset(tmp_path / "base.yaml", "data: {source: ~/images}\n")
    child = preset(tmp_path / "child" / "x.yaml", "extends: ~/base.yaml\n")
    assert load_config(child).data.source == str(tmp_path / "images")
    assert load_config(child, parse_overrides(["data.source=~/else/x"])).data.source == str(tmp_path / "else" / "x")


def test_moved_images_are_one_flag(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i * 50, 9, 9)).save(tmp_path / "d" / f"{i}.png")
    tiny = settings("data.image_size=8", "train.steps=1", "train.batch_size=2", "model.multipliers=[1]")
    tiny += settings("model.attention_levels=[]", "model.patch_size=1")
    assert cli("train", "--preset", "shapes-blur", "--data", "d", "--run", "r", *tiny).code == 0
    (tmp_path / "d").rename(tmp_path / "moved")
    likelihood = ("likelihood", "--run", "r", "--n", "2", "--split", "train")
    score = ("fid", "--run", "r", "--n", "2", "--force")
    for command in (likelihood, score, ("train", "--run", "r", "--set", "train.steps=2")):
        refused = cli(*command)
        assert refused.code == 2
        assert f"data '{tmp_path}/d': no such folder, .zip file or dataset; if the images have moved" in refused.err
        assert refused.err.rstrip().endswith("name their new place with --data")
        accepted = cli(*command, "--data", "moved")
        assert accepted.code == 0, accepted.err


def test_no_home_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BLURDIFF_CACHE", raising=False)
    monkeypatch.setattr("blurcli.base.cache.user_cache_path", lambda *a, **k: Path("~nobody-there/.cache/blurdiff"))
    with pytest.raises(UserError, match=r"no home folder .*\$BLURDIFF_CACHE"):
        cache_folder()
    monkeypatch.setenv("BLURDIFF_CACHE", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "x"


def test_a_cache_that_cannot_be_written_names_the_variable(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("BLURDIFF_CACHE", str(tmp_path / "file" / "cache"))
    done = cli("train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=1"))
    assert done.code == 1
    assert "$BLURDIFF_CACHE" in done.err
    assert str(tmp_path / "file") in done.err


# Names


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_are_printed_faithfully(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    for name in (b"latin\xe9.png", b"a:smile:.png", b"[red]x.png", "ж.png".encode()):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"no image")
    code = f"import sys; from blurcli.cli import run; sys.argv[1:] = ['data', {str(folder)!r}] + sys.argv[1:]; run()"

    def shown(*more: str) -> str:
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code, *more], capture_output=True, env=environment, check=True)
        return done.stdout.decode(encoding)

    text = shown()
    for name in (r"latin\xe9.png (", "a:smile:.png (", "[red]x.png (", "ж.png (" if encoding == "utf-8" else r"\u0436.png ("):
        assert name in text
    assert "latin\udce9.png" in json.loads(shown("--json"))["broken"]


# Numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0100", 100), ("1e3", 1000), ("1E+3", 1000), ("1_000", 1000), ("+7", 7), ("1000.0", 1000)],
)
def test_numbers_mean_what_people_think(tmp_path: Path, text: str, expected: int) -> None:
    path = preset(tmp_path / "x.yaml", f"extends: shapes-blur\ntrain: {{steps: {text}}}\nseed: 012\n")
    config = load_config(path)
    assert (config.train.steps, config.seed) == (expected, 12)
    assert load_config("shapes-blur", parse_overrides([f"train.steps={text}"])).train.steps == expected


@pytest.mark.parametrize("text", ["1:30", "0x10", "1.5", "2024-01-01", "1e-3"])
def test_what_is_no_whole_number(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"train\.steps: got"):
        load_config(preset(tmp_path / "x.yaml", f"extends: shapes-blur\ntrain: {{steps: {text}}}\n"))


@pytest.mark.parametrize(("text", "expected"), [("1e-3", 1e-3), (".5", 0.5), ("1.", 1.0), ("5e-1", 0.5)])
def test_fractions(text: str, expected: float) -> None:
    assert load_config("shapes-blur", parse_overrides([f"optim.lr={text}"])).optim.lr == expected


def test_a_folder_named_like_a_date(tmp_path: Path) -> None:
    (tmp_path / "2024-01-01").mkdir()
    path = preset(tmp_path / "x.yaml", "extends: folder-blur\ndata:\n  source: 2024-01-01\n")
    assert load_config(path).data.source == str(tmp_path / "2024-01-01")


def test_dotted_keys_of_a_file(tmp_path: Path) -> None:
    config = load_config(preset(tmp_path / "x.yaml", "extends: shapes-blur\ntrain.steps: 5\ntrain:\n  batch_size: 6\n"))
    assert (config.train.steps, config.train.batch_size) == (5, 6)
    with pytest.raises(UsageError, match=r"key .train\.steps. appears twice"):
        load_config(preset(tmp_path / "x.yaml", "train.steps: 5\ntrain: {steps: 6}\n"))
    with pytest.raises(UsageError, match=r"x.yaml: train.step: unknown key; did you mean 'train.steps'"):
        load_config(preset(tmp_path / "x.yaml", "train.step: 5\n"))
    with pytest.raises(UsageError, match="seed is not a mapping"):
        load_config(preset(tmp_path / "x.yaml", "seed: 5\nseed.x: 6\n"))


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_source_is_not_this_folder(cli: Cli, empty: str) -> None:
    for command in (("train", "--data", empty, "--dry-run"), ("data", empty), ("fid", "--data", empty)):
        done = cli(*command)
        assert (done.code, "--data: is empty" in done.err) == (2, True), done.err
