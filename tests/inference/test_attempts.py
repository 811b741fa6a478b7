"""Errors of one cloud do not reach the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bixt3d.inference.attempts import attempt
from bixt3d.tasks.results import NotFinite


def fail(error: Exception) -> Any:
    raise error


def test_result_or_mistake() -> None:
    assert attempt("a.xyz", sum, [1, 2]) == 3
    mistake = ValueError("a.xyz: it is empty")
    assert attempt("a.xyz", fail, mistake) is mistake
    assert isinstance(attempt("a.xyz", fail, FileNotFoundError("no file a.xyz")), FileNotFoundError)
    assert str(attempt("a.xyz", fail, NotFinite("it gives NaN"))) == "a.xyz: it gives NaN"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory"), torch.OutOfMemoryError()]
)
def test_memory_that_does_not_suffice_names_the_cloud(error: Exception) -> None:
    met = attempt("big.las", fail, error)
    assert isinstance(met, RuntimeError) and str(met).startswith("big.las ran out of memory")
    assert "fewer points" in str(attempt(np.zeros((2, 3)), fail, error))


def test_bug_is_raised() -> None:
    with pytest.raises(TypeError):
        attempt("a.xyz", fail, TypeError("a bug"))
    with pytest.raises(RuntimeError, match="shapes"):
        attempt("a.xyz", fail, RuntimeError("shapes do not match"))
