"""Previews in the terminal."""

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from blurcli.base import console

CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀")


def on_a_terminal(*arguments: object, cwd: Path, columns: int = 80) -> str:
    """The output of a command on a terminal, with its color codes."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(columns), "LINES": "50"}
    command = [sys.executable, "-m", "blurcli", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        if select.select([ours], [], [], 60)[0]:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            seen += chunk
        elif process.poll() is not None:
            break
    os.close(ours)
    assert process.wait(60) == 0, seen.decode()
    return seen.decode()


def test_samples_on_a_terminal(tiny_run: Path, tmp_path: Path) -> None:
    text = on_a_terminal("sample", "--run", tiny_run, "--n", 4, "--scale", 1, "--out", "grid.png", "--show", cwd=tmp_path)
    with Image.open(tmp_path / "grid.png") as grid:
        pixels = np.asarray(grid)  # 17 rows of 17: two images and the gap between them
    cells = [tuple(map(int, cell)) for cell in CELL.findall(text)]
    expected = {tuple(pair) for y in range(0, 16, 2) for pair in np.concatenate(pixels[y : y + 2], axis=1).tolist()}
    assert cells[0] == (*pixels[0, 0], *pixels[1, 0])
    assert set(cells) == expected
    assert text.count("▀") == 9 * 17
    assert "grid.png" in text


def test_an_animation_is_played(tiny_run: Path, tmp_path: Path) -> None:
    arguments = ("animate", "a.gif", "--run", tiny_run, "--n", 1, "--frames", 4, "--fps", 50, "--preview")
    assert on_a_terminal(*arguments, cwd=tmp_path).count("▀") >= 4 * 8 * 4


def test_no_preview_without_a_terminal(cli: Cli, tiny_run: Path) -> None:
    done = cli("sample", "--run", tiny_run, "--n", 1, "--out", "x.png", "--show")
    assert done.code == 0
    assert "▀" not in done.out + done.err
    assert done.out == "x.png\n"


@pytest.mark.parametrize("shape", [(40, 400, 3), (400, 40, 1)])
def test_large_pictures_are_subsampled(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    import io

    from rich.console import Console

    seen = io.StringIO()
    monkeypatch.setattr(
        console, "_stderr", Console(file=seen, force_terminal=True, width=80, height=30, color_system="truecolor")
    )
    console.preview([np.zeros(shape, np.uint8)], 0)
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.getvalue()).splitlines() if line.strip()]
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 28
