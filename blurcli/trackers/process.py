"""A tracker in its own process: it can neither stop nor slow the training, nor print into its results.

A thread would not do: when a training is killed, wandb 0.31 in a thread has stored nothing, and the clients of Trackio and
MLflow cannot end their runs; Trackio prints to stdout; wandb replaces `sys.exit`, and at exit waits without a limit.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from typing import IO, TYPE_CHECKING, Any

from blurcli.base import errors
from blurcli.trackers.base import Status, TrackedRun, Tracker
from blurcli.trackers.identity import Identity, Place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

END_SEC = 60.0
"""The longest time that the end of a training, or of a process without its training, waits for a tracker."""
_MAX_WAITING = 1000  # largest number of unsent calls
_MAX_REASON = 200  # characters
_SENDING_SEC = 1.0  # to send the last calls of a training that is killed


class TrackerProcess(Tracker):
    """Forwards all calls to a tracker in another process, and raises its errors in a later call.

    Args:
        name: of the tracker.
        log: file for its output.
    """

    def __init__(self, name: str, log: Path) -> None:
        self._name, self._log = name, log
        self._waiting: Queue[tuple[str, Any]] = Queue(_MAX_WAITING)
        self._error = ""

    def begin(self, run: TrackedRun) -> None:
        """Start the process, which begins the run asynchronously and stores its identity."""
        code = f"from blurcli.trackers import process; process.serve({self._name!r})"
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109
        self._log.parent.mkdir(parents=True, exist_ok=True)
        # Ctrl-C in a terminal goes to all processes of its group, but the training decides when the tracker ends.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths},
                **apart,
            )
        self._sender = threading.Thread(target=self._send, args=(self._process.stdin,), daemon=True)
        self._receiver = threading.Thread(target=self._receive, args=(self._process.stdout,), daemon=True)
        self._sender.start()
        self._receiver.start()
        self._call("begin", run)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._call("metrics", step, dict(values))

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        self._call("image", step, name, picture)

    def rewind(self, step: int) -> None:
        self._call("rewind", step)

    def end(self, status: Status) -> None:
        """Forward the end; see `wait`."""
        self._call("end", status)
        self._sender.join(_SENDING_SEC)

    def wait(self) -> None:
        """Wait for the process, after `end`; kill it if that takes too long."""
        if not self.ends_within(END_SEC):
            self._fail(f"has not stored everything within {END_SEC:g} s")
        self._receiver.join()
        self._raise_error()

    def ends_within(self, seconds: float) -> bool:
        """Whether the process ends in this time, after `end`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def _call(self, method: str, *arguments: Any) -> None:
        self._raise_error()
        try:
            self._waiting.put_nowait((method, arguments))
        except Full:
            self._fail(f"lags {_MAX_WAITING} calls behind")

    def _fail(self, reason: str) -> None:
        self._error = self._error or reason
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error:
            self._process.kill()
            raise TrackerError(f"{self._error} (details in {self._log})")

    def _send(self, stdin: IO[bytes]) -> None:
        with suppress(OSError), stdin:  # if the process is gone, `_receive` has the reason
            method = ""
            while method != "end":
                method, arguments = self._waiting.get()
                pickle.dump((method, arguments), stdin)
                stdin.flush()

    def _receive(self, stdout: IO[bytes]) -> None:
        answers: dict[str, str] = {}
        for answer in _messages(stdout):
            answers |= answer
            self.location = answers.get("location", "")
        code = self._process.wait()
        if "ended" not in answers:
            self._error = self._error or answers.get("error", f"its process ended, with exit code {code}")
        with suppress(Full):  # the sender, if it waits
            self._waiting.put_nowait(("end", ()))


class TrackerError(Exception):
    """A tracker in another process failed."""


def serve(name: str) -> None:
    """Execute the calls on stdin with the tracker of this name, until its end or the end of the training."""
    from blurcli.trackers import TRACKERS

    # Packages may print to stdout and read stdin: their output goes into the log, and their stdin is empty.
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def answer(**values: str) -> None:
        with suppress(OSError):
            pickle.dump(values, answers)
            answers.flush()

    try:
        _serve(TRACKERS[name](), name, calls, answer)
    except BaseException as error:
        traceback.print_exc()
        answer(error=reason(error))
        os._exit(1)  # the cleanup of the package may take forever


def _serve(tracker: Tracker, name: str, calls: IO[bytes], answer: Callable[..., None]) -> None:
    for method, arguments in _messages(calls):
        result = getattr(tracker, method)(*arguments)
        if method == "begin":
            if result:
                path = Path(arguments[0].private_folder, f"{name}.id")
                Identity(result, Place.of(path.parent.parent)).write(path)
            answer(location=tracker.location)
        elif method == "end":
            answer(ended="yes")
            return
    watchdog = threading.Timer(END_SEC, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    tracker.end("failed")


def _messages(pipe: IO[bytes]) -> Iterator[Any]:
    """The messages of the other process, until it ends or is killed, maybe in the middle of a message."""
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(pipe)


def reason(error: BaseException) -> str:
    """An error in one line, for a warning."""
    first = next(iter(str(error).strip().splitlines()), "")
    text = textwrap.shorten(errors.one_line(first), _MAX_REASON, placeholder=" ...").rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
