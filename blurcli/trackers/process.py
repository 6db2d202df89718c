"""A tracker in its own process: it can neither stop nor slow the training, nor print into its results.

The training sends one JSON object per line; the tracker's process answers with its location, and with an error if it fails.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Full, Queue
from typing import IO, TYPE_CHECKING, Any, cast

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
        self._waiting: Queue[dict[str, Any] | None] = Queue(_MAX_WAITING)
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
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._sender = threading.Thread(target=self._send, args=(self._process.stdin,), daemon=True)
        self._receiver = threading.Thread(target=self._receive, args=(self._process.stdout,), daemon=True)
        self._sender.start()
        self._receiver.start()
        self._call("begin", **asdict(run))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._call("metrics", step=step, values=dict(values))

    def image(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        self._call("image", step=step, name=name, picture=picture)

    def rewind(self, step: int) -> None:
        self._call("rewind", step=step)

    def end(self, status: Status) -> None:
        """Forward the end; see `wait`."""
        self._call("end", status=status)
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

    def _call(self, call: str, **arguments: Any) -> None:
        self._raise_error()
        try:
            self._waiting.put_nowait({"call": call, **arguments})
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
            while (message := self._waiting.get()) is not None:
                stdin.write(json.dumps(message, default=_plain_picture).encode() + b"\n")
                stdin.flush()
                if message["call"] == "end":
                    break

    def _receive(self, stdout: IO[bytes]) -> None:
        ended = False
        for line in stdout:
            if not line.endswith(b"\n"):  # the process was killed
                break
            answer = json.loads(line)
            self.location = answer.get("location", self.location)
            self._error = answer.get("error", self._error)
            ended = answer.get("ended", ended)
        code = self._process.wait()
        if not ended and not self._error:
            self._error = f"its process ended, with exit code {code}"
        with suppress(Full):  # the sender, if it waits
            self._waiting.put_nowait(None)


class TrackerError(Exception):
    """A tracker in another process failed."""


def serve(name: str) -> None:
    """Execute the calls on stdin with the tracker of this name, until its end or the end of the training."""
    from blurcli.trackers import TRACKERS

    # Packages may print to stdout and read stdin: their output goes into the log, and their stdin is empty.
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        with suppress(OSError):
            print(json.dumps(values), file=answers, flush=True)

    try:
        _serve(TRACKERS[name](), name, calls, answer)
    except BaseException as error:
        traceback.print_exc()
        answer(error=reason(error))
        os._exit(1)  # the cleanup of the package may take forever


def _serve(tracker: Tracker, name: str, calls: IO[bytes], answer: Callable[..., None]) -> None:
    for line in calls:
        if not line.endswith(b"\n"):  # the training was killed
            break
        match json.loads(line):
            case {"call": "begin", **arguments}:
                run = TrackedRun(**cast(dict[str, Any], arguments))
                if identity := tracker.begin(run):
                    path = Path(run.private_folder, f"{name}.id")
                    Identity(identity, Place.of(path.parent.parent)).write(path)
                answer(location=tracker.location)
            case {"call": "metrics", "step": step, "values": values}:
                tracker.metrics(step, values)
            case {"call": "image", "step": step, "name": image, "picture": picture}:
                tracker.image(step, image, _picture(picture))
            case {"call": "rewind", "step": step}:
                tracker.rewind(step)
            case {"call": "end", "status": status}:
                tracker.end(status)
                answer(ended=True)
                return
    watchdog = threading.Timer(END_SEC, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    tracker.end("failed")


def reason(error: BaseException) -> str:
    """An error in one line, for a warning."""
    first = next(iter(str(error).strip().splitlines()), "")
    text = textwrap.shorten(errors.one_line(first), _MAX_REASON, placeholder=" ...").rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _plain_picture(picture: NDArray[np.uint8]) -> dict[str, Any]:
    return {"shape": picture.shape, "pixels": base64.b64encode(picture.tobytes()).decode()}


def _picture(plain: dict[str, Any]) -> NDArray[np.uint8]:
    import numpy as np

    return np.frombuffer(base64.b64decode(plain["pixels"]), np.uint8).reshape(plain["shape"])
