from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bixt3d.datasets.files import (
    find_data,
    find_folder,
    megabytes,
    read_lines,
    require_files,
    size_of,
    stated_size,
)
from bixt3d.datasets.readers.text import read_rows


def test_find_folder(tmp_path: Path) -> None:
    own = tmp_path / "data" / "clouds"
    own.mkdir(parents=True)
    assert find_folder(tmp_path / "data", "clouds", "list.txt") == own
    assert find_folder(str(own), "clouds", "list.txt") == own
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    (renamed / "list.txt").touch()
    assert find_folder(renamed, "clouds", "list.txt") == renamed


def test_find_folder_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        find_folder(tmp_path, "clouds", "list.txt")
    message = str(error.value)
    assert str(tmp_path / "clouds") in message and "list.txt" in message and "data/README.md" in message
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_folder(tmp_path / "nowhere", "clouds", "list.txt")


def test_the_named_then_the_outermost_folder_is_the_data(tmp_path: Path) -> None:
    for name in ("z/deep", "b", "a/named"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "marker.txt").touch()
    assert find_data(tmp_path, "named", "marker.txt") == tmp_path / "a/named"
    assert find_data(tmp_path, "other", "marker.txt") == tmp_path / "b"
    with pytest.raises(
        ValueError, match=r"expected named, known by its gone\.txt, got a folder with a, b, z$"
    ):
        find_data(tmp_path, "named", "gone.txt")


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"four")
    assert size_of(tmp_path / "a") == 4 and size_of(tmp_path / "b") == size_of(tmp_path) == 0
    assert [megabytes(size) for size in (0, 1, 10**6, 10**9 + 1)] == ["0 MB", "1 MB", "1 MB", "1,001 MB"]
    (tmp_path / "large").write_bytes(bytes(1_000_001))
    assert [stated_size(tmp_path / name) for name in ("a", "large")] == ["under 1 MB", "2 MB"]


def test_read_lines(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"one\r\n  two\n\nthree")
    assert read_lines(path) == ["one", "two", "three"]
    path.write_text(
        "\ufeffone\ntwo\fthree\n", encoding="utf-8"
    )  # a mark of its encoding; a form feed ends no line
    assert read_lines(path) == ["one", "two\fthree"]
    path.write_text("one\ntwo\none\n")
    with pytest.raises(ValueError, match=r"names\.txt.*'one' 2 times"):
        read_lines(path)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"names\.txt.*empty"):
        read_lines(path)
    path.write_bytes(b"\x89HDF\r\n\xff")
    with pytest.raises(ValueError, match=r"names\.txt: expected a text file"):
        read_lines(path)
    with pytest.raises(FileNotFoundError, match=r"other\.txt is missing"):
        read_lines(tmp_path / "other.txt")


def test_require_files(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.touch()
    require_files([here], tmp_path / "list")
    with pytest.raises(FileNotFoundError, match="gone is missing, one of 2"):
        require_files([here, tmp_path / "gone", tmp_path / "lost"], tmp_path / "list")


def test_read_rows(tmp_path: Path) -> None:
    path = tmp_path / "cloud.txt"
    path.write_text("1,2,-3e-2\n4.5,5,6\n\n7,8,9\n")
    rows = read_rows(path, 3, separator=",")
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.array([[1, 2, -0.03], [4.5, 5, 6], [7, 8, 9]], dtype=np.float32))
    assert read_rows(path, 3, limit=2, separator=",").shape == (2, 3)
    path.write_text(" 1  2\t3 \n")
    assert read_rows(path, 3).tolist() == [[1, 2, 3]]
    path.write_text("\ufeff1 2 3\n4 5 6\n", encoding="utf-8")  # a mark of its encoding
    assert read_rows(path, 3).tolist() == [[1, 2, 3], [4, 5, 6]]
    path.write_text("\ufeff1 2 3\n4 x 6\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected finite numbers, got 'x'"):
        read_rows(path, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2,3\n4,5\n", r"cloud\.txt, line 2: expected 3 numbers with commas between, got 2: '4,5'"),
        ("1,2,3\n4,5,6,7\n", r"line 2: expected 3 numbers with commas between, got 4"),
        ("1,2\n4,5\n", r"line 1: expected 3 numbers with commas between, got 2"),
        ("1,2,3\n\n4,x,6\n", r"line 3: expected finite numbers, got 'x'"),
        ("1,2,3\n4,,6\n", r"line 2: expected a number, got an empty cell"),
        ("1,2,3\n4,nan,6\n", r"line 2: expected finite numbers, got 'nan'"),
        ('1,2,3\n4,5,6"\n', r"line 2: expected finite numbers, got '6\"'"),
        ('1,2,3\n4,"5",6\n', r"cloud\.txt"),
        ("1,2,3\n4,5,1e60\n", r"line 2: expected finite numbers, got '1e60'"),
        ("1 2 3\n", r"line 1: expected 3 numbers with commas between, got 1"),
        ("# x,y,z\n1,2,3\n", r"line 1: expected finite numbers, got '# x'"),
        ("1,2,1_0\n", r"cloud\.txt"),
        ("\n\n", r"cloud\.txt: expected lines of 3 numbers, got an empty file"),
        ("", r"cloud\.txt: expected lines of 3 numbers, got an empty file"),
        (b"1,2,\xff\n", r"cloud\.txt, line 1: expected finite numbers"),
    ],
)
def test_read_rows_names_file_and_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "cloud.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_rows(path, 3, separator=",")


def test_read_rows_ignores_what_is_past_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "cloud.txt"
    path.write_text("1,2,3\n4,5,6\nrubbish\n")
    assert read_rows(path, 3, limit=2, separator=",").shape == (2, 3)
    with pytest.raises(ValueError, match="line 3"):
        read_rows(path, 3, limit=3, separator=",")


def test_read_rows_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cloud\.txt is missing"):
        read_rows(tmp_path / "cloud.txt", 3)
