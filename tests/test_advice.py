"""Arguments as people type them, and commands that can be pasted."""

import itertools
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
import typer.main
from conftest import Cli

import blurcli.cli as cli_module
from blurcli.cli.advice import INTEGER_FLAGS, correction, normalize_arguments
from blurcli.cli.helptext import COMMAND_HELP

GROUP = typer.main.get_command(cli_module.app)
COMMANDS: dict[str, typing.Any] = GROUP.commands  # type: ignore[attr-defined]


def test_whole_numbers_may_have_an_exponent() -> None:
    given = ["sample", "--n", "1e3", "--steps=2.5e1", "--seed", "1e-3", "--class", "1e3", "--eta", "1e0"]
    assert normalize_arguments(given) == [
        "sample",
        "--n",
        "1000",
        "--steps=25",
        "--seed",
        "1e-3",
        "--class",
        "1e3",
        "--eta",
        "1e0",
    ]


def test_every_flag_of_a_whole_number_is_known() -> None:
    flags = set()
    for command in cli_module.app.registered_commands:
        assert command.callback is not None
        for hint in typing.get_type_hints(command.callback, include_extras=True).values():
            if typing.get_origin(hint) is typing.Annotated and int in (hint.__origin__, *typing.get_args(hint.__origin__)):
                # Within Annotated, Typer keeps the first name as the default.
                names = [name for option in hint.__metadata__ for name in (option.default, *(option.param_decls or ()))]
                flags |= {name for name in names if str(name).startswith("--")}
    assert flags == INTEGER_FLAGS


def test_home_is_found_where_the_shell_left_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert normalize_arguments(["--out=~/x", "~/y", "a~b"]) == [f"--out={tmp_path}/x", f"{tmp_path}/y", "a~b"]


@pytest.mark.parametrize(
    ("given", "better"),
    [
        ("train --preset shapes-blur --steps 500", "train --preset shapes-blur --set train.steps=500"),
        ("train --preset shapes-blur --lr=1e-3 --quiet", "train --preset shapes-blur --set optim.lr=1e-3"),
        ("train --preset shapes-blur {folder}", "train --preset shapes-blur --data {folder}"),
        ("train shapes-blur", "train --preset shapes-blur"),
        ("sample 64", "sample --n 64"),
        ("fid {folder}", "fid --samples {folder}"),
        ("sample x.safetensors", "sample --weights x.safetensors"),
        ("prefetch cifar10-blur", "prefetch --preset cifar10-blur"),
        ("fid {folder} {folder}", "fid --samples {folder} --data {folder}"),
        ("plot {folder}", None),
        ("presets a b", "presets a && blurdiff presets b"),
        ("data a {folder} c --json", "data a --json && blurdiff data {folder} && blurdiff data c"),
        ("report a b --out x.html", None),
        ("export a b", None),
        ("sample --count 4", "sample --n 4"),
        ("sample --num_samples=4 --output x.npz", "sample --n 4 --out x.npz"),
        ("sample -n4 -o x.png", "sample --n 4 --out x.png"),
        ("sample -steps 5", "sample --steps 5"),
        ("sample --Batch_Size 5", "sample --batch-size 5"),
        ("sample --stpes 5", "sample --steps 5"),
        ("sample --gpu --n 4", "sample --device cuda --n 4"),
        ("train --gpu 0,1 --preset shapes-blur", "train --device cuda --preset shapes-blur"),
        ("sample --model {folder}", "sample --run {folder}"),
        ("sample --ckpt x.safetensors", "sample --weights x.safetensors"),
        ("sample --cfg-scale 2 --label 3", "sample --guidance 2 --class 3"),
        ("train --resume", "train"),
        ("train --resume runs/a", "train --run runs/a"),
        ("train --resume x.safetensors", None),
        (
            "train --learning-rate 1e-3 --bs 4 --size 32",
            "train --set optim.lr=1e-3 --set train.batch_size=4 --set data.image_size=32",
        ),
        ("train --images-dir x --output_dir y", "train --data x --run y"),
        ("data {folder} --resolution 32", "data {folder} --set data.image_size=32"),
        ("data {folder} --split test", None),
        ("data {folder} --iterations 5", None),
        ("fid --fake x --real y", "fid --samples x --data y"),
        ("plot --run a", "plot a"),
        ("results --run a", "results a"),
        ("animate --output x.gif --length 9", "animate --frames 9 x.gif"),
        ("import --ckpt x.pth", "import x.pth"),
        ("anmate x.gif", "animate x.gif"),
        ("generate --num 4", "sample --n 4"),
        ("score", "fid"),
        ("train --nonsense 5", None),
        ("sample --preset x", None),
        ("sample --count", None),
        ("sample --count x", None),
        ("sample 64 128", None),
        ("sample --samples-of x", None),
        ("xyzzy", None),
    ],
)
def test_the_command_that_was_meant(cli: Cli, tmp_path: Path, given: str, better: str | None) -> None:
    (tmp_path / "my images").mkdir()
    folder = shlex.quote(str(tmp_path / "my images"))
    done = cli(*shlex.split(given.format(folder=folder)))
    assert done.code == 2
    expected = None if better is None else f"Did you mean: blurdiff {better.format(folder=folder)}\n"
    assert done.err.endswith(expected) if expected else "Did you mean: blurdiff" not in done.err
    assert "Possible options" not in done.err


def test_epochs(cli: Cli) -> None:
    assert cli("train", "--num_epochs", 5).err.endswith(
        "\nTraining is counted in steps, not in epochs: --set train.steps=1000\n"
    )
    assert "epochs:" not in cli("sample", "--epochs", 5).err


MISTAKES = (
    *(
        "--count 4",
        "--num 4",
        "-n 4",
        "--samples 4",
        "--output x",
        "-o x",
        "--gpu 0",
        "--gpu",
        "--epochs 5",
        "--lr 1e-3",
        "--resume",
    ),
    *(
        "--resume x",
        "--ckpt x",
        "--checkpoint x.pt",
        "--model x",
        "--size 8",
        "--dataset x",
        "--images-dir x",
        "--batch_size 4",
    ),
    *(
        "--seeds 3",
        "--setps 5",
        "--verbose",
        "-v",
        "--workers 4",
        "--config x.yaml",
        "--jsn",
        "--run",
        "--no-ema",
        "--out=x y",
        "a b c",
    ),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_suggestion_parses(cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for command in COMMANDS.values():
        monkeypatch.setattr(command, "callback", lambda **values: calls.append(values))
    monkeypatch.setattr(cli_module.typer.main, "get_command", lambda app: app)
    monkeypatch.setattr(cli_module, "app", GROUP)
    suggested = 0
    for base, mistake in itertools.product((name, COMMAND_HELP[name].examples[0]), MISTAKES):
        done = cli(*shlex.split(f"{base} {mistake}"))
        assert "Possible options" not in done.err
        for line in done.err.partition("Did you mean: blurdiff ")[2].strip().split(" && blurdiff "):
            if line:
                suggested += 1
                calls.clear()
                accepted = cli(*shlex.split(line))
                assert (accepted.code, len(calls)) == (0, 1), (base, mistake, line, accepted.err)
    assert suggested >= 2, name


def test_what_is_suggested_works(cli: Cli) -> None:
    refused = cli("train", "--preset", "shapes-blur", "--steps", "500", "--dry-run")
    suggested = refused.err.rpartition("Did you mean: blurdiff ")[2]
    accepted = cli(*shlex.split(suggested))
    assert accepted.code == 0
    assert "steps: 500" in accepted.out


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_a_device_that_is_missing_is_one_line(cli: Cli, device: str) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    done = cli("sample", "--weights", "shapes-blur", "--device", device)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"error: --device {device}: PyTorch finds no such device; use cpu" in done.err


def test_other_refusals_have_no_correction() -> None:
    assert correction(["sample"], "Invalid value for '--n': 0 is not in the range x>=1.", COMMANDS) is None
    assert correction([], "Missing command.", COMMANDS) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["presets", "presets --json", "--help", "train --preset shapes-blur --dry-run"])
def test_a_full_standard_output_is_one_line(command: str, tmp_path: Path) -> None:
    code = f"import sys; from blurcli.cli import run; sys.argv[1:] = {command.split()!r}; run()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_a_closed_standard_output_is_said() -> None:
    code = "import sys; from blurcli.cli import run; sys.argv[1:] = ['presets']; run()"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "standard output is closed: results are not shown\n")
