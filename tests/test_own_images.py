"""`train --data FOLDER` without a preset: what is chosen, and what is said."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from blurcli.base import console
from blurcli.base.errors import UsageError, UserError
from blurcli.base.pace import Pace
from blurcli.base.runs import Run
from blurcli.config import load_config, to_yaml
from blurcli.training.length import seconds_of, seconds_spent, steps_in
from blurcli.workflows import training_setup
from blurcli.workflows.benchmark import changed
from blurcli.workflows.training_setup import choose_preset, set_up

TINY = "model.base_channels=8", "model.multipliers=[1]", "model.attention_levels=[]", "train.batch_size=2"


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_setup, "_step_sec", lambda config, device: 0.3)


def photos(folder: Path, count: int, size: tuple[int, int], mode: str = "RGB") -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).convert("RGB").save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("size", "mode", "expected", "channels"), [((90, 61), "RGB", 64, 3), ((28, 28), "L", 32, 1), ((12, 400), "RGB", 16, 3)]
)
def test_size_and_colors_follow_the_images(
    tmp_path: Path, size: tuple[int, int], mode: str, expected: int, channels: int
) -> None:
    choice = choose_preset(str(photos(tmp_path / "p", 5, size, mode)), "cpu")
    assert choice.config.data.image_size == (expected, expected)
    assert (choice.config.data.channels, choice.config.data.augment) == (channels, 0.12)
    assert choice.config.model == load_config("folder-small").model
    assert choice.reason.startswith(f"5 images, shorter side {min(size)} px, {'gray' if channels == 1 else 'in color'}")


@pytest.mark.parametrize("place", range(3))
def test_every_image_counts(tmp_path: Path, place: int) -> None:
    """One in color, one of another size and one that is broken among gray ones, wherever they come."""
    folder = photos(tmp_path / "p", 6, (70, 70), "L")
    Image.new("RGB", (70, 70), (200, 90, 10)).save(folder / f"{place * 2}.png")
    Image.new("L", (400, 12)).save(folder / f"{place * 2 + 1}.png")
    (folder / f"{5 - place * 2}a.png").write_text("no image")
    choice = choose_preset(str(folder), "cpu")
    assert "images, shorter side 70 px, in color: " in choice.reason
    assert (choice.config.data.channels, choice.config.data.image_size) == (3, (64, 64))


@pytest.mark.parametrize(
    ("step_sec", "steps", "text"),
    [
        (0.3, 11_900, "11,900 steps, chosen for an hour at today's speed; --hours 0.5 for less"),
        (6.0, 2_000, "2,000 steps, because fewer give poor images; about 3 h 23 min at today's speed; --hours 1 for less"),
        (0.01, 60_000, "60,000 steps, because more hardly help; about 10 min at today's speed; --hours 1 for more"),
    ],
)
def test_the_length_has_one_number_and_its_reason(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_sec: float, steps: int, text: str
) -> None:
    monkeypatch.setattr(training_setup, "_step_sec", lambda config, device: step_sec)
    photos(tmp_path / "p", 5, (20, 20))
    done = cli("train", "--data", "p", "--device", "cpu", "--dry-run", "--json")
    assert json.loads(done.out)["train"]["steps"] == steps
    first, second, third = done.err.splitlines()[-3:]
    assert (second, third) == (text, "for a GPU: --preset folder-blur")
    assert "steps" not in first


def test_a_gpu_takes_the_large_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurcli.model.inference.choose_device", lambda name: torch.device("cuda"))
    setup = set_up(None, str(photos(tmp_path / "p", 3, (70, 70))), None, "auto", None)
    assert setup.config.model == load_config("folder-blur").model
    assert setup.config.train.steps == load_config("folder-blur").train.steps


def test_own_settings_count_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_setup, "_step_sec", None)  # nothing is measured
    own = ["train.steps=7", "data.image_size=16", "data.augment=0"]
    config = set_up(None, str(photos(tmp_path / "p", 3, (70, 70))), None, "cpu", own).config
    assert (config.train.steps, config.data.image_size, config.data.augment) == (7, (16, 16), 0)


def test_many_images_are_not_augmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_setup, "_FEW_IMAGES", 3)
    assert choose_preset(str(photos(tmp_path / "p", 3, (70, 70))), "cpu").config.data.augment == 0


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match=r"a.png: not a readable image"):
        choose_preset(str(tmp_path), "cpu")


def test_the_same_command_continues(cli: Cli, tmp_path: Path) -> None:
    photos(tmp_path / "cats", 4, (20, 20))
    command = ["train", "--data", "cats", *(part for key in TINY for part in ("--set", key))]
    first = cli(*command, "--set", "train.steps=1")
    assert first.code == 0, first.err
    assert first.out.strip() == "runs/cats/weights/step-00000001.safetensors"
    assert "preset folder-small at 16x16" in first.err
    second = cli(*command, "--set", "train.steps=2")
    assert second.code == 0, second.err
    assert "continuing runs/cats from step 1" in second.err


@pytest.mark.parametrize(("steps", "warned"), [(10**9, True), (100, False)])
def test_weeks_are_foretold_at_the_first_steps(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, warned: bool
) -> None:
    photos(tmp_path / "cats", 2, (20, 20))
    monkeypatch.setattr(sys.modules["blurcli.cli.progress"], "_MEASURED_SEC", 0.0)
    told: list[str] = []

    def stop_when_told(text: str) -> None:
        told.append(text)
        if ("steps/s" in text and not warned) or "warning" in text:
            raise UserError("enough")

    monkeypatch.setattr(console, "notify", stop_when_told)
    command = ["train", "--preset", "folder-small", "--data", "cats", "--set", "data.image_size=16"]
    command += [part for key in TINY for part in ("--set", key)]
    assert cli(*command, "--set", f"train.steps={steps}").code == 1
    assert told[-1].startswith("warning: this would take" if warned else "100 steps at")


def test_a_dataset_has_presets_of_its_own(cli: Cli) -> None:
    done = cli("train", "--data", "cifar10")
    assert done.code == 2
    assert "--data cifar10: choose a preset for it with --preset" in done.err


# Names of runs


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Set up a training, as far as config.yaml; gives the name of its run."""
    monkeypatch.chdir(tmp_path)

    def start(data: str | None, preset: str | None = None) -> str:
        setup = set_up(preset, data, None, "cpu", ["train.steps=5"])
        setup.run.path.mkdir(parents=True, exist_ok=True)
        setup.run.config_path.write_text(to_yaml(setup.config))
        return str(setup.run.path)

    return start


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("photos.v2", "photos.v2"),
        ("photos.v2/", "photos.v2"),
        ("photos.v2/../my pictures", "my pictures"),
        ("~/photos.v2", "photos.v2"),
        ("pack.v3.zip", "pack.v3"),
        ("link", "link"),
        ("photos.v2/0.png", "0"),
        (".", "here"),
    ],
)
def test_a_run_has_the_name_of_its_images(
    started: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, name: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for folder in ("photos.v2", "my pictures"):
        photos(here / folder, 1, (20, 20))
    (here / "link").symlink_to("photos.v2")
    shutil.make_archive(str(here / "pack.v3"), "zip", here / "photos.v2")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    assert started(data) == f"runs/{name}"


def test_names_of_what_has_none() -> None:
    assert [training_setup._name_of(source) for source in ("/", "/data/church.lmdb", "/data/x.V2")] == [
        "images",
        "church",
        "x.V2",
    ]


def test_a_name_that_other_images_have_gets_a_number(
    started: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        photos(tmp_path / folder / "cats", 1, (20, 20))
    assert [started(f"{folder}/cats") for folder in "abc"] == ["runs/cats", "runs/cats-2", "runs/cats-3"]
    assert f"runs/cats is a run of other images ({tmp_path / 'a/cats'}): this one is runs/cats-3" in capsys.readouterr().err
    assert [started(f"{folder}/cats/") for folder in "cba"] == ["runs/cats-3", "runs/cats-2", "runs/cats"]
    assert "other images" not in capsys.readouterr().err
    shutil.rmtree("runs/cats")
    assert started("b/cats") == "runs/cats-2"  # its own, though there is a shorter name
    (tmp_path / "b" / "cats").rename(tmp_path / "moved")
    (tmp_path / "c" / "link").symlink_to(tmp_path / "c" / "cats")
    assert started("c/link/../cats") == "runs/cats-3"
    os.renames("moved", "d/cats")
    assert started("d/cats") == "runs/cats-2"  # b's images are no longer there: they may have moved


def test_another_preset_or_its_images_get_a_number(started: Callable[..., str], tmp_path: Path) -> None:
    photos(tmp_path / "shapes-blur", 1, (20, 20))
    assert started(None, "shapes-blur") == "runs/shapes-blur"
    assert started("shapes-blur") == "runs/shapes-blur-2"
    assert started(None, "shapes-blur") == "runs/shapes-blur"
    photos(tmp_path / "more", 1, (20, 20))
    assert started("more", "shapes-blur") == "runs/shapes-blur-3"
    assert started("more", "shapes-blur") == "runs/shapes-blur-3"
    (tmp_path / "mine.v1.yaml").write_text("extends: shapes-blur")
    assert started(None, "mine.v1.yaml") == "runs/mine.v1"


# --hours


def test_hours_set_the_steps(cli: Cli, tmp_path: Path) -> None:
    photos(tmp_path / "cats", 4, (20, 20))
    for source in (("--data", "cats"), ("--preset", "shapes-blur"), ("--preset", "folder-blur", "--data", "cats")):
        done = cli("train", *source, "--hours", "0.5", "--device", "cpu", "--dry-run", "--json")
        config = load_config("shapes-blur").model_validate_json(done.out)
        assert seconds_of(config, config.train.steps, 0.3) == pytest.approx(1800, rel=0.001)
        assert f"{config.train.steps:,} steps, chosen for 30 min at today's speed" in done.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--hours", "nan"), "--hours nan: must be a number above 0"),
        (("--hours", "inf"), "--hours inf: must be a number above 0"),
        (("--hours", "0"), "--hours 0.0: must be a number above 0"),
        (("--hours", "-1"), "--hours -1.0: must be a number above 0"),
        (("--hours", "1", "--set", "train.steps=5"), "--hours 1 and --set train.steps=5: both set the length; use one of them"),
        (("--hours", "1", "--set", "objective=consistency", "--set", "sample.sampler=consistency"), "is not for distillations"),
    ],
)
def test_hours_that_are_refused(cli: Cli, options: tuple[str, ...], text: str) -> None:
    done = cli("train", "--preset", "shapes-blur", *options)
    assert done.code == 2
    assert text in done.err
    assert not Path("runs").exists()


def test_hours_measure_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="the speed is measured with one process"):
        set_up("shapes-blur", None, None, "cpu", None, 1.0)


@pytest.mark.parametrize(
    ("own", "done", "spent", "steps"),
    [
        (100, 0, 0, 120),  # not begun: as measured; 120 steps of 0.3 s in 36 s
        (110, 50, 15, 110),  # the rest takes about as long as before
        (100, 100, 30, 100),  # done: the same command finds it trained
        (100, 50, 60, 100),  # a slower computer: it goes on, not less
        (40, 40, 12, 120),  # more time than before
        (1000, 50, 15, 120),  # less
    ],
)
def test_hours_of_a_run_that_has_begun(tmp_path: Path, own: int, done: int, spent: float, steps: int) -> None:
    plain = ["train.preview_images=1", "train.health_every_steps=null", "sample.steps=1", "train.preview_every_steps=1000000"]
    run = Run(tmp_path / "r")
    begun = set_up("shapes-blur", None, run.path, "cpu", [*plain, f"train.steps={own}"])
    (run.path / "weights").mkdir(parents=True)
    run.config_path.write_text(to_yaml(begun.config))
    if done:
        run.weights_path(done).touch()
        half, rate = done // 2, done * begun.config.train.batch_size / spent
        lines = [{"step": step, "images_per_sec": rate} for step in (half, done)]
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert seconds_spent(run.metrics_path, begun.config.train.batch_size) == pytest.approx(spent)
    again = set_up(None, None, run.path, "cpu", None, 36 / 3600).config.train.steps
    assert again == (own if abs(steps - own) <= 0.25 * own else steps)


def test_previews_and_measurements_take_time() -> None:
    config = load_config("folder-small")
    plain = changed(config, {"health_every_steps": None, "preview_images": 1, "preview_every_steps": 10**9})
    assert seconds_of(plain, 1000, 0.5) == pytest.approx(500, rel=0.001)
    assert seconds_of(config, 10_000, 0.5) > 5040
    assert seconds_of(config, steps_in(config, 3600, 0.5), 0.5) == pytest.approx(3600, rel=0.001)


@pytest.mark.parametrize(("expected_sec", "told"), [(None, True), (100.0, False), (40.0, True)])
def test_an_expected_length_is_corrected_only_where_it_is_wrong(
    monkeypatch: pytest.MonkeyPatch, expected_sec: float | None, told: bool
) -> None:
    """A first step of 9 s, and then 100 steps of about a second."""
    progress, now = sys.modules["blurcli.cli.progress"], [0.0]
    messages: list[str] = []
    monkeypatch.setattr(console, "notify", messages.append)
    monkeypatch.setattr(progress, "Pace", lambda total: Pace(total, lambda: now[0]))
    config = changed(load_config("folder-small"), {"steps": 101, "preview_images": 1, "health_every_steps": None})
    reporter = progress._Reporter(Pace(101, lambda: now[0]), lambda step: None, config, expected_sec, None)
    for step in range(60):
        reporter.on_step(step)
        now[0] += 9 if step == 0 else 1
    (message,) = messages
    assert message.endswith("Ctrl-C saves, and the same command continues")
    assert ("101 steps at 1 steps/s: about" in message) is told
    assert ("as it was measured before" in message) is (expected_sec == 40)


def test_a_model_that_restores_learns_patches(cli: Cli, tmp_path: Path) -> None:
    images = photos(tmp_path / "p", 3, (70, 70))
    choice = choose_preset(str(images), "cpu", (), "restore")
    assert (choice.preset, choice.config.data.crop, choice.config.data.image_size) == ("folder-restore", "random", (32, 32))
    assert "3 images, shorter side 70 px, in color: preset folder-restore at patches of 32x32" in choice.reason
    shown = cli("train", "--data", images, "--for", "restore", "--dry-run", "--set", "train.steps=3", "--json")
    assert json.loads(shown.out)["data"]["crop"] == "random", shown.err
    told = cli("data", images, "--preset", "folder-restore")
    assert "patches of 32x32 at random places, about 100,000 in all" in told.out


@pytest.mark.parametrize(
    ("purpose", "more", "problem"),
    [
        ("restore", ("--preset", "folder-small", "--data", "p"), "--for restore: chooses the preset for your images"),
        ("restore", ("--run", "r"), "name them with --data"),
        ("restyle", ("--data", "p"), "'restyle'"),
    ],
)
def test_a_purpose_needs_images_alone(purpose: str, more: tuple[str, ...], problem: str, cli: Cli, tmp_path: Path) -> None:
    photos(tmp_path / "p", 1, (40, 40))
    done = cli("train", "--for", purpose, *more)
    assert done.code == 2
    assert problem in " ".join(done.err.split())
