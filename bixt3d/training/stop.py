"""Signals that ask a training to stop: Ctrl-C, and SIGTERM, by which a cluster ends a job."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# torchrun hands on the signal that its workers have received from the terminal already.
PATIENCE = 1.0


class Stopped(KeyboardInterrupt):
    """A training was asked to stop, and saved its state before it did.

    Args:
        number: The signal.
        message: Where it stopped and how it goes on.
    """

    def __init__(self, number: int, message: str) -> None:
        """Keep the signal."""
        super().__init__(message)
        self.number = number


class StopSignals:
    """Within it, SIGINT or SIGTERM is kept in ``received`` instead of ending the program.

    A second Ctrl-C that comes at least ``PATIENCE`` seconds after the first does end it. Outside the main
    thread, where Python delivers no signals, nothing is changed.
    """

    def __init__(self) -> None:
        """Nothing is installed yet."""
        self.received = 0
        self._received_at = 0.0
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Stopped` at the signal itself, for work that leaves nothing half done.

        Raises:
            Stopped: At a signal, also at one that came before.
        """
        if self.received:
            raise Stopped(self.received, "stopped")
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received:
            if number == signal.SIGINT and now - self._received_at >= PATIENCE:
                raise KeyboardInterrupt
            return
        self.received, self._received_at = number, now
        if self._at_once:
            raise Stopped(number, "stopped")
