"""Progress: how fast, how long, and what a log gets of it."""

import io
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Cli
from rich.console import Console

from blurcli.base import console, threads
from blurcli.base.pace import Lines, Pace, duration


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_time_left_follows_from_the_mean_speed_and_counts_down(clock: Clock) -> None:
    pace = Pace(100, clock)
    assert pace.remaining == "estimating"
    clock.now += 10
    pace.update(20)
    assert (pace.speed, pace.left_sec, pace.counts) == (2, 40, "20/100")
    clock.now += 15  # a long unit: the estimate does not vanish
    assert pace.left_sec == 25
    clock.now += 1000
    assert pace.left_sec == 0


def test_a_continued_task_is_as_fast_as_its_own_part(clock: Clock) -> None:
    pace = Pace(1000, clock)
    clock.now += 50
    pace.start(900)
    clock.now += 10
    pace.update(910)
    assert (pace.speed, pace.left_sec) == (1, 90)
    pace.update(800)  # back to a saved state
    clock.now += 10
    pace.update(850)
    assert pace.speed == 5


def test_an_unknown_total_has_no_end(clock: Clock) -> None:
    pace = Pace(None, clock)
    clock.now += 1
    pace.update(1234)
    assert (pace.remaining, pace.counts) == ("", "1,234")
    pace.update(1300, 5000, "late")
    assert (pace.counts, pace.note) == ("1,300/5,000", "late")


@pytest.mark.parametrize(("seconds", "most"), [(3, 1), (60, 4), (1000, 22), (100_000, 170)])
def test_lines_of_a_log_are_few(clock: Clock, seconds: int, most: int) -> None:
    written: list[tuple[float, str]] = []
    lines = Lines("working", Pace(1000, clock), lambda text: written.append((clock.now, text)), clock)
    for done in range(1, 1001):
        clock.now += seconds / 1000
        lines.update(done, note="loss 1")
    assert written[0] == (100, "working, 0/1,000")
    assert len(written) <= most
    if seconds >= 60:
        assert "loss 1, about" in written[1][1]
        assert len(written) >= most // 2
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(written[1:])]
    assert all(gap >= 30 for gap in gaps)


def test_a_log_names_what_may_not_happen_only_when_it_does(clock: Clock) -> None:
    written: list[str] = []
    lines = Lines("downloading", Pace(None, clock), written.append, clock)
    assert not written
    lines.update(1, 30)
    assert written == ["downloading, 0/30"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8.4, "8 s"), (120, "2 min"), (5400, "1 h 30 min"), (93_600, "26 h"), (180_000, "2 days 2 h"), (864_000, "10 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_quiet_leaves_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(console._stderr, "print", lambda text, **options: printed.append(str(text)))
    console.be_quiet(True)
    try:
        console.notify("a message")
        with console.progress("working", 3) as update:
            update(1)
        console.error("wrong")
        console.result("done")
    finally:
        console.be_quiet(False)
    assert printed == ["[bold red]error:[/] wrong"]
    assert capsys.readouterr().out == "done\n"
    console.notify("a message")
    assert printed[1:] == ["a message"]


@pytest.mark.parametrize(("terminal", "quiet", "shown"), [(True, False, True), (True, True, False), (False, False, False)])
def test_a_sign_of_life_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool, shown: bool) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(console, "_stderr", Console(file=seen, force_terminal=terminal))
    monkeypatch.setattr(console, "_quiet", quiet)
    with console.waiting("loading"):
        pass
    assert ("loading" in seen.getvalue()) is shown


@pytest.mark.parametrize(
    ("given", "running", "expected"),
    [
        ({}, 1, {"GOMP_SPINCOUNT": "10000"}),
        ({}, 3, {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": "4"}),
        ({}, 50, {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": "1"}),
        ({}, None, {"GOMP_SPINCOUNT": "10000"}),
        ({"OMP_NUM_THREADS": "1"}, 100, {}),
        ({"GOMP_SPINCOUNT": "7"}, 1, {}),
    ],
)
def test_threads_are_as_many_as_there_are_free_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], running: int | None, expected: dict[str, str]
) -> None:
    """By what runs now on six cores, this process included; the load average remembers the past."""
    if running is not None:
        (tmp_path / "loadavg").write_text(f"9.00 9.00 9.00 {running}/500 1234\n", encoding="ascii")
    monkeypatch.setattr(threads, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(threads, "_share", lambda root, environment: (6, "the machine"))
    environment = dict(given)
    threads.choose_threads(environment)
    assert environment == {**given, **expected}
    assert (threads.note is not None) == ("OMP_NUM_THREADS" in expected)


def test_a_moment_of_other_work_costs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    running = iter([3, 2, 1])
    monkeypatch.setattr(threads, "LOAD", SimpleNamespace(read_text=lambda encoding: f"0 0 0 {next(running)}/9 1"))
    assert threads.busy_threads() == 0


def test_other_work_is_said(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    for name in ("GOMP_SPINCOUNT", *os.environ):
        if name.startswith(("OMP_", "GOMP_", "KMP_")):
            monkeypatch.setenv(name, "")  # whatever it is afterwards
            monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "busy_threads", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(threads, "_share", lambda root, environment: (2, "the machine"))
    sampled = cli("sample", "--weights", "shapes-blur", "--n", "1", "--steps", "1")
    assert sampled.err.count("1 of 2 cores are busy with other work: using 1 thread; OMP_NUM_THREADS=2 would use all") == 1
