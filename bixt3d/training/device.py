"""Devices: the one that is asked for, bfloat16 on it, and the memory allocator of the CPU."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# malloc's options, from <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def pick_device(name: str | None = None) -> torch.device:
    """Return the device of that name; by default CUDA where there is one, else the CPU.

    Raises:
        ValueError: If the device does not exist here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and "LOCAL_RANK" in os.environ and device.index is None:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from None
    return device


@contextmanager
def kept_random() -> Iterator[None]:
    """Leave torch's random state, on the CPU and on GPUs, as it was before."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        yield


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16; one without emulates it, slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, amp: bool) -> torch.autocast:
    """Return bfloat16 autocast, switched on if ``amp`` asks for it and `has_bfloat16` holds."""
    return torch.autocast(device.type, torch.bfloat16, enabled=amp and has_bfloat16(device))


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of giving it back to the kernel.

    A training step on the CPU allocates and frees the same large buffers again and again, whose pages would
    be handed back and faulted in again; results/cpu_training.md has what it is worth.

    Returns:
        Whether it took effect; other C libraries are left as they are.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    limit = 2**31 - 1
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, limit) and mallopt(M_TOP_PAD, 64 << 20))
