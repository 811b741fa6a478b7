"""The check of the kernels: what is right, wrong, or does not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import check
from tests.markers import needs_triton

pytestmark = needs_triton


def call(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["check", "--device", "cpu", *options])
    check.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted where there is a GPU")
def test_all_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(check.ATTENTION, "cpu", ((1, 1, 3, 10, 8),))
    monkeypatch.setitem(check.SEARCH, "cpu", ((1, 20, 3, 2),))
    call(monkeypatch, "--out", str(tmp_path / "check.md"))
    assert capsys.readouterr().out.splitlines()[-1] == "all 6 right"
    text = (tmp_path / "check.md").read_text()
    assert text.startswith("# Kernels against plain torch: all 6 right\n") and text.count(" ok ") == 6


def test_a_wrong_kernel_and_one_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attention(*tensors: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        r_lat, v_lat, r_tok, v_tok = tensors
        off = 1e-3 if backend == "triton" else 0.0
        return (r_lat + v_lat + v_tok.sum(2, keepdim=True)) * (1 + off), r_tok + v_tok + v_lat.sum(
            2, keepdim=True
        )

    def fps(xyz: Tensor, samples: int, backend: str) -> Tensor:
        return torch.arange(samples) + (backend == "triton")

    def knn(query: Tensor, points: Tensor, k: int, backend: str) -> Tensor:
        if backend == "triton":
            raise RuntimeError("no compiler\nat all")
        return torch.zeros(1)

    for name, one in (("bidirectional_attention", attention), ("farthest_point_sample", fps), ("knn", knn)):
        monkeypatch.setattr(check, name, one)
    with pytest.raises(SystemExit, match="error: 5 of 6 wrong"):
        call(monkeypatch, "--out", str(tmp_path / "check.md"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("attention  1 x 2, 5 and 40 x 24  float32  wrong: latents by ")
    assert said[1].endswith("float16  ok")  # which rounds more
    assert said[2].endswith("wrong: 9 of 9 indices")
    assert said[3].endswith("did not run: RuntimeError: no compiler")
    assert (tmp_path / "check.md").read_text().startswith("# Kernels against plain torch: 5 of 6 wrong\n")
