"""Text as other programs and people write it: heads without names, remarks, code pages, decimal commas."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from bixt3d.datasets.readers import load_cloud, read_cloud
from bixt3d.datasets.readers.text import lines_of
from tests.datasets.readers.test_formats import refused, write

POINTS = [[1.5, 2.5, 3.5], [4, 5, 6], [7, 8, 9]]
WORDS = ["für", "fär", "Sitzfläche"]


def rows(separator: str = " ", beside: int = 0, index: bool = False) -> str:
    """Three points with more columns, of which the last is the largest; perhaps with an index."""
    lines = [[*map(float, point), *(10.0 * at + 1 for at in range(beside))] for point in POINTS]
    heads = [[at] if index else [] for at in (4, 0, 9)]
    return "".join(separator.join(map(str, [*a, *b])) + "\n" for a, b in zip(heads, lines, strict=True))


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
@pytest.mark.parametrize("separator", [",", ";", " ", "\t"])
@pytest.mark.parametrize("beside", [0, 3])
@pytest.mark.parametrize("head", ["", "{}", '""{}'])
def test_text_whose_head_numbers_the_columns(
    suffix: str, separator: str, beside: int, head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As pandas writes an array: of the index, if it writes it, the head is empty."""
    first = head.format(separator) + separator.join(map(str, range(3 + beside))) + "\n"
    path = write(tmp_path / f"a{suffix}", first + rows(separator, beside, bool(head)))
    cloud = load_cloud(path)
    np.testing.assert_array_equal(cloud.xyz, POINTS)
    assert cloud.named == {} and (cloud.columns is None) == (not beside)
    if cloud.columns is not None:
        np.testing.assert_array_equal(cloud.columns, [[1, 11, 21]] * 3)
    also = ", as is its first column, which has no number" if head else ""
    assert caplog.messages == [f"{path}: line 1 numbers the columns and is left out{also}"]


def test_text_whose_head_numbers_the_columns_before_gaps(tmp_path: Path) -> None:
    content = ",0,1,2,3\n0,1.5,2.5,3.5,7.0\n1,,,,\n2,4.0,5.0,6.0,8.0\nlast,7.0,8.0,9.0,9.0\n"
    cloud = load_cloud(write(tmp_path / "a.csv", content))
    np.testing.assert_array_equal(cloud.xyz, POINTS)
    np.testing.assert_array_equal(cloud.columns, [[7], [8], [9]])
    message = "line 3: expected finite numbers, got 'a'"
    assert message in refused(write(tmp_path / "b.csv", "0,1,2\n1.5,2,3\n1,2,a\n"))


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".csv", "0,1,2\n1,2,3\n4,5,6\n"),  # a grid of whole numbers
        (".txt", "0 1 2 3 4 5\n1 2 3 4 5 6\n"),
        (".csv", "0,1,2\n"),
        (".csv", "0.0,1.0,2.0\n1.5,2.5,3.5\n"),
        (".csv", "0,1,3\n1.5,2.5,3.5\n"),
        (".csv", "1,2,3\n1.5,2.5,3.5\n"),
        (".csv", "x,y,z\n0,1,2\n1.5,2.5,3.5\n"),
        (".txt", "2\n0 1 2\n1.5 2.5 3.5\n"),
        (".xyz", "0 1 2\n1.5 2.5 3.5\n"),
    ],
)
def test_text_whose_first_point_is_one(
    suffix: str, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = read_cloud(write(tmp_path / f"a{suffix}", content))
    lines = [line.replace(",", " ").split() for line in content.splitlines()]
    expected = [list(map(float, line[:3])) for line in lines if len(line) > 1 and line[0] != "x"]
    np.testing.assert_array_equal(points, expected)
    assert "numbers the columns" not in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_text_in_the_code_of_windows(encoding: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f"{x};{y};{z};{word}\n" for (x, y, z), word in zip(POINTS, WORDS, strict=True)]
    path = write(tmp_path / "a.csv", ("x;y;z;label\n" + "".join(lines)).encode(encoding))
    cloud = load_cloud(path)
    np.testing.assert_array_equal(cloud.xyz, POINTS)
    assert cloud.words is not None and cloud.words.tolist() == WORDS
    said = f"{path}: it is no UTF-8 and is read as Windows-1252; save it as UTF-8 if its words look wrong"
    assert caplog.messages == ([] if encoding.startswith("utf") else [said])


def test_text_of_any_bytes_keeps_them_apart() -> None:
    """UTF-8 stays as it is beside bytes that are none, and a number is not cut at a blank in it."""
    others = [bytes([byte]) for byte in range(0x80, 0x100)]
    assert len({lines_of(b"a%sb" % other)[0] for other in others}) == len(others)
    assert lines_of(b"\x80 \x81") == ["\u20ac \x81"]
    assert lines_of("für".encode() + b"\nf\xfcr\r\n# cut \xc3") == ["für", "für", "# cut Ã"]
    assert lines_of(b"1\xa0234 2 3") == ["1\ufffd234 2 3"]


@pytest.mark.parametrize(
    ("comment", "beside"),
    [
        ("# x y z of each point", 3),
        ("# X Y Z in metres", 2),
        ("# x y z as r g b", 4),
        ("# columns x y z", 1),
        ("# The columns are x, y, z, normal", 3),
        ("# note: x y z in m", 2),
        ("// x y z for each point", 3),
        ("# seen from: z y x", 2),
        ("# x y z label", 2),
    ],
)
def test_text_with_a_remark_on_xyz(
    comment: str, beside: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.txt", f"{comment}\n{rows(beside=beside)}")
    cloud = load_cloud(path)
    np.testing.assert_array_equal(cloud.xyz, POINTS)
    assert cloud.named == {} and cloud.columns is not None and cloud.columns.shape == (3, beside)
    said = f"{path}: line 1 is taken for a remark, not for the names of the {3 + beside} columns: {comment!r}"
    assert [message.partition(";")[0] for message in caplog.messages] == [said]


@pytest.mark.parametrize("comment", ["# x y z of each point", "# x y z in metres", "# made of z, y and x"])
def test_text_with_a_remark_above_or_below_its_names(
    comment: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = len(comment.split()) - 4
    names = " ".join(["x", "y", "z", *"abcdef"[:beside]])
    for mark in ("# ", "//", ""):
        for head in (f"{comment}\n{mark}{names}\n", f"{mark}{names}\n{comment}\n"):
            cloud = load_cloud(write(tmp_path / "a.txt", head + rows(beside=beside)))
            np.testing.assert_array_equal(cloud.xyz, POINTS)
            assert "".join(cloud.named) == "abcdef"[:beside] and cloud.columns is None
    write(tmp_path / "three.txt", f"{comment}\n{rows()}")
    np.testing.assert_array_equal(read_cloud(tmp_path / "three.txt"), POINTS)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "comment",
    [
        "# x y z my_feature label",
        "#x y z my_feature label",
        "% X Y Z my_feature Label",
        "//X Y Z my_feature label",
        "# x, y, z, my_feature, label",
        "#x\ty\tz\tmy_feature\tlabel",
        "# columns: x y z my_feature label",
        "# Columns: x, y, z, my_feature, label",
        "# fields: x y z my_feature label",
        "# fields = x y z my_feature label",
        "# Spalten: x y z my_feature label",
        "# written at 12:30, data: x y z my_feature label",
        "# order: label z y x my_feature",
        "# Points:0 Points:1 Points:2 my_feature label",
    ],
)
def test_text_with_names_in_a_comment(comment: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.c_[POINTS, [0.25, 0.5, 0.75], [1, 2, 3]]
    values = values[:, [4, 2, 1, 0, 3]] if "order" in comment else values
    lines = [" ".join(map(str, row)) for row in values.tolist()]
    cloud = load_cloud(write(tmp_path / "a.txt", "\n".join([comment, *lines])))
    np.testing.assert_array_equal(cloud.xyz, POINTS)
    np.testing.assert_array_equal(cloud.labels, [1, 2, 3])
    np.testing.assert_array_equal(cloud.named["my_feature"], [0.25, 0.5, 0.75])
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("comment", "turned"),
    [
        ("# z y x", True),
        ("# order: z y x", True),
        ("# Order of the columns: z, y, x", True),
        ("# rotation order: z y x", False),
        ("# Euler angles about: z, y, x", False),
    ],
)
def test_text_with_an_order_of_xyz_alone(comment: str, turned: bool, tmp_path: Path) -> None:
    points = read_cloud(write(tmp_path / "a.txt", f"{comment}\n{rows()}"))
    np.testing.assert_array_equal(points, np.array(POINTS)[:, ::-1] if turned else POINTS)


@pytest.mark.parametrize("between", [", ", " , ", " ,", ",  ", ",\t"])
@pytest.mark.parametrize("head", ["", "x, y, z\n", "# x, y, z\n", "2\n"])
def test_text_with_decimal_commas_between_commas(between: str, head: str, tmp_path: Path) -> None:
    lines = [between.join(row) for row in (["1,5", "-2,5", "3,25"], ["0,5", "1,5e-3", "2,0"])]
    at = 1 + head.count("\n")
    message = f"line {at}: expected numbers such as 1.5, got decimal commas: {lines[0]!r}"
    assert message in refused(write(tmp_path / "a.txt", head + "\n".join(lines)))
    wide = [f"{line}{between}7,5" for line in lines]
    assert "got decimal commas" in refused(write(tmp_path / "b.csv", "\n".join(wide)))


@pytest.mark.parametrize(
    "content",
    [
        "1,2,3,4,5,6\n7,8,9,1,2,3\n",
        "1, 2, 3, 4, 5, 6\n7, 8, 9, 1, 2, 3\n",
        "1,2, 3,4, 5,6\n7,8, 9,1, 2, 3\n",  # but for the last line
        "1.0,2, 3,4, 5,6\n7,8, 9,1, 2,3\n",
        "  1, 20,  3,400,  5,600\n  7,800,  9,100,  2,  3\n",
    ],
)
def test_text_with_blanks_after_some_commas(content: str, tmp_path: Path) -> None:
    cloud = load_cloud(write(tmp_path / "a.csv", content))
    assert cloud.xyz.shape == (2, 3) and cloud.columns is not None and cloud.columns.shape == (2, 3)


def test_text_that_is_refused_is_not_told_of_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refused(write(tmp_path / "a.csv", b"# f\xfcr x y z\n0,1,2,3\n1.5,2,3,4\n1,2,3\n"))
    assert caplog.messages == []
