"""What a program is being made into while its operations run."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_exporting() -> bool:
    """Whether this call is traced by `torch.export` (``strict=False``), for a file that other programs run.

    torch.compiler's own answer is True for whatever torch.compile traces in torch 2.11, where a program for
    any size would take the place of the fast one.
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def is_followed() -> bool:
    """Whether a compiler, tracer or counter follows this call: they know torch's own operations alone."""
    return (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or _get_current_dispatch_mode() is not None
        or is_transformed()
    )


def is_transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation sees this call: they see no foreign loops."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
