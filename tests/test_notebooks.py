"""The notebooks: each is its plain-Python twin, keeps no outputs, and runs from top to bottom."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.markers import slow

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
FIGURE = "application/vnd.plotly.v1+json"


def run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Runs a notebook in a folder; returns its cells with their outputs."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("plotly")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return list(notebook.cells)


def printed(cells: list[Any]) -> str:
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


def figures(cells: list[Any]) -> list[dict[str, Any]]:
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return [output["data"][FIGURE] for output in outputs if FIGURE in output.get("data", {})]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["classify_shapes", "parts_attention"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_its_twin_without_outputs(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    twin = jupytext.read(path.with_suffix(".py"))
    notebook = json.loads(path.read_text(encoding="utf-8"))
    own = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert own == [(cell["cell_type"], cell["source"]) for cell in twin.cells], (
        f"write it anew: jupytext --to ipynb examples/notebooks/{path.stem}.py"
    )
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@slow
def test_classify_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run(ROOT / "examples/notebooks/classify_shapes.ipynb", tmp_path, monkeypatch)
    lines = printed(cells).splitlines()
    for name in ("airplane", "bottle", "table"):  # the shipped classifier is right about what is shown
        assert any(line.startswith(f"{name}_") and f"   {name} " in line for line in lines), lines
    accuracy = float(next(line for line in lines if line.startswith("test accuracy")).split()[-1].rstrip("%"))
    assert accuracy > 60
    clouds, confusion = figures(cells)
    assert [trace["type"] for trace in clouds["data"]] == ["scatter3d"] * 3
    assert [trace["type"] for trace in confusion["data"]] == ["heatmap"]
    assert (tmp_path / "runs/notebook/last.safetensors").is_file()


@slow
def test_parts_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run(ROOT / "examples/notebooks/parts_attention.ipynb", tmp_path, monkeypatch)
    said = printed(cells)
    assert "wing: " in said and "body: " in said and "layer 1: 3 heads, 32 latents" in said
    uneven = [float(line.split()[-1]) for line in said.splitlines() if "uneven by" in line]
    assert len(uneven) == 4 and sorted(uneven)[0] < 0.1 < sorted(uneven)[1]  # as its text says
    parts, heads = figures(cells)
    assert {"body", "wing"} <= {trace.get("name") for trace in parts["data"]}
    assert len(heads["data"]) == 3
