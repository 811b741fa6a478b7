"""``backend="auto"`` on a GPU: which of two backends is quicker there, measured once and kept in a file.

At the first use of an operation with sizes of a kind both run a few times, which takes tenths of a second, or
seconds where a kernel is compiled; ``autotune.json`` in the user's cache folder keeps the quicker one.
Nothing is measured while torch.compile, torch.export or a CUDA graph records what runs: they take torch's own
backend, a graph also what is known already. ``BIXT3D_AUTOTUNE=0`` switches all of it off.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from bixt3d.ops.backends import installed
from bixt3d.ops.tracing import is_transformed

VARIABLE = "BIXT3D_AUTOTUNE"
REFERENCE, KERNELS = "torch", "triton"
MARGIN = 0.95  # of torch's time: a kernel that hardly wins is not worth other roundings
SECONDS = 0.02  # that the runs of one backend take about, after two that compile and warm up
RUNS = (3, 20)

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of the user's caches for this package, which need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        kin = {"win32": os.environ.get("LOCALAPPDATA", ""), "darwin": str(Path.home() / "Library" / "Caches")}
        base = kin.get(sys.platform, "") or str(Path.home() / ".cache")
    return Path(base, "bixt3d")


def bucket(size: int) -> int:
    """Return the power of two that sizes are told apart by."""
    return 1 << (size - 1).bit_length()


def machine(device: torch.device) -> str:
    """Return what a choice depends on beside sizes: the GPU, and the versions of torch and Triton."""
    try:
        kernels = version("triton")
    except PackageNotFoundError:
        kernels = "none"
    gpu = torch.cuda.get_device_properties(device)
    return f"{gpu.name}, {gpu.major}.{gpu.minor}, torch {torch.__version__}, triton {kernels}"


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call on a GPU, which is waited for."""

    def once() -> float:
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    once()
    runs = int(SECONDS / max(once(), 1e-9))
    return statistics.median(once() for _ in range(min(max(runs, RUNS[0]), RUNS[1])))


class Tuner:
    """Chooses between torch and Triton by measuring, and remembers.

    Args:
        file: Where choices are kept; ``autotune.json`` in the user's cache folder if None.
        devices: Types of the devices that it chooses for.
        clock: Returns the seconds that a call takes on a device.
        machine: Names a device, and whatever else a choice depends on.
    """

    def __init__(
        self,
        file: Path | None = None,
        devices: Sequence[str] = ("cuda",),
        clock: Callable[[Callable[[], object], torch.device], float] = seconds,
        machine: Callable[[torch.device], str] = machine,
    ) -> None:
        """Note the arguments; the file is read when the first choice is asked for."""
        self.file, self.devices, self.clock, self.machine = file, devices, clock, machine
        self.known: dict[str, dict[str, dict[str, Any]]] = {}  # machine -> operation and sizes -> choice
        self.failed: set[str] = set()  # operations whose kernel failed in this process
        self.read = False
        self.lock = threading.Lock()

    def covers(self, *tensors: Tensor) -> bool:
        """Whether there is anything to choose: plain tensors on a GPU with Triton, none of it recorded."""
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return False
        return (
            tensors[0].device.type in self.devices
            and os.environ.get(VARIABLE, "") != "0"
            and not torch.version.hip
            and installed("triton")
            and all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
            and _get_current_dispatch_mode() is None  # counts operations, or fakes them
            and not is_transformed()  # vmap and its kin know no kernels
        )

    def run(
        self,
        operation: str,
        sizes: Mapping[str, object],
        reference: Callable[..., Any],
        kernel: Callable[..., Any],
        *tensors: Tensor,
    ) -> Any:
        """Return what the quicker of two functions of the same tensors returns.

        Args:
            operation: Its name.
            sizes: What else the choice depends on, such as numbers of points in a `bucket`.
            reference: The function in torch.
            kernel: The one in Triton. Once it has failed, it is not called again in this process.
            tensors: Their arguments; where one needs a gradient, the backward pass is measured, too.

        Raises:
            torch.OutOfMemoryError: As the functions do.
        """
        training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        told = {"dtype": str(tensors[0].dtype).removeprefix("torch."), **sizes}
        key = f"{operation} {'training' if training else 'inference'} "
        key += " ".join(f"{name}={value}" for name, value in told.items())
        if self._choose(operation, key, reference, kernel, tensors, training) == KERNELS:
            try:
                return kernel(*tensors)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of whatever kind: compilers, drivers and launches have many
                self._fail(operation, error)
        return reference(*tensors)

    def _choose(
        self,
        operation: str,
        key: str,
        reference: Callable[..., Any],
        kernel: Callable[..., Any],
        tensors: Sequence[Tensor],
        training: bool,
    ) -> str:
        if operation in self.failed:
            return REFERENCE
        device = tensors[0].device
        with self.lock:
            self.load()
            of_machine = self.known.setdefault(self.machine(device), {})
            if key in of_machine:
                return str(of_machine[key]["backend"])
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return REFERENCE
            times: dict[str, float] = {}
            try:
                for name, call in ((REFERENCE, reference), (KERNELS, kernel)):
                    times[name] = self.clock(partial(_once, call, tensors, training), device)
            except torch.OutOfMemoryError:
                return REFERENCE  # a measurement takes more than a run; the next one may have room
            except Exception as error:
                if not times:
                    raise
                self._fail(operation, error)
                return REFERENCE
            backend = KERNELS if times[KERNELS] < MARGIN * times[REFERENCE] else REFERENCE
            shown = ", ".join(f"{name} {1e3 * took:.3g} ms" for name, took in times.items())
            logger.info("%s: %s: %s from now on", key, shown, backend)
            of_machine[key] = {"backend": backend, "ms": {name: 1e3 * took for name, took in times.items()}}
            self._save()
            return backend

    def _fail(self, operation: str, error: Exception) -> None:
        if operation not in self.failed:
            self.failed.add(operation)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning(
                "%s: the kernel in Triton failed (%s); torch computes it instead", operation, reason
            )

    def _place(self) -> Path:
        return self.file or cache_folder() / "autotune.json"

    def load(self) -> None:
        """Read the file, once."""
        if not self.read:
            self.read = True
            self.known = self._stored()

    def _stored(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what the file holds; nothing of one that is missing or damaged."""
        try:
            stored = json.loads(self._place().read_text(encoding="utf-8"))
            return {
                of: {key: one for key, one in found.items() if one["backend"] in (REFERENCE, KERNELS)}
                for of, found in stored.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
            logger.warning("%s: cannot be read (%r); choices are measured anew", self._place(), error)
            return {}

    def _save(self) -> None:
        """Write the choices, beside those that other processes wrote meanwhile."""
        place = self._place()
        merged = self._stored() if place.exists() else {}
        for of, found in self.known.items():
            merged[of] = merged.get(of, {}) | found
        part = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            os.replace(part, place)
        except OSError as error:
            logger.info("%s: cannot be written (%s); choices hold for this process", place, error)


def _once(call: Callable[..., Any], tensors: Sequence[Tensor], training: bool) -> None:
    """Run a function of tensors that nothing else sees, and its backward pass in training."""
    given = [tensor.detach().requires_grad_(tensor.requires_grad and training) for tensor in tensors]
    with torch.set_grad_enabled(training):
        found = call(*given)
    outputs = [one for one in ((found,) if isinstance(found, Tensor) else found) if one.requires_grad]
    if outputs:
        inputs = [tensor for tensor in given if tensor.requires_grad]
        torch.autograd.grad(outputs, inputs, [one.detach() for one in outputs], allow_unused=True)


TUNER = Tuner()  # the one that operations ask; it does nothing before they do
