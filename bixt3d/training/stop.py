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

    A second Ctrl-C after a second ends it nevertheless. Signals that were ignored, or handled outside Python,
    stay so, and outside the main thread, where Python delivers none, nothing is changed.

    Args:
        launched: Whether torchrun started this process, which hands on what came from the terminal already.
    """

    def __init__(self, launched: bool = False) -> None:
        """Nothing is installed yet."""
        self.patience = 30.0 if launched else 1.0
        self.received = 0
        self._received_at = 0.0
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            ours = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
            self._before = {number: signal.signal(number, self._handle) for number in ours}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self, active: bool = True) -> Iterator[None]:
        """Raise `Stopped` at the signal itself, for work that leaves nothing half done.

        Args:
            active: Otherwise nothing changes.

        Raises:
            Stopped: At a signal, also at one that came before.
        """
        if self.received and active:
            raise _stopped(self.received)
        self._at_once = active
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received:
            if number == signal.SIGINT and now - self._received_at >= self.patience:
                raise KeyboardInterrupt
            return
        self.received, self._received_at = number, now
        if self._at_once:
            raise _stopped(number)


def _stopped(number: int) -> Stopped:
    return Stopped(number, f"stopped by {signal.Signals(number).name}; go on with --resume")
