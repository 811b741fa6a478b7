"""All pictures of some runs: which are drawn, and what is said of those that lack something."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bixt3d.visualize import comparison
from bixt3d.visualize.comparison import plot_runs
from bixt3d.visualize.runs import find_runs

pytest.importorskip("matplotlib")

CLASSES = "class,shapes,accuracy,most often taken for\na,4,75.0%,b (1)\nb,2,100.0%,-\n"
CONFUSION = "truth \\ prediction,a,b\na,3,1\nb,0,2\n"
CATEGORIES = "category,shapes,mIoU (pointnet2),mIoU (pointmlp)\nchair,2,80.0%,60.0%\nlamp,1,40.0%,30.0%\n"


def make(folder: Path, epochs: int = 3, score: str = "train_oa", **files: str) -> Path:
    """A run of so many epochs with these tables; `last_test__table` is last_test/table.csv."""
    folder.mkdir(parents=True)
    rows = [{"epoch": e, "train_loss": 1 / e, score: 1 - 0.5 / e, "lr": 1e-3} for e in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of each drawing function; nothing is drawn."""
    seen: dict[str, Any] = {}

    def record(name: str) -> Any:
        def draw(*arguments: Any) -> Path:
            seen[name] = arguments
            return next(a for a in arguments if isinstance(a, Path))

        return draw

    for name in ("training_curves", "class_bars", "confusion_matrix"):
        monkeypatch.setattr(comparison, name, record(name))
    return seen


def values(tables: Mapping[str, Any]) -> dict[str, tuple[float | None, ...]]:
    return {name: table.values for name, table in tables.items()}


def test_one_classifier_has_all_three(tmp_path: Path) -> None:
    run = make(tmp_path / "x", last_test=CLASSES, last_test__table=CLASSES, last_test__confusion=CONFUSION)
    out = tmp_path / "out"
    said = plot_runs(find_runs([run]), out, ".svg")
    assert said == [str(out / name) for name in ("curves.svg", "per_class.svg", "confusion.svg")]
    assert "OA 83.33%" in (out / "confusion.svg").read_text()  # 5 of 6
    assert "x, mean 87.5%" in (out / "per_class.svg").read_text()
    assert "overall accuracy" in (out / "curves.svg").read_text()


def test_a_run_that_lacks_something_leaves_others_their_colours(
    tmp_path: Path, calls: dict[str, Any]
) -> None:
    first = make(tmp_path / "first", epochs=0, last_test=CLASSES)
    second = make(tmp_path / "second")
    third = make(tmp_path / "third", last_test__table=CLASSES)
    said = plot_runs(find_runs([first, second, third]), tmp_path, ".pdf")
    assert said == [
        f"{tmp_path / 'curves.pdf'}: 2 of 3 runs",
        f"{tmp_path / 'per_class.pdf'}: 2 of 3 runs",
        "no curves, as no epoch is finished: first",
        "no confusion matrix without last_test/confusion.csv, which bixt3d evaluate RUN/last writes: "
        "first, third",
        "no bars without last_test.csv, which bixt3d evaluate can replace: second",
    ]
    metrics, _, order = calls["training_curves"]
    assert list(metrics) == ["second", "third"] and order == ["first", "second", "third"]
    tables, _, order = calls["class_bars"]
    assert values(tables) == {"first": (0.75, 1.0), "third": (0.75, 1.0)}
    assert order == ["first", "second", "third"]


def test_parts_under_the_convention_asked_for(tmp_path: Path, calls: dict[str, Any]) -> None:
    run = make(tmp_path / "parts", score="train_class_miou_pointnet2", last_test=CATEGORIES)
    said = plot_runs(find_runs([run]), tmp_path, convention="pointmlp")
    assert values(calls["class_bars"][0]) == {"parts": (0.6, 0.3)}
    assert said == [str(tmp_path / "curves.png"), str(tmp_path / "per_class.png")]  # no word of confusions


def test_other_tasks_share_their_curves_and_have_bars_apart(tmp_path: Path) -> None:
    """What the README shows: curves, bars and confusions of a classifier and a part-segmentation model."""
    runs = [
        make(tmp_path / "cls", last_test=CLASSES, last_test__confusion=CONFUSION),
        make(tmp_path / "parts", last_test=CATEGORIES),
        make(tmp_path / "other parts", last_test=CATEGORIES),
    ]
    out = tmp_path / "out"
    said = plot_runs(find_runs(runs), out, ".svg")
    assert said == [
        f"{out / 'curves.svg'}: 3 of 3 runs",
        f"{out / 'per_class_cls.svg'}: 1 of 3 runs",
        f"{out / 'per_class_parts.svg'}: 2 of 3 runs",
        str(out / "confusion_cls.svg"),
    ]
    assert "cls, mean 87.5%" in (out / "per_class_cls.svg").read_text()
    assert "OA 83.33%" in (out / "confusion_cls.svg").read_text()
    bars = (out / "per_class_parts.svg").read_text()
    assert "parts, mean 60.0%" in bars and "other parts, mean 60.0%" in bars and "cls" not in bars


def test_a_confusion_for_each_run(tmp_path: Path) -> None:
    runs = [make(tmp_path / name, last_test__confusion=CONFUSION) for name in "ab"]
    plot_runs(find_runs(runs), tmp_path / "out", ".svg")
    assert {path.name for path in (tmp_path / "out").glob("conf*")} == {"confusion_a.svg", "confusion_b.svg"}


def test_table_of_a_task_of_ones_own(tmp_path: Path) -> None:
    run = make(tmp_path / "x", last_test="depth,error in mm\nnear,12.5\nfar,40\n")
    assert plot_runs(find_runs([run]), tmp_path, ".svg")[1:] == [str(tmp_path / "per_class.svg")]
    assert "error in mm of every depth" in (tmp_path / "per_class.svg").read_text()


def test_an_evaluation_alone(tmp_path: Path, calls: dict[str, Any]) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "confusion.csv").write_text(CONFUSION)
    said = plot_runs(find_runs([tmp_path / "cpu"]), tmp_path / "out")
    counts, classes, _ = calls["confusion_matrix"]
    assert counts.tolist() == [[3, 1], [0, 2]] and classes == ("a", "b")
    assert values(calls["class_bars"][0]) == {"cpu": (0.75, 1.0)}
    assert said[-1] == "no curves, as an evaluation has none: cpu"


@pytest.mark.parametrize("file", ["last_test", "last_test__confusion"])
def test_damage_is_told_before_anything_is_drawn(file: str, tmp_path: Path) -> None:
    run = make(tmp_path / "x", **{file: "class,sha"})
    with pytest.raises(ValueError, match=r"\.csv is damaged"):
        plot_runs(find_runs([run]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_draw(tmp_path: Path) -> None:
    run = make(tmp_path / "x", epochs=0)
    with pytest.raises(ValueError, match="nothing to draw; no curves, as no epoch is finished: x; no bars w"):
        plot_runs(find_runs([run]), tmp_path / "out")
