"""Command lines in processes of their own, forked from one that has imported PyTorch, which takes seconds each time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# The compiler, too: DistributedDataParallel imports it.
_PRELOADED = [
    "blurcli.cli",
    "blurcli.training",
    "blurcli.base.console",
    "blurcli.model.pipeline",
    "torch.distributed",
    "torch._dynamo",
]
CONTEXT.set_forkserver_preload(_PRELOADED)


@dataclass
class Result:
    """What a command line left.

    Attributes:
        code: exit code; of a process that a signal ended, the signal's number, negative.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str


class Process:
    """A running `blurdiff` command line.

    Args:
        arguments: after the name of the command.
        cwd: its working folder.
        environment: variables besides those of this process.
        before: called in the process, before the command line.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path,
        environment: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._streams = Path(tempfile.mkdtemp())
        variables = {**os.environ, **(environment or {})}
        given = ([*map(str, arguments)], str(cwd), variables, str(self._streams), before)
        self._process = CONTEXT.Process(target=_run, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def result(self, timeout: float = 300) -> Result:
        """Wait for its end; it is killed, and TimeoutError raised, when that takes more than `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError((self._streams / "err").read_text())
        return Result(self._process.exitcode, *((self._streams / name).read_text() for name in ("out", "err")))


def _run(arguments: list[str], cwd: str, variables: dict[str, str], streams: str, before: Callable[[], None] | None) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(streams, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    if before is not None:
        before()
    from blurcli.cli import main

    main(arguments)
