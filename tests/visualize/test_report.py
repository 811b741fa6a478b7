"""The report of an evaluation: each cloud's row, the worst, confused pairs, calibration, and its page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from bixt3d.datasets.loader import CloudLoader
from bixt3d.datasets.split import Split
from bixt3d.tasks import ClassificationTask, PartSegmentationTask, Task
from bixt3d.visualize.pages import png, table
from bixt3d.visualize.report import Report

CLASSES = ("ball", "box", "<cone>", "disc")
LOGITS = torch.tensor([[4.0, 1, 0, 0], [3, 2, 0, 0], [0, 0, 0, 5], [0, 1, 2, 0], [0, 0, 0, 1]])
LABEL = torch.tensor([0, 1, 2, 2, 0])  # right, wrong, surely wrong, right, wrong


def classified(names: tuple[str, ...] = ()) -> Report:
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(5, 40, 3, generator=generator), LABEL, CLASSES, names=names)
    report, task = Report(), ClassificationTask(CLASSES)
    for number, batch in enumerate(CloudLoader(split, 2)):
        report.watch(task, split, LOGITS[2 * number : 2 * number + 2], batch)
    return report


def test_a_row_for_each_cloud() -> None:
    report = classified()
    head, *rows = report.predictions
    assert head == "index truth label right confidence label_2 confidence_2 label_3 confidence_3".split()
    assert [row[:4] for row in rows] == [
        ["0", "ball", "ball", "yes"],
        ["1", "box", "ball", "no"],
        ["2", "<cone>", "disc", "no"],
        ["3", "<cone>", "<cone>", "yes"],
        ["4", "ball", "disc", "no"],
    ]
    shares = LOGITS.softmax(1).sort(1, descending=True).values[:, :3]
    assert np.allclose([row[4::2] for row in rows], shares)
    assert rows[1][5] == "box" and report.part_scores == []
    assert [row[0] for row in classified(tuple("abcde")).predictions] == ["file", *"abcde"]


def test_the_worst_come_first_and_pairs_are_counted() -> None:
    report = classified()
    assert [cloud.title for cloud in report.worst] == ["2", "4", "1", "3", "0"]
    assert report.confused() == [
        ["truth", "taken for", "clouds"],
        ["<cone>", "disc", 1],
        ["ball", "disc", 1],
        ["box", "ball", 1],
    ]
    assert len(report.confused(2)) == 3


def test_no_more_than_the_worst_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.visualize.report.WORST", 2)
    assert [cloud.title for cloud in classified().worst] == ["2", "4"]


def test_calibration_error_is_that_of_the_bins() -> None:
    confidence, label = LOGITS.softmax(1).max(1)
    right = (label == LABEL).double()
    error = 0.0
    for low in range(15):
        inside = (confidence * 15).long() == low
        error += abs(float((right[inside] - confidence[inside]).sum())) / 5
    assert classified().calibration_error == pytest.approx(error, rel=1e-5)
    assert Report().calibration_error is None


def labelled(*ignore: int) -> Report:
    """Two clouds of 4 and 3 points; the second one's last point repeats."""
    parts = torch.tensor([[0, 0, 1, 1], [2, 3, 3, 2]])
    said = torch.tensor([[0, 1, 1, 1], [2, 2, 2, 0]])
    split = Split(
        torch.randn(2, 4, 3),
        torch.tensor([0, 1]),
        ("cup", "pen"),
        parts=parts,
        category=torch.tensor([0, 1]),
        categories=("cup", "pen"),
        parts_of_category=((0, 1), (2, 3)),
        part_names=("body", "handle", "tip", "stem"),
        count=torch.tensor([4, 3]),
        names=("a", "b"),
    )
    task = PartSegmentationTask(split.categories, split.parts_of_category, num_points=4)
    task.set_facts(task.facts(split))
    task.ignore = ignore
    logits = 5 * torch.nn.functional.one_hot(said, 4).float()
    report = Report()
    for batch in CloudLoader(split, 2):
        report.watch(task, split, logits, batch)
    return report


def test_parts_have_an_iou_each() -> None:
    report = labelled()
    assert report.predictions[0] == ["file", "category", "points", "IoU", "accuracy", "confidence"]
    assert report.predictions[1][:5] == ["a", "cup", 4, pytest.approx((1 / 2 + 2 / 3) / 2), 0.75]
    assert report.predictions[2][:5] == ["b", "pen", 3, pytest.approx(1 / 6), pytest.approx(1 / 3)]
    sure = float(torch.tensor([5.0, 0]).softmax(0)[0])
    assert report.predictions[1][5] == pytest.approx(sure)
    assert report.part_scores[1:] == [
        ["a", "cup", "body", 2, 1, 0.5],
        ["a", "cup", "handle", 2, 3, pytest.approx(2 / 3)],
        ["b", "pen", "tip", 1, 3, pytest.approx(1 / 3)],
        ["b", "pen", "stem", 2, 0, 0.0],
    ]
    assert report.confused()[1:] == [["pen: stem", "tip", 2], ["cup: body", "handle", 1]]
    assert [cloud.title for cloud in report.worst] == ["b", "a"]
    assert report.confidence[:, 0].sum() == 7 and report.confidence[:, 2].sum() == 4


def test_parts_that_do_not_count_are_left_out() -> None:
    """Neither as truth nor as an answer, as in the scores; the last part of all as well."""
    report = labelled(1, 3)
    assert report.predictions[1][2:5] == [2, 1.0, 1.0] and report.predictions[2][2:5] == [1, 1.0, 1.0]
    assert [row[2] for row in report.part_scores[1:]] == ["body", "tip"]
    assert report.confused()[1:] == [] and report.confidence[:, 0].sum() == 3


def test_a_task_without_answers_gives_a_report_without() -> None:
    class Own(Task):
        pass

    report, split = Report(), Split(torch.randn(2, 9, 3), torch.tensor([0, 1]), ("a", "b"))
    for batch in CloudLoader(split, 2):
        report.watch(Own(), split, torch.zeros(2, 2), batch)
    assert report.predictions == [] and report.worst == [] and report.write_worst(Path("no.png")) is None


class Reader(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("make", [classified, labelled])
def test_the_page_loads_nothing_and_escapes_names(make: type, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = make()
    picture = report.write_worst(tmp_path / "worst.png")
    rows = [["class", "accuracy"], ["<cone>", 0.5], ["box", None]]
    page = report.write_page(
        tmp_path / "r.html", "runs/<x>", "5 shapes", {"OA": "40%"}, rows, {"Worst": picture}
    )
    text = page.read_text(encoding="utf-8")
    read = Reader()
    read.feed(text)
    assert (
        "script" not in read.tags and "link" not in read.tags and "http" not in re.sub("http-equiv", "", text)
    )
    assert read.sources and all(source.startswith("data:image/png;base64,") for source in read.sources)
    assert "cone" not in read.tags and "x" not in read.tags
    for words in ("runs/<x>", "5 shapes", "Most confused", "calibration error", "<cone>50.0%"):
        assert words in read.text.replace("\n", ""), words
    assert ("3 wrong of 5" in read.text) == (make is classified)


def test_a_picture_is_a_png(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(image))
    read = pytest.importorskip("matplotlib.image").imread(tmp_path / "a.png")
    assert np.array_equal(np.rint(255 * read).astype(np.uint8), image)


def test_cells_of_tables() -> None:
    text = table([["a", "b"], ["<", 1234], ["x", 0.125], ["y", None]])
    assert "<td>&lt;</td><td class=number>1,234</td>" in text and ">12.5%<" in text and ">-<" in text
