"""The beginning and the end of a command's process."""

import subprocess
import sys
from pathlib import Path

from conftest import settings

import blurcli
from blurcli.cli import app

COMMANDS = [info.name or "" for info in app.registered_commands]


def test_help_is_light() -> None:
    """No flag and no help text costs the seconds that torch takes to import."""
    code = "import sys; from blurcli.cli import app; app(['{}', '--help'], standalone_mode=False); print(*sys.modules)"
    for command in COMMANDS:
        done = subprocess.run([sys.executable, "-c", code.format(command)], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.splitlines()[-1].split())
        assert not loaded & {"torch", "torchvision", "numpy", "PIL"}


def test_commands_import_only_what_they_use(tmp_path: Path) -> None:
    """The compiler, torchvision and SciPy take seconds each; downloads and plots are for other commands."""
    commands = (["train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=1")], ["sample", "--run", "r"])
    code = f"""
import sys
from blurcli.cli import main
for command in {commands!r}:
    try:
        main(command)
    except SystemExit as stop:
        assert not stop.code
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "tensorboard" in loaded
    unused = {
        "torch._dynamo",
        "torch._inductor",
        "sympy",
        "torchvision",
        "scipy",
        "matplotlib",
        "requests",
        "cleanfid",
        "jinja2",
    }
    assert not loaded & unused


def process(*arguments: str, before: str = "", stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """A command as its entry point runs it, after the statements `before`."""
    code = f"{before}\nfrom blurcli.cli import run\nimport sys\nsys.argv[1:] = {list(arguments)!r}\nrun()"
    return subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_the_end_of_a_process_loses_nothing() -> None:
    """It does not wait for the interpreter's end, but runs what is to be run at exit, prints all and keeps the exit code."""
    done = process("--version", before="import atexit; atexit.register(print, 'goodbye')")
    assert (done.returncode, done.stdout.split()) == (0, ["blurdiff", blurcli.__version__, "goodbye"])
    wrong = process("presets", "no-such-preset")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no-such-preset" in wrong.stderr


def test_results_that_cannot_be_written_are_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = process("--version", stdout=full.fileno())
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
