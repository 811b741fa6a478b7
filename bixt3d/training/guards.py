"""What ends a training early: signals, numbers that are not finite, and memory that runs out."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Diverged(RuntimeError):
    """Losses or gradients stopped being finite, and the weights may be what is wrong."""


class OutOfMemory(RuntimeError):
    """Memory ran out; the message names the settings to lower."""


class Stopped(KeyboardInterrupt):
    """A training was asked to stop, and saved its state before it did.

    Args:
        number: The signal.
        message: Where it stopped and how to resume it.
    """

    def __init__(self, number: int, message: str) -> None:
        """Keep the signal."""
        super().__init__(message)
        self.number = number


@contextmanager
def guard_memory(what: str, advice: str) -> Iterator[None]:
    """Turn an error of memory, on the CPU or on a GPU, into one line.

    Args:
        what: What is done, such as "a training step with 32 clouds of 1,024 points".
        advice: Which settings to lower.

    Raises:
        OutOfMemory: If memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On the CPU, and from some libraries, it is a plain RuntimeError.
        words = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
        kinds = (torch.OutOfMemoryError, MemoryError)
        if not isinstance(error, kinds) and not any(part in str(error) for part in words):
            raise
        clear_frames(error.__traceback__)  # which hold on to whatever was computed
        reason = str(error).strip().partition("\n")[0]
        raise OutOfMemory(f"{what} ran out of memory ({reason}): {advice}") from None


class FiniteGuard:
    """What keeps numbers that are not finite out of a model in training.

    A skipped step must not leave its batch norms' statistics behind, so it keeps the buffers as the step
    before left them.

    Args:
        model: The model, on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the buffers."""
        self.buffers = list(model.buffers())
        self.saved = [value.clone() for value in self.buffers]
        named = [
            (name, one) for name, one in model.named_buffers() if one.is_floating_point() and one.numel()
        ]
        # A buffer may hold infinity on purpose, as masks of attention do; the others stay finite.
        self.infinite = {name for name, value in named if not bool(value.isfinite().all())}
        self.statistics = [value for name, value in named if name not in self.infinite]

    @torch.no_grad()
    def is_bad(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return 1.0 if the loss, the norm of the gradients or the statistics are not finite, else 0.0."""
        finite = norm.isfinite() & loss.isfinite()
        if self.statistics:
            finite &= torch.stack(torch._foreach_norm(self.statistics, float("inf"))).isfinite().all()
        return (~finite).float()

    @torch.no_grad()
    def restore_buffers(self, skipped: Tensor) -> None:
        """Set the buffers to what they were before the step, if it was skipped."""
        for value, saved in zip(self.buffers, self.saved, strict=True):
            saved.copy_(torch.where(skipped > 0, saved, value))
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.saved)

    @torch.no_grad()
    def save_buffers(self) -> None:
        """Take the buffers as they are for those of the step before."""
        if self.buffers:
            torch._foreach_copy_(self.saved, self.buffers)

    def is_finite(self, *models: nn.Module) -> bool:
        """Return whether weights and statistics of the models are finite; a GPU is waited for."""
        values = [
            value
            for model in dict.fromkeys(models)
            for name, value in (*model.named_parameters(), *model.named_buffers())
            if value.is_floating_point() and name not in self.infinite
        ]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())


class StopSignals:
    """Within it, SIGINT or SIGTERM is kept in ``received`` instead of ending the program.

    A second Ctrl-C after a second ends it nevertheless. Signals that were ignored, or handled outside Python,
    stay so, and outside the main thread, where Python delivers none, nothing is changed.

    Args:
        launched: Whether torchrun started this process, which forwards what the terminal sent already.
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
            Stopped: At a signal, also at one that was received before.
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
    return Stopped(number, f"stopped by {signal.Signals(number).name}; continue with --resume")
