from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh

from bixt3d.datasets.synthetic import shapes
from bixt3d.datasets.synthetic.shapes import (
    CATEGORIES,
    PART_IDS,
    PARTS,
    make_shape,
    sample_shape,
    shapes_are_ready,
    write_shapes,
)

MODELNET = "modelnet40_ply_hdf5_2048"
SHAPENET = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
PER_CLASS, NUM_POINTS = 10, 256


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    return write_shapes(root, per_class=PER_CLASS, num_points=NUM_POINTS, seed=3, progress=False)


def read_split(folder: Path, split: str) -> dict[str, np.ndarray]:
    names = (folder / MODELNET / f"{split}_files.txt").read_text().split()
    arrays: dict[str, list[np.ndarray]] = {}
    for name in names:
        assert name.startswith(f"data/{MODELNET}/ply_data_{split}")
        with h5py.File(folder / MODELNET / Path(name).name) as file:
            for key in file:
                arrays.setdefault(key, []).append(file[key][()])
    return {key: np.concatenate(parts) for key, parts in arrays.items()}


def read_names(folder: Path, split: str) -> list[str]:
    path = folder / SHAPENET / "train_test_split" / f"shuffled_{split}_file_list.json"
    names: list[str] = json.loads(path.read_text())
    return names


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------- one shape


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_part_occurs_and_every_piece_is_a_closed_solid(category: str) -> None:
    assert 2 <= len(PARTS[category]) <= 4
    seen = set()
    for seed in range(25):
        for part, mesh in shapes.MODELS[category](np.random.default_rng(seed)):
            merged = trimesh.Trimesh(mesh.vertices, mesh.faces)
            assert merged.is_watertight and merged.is_winding_consistent, (part, seed)
            assert merged.volume > 0, f"{part}: the faces look inwards (seed {seed})"
            seen.add(part)
    assert seen == set(PARTS[category])


@pytest.mark.parametrize("category", CATEGORIES)
def test_make_shape_labels_each_face_and_stands_upright(category: str) -> None:
    mesh, face_parts = make_shape(category, np.random.default_rng(0))
    assert face_parts.shape == (len(mesh.faces),) and face_parts.dtype == np.int64
    assert set(face_parts) <= set(range(len(PARTS[category])))
    assert np.isfinite(mesh.vertices).all()
    assert -0.1 < mesh.bounds[0, 1] < 0.5


@pytest.mark.parametrize(
    ("category", "upper", "lower"),
    [
        ("chair", "back", "leg"),
        ("table", "top", "leg"),
        ("lamp", "shade", "base"),
        ("rocket", "nose", "fin"),
        ("bottle", "neck", "body"),
        ("guitar", "head", "body"),
        ("hammer", "head", "handle"),
        ("car", "roof", "wheel"),
        ("mug", "lid", "body"),
    ],
)
def test_y_is_up(category: str, upper: str, lower: str) -> None:
    for seed in range(10):
        mesh, face_parts = make_shape(category, np.random.default_rng(seed))
        heights = {
            part: mesh.triangles_center[face_parts == PARTS[category].index(part), 1]
            for part in (upper, lower)
        }
        if all(len(values) for values in heights.values()):
            assert heights[upper].mean() > heights[lower].mean(), seed


def test_optional_parts_come_and_go() -> None:
    counts = {len(np.unique(make_shape("chair", np.random.default_rng(seed))[1])) for seed in range(12)}
    assert counts == {3, 4}


def test_sample_shape_is_even_by_area_and_knows_normals_and_parts() -> None:
    # A slab in the plane y = 0 of part 0, three times as large as the slab of part 1 above it.
    lower = trimesh.Trimesh([[0, 0, 0], [0, 0, 3], [3, 0, 0]], [[0, 1, 2]], process=False)
    upper = trimesh.Trimesh([[0, 1, 0], [3, 1, 0], [0, 1, 1]], [[0, 1, 2]], process=False)
    mesh = trimesh.util.concatenate([lower, upper])
    points, normals, parts = sample_shape(mesh, np.array([0, 1]), 20000, np.random.default_rng(0))
    assert points.dtype == normals.dtype == np.float32 and parts.dtype == np.int64
    assert (parts == 0).mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(normals[parts == 0], np.tile([[0, 1, 0]], ((parts == 0).sum(), 1)), atol=1e-6)
    np.testing.assert_allclose(normals[parts == 1], np.tile([[0, -1, 0]], ((parts == 1).sum(), 1)), atol=1e-6)
    assert np.ptp(points[parts == 0, 1]) < 1e-6 < points[parts == 1, 1].min() - points[parts == 0, 1].max()
    # Even within the triangle: the mean is its centroid, a third of the way along each side.
    corner = points[parts == 0].min(axis=0)
    side = np.ptp(points[parts == 0, 0])
    np.testing.assert_allclose((points[parts == 0] - corner).mean(axis=0)[[0, 2]], side / 3, rtol=0.03)


def test_sample_shape_rejects_parts_of_another_mesh() -> None:
    mesh, face_parts = make_shape("mug", np.random.default_rng(0))
    with pytest.raises(ValueError, match="one part for each"):
        sample_shape(mesh, face_parts[:-1], 64, np.random.default_rng(0))


def test_unknown_category_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="got 'chairs'; did you mean 'chair'"):
        make_shape("chairs", np.random.default_rng(0))


# ----------------------------------------------------------- the written layouts


def test_hdf5_layout(written: Path) -> None:
    assert (written / MODELNET / "shape_names.txt").read_text().split() == sorted(CATEGORIES)
    total = 0
    for split in ("train", "test"):
        arrays = read_split(written, split)
        count = len(arrays["data"])
        total += count
        assert arrays["data"].shape == arrays["normal"].shape == (count, NUM_POINTS, 3)
        assert arrays["data"].dtype == arrays["normal"].dtype == np.float32
        assert arrays["label"].shape == (count, 1) and arrays["label"].dtype == np.uint8
        assert arrays["pid"].shape == (count, NUM_POINTS) and arrays["pid"].dtype == np.int64
        np.testing.assert_allclose(np.linalg.norm(arrays["normal"], axis=2), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(arrays["data"], axis=2).max(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(arrays["data"].mean(axis=1), 0, atol=1e-5)
        for label, pid in zip(arrays["label"][:, 0], arrays["pid"], strict=True):
            assert set(pid) <= set(PART_IDS[CATEGORIES[label]].values())
        np.testing.assert_array_equal(np.bincount(arrays["label"][:, 0]), count // len(CATEGORIES))
    assert total == PER_CLASS * len(CATEGORIES)


def test_every_part_id_is_in_the_training_split(written: Path) -> None:
    ids = [part for parts in PART_IDS.values() for part in parts.values()]
    assert ids == list(range(len(ids)))
    np.testing.assert_array_equal(np.unique(read_split(written, "train")["pid"]), ids)


def test_part_layout_has_the_same_shapes_in_the_same_order(written: Path) -> None:
    folder = written / SHAPENET
    pairs = [line.split("\t") for line in (folder / "synsetoffset2category.txt").read_text().splitlines()]
    synsets = {synset: name for name, synset in pairs}
    assert list(synsets.values()) == list(CATEGORIES)
    assert all(re.fullmatch(r"\d{8}", synset) for synset in synsets)
    assert json.loads((folder / "parts.json").read_text()) == PART_IDS

    names = {split: read_names(written, split) for split in ("train", "val", "test")}
    assert {split: len(entries) // len(CATEGORIES) for split, entries in names.items()} == {
        "train": 7,
        "val": 1,
        "test": 2,
    }
    everything = names["train"] + names["val"] + names["test"]
    on_disk = {f"shape_data/{path.parent.name}/{path.stem}" for path in folder.glob("*/*.txt")}
    assert len(set(everything)) == len(everything) and set(everything) == on_disk

    arrays = {"train": read_split(written, "train"), "test": read_split(written, "test")}
    for split, entries in {"train": names["train"] + names["val"], "test": names["test"]}.items():
        for row, name in enumerate(entries):
            _, synset, token = name.split("/")
            table = np.loadtxt(folder / synset / f"{token}.txt")
            assert table.shape == (NUM_POINTS, 7)
            np.testing.assert_allclose(table[:, :3], arrays[split]["data"][row], atol=1e-6)
            np.testing.assert_allclose(table[:, 3:6], arrays[split]["normal"][row], atol=1e-6)
            np.testing.assert_array_equal(table[:, 6], arrays[split]["pid"][row])
            assert synsets[synset] == CATEGORIES[arrays[split]["label"][row, 0]]


def test_meshes_are_test_shapes_at_another_scale(written: Path) -> None:
    paths = sorted((written / "meshes").rglob("*.off"))
    assert len(paths) == 2 * len(CATEGORIES)
    tokens = {name.split("/")[-1] for name in read_names(written, "test")}
    sizes = []
    for path in paths:
        split, category = path.parent.parent.name, path.parent.name
        assert split == "test" and path.stem.startswith(f"{category}_") and path.stem in tokens
        mesh = trimesh.load_mesh(path, process=False)
        cloud = np.loadtxt(next((written / SHAPENET).glob(f"*/{path.stem}.txt")))[:, :3]
        # The same shape: its proportions agree with those of the sampled points.
        ratio = mesh.extents / np.ptp(cloud, axis=0)
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.2)
        sizes.append(mesh.scale)
    assert max(sizes) / min(sizes) > 10


def test_files_are_cut_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SHAPES_PER_FILE", 8)
    folder = write_shapes(tmp_path, per_class=3, num_points=32, progress=False)
    train = (folder / MODELNET / "train_files.txt").read_text().splitlines()
    assert train == [f"data/{MODELNET}/ply_data_train{i}.h5" for i in range(3)]
    assert len(read_split(folder, "train")["data"]) == 20 and len(read_split(folder, "test")["data"]) == 10


# -------------------------------------------------------- repeatable, not trivial


def test_same_seed_same_bytes_other_seed_other_shapes(written: Path, tmp_path: Path) -> None:
    again = write_shapes(tmp_path / "a", per_class=PER_CLASS, num_points=NUM_POINTS, seed=3, progress=False)
    first, second = tree(written), tree(again)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []

    other = write_shapes(tmp_path / "b", per_class=3, num_points=NUM_POINTS, seed=4, progress=False)
    name = f"{SHAPENET}/90000001/airplane_0000.txt"
    assert tree(other)[name] != first[name]


def test_bounding_boxes_do_not_give_the_category_away() -> None:
    """Nearest neighbour on the extents: 80 training and 20 test shapes a category, as in the default set."""
    extents, label = [], []
    for index, category in enumerate(CATEGORIES):
        for shape in range(100):
            rng = np.random.default_rng([0, index, shape])
            points, _, _ = sample_shape(*make_shape(category, rng), 256, rng)
            extents.append(np.ptp(points, axis=0))
            label.append(index)
    boxes, labels = np.array(extents), np.array(label)
    train = np.arange(len(labels)) % 100 < 80
    assert np.bincount(labels[~train]).tolist() == [20] * len(CATEGORIES)
    for features in (boxes, np.sort(boxes, axis=1), boxes / boxes.max(axis=1, keepdims=True)):
        distance = np.linalg.norm(features[~train, None] - features[None, train], axis=2)
        accuracy = (labels[train][distance.argmin(axis=1)] == labels[~train]).mean()
        assert 0.1 < accuracy < 0.7


# ------------------------------------------------------------- whole or not at all


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shapes.make_shape
    calls = 0

    def interrupted(category: str, rng: np.random.Generator) -> tuple[trimesh.Trimesh, np.ndarray]:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return whole(category, rng)

    monkeypatch.setattr(shapes, "make_shape", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path, per_class=3, num_points=32, progress=False)
    assert calls == 20 and list(tmp_path.iterdir()) == []
    assert not shapes_are_ready(tmp_path)

    monkeypatch.undo()
    kept = tree(write_shapes(tmp_path, per_class=3, num_points=32, progress=False))
    calls = 0
    monkeypatch.setattr(shapes, "make_shape", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path, per_class=3, num_points=64, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert tree(tmp_path / "shapes") == kept


def test_a_failed_last_step_brings_the_old_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tree(write_shapes(tmp_path, per_class=3, num_points=32, progress=False))
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".making"):
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="disk full"):
        write_shapes(tmp_path, per_class=3, num_points=64, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"] and tree(tmp_path / "shapes") == kept


def test_a_set_that_is_there_is_kept_and_another_is_replaced(tmp_path: Path) -> None:
    assert not shapes_are_ready(tmp_path)
    folder = write_shapes(tmp_path, per_class=3, num_points=32, seed=1, progress=False)
    assert folder == tmp_path / "shapes"
    assert shapes_are_ready(tmp_path) and shapes_are_ready(tmp_path, per_class=3, num_points=32, seed=1)
    assert not shapes_are_ready(tmp_path, seed=2) and not shapes_are_ready(tmp_path, num_points=64)

    mark = folder / "cache.bin"
    mark.write_bytes(b"left by a loader")
    write_shapes(tmp_path, per_class=3, num_points=32, seed=1, progress=False)
    assert mark.exists()
    write_shapes(tmp_path, per_class=3, num_points=64, seed=1, progress=False)
    assert not mark.exists() and shapes_are_ready(tmp_path, num_points=64)

    (folder / "shapes.json").write_text('{"format": 0, "per_class": 3, "num_points": 64, "seed": 1}')
    assert not shapes_are_ready(tmp_path)
    (folder / "shapes.json").write_text("{half")
    assert not shapes_are_ready(tmp_path)


# ---------------------------------------------------------------- users' mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_class": 2}, "per_class.*at least 3.*got 2"),
        ({"per_class": 3.5}, "per_class.*whole number"),
        ({"per_class": True}, "per_class.*whole number"),
        ({"num_points": 31}, "num_points.*at least 32.*got 31"),
        ({"num_points": "many"}, "num_points.*whole number.*'many'"),
        ({"seed": -1}, "seed.*at least 0.*got -1"),
    ],
)
def test_bad_numbers(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_shapes(tmp_path, progress=False, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_others_put_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        write_shapes(tmp_path, per_class=3, num_points=32, progress=False)
    assert tree(tmp_path) == {"shapes/thesis.txt": b"years of work"}

    for below in ("", "data"):
        with pytest.raises(ValueError, match=r"thesis\.txt is a file"):
            write_shapes(
                tmp_path / "shapes" / "thesis.txt" / below, per_class=3, num_points=32, progress=False
            )
