from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.tools.conftest import Trained, Workplace

pytest.importorskip("matplotlib")

PNG = b"\x89PNG\r\n\x1a\n"


def texts(svg: Path) -> list[str]:
    """The strings in a picture: matplotlib draws glyphs, and names each string in a comment."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", svg.read_text(encoding="utf-8"))]


def test_what_training_and_evaluation_wrote(workplace: Workplace, trained: Trained, tmp_path: Path) -> None:
    workplace.run("evaluate", trained.run_dir / "last").succeeded()
    outcome = workplace.run("plot", "runs/trained", "--out", tmp_path, "--format", "svg").succeeded()
    assert outcome.out.splitlines() == [
        str(tmp_path / name) for name in ("curves.svg", "per_class.svg", "confusion.svg")
    ]
    told = json.loads((trained.run_dir / "result.json").read_text())["last"]
    assert f"trained, mean {100 * told['macc']:.1f}%" in texts(tmp_path / "per_class.svg")
    assert any(f"OA {told['oa']:.2%}" in text for text in texts(tmp_path / "confusion.svg"))
    assert {"train", "validation", "overall accuracy"} <= set(texts(tmp_path / "curves.svg"))


def test_runs_over_each_other_and_their_labels(workplace: Workplace, trained: Trained) -> None:
    outcome = workplace.run("plot", "runs/trained/last", "runs/trained/best", "--labels", "a_$x$", "b")
    lines = outcome.succeeded().out.splitlines()
    assert lines[:2] == ["plots/curves.png: 2 of 2 runs", "plots/per_class.png: 2 of 2 runs"]
    for name in ("curves", "per_class"):
        assert (workplace.folder / "plots" / f"{name}.png").read_bytes().startswith(PNG)


def test_throughput(workplace: Workplace, tmp_path: Path) -> None:
    rows = [
        {"model": "tiny", "num_points": n, "clouds_per_second": 1e5 / n, "device": "cpu"} for n in (512, 1024)
    ]
    (tmp_path / "speed.json").write_text(json.dumps(rows))
    outcome = workplace.run(
        "plot", "--throughput", tmp_path / "speed.json", "--out", tmp_path, "--format", "svg"
    )
    assert outcome.succeeded().out.splitlines() == [str(tmp_path / "throughput.svg")]
    drawn = {"tiny", "512 points", "195.3", "1,024 points", "97.66", "clouds a second"}
    assert drawn <= set(texts(tmp_path / "throughput.svg"))


def test_lines_fit_the_terminal(workplace: Workplace) -> None:
    runs = [f"runs/a_run_without_scores_{k}" for k in range(5)]
    for run in runs:
        (workplace.folder / run).mkdir(parents=True)
        (workplace.folder / run / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 2.0}\n')
    lines = workplace.run("plot", *runs).succeeded().out.splitlines()
    assert lines[0] == "plots/curves.png: 5 of 5 runs"
    assert lines[1].startswith("no bars without last_test.csv") and len(lines) > 2
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/trainde"], ["no run runs/trainde", "metrics.jsonl", "did you mean 'trained'?"]),
        (["runs/trained", "--labels", "a", "b"], ["a label for each of 1 runs, got 2"]),
        (["--throughput", "tiny.yaml"], ["tiny.yaml is damaged", "no JSON"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistake_ends_with_one_line(
    arguments: list[str], words: list[str], workplace: Workplace, trained: Trained
) -> None:
    workplace.run("plot", *arguments).refused(*words)


def test_nothing_named(workplace: Workplace) -> None:
    outcome = workplace.run("plot")
    assert outcome.code == 2 and "name a run, or measured speeds by --throughput" in outcome.err
