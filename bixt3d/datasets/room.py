"""How much memory a split may take: what the machine, its limits and the other processes leave of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

VARIABLE = "BIXT3D_MEMORY"  # bytes that the points of one split may take in each process, such as 4G
SHARE = 4  # of what is available: a split is copied where it is cut and put in order
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def room() -> int:
    """Return how many bytes the points of one split may take in this process.

    A quarter of what the machine, the job's control group and the limits of the process leave, divided by the
    processes that torchrun started on this machine; or what the variable `BIXT3D_MEMORY` says.

    Raises:
        ValueError: The variable is no size.
    """
    stated = os.environ.get(VARIABLE, "").strip()
    if stated:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", stated, re.IGNORECASE)
        if match is None:
            raise ValueError(f"{VARIABLE}: expected bytes, such as 500M or 4G, got {stated!r}")
        return int(float(match[1]) * UNITS[match[2].upper()])
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    processes = int(beside) if beside.isdecimal() else 1
    return min(_of_machine(), _of_group(), _of_process()) // SHARE // max(1, processes)


def _of_machine() -> int:
    text = _read(Path("/proc/meminfo"))
    if found := re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE):
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return 2**33


def _of_group() -> int:
    """Return what the control groups of a job, as Slurm's or a container's, still let it take."""
    least = 2**62
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, kinds, name = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        base = Path("/sys/fs/cgroup") / kinds
        limit, used = ("memory.max", "memory.current") if not kinds else ("", "memory.usage_in_bytes")
        limit = limit or "memory.limit_in_bytes"
        inside = base / name.lstrip("/")
        for group in (inside, *(above for above in inside.parents if above.is_relative_to(base))):
            most, now = _read(group / limit).strip(), _read(group / used).strip()
            if most.isdecimal() and now.isdecimal():
                # Pages of files are given back when they are needed.
                pages = re.search(r"^(?:total_)?inactive_file (\d+)", _read(group / "memory.stat"), re.M)
                least = min(least, int(most) - int(now) + (int(pages[1]) if pages else 0))
    return max(0, least)


def _of_process() -> int:
    """Return what `ulimit` leaves of data and addresses."""
    try:
        import resource
    except ImportError:  # Windows
        return 2**62
    status, least = _read(Path("/proc/self/status")), 2**62
    for kind, field in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            used = re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)
            least = min(least, limit - (int(used[1]) * 1024 if used else 0))
    return max(0, least)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
