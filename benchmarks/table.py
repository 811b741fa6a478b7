"""Tables and the line that says what they were measured on."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Sequence

import torch

from bixt3d.training import files
from bixt3d.training.log import environment


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table with aligned columns."""
    return files.markdown_table([head, *rows])


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return mean and, of more than one, standard deviation; ``sign`` "+" shows the mean's."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{deviation}"


def environment_line(device: torch.device) -> str:
    """Return processor, threads, versions and commit in one line."""
    found = environment(device)
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    where = found["gpu"] or f"{found['processor']}, {threads}"
    versions = f"torch {found['torch']}, Python {found['python']}"
    return f"Measured on {where}; {versions}, commit {found['commit']}."


def command_line(module: str) -> str:
    """Return the command that called a module, as it is typed."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])
