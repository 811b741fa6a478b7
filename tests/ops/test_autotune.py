"""The measured choice between torch and Triton on a GPU, with a clock and a GPU that are stand-ins."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from bixt3d.ops import (
    attention,
    autotune,
    bidirectional_attention,
    farthest_point_sample,
    knn,
    neighbors,
    sampling,
    triton_attention,
)
from bixt3d.ops.autotune import Tuner, bucket, cache_folder
from tests.markers import needs_cuda, needs_triton


class Clock:
    """Says that calls take so many seconds, in turn; runs them, so that their errors are theirs."""

    def __init__(self, *times: float) -> None:
        self.times, self.calls = list(times), 0

    def __call__(self, call: Callable[[], object], device: torch.device) -> float:
        self.calls += 1
        call()
        return self.times[(self.calls - 1) % len(self.times)]


def tuner(folder: Path, *times: float, name: str = "a GPU") -> Tuner:
    return Tuner(folder / "kept" / "autotune.json", ("cpu",), Clock(*times), lambda device: name)


class Called:
    """Two functions of a tensor that write down which was called."""

    def __init__(self, error: Exception | None = None) -> None:
        self.names: list[str] = []
        self.error = error

    def torch(self, x: Tensor) -> Tensor:
        self.names.append("torch")
        return x * 2

    def triton(self, x: Tensor) -> Tensor:
        self.names.append("triton")
        if self.error is not None:
            raise self.error
        return x + x

    def run(self, of: Tuner, x: Tensor, **sizes: int) -> Tensor:
        self.names = []
        found: Tensor = of.run("doubling", sizes, self.torch, self.triton, x)
        assert torch.equal(found, 2 * x)
        return found


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIXT3D_AUTOTUNE", raising=False)
    monkeypatch.setattr(autotune, "installed", lambda package: True)


@pytest.mark.parametrize(
    ("kernel", "wins"), [(0.5, "triton"), (0.94, "triton"), (0.96, "torch"), (2.0, "torch")]
)
def test_the_quicker_one_is_measured_once_and_kept(
    kernel: float, wins: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel that hardly wins does not."""
    caplog.set_level(logging.INFO)
    of, called, x = tuner(tmp_path, 1.0, kernel), Called(), torch.ones(3)
    called.run(of, x, points=4)
    assert called.names == ["torch", "triton", wins]
    called.run(of, x, points=4)
    assert called.names == [wins]
    called.run(of, x, points=8)  # of other sizes nothing is known
    assert called.names == ["torch", "triton", wins]
    (first, _) = caplog.messages
    assert first == (
        f"doubling inference dtype=float32 points=4: torch 1e+03 ms, triton {1e3 * kernel:.3g} ms: "
        f"{wins} from now on"
    )

    again = tuner(tmp_path, 1.0, 3.0 - kernel)  # another process, with another clock
    called.run(again, x, points=4)
    assert called.names == [wins]
    other = tuner(tmp_path, 1.0, 0.1, name="another GPU")
    called.run(other, x, points=4)
    assert called.names == ["torch", "triton", "triton"]
    assert set(json.loads((tmp_path / "kept" / "autotune.json").read_text())) == {"a GPU", "another GPU"}


def test_training_is_measured_with_its_backward_pass(tmp_path: Path) -> None:
    of, called, seen = tuner(tmp_path, 1.0, 0.5), Called(), []

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            seen.append(gradient)
            return gradient * 2

    x = torch.ones(3, requires_grad=True)
    found = of.run("doubling", {}, Seen.apply, called.triton, x)
    assert len(seen) == 1 and x.grad is None and called.names == ["triton", "triton"]
    found.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))
    with torch.no_grad():
        called.run(of, x)
    assert called.names == ["torch", "triton", "triton"]  # anew, without
    with torch.inference_mode():
        called.run(of, torch.ones(3))
    assert called.names == ["triton"]


@pytest.mark.parametrize(
    "error", [RuntimeError("ptxas: no such GPU\nmore"), ImportError("no compiler"), KeyError(3)]
)
def test_a_kernel_that_fails_is_left_with_one_warning(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of, called, x = tuner(tmp_path, 1.0, 0.5), Called(error), torch.ones(3)
    for points in (4, 8, 4):
        called.run(of, x, points=points)
    assert called.names == ["torch"] and len(caplog.messages) == 1
    reason = str(error).splitlines()[0]
    assert (
        caplog.messages[0] == f"doubling: the kernel in Triton failed ({reason}); torch computes it instead"
    )
    assert not (tmp_path / "kept").exists()  # it may be mended by the next time
    called.error = None
    called.run(tuner(tmp_path, 1.0, 0.5), x, points=4)
    assert called.names == ["torch", "triton", "triton"]


def test_a_kernel_that_fails_later_is_left_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of, called, x = tuner(tmp_path, 1.0, 0.5), Called(), torch.ones(3)
    called.run(of, x)
    called.error = RuntimeError("launch failed")
    called.run(of, x)
    assert called.names == ["triton", "torch"]
    called.run(of, x)
    assert called.names == ["torch"] and len(caplog.messages) == 1


def test_memory_that_runs_out_is_no_fault_of_a_kernel(tmp_path: Path) -> None:
    """While it measures, torch is taken, and next time it measures again; else it is the caller's."""
    of, called, x = tuner(tmp_path, 1.0, 0.5), Called(torch.OutOfMemoryError("full")), torch.ones(3)
    called.run(of, x)
    assert called.names == ["torch", "triton", "torch"]
    called.error = None
    called.run(of, x)
    assert called.names == ["torch", "triton", "triton"]
    called.error = torch.OutOfMemoryError("full")
    with pytest.raises(torch.OutOfMemoryError):
        called.run(of, x)


def test_an_error_of_the_reference_is_the_callers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(x: Tensor) -> Tensor:
        raise ValueError("wrong shape")

    with pytest.raises(ValueError, match="wrong shape"):
        tuner(tmp_path, 1.0).run("doubling", {}, wrong, wrong, torch.ones(3))
    assert caplog.messages == []


@pytest.mark.parametrize("text", ["{", "[1]", '{"a GPU": 3}', '{"a GPU": {"key": {}}}'])
def test_a_damaged_file_is_measured_anew(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of, called = tuner(tmp_path, 1.0, 0.5), Called()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "autotune.json").write_text(text)
    called.run(of, torch.ones(3))
    assert called.names == ["torch", "triton", "triton"] and "cannot be read" in caplog.messages[0]
    called.run(tuner(tmp_path, 1.0, 2.0), torch.ones(3))
    assert called.names == ["triton"]


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    of, called = tuner(tmp_path, 1.0, 0.5), Called()
    for names in (["torch", "triton", "triton"], ["triton"]):
        called.run(of, torch.ones(3))
        assert called.names == names


def test_processes_keep_each_others_choices(tmp_path: Path) -> None:
    first, second, called = tuner(tmp_path, 1.0, 0.5), tuner(tmp_path, 1.0, 2.0), Called()
    first.run("one", {}, called.torch, called.triton, torch.ones(3))
    second.read = True  # it looked before the first wrote
    second.run("two", {}, called.torch, called.triton, torch.ones(3))
    kept = json.loads((tmp_path / "kept" / "autotune.json").read_text())["a GPU"]
    assert {key.split()[0]: found["backend"] for key, found in kept.items()} == {
        "one": "triton",
        "two": "torch",
    }
    assert list((tmp_path / "kept").iterdir()) == [tmp_path / "kept" / "autotune.json"]


def test_where_nothing_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, x = tuner(tmp_path, 1.0), torch.ones(3)
    assert of.covers(x) and of.covers(torch.nn.Parameter(x))
    assert not Tuner().covers(x) and not of.covers(x.to("meta"))
    with FlopCounterMode(display=False):
        assert not of.covers(x)
    assert torch.func.vmap(lambda one: one * of.covers(one))(x).sum() == 0
    with forward_ad.dual_level():
        assert not of.covers(x)
    monkeypatch.setenv("BIXT3D_AUTOTUNE", "0")
    assert not of.covers(x)
    monkeypatch.setenv("BIXT3D_AUTOTUNE", "1")
    assert of.covers(x)
    monkeypatch.setattr(autotune, "installed", lambda package: False)
    assert not of.covers(x)


def test_a_graph_that_is_recorded_takes_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gpu(Tensor):
        device = torch.device("cuda", 0)  # type: ignore[assignment]

    of, called, x = tuner(tmp_path, 1.0, 0.5), Called(), torch.ones(3).as_subclass(Gpu)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    called.run(of, x)
    assert called.names == ["torch"] and of.clock.calls == 0  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    called.run(of, x)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    called.run(of, x)
    assert called.names == ["triton"]


class Asked:
    """A tuner to whom this CPU is a GPU whose kernels are quicker, and what they were called with."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.tuner, self.kernels = tuner(folder, 1.0, 0.5), 0
        for module in (attention, sampling, neighbors):
            patch.setattr(module, "TUNER", self.tuner)
        for module, name in (
            (triton_attention, "bidirectional"),
            (sampling, "fps_triton"),
            (neighbors, "knn_triton"),
        ):
            patch.setattr(module, name, self.counted(getattr(module, name)))

    def counted(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.kernels += 1
            return kernel(*args, **options)

        return call

    def keys(self) -> list[str]:
        return sorted(self.tuner.known.get("a GPU", {}))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(tmp_path, monkeypatch)


@needs_triton
def test_operations_take_their_kernels(asked: Asked) -> None:
    """Interpreted, they give what torch gives; each ran twice, measured and then in earnest."""
    xyz = torch.randn(1, 10, 3)
    assert farthest_point_sample(xyz, 5).equal(farthest_point_sample(xyz, 5, backend="torch"))
    assert knn(xyz, xyz, 4).equal(knn(xyz, xyz, 4, backend="torch"))
    r_lat, v_lat, r_tok, v_tok = (torch.randn(1, 2, n, 16) for n in (5, 5, 10, 10))
    for found, wanted in zip(
        bidirectional_attention(r_lat, v_lat, r_tok, v_tok),
        bidirectional_attention(r_lat, v_lat, r_tok, v_tok, backend="torch"),
        strict=True,
    ):
        assert torch.allclose(found, wanted, atol=1e-6)
    for query, key, value in ((r_lat, r_tok, v_tok), (r_tok, r_lat, v_lat)):
        wanted = attention.attention(query, key, value, backend="torch")
        assert torch.allclose(attention.attention(query, key, value), wanted, atol=1e-6)
    assert asked.kernels == 4 * 2 + 1  # the second direction has the sizes of the first
    assert asked.keys() == [
        "attention inference dtype=float32 pairs=2 latents=5 tokens=16 width=16",
        "bidirectional attention inference dtype=float32 pairs=2 latents=5 tokens=16 width=16",
        "farthest points inference dtype=float32 clouds=1 points=16 samples=8",
        "neighbours inference dtype=float32 clouds=1 points=16 queries=16 k=4",
    ]


@needs_cuda
@needs_triton
def test_on_a_gpu_choices_are_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = Tuner(tmp_path / "autotune.json")
    for module in (attention, sampling, neighbors):
        monkeypatch.setattr(module, "TUNER", of)
    xyz = torch.randn(4, 512, 3, device="cuda")
    assert farthest_point_sample(xyz, 64).equal(farthest_point_sample(xyz, 64, backend="torch"))
    assert knn(xyz, xyz, 16).equal(knn(xyz, xyz, 16, backend="torch"))
    inputs = [torch.randn(4, 6, n, 32, device="cuda", requires_grad=True) for n in (64, 64, 512, 512)]
    found, wanted = (bidirectional_attention(*inputs, backend=backend) for backend in ("auto", "torch"))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    (kept,) = json.loads((tmp_path / "autotune.json").read_text()).values()
    assert len(kept) == 3 and of.failed == set()
    assert all(set(choice["ms"]) == {"torch", "triton"} for choice in kept.values())


@needs_triton
def test_gradients_of_a_kernel_that_was_chosen(asked: Asked) -> None:
    inputs = [torch.randn(1, 1, n, 16, requires_grad=True) for n in (70, 70, 130, 130)]
    gradients = [
        torch.autograd.grad(
            sum(one.square().sum() for one in bidirectional_attention(*inputs, backend=b)), inputs
        )
        for b in ("auto", "torch")
    ]
    for found, wanted in zip(*gradients, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    (key,) = asked.keys()
    assert asked.kernels == 2 and key.startswith("bidirectional attention training ")


def test_a_kernel_that_cannot_run_here_leaves_the_operation_to_torch(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("PTX was compiled with an unsupported toolchain")

    monkeypatch.setattr(triton_attention, "bidirectional", broken)
    monkeypatch.setattr(neighbors, "knn_triton", broken)
    inputs = [torch.randn(1, 2, n, 16) for n in (5, 5, 20, 20)]
    wanted = bidirectional_attention(*inputs, backend="sdpa")
    for _ in range(2):
        for one, other in zip(bidirectional_attention(*inputs), wanted, strict=True):
            assert torch.equal(one, other)
    xyz = torch.randn(1, 9, 3)
    assert knn(xyz, xyz, 2).equal(knn(xyz, xyz, 2, backend="torch"))
    assert [message.split(":")[0] for message in caplog.messages] == ["bidirectional attention", "neighbours"]
    with pytest.raises(RuntimeError, match="unsupported toolchain"):
        bidirectional_attention(*inputs, backend="triton")  # asked for by name it is an error


def test_what_the_kernels_do_not_compute_is_not_measured(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    xyz = torch.randn(1, 80, 3, dtype=torch.float64)
    farthest_point_sample(xyz, 5), knn(xyz, xyz, 3)
    knn(xyz.float(), xyz.float(), 65), knn(xyz.float(), xyz.float(), 3, chunk_size=7)
    for sizes in ((257, 300, 16), (5, 20, 129)):
        inputs = [torch.randn(1, 1, n, sizes[2]) for n in (sizes[0], sizes[0], sizes[1], sizes[1])]
        bidirectional_attention(*inputs)
    bidirectional_attention(*(t.double() for t in inputs))
    inputs = [torch.randn(1, 1, n, 16) for n in (5, 5, 20, 20)]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    bidirectional_attention(*inputs)
    assert asked.keys() == [] and asked.kernels == 0


def test_what_is_compiled_or_exported_is_not_measured(asked: Asked) -> None:
    class All(torch.nn.Module):
        def forward(self, xyz: Tensor, tokens: Tensor) -> Tensor:
            index = farthest_point_sample(xyz, 5)
            near = knn(xyz[:, :4], xyz, 3)
            one, two = bidirectional_attention(tokens, tokens, tokens, tokens)
            return index.sum() + near.sum() + one.sum() + two.sum()

    xyz, tokens = torch.randn(1, 20, 3), torch.randn(1, 1, 6, 16)
    wanted = torch.compile(All(), backend="eager", fullgraph=True)(xyz, tokens)
    assert torch.allclose(
        torch.export.export(All(), (xyz, tokens), strict=False).module()(xyz, tokens), wanted
    )
    assert asked.keys() == [] and asked.kernels == 0


@pytest.mark.parametrize(
    ("platform", "names", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "{here}/x"}, "{here}/x/bixt3d"),
        ("linux", {}, "{home}/.cache/bixt3d"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "{home}/.cache/bixt3d"),
        ("darwin", {}, "{home}/Library/Caches/bixt3d"),
        ("win32", {"LOCALAPPDATA": "{here}/local"}, "{here}/local/bixt3d"),
        ("win32", {}, "{home}/.cache/bixt3d"),
    ],
)
def test_where_choices_are_kept(
    platform: str, names: dict[str, str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"here": str(tmp_path), "home": str(Path.home())}
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value.format(**places))
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == Path(folder.format(**places))


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_sizes_go_into_buckets(size: int, expected: int) -> None:
    assert bucket(size) == expected


@pytest.mark.parametrize(("took", "runs"), [(1.0, 3), (0.002, 10), (1e-6, 20)])
def test_a_call_is_timed_by_the_median_of_some_runs(
    took: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two more come first, one that compiles and one that says how many; the GPU is waited for each time."""
    now, calls, waited = [0.0], [0], [0]

    def call() -> None:
        calls[0] += 1
        now[0] += took * (100 if calls[0] == 1 else 1 if calls[0] != 4 else 7)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(waited.pop() + 1))
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: now[0])
    assert autotune.seconds(call, torch.device("cuda")) == pytest.approx(took)
    assert calls[0] in (runs + 1, runs + 2, runs + 3) and waited[0] == 2 * calls[0]


def test_a_machine_is_its_gpu_and_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, major, minor = "NVIDIA H200", 9, 0

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(autotune, "version", lambda package: "3.9.0")
    found = autotune.machine(torch.device("cuda"))
    assert found == f"NVIDIA H200, 9.0, torch {torch.__version__}, triton 3.9.0"
