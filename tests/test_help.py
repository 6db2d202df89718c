"""Help texts and completion: what is used most first, everything in its panel, examples that work."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from conftest import Cli

from blurcli.cli import app, completion
from blurcli.cli.helptext import COMMAND_HELP, PANELS

COMMANDS = {
    command.name: command
    for command in (
        typer.main.get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)
        for info in app.registered_commands
    )
}


def flags_of(name: str) -> set[str]:
    return {flag for one in COMMANDS[name].params for flag in (*one.opts, *one.secondary_opts)}


@pytest.fixture
def help_of(cli: Cli, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")
    return lambda name: cli(name, "--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_there_once_and_in_a_panel(help_of, name: str) -> None:  # type: ignore[no-untyped-def]
    text = help_of(name)
    assert "Other:" not in text
    for flag in flags_of(name) - {"--help", "-h"}:
        if flag.startswith("--"):
            lines = [
                line for line in text.split("Examples:")[1].splitlines() if not line.startswith(("  blurdiff", "      --"))
            ]
            starts = [line for line in lines if line.strip().startswith((f"{flag} ", f"{flag},")) or line.strip() == flag]
            listed = flag in COMMAND_HELP[name].elsewhere[1] or f"{flag}," in text.replace("\n", " ") or f" / {flag}" in text
            assert starts or listed or text.rstrip().endswith(flag) or f", {flag}" in text, flag


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal_and_nothing_is_cut(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = cli(*filter(None, [name]), "--help").out
    assert max(map(len, text.splitlines())) <= min(columns, 80)
    if name:
        pasted = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.startswith("  blurdiff ")]
        assert pasted == [["blurdiff", *shlex.split(example)] for example in COMMAND_HELP[name].examples]
    else:
        assert "..." not in text.partition("Options:")[2]
        listed = " ".join(text.partition("Commands:")[2].split())
        for one, command in COMMANDS.items():
            assert f"{one} {command.help.partition('.')[0]}." in listed  # its first sentence
            assert re.match("[A-Z][a-z]+ ", command.help)  # a verb, and no name of the code
            if columns >= 80:
                assert len([line for line in text.splitlines() if line.startswith(f"  {one} ") and line.endswith(".")]) == 1


def test_the_help_of_animate_fits_on_a_screen(help_of) -> None:  # type: ignore[no-untyped-def]
    assert len(help_of("animate").splitlines()) <= 40


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_use_flags_that_exist(name: str) -> None:
    guide = COMMAND_HELP[name]
    assert guide.examples
    assert {f"--{option}" for option in (*guide.most_used, *guide.elsewhere[1])} <= flags_of(name)
    for example in guide.examples:
        command, *arguments = shlex.split(example)
        assert command == name
        assert {word for word in arguments if word.startswith("--")} <= flags_of(name)
        COMMANDS[name].make_context(name, arguments)  # parses


def test_panels_name_options_that_exist() -> None:
    known = {flag.removeprefix("--") for name in COMMANDS for flag in flags_of(name)}
    assert {name for names in PANELS.values() for name in names} <= known


def test_the_command_alone_says_what_to_do_first(cli: Cli) -> None:
    done = cli()
    text = done.out + done.err
    assert "First steps:" in text
    assert "blurdiff train --data path/to/images" in text


def test_runs_and_presets_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "runs/b", "other/ax"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "mine.yaml").touch()
    assert completion.runs("") == ["runs/a", "runs/b"]
    assert completion.runs("runs/b") == ["runs/b"]
    assert completion.runs("other/") == ["other/ax"]
    assert "cifar10-blur" in completion.presets("cifar")
    assert completion.presets("./m") == []
    words = {"_BLURDIFF_COMPLETE": "complete_bash", "COMP_WORDS": "blurdiff train --preset cifar10-b", "COMP_CWORD": "3"}
    command = [sys.executable, "-c", "from blurcli.cli import app; app(prog_name='blurdiff')"]
    done = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert "cifar10-blur\n" in done.stdout
    assert "mnist" not in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_has_one_default(name: str) -> None:
    for one in COMMANDS[name].params:
        described = getattr(one, "help", None) or ""
        assert "[default" not in described or one.default is None, one.name
