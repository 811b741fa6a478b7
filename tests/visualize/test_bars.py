"""Bars of classes: what they show, that they can be read, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bixt3d.visualize import bars, class_bars, throughput
from bixt3d.visualize.bars import symmetry_picture
from bixt3d.visualize.figure import COLOURS
from bixt3d.visualize.runs import ClassScores
from tests.visualize.test_plots import FORTY

pytest.importorskip("matplotlib")

SCORES = ClassScores("class", "accuracy", ("cone", "cube", "torus"), (10, 4, 0), (0.2, 0.75, None))


def forty(seed: int) -> ClassScores:
    values = np.random.default_rng(seed).uniform(0.3, 1, len(FORTY))
    return ClassScores("class", "accuracy", tuple(FORTY), (20,) * len(FORTY), tuple(values))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that the test draws, as objects."""
    drawn: list[Any] = []
    save = bars.save_figure

    def keep(figure: Any, path: Path) -> Path:
        drawn.append(figure)
        return save(figure, path)

    monkeypatch.setattr(bars, "save_figure", keep)
    return drawn


def labels(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def boxes(figure: Any) -> dict[str, Any]:
    """Where every piece of text lies, in pixels."""
    figure.draw_without_rendering()
    pieces = [*figure.legends[0].get_texts(), figure._suptitle]
    for axes in figure.axes:
        pieces += [*axes.get_yticklabels(), *axes.get_xticklabels(), axes.xaxis.label]
    return {f"{index} {text.get_text()}": text.get_window_extent() for index, text in enumerate(pieces)}


class TestOneRun:
    def test_best_class_on_top_with_its_number(self, tmp_path: Path, figures: list[Any]) -> None:
        path = class_bars({"run": SCORES}, tmp_path / "new" / "bars.png")
        assert path == tmp_path / "new" / "bars.png"
        (axes,) = figures[0].axes
        assert labels(axes) == ["cube (4)", "cone (10)", "torus (0)"]
        assert [bar.get_width() for bar in axes.patches] == [0.75, 0.2, 0.0]
        assert sorted(text.get_text() for text in axes.texts) == ["20.0", "75.0", "no shapes"]
        top, bottom = axes.transData.transform([(0, 0), (0, 2)])[:, 1]
        assert top > bottom

    def test_mean_leaves_out_a_class_without_shapes(self, tmp_path: Path, figures: list[Any]) -> None:
        class_bars({"run": SCORES}, tmp_path / "bars.png")
        (axes,) = figures[0].axes
        assert [line.get_xdata()[0] for line in axes.lines] == [pytest.approx(0.475)]
        assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["run, mean 47.5%"]

    def test_length_of_the_coloured_pixels(self, tmp_path: Path, figures: list[Any]) -> None:
        from matplotlib.image import imread

        class_bars({"run": SCORES}, tmp_path / "bars.png")
        pixels = imread(tmp_path / "bars.png")[..., :3]
        blue = np.abs(pixels - [0, 0x72 / 255, 0xB2 / 255]).max(axis=2) < 0.02  # (H, W)
        (axes,) = figures[0].axes
        figures[0].dpi = 150
        figures[0].draw_without_rendering()
        for row, value in ((0, 0.75), (1, 0.2)):
            left, y = axes.transData.transform((0, row + 0.25))
            right, _ = axes.transData.transform((1, row + 0.25))
            line = blue[len(blue) - 1 - int(y)]
            assert line.sum() / (right - left) == pytest.approx(value, abs=0.012)  # the mean line crosses it
        left, y = axes.transData.transform((0, 2))
        assert not blue[len(blue) - 1 - int(y), : int(left) + 60].any()

    def test_names_are_not_read_as_formulas(self, tmp_path: Path, figures: list[Any]) -> None:
        scores = replace(SCORES, names=("$a_b$", "$\\nope$", "_c"))
        class_bars({"_run $\\x$": scores}, tmp_path / "bars.svg")
        assert labels(figures[0].axes[0]) == ["$\\nope$ (4)", "$a_b$ (10)", "_c (0)"]
        assert figures[0].legends[0].get_texts()[0].get_text() == "_run $\\x$, mean 47.5%"

    def test_long_names_do_not_shorten_the_bars(self, tmp_path: Path, figures: list[Any]) -> None:
        class_bars({"run": replace(SCORES, names=("a" * 90, "b", "c"))}, tmp_path / "bars.png")
        figures[0].draw_without_rendering()
        assert figures[0].axes[0].get_window_extent().width / figures[0].dpi > 4.5


class TestSeveralRuns:
    def test_classes_are_matched_by_name(self, tmp_path: Path, figures: list[Any]) -> None:
        other = replace(SCORES, names=("torus", "cube", "cone"), shapes=(0, 4, 10), values=(None, 0.5, 0.9))
        class_bars({"first": SCORES, "second": other}, tmp_path / "bars.png")
        (axes,) = figures[0].axes
        first, second = axes.containers
        assert labels(axes) == ["cube (4)", "cone (10)", "torus (0)"]
        assert [bar.get_width() for bar in first] == [0.75, 0.2, 0]
        assert [bar.get_width() for bar in second] == [0.5, 0.9, 0]
        for above, below in zip(first, second, strict=True):
            assert above.get_y() + above.get_height() <= below.get_y() + 1e-9  # side by side
        assert sum(text.get_text() == "no shapes" for text in axes.texts) == 1

    def test_other_numbers_of_shapes_are_not_shown(self, tmp_path: Path, figures: list[Any]) -> None:
        other = replace(SCORES, shapes=(3, 4, 1), values=(0.2, 0.3, 0.4))
        class_bars({"test": SCORES, "val": other}, tmp_path / "bars.png")
        (axes,) = figures[0].axes
        assert labels(axes) == ["cube", "cone", "torus"]
        (text,) = [text for text in axes.texts if text.get_text() == "no shapes"]
        assert text.get_position()[1] < 2  # at the first run's bar, which is above the class's middle

    def test_a_run_keeps_its_colour_where_others_are_left_out(
        self, tmp_path: Path, figures: list[Any]
    ) -> None:
        class_bars({"c": SCORES}, tmp_path / "bars.png", ["a", "b", "c"])
        from matplotlib.colors import to_hex

        assert {to_hex(bar.get_facecolor()).upper() for bar in figures[0].axes[0].patches} == {COLOURS[2]}

    def test_an_order_without_the_run(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="order: expected all names to draw, 'c' not among them"):
            class_bars({"c": SCORES}, tmp_path / "bars.png", ["a", "b"])

    def test_twelve_runs_are_told_apart(self, tmp_path: Path, figures: list[Any]) -> None:
        class_bars({f"run {k}": forty(k) for k in range(12)}, tmp_path / "bars.png")
        for axes in figures[0].axes:
            looks = {(group[0].get_facecolor(), group[0].get_hatch()) for group in axes.containers}
            assert len(looks) == 12
        handles = figures[0].legends[0].legend_handles
        assert {(handle.get_facecolor(), handle.get_hatch()) for handle in handles} == looks

    @pytest.mark.parametrize(("runs", "name"), [(1, "run"), (2, "a_long_name" * 12), (12, "run")])
    def test_forty_classes_stay_readable(
        self, runs: int, name: str, tmp_path: Path, figures: list[Any]
    ) -> None:
        class_bars({f"{name} {k}": forty(k) for k in range(runs)}, tmp_path / "bars.png")
        figure = figures[0]
        first, second = figure.axes
        names = [label.rpartition(" ")[0] for label in labels(first) + labels(second)]
        assert sorted(names) == sorted(FORTY)
        found = boxes(figure)
        for (one, a), (other, b) in combinations(found.items(), 2):
            assert not a.overlaps(b), (one, other)
        width, height = figure.bbox.width, figure.bbox.height
        for text, box in found.items():
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
        assert height / figure.dpi < 24
        assert all(label.get_fontsize() >= 8 for axes in figure.axes for label in axes.get_yticklabels())


class TestWhatCannotBeCompared:
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (
                replace(SCORES, kind="category", measure="mIoU (pointnet2)"),
                r"cls has the accuracy of classes, parts the mIoU \(pointnet2\) of categories",
            ),
            (
                ClassScores("class", "accuracy", ("cone", "a", "b", "c"), (1,) * 4, (1.0,) * 4),
                r"cls and parts know other classes \(3 and 4; only one has a, b, c \.\.\.\)",
            ),
        ],
    )
    def test_other_tasks(self, other: ClassScores, message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            class_bars({"cls": SCORES, "parts": other}, tmp_path / "bars.png")
        assert not (tmp_path / "bars.png").exists()

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no scores to draw"):
            class_bars({}, tmp_path / "bars.png")


def test_scores_that_are_no_shares(tmp_path: Path, figures: list[Any]) -> None:
    scores = ClassScores("depth", "error in mm", ("near", "far"), (), (12.5, 40.0), percent=False)
    class_bars({"run": scores}, tmp_path / "bars.png")
    (axes,) = figures[0].axes
    assert labels(axes) == ["far", "near"] and [bar.get_width() for bar in axes.patches] == [40.0, 12.5]
    assert sorted(text.get_text() for text in axes.texts) == ["12.5", "40"]
    assert axes.get_xlim()[0] == 0 and 40 < axes.get_xlim()[1] < 50
    assert figures[0].legends[0].get_texts()[0].get_text() == "run, mean 26.25"
    assert figures[0].get_suptitle() == "error in mm of every depth\ndashed: mean over depths"


def row(model: str, num_points: int, clouds: float | None, device: str = "cpu") -> dict[str, Any]:
    return {"model": model, "num_points": num_points, "clouds_per_second": clouds, "device": device}


SIZES = (512, 2048, 32768)
ROWS = [row("bixt", n, 1e6 / (n + 500)) for n in reversed(SIZES)] + [
    row("quadratic", 512, 2000.0),
    row("quadratic", 2048, 125.0),
    row("quadratic", 32768, None),
]


class TestThroughput:
    def test_a_bar_for_each_model_a_panel_for_each_size(self, tmp_path: Path, figures: list[Any]) -> None:
        path = throughput([*ROWS, row("new $x$", 512, 5.0)], tmp_path / "new" / "speed.png")
        assert path == tmp_path / "new" / "speed.png" and path.read_bytes().startswith(b"\x89PNG")
        panels = figures[0].axes
        assert [axes.get_title() for axes in panels] == ["512 points", "2,048 points", "32,768 points"]
        assert labels(panels[0]) == ["bixt", "quadratic", "new $x$"]
        for axes, size in zip(panels, SIZES, strict=True):
            assert axes.patches[0].get_width() == pytest.approx(1e6 / (size + 500))
            assert axes.get_xlim()[0] == 0 and axes.get_xscale() == "linear"
        said = [[text.get_text() for text in axes.texts] for axes in panels]
        assert said[0] == ["988.1", "2,000", "5"] and said[1][2] == "not measured"
        assert said[2][1:] == ["did not run", "not measured"]
        colours = [[bar.get_facecolor() for bar in axes.patches] for axes in panels]
        assert colours[0] == colours[1] == colours[2] and len(set(colours[0])) == 3
        assert figures[0].get_suptitle() == "cpu"

    def test_every_device_has_its_bar(self, tmp_path: Path, figures: list[Any]) -> None:
        rows = [row("a", n, 1e5 / n, device) for device in ("cpu", "H100") for n in (512, 2048, 4096, 8192)]
        throughput(rows, tmp_path / "speed.svg")
        assert labels(figures[0].axes[0]) == ["a, cpu", "a, H100"]
        assert [axes.get_visible() for axes in figures[0].axes] == [True] * 4 + [False] * 2
        assert figures[0].get_suptitle() == ""

    def test_texts_have_their_places(self, tmp_path: Path, figures: list[Any]) -> None:
        rows = [row(f"model_{k}_with_a_name", n, 1e5 / n / (k + 1)) for k in range(12) for n in SIZES]
        throughput(rows, tmp_path / "speed.png")
        figure = figures[0]
        figure.draw_without_rendering()
        pieces = [figure._supxlabel, figure._suptitle, *figure.axes[0].get_yticklabels()]
        pieces += [piece for axes in figure.axes for piece in (axes.title, *axes.texts)]
        boxes = [(piece.get_text(), piece.get_window_extent()) for piece in pieces]
        for (one, a), (other, b) in combinations(boxes, 2):
            assert not a.overlaps(b), (one, other)
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for _, box in boxes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no throughput to draw"),
        ([row("a", 1024, None)], "no throughput to draw"),
        (
            [row("a", 512, 1.0), {"model": "a", "device": "cpu"}],
            "row 1 has no num_points, it has model, device",
        ),
        ([{}], "row 0 has no model, it has nothing"),
        ([row("a", 0, 1.0)], "num_points: expected a whole number from 1 up, got 0"),
        ([row("a", 512.0, 1.0)], "num_points: expected a whole number"),  # type: ignore[arg-type]
        ([row("a", True, 1.0)], "num_points: expected a whole number"),
        ([row("a", 512, 0.0)], "clouds_per_second: expected a number above zero.*got 0.0"),
        ([row("a", 512, float("nan"))], "clouds_per_second: expected a number above zero"),
        ([row("a", 512, float("inf"))], "clouds_per_second: expected a number above zero"),
        ([row("a", 512, "9")], "clouds_per_second: expected a number"),  # type: ignore[arg-type]
        ([row("", 512, 9.0)], "model: expected a name, got ''"),
        ([row("a", 512, 9.0, device=None)], "device: expected a name"),  # type: ignore[arg-type]
        ([row("a", 512, 9.0), row("a", 512, 8.0)], "two rows measure a at 512 points on cpu: keep one"),
        ([row("a", 512, 9.0), row("a", 512, None)], "two rows measure a at 512 points"),
        ([row("a", 512, None), row("a", 512, 9.0)], "two rows measure a at 512 points"),
    ],
)
def test_bad_rows_of_throughput(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        throughput(rows, tmp_path / "speed.png")


def test_symmetry_picture(tmp_path: Path) -> None:
    models = {"both_$x": [np.ones((4, 2))] * 3, "one": [np.zeros((4, 2)), np.full((4, 2), 0.5)]}
    text = symmetry_picture(models, tmp_path / "s.svg").read_text()
    assert "<!-- both_$x -->" in text and "<!-- layer 3 -->" in text and "<!-- layer 4 -->" not in text
    with pytest.raises(ValueError, match="nothing to draw"):
        symmetry_picture({"perceiver": []}, tmp_path / "s.png")
