"""Pictures of a training: what they show, that they can be read, and what a bad input is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bixt3d.visualize import confusion_matrix, plots, read_metrics, training_curves
from bixt3d.visualize.plots import robustness_curves

pytest.importorskip("matplotlib")

FORTY = (
    "airplane bathtub bed bench bookshelf bottle bowl car chair cone cup curtain desk door dresser "
    "flower_pot glass_box guitar keyboard lamp laptop mantel monitor night_stand person piano plant "
    "radio range_hood sink sofa stairs stool table tent toilet tv_stand vase wardrobe xbox "
).split()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that the test draws, as objects."""
    drawn: list[Any] = []
    save = plots.save_figure

    def keep(figure: Any, path: Path) -> Path:
        drawn.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)
    return drawn


def texts(svg: Path) -> list[str]:
    """The strings in a picture: matplotlib draws glyphs, and names each string in a comment."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", svg.read_text(encoding="utf-8"))]


def rows(epochs: int, **constant: float) -> list[dict[str, float]]:
    return [{"epoch": e, "train_loss": 1 / e, "lr": 1e-3 / e, **constant} for e in range(1, epochs + 1)]


class TestConfusionMatrix:
    def test_small_one_shows_names_counts_and_scores(self, tmp_path: Path) -> None:
        confusion = torch.tensor([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
        written = confusion_matrix(
            confusion, ["cone", "cube", "torus"], tmp_path / "new" / "folder" / "c.svg"
        )
        assert written == tmp_path / "new" / "folder" / "c.svg"
        found = texts(written)
        assert found.count("cone") == found.count("cube") == found.count("torus") == 2
        assert {"8", "2", "1", "3"} <= set(found)
        # 11 of 14; and (8/10 + 3/4) / 2, the class without samples left out
        assert any("OA 78.57%" in text and "mAcc 77.50%" in text and "14 samples" in text for text in found)

    def test_colour_is_the_share_of_the_row(self, tmp_path: Path, figures: list[Any]) -> None:
        confusion_matrix(np.array([[9, 1], [30, 10]]), ["a", "b"], tmp_path / "c.png")
        image = figures[0].axes[0].images[0]
        np.testing.assert_allclose(image.get_array(), [[0.9, 0.1], [0.75, 0.25]])
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)

    def test_counts_contrast_with_their_cell(self, tmp_path: Path, figures: list[Any]) -> None:
        shares = [100, 90, 70, 55, 45, 35, 25, 15, 10, 5]
        confusion = np.zeros((11, 11))
        confusion[range(10), range(10)] = shares
        confusion[range(10), 10] = [100 - share for share in shares]
        confusion_matrix(confusion, [str(i) for i in range(11)], tmp_path / "c.png")
        axes = figures[0].axes[0]
        image = axes.images[0]

        def luminance(rgb: Any) -> float:
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
            return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

        for text in axes.texts:
            column, row = text.get_position()
            cell = luminance(image.cmap(image.norm(image.get_array()[row, column]))[:3])
            dark, light = sorted([cell, 1.0 if text.get_color() == "white" else 0.0])
            assert (light + 0.05) / (dark + 0.05) > 3, text.get_text()

    def test_forty_classes_stay_readable(self, tmp_path: Path, figures: list[Any]) -> None:
        confusion_matrix(torch.eye(40, dtype=torch.int64) * 20 + 1, FORTY, tmp_path / "c.png")
        figure = figures[0]
        figure.draw_without_rendering()  # writing the file measured in its own dots per inch
        axes = figure.axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == FORTY
        assert [label.get_text() for label in axes.get_yticklabels()] == FORTY
        assert not axes.texts  # no counts in cells that small
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels]
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
            assert all(figure.bbox.x0 <= box.x0 and figure.bbox.y0 <= box.y0 for box in boxes)
            assert all(label.get_fontsize() >= 8 for label in labels)

    def test_names_are_not_read_as_formulas(self, tmp_path: Path) -> None:
        path = confusion_matrix(torch.eye(2), ["$a_b$", "$\\nope$"], tmp_path / "c.svg")
        assert {"$a_b$", "$\\nope$"} <= set(texts(path))

    @pytest.mark.parametrize(
        ("confusion", "classes", "message"),
        [
            (np.ones((2, 3)), ["a", "b"], r"square \(K, K\) table of counts, got shape \(2, 3\)"),
            (np.ones((0, 0)), [], r"got shape \(0, 0\)"),
            (np.ones((2, 2)), ["a", "b", "c"], "2 classes, and 3 names"),
            (np.array([[0.5, 0.5], [0.0, 1.0]]), ["a", "b"], "whole numbers"),
            (np.array([[-1, 0], [0, 1]]), ["a", "b"], "whole numbers"),
            (np.array([[np.nan, 0], [0, 1]]), ["a", "b"], "whole numbers"),
            (np.zeros((2, 2)), ["a", "b"], "no sample was counted"),
        ],
    )
    def test_bad_tables(self, confusion: Any, classes: list[str], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            confusion_matrix(confusion, classes, tmp_path / "c.png")

    @pytest.mark.parametrize("name", ["picture", "picture.docx"])
    def test_unknown_format(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=rf"no picture format ends like '{name}'.*\.png"):
            confusion_matrix(torch.eye(2), ["a", "b"], tmp_path / name)


class TestTrainingCurves:
    def test_runs_lie_over_each_other(self, tmp_path: Path, figures: list[Any]) -> None:
        first, second = rows(4, train_oa=0.5), rows(6)
        first[1]["val_oa"], first[3]["val_oa"] = 0.25, 0.75
        path = training_curves({"naive": first, "_grouped $x$": second}, tmp_path / "curves.svg")
        found = texts(path)
        for text in (
            "naive",
            "_grouped $x$",
            "loss",
            "overall accuracy",
            "learning rate",
            "train",
            "validation",
        ):
            assert text in found
        loss, score, rate = figures[0].axes
        assert [line.get_color() for line in loss.lines] == ["#0072B2", "#D55E00"]
        np.testing.assert_allclose(loss.lines[1].get_xydata(), [(e, 1 / e) for e in range(1, 7)])
        dashed, solid = score.lines
        assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
        np.testing.assert_allclose(solid.get_xydata(), [(2, 0.25), (4, 0.75)])
        assert [len(line.get_xdata()) for line in rate.lines] == [4, 6]

    def test_resumed_run_counts_the_later_row(self, tmp_path: Path, figures: list[Any]) -> None:
        resumed = [*rows(5), {"epoch": 4, "train_loss": 0.5}, {"epoch": 5, "train_loss": 0.25}]
        training_curves({"run": resumed}, tmp_path / "curves.png")
        points = figures[0].axes[0].lines[0].get_xydata()
        np.testing.assert_allclose(points, [(1, 1), (2, 1 / 2), (3, 1 / 3), (4, 0.5), (5, 0.25)])

    def test_segmentation_shows_its_own_score(self, tmp_path: Path) -> None:
        path = training_curves({"parts": rows(3, val_class_miou_pointnet2=0.8)}, tmp_path / "curves.svg")
        assert "class mIoU (pointnet2)" in texts(path)
        assert "overall accuracy" not in texts(path)

    def test_a_first_epoch_can_be_seen(self, tmp_path: Path, figures: list[Any]) -> None:
        training_curves({"run": rows(1)}, tmp_path / "curves.png")
        assert figures[0].axes[0].lines[0].get_marker() == "o"

    def test_what_was_not_logged_is_said(self, tmp_path: Path) -> None:
        path = training_curves({"run": [{"epoch": 1, "train_loss": 1.0}]}, tmp_path / "curves.svg")
        assert texts(path).count("not logged") == 2

    def test_many_runs_are_told_apart(self, tmp_path: Path, figures: list[Any]) -> None:
        training_curves({f"run {i}": rows(3) for i in range(20)}, tmp_path / "curves.png")
        lines = figures[0].axes[0].lines
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20

    def test_most_runs_choose_the_score(self, tmp_path: Path, figures: list[Any]) -> None:
        parts = {name: rows(3, train_class_miou_pointnet2=0.5) for name in ("a", "b")}
        path = training_curves({"cls": rows(3, train_oa=0.9), **parts}, tmp_path / "curves.svg")
        found = texts(path)
        assert "class mIoU (pointnet2)" in found and "overall accuracy" not in found
        assert "cls (other score)" in found and "a" in found
        assert [line.get_color() for line in figures[0].axes[1].lines] == ["#D55E00", "#009E73"]

    def test_a_run_keeps_its_colour_where_others_are_left_out(
        self, tmp_path: Path, figures: list[Any]
    ) -> None:
        training_curves({"c": rows(3)}, tmp_path / "curves.png", order=["a", "b", "c"])
        assert figures[0].axes[0].lines[0].get_color() == "#009E73"

    def test_a_split_that_is_not_drawn_is_not_explained(self, tmp_path: Path) -> None:
        found = texts(training_curves({"run": rows(3, train_oa=0.5)}, tmp_path / "curves.svg"))
        assert "train" in found and "validation" not in found

    @pytest.mark.parametrize(("runs", "name"), [(1, "run"), (7, "run"), (12, "a_long_name_" * 9)])
    def test_legends_lie_beside_the_data(
        self, runs: int, name: str, tmp_path: Path, figures: list[Any]
    ) -> None:
        training_curves({f"{name} {k}": rows(5, val_oa=0.5) for k in range(runs)}, tmp_path / "curves.png")
        figure = figures[0]
        figure.draw_without_rendering()
        legends = [legend.get_window_extent() for legend in figure.legends]
        assert len(legends) == 2
        for box in legends:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        height = figure.axes[0].get_window_extent().height / figure.dpi
        assert height > 2.5  # a long legend makes the picture longer, not the axes flatter
        shown = [text.get_text().replace("\n", "") for text in figure.legends[1].get_texts()]
        assert shown == [f"{name} {k}" for k in range(runs)]

    def test_nothing_to_draw(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no runs to draw"):
            training_curves({}, tmp_path / "curves.png")
        with pytest.raises(ValueError, match="'short': none of its 1 rows has an 'epoch'"):
            training_curves({"short": [{"test_oa": 0.5}]}, tmp_path / "curves.png")


class TestRobustnessCurves:
    CLEAN = {"naive": 0.8, "$hier_archy$": 0.9}
    SCORES = {
        "noise": {"naive": {"0.01": 0.7, "0.02": 0.4}, "$hier_archy$": {"0.01": 0.6, "0.02": 0.1}},
        "few points": {"naive": {"64": 0.5, "8": 0.2}, "$hier_archy$": {"64": 0.3, "8": None}},
    }

    def test_a_panel_each_and_a_line_for_each_model(self, tmp_path: Path, figures: list[Any]) -> None:
        robustness_curves(self.CLEAN, self.SCORES, tmp_path / "new" / "r.png")
        panels = figures[0].axes
        assert [axes.get_title() for axes in panels] == ["noise", "few points"]
        noise, few = ([list(line.get_ydata()) for line in axes.lines] for axes in panels)
        assert noise == [[0.8, 0.7, 0.4], [0.9, 0.6, 0.1]]
        assert few[0] == [0.8, 0.5, 0.2] and few[1][:2] == [0.9, 0.3] and np.isnan(few[1][2])
        shown = [[label.get_text() for label in axes.get_xticklabels()] for axes in panels]
        assert shown == [["clean", "0.01", "0.02"], ["clean", "64", "8"]]
        colours = [[line.get_color() for line in axes.lines] for axes in panels]
        assert colours[0] == colours[1] and len(set(colours[0])) == 2

    def test_names_and_scale(self, tmp_path: Path) -> None:
        found = texts(robustness_curves(self.CLEAN, self.SCORES, tmp_path / "r.svg"))
        assert {"naive", "$hier_archy$", "noise", "few points", "overall accuracy", "100%"} <= set(found)

    def test_a_model_keeps_its_colour(self, tmp_path: Path, figures: list[Any]) -> None:
        robustness_curves(self.CLEAN, self.SCORES, tmp_path / "r.png")
        one = {kind: {"$hier_archy$": found["$hier_archy$"]} for kind, found in self.SCORES.items()}
        robustness_curves({"$hier_archy$": 0.9}, one, tmp_path / "r.png", order=list(self.CLEAN))
        both, alone = (figure.axes[0].lines for figure in figures)
        assert alone[0].get_color() == both[1].get_color() != both[0].get_color()

    def test_many_panels_keep_their_texts_apart(self, tmp_path: Path, figures: list[Any]) -> None:
        found = {name: dict.fromkeys(("0.01", "0.02", "0.04", "0.08"), 0.5) for name in self.CLEAN}
        robustness_curves(
            self.CLEAN, {f"a rotation, kind {kind}": found for kind in range(8)}, tmp_path / "r.png"
        )
        figure = figures[0]
        figure.draw_without_rendering()
        shown = [axes for axes in figure.axes if axes.get_visible()]
        assert len(shown) == 8
        labels = [label for axes in shown for label in (*axes.get_xticklabels(), axes.title)]
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        assert all(label.get_fontsize() >= 10 for label in labels)

    @pytest.mark.parametrize(
        ("clean", "scores", "message"),
        [
            ({}, {}, "nothing to draw"),
            ({"a": 1.0}, {}, "nothing to draw"),
            ({"a": 1.0, "b": 1.0}, {"noise": {"a": {"1": 0.5}}}, "noise: expected the same .* a, b, got"),
            ({"a": 1.0}, {"noise": {"a": {"1": 0.5}, "b": {"1": 0.5}}}, "noise: expected the same"),
            (
                {"a": 1.0, "b": 1.0},
                {"noise": {"a": {"1": 0.5}, "b": {"2": 0.5}}},
                r"got .*'a': \['1'\], 'b': \['2'\]",
            ),
        ],
    )
    def test_what_cannot_be_drawn(self, clean: Any, scores: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            robustness_curves(clean, scores, tmp_path / "r.png")


class TestReadMetrics:
    def test_rows_in_order(self, tmp_path: Path) -> None:
        expected = rows(3, val_oa=0.5)
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in expected))
        assert read_metrics(tmp_path) == expected

    @pytest.mark.parametrize("torn", ['{"epoch": 2, "tr', '{"epoch": 2}', '{"name": "\xe9'])
    def test_torn_last_line(self, torn: str, tmp_path: Path) -> None:
        whole = [{"epoch": 1}] + ([{"epoch": 2}] if torn.endswith("}") else [])
        (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n' + torn.encode("latin-1"))
        assert read_metrics(tmp_path) == whole

    def test_no_epoch_yet(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").touch()
        assert read_metrics(tmp_path) == []

    @pytest.mark.parametrize("damaged", ['{"epoch": 2, "tr', "[1, 2]", "3", '{"epoch": 2}{"epoch": 3}'])
    def test_damaged_line_is_named(self, damaged: str, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' + damaged + '\n{"epoch": 3}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
            read_metrics(tmp_path)

    def test_damaged_last_line_with_its_newline(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch"\n')
        with pytest.raises(ValueError, match="line 2 is damaged"):
            read_metrics(tmp_path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl in .*nowhere"):
            read_metrics(tmp_path / "nowhere")


class TestMatplotlib:
    def test_its_absence_names_the_install_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        for draw in (
            lambda: confusion_matrix(torch.eye(2), ["a", "b"], tmp_path / "c.png"),
            lambda: training_curves({"run": rows(2)}, tmp_path / "c.png"),
            lambda: robustness_curves({"a": 1.0}, {"noise": {"a": {"1": 0.5}}}, tmp_path / "c.png"),
        ):
            with pytest.raises(ImportError, match=r'pip install "bixt3d\[plots\]"'):
                draw()

    def test_is_loaded_late_and_pyplot_never(self, tmp_path: Path) -> None:
        program = (
            "import sys, torch, bixt3d.visualize as v\n"
            "assert 'matplotlib' not in sys.modules\n"
            f"v.confusion_matrix(torch.eye(2), ['a', 'b'], {str(tmp_path / 'c.png')!r})\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
