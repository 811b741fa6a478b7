"""The ShapeNetPart layout: contents, ragged shapes, part tables, cache, and every kind of broken file."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bixt3d import open_dataset
from bixt3d.datasets.part_table import OFFICIAL, read_categories, read_list
from bixt3d.datasets.shapenetpart import read_shapenetpart
from bixt3d.datasets.spheres import unit_sphere
from tests.datasets.parts import CATEGORIES, SPLITS, write_parts
from tests.markers import data_dir, needs_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "own")


def listing(folder: Path, split: str = "train") -> Path:
    return folder / "train_test_split" / f"shuffled_{split}_file_list.json"


def rows_of(folder: Path, name: str) -> np.ndarray:
    return np.loadtxt(folder / f"{name}.txt", dtype=np.float32)


@pytest.mark.parametrize("split", ["train", "val", "test", "trainval"])
def test_every_stored_point_with_its_normal_and_part(folder: Path, split: str) -> None:
    read = open_dataset("shapenetpart", folder, split)
    parts = ("train", "val") if split == "trainval" else (split,)
    names = [entry for part in parts for entry in json.loads(listing(folder, part).read_text())]
    assert [f"shape_data/{name}" for name in read.names] == names
    assert len(read) == 2 * sum(SPLITS[part] for part in parts)
    assert read.categories == read.classes == tuple(CATEGORIES)
    assert read.parts_of_category == ((0, 1), (2, 3, 4))
    assert read.part_names == ("body", "handle", "top", "leg", "shelf") and read.num_parts == 5
    assert read.parts is not None and read.count is not None and read.category is not None
    assert torch.equal(read.label, read.category)
    assert int(read.count.max()) == read.num_points and len(set(read.count.tolist())) > 1
    for shape, name in enumerate(read.names):
        rows, own = rows_of(folder, name), int(read.count[shape])
        assert len(rows) == own
        xyz = torch.from_numpy(rows[:, :3])
        wrapped = np.arange(read.num_points) % own
        torch.testing.assert_close(read.points[shape, :own, :3], unit_sphere(xyz), atol=1e-5, rtol=0)
        assert torch.equal(read.points[shape, :own, 3:], torch.from_numpy(rows[:, 3:6]))
        assert torch.equal(read.parts[shape], torch.from_numpy(rows[wrapped, 6]).long())
        assert torch.equal(read.points[shape], read.points[shape, wrapped])  # the rest repeats its own
        assert list(CATEGORIES.values())[int(read.category[shape])] == name.split("/")[0]


@pytest.mark.parametrize("num_points", [7, 25, 64])
def test_first_points_or_repeats(folder: Path, num_points: int) -> None:
    whole, read = (read_shapenetpart(folder, "test", n) for n in (None, num_points))
    assert read.points.shape == (6, num_points, 6)
    assert whole.count is not None and read.count is not None and read.parts is not None
    assert torch.equal(read.count, whole.count.clamp_max(num_points))
    for shape, own in enumerate(read.count.tolist()):
        assert torch.equal(read.points[shape, :own, 3:], whole.points[shape, :own, 3:])


def with_columns(folder: Path, make: Callable[[np.ndarray, int], np.ndarray]) -> dict[str, np.ndarray]:
    """Write every shape again with other columns between xyz and part, and return them by shape."""
    written = {}
    for number, path in enumerate(sorted(folder.glob("0*/*.txt"))):
        rows = np.loadtxt(path)
        beside = make(rows, number).round(6)
        np.savetxt(path, np.concatenate([rows[:, :3], beside, rows[:, -1:]], axis=1), fmt="%.6f")
        written[f"{path.parent.name}/{path.stem}"] = beside
    return written


def color_and_intensity(rows: np.ndarray, number: int) -> np.ndarray:
    draw = np.random.default_rng(number)
    return np.concatenate([draw.random((len(rows), 3)), draw.normal(size=(len(rows), 1)) * 50], axis=1)


def test_features_by_name(folder: Path) -> None:
    normals = read_shapenetpart(folder, "test")
    assert normals.features == ("normal",)
    bare = open_dataset("shapenetpart", folder, "test", features=[])
    assert bare.features == () and torch.equal(bare.points, normals.points[..., :3])
    assert bare.parts is not None and torch.equal(bare.parts, normals.parts)
    written = with_columns(folder, color_and_intensity)
    names = ["color", "intensity"]
    read = open_dataset("shapenetpart", folder, "test", features=names)
    assert read.features == ("color", "intensity") and read.points.shape[2] == 7
    assert torch.equal(read.points[..., :3], bare.points) and torch.equal(read.parts, bare.parts)
    for shape, name in enumerate(read.names):
        own = int(read.count[shape])
        np.testing.assert_allclose(read.points[shape, :own, 3:].numpy(), written[name], atol=1e-5)
    one = open_dataset("shapenetpart", folder, "test", features=["own:4"])
    assert torch.equal(one.points, read.points) and one.features == ("own:4",)
    few = open_dataset("shapenetpart", folder, "test", 8, names)
    assert few.points.shape == (6, 8, 7) and few.features == ("color", "intensity")


def test_files_without_normals(folder: Path) -> None:
    """Lines of x y z part."""
    expected = read_shapenetpart(folder, "trainval", None, [])
    with_columns(folder, lambda rows, number: rows[:, :0])
    for features in (None, []):
        read = open_dataset("shapenetpart", folder, "trainval", features=features)
        assert read.features == () and torch.equal(read.points, expected.points)
        assert (
            torch.equal(read.parts, expected.parts) and read.parts_of_category == expected.parts_of_category
        )
    assert (folder / ".bixt3d_cache" / "shapenetpart-train-xyz.npz").is_file()
    with pytest.raises(ValueError, match=r"\.txt: expected normal \(3\) between xyz and the part, got 0"):
        read_shapenetpart(folder, "train", None, ["normal"])


def test_features_in_the_range_of_other_programs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Colours up to 255 and long normals are mended, shape by shape, with one note of each."""
    normals = {
        f"{path.parent.name}/{path.stem}": np.loadtxt(path)[:, 3:6] for path in folder.glob("0*/*.txt")
    }

    def make(rows: np.ndarray, number: int) -> np.ndarray:
        colors = np.random.default_rng(number).integers(0, 256, (len(rows), 3))
        return np.concatenate([rows[:, 3:6] * 2, colors], axis=1)

    written = with_columns(folder, make)
    read = read_shapenetpart(folder, "test", None, ["normal", "color"])
    for shape, name in enumerate(read.names):
        own = int(read.count[shape])
        expected = np.concatenate([normals[name], written[name][:, 3:] / 255], axis=1)
        np.testing.assert_allclose(read.points[shape, :own, 3:].numpy(), expected, atol=1e-5)
    assert caplog.text.count("are scaled to length 1") == caplog.text.count("are divided by 255") == 1
    assert "more files)" in caplog.text


def test_features_that_files_do_not_have(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"test\d\.txt, columns 4 to 6: feature color: expected red, green and blue from 0 to 1",
    ):
        read_shapenetpart(folder, "test", None, ["color"])  # they are normals
    with pytest.raises(ValueError, match=r"expected normal, intensity \(4\) between xyz and the part, got 3"):
        read_shapenetpart(folder, "test", None, ["normal", "intensity"])
    with_columns(folder, color_and_intensity)
    with pytest.raises(
        ValueError,
        match=r"test\d\.txt, columns 4 to 6: feature normal: .*as colours have.*name what they are",
    ):
        read_shapenetpart(folder, "test", None, ["normal", "own"])
    with pytest.raises(
        ValueError, match=r"expected normal \(3\) or nothing between xyz and the part, got 4 columns"
    ):
        read_shapenetpart(folder, "test")


def test_each_choice_of_features_has_its_own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_columns(folder, color_and_intensity)
    choices = [["color", "intensity"], ["own:4"], ["own:2", "other:2"]]
    first = [read_shapenetpart(folder, "train", None, features) for features in choices]
    assert sorted(path.name for path in (folder / ".bixt3d_cache").iterdir()) == [
        "shapenetpart-train-color-intensity.npz",
        "shapenetpart-train-own.2-other.2.npz",
        "shapenetpart-train-own.4.npz",
    ]
    monkeypatch.setattr("bixt3d.datasets.shapenetpart.read_rows", None)  # nothing is parsed again
    for features, split in zip(choices, first, strict=True):
        again = read_shapenetpart(folder, "train", None, features)
        assert torch.equal(again.points, split.points) and again.features == split.features


def test_same_token_in_two_categories(tmp_path: Path) -> None:
    """Every category here has shapes of the same ids; they are told apart by folder and id."""
    read = read_shapenetpart(write_parts(tmp_path / "own"), "test")
    assert len(set(read.names)) == len(read) > len({name.split("/")[1] for name in read.names})


def test_cache_gives_the_same_and_notices_a_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_shapenetpart(folder, "train")
    assert (folder / ".bixt3d_cache" / "shapenetpart-train.npz").is_file()
    with monkeypatch.context() as patch:
        patch.setattr("bixt3d.datasets.shapenetpart.read_rows", None)  # nothing is parsed again
        assert torch.equal(first.points, read_shapenetpart(folder, "train").points)
    path = folder / f"{first.names[0]}.txt"
    rows = rows_of(folder, first.names[0])[:-2]
    time.sleep(0.01)
    np.savetxt(path, rows, fmt="%.6f")
    changed = read_shapenetpart(folder, "train")
    assert changed.count is not None and int(changed.count[0]) == len(rows)


def test_data_folder_or_own_folder(tmp_path: Path) -> None:
    name = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    write_parts(tmp_path / name)
    for root in (tmp_path, tmp_path / name):
        assert len(open_dataset("shapenetpart", root, "val")) == 4
    with pytest.raises(FileNotFoundError, match=f"no data set {name}: expected the folder"):
        open_dataset("shapenetpart", tmp_path / "nowhere", "val")


class TestPartTables:
    def test_the_official_categories_are_known(self, tmp_path: Path) -> None:
        parts = {"Mug": {"a": 36, "b": 37}, "Airplane": {"a": 0, "b": 1, "c": 2, "d": 3}}
        folder = write_parts(
            tmp_path / "own", categories={"Mug": "1", "Airplane": "2"}, parts=parts, parts_json=False
        )
        read = read_shapenetpart(folder, "test")
        assert read.parts_of_category == ((36, 37), (0, 1, 2, 3)) and read.num_parts == 38
        assert read.part_names[37] == "Mug 1" and read.part_names[20] == "part 20"

    def test_the_official_table_has_fifty_parts(self) -> None:
        starts = np.cumsum([0, *OFFICIAL.values()])
        assert len(OFFICIAL) == 16 and starts[-1] == 50
        published = {"Car": 8, "Motorbike": 30, "Mug": 36, "Pistol": 38, "Rocket": 41, "Table": 47}
        found = dict(zip(OFFICIAL, starts.tolist(), strict=False))
        assert {name: found[name] for name in published} == published

    def test_other_categories_take_the_labels_of_the_training_shapes(self, tmp_path: Path) -> None:
        folder = write_parts(
            tmp_path / "own",
            parts_json=False,
            categories={"Mug": "1", "Sofa": "2"},
            parts={"Mug": {"a": 0, "b": 1}, "Sofa": {"a": 5, "b": 9}},
        )
        for split in ("test", "trainval", "train"):
            assert read_shapenetpart(folder, split).parts_of_category == ((0, 1), (5, 9))

    def test_bad_label_without_a_table(self, tmp_path: Path) -> None:
        parts = {"Cup": {"a": 0, "b": 1}}
        folder = write_parts(tmp_path / "own", categories={"Cup": "1"}, parts=parts, parts_json=False)
        path = folder / "1" / "val1.txt"
        path.write_text(path.read_text() + "0 0 0 0 0 1 0.5\n")
        last = len(path.read_text().splitlines())
        with pytest.raises(ValueError, match=rf"val1.txt, line {last}: expected a part, .*, got 0.5"):
            read_shapenetpart(folder, "test")

    def test_shared_ids_have_the_names_of_all(self, tmp_path: Path) -> None:
        parts = {"Chair": {"leg": 0, "seat": 1}, "Table": {"leg": 0, "top": 1}}
        folder = write_parts(tmp_path / "own", categories={"Chair": "1", "Table": "2"}, parts=parts)
        read = read_shapenetpart(folder, "test")
        assert read.part_names == ("leg", "seat / top") and read.parts_of_category == ((0, 1), (0, 1))

    def test_names_of_two_words(self, tmp_path: Path) -> None:
        parts = {"Coffee Mug": {"body": 0, "handle": 1}}
        folder = write_parts(tmp_path / "own", categories={"Coffee Mug": "1"}, parts=parts)
        assert read_shapenetpart(folder, "test").categories == ("Coffee Mug",)

    @pytest.mark.parametrize(
        ("stated", "message"),
        [
            ("{", "not whole JSON"),
            ('{"Mug": {"a": 99999999999}, "Table": {"b": 0}}', "Mug: .* from 0 to 9999"),
            ("[1]", "expected the categories of .* got list"),
            ('{"Mug": {"a": 0}}', "expected the categories of .*Mug, Table.*, got Mug"),
            ('{"Mug": {"a": 0}, "Table": {}}', "Table: expected {part name: part id}"),
            ('{"Mug": {"a": 0}, "Table": {"b": -1}}', "Table: expected {part name: part id}"),
            ('{"Mug": {"a": true}, "Table": {"b": 1}}', "Mug: expected {part name: part id}"),
            ('{"Mug": {"a": 0, "b": 0}, "Table": {"b": 1}}', "Mug: .* each once"),
        ],
    )
    def test_broken_table(self, folder: Path, stated: str, message: str) -> None:
        (folder / "parts.json").write_text(stated)
        with pytest.raises(ValueError, match=message) as error:
            read_shapenetpart(folder, "test")
        assert str(folder / "parts.json") in str(error.value)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("1 2 3 0 0 1", "line 3: expected 7 numbers.*, got 6"),
            ("1 2 3 0 0 1 0 9", "line 3: expected 7 numbers.*, got 8"),
            ("1 2 three 0 0 1 0", "line 3: expected finite numbers, got 'three'"),
            ("1 2 nan 0 0 1 0", "line 3: expected finite numbers, got 'nan'"),
            ("1 2 3 0 0 1 4", r"line 3: expected a part of Mug \(0, 1\), got 4"),
            ("1 2 3 0 0 1 77", r"line 3: expected a part of Mug \(0, 1\), got 77"),
            ("1 2 3 0 0 1 -1", r"line 3: expected a part of Mug \(0, 1\), got -1"),
            ("1 2 3 0 0 1 0.5", r"line 3: expected a part of Mug \(0, 1\), got 0.5"),
        ],
    )
    def test_bad_line_is_named(self, folder: Path, line: str, message: str) -> None:
        path = folder / "001" / "test1.txt"
        lines = path.read_text().splitlines()
        lines[1:2] = ["", line]  # an empty line does not count, and is counted
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=message) as error:
            read_shapenetpart(folder, "test")
        assert str(path) in str(error.value)

    def test_bad_label_in_the_last_shape(self, folder: Path) -> None:
        path = folder / "002" / "test2.txt"
        lines = path.read_text().splitlines()
        lines[-1] = "1 2 3 0 0 1 0"
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=f"{path}, line {len(lines)}: expected a part of Table"):
            read_shapenetpart(folder, "test")

    def test_empty_file(self, folder: Path) -> None:
        (folder / "002" / "val0.txt").write_text("\n")
        with pytest.raises(ValueError, match="val0.txt: expected lines of 7 numbers, got an empty file"):
            read_shapenetpart(folder, "val")

    def test_missing_files_are_an_error(self, folder: Path) -> None:
        (folder / "002" / "val0.txt").unlink()
        with pytest.raises(FileNotFoundError, match="val0.txt is missing, one of 1 of 4 that"):
            read_shapenetpart(folder, "val")

    def test_one_in_a_hundred_may_be_missing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = write_parts(tmp_path / "own", splits={"train": 60, "val": 1, "test": 1}, points=(3, 5))
        (folder / "001" / "train7.txt").unlink()
        with caplog.at_level(logging.INFO, "bixt3d"):
            read = read_shapenetpart(folder, "train")
        assert len(read) == 119 and "001/train7" not in read.names
        assert "names 1 files that are not there" in caplog.text and "001/train7" in caplog.text
        assert "read 119 train shapes of 3 to 5 points, 2 categories" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.INFO, "bixt3d"):
            read_shapenetpart(write_parts(tmp_path / "even", points=(4, 4)), "test")
        assert " test shapes of 4 points, " in caplog.text

    @pytest.mark.parametrize(
        ("stated", "message"),
        [
            ("[", "not whole JSON"),
            ("{}", "expected a list of strings"),
            ("[]", "expected a list of strings"),
            ("[3]", "expected a list of strings"),
            ('["shape_data/009/test0"]', "entry 1: expected shape_data/<folder>/<id> with a folder"),
            ('["shape_data/001/test0", "test1"]', "entry 2: expected shape_data/<folder>/<id>"),
            ('["a/001/test0", "b/001/test0"]', "entry 2: expected each shape once"),
            ('["shape_data/001/.."]', "entry 1: expected shape_data/<folder>/<id>"),
        ],
    )
    def test_broken_list(self, folder: Path, stated: str, message: str) -> None:
        listing(folder, "test").write_text(stated)
        with pytest.raises(ValueError, match=message) as error:
            read_shapenetpart(folder, "test")
        assert str(listing(folder, "test")) in str(error.value)

    def test_missing_list(self, folder: Path) -> None:
        listing(folder, "test").unlink()
        with pytest.raises(FileNotFoundError, match="shuffled_test_file_list.json is missing"):
            read_shapenetpart(folder, "test")

    @pytest.mark.parametrize("line", ["Mug", "Mug ../1", "Mug\t005\n\nMug\t006", "Cup\t001\nMug\t001"])
    def test_broken_table_of_categories(self, folder: Path, line: str) -> None:
        (folder / "synsetoffset2category.txt").write_text(line + "\n")
        with pytest.raises(ValueError, match=r"synsetoffset2category.txt, line \d: expected"):
            read_shapenetpart(folder, "test")


def test_made_shapes_have_this_layout(tmp_path: Path) -> None:
    from bixt3d.datasets.synthetic.shapes import CATEGORIES as MADE
    from bixt3d.datasets.synthetic.shapes import PARTS as MADE_PARTS
    from bixt3d.datasets.synthetic.shapes import write_shapes

    write_shapes(tmp_path, per_class=5, num_points=64, progress=False)
    read = open_dataset("shapenetpart", tmp_path / "shapes", "test")
    assert read.categories == MADE and len(read) == 10 and read.num_points == 64
    assert read.num_parts == sum(map(len, MADE_PARTS.values()))
    assert read.part_names[: len(MADE_PARTS[MADE[0]])] == MADE_PARTS[MADE[0]]


def relist(folder: Path, change: Callable[[str], str]) -> None:
    """Write every entry of all lists in another way."""
    for split in SPLITS:
        entries = json.loads(listing(folder, split).read_text())
        listing(folder, split).write_text(json.dumps([change(entry) for entry in entries]))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.replace("/", "\\"),
        lambda entry: f"{entry}.txt",
        lambda entry: entry.removeprefix("shape_data/"),
        lambda entry: f"./data\\{entry}.txt",
        lambda entry: f"/some/where/{entry}",
    ],
)
def test_lists_as_other_programs_write_them(folder: Path, change: Callable[[str], str]) -> None:
    expected = read_shapenetpart(folder, "trainval")
    relist(folder, change)
    found = read_shapenetpart(folder, "trainval")
    assert found.names == expected.names and torch.equal(found.points, expected.points)
    assert not any("\\" in name or name.endswith(".txt") for name in found.names)


def take_labels_apart(folder: Path) -> None:
    """Write every shape as the release without normals has them: points/<id>.pts, points_label/<id>.seg."""
    for path in list(folder.glob("0*/*.txt")):
        rows = np.loadtxt(path)
        for name in ("points", "points_label"):
            (path.parent / name).mkdir(exist_ok=True)
        np.savetxt(path.parent / "points" / f"{path.stem}.pts", rows[:, :3], fmt="%.6f")
        np.savetxt(path.parent / "points_label" / f"{path.stem}.seg", rows[:, -1:], fmt="%d")
        path.unlink()


def test_labels_in_files_of_their_own(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = read_shapenetpart(folder, "test", None, [])
    take_labels_apart(folder)
    for features in (None, []):
        found = read_shapenetpart(folder, "test", None, features)
        assert found.features == () and torch.equal(found.points, expected.points)
        assert torch.equal(found.parts, expected.parts) and found.part_names == expected.part_names
    seg = folder / "001" / "points_label" / "test1.seg"
    lines = seg.read_text().splitlines()
    seg.write_text("\n".join([*lines[:3], "7", *lines[4:]]))
    with pytest.raises(ValueError, match=rf"{seg}, line 4: expected a part of Mug \(0, 1\), got 7"):
        read_shapenetpart(folder, "test")
    seg.write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=rf"test1\.seg: expected {len(lines)} labels, .* test1\.pts, got"):
        read_shapenetpart(folder, "test")
    seg.unlink()
    left = read_shapenetpart(folder, "test")
    assert len(left) == len(expected) - 1 and "001/test1" not in left.names
    assert "names 1 shapes without labels; they are left out: 001/test1" in caplog.text
    for path in folder.glob("*/points_label/test*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"seg is missing: no shape of .* has labels"):
        read_shapenetpart(folder, "test")


def test_labels_of_official_categories_count_from_one(tmp_path: Path) -> None:
    parts = {"Mug": {"a": 36, "b": 37}, "Airplane": {"a": 0, "b": 1, "c": 2, "d": 3}}
    categories = {"Mug": "01", "Airplane": "02"}
    folder = write_parts(tmp_path / "own", categories=categories, parts=parts, parts_json=False)
    expected = read_shapenetpart(folder, "test", None, [])
    take_labels_apart(folder)
    for path in folder.glob("*/points_label/*.seg"):
        first = 36 if path.parts[-3] == "01" else 0
        np.savetxt(path, np.loadtxt(path) - first + 1, fmt="%d")
    found = read_shapenetpart(folder, "test")
    assert torch.equal(found.parts, expected.parts) and torch.equal(found.points, expected.points)
    path = folder / "01" / "points_label" / "test0.seg"
    path.write_text(path.read_text().replace("2", "3"))
    with pytest.raises(ValueError, match=r"test0\.seg, line \d+: expected a part of Mug \(1, 2\), got 3"):
        read_shapenetpart(folder, "test")


@pytest.mark.parametrize("most", [255, 1])
def test_colors_are_not_taken_for_normals(folder: Path, most: int, caplog: pytest.LogCaptureFixture) -> None:
    """Lines of x y z r g b part are refused by file and column, and read where they are named."""

    def make(rows: np.ndarray, number: int) -> np.ndarray:
        colors = np.random.default_rng(number).integers(0, 256, (len(rows), 3))
        return colors if most == 255 else colors / 255

    written = with_columns(folder, make)
    with pytest.raises(ValueError, match=r"test\d\.txt, columns 4 to 6: feature normal: .* as colours have"):
        read_shapenetpart(folder, "test")
    found = read_shapenetpart(folder, "test", None, ["color"])
    assert found.features == ("color",)
    for shape, name in enumerate(found.names):
        own = int(found.count[shape])
        colors = written[name] / most
        np.testing.assert_allclose(found.points[shape, :own, 3:].numpy(), colors, atol=1e-6)
    assert ("txt, columns 4 to 6: colours up to 25" in caplog.text) == (most == 255)


def test_height_is_computed_where_there_is_none(folder: Path) -> None:
    normals = read_shapenetpart(folder, "test")
    above = normals.points[..., 1] - normals.points[..., 1].amin(1, keepdim=True)
    both = open_dataset("shapenetpart", folder, "test", features=["height", "normal"])
    assert both.features == ("height", "normal") and torch.equal(
        both.points[..., 4:], normals.points[..., 3:]
    )
    torch.testing.assert_close(both.points[..., 3], above, atol=1e-5, rtol=0)
    alone = open_dataset("shapenetpart", folder, "test", features=["height"])
    assert torch.equal(alone.points, both.points[..., :4])
    with_columns(folder, lambda rows, number: rows[:, :0])
    bare = open_dataset("shapenetpart", folder, "test", features=["height"])
    assert torch.equal(bare.points, alone.points)
    stored = with_columns(folder, lambda rows, number: np.full((len(rows), 1), 3.0))
    own = open_dataset("shapenetpart", folder, "test", features=["height"])
    assert own.features == ("height",) and (own.points[..., 3] == 3).all() and stored


def test_a_shape_at_one_place_is_named(folder: Path) -> None:
    path = folder / "002" / "test1.txt"
    lines = path.read_text().splitlines()
    for kept in (lines[:1], lines[:1] * 30):
        path.write_text("\n".join(kept))
        message = rf"{path}: expected points at two places at least, got {len(kept)} at one"
        with pytest.raises(ValueError, match=message):
            read_shapenetpart(folder, "test")


SAMPLES = "shapenetpart_samples"


def official(folder: Path, split: str, keep: Callable[[str], bool]) -> list[str]:
    """Write a split's list with the entries of the official one that are to be kept, and return those."""
    whole = json.loads(listing_of_samples(split).read_text())
    entries = [entry for entry in whole if keep(entry)]
    listing(folder, split).parent.mkdir(parents=True, exist_ok=True)
    listing(folder, split).write_text(json.dumps(entries))
    return entries


def listing_of_samples(split: str) -> Path:
    return data_dir() / SAMPLES / "official_split_lists" / f"shuffled_{split}_file_list.json"


@needs_data
def test_official_shapes_with_normals(tmp_path: Path) -> None:
    """The whole of Cap's val and test splits, under the names of the official lists."""
    folder = tmp_path / "cap"
    (folder / "02954340").mkdir(parents=True)
    (folder / "synsetoffset2category.txt").write_text("Cap\t02954340\n")
    texts = {
        split: sorted((data_dir() / SAMPLES / "cap_v0_normal" / split).glob("*.txt"))
        for split in ("val", "test")
    }
    for split, paths in texts.items():
        entries = official(folder, split, lambda entry: "/02954340/" in entry)
        assert len(entries) == len(paths) == {"val": 5, "test": 11}[split]
        for entry, path in zip(entries, paths, strict=True):
            shutil.copy(path, folder / "02954340" / f"{entry.rpartition('/')[2]}.txt")
    scaled = 0
    for split, paths in texts.items():
        read = open_dataset("shapenetpart", folder, split)
        assert read.features == ("normal",) and read.categories == ("Cap",) and read.num_parts == 8
        assert read.parts_of_category == ((6, 7),) and len(read) == len(paths)
        for points, parts, own, path in zip(read.points, read.parts, read.count, paths, strict=True):
            rows = np.loadtxt(path)
            assert int(own) == len(rows)
            np.testing.assert_array_equal(parts[:own].numpy(), rows[:, 6])
            length = np.linalg.norm(rows[:, 3:6], axis=1, keepdims=True)
            if np.abs(length - 1).max() > 0.05:  # of most shapes some are not of length 1
                rows[:, 3:6] /= np.where(length == 0, 1, length)
                scaled += 1
            np.testing.assert_allclose(points[:own, 3:].numpy(), rows[:, 3:6], atol=1e-6)
            centred = rows[:, :3] - rows[:, :3].mean(axis=0)
            centred /= np.linalg.norm(centred, axis=1).max()
            np.testing.assert_allclose(points[:own, :3].numpy(), centred, atol=1e-6)
    assert scaled == 15


@needs_data
def test_official_shapes_without_normals(tmp_path: Path) -> None:
    """One shape of each category, in the official lists: 13 of train and 3 of test."""
    folder = Path(shutil.copytree(data_dir() / SAMPLES / "v0_one_per_category", tmp_path / "v0"))
    held = {f"{path.parts[-3]}/{path.stem}" for path in folder.glob("*/points/*.pts")}
    sizes = {split: len(official(folder, split, lambda entry: entry[11:] in held)) for split in SPLITS}
    assert sizes == {"train": 13, "val": 0, "test": 3} and len(held) == 16
    found = [open_dataset("shapenetpart", folder, split) for split in ("train", "test")]
    for read in found:
        assert read.features == () and read.categories == tuple(OFFICIAL) and read.num_parts == 50
        for shape, name in enumerate(read.names):
            synset, token = name.split("/")
            xyz = np.loadtxt(folder / synset / "points" / f"{token}.pts")
            labels = np.loadtxt(folder / synset / "points_label" / f"{token}.seg")
            own, category = int(read.count[shape]), int(read.category[shape])
            assert own == len(xyz) and 2000 < own < 3000
            first = read.parts_of_category[category][0]
            np.testing.assert_array_equal(read.parts[shape, :own].numpy(), labels - 1 + first)
            centred = xyz - xyz.mean(axis=0)
            centred /= np.linalg.norm(centred, axis=1).max()
            np.testing.assert_allclose(read.points[shape, :own].numpy(), centred, atol=1e-6)
    assert sorted(name for read in found for name in read.names) == sorted(held)
    with pytest.raises(ValueError, match="expected normal .* between xyz and the part"):
        open_dataset("shapenetpart", folder, "test", features=["normal"])


@needs_data
def test_all_entries_of_the_official_lists(tmp_path: Path) -> None:
    table = read_categories(data_dir() / SAMPLES / "v0_one_per_category" / "synsetoffset2category.txt")
    assert tuple(table) == tuple(OFFICIAL)
    for split, count in {"train": 12_137, "val": 1870, "test": 2874}.items():
        entries = official(tmp_path, split, lambda entry: True)
        for entry in entries:
            path = tmp_path / f"{entry[11:]}.txt"
            path.parent.mkdir(exist_ok=True)
            path.touch()
        shapes = read_list(tmp_path, split, table)
        assert len(shapes) == count and [f"shape_data/{shape.name}" for shape in shapes] == entries


@needs_data
def test_real_part_data(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(data_dir() / "psb_benchmark_v0_normal.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "psb_benchmark_v0_normal"
    splits = {name: open_dataset("shapenetpart", root, name) for name in SPLITS}
    assert [len(split) for split in splits.values()] == [266, 38, 76]
    test = splits["test"]
    assert len(test.categories) == 19 and sum(map(len, test.parts_of_category)) == 94
    assert test.points.shape[1:] == (2500, 6)
    torch.testing.assert_close(test.points[..., :3].norm(dim=-1).amax(1), torch.ones(76))
    torch.testing.assert_close(test.points[..., 3:].norm(dim=-1), torch.ones(76, 2500), atol=1e-2, rtol=0)
    assert not {name for s in ("train", "val") for name in splits[s].names} & set(test.names)


def test_shapes_on_a_map_keep_their_shape(folder: Path) -> None:
    """They are read in double precision, and centred before they are rounded."""
    expected = {}
    for number, path in enumerate(folder.glob("0*/*.txt")):
        rows = np.loadtxt(path)
        ball = np.random.default_rng(number).normal(size=(len(rows), 3))
        ball /= np.linalg.norm(ball, axis=1, keepdims=True)
        rows[:, :3] = ball + [500_000.0, 5_400_000.0, 300.0]
        np.savetxt(path, rows, fmt="%.9f")
        centred = ball - ball.mean(axis=0)
        expected[f"{path.parent.name}/{path.stem}"] = centred / np.linalg.norm(centred, axis=1).max()
    for features in (None, []):
        found = read_shapenetpart(folder, "test", None, features)
        for shape, name in enumerate(found.names):
            own = int(found.count[shape])
            np.testing.assert_allclose(found.points[shape, :own, :3].numpy(), expected[name], atol=1e-6)


def test_xyz_alone_of_files_with_other_columns(folder: Path) -> None:
    expected = read_shapenetpart(folder, "test", None, [])
    with_columns(folder, color_and_intensity)
    found = read_shapenetpart(folder, "test", None, [])
    assert found.features == () and torch.equal(found.points, expected.points)
