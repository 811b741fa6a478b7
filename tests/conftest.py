"""The same seed and number of threads for every test, and `--no-skip` for machines that must not skip."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests import markers

# What `make check` leaves out: files whose tests train, run programs, or open windows and browsers ...
TRAINING = (
    "training",
    "tools",
    "benchmarks",
    "commands",
    "tasks/test_image_classification.py",
    "test_examples.py",
    "test_notebooks.py",
    "test_docs.py",
)
# ... and those that take more than ten seconds in all.
SLOW = (
    "invariants/test_numbers.py",
    "invariants/test_transfers.py",
    "border/test_files.py",
    "border/test_arrays.py",
    "border/test_memory.py",
    "inference/test_export.py",
    "inference/test_own_models.py",
    "ops/test_triton_search.py",
    "ops/test_triton_attention.py",
    "inference/test_stream.py",
    "tasks/test_part_segmentation.py",
    "tasks/test_scene_segmentation.py",
    "visualize/test_html.py",
    "visualize/test_viewer.py",
    "visualize/test_viewer_window.py",
)

hypothesis.settings.register_profile("bixt3d", deadline=None, derandomize=True)
hypothesis.settings.load_profile("bixt3d")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when kernels are imported: they then run on the CPU

os.environ.setdefault("BIXT3D_AUTOTUNE", "0")  # on a GPU: no choice by a clock, and no file of the user's

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(2, os.cpu_count() or 1))  # test tensors are small: more threads only wait


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Once with one thread of torch's and once with two, whatever the rest of the suite has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models, data sets and tasks that a test registers are forgotten after it."""
    from bixt3d import tasks
    from bixt3d.datasets import registry
    from bixt3d.models import factory

    monkeypatch.setattr(factory, "MODELS", dict(factory.MODELS))
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))


@pytest.fixture(autouse=True, scope="session")
def heed_interrupts() -> None:
    # A shell's background job begins with Ctrl-C ignored, and so do the programs that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skip",
        default="",
        metavar="NAMES",
        help=f"comma-separated names for whose want no test may be skipped: {', '.join(markers.NAMES)}",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
        if place.startswith(TRAINING):
            item.add_marker(pytest.mark.training)
        if place in SLOW:
            item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    unknown = _forbidden(config) - set(markers.NAMES)
    if unknown:
        raise pytest.UsageError(f"--no-skip: {sorted(unknown)} not among {', '.join(markers.NAMES)}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_forbidden_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_forbidden_skip(report, collector.config)
    return report


def _forbidden(config: pytest.Config) -> set[str]:
    return {name for name in config.getoption("--no-skip").split(",") if name}


def _fail_forbidden_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    """Turns a skip whose reason begins with needs_<name> into a failure, for the names of --no-skip."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return  # an expected failure also counts as skipped, without such a tuple
    reason = report.longrepr[2].removeprefix("Skipped: ")
    name = reason.partition(":")[0].removeprefix("needs_")
    if reason.startswith("needs_") and name in _forbidden(config):
        report.outcome = "failed"
        report.longrepr = f"skipped, and --no-skip={name} forbids it: {reason}"
