"""Unfinished files: what killed processes leave of them is removed, and their names are never too long."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli

from blurcli.base import files
from blurcli.base.errors import UserError
from blurcli.base.filenames import fitting
from blurcli.base.runs import Run
from blurcli.data.packed_cache import load_packed, pack

LONGEST = ["a" * 243, "\N{HIRAGANA LETTER A}" * 80, "a.b" * 80]
WRITERS: list[Callable[[Path], AbstractContextManager[Path]]] = [files.replacing, files.new_folder]
needs_locks = pytest.mark.skipif(files.fcntl is None, reason="needs locks")


def killed(writer: str, path: Path) -> None:
    """Leave an unfinished file or folder, as a process that is killed while it writes."""
    code = (
        f"import os, signal, sys; from pathlib import Path; from blurcli.base import files\n"
        f"with files.{writer}(Path(sys.argv[1])) as unfinished:\n"
        f"    print(unfinished, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert Path(done.stdout.strip()).exists()


def partial(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{files.PARTIAL}*"))


@needs_locks
@pytest.mark.parametrize("writer", ["replacing", "new_folder", "temporary"])
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path, writer: str) -> None:
    """And neither that of another file, nor what is still being written."""
    killed(writer, tmp_path / "out.png")
    killed(writer, tmp_path / "other.png")
    with files.temporary(tmp_path / "out.png") as own:
        files.check_writable(tmp_path / "out.png")
        assert own in partial(tmp_path)
        assert len(partial(tmp_path)) == 2
    files.remove_abandoned(tmp_path)
    assert not partial(tmp_path)


@needs_locks
def test_packing_removes_what_a_killed_packing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLURDIFF_CACHE", str(tmp_path))
    folder = tmp_path / "images"
    killed("temporary", folder / "images.npy")
    image = np.zeros((1, 1, 4, 4), np.uint8)

    def parts() -> list[np.ndarray]:
        return [image, image]

    seen = []

    def fingerprint() -> str:
        assert load_packed("unknown", (1, 4, 4)) is None  # as another process does meanwhile
        seen.extend(partial(folder))
        return "known"

    assert pack(parts(), (1, 4, 4), fingerprint).shape == (2, 1, 4, 4)
    assert len(seen) == 1
    killed("temporary", folder / "images.npy")
    assert load_packed("known", (1, 4, 4)) is not None
    assert {path.name for path in folder.iterdir()} == {"CACHEDIR.TAG", "known.npy"}


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize(("host", "age_days", "removed"), [("other", 0.9, False), ("other", 1.1, True), ("own", 0.9, None)])
def test_what_another_machine_leaves_is_removed_after_a_day(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, locks: bool, host: str, age_days: float, removed: bool | None
) -> None:
    """Its locks may not reach this one; and systems without locks know nothing of their own files either."""
    if not locks:
        monkeypatch.setattr(files, "fcntl", None)
    unfinished = tmp_path / f"{files.PARTIAL}0-{files._host() if host == 'own' else host}-x.npy"
    unfinished.write_bytes(b"half")
    (tmp_path / "kept.npy").write_bytes(b"whole")
    changed = time.time() - age_days * 24 * 3600
    os.utime(unfinished, (changed, changed))
    files.remove_abandoned(tmp_path)
    expected = (locks and files.fcntl is not None) if removed is None else removed
    assert unfinished.exists() is not expected
    assert (tmp_path / "kept.npy").exists()


@needs_locks
def test_an_unfinished_file_that_is_taken_before_it_is_locked_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flock, taken = files.fcntl.flock, []

    def take(descriptor: int, operation: int) -> None:
        if not taken:
            taken.extend(partial(tmp_path))
            taken[0].unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", take)
    with files.replacing(tmp_path / "x.txt") as unfinished:
        assert unfinished not in taken
        unfinished.write_text("whole")
    assert (tmp_path / "x.txt").read_text() == "whole"
    assert taken
    assert not partial(tmp_path)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("stem", LONGEST)
def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path, stem: str, writer: Callable[[Path], object]) -> None:
    for name in (f"{stem}.safetensors", f"{stem}.png", "x." + "b" * 253):
        with writer(tmp_path / name) as unfinished:  # type: ignore[attr-defined]
            assert len(os.fsencode(unfinished.name)) < 64
            assert unfinished.suffix == ("" if name.startswith("x.") or writer is files.new_folder else Path(name).suffix)
        assert (tmp_path / name).exists()


def test_names_made_of_long_ones_fit(cli: Cli, tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    """The names of default outputs, which the user cannot choose shorter."""
    longest = tmp_path / f"{'a' * 251}.png"
    (photos / "0.png").rename(longest)
    run = Path(shutil.move(tiny_run, tmp_path / ("b" * 255)))
    done = cli("sample", "--run", run, "--n", 1, "--steps", 1, "--init-image", longest)
    assert done.code == 0, done.err
    assert Path(done.out.strip()).parent == run / "samples"
    assert len(Run(run).distilled.path.name) == 255
    for arguments in ((longest,), (longest, "--compare", "--spread", "--n", 2), (longest, photos / "1.png", "--compare")):
        done = cli("restore", *arguments, "--run", run, "--steps", 1, "--blur", 0, "--noise", 5)
        assert done.code == 0, done.err
    assert len([*tmp_path.rglob("a*-spread.png"), *tmp_path.rglob("*-compare.png")]) == 4


def test_fitting_names() -> None:
    for stem in ("a" * 250, "\N{HIRAGANA LETTER A}" * 83, "a.b" * 90):
        long = Path("x", f"{stem}-compare.png")
        assert len(os.fsencode(fitting(long).name)) <= 255
        assert fitting(long).name.endswith("-compare.png")
        assert fitting(long) != fitting(Path("x", f"{stem}b-compare.png"))
    assert fitting(Path("x", "a" * 255)) == Path("x", "a" * 255)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "--weights", "shapes-blur", "--n", "1", "--out", "NAME.png"],
        ["sample", "--weights", "shapes-blur", "--n", "1", "--out", "NAME"],
        ["animate", "NAME.gif", "--preset", "shapes-blur", "--direction", "forward"],
        ["animate", "NAME", "--preset", "shapes-blur", "--direction", "forward"],
        ["export", "NAME.safetensors", "--weights", "shapes-blur"],
        ["train", "--preset", "shapes-blur", "--run", "NAME"],
        ["sample", "--weights", "NAME.safetensors"],
        ["data", "NAME"],
    ],
)
def test_longer_names_are_refused_before_the_work(cli: Cli, arguments: list[str]) -> None:
    done = cli(*(argument.replace("NAME", "a" * 300) for argument in arguments))
    assert done.code in (1, 2)
    assert done.err.count("error: ") == 1
    assert "choose a shorter name" in done.err
    assert not list(Path().iterdir())


def test_the_message_for_a_name_that_is_too_long(tmp_path: Path) -> None:
    for check in (files.check_writable, files.check_new_folder):
        with pytest.raises(UserError, match=r"cannot be written \(File name too long\): choose a shorter name"):
            check(tmp_path / ("a" * 256))
