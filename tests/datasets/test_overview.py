"""What `bixt3d data info` says of each layout, in 80 columns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bixt3d import cli
from bixt3d.datasets import Split, info, open_dataset, overview
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
    assert "note: 1 file cannot be read, left out:\n" in text and "bad.xyz" in said[-1]


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_folder_of_test_shapes_alone(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be evaluated on, so it is described."""
    random = np.random.default_rng(0)
    for name, count in (("cup", 10), ("mug", 3)):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(count):
            np.save(tmp_path / split / name / f"{number}.npy", random.normal(size=(90, 3)))
    cli.main(["data", "info", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[1:3]] == [[split, "13"], []]
    assert said[-1] == (
        "note: there is no train: a model can be evaluated on these shapes, not trained on them"
    )
    assert len(open_dataset("folder", tmp_path, split)) == 13
    for name in ("0", "1"):
        (tmp_path / split / "cup" / f"{name}.npy").write_bytes(b"")
    refused = f"2 of 13 {split} files cannot be read, more than one in ten"
    assert f"note: an evaluation refuses this:\n  {refused}" in info(tmp_path)
    with pytest.raises(ValueError, match=f"expected {split} files with color, got none: .*it has no feature"):
        info(tmp_path, features=["color"])
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"none of its {split} files can be read:\n  .*the file is empty"):
        info(tmp_path)


def test_training_and_info_say_the_same_of_copies(tmp_path: Path) -> None:
    """Of large clouds a training keeps a draw, which depends on the file's name."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3), ("test", 4)):
        for name in ("cup", "mug"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                np.save(tmp_path / split / name / f"{split}{number}.npy", random.normal(size=(5000, 3)))
    for source, copy in (
        ("train/cup/train3", "test/cup/test1"),
        ("train/mug/train0", "test/mug/other"),
        ("train/cup/train5", "val/cup/val0"),
    ):
        (tmp_path / f"{copy}.npy").write_bytes((tmp_path / f"{source}.npy").read_bytes())
    same = np.load(tmp_path / "train/mug/train7.npy")  # moved, larger, in another order and format
    np.savetxt(tmp_path / "test/mug/moved.xyz", random.permutation(4 * same + 9), "%.4f")
    told = [line for line in info(tmp_path).splitlines() if " too: " in line]
    assert told == [
        "note: 1 val shape is in train too: cup/val0.npy = cup/train5.npy",
        "note: 3 test shapes are in train too: cup/test1.npy = cup/train3.npy",
    ]
    for num_points in (None, 256):
        opened = {
            name: open_dataset("folder", tmp_path, name, num_points) for name in ("train", "val", "test")
        }
        assert brief(opened)[1:] == told


@pytest.mark.parametrize("reason", ["many", "class", "unknown"])
def test_what_a_training_refuses_is_said(reason: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, count in (("cup", 18), ("mug", 1)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(count):
            np.save(tmp_path / "train" / name / f"{number}.npy", random.normal(size=(90, 3)))
    assert "note: a training refuses" not in info(tmp_path)
    if reason == "many":
        np.save(tmp_path / "train/cup/one.npy", np.zeros((90, 3)))  # all at one place
        (tmp_path / "train/cup/two.xyz").write_text("0 0\n")
        (tmp_path / "train/cup/0.npy").write_bytes(b"")
        expected = "3 of 21 train files cannot be read, more than one in ten"
    elif reason == "class":
        (tmp_path / "train/mug/0.npy").write_bytes(b"")
        expected = "train/mug: none of its files can be read"
    else:
        (tmp_path / "test/jug").mkdir(parents=True)
        np.save(tmp_path / "test/jug/0.npy", random.normal(size=(90, 3)))
        expected = "test/jug: expected a class that train has too"
    assert "note: a training refuses this:\n  " in info(tmp_path) and expected in info(tmp_path)
    with pytest.raises(ValueError, match=expected.replace("train files", "files")):
        open_dataset("folder", tmp_path, "train")


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
    assert "note: no training shape has these parts: wing" in said
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


def test_features_that_are_not_about_one() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(8, 32, 5, generator=generator)
    label = torch.tensor([0, 1] * 4)
    of_one = Split(points, label, ("a", "b"), features=("intensity", "heat"))
    assert brief({"train": of_one})[1:] == []
    large = points * torch.tensor([1, 1, 1, 4000, 1])
    (note,) = brief({"train": Split(large, label, ("a", "b"), features=("intensity", "heat"))})[1:]
    assert note.startswith("note: intensity reaches 4e+03: numbers of about 1")
    mixed = torch.cat([points[:1], large[1:]])
    (note,) = brief({"train": Split(mixed, label, ("a", "b"), features=("intensity", "heat"))})[1:]
    assert "in one train shape and" in note and "one unit?" in note


def test_long_names_are_cut() -> None:
    lines = columns([["class", "train"], ["x" * 100, "7"]])
    assert [len(line) for line in lines] == [80, 80] and "xxx..." in lines[1]


@pytest.mark.parametrize("name", ["modelnet40_ply_hdf5_2048", "dales_objects"])
def test_real_data(name: str) -> None:
    said = info(data_dir() / name)
    up = {"modelnet40_ply_hdf5_2048": "y", "dales_objects": "z"}[name]
    assert f"up axis: likely {up}" in said
    assert max(len(line) for line in said.splitlines()[1:]) <= 80


def test_images_are_no_clouds(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (8, 8), "red" if "/a/" in name else "blue").save(tmp_path / name)
    with pytest.raises(ValueError, match="expected clouds, got images: bixt3d train --dry-run describes"):
        info(tmp_path, "image_folder")


def test_sizes_labels_and_files_that_are_odd(tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / "own" / ("cup" if number % 2 else "pot")
        folder.mkdir(parents=True, exist_ok=True)
        xyz = np.random.default_rng(number).normal(size=(40, 3)) * (100 if number == 3 else 1)
        table = np.c_[xyz, np.arange(40) % 2]
        np.savetxt(folder / f"{number}.csv", table, delimiter=",", header="x,y,z,label", comments="")
    said = info(tmp_path / "own")
    assert "one is more than 10 times larger or smaller: are all in one unit?" in said
    assert "the files hold a label a point" in said and "bixt3d data import-parts" in said
    with pytest.raises(FileNotFoundError, match=r"0\.csv: expected a folder, got a file"):
        info(tmp_path / "own" / "pot" / "0.csv")


def write_intensity(root: Path, count: int = 9, without: int = 0) -> None:
    """Two classes of clouds with normals, an intensity up to 60,000 and labels; some without intensity."""
    random = np.random.default_rng(0)
    for name in ("cup", "mug"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            xyz, normal = random.normal(size=(40, 3)), np.tile([0.0, 0.6, 0.8], (40, 1))
            table, head = np.c_[xyz, normal, np.arange(40) % 2], "x,y,z,nx,ny,nz,label"
            if name == "mug" or number >= without:
                table, head = np.c_[table, np.linspace(0, 60000, 40)], f"{head},intensity"
            np.savetxt(root / name / f"{number}.csv", table, delimiter=",", header=head, comments="")


def test_features_that_are_wanted_of_a_folder(tmp_path: Path) -> None:
    write_intensity(tmp_path)
    note = "note: intensity reaches 6e+04: numbers of about 1"
    assert note in info(tmp_path) and "features: xyz, intensity, normal\n" in info(tmp_path)
    wanted = info(tmp_path, features=["normal", "intensity"])
    assert note in wanted and "features: xyz, normal, intensity\n" in wanted
    assert "reaches" not in (plain := info(tmp_path, features=[])) and "features: xyz\n" in plain
    for missing in ("nonsense", "color"):
        with pytest.raises(ValueError, match=f"expected training files with {missing}, got none: ") as error:
            info(tmp_path, features=[missing])
        assert "\n" not in str(error.value) and "this one has normal, intensity" in str(error.value)


def test_files_that_lack_a_wanted_feature_are_refused(tmp_path: Path) -> None:
    write_intensity(tmp_path, without=2)
    assert "some files hold intensity, not all" in info(tmp_path) and "reaches" not in info(tmp_path)
    said = info(tmp_path, features=["intensity"])
    assert "note: a training refuses this:\n  every file must hold intensity, 2 of 18 do not" in said
    assert "note: 2 files cannot be read:" in said and "it has no feature intensity" in said
    assert "more than one in ten" not in said and "intensity reaches 6e+04" in said
    with pytest.raises(ValueError, match="it has no feature intensity"):
        open_dataset("folder", tmp_path, "train", features=["intensity"])


def test_shapes_looked_at_are_spread_and_no_more_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "LOOKED_AT", 4)
    assert overview._spread(7) == [0, 1, 3, 5] and overview._spread(3) == [0, 1, 2]


def test_hints_of_the_commands_name_their_own_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_intensity(tmp_path / "in", 3)
    imported = ["data", "import-parts", str(tmp_path / "in")]
    cli.main([*imported, str(tmp_path / "usual")])
    assert "not kept: intensity, which all files hold: --features normal intensity" in capsys.readouterr().out
    cli.main([*imported, str(tmp_path / "one"), "--features", "intensity"])
    cli.main([*imported, str(tmp_path / "both"), "--features", "normal", "intensity"])
    for name, remedy in (("one", "--features intensity"), ("both", "--features color intensity")):
        with pytest.raises(SystemExit) as error:
            cli.main(["data", "info", str(tmp_path / name)])
        assert f"such as {remedy}, or --features with no name for xyz alone" in str(error.value)
        assert "data.features" not in str(error.value)
        with pytest.raises(ValueError, match="between xyz and the part, got . columns; name what") as error:
            open_dataset("shapenetpart", tmp_path / name, "train")
        such = remedy.removeprefix("--features ").replace(" ", ",")
        alone = "take data.features=[] for xyz alone"
        assert str(error.value).endswith(f"such as data.features=[{such}] of a training, or {alone}")


def test_hints_are_those_of_the_command_though_paths_look_like_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data.features=[color]"
    (root / "cup").mkdir(parents=True)
    table = np.random.default_rng(0).uniform(0, 1, (40, 6))
    np.savetxt(root / "cup" / "a.txt", table)
    with pytest.raises(SystemExit) as error:
        cli.main(["data", "info", str(root), "--features", "normal"])
    said = str(error.value)
    assert str(root) in said and "got none" in said and "(normal is column 4 to 6); name what" in said
    assert said.endswith("such as --features color, or x,y,z,r,g,b in the first line of a text")
