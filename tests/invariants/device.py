"""A device that is not there: tensors that compute on the CPU and say they lie elsewhere; copies are counted.

It stands for Apple's mps, the pickiest of GPUs, and is found as that would be, by `torch.device("mps")`. What
a GPU refuses, or does slowly without a word, is refused: a tensor of the host among the device's, float64,
pinned memory, a generator of the host. Copies to and fro, and operations whose result's size or value the
program waits for, are counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("mps", 0)
GROUP = torch._C._group_tensors_by_device_and_dtype
# Operations whose result's size, or whose value, the program waits for.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero")
IN_PYTHON = {"numpy", "tolist", "__array__"}  # they look into memory that is elsewhere


class Refused(AssertionError):
    """What a device does not do, or what nobody should ask of it."""


class Log:
    """What happened on the device so far."""

    def __init__(self) -> None:
        self.clear()

    def since(self, before: Log) -> Log:
        """What happened after a copy of the log was taken."""
        seen = Log()
        seen.operations = self.operations - before.operations
        seen.uploads = self.uploads[len(before.uploads) :]
        seen.downloads = self.downloads[len(before.downloads) :]
        seen.waits = self.waits - before.waits
        return seen

    def clear(self) -> None:
        """Forget what happened."""
        self.operations = 0
        self.uploads: list[tuple[int, ...]] = []
        self.downloads: list[tuple[int, ...]] = []
        self.waits: Counter[str] = Counter()


LOG = Log()


class OnDevice(Tensor):
    """A tensor on the device; ``held`` has its numbers, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device="cpu"
        )  # the CPU's for torch's own C++, which has no other
        made.held = held
        return made

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_mps = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = OnDevice(self.held.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            return memo.setdefault(id(self), torch.nn.Parameter(copied, self.requires_grad))
        return memo.setdefault(id(self), copied.requires_grad_(self.requires_grad))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().partition("::")[2].partition(".")[0]
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        strangers = [t for t in given if not isinstance(t, OnDevice)]
        if strangers and name not in (
            "copy_",
            "_to_copy",
        ):  # a number in a tensor may lie anywhere, in kernels
            shapes = [tuple(t.shape) for t in strangers if t.ndim or name.startswith("index")]
            if shapes:
                raise Refused(f"{func}: expected tensors on {DEVICE}, got those of the host {shapes}")
        if name == "copy_" and strangers:
            side = LOG.uploads if isinstance(args[0], OnDevice) else LOG.downloads
            side.append(tuple(args[0].shape))
        by_mask = (
            [t for t in given if t.dtype in (torch.bool, torch.uint8)] if name.startswith("index") else []
        )
        if name in WAITS or (by_mask and any(t is index for t in by_mask for index in tree_leaves(args[1]))):
            LOG.waits[name] += 1
        if name == "_local_scalar_dense":
            LOG.downloads.append(())
        LOG.operations += 1
        owner = {id(t.held): t for t in given if isinstance(t, OnDevice)}
        inner = tree_map(lambda t: t.held if isinstance(t, OnDevice) else t, (args, kwargs))
        return tree_map(lambda value: _outside(func, value, owner), func(*inner[0], **inner[1]))


def _outside(func: Any, value: Any, owner: dict[int, OnDevice]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.float64:
        raise Refused(f"{func}: {DEVICE} has no float64, got it for {tuple(value.shape)}")
    return owner.get(id(value)) if id(value) in owner else OnDevice(value)


def upload(value: Tensor) -> OnDevice:
    """Copy a tensor of the host to the device."""
    if value.dtype == torch.float64:
        raise Refused(f"{DEVICE} has no float64, got it for {tuple(value.shape)}")
    LOG.uploads.append(tuple(value.shape))
    return OnDevice(value.detach().clone())


def download(value: OnDevice) -> Tensor:
    """Copy a tensor of the device to the host."""
    LOG.downloads.append(tuple(value.shape))
    return value.held.detach().clone()


class Placing(TorchFunctionMode):
    """Takes calls that name the device, or leave it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "pin_memory" or kwargs.get("pin_memory"):
            raise Refused("pinned memory on the host")
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], Tensor):
            return _move(args[0], name, args[1:], kwargs)
        if name in IN_PYTHON and isinstance(args[0], OnDevice):
            if name == "tolist":
                LOG.waits[name] += 1
                return download(args[0]).tolist()
            raise Refused(f"{name}: expected a tensor on the host: copy it by .cpu() first")
        if name == "new_tensor" and isinstance(args[0], OnDevice):
            return upload(torch.tensor(*args[1:], **kwargs))
        if kwargs.get("device") is None or torch.device(kwargs["device"]).type != DEVICE.type:
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        generator = kwargs.get("generator")
        if generator is not None and not isinstance(generator, DeviceGenerator):
            raise Refused(f"{name}: expected a generator on {DEVICE}, got one of {generator.device}")
        source = [value for value in tree_leaves((args, kwargs)) if isinstance(value, OnDevice)]
        if source:
            return func(*args, **kwargs)
        made = func(*args, **kwargs)
        if made.dtype == torch.float64:
            raise Refused(f"{name}: {DEVICE} has no float64, got it for {tuple(made.shape)}")
        if name in ("tensor", "as_tensor", "asarray"):
            LOG.uploads.append(tuple(made.shape))
        requires_grad, made = made.requires_grad, OnDevice(made.detach())
        return made.requires_grad_(requires_grad)


def _move(tensor: Tensor, name: str, args: Any, kwargs: Any) -> Any:
    like = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if name == "cpu":
        target, dtype = torch.device("cpu"), None
    elif like:
        target, dtype = like[0].device, like[0].dtype
    else:
        target, dtype, _, _ = torch._C._nn._parse_to(
            *args, **{k: v for k, v in kwargs.items() if k != "copy"}
        )
    here = tensor.device if target is None else target
    if isinstance(tensor, OnDevice) and here.type != DEVICE.type:
        moved: Tensor = download(tensor)  # as of a real one, the conversion comes before or after
        return moved if dtype is None else moved.to(dtype)
    if not isinstance(tensor, OnDevice) and here.type == DEVICE.type:
        return upload(tensor if dtype is None else tensor.to(dtype))
    return tensor if dtype is None or dtype == tensor.dtype else torch.ops.aten._to_copy(tensor, dtype=dtype)


def _grouped(tensors: Any, with_indices: bool = False, group: Any = GROUP) -> Any:
    """Optimisers ask torch's C++ which tensors lie together."""
    there = {id(t) for one in tensors for t in one if isinstance(t, OnDevice)}
    return {
        (DEVICE if id(found[0][0][0]) in there else device, dtype): found
        for (device, dtype), found in group(tensors, with_indices).items()
    }


class DeviceGenerator(torch.Generator):
    """Torch's generator for the device."""

    device = DEVICE  # type: ignore[assignment]

    def __new__(cls, device: Any = None) -> Any:
        wanted = torch.device(device or "cpu")
        return torch.Generator.__new__(cls) if wanted.type == DEVICE.type else torch.Generator(wanted)


@contextmanager
def device_exists(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Let the device be there for what runs inside, with nothing counted yet."""
    with monkeypatch.context() as patched:
        for module in [m for name, m in sys.modules.items() if name.startswith("bixt3d.")]:
            if getattr(module, "Generator", None) is torch.Generator:
                patched.setattr(module, "Generator", DeviceGenerator)
        patched.setattr(torch._C, "_group_tensors_by_device_and_dtype", _grouped)
        LOG.clear()
        # A module takes new parameters then: torch's C++ believes that these two kinds are one.
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with Placing():
                yield LOG
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
