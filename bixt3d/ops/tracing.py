"""What a program is being made into while its operations run."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Whether this call is traced by `torch.export` (``strict=False``), for a file that other programs run.

    torch.compiler's own answer is True for whatever torch.compile traces in torch 2.11, where a program for
    any size would take the place of the fast one.
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
