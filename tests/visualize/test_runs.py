"""What trainings and evaluations leave behind: which run a path means, and that damage is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bixt3d.tasks.classification import class_rows
from bixt3d.tasks.labels import category_rows
from bixt3d.training.files import write_confusion, write_csv
from bixt3d.visualize.runs import find_run, find_runs, read_confusion, read_scores, read_throughput


def training(folder: Path, *files: str) -> Path:
    """A run's folder with these files beside its metrics."""
    for name in ("metrics.jsonl", *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


class TestFindRun:
    @pytest.mark.parametrize("ending", ["", "last", "last.safetensors"])
    def test_a_training_is_its_last_epoch(self, ending: str, tmp_path: Path) -> None:
        folder = training(tmp_path / "grouping", "last.safetensors", "best.safetensors")
        run = find_run(folder / ending)
        assert (run.name, run.training) == ("grouping", folder)
        assert run.tables == (folder / "last_test.csv", folder / "last_test" / "table.csv")
        assert run.confusion == folder / "last_test" / "confusion.csv"

    def test_best_epoch(self, tmp_path: Path) -> None:
        folder = training(tmp_path / "grouping", "best_test.csv")
        run = find_run(folder / "best")
        assert (run.name, run.training, run.tables[0]) == ("grouping/best", folder, folder / "best_test.csv")

    def test_evaluation_in_a_run(self, tmp_path: Path) -> None:
        folder = training(tmp_path / "grouping", "last_val/table.csv")
        run = find_run(folder / "last_val")
        assert (run.name, run.training) == ("grouping/last_val", folder)
        assert run.tables[0] == folder / "last_val" / "table.csv"

    def test_evaluation_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "confusion.csv").touch()
        run = find_run(tmp_path / "cpu")
        assert (run.name, run.training) == ("cpu", None)
        assert run.tables[-1] == run.confusion == tmp_path / "cpu" / "confusion.csv"

    def test_folder_is_named_though_called_a_dot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(training(tmp_path / "grouping"))
        assert find_run(".").name == "grouping"

    @pytest.mark.parametrize("path", ["gruoping", "empty", "grouping/best", "grouping/metrics.jsonl", "a/b"])
    def test_no_run(self, path: str, tmp_path: Path) -> None:
        training(tmp_path / "grouping", "last.safetensors")
        (tmp_path / "empty").mkdir()
        with pytest.raises(
            FileNotFoundError, match=rf"no run .*{path}: expected the folder of a training"
        ) as e:
            find_run(tmp_path / path)
        assert ("did you mean 'grouping'?" in str(e.value)) == (path == "gruoping")


class TestFindRuns:
    def test_folders_called_alike_are_told_apart(self, tmp_path: Path) -> None:
        paths = [training(tmp_path / name) for name in ("a/x/seed1", "b/x/seed1", "b/seed2", "c/seed1")]
        assert [run.name for run in find_runs(paths)] == ["a/x/seed1", "b/x/seed1", "seed2", "c/seed1"]

    def test_one_run_named_twice(self, tmp_path: Path) -> None:
        path = training(tmp_path / "x", "last.safetensors")
        assert [run.name for run in find_runs([path, path / "last", path])] == ["x", "x (2)", "x (3)"]

    def test_labels(self, tmp_path: Path) -> None:
        paths = [training(tmp_path / name) for name in "abcd"]
        names = [run.name for run in find_runs(paths, ["sgd", "sgd (2)", "sgd", "muon"])]
        assert names == ["sgd", "sgd (2)", "sgd (3)", "muon"]

    def test_wrong_number_of_labels(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="a label for each of 1 runs, got 2"):
            find_runs([training(tmp_path / "a")], ["x", "y"])


class TestReadScores:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6))
    def test_classes_as_evaluation_writes_them(
        self, tmp_path_factory: pytest.TempPathFactory, counts: list[tuple[int, int]]
    ) -> None:
        if not any(right + wrong for right, wrong in counts):
            counts = [(1, 0)]
        size = len(counts)
        confusion = torch.zeros(size + 1, size + 1, dtype=torch.int64)
        for index, (right, wrong) in enumerate(counts):
            confusion[index, index], confusion[index, size] = right, wrong
        names = [f"class, {index}" for index in range(size)] + ["never"]
        folder = tmp_path_factory.mktemp("scores")
        write_csv(class_rows(confusion, names), folder / "table.csv")
        write_confusion(confusion, names, folder / "confusion.csv")
        rounded, exact = read_scores(folder / "table.csv"), read_scores(folder / "confusion.csv")
        for scores, error in ((rounded, 5.1e-4), (exact, 1e-12)):
            assert (scores.kind, scores.measure) == ("class", "accuracy")
            assert list(scores.names) == names
            assert list(scores.shapes) == [right + wrong for right, wrong in counts] + [0]
            wanted = [right / (right + wrong) if right + wrong else None for right, wrong in counts] + [None]
            assert scores.values == pytest.approx(tuple(wanted), abs=error)
            assert scores.mean == pytest.approx(np.mean([v for v in wanted if v is not None]), abs=error)
        found, classes = read_confusion(folder / "confusion.csv")
        assert classes == tuple(names)
        np.testing.assert_array_equal(found, confusion.numpy())

    def test_categories_under_both_conventions(self, tmp_path: Path) -> None:
        counts = torch.tensor([[1.5, 1.0, 2.0], [0.0, 0.0, 0.0], [2.0, 1.5, 2.0]])  # the last row is a total
        write_csv(category_rows(counts, ["chair", "lamp"]), tmp_path / "table.csv")
        scores = read_scores(tmp_path / "table.csv")
        assert (scores.kind, scores.measure) == ("category", "mIoU (pointnet2)")
        assert (scores.names, scores.shapes, scores.values) == (("chair", "lamp"), (2, 0), (0.75, None))
        assert read_scores(tmp_path / "table.csv", "pointmlp").values == (0.5, None)
        with pytest.raises(ValueError, match="expected one of pointnet2, pointmlp, got 'mean'"):
            read_scores(tmp_path / "table.csv", "mean")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected a table, got 0 lines"),
            ("class,shapes,accuracy\n", "got 1 lines"),
            ("name,score\na,high\n", r"expected the scores of classes .* 'name,score'"),
            ("class,shapes\na,1\n", "expected the scores of classes"),
            ("class,shapes,accuracy\na,1,90.0%\nb,2,high\n", r"line 3 is damaged: .*'b,2,high'"),
            ("class,shapes,accuracy\na,1,0.9\nb,1,90.0%\n", "line 3 is damaged"),
            ("depth,shapes,error\na,1,3.5\nb,1,far\n", "expected the scores of classes"),
            ("class,shapes,accuracy\na,1,120.0%\n", "line 2 is damaged"),
            ("class,shapes,accuracy\na,1,nan%\n", "line 2 is damaged"),
            ("class,shapes,accuracy\na,few,90.0%\n", "line 2 is damaged"),
            ("class,shapes,accuracy\na,1\n", "line 2 is damaged"),
            ("class,shapes,accuracy\na,1,90.0%\na,1,90.0%\n", "a row for each class, once"),
            ("class,shapes,accuracy\na,0,-\n", "a score in some"),
            ("truth \\ prediction,a,b\na,1,2\n", "expected a confusion matrix"),
        ],
    )
    def test_damaged(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "last_test.csv").write_text(text)
        with pytest.raises(ValueError, match=rf"last_test\.csv.*{message}"):
            read_scores(tmp_path / "last_test.csv")

    def test_table_of_a_task_of_ones_own(self, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_text(
            "depth,shapes,comment,error in mm\nnear,3,good,12.5\nfar,0,none,-\nat sea,1,bad,-3e1\n"
        )
        scores = read_scores(path)
        assert (scores.kind, scores.measure, scores.percent) == ("depth", "error in mm", False)
        assert (scores.shapes, scores.values) == ((3, 0, 1), (12.5, None, -30.0))
        path.write_text("class,points,IoU\nwall,300,80.0%\nroof,20,40.0%\n")
        scores = read_scores(path)
        assert (scores.measure, scores.percent, scores.mean) == ("IoU", True, pytest.approx(0.6))
        path.write_text("turn,quality\nleft,0.25\nright,0.75\n")
        assert read_scores(path).shapes == () and read_scores(path).values == (0.25, 0.75)

    def test_accuracies_as_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_text("class,shapes,accuracy\na,1,0.9\nb,1,0.5\n")
        assert read_scores(path).percent and read_scores(path).values == (0.9, 0.5)

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "table.csv").write_bytes(b"class,\xff\xfe\n1")
        with pytest.raises(ValueError, match=r"table\.csv is damaged: no table of text"):
            read_scores(tmp_path / "table.csv")


@pytest.mark.parametrize(
    "text", [",a,b\na,1,x\nb,0,1\n", ",a,b\na,1,-2\nb,0,1\n", ",a,b\nb,1,2\na,0,1\n", ",a\na,1,2\n", "x\ny\n"]
)
def test_damaged_confusion(text: str, tmp_path: Path) -> None:
    (tmp_path / "confusion.csv").write_text(text)
    with pytest.raises(ValueError, match=r"confusion\.csv is damaged: expected a confusion matrix"):
        read_confusion(tmp_path / "confusion.csv")


class TestReadThroughput:
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_rows(self, wrapped: bool, tmp_path: Path) -> None:
        rows = [{"model": "a", "num_points": 512, "clouds_per_second": 3.5, "device": "cpu"}]
        content = {"commit": "x", "rows": rows} if wrapped else rows
        (tmp_path / "speed.json").write_text(json.dumps(content))
        assert read_throughput(tmp_path / "speed.json") == rows

    @pytest.mark.parametrize("text", ["[1, 2]", "3", '{"model": "a"}', "[{"])
    def test_other_content(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "speed.json").write_text(text)
        with pytest.raises(ValueError, match=re.escape("speed.json")):
            read_throughput(tmp_path / "speed.json")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read_throughput(tmp_path / "nowhere.json")
