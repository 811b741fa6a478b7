"""What `torch.compile` makes of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd


def operations(function: Callable[..., Any], *args: Tensor) -> tuple[Any, list[str]]:
    """The result of a compiled function, which has to be one graph, and the names of that graph's calls."""
    names: list[str] = []

    def record(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    result = torch.compile(function, backend=aot_autograd(fw_compiler=record), fullgraph=True)(*args)
    return result, names
