"""What `bixt3d data info` says of each layout, in 80 columns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bixt3d.datasets import Split, info
from bixt3d.datasets.overview import brief, columns, recognize
from bixt3d.datasets.synthetic.shapes import write_shapes
from tests.markers import data_dir


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_shapes(root, per_class=10, num_points=128, progress=False)
    return root / "shapes"


def write_folder(root: Path) -> Any:
    """Ten chairs and one mug in train, metres, z up; a test chair that is a training chair; a bad file."""
    random = np.random.default_rng(0)
    for split, name, count in (("train", "chair", 12), ("train", "mug", 1), ("test", "chair", 3)):
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            foot = random.uniform((-2, -2, 0), (2, 2, 0.2), (80 + number, 3))
            pole = random.uniform((-0.1, -0.1, 0), (0.1, 0.1, 6), (40, 3))
            np.savetxt(root / split / name / f"{number}.xyz", np.concatenate([foot, pole]))
    same = np.loadtxt(root / "train/chair/4.xyz")
    np.save(root / "test/chair/1.npy", random.permutation(same.round(4)))
    (root / "test/chair/1.xyz").unlink()
    (root / "train/chair/bad.xyz").write_text("0 0\n")


def test_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    said = info(tmp_path).splitlines()
    assert max(map(len, said)) <= 80 or str(tmp_path) in max(said, key=len)
    assert said[0] == f"folder: {tmp_path}"
    assert [line.split()[:2] for line in said[1:4]] == [["train", "12"], ["val", "1"], ["test", "3"]]
    text = "\n".join(said)
    assert "features: xyz\n" in text and "likely metres" in text
    assert "up axis: likely z, by the clouds' shape; it may be wrong" in text
    assert re.search("note: 1 test shape is in (train|val) too: chair/1.npy = chair/4.xyz", text)
    assert "test has no shape of mug" in text
    assert "note: 1 files cannot be read and are left out:\n" in text and "bad.xyz" in said[-1]


def test_shapes_in_both_layouts(shapes: Path) -> None:
    said = info(shapes)
    first, second = said.split("\n\nshapenetpart: ")
    assert first.startswith(f"modelnet40: {shapes}") and second.startswith(str(shapes))
    assert "  test       20 shapes of 128 points" in first and "up axis: " in first
    assert first == info(shapes / "modelnet40_ply_hdf5_2048")
    assert info(shapes, "modelnet40").splitlines()[1:] == first.splitlines()[1:]
    assert max(len(line) for line in said.splitlines() if str(shapes) not in line) <= 80


def test_parts(shapes: Path) -> None:
    root = next(path for path in shapes.iterdir() if (path / "synsetoffset2category.txt").is_file())
    said = info(root)
    assert said.startswith("shapenetpart: ") and "parts of the training shapes:\ncategory" in said
    assert "handle" in said and "%" in said
    assert max(len(line) for line in said.splitlines()[1:]) <= 80


def test_what_a_folder_is(shapes: Path, tmp_path: Path) -> None:
    assert recognize(shapes / "modelnet40_ply_hdf5_2048") == {
        "modelnet40": shapes / "modelnet40_ply_hdf5_2048"
    }
    assert list(recognize(shapes)) == ["modelnet40", "shapenetpart"]
    assert recognize(tmp_path) == {"folder": tmp_path}
    with pytest.raises(FileNotFoundError, match="no folder"):
        info(tmp_path / "gone")


def test_part_that_no_training_shape_has(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    from bixt3d.datasets.import_parts import import_parts

    (tmp_path / "in").mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        label = random.integers(0, 2, 50)
        np.savetxt(tmp_path / f"in/{number}.txt", np.c_[random.normal(size=(50, 3)), label])
    import_parts(tmp_path / "in", tmp_path / "out", {0: "body", 1: "tail"})
    parts = tmp_path / "out/parts.json"
    parts.write_text('{"in": {"body": 0, "tail": 1, "wing": 2}}')
    said = info(tmp_path / "out")
    assert "note: no training shape has the part wing of in" in said
    assert info(tmp_path / "out") == said  # the cache that lies in it now is no cloud


def test_brief_lines_of_a_training() -> None:
    points = torch.randn(44, 64, 3, generator=torch.Generator().manual_seed(0))
    train = Split(points[:40], torch.tensor([0] * 38 + [1, 1]), ("a", "b"))
    test = Split(torch.cat([points[3:4], points[40:]]), torch.tensor([0, 1, 0, 1, 0]), ("a", "b"))
    assert brief({"train": train, "test": test}) == [
        "  2 classes; 64 points a shape; xyz",
        "note: 1 test shape is in train too: shape 0 = shape 3",
        "note: train is out of balance: 38 a, 2 b; look at mAcc beside OA",
    ]


def test_long_names_are_cut() -> None:
    lines = columns([["class", "train"], ["x" * 100, "7"]])
    assert [len(line) for line in lines] == [80, 80] and "xxx..." in lines[1]


@pytest.mark.parametrize("name", ["modelnet40_ply_hdf5_2048", "dales_objects"])
def test_real_data(name: str) -> None:
    said = info(data_dir() / name)
    up = {"modelnet40_ply_hdf5_2048": "y", "dales_objects": "z"}[name]
    assert f"up axis: likely {up}" in said
    assert max(len(line) for line in said.splitlines()[1:]) <= 80
