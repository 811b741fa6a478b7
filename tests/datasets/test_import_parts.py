"""Labelled clouds of a user become part data: formats, names, splits, and a training on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

import bixt3d
from bixt3d.config import load_config
from bixt3d.datasets import open_dataset
from bixt3d.datasets.import_parts import import_parts, names_from
from bixt3d.datasets.readers import hold_labels, load_cloud
from bixt3d.tasks import Segmentation, make_task
from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.labels import write_labels

SPLITS = ("train", "val", "test")


def lamp(seed: int, count: int = 120) -> tuple[Any, Any]:
    """xyz (N, 3) and labels (N,): 3 is the foot, 7 the shade."""
    random = np.random.default_rng(seed)
    label = np.where(np.arange(count) % 3 == 0, 7, 3)
    xyz = random.uniform(-1, 1, (count, 3)) * (1, 0.1, 1) + (label == 7)[:, None] * (0.0, 2.0, 0.0)
    return xyz.round(4), label


def write_ply(path: Path, xyz: Any, label: Any) -> None:
    """As CloudCompare saves a scalar field."""
    head = ["ply", "format ascii 1.0", "comment made by hand", f"element vertex {len(xyz)}"]
    head += [f"property float {name}" for name in ("x", "y", "z", "scalar_Label")] + ["end_header"]
    rows = [
        " ".join(f"{value:.4f}" for value in (*point, one)) for point, one in zip(xyz, label, strict=True)
    ]
    path.write_text("\n".join([*head, *rows]) + "\n")


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    xyz, label = lamp(seed)
    if path.suffix == ".ply":
        write_ply(path, xyz, label)
    elif path.suffix == ".npz":
        np.savez(path, xyz=xyz, label=label)
    elif path.suffix == ".csv":
        np.savetxt(path, np.c_[xyz, label], "%.4f", delimiter=",", header="x,y,z,label", comments="")
    else:
        np.savetxt(path, np.c_[xyz, label], "%.4f")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number, suffix in enumerate([".ply", ".txt", ".npz", ".csv", ".txt", ".ply", ".txt", ".txt"]):
        write(tmp_path / "in/desk lamp" / f"{number}{suffix}", number)
    for number in range(4):
        write(tmp_path / "in/tree" / f"{number}.txt", 50 + number)
    return tmp_path / "in"


def test_every_format_keeps_points_and_labels(source: Path, tmp_path: Path) -> None:
    done = import_parts(source, tmp_path / "out")
    assert done.parts == {"desk lamp": {"part 3": 0, "part 7": 1}, "tree": {"part 3": 2, "part 7": 3}}
    assert json.loads((tmp_path / "out/parts.json").read_text()) == done.parts
    assert done.features == () and done.left_out == () and sum(done.counts.values()) == 12
    found = {}
    for split in SPLITS:
        read = open_dataset("shapenetpart", tmp_path / "out", split)
        assert read.categories == ("desk lamp", "tree") and read.parts is not None
        assert read.part_names == ("part 3", "part 7", "part 3", "part 7")
        found.update({name: (read, at) for at, name in enumerate(read.names)})
    assert len(found) == 12  # every shape once
    for number in range(8):
        read, at = found[f"desk_lamp/{number}"]
        xyz, label = lamp(number)
        centred = xyz - xyz.mean(0)
        expected = centred / np.linalg.norm(centred, axis=1).max()
        np.testing.assert_allclose(read.points[at, :120], expected, atol=1e-5)
        np.testing.assert_array_equal(read.parts[at, :120], (label == 7).astype(int))
    read, at = found["tree/0"]
    assert set(read.parts[at].tolist()) == {2, 3}  # parts of its own


def test_split_is_drawn_by_the_seed(source: Path, tmp_path: Path) -> None:
    def lists(out: str, seed: int) -> list[str]:
        done = import_parts(source, tmp_path / out, seed=seed)
        assert done.counts == {"train": 7, "val": 2, "test": 3}
        files = [tmp_path / out / f"train_test_split/shuffled_{name}_file_list.json" for name in SPLITS]
        return [file.read_text() for file in files]

    first = lists("a", 0)
    assert lists("b", 0) == first and lists("c", 1) != first


@pytest.mark.parametrize("layout", ["one category", "a category each"])
def test_three_shapes_give_three_splits(layout: str, tmp_path: Path) -> None:
    for number in range(3):
        inside = "" if layout == "one category" else f"kind {number}/"
        write(tmp_path / f"in/{inside}{number}.txt", number)
    done = import_parts(tmp_path / "in", tmp_path / "out")
    assert done.counts == {"train": 1, "val": 1, "test": 1}
    assert len(done.parts) == (1 if layout == "one category" else 3)
    for split in SPLITS:
        assert len(open_dataset("shapenetpart", tmp_path / "out", split)) == 1


def test_folders_of_splits_are_kept(tmp_path: Path) -> None:
    for number, split in enumerate(("Train", "Train", "validation", "test")):
        write(tmp_path / f"in/{split}/lamp/{number}.txt", number)
    done = import_parts(tmp_path / "in", tmp_path / "out")
    assert done.counts == {"train": 2, "val": 1, "test": 1} and list(done.parts) == ["lamp"]
    assert open_dataset("shapenetpart", tmp_path / "out", "val").names == ("lamp/2",)


def test_val_is_drawn_where_folders_have_none(tmp_path: Path) -> None:
    for number, split in enumerate(["train"] * 8 + ["test"] * 2):
        write(tmp_path / f"in/{split}/lamp/{number}.txt", number)
    (tmp_path / "in/.cache").mkdir()
    np.savez(tmp_path / "in/.cache/hidden.npz", xyz=np.eye(3), label=np.arange(3))
    done = import_parts(tmp_path / "in", tmp_path / "out")
    assert done.counts == {"train": 7, "val": 1, "test": 2}
    assert set(open_dataset("shapenetpart", tmp_path / "out", "test").names) == {"lamp/8", "lamp/9"}
    shutil.rmtree(tmp_path / "in/train")
    write(tmp_path / "in/val/lamp/0.txt", 0)
    with pytest.raises(ValueError, match="expected shapes in train, got none there"):
        import_parts(tmp_path / "in", tmp_path / "other")


@pytest.mark.parametrize("form", ["flat", "by category", "json", "yaml"])
def test_names_of_labels(form: str, source: Path, tmp_path: Path) -> None:
    flat = {3: "foot", 7: "shade", 9: "never seen"}
    names: Any = flat
    if form == "by category":
        names = {"desk lamp": flat, "tree": {3: "roots", "7": "crown"}}
    elif form == "json":
        names = tmp_path / "names.json"
        names.write_text(json.dumps(flat))
    elif form == "yaml":
        names = tmp_path / "names.yaml"
        names.write_text("3: foot\n7: shade\n")
    done = import_parts(source, tmp_path / "out", names)
    if form == "by category":
        assert done.parts == {"desk lamp": {"foot": 0, "shade": 1}, "tree": {"roots": 2, "crown": 3}}
    else:  # the same part in both
        assert done.parts == {"desk lamp": {"foot": 0, "shade": 1}, "tree": {"foot": 0, "shade": 1}}
        assert open_dataset("shapenetpart", tmp_path / "out", "test").part_names == ("foot", "shade")


def test_names_that_do_not_fit(source: Path, tmp_path: Path) -> None:
    for names, message in (
        ({3: "foot"}, "names: desk lamp: expected a name for label 7, got {3: 'foot'}"),
        ({3: "part", 7: "part"}, "names: desk lamp: expected each name once, got part, part"),
        ({"desk lamp": {3: "foot", 7: "shade"}}, "names: tree: expected a name for its labels, got {}"),
        (
            {"tree": "seat", "desk lamp": {3: "a", 7: "b"}},
            "^names: expected {label: name} for tree, as others have it, got 'seat'$",
        ),
        (
            {"desk lamp": {3: "a", 7: "b"}, "tree": ["a", "b"]},
            r"^names: expected {label: name} for tree, as others have it, got \['a', 'b'\]$",
        ),
        (
            {"desk lamp": {3: "a", 7: "b"}, "tree": None},
            "^names: expected {label: name} for tree, as others have it, got None$",
        ),
        ({3: "foot", 7: None}, "^names: expected a name for label 7, got None$"),
        ({3: "foot", 7: ""}, "^names: expected a name for label 7, got ''$"),
        ({3: "foot", 7: ["shade"]}, r"^names: expected a name for label 7, got \['shade'\]$"),
        ({3: "foot", 7: True}, "^names: expected a name for label 7, got True: put it in quotes$"),
        ({3: "foot", 7: 1.5}, "^names: expected a name for label 7, got 1.5: put it in quotes$"),
        (
            {"tree": {3: "foot", 7: {0: "a"}}},
            "^names: expected a name for label 7 of tree, got {0: 'a'}$",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            import_parts(source, tmp_path / "out", names)
        assert not (tmp_path / "out").exists()
    (tmp_path / "list.yaml").write_text("- foot\n")
    with pytest.raises(ValueError, match=r"list.yaml: expected {label: name}, got \['foot'\]"):
        names_from(tmp_path / "list.yaml")
    for text, message in (
        (
            "tree: seat\nother: {0: a}\n",
            "expected {label: name} for tree, as others have it, got 'seat'",
        ),
        ("3: foot\n7:\n", "expected a name for label 7, got None"),
        ("3: foot\n7: on\n", "expected a name for label 7, got True: put it in quotes"),
        ("7\n", "expected {label: name}, got 7"),
        ("", "expected {label: name}, got None"),
        ("{}", "expected {label: name}, got {}"),
    ):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"odd.yaml: {message}$"):
            names_from(tmp_path / "odd.yaml")
    with pytest.raises(FileNotFoundError, match="gone.yaml of names of labels"):
        names_from(tmp_path / "gone.yaml")


def test_names_of_categories_that_are_numbers(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"in/12/{number}.txt", number)
    (tmp_path / "names.yaml").write_text("12: {3: foot, 7: 2}\n")
    done = import_parts(tmp_path / "in", tmp_path / "out", tmp_path / "names.yaml")
    assert done.parts == {"12": {"foot": 0, "2": 1}}


def test_labels_of_another_length(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        xyz, label = lamp(number)
        np.savez(tmp_path / f"in/{number}.npz", points=xyz, Labels=label[1:])
    with pytest.raises(
        ValueError, match=r"0.npz: label: expected 120 rows, one a point, got an array \(119,\)"
    ):
        import_parts(tmp_path / "in", tmp_path / "out")


def write_words(path: Path, seed: int, words: list[str], kind: str = "U") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    xyz = np.random.default_rng(seed).random((len(words), 3)).round(4)
    if path.suffix == ".npz":
        np.savez(path, points=xyz, Label=np.array(words, kind))
    elif path.suffix == ".npy":
        fields = np.empty(len(words), [("x", "f8"), ("y", "f8"), ("z", "f8"), ("class", "U9")])
        for name, column in zip(fields.dtype.names or (), (*xyz.T, words), strict=True):
            fields[name] = column
        np.save(path, fields)
    else:
        between = "," if path.suffix == ".csv" else "\t"
        rows = [[*map(str, row), word] for row, word in zip(xyz.tolist(), words, strict=True)]
        path.write_text("\n".join(map(between.join, [["x", "y", "z", "label"], *rows])) + "\n")


def test_labels_that_are_words(tmp_path: Path) -> None:
    for number, suffix in enumerate([".txt", ".csv", ".npz", ".npy"]):
        write_words(tmp_path / f"in/table/{number}{suffix}", number, ["", "top", "leg", " leg "] * 10)
    for number in range(3):
        write_words(tmp_path / f"in/stool/{number}.npz", number, ["seat", "leg"] * 20, "S")
    assert hold_labels(sorted((tmp_path / "in/table").iterdir()))
    done = import_parts(tmp_path / "in", tmp_path / "out")
    assert done.parts == {"stool": {"leg": 0, "seat": 1}, "table": {"leg": 0, "top": 2}}
    for number in range(4):
        rows = np.loadtxt(tmp_path / f"out/table/{number}.txt")
        assert rows[:, 3].tolist() == [2, 0, 0] * 10  # a point without a word is of no part
        expected = np.random.default_rng(number).random((40, 3)).round(4)
        np.testing.assert_allclose(rows[:, :3], np.delete(expected, np.s_[::4], 0))
    assert open_dataset("shapenetpart", tmp_path / "out", "train").part_names == ("leg", "seat", "top")


def test_words_come_before_other_columns(tmp_path: Path) -> None:
    """In the order of the names that labels have; a column of numbers beside them is none."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        rows = "".join(f"{x},{number},{x / 7},{'top' if x % 2 else 'leg'},1\n" for x in range(20))
        (tmp_path / f"in/{number}.csv").write_text(f"x,y,z,label,class\n{rows}")
    assert import_parts(tmp_path / "in", tmp_path / "out").parts == {"in": {"leg": 0, "top": 1}}
    assert not (tmp_path / "out/labels.json").exists()


def test_labels_that_are_true_and_false(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        xyz, label = lamp(number)
        np.savez(tmp_path / f"in/{number}.npz", xyz=xyz, label=label == 7)
    assert import_parts(tmp_path / "in", tmp_path / "out").parts == {"in": {"part 0": 0, "part 1": 1}}


def test_predictions_have_the_labels_of_the_files(source: Path, tmp_path: Path) -> None:
    """So one that was corrected can go back to those that it was trained on."""
    import_parts(source, tmp_path / "out")
    stated = json.loads((tmp_path / "out/labels.json").read_text())
    assert stated == {"0": 3, "1": 7, "2": 3, "3": 7}
    split = open_dataset("shapenetpart", tmp_path / "out", "train")
    assert split.part_codes == (3, 7, 3, 7)
    task = make_task("part_segmentation", load_config("own_parts"))
    task.arrange(split, True)
    facts = task.facts(split)
    task.set_facts(facts)
    task.bind_model(bixt3d.create_model("bixt_nano_partseg", num_parts=4, num_categories=2))
    answer = Segmentation(np.array([2, 3, 3]), np.array(["a", "b", "b"]), np.ones(3), np.eye(3), 1)
    shown = LabelledCloud("tree", **task.view(answer))
    assert load_cloud(write_labels(shown, tmp_path, "tree", "ply")).labels.tolist() == [3, 7, 7]
    labels = tmp_path / "out/labels.json"
    for text in ("[]", '{"a": 3}', '{"0": 1.5}', '{"0": -1}'):
        labels.write_text(text)
        with pytest.raises(
            ValueError, match=r"labels.json: expected {part id: number}, whole numbers from 0"
        ):
            open_dataset("shapenetpart", tmp_path / "out", "train")
    for text, codes in (('{"0": 0, "1": 1}', ()), ('{"1": 9}', (0, 9, 2, 3))):
        labels.write_text(text)
        assert open_dataset("shapenetpart", tmp_path / "out", "train").part_codes == codes


def test_words_that_cannot_be_labels(tmp_path: Path) -> None:
    for number in range(3):
        write_words(tmp_path / f"in/table/{number}.csv", number, ["top", "leg"] * 20)
    with pytest.raises(ValueError, match="names: expected whole numbers for labels, got words such as 'top'"):
        import_parts(tmp_path / "in", tmp_path / "out", {0: "top", 1: "leg"})
    write(tmp_path / "in/table/3.csv", 3)
    with pytest.raises(
        ValueError, match="one kind of labels, got words such as 'top' in .*, and numbers in "
    ):
        import_parts(tmp_path / "in", tmp_path / "out")
    for number in range(3):
        write_words(tmp_path / f"bare/{number}.csv", number, ["", "leg", ""])
        np.savez(tmp_path / f"bare/{number}.npz", points=np.eye(3), label=np.array(["leg", "top"]))
        np.savez(tmp_path / f"bare/{number + 3}.npz", points=np.eye(3), label=np.array(["a", 1, 2], object))
        np.savez(tmp_path / f"bare/{number + 6}.npz", points=np.eye(3), Klasse=np.arange(3))
    with pytest.raises(ValueError, match="9 of 12 files cannot be read") as error:
        import_parts(tmp_path / "bare", tmp_path / "out")
    for said in (
        "0.npz: label: expected 3 rows, one a point, got an array (2,)",
        "3.npz: label: it cannot be read, an array of object, not of numbers: save numbers, or words by .ast",
        "6.npz: expected a label a point, such as a field 'label', got xyz, Klasse: named columns count by",
    ):
        assert said in str(error.value)


def test_a_label_of_programs_for_none_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        xyz, label = lamp(number)
        label[:10] = 255
        np.savez(tmp_path / f"in/{number}.npz", xyz=xyz, label=label)
    assert "part 255" in import_parts(tmp_path / "in", tmp_path / "out").parts["in"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("label 255 becomes a part: 40 points in 4 files, such as ")
    caplog.clear()
    import_parts(tmp_path / "in", tmp_path / "named", {3: "foot", 7: "shade", 255: "cable"})
    assert not caplog.records
    for number in range(4):
        xyz, label = lamp(number)
        label[:10] = -1
        np.savez(tmp_path / f"in/{number}.npz", xyz=xyz, label=label.astype(np.uint32))
    import_parts(tmp_path / "in", tmp_path / "unsigned")
    assert "label 4294967295 becomes a part: 40 points in 4 files" in caplog.text


def test_columns_that_are_not_kept_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        xyz, label = lamp(number)
        np.savetxt(tmp_path / f"in/{number}.txt", np.c_[xyz, xyz * 9, label])
    import_parts(tmp_path / "in", tmp_path / "out")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith("in/0.txt: 3 columns after xyz are left out (and 3 more files)")


def test_normals_and_other_features(tmp_path: Path) -> None:
    for number in range(3):
        xyz, label = lamp(number)
        normal = np.tile([0.0, 0.6, 0.8], (len(xyz), 1))
        (tmp_path / "in").mkdir(exist_ok=True)
        np.savez(
            tmp_path / f"in/{number}.npz", xyz=xyz, normal=normal, color=np.full((120, 3), 0.5), label=label
        )
    done = import_parts(tmp_path / "in", tmp_path / "out")
    read = open_dataset("shapenetpart", tmp_path / "out", "train")
    assert done.features == read.features == ("normal",)
    torch.testing.assert_close(read.points[0, 0, 3:], torch.tensor([0.0, 0.6, 0.8]))
    assert import_parts(tmp_path / "in", tmp_path / "colored", features=["color"]).features == ("color",)
    read = open_dataset("shapenetpart", tmp_path / "colored", "train", features=["color"])
    torch.testing.assert_close(read.points[0, 0, 3:], torch.full((3,), 0.5))


def test_labels_of_a_mesh_and_points_without_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        xyz, label = lamp(number)
        label[:20] = -1
        np.savetxt(tmp_path / f"in/{number}.xyz", np.c_[xyz, label])
    import_parts(tmp_path / "in", tmp_path / "out", num_points=50)
    assert len(np.loadtxt(tmp_path / "out/in/0.txt")) == 50
    import_parts(tmp_path / "in", tmp_path / "whole")
    rows = np.loadtxt(tmp_path / "whole/in/0.txt")
    assert len(rows) == 100 and set(rows[:, 3]) == {0, 1}


def test_files_that_are_left_out(source: Path, tmp_path: Path) -> None:
    (source / "tree/bad.txt").write_text("0 0 0 0.5\n1 1 1 0.25\n")
    done = import_parts(source, tmp_path / "out")
    assert len(done.left_out) == 1 and "expected whole numbers in the last column" in done.left_out[0]
    trimesh.creation.box().export(source / "tree/box.off")
    trimesh.creation.box().export(source / "tree/box2.off")
    with pytest.raises(
        ValueError, match="in: 3 of 15 files cannot be read, more than one in ten; mend or rem"
    ):
        import_parts(source, tmp_path / "other")
    few = tmp_path / "few/tree"
    few.mkdir(parents=True)
    np.savetxt(few / "a.txt", np.c_[np.eye(3), [0, 1, 1]])
    with pytest.raises(ValueError, match="few: expected three shapes or more, with labels, got 1 of 1 file$"):
        import_parts(tmp_path / "few", tmp_path / "other")
    with pytest.raises(FileExistsError, match="out: expected a new or empty folder"):
        import_parts(source, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no folder"):
        import_parts(tmp_path / "gone", tmp_path / "other")


def test_two_epochs_of_training(source: Path, tmp_path: Path) -> None:
    import_parts(source, tmp_path / "out", {3: "foot", 7: "shade"})
    config = bixt3d.config.config_from(
        {
            "data": {
                "name": "shapenetpart",
                "root": str(tmp_path / "out"),
                "num_points": 64,
                "order": "random",
            },
            "model": {
                "name": "bixt_ti_partseg",
                "args": {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4},
            },
            "train": {"epochs": 2, "batch_size": 4, "eval_batch_size": 4},
            "run": {"dir": str(tmp_path / "run"), "tensorboard": False},
        }
    )
    result = bixt3d.train(config, device="cpu")
    assert 0 <= result.last["accuracy_pointnet2"] <= 1
    predictor = bixt3d.Predictor(tmp_path / "run", "cpu")
    seen = predictor.segment(source / "tree/0.txt", "Tree")
    assert set(seen.names) <= {"foot", "shade"} and len(seen.parts) == 120
