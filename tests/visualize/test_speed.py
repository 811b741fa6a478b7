"""Throughput against the number of points: the measurements, the dashed line, and rows that are told off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bixt3d.visualize import speed, throughput

pytest.importorskip("matplotlib")


def row(model: str, num_points: int, clouds: float | None, device: str = "cpu") -> dict[str, Any]:
    return {"model": model, "num_points": num_points, "clouds_per_second": clouds, "device": device}


SIZES = (512, 2048, 32768)
ROWS = [row("bixt", n, 1e6 / (n + 500)) for n in reversed(SIZES)] + [
    row("quadratic", 512, 2000.0),
    row("quadratic", 2048, 125.0),
    row("quadratic", 32768, None),
]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that the test draws, as objects."""
    drawn: list[Any] = []
    save = speed.save_figure

    def keep(figure: Any, path: Path) -> Path:
        drawn.append(figure)
        return save(figure, path)

    monkeypatch.setattr(speed, "save_figure", keep)
    return drawn


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_lines_in_both_measures(tmp_path: Path, figures: list[Any]) -> None:
    path = throughput(ROWS, tmp_path / "new" / "speed.png")
    assert path == tmp_path / "new" / "speed.png" and path.read_bytes().startswith(b"\x89PNG")
    rates, times = figures[0].axes
    assert (rates.get_xscale(), rates.get_yscale(), times.get_yscale()) == ("log", "log", "log")
    np.testing.assert_allclose(rates.lines[0].get_xydata(), [(n, 1e6 / (n + 500)) for n in SIZES])
    np.testing.assert_allclose(
        times.lines[0].get_xydata(), [(n, (n + 500) / n) for n in SIZES]
    )  # microseconds
    np.testing.assert_allclose(rates.lines[1].get_xydata(), [(512, 2000), (2048, 125)])
    assert [line.get_color() for line in rates.lines[:2]] == ["#0072B2", "#D55E00"]
    assert legend(figures[0]) == ["bixt", "quadratic (did not run at 32768)"]
    assert figures[0].get_suptitle() == "cpu\ndashed: time grows linearly with the points"


def test_dashed_line_is_linear_and_crosses_none(tmp_path: Path, figures: list[Any]) -> None:
    throughput(ROWS, tmp_path / "speed.png")
    rates, times = figures[0].axes
    x, y = rates.lines[-1].get_xydata().T
    assert rates.lines[-1].get_linestyle() == "--"
    np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(np.log(x)), -1)
    level = times.lines[-1].get_ydata()
    np.testing.assert_allclose(level, level[0])
    np.testing.assert_allclose(level * 1e-6, 1 / (x * y))  # the same line in the other measure
    fastest = {n: max(r["clouds_per_second"] or 0 for r in ROWS if r["num_points"] == n) for n in SIZES}
    assert all(above > fastest[int(n)] for n, above in zip(x, y, strict=True))


def test_ticks_are_the_sizes_measured(tmp_path: Path, figures: list[Any]) -> None:
    throughput([row("a", n, 10.0) for n in (1000, 1024, 4096, 100_000)], tmp_path / "speed.png")
    rates, _ = figures[0].axes
    assert [label.get_text() for label in rates.get_xticklabels()] == ["1,000", "4,096", "100,000"]


def test_every_device_has_its_line(tmp_path: Path, figures: list[Any]) -> None:
    rows = [row("a", n, 1e5 / n, device) for device in ("cpu", "H100") for n in SIZES]
    throughput(rows, tmp_path / "speed.png")
    assert legend(figures[0]) == ["a, cpu", "a, H100"]
    assert len(figures[0].axes[0].lines) == 3


def test_one_size_has_no_dashed_line(tmp_path: Path, figures: list[Any]) -> None:
    throughput([row("_$a_b$", 1024, 10.0)], tmp_path / "speed.svg")
    (line,) = figures[0].axes[0].lines
    assert line.get_marker() == "o" and "dashed" not in figures[0].get_suptitle()
    assert legend(figures[0]) == ["_$a_b$"]


def test_twelve_models_are_told_apart(tmp_path: Path, figures: list[Any]) -> None:
    rows = [row(f"model {k}", n, 1e5 / n / (k + 1)) for k in range(12) for n in SIZES]
    throughput(rows, tmp_path / "speed.png")
    lines = figures[0].axes[0].lines[:12]
    assert len({(line.get_color(), str(line.get_markerfacecolor())) for line in lines}) == 12
    figure = figures[0]
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


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
def test_bad_rows(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        throughput(rows, tmp_path / "speed.png")
