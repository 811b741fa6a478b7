"""Labels of LAS files read in pieces: those of the whole file at once, and nothing else of it changes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pytest
import torch
from laspy.vlrs.vlrlist import VLRList

import bixt3d
from bixt3d.datasets import Preprocess
from bixt3d.datasets.columns import place_column
from bixt3d.datasets.loader import CloudLoader
from bixt3d.inference import Predictor, stream
from bixt3d.inference.stream import Cells, label_las
from bixt3d.tasks import Description, scene_segmentation
from bixt3d.visualize.labels import label_names
from tests.models.randomize import randomize

NAMES = ("ground", "house", "tree", "car")


def write_scan(path: Path, count: int, seed: int = 0, kind: int = 3) -> np.ndarray:
    """A place of 120 x 80 m far from the origin, with all the values of its format."""
    random = np.random.default_rng(seed)
    header = laspy.LasHeader(point_format=kind, version="1.4" if kind > 5 else "1.2")
    header.scales, header.offsets = [0.003, 0.003, 0.003], [637_000, 851_000, 400]
    header.vlrs.append(laspy.VLR("bixt3d", 7, "a note", b"kept"))
    las = laspy.LasData(header)
    xyz = random.uniform([0, 0, 0], [120, 80, 9], (count, 3)) + [637_000, 851_000, 400]
    las.x, las.y, las.z = xyz.T
    las.intensity = random.integers(0, 65_536, count)
    las.return_number = random.integers(1, 5, count)
    las.user_data = random.integers(0, 256, count)
    las.point_source_id = random.integers(0, 999, count)
    las.gps_time = random.uniform(0, 1e6, count)
    las.red, las.green, las.blue = random.integers(0, 65_536, (3, count))
    las.classification = random.integers(0, 19, count)
    path.parent.mkdir(exist_ok=True)
    las.write(path)
    return np.asarray(las.xyz)


@pytest.fixture
def predictor() -> Predictor:
    model = bixt3d.create_model("bixt_pico_sceneseg_encdec", num_classes=4, neighbors=8, in_dims=4)
    randomize(model)
    return Predictor(described(model, ("intensity",)))


def described(model: torch.nn.Module, features: tuple[str, ...] = (), radius: float = 9.0) -> torch.nn.Module:
    facts = {
        "classes": ["scene"],
        "parts_of_category": [[0, 1, 3]],
        "part_names": list(NAMES),
        **{"radius": radius, "step": 1.0},
    }
    args = {"num_classes": 4, "in_dims": 3 + len(features)}
    model.description = Description(
        "scene_segmentation",
        {"name": "bixt_pico_sceneseg_encdec", "args": args},
        facts,
        Preprocess(128, "random", features=features, up="z"),
    )
    return model


def test_labels_are_those_of_the_whole_file(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "scan.laz", tmp_path / "out" / "scan.laz"
    write_scan(source, 2000)
    whole = predictor.segment(source)
    assert set(np.unique(whole.parts)) <= {0, 1, 3} and len(np.unique(whole.parts)) > 1
    monkeypatch.setattr(stream, "CHUNK", 300)
    monkeypatch.setattr(stream, "BLOCK", 500)
    said = label_las(predictor, source, target)
    found = np.asarray(laspy.read(target).classification)
    assert (found == whole.parts).mean() > 0.999  # other batches round otherwise
    assert said.points == 2000 and said.path == target
    assert said.counts.tolist()[:4] == np.bincount(found, minlength=4).tolist() and said.counts.sum() == 2000
    one = int(whole.parts[0])
    assert said.confidence[one] == pytest.approx(whole.probabilities[whole.parts == one].mean(), abs=1e-3)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "scan.laz", "scan.laz"]


@pytest.mark.parametrize("radius", [9.0, 200.0])
def test_evaluation_and_prediction_label_a_scene_alike(
    radius: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In map coordinates, by columns of one grid; with a radius beyond the scene's extent by one column."""
    model = bixt3d.create_model("bixt_pico_sceneseg_encdec", num_classes=4, neighbors=8, in_dims=4)
    randomize(model)
    predictor = Predictor(described(model, ("intensity",), radius))
    source = tmp_path / "test" / "scan.las"
    write_scan(source, 2000)
    names = "".join(f"  {number}: label{number}\n" for number in range(19))
    (tmp_path / "labels.yaml").write_text(f"names:\n{names}")
    split = bixt3d.open_dataset("scenes", tmp_path, "test", features=("intensity",), up="z")
    task = predictor.task
    task.num_points, task.features, task.parts_of_category = 128, split.features, ((0, 1, 2, 3),)
    columns: list[int] = []

    def counted(points: torch.Tensor, *about: Any) -> torch.Tensor:
        columns.append(points.shape[1])
        return place_column(points, *about)

    monkeypatch.setattr(scene_segmentation, "place_column", counted)
    with torch.no_grad():
        (batch,) = CloudLoader(split, 1)
        (evaluated,) = task.answers(task.forward(predictor.model, batch), batch)
    evaluation = columns.copy()
    columns.clear()
    predicted = predictor.segment(source)
    assert columns == evaluation and (len(columns) == 1) == (radius == 200.0)
    assert np.array_equal(evaluated.parts, predicted.parts)
    np.testing.assert_allclose(evaluated.probabilities, predicted.probabilities, atol=1e-5)
    monkeypatch.setattr(stream, "BLOCK", 500)
    label_las(predictor, source, tmp_path / "labelled.las")
    found = np.asarray(laspy.read(tmp_path / "labelled.las").classification)
    assert (found == predicted.parts).mean() > 0.999


@pytest.mark.parametrize(("kind", "suffix"), [(3, ".laz"), (7, ".las")])
def test_all_else_of_a_file_stays_as_it_is(
    predictor: Predictor, tmp_path: Path, kind: int, suffix: str
) -> None:
    source, target = tmp_path / f"scan{suffix}", tmp_path / f"labelled{suffix}"
    write_scan(source, 700, kind=kind)
    label_las(predictor, source, target)
    before, after = laspy.read(source), laspy.read(target)
    assert after.header.scales.tolist() == before.header.scales.tolist()
    assert after.header.offsets.tolist() == before.header.offsets.tolist()
    assert after.header.point_format == before.header.point_format
    assert [vlr.record_data_bytes() for vlr in after.vlrs if vlr.user_id == "bixt3d"] == [b"kept"]
    for name in before.point_format.dimension_names:
        same = bool((np.asarray(before[name]) == np.asarray(after[name])).all())
        assert same == (name != "classification"), name
    assert after.header.are_points_compressed == (suffix == ".laz")


def write_copc(path: Path, count: int, user: str = "copc") -> None:
    """A scan as a COPC file of one node, with an extended record of somebody else."""
    write_scan(path, count, kind=7)
    las = laspy.read(path)
    las.header.vlrs = [laspy.VLR(user, 1, "info", bytes(160)), *las.header.vlrs]
    las.evlrs = VLRList([laspy.VLR(user, 1000, "hierarchy", bytes(32)), laspy.VLR("bixt3d", 8, "", b"far")])
    las.write(path)
    content = bytearray(path.read_bytes())
    (points,), (extended,) = struct.unpack_from("<I", content, 96), struct.unpack_from("<Q", content, 235)
    (table,) = struct.unpack_from("<q", content, points)  # of chunks, behind the only one
    root = extended + 60
    middle = [637_060.0, 851_040.0, 405.0]
    struct.pack_into("<5d2Q2d", content, 375 + 54, *middle, 61.0, 1.0, root, 32, 0.0, 1e6)
    struct.pack_into("<4iQ2i", content, root, 0, 0, 0, 0, points + 8, table - points - 8, count)
    path.write_bytes(content)


@pytest.mark.parametrize(("user", "suffix"), [("copc", ".laz"), ("COPC", ".laz"), ("copc", ".las")])
def test_a_copc_file_becomes_a_plain_one(
    user: str, suffix: str, predictor: Predictor, tmp_path: Path
) -> None:
    source = tmp_path / "scan.copc.laz"
    write_copc(source, 700, user)
    if user == "copc":
        with laspy.CopcReader.open(source) as reader:
            assert len(reader.query()) == 700
    (name,) = label_names([source], tmp_path)
    target = tmp_path / f"{name}{suffix}"
    assert not target.name.endswith(".copc.laz")
    said = label_las(predictor, source, target)
    before, after = laspy.read(source), laspy.read(target)
    assert said.points == len(after) == 700 and after.header.are_points_compressed == (suffix == ".laz")
    assert (after.xyz == before.xyz).all() and (after.gps_time == before.gps_time).all()
    assert (np.asarray(after.classification) == predictor.segment(source).parts).mean() > 0.99
    assert {vlr.user_id for vlr in after.vlrs} <= {"bixt3d", "laszip encoded"}
    assert [vlr.record_data_bytes() for vlr in after.vlrs if vlr.user_id == "bixt3d"] == [b"kept"]
    assert [vlr.record_data_bytes() for vlr in after.evlrs] == [b"far"]


def test_blocks_hold_every_point_once(tmp_path: Path) -> None:
    source = tmp_path / "scan.las"
    xyz = write_scan(source, 3000)
    cells = Cells(source, tmp_path, Preprocess(up="z"), reach=10.0)
    blocks = cells.blocks(400)
    assert len(blocks) > 6 and cells.counts.shape == (12, 8)
    seen = np.zeros(3000, int)
    for block in blocks:
        points, places, own = cells.read(block)
        assert (np.diff(places) > 0).all() and np.array_equal(points, xyz[places])
        seen[places[own]] += 1
        inside = points[own]
        near = ((xyz[:, :2] > inside[:, :2].min(0) - 9.9) & (xyz[:, :2] < inside[:, :2].max(0) + 9.9)).all(1)
        assert set(np.flatnonzero(near)) <= set(places)  # all within reach is there
        assert own.sum() <= 400
    assert (seen == 1).all()


def test_a_header_that_lies_about_the_extent_changes_no_label(predictor: Predictor, tmp_path: Path) -> None:
    source, target = tmp_path / "scan.las", tmp_path / "labelled.las"
    write_scan(source, 800)
    whole = predictor.segment(source)
    content = bytearray(source.read_bytes())
    content[179:227] = np.array([637_060, 637_010, 851_040, 851_030, 409, 400], "<f8").tobytes()
    source.write_bytes(content)
    label_las(predictor, source, target)
    assert (np.asarray(laspy.read(target).classification) == whole.parts).mean() > 0.99


def test_labels_are_written_by_the_numbers_of_the_files(predictor: Predictor, tmp_path: Path) -> None:
    source, plain, coded = tmp_path / "scan.las", tmp_path / "plain.las", tmp_path / "coded.las"
    write_scan(source, 400)
    said = label_las(predictor, source, plain)
    predictor.task.set_facts({**predictor.model.description.facts, "part_codes": [0, 2, 5, 6]})
    again = label_las(predictor, source, coded)
    assert (again.counts == said.counts).all()
    labels, codes = (np.asarray(laspy.read(path).classification) for path in (plain, coded))
    assert (codes == np.array([0, 2, 5, 6])[labels]).all() and not (codes == labels).all()
    for code, room in ((32, "hold labels up to 31, got 32"), (300, "up to 255, as LAS files hold, got 300")):
        predictor.task.part_codes = (code,) * 4
        with pytest.raises(ValueError, match=room):
            label_las(predictor, source, tmp_path / "out.las")


def test_labels_that_have_no_room_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "scan.las"
    write_scan(source, 300)
    predictor.task.part_names = tuple(map(str, range(40)))
    predictor.task.parts_of_category = ((36, 39),)
    predictor.model.reset_classifier(40)
    with pytest.raises(ValueError, match="scan.las: its points, of format 3, hold labels up to 31, got 36"):
        label_las(predictor, source, tmp_path / "out.las")
    assert not (tmp_path / "out.las").exists()


def test_what_cannot_be_labelled_is_said(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "scan.las"
    write_scan(source, 300)
    with pytest.raises(ValueError, match="expected another file than the one that is read"):
        label_las(predictor, source, source)
    with pytest.raises(FileNotFoundError, match="no file"):
        label_las(predictor, tmp_path / "none.las")
    classifier = Predictor(bixt3d.create_model("bixt_pico_cls_hierarchy"))
    with pytest.raises(ValueError, match="expected a model that labels scenes, got one for classification"):
        label_las(classifier, source)
    content = source.read_bytes()
    source.write_bytes(content[:-40])
    with pytest.raises(ValueError, match="scan.las: it announces"):
        label_las(predictor, source)


def test_a_file_that_changes_meanwhile_is_said(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "scan.las", tmp_path / "out.las"
    write_scan(source, 300)
    label = stream._label

    def changing(*given: Any) -> Any:
        write_scan(source, 200)
        return label(*given)

    monkeypatch.setattr(stream, "_label", changing)
    with pytest.raises(ValueError, match="scan.las: it has changed while it was read"):
        label_las(predictor, source, target)
    assert not target.exists()
