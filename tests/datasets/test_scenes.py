"""Scenes from files: their labels by every way that files hold them, their own unit, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import bixt3d
from bixt3d.config import config_from
from bixt3d.datasets import store
from bixt3d.datasets.label_table import LabelTable, read_table
from bixt3d.datasets.mapped import Mapped
from bixt3d.datasets.scenes import read_scenes
from bixt3d.training.distributed import Workers
from bixt3d.training.splits import build_task, training_loader
from bixt3d.visualize.labels import note_source

TABLE = "names: {0: none, 1: road, 3: tree}\nignore: [0]\n"
SEMANTIC_KITTI = """
labels: {0: unlabeled, 40: road, 70: vegetation, 252: moving-car}
learning_map: {0: 0, 40: 1, 70: 2, 252: 3}
learning_map_inv: {0: 0, 1: 40, 2: 70, 3: 252}
learning_ignore: {0: true, 1: false, 2: false, 3: false}
split: {train: [0], valid: [8], test: [11]}
"""


def scene(count: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(-40, 40, (count, 3)), random.choice([0, 1, 3], count)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three scenes to train on, one to test, each in a file of another kind, far from the origin."""
    (tmp_path / "labels.yaml").write_text(TABLE)
    for name in ("train/deep", "test"):
        (tmp_path / name).mkdir(parents=True)
    far = np.array([500_000.0, 5_000_000.0, 100.0])
    xyz, label = scene(50)
    np.savez(tmp_path / "train/a.npz", xyz=xyz + far, label=label.astype(np.uint8), intensity=np.arange(50.0))
    xyz, label = scene(30, 1)
    rows = np.column_stack([xyz + far, np.arange(30.0) / 30, label])
    np.savetxt(tmp_path / "train/deep/b.txt", rows, "%.6f")
    xyz, label = scene(40, 2)
    lines = [f"{x} {y} {z} 7 {one}" for (x, y, z), one in zip(xyz + far, label, strict=True)]
    head = ["ply", "format ascii 1.0", "element vertex 40", *(f"property double {axis}" for axis in "xyz")]
    head += ["property float intensity", "property int scalar_Label", "end_header"]
    (tmp_path / "train/c.ply").write_text("\n".join([*head, *lines]) + "\n")
    xyz, label = scene(20, 3)
    np.savez(tmp_path / "test/d.npz", xyz=xyz, classification=np.where(label == 0, -1, label))
    return tmp_path


def test_scenes_keep_their_unit_and_their_labels(root: Path) -> None:
    split = bixt3d.open_dataset("scenes", root, "trainval")
    assert split.names == ("a", "c", "deep/b") and split.categories == split.classes == ("scene",)
    assert split.points.shape == (3, 50, 3) and split.count.tolist() == [50, 40, 30]
    assert split.part_names == ("none", "road", "label 2", "tree") and split.parts_of_category == ((1, 3),)
    for row, (count, seed) in enumerate([(50, 0), (40, 2), (30, 1)]):
        xyz, label = scene(count, seed)
        middle = (xyz.min(0) + xyz.max(0)) / 2
        assert np.abs(split.points[row, :count].numpy() - (xyz - middle)).max() < 1e-5
        assert split.parts[row, :count].tolist() == np.where(label == 0, -1, label).tolist()
        assert torch.equal(split.points[row, count:], split.points[row, : 50 - count])  # repeats its own
    test = bixt3d.open_dataset("scenes", root, "test", up="z")
    assert len(test) == 1 and test.parts.min() == -1 and test.names == ("d",)


def test_features_have_names(root: Path) -> None:
    split = bixt3d.open_dataset("scenes", root, "trainval", features=["intensity"])
    assert split.features == ("intensity",) and split.points.shape[2] == 4
    assert split.points[0, :, 3].tolist() == list(range(50)) and split.points[
        1, :40, 3
    ].unique().tolist() == [7]
    assert split.points[2, :30, 3].tolist() == pytest.approx([i / 30 for i in range(30)], abs=1e-5)
    with pytest.raises(ValueError, match="a.npz: it has no feature color"):
        bixt3d.open_dataset("scenes", root, "train", features=["color"])


def test_val_is_cut_from_train_or_its_own(root: Path) -> None:
    names = {split: read_scenes(root, split).names for split in ("train", "val", "trainval")}
    assert sorted(names["train"] + names["val"]) == sorted(names["trainval"]) and len(names["val"]) == 1
    (root / "val").mkdir()
    (root / "train/a.npz").rename(root / "val/a.npz")
    assert read_scenes(root, "val").names == ("a",) and len(read_scenes(root, "train")) == 2
    assert len(read_scenes(root, "trainval")) == 3


def test_scans_of_semantic_kitti(tmp_path: Path) -> None:
    (tmp_path / "semantic-kitti.yaml").write_text(SEMANTIC_KITTI)
    random = np.random.default_rng(0)
    for sequence in ("00", "08"):
        place = tmp_path / "sequences" / sequence
        (place / "velodyne").mkdir(parents=True)
        (place / "labels").mkdir()
        random.uniform(0, 1, (6, 4)).astype("<f4").tofile(place / "velodyne/000000.bin")
        instances = np.array([40, 70 | 3 << 16, 0, 252, 40, 40], "<u4")  # the object's number stands above
        instances.tofile(place / "labels/000000.label")
    train = read_scenes(tmp_path, "train", ["intensity"])
    assert train.names == ("00/velodyne/000000",) and train.parts.tolist() == [[1, 2, -1, 3, 1, 1]]
    assert train.part_names == ("unlabeled", "road", "vegetation", "moving-car")
    assert read_scenes(tmp_path, "val").names == ("08/velodyne/000000",)
    with pytest.raises(FileNotFoundError, match="no clouds in .*test"):
        read_scenes(tmp_path, "test")
    described = bixt3d.datasets.overview.info(tmp_path)
    assert described.startswith("scenes: ") and "val         1 shape of 6 points" in described
    bare = tmp_path / "sequences/11/velodyne"
    bare.mkdir(parents=True)
    np.ones((6, 4), "<f4").tofile(bare / "000000.bin")
    with pytest.raises(ValueError, match=r"test: expected scenes with [^!]*no file .*11/labels/000000"):
        read_scenes(tmp_path, "test")
    np.zeros(5, "<u4").tofile(tmp_path / "sequences/00/labels/000000.label")
    with pytest.raises(
        ValueError, match=r"000000.label: expected 6 labels, one a point of 000000.bin, got 5"
    ):
        read_scenes(tmp_path, "train")


def test_labels_may_lie_beside_scans(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text(TABLE + "map: {10: 1, 11: 1, 30: 3, 99: 0}\n")
    (tmp_path / "train").mkdir()
    np.ones((4, 4), "<f4").cumsum(0).astype("<f4").tofile(tmp_path / "train/s.bin")
    np.array([10, 11, 30, 99], "<u4").tofile(tmp_path / "train/s.label")
    assert read_scenes(tmp_path, "trainval").parts.tolist() == [[1, 1, 3, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {1: road}", "expected two labels or more that are not ignored, got 1"),
        ("names: {a: road, 2: tree}", "names: expected a name for each label"),
        ("names: {-1: road, 2: tree}", "names: expected a name for each label"),
        ("names: {1: road, 2: tree}\nignore: 0", "ignore: expected a list of labels, got 0"),
        ("names: {1: road, 2: tree}\nmap: {1: x}", "map: expected whole numbers"),
        ("names: {1: road, 2: tree}\nmap: 5", "map: expected keys and values, got 5"),
        ("- road", "expected names: "),
        ("names: {1: a, 1: b}", "labels.yaml: "),
        ("names: {0: no, 1: yes}", "names: expected a name .*: put yes, no, on and off in quotes"),
        ("names: {1: a, 2: b, 3: a}", "names: expected each name once, got a for 1 and 3: .*map: {3: 1"),
        (
            "names: {0: a, 1: b}\nignored: [0]",
            "expected names, ignore, map, got ignored; did you mean 'ignore'",
        ),
        ("names: {0: a, 1: b}\nMap: {2: 0}", "got Map; did you mean 'map'"),
        ("names: {0: a, 1: b}\nmap: {2: 0, 5: 3}", "map: expected labels that have names, got 3 for 5: name"),
    ],
)
def test_tables_that_say_something_else(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_table(tmp_path)
    assert str(tmp_path / "labels.yaml") in str(error.value)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("names: {0: none, 1: ground, 2: tree}\nmap: {0: 0, 2: 1, 9: 1, 5: 2}\nignore: [0]", (0, 2, 5)),
        ("names: {0: none, 1: ground, 2: tree}\nmap: {4: 1, 5: 2}\nignore: [0]", (0, 4, 5)),
        ("names: {1: ground, 2: tree, 3: car}\nmap: {2: 1, 5: 2}", (0, 2, 5, 3)),  # none stands for a car
        ("names: {1: ground, 2: tree, 3: car}\nmap: {2: 1, 3: 2}", (0, 2, 3, 4)),
        ("names: {1: ground, 2: tree}\nmap: {1: 1, 2: 2}", ()),
        ("names: {1: ground, 2: tree}", ()),
        (
            "labels: {0: none, 20: other, 40: road}\nlearning_map: {0: 0, 13: 1, 20: 1, 40: 2}\n"
            "learning_map_inv: {0: 0, 1: 20, 2: 40}\nlearning_ignore: {0: true, 1: false, 2: false}",
            (0, 20, 40),
        ),
    ],
)
def test_labels_are_known_by_the_numbers_of_the_files(
    tmp_path: Path, text: str, codes: tuple[int, ...]
) -> None:
    (tmp_path / "labels.yaml").write_text(text)
    assert read_table(tmp_path).part_codes == codes


def test_names_may_be_a_list(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text("names: [road, tree, sky]\nignore: [2]")
    table = read_table(tmp_path)
    assert table == LabelTable({0: "road", 1: "tree", 2: "sky"}, frozenset([2]))
    assert table.ids == (0, 1) and table.part_names == ("road", "tree")


def test_files_without_labels_or_with_others_are_named(root: Path) -> None:
    np.savez(root / "test/d.npz", xyz=scene()[0], label=np.full(50, 8))
    with pytest.raises(
        ValueError, match=r"d.npz: expected labels that labels.yaml names .*got 8 for 50 points"
    ):
        read_scenes(root, "test")
    (root / "labels.yaml").write_text(TABLE + "map: {0: 0, 8: 3}\n")
    np.savez(root / "train/a.npz", xyz=scene()[0], label=np.full(50, 8))
    (root / "train/c.ply").unlink()
    with pytest.raises(
        ValueError,
        match=r"b.txt: expected labels that the map of the labels has \(0, 8\), got 1 for \d+ points",
    ):
        read_scenes(root, "train")
    (root / "labels.yaml").write_text(TABLE)
    np.savez(root / "test/d.npz", xyz=scene()[0])
    with pytest.raises(ValueError, match=r"a label for each point, got none:\n  d: expected a prop.*got xyz"):
        read_scenes(root, "test")
    np.savez(root / "test/d.npz", xyz=scene()[0], Klasse=np.arange(50))
    with pytest.raises(ValueError, match=r"or classification, got xyz, Klasse: named columns count by their"):
        read_scenes(root, "test")
    np.savez(root / "test/d.npz", xyz=scene()[0], label=np.array(["road", "trees"] * 25))
    with pytest.raises(
        ValueError,
        match=r"d.npz: .* labels.yaml names \(none, road, tree\), got 'trees' for 25 points; did you mean",
    ):
        read_scenes(root, "test")
    np.savez(root / "test/d.npz", xyz=scene()[0], label=np.eye(50)[:, :4])
    with pytest.raises(ValueError, match=r"d: label: expected one number a point, got an array \(50, 4\)"):
        read_scenes(root, "test")
    np.savez(root / "test/d.npz", xyz=scene()[0], label=np.full(50, 1.5))
    with pytest.raises(ValueError, match=r"d.npz: expected whole numbers for labels"):
        read_scenes(root, "test")
    (root / "labels.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="labels.yaml"):
        read_scenes(root, "test")


def test_labels_may_be_the_names(root: Path) -> None:
    """Also where a map says what the numbers of other files are."""
    words = np.array(["road", "tree", "none", "", "road "] * 10)
    np.savez(root / "test/d.npz", xyz=scene()[0], label=words, part=np.full(50, 7))
    for more in ("", "map: {2: 1, 5: 3}\n"):
        (root / "labels.yaml").write_text(TABLE + more)
        assert read_scenes(root, "test").parts[0, :5].tolist() == [1, 3, -1, -1, 1]


def test_labels_may_be_true_and_false(root: Path) -> None:
    (root / "labels.yaml").write_text("names: [ground, tree]\n")
    np.savez(root / "test/d.npz", xyz=scene()[0], label=np.arange(50) % 2 == 0)
    assert read_scenes(root, "test").parts[0, :3].tolist() == [1, 0, 1]


def test_ignored_labels_need_no_name(root: Path) -> None:
    (root / "labels.yaml").write_text("names: {1: road, 3: tree}\nignore: [0]\n")
    np.savez(root / "test/d.npz", xyz=scene()[0], label=np.array([0, 1, 3, 0, 1] * 10))
    assert read_scenes(root, "test").parts[0, :4].tolist() == [-1, 1, 3, -1]


def test_a_feature_that_equals_named_labels_is_kept(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text("names: [ground, tree]\n")
    (tmp_path / "train").mkdir()
    xyz, label = scene(50)
    label = (label > 0).astype(int)
    np.savez(tmp_path / "train/a.npz", points=np.c_[xyz, label], label=label)
    split = read_scenes(tmp_path, "trainval", ["intensity"])
    assert split.points[0, :, 3].tolist() == label.tolist() == split.parts[0].tolist()


def test_splits_by_other_names_and_what_is_not_used(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "validation").mkdir()
    (root / "train/c.ply").rename(root / "validation/c.ply")
    (root / "old").mkdir()
    for name in ("train/x.e57", "train/y.las.gz", "validation/z.e57"):
        (root / name).write_bytes(b"no")
    assert read_scenes(root, "val").names == ("c",) and len(read_scenes(root, "trainval")) == 3
    caplog.clear()
    assert read_scenes(root, "train").names == ("a", "deep/b")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{root}: 1 folders are not used: old" in said
    assert [one for one in said if "is not read" in one] == [
        "train: .e57 is not read; convert it with CloudCompare, saving it as .las or .ply",
        "train: .gz is not read; convert it with a program that unpacks it",
    ]


def test_keys_that_mean_nothing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "labels.yaml").write_text("names: [road, tree]\ncolors: {0: red}")
    read_table(tmp_path)
    assert caplog.messages == [
        f"{tmp_path / 'labels.yaml'}: colors is passed over: known are names, ignore, map"
    ]


def test_scans_without_labels_are_left_out_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = read_scenes(root, "trainval")
    np.savez(root / "train/b.npz", xyz=scene()[0])
    np.ones((6, 4), "<f4").tofile(root / "train/s.bin")
    for again in range(2):  # read, and from the cache
        caplog.clear()
        found = read_scenes(root, "trainval")
        assert found.names == whole.names and found.points.equal(whole.points), again
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        (said,) = [one for one in warned if "column after xyz" not in one]
        assert said.startswith("trainval: left out, without labels: 2 of 5 scenes\n  s: no file ")
        assert "\n  b: expected a property such as label or classification" in said
    caplog.clear()
    assert {*read_scenes(root, "train").names, *read_scenes(root, "val").names} == {*whole.names}
    assert caplog.text.count("left out, without") == 1  # not once more for what is cut from train


def test_val_that_is_cut_is_the_smaller_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "labels.yaml").write_text(TABLE)
    (tmp_path / "train").mkdir()
    for counts, expected in (((300, 100), "b"), ((100, 300), "a"), ((90, 100, 800), "a")):
        for name, count in zip("abc", counts, strict=False):
            xyz, label = scene(count)
            np.savetxt(tmp_path / f"train/{name}.txt", np.column_stack([xyz, xyz[:, 0], label]), "%.6f")
        caplog.clear()
        with caplog.at_level("INFO"):
            train, val = (read_scenes(tmp_path, split) for split in ("train", "val"))
        assert val.names == (expected,) and sorted(train.names + val.names) == [*"abc"[: len(counts)]]
        said = [record.getMessage() for record in caplog.records]
        assert f"val: 1 scene of {min(counts)} points" in said
        assert [one.partition(": ")[2] for one in said if "left out" in one] == [
            f"1 column after xyz is left out (and {len(counts) - 1} more file{'s' * (len(counts) > 2)})"
        ]


def test_one_scene_to_train_on_is_described(root: Path) -> None:
    (root / "train/c.ply").unlink()
    (root / "train/deep/b.txt").unlink()
    said = bixt3d.datasets.overview.info(root)
    assert "train       1 shape of 50 points" in said and "train with data.train_split=trainval" in said
    with pytest.raises(ValueError, match=r"cannot cut a val split: .*data\.train_split=trainval"):
        read_scenes(root, "train")


def test_a_test_split_without_labels_is_described(root: Path) -> None:
    """As SemanticKITTI is unpacked."""
    for path in (root / "test").rglob("*.*"):
        path.unlink()
    np.savez(root / "test/d.npz", xyz=scene()[0])
    said = bixt3d.datasets.overview.info(root)
    assert "note: a training refuses this:\n  test: expected scenes with a label for each point, got" in said
    assert "add a folder val" not in said and "\n  train " in said and "\n  test " not in said


def test_the_list_that_predict_leaves_beside_labels_is_no_scene(root: Path) -> None:
    note_source(root / "train", "a_parts", "a.npz")
    assert (root / "train/sources.csv").is_file()
    assert read_scenes(root, "trainval").names == ("a", "c", "deep/b")
    (root / "train/sources.csv").write_text("x,y,z,label\n1,2,3,1\n2,3,4,3\n3,4,9,1\n")  # of a user
    assert read_scenes(root, "trainval").names == ("a", "c", "deep/b", "sources")


def test_scenes_may_lie_in_files_that_are_mapped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bixt3d.open_dataset("scenes", root, "trainval", up="z")
    shutil.rmtree(root / ".bixt3d_cache")
    monkeypatch.setattr(store, "SPILL", 100)
    monkeypatch.setenv("BIXT3D_MEMORY", "200")
    split = bixt3d.open_dataset("scenes", root, "trainval", up="z")
    assert isinstance(split.points, Mapped) and isinstance(split.parts, Mapped)
    config = config_from(
        {
            "data": {"name": "scenes", "num_points": 8, "order": "random", "train_split": "trainval"},
            "model": {"name": "bixt_pico_sceneseg_encdec"},
            "train": {"batch_size": 2},
            "task_args": {"draws": 2},
        }
    )
    batches = []
    for one in (whole, split):
        task = build_task(config)
        assert task.labelled(one).all()
        batches.append(list(training_loader(config, task, task.arrange(one, True), Workers()).epoch(0)))
    assert len(batches[0]) == len(batches[1]) == 3
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.points, other.points) and torch.equal(one.parts, other.parts)
