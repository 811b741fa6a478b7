"""The most memory that something takes."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import torch


class PeakMemory:
    """How far memory grows, at most, from the making of this object on.

    On CUDA it is what torch's allocator hands out. On a CPU it is the resident set: Linux keeps the highest
    that it has been for every process (VmHWM), and sets that back when a 5 is written into
    /proc/self/clear_refs. The figure of getrusage is no use for it: it cannot be set back, and a process
    begins with that of the one that started it. Elsewhere it is not known.
    """

    def __init__(self, device: torch.device) -> None:
        """Set the peak back to what is taken now."""
        self.device = device
        self.before: int | None = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        if device.type != "cpu":
            return
        if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be taken again unseen
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _highest()
        except OSError:
            pass  # another system, or one that does not allow it

    def grown(self) -> int | None:
        """Return the bytes of the peak beyond those at the start; None where that cannot be known."""
        if self.before is None:
            return None
        now = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _highest()
        return now - self.before


def _highest() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")
