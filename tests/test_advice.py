"""Arguments as people type them, and commands that can be pasted."""

import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from conftest import Cli

import blurcli.cli as cli_module
from blurcli.cli.advice import INTEGER_FLAGS, correction, understood


def test_whole_numbers_may_have_an_exponent() -> None:
    given = ["sample", "--n", "1e3", "--steps=2.5e1", "--seed", "1e-3", "--class", "1e3", "--eta", "1e0"]
    assert understood(given) == ["sample", "--n", "1000", "--steps=25", "--seed", "1e-3", "--class", "1e3", "--eta", "1e0"]


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
    assert understood(["--out=~/x", "~/y", "a~b"]) == [f"--out={tmp_path}/x", f"{tmp_path}/y", "a~b"]


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
        ("train --nonsense 5", None),
        ("sample --preset x", None),
    ],
)
def test_the_command_that_was_meant(cli: Cli, tmp_path: Path, given: str, better: str | None) -> None:
    (tmp_path / "my images").mkdir()
    folder = shlex.quote(str(tmp_path / "my images"))
    done = cli(*shlex.split(given.format(folder=folder)))
    assert done.code == 2
    expected = None if better is None else f"Did you mean: blurdiff {better.format(folder=folder)}\n"
    assert done.err.endswith(expected) if expected else "Did you mean: blurdiff" not in done.err


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
    assert correction(["sample"], "Invalid value for '--n': 0 is not in the range x>=1.") is None
    assert correction([], "Missing command.") is None


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
