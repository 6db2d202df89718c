"""Graceful shutdown: on SIGINT and SIGTERM, finish the step and save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from torch import nn


class Interrupted(Exception):  # noqa: N818  not an error
    """A signal stopped the training, after its state was saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.exit_code = 128 + number


class Stopping(Exception):  # noqa: N818  not an error
    """A signal arrived during optional work."""


class GracefulShutdown:
    """Catches SIGINT and SIGTERM while the block runs; a second signal ends the process at once.

    Attributes:
        signal: number of the received signal; None for none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def interrupts(self, *networks: nn.Module) -> Iterator[None]:
        """Within the block, calls of these networks raise Stopping after a signal."""
        hooks = [network.register_forward_pre_hook(self._check) for network in networks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __enter__(self) -> GracefulShutdown:
        # Only the main thread can set handlers: in other threads the program handles signals.
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _check(self, *_: object) -> None:
        if self.signal is not None:
            raise Stopping

    def _receive(self, number: int, frame: object) -> None:
        if self.signal is not None:
            raise SystemExit(128 + number)
        self.signal = number
