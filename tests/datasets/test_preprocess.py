"""What is done to a cloud before a model sees it, and how a checkpoint says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from bixt3d.datasets.preprocess import STORED_POINTS, Preprocess
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.ops import farthest_point_sample


def cloud(count: int, channels: int = 3) -> torch.Tensor:
    """Points (count, channels) of a map, whose rows are in the order of x."""
    points = torch.randn(count, channels, dtype=torch.float64)
    points[:, 0] = points[:, 0].sort().values
    points[:, :3] += torch.tensor([5e5, 5.4e6, 300.0])
    return points


def rows(points: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in points.tolist()]


def test_what_it_holds() -> None:
    preprocess = Preprocess()
    assert (preprocess.num_points, preprocess.order, preprocess.stored_points) == (None, "stored", 2048)
    assert preprocess.features == () and preprocess.channels == 3
    named = Preprocess(64, "fps", features=["color", ("fpfh", 33), "height:1"])  # type: ignore[arg-type]
    assert named.features == ("color", "fpfh:33", "height") and named.channels == 40
    with pytest.raises(AttributeError):
        named.order = "random"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": 0}, "num_points: expected a whole number of at least 1, got 0"),
        ({"num_points": True}, "num_points: .*got True"),
        ({"num_points": 8.0}, "num_points: .*got 8.0"),
        ({"stored_points": None}, "stored_points: .*got None"),
        ({"stored_points": -3}, "stored_points: .*got -3"),
        ({"order": "best"}, "order: expected one of stored, fps, random, got 'best'"),
        ({"features": ("color", "color")}, "features: expected each name once"),
        ({"features": ("color:4",)}, "features: color: expected the width 3"),
        ({"features": 3}, "features: expected names, got 3"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess(**changes)


def test_xyz_is_normalised_and_features_stay() -> None:
    points = cloud(100, 7)
    before = points.clone()
    seen = Preprocess(features=("color", "intensity")).normalize(points)
    assert torch.equal(points, before)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen[:, :3], unit_sphere(points[:, :3]).float())
    assert float(seen[:, :3].norm(dim=1).max()) == pytest.approx(1, abs=1e-6)  # also of a map
    assert torch.equal(seen[:, 3:], points[:, 3:].float())


@pytest.mark.parametrize("order", ["stored", "fps", "random"])
@pytest.mark.parametrize(
    ("own", "num_points", "stored"),
    [(300, 40, 100), (100, 40, 100), (90, 40, 100), (40, 40, 100), (300, 40, 8)],
)
def test_points_of_a_large_cloud(order: str, own: int, num_points: int, stored: int) -> None:
    preprocess = Preprocess(num_points, order, stored)
    points = preprocess.normalize(cloud(own, 4))
    chosen = preprocess.choose(points)
    assert chosen.shape == (num_points, 4)
    assert len(set(rows(chosen))) == num_points and set(rows(chosen)) <= set(rows(points))
    assert torch.equal(chosen, preprocess.choose(points))  # the same every time
    if order == "stored" and own in (num_points, stored):  # as a data set has it, and its first ones are fair
        assert torch.equal(chosen, points[:num_points])
    elif own > num_points:  # not the first rows, which are one side of the cloud
        assert abs(float(chosen[:, 0].mean() - points[:, 0].mean())) < 0.3
        assert not torch.equal(chosen, points[:num_points])


def test_farthest_points_are_those_of_the_stored_ones() -> None:
    points = Preprocess().normalize(cloud(60))
    chosen = Preprocess(16, "fps", 100).choose(points)
    assert torch.equal(chosen, points[farthest_point_sample(points[None], 16)[0]])


@pytest.mark.parametrize("order", ["stored", "fps", "random"])
def test_a_small_cloud_repeats_its_points(order: str) -> None:
    preprocess = Preprocess(25, order, features=("own",))
    points = preprocess.normalize(cloud(10, 4))
    chosen = preprocess.choose(points)
    assert chosen.shape == (25, 4) and set(rows(chosen)) == set(rows(points))
    assert len(set(rows(chosen[:10]))) == 10  # each comes once before any comes again
    counts = [rows(chosen).count(row) for row in rows(points)]
    assert max(counts) <= 3 and min(counts) >= 1
    if order != "random":
        assert max(counts) - min(counts) == 1


def test_all_points_where_no_number_is_said() -> None:
    points = Preprocess().normalize(cloud(50))
    assert torch.equal(Preprocess().choose(points), points)
    many = Preprocess(stored_points=20).normalize(cloud(50))
    assert sorted(rows(Preprocess(stored_points=20).choose(many))) == sorted(rows(many))


# In a checkpoint


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(1024, "fps", 2048, ("normal",)),
        Preprocess(64, "random", 100, ("color", "intensity", "own:5")),
    ],
)
def test_it_survives_json(preprocess: Preprocess) -> None:
    stated = json.loads(json.dumps(preprocess.to_dict()))
    assert Preprocess.from_dict(stated) == preprocess
    assert stated["channels"] == preprocess.channels and stated["features"] == list(preprocess.features)


@pytest.mark.parametrize(("channels", "features"), [(None, ()), (3, ()), (6, ("normal",))])
def test_checkpoints_of_before_name_no_features(channels: int | None, features: tuple[str, ...]) -> None:
    stated: dict[str, Any] = {"num_points": 64, "order": "fps", "stored_points": STORED_POINTS}
    if channels is not None:
        stated["channels"] = channels
    assert Preprocess.from_dict(stated) == Preprocess(64, "fps", STORED_POINTS, features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": None, "order": None}, "order: expected one of"),
        ({"num_points": "8"}, "num_points: expected a whole number"),
        ({"stored_points": ...}, "expected its settings, got .*KeyError"),
        ({"channels": 4}, "expected its settings"),
        ({"channels": [6]}, "expected its settings"),
        ({"features": ["color"], "channels": 3}, "expected 6 channels for xyz, color, got 3"),
        ({"features": [], "channels": 6}, "expected 3 channels for xyz, got 6"),
        ({"features": "color"}, "expected its settings"),
        ({"features": {"color": 3}}, "expected its settings"),
        ({"features": [1]}, "features: expected names"),
        ({"features": ["a", "a"]}, "features: expected each name once"),
    ],
)
def test_damaged_statements(changes: dict[str, Any], message: str) -> None:
    stated = {"num_points": 64, "order": "fps", "stored_points": 100, **changes}
    stated = {key: value for key, value in stated.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        Preprocess.from_dict(stated)


def test_statements_of_another_kind() -> None:
    for stated in (None, [], 3, "fps"):
        with pytest.raises(ValueError, match="preprocess: expected its settings"):
            Preprocess.from_dict(stated)  # type: ignore[arg-type]
