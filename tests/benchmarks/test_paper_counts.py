"""The paper's counts: how they are compared, and that the page holds what the command finds now."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.paper_counts import TABLES, Row, build, count, is_near, rows_of
from bixt3d.models.image import PyramidDecoder

PAGE = Path(__file__).resolve().parent.parent.parent / "results" / "paper_counts.md"
ROWS = {row.name: row for table in TABLES.values() for row in table}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_every_row_is_on_the_page() -> None:
    page = [cells(line) for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    shown = [row for row in page if row[0] != "row" and set(row[0]) != {"-"}]
    stated = [(row.name, row.macs, row.parameters) for table in TABLES.values() for row in table]
    assert [(row[0], row[1], row[3]) for row in shown] == stated


@pytest.mark.parametrize(
    "name",
    ["sequential, d12", "bi-directional, d12", "width 128", "sequence 784, patch 8", "SemFPN, /16"],
)
def test_the_page_holds_what_is_found(name: str) -> None:
    (found,) = rows_of((ROWS[name],))
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert found in [cells(line) for line in page if line.startswith("|")]


def test_the_paper_s_numbers_are_ours() -> None:
    """All of them but those whose remark says why not, by what the page says."""
    page = PAGE.read_text(encoding="utf-8").splitlines()
    differ = [cells(line)[0] for line in page if line.startswith("|") and "differs by" in line]
    assert set(differ) == {"sa1-d22, all shared", "sa1-d24, all shared"}


def test_count_by_hand() -> None:
    """One layer on 4 tokens: the formula of the products."""
    dim, latents, tokens = 32, 8, 4
    args = {"dim": dim, "depth": 1, "num_heads": 2, "num_latents": latents, "num_classes": 10}
    row = Row("one", "1", "1", "bixt_ti_image_cls", args)
    macs, more = count(build(row), 32)
    embed = tokens * (16 * 16 * 3 + 64) * dim
    cross = (latents + 2 * tokens) * dim**2 + 2 * latents * tokens * dim + (1 + 8) * latents * dim**2
    among = (4 + 8) * latents * dim**2 + 2 * latents**2 * dim
    assert (macs, more) == (embed + cross + among + 10 * dim, 0)


def test_up_convolutions_by_outputs() -> None:
    """Each tap of 2 x 2 goes to an output of its own; counted at outputs there are four times as many."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = PyramidDecoder(6, 8, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.decoder(images.repeat(1, 1, 1, 2))  # type: ignore[no-any-return]

    with torch.device("meta"):
        model = Model().eval()
    _, more = count(model, 4)
    once = 36 * 4 * (16 + 64 + 16)  # at 4 x 4, 8 x 8 and 4 x 4 inputs
    assert more == 3 * once


@pytest.mark.parametrize(
    ("stated", "found", "same"), [("1.68", 1.67, True), ("15", 14.51, True), ("1.00", 1.06, False)]
)
def test_near(stated: str, found: float, same: bool) -> None:
    assert is_near(stated, found) is same
