"""Named reasons to skip a test. Each says what is missing and what to do about it.

`pytest --no-skip=data,torch_cluster` makes a skip for these reasons a failure: see conftest.py.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch

NAMES = ("cuda", "data", "fixtures", "torch_cluster", "pytorch3d", "triton", "numba", "window", "browser")


def _folder_missing(name: str, variable: str, content: str) -> str | None:
    """The reason to skip for want of the folder that a variable names, or None where it is there."""
    path = os.environ.get(variable)
    if not path:
        return f"needs_{name}: set {variable} to the folder that holds {content}"
    if not Path(path).is_dir():
        return f"needs_{name}: {variable} is {path!r}, not a folder; it should hold {content}"
    return None


def _data_missing() -> str | None:
    return _folder_missing("data", "BIXT3D_DATA", "real data (modelnet40_ply_hdf5_2048)")


def _fixtures_missing() -> str | None:
    return _folder_missing("fixtures", "BIXT3D_FIXTURES", "published numbers (*.npz)")


def _package_missing(module: str, do: str) -> str | None:
    # an installed package that fails to import is a failing test, not a skip
    return None if importlib.util.find_spec(module) else f"needs_{module}: {module} is not installed; {do}"


def _skip_for(reason: str | None) -> pytest.MarkDecorator:
    return pytest.mark.skipif(reason is not None, reason=reason or "it is here")


def data_dir() -> Path:
    """The folder of real data sets; skips the running test where there is none."""
    if reason := _data_missing():
        pytest.skip(reason)
    return Path(os.environ["BIXT3D_DATA"])


def fixtures_dir() -> Path:
    """The folder of published numbers; skips the running test where there is none."""
    if reason := _fixtures_missing():
        pytest.skip(reason)
    return Path(os.environ["BIXT3D_FIXTURES"])


def _program_missing(name: str, *programs: str) -> str | None:
    absent = [program for program in programs if shutil.which(program) is None]
    return f"needs_{name}: {', '.join(absent)} not found; .ci/run shows what to install" if absent else None


needs_cuda = _skip_for(
    None if torch.cuda.is_available() else "needs_cuda: PyTorch sees no CUDA device; run where there is one"
)
needs_data = _skip_for(_data_missing())
needs_fixtures = _skip_for(_fixtures_missing())
needs_torch_cluster = _skip_for(
    _package_missing("torch_cluster", "pip install --no-build-isolation torch-cluster compiles it")
)
needs_pytorch3d = _skip_for(_package_missing("pytorch3d", "environment.yml has it"))
needs_triton = _skip_for(_package_missing("triton", 'pip install "bixt3d[triton]"'))
needs_numba = _skip_for(_package_missing("numba", "pip install numba"))
needs_window = _skip_for(_program_missing("window", "Xvfb", "xdotool"))
needs_browser = _skip_for(_program_missing("browser", "chromium", "chromedriver"))
slow = pytest.mark.slow
