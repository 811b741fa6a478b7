"""Names of features: how they are written, how wide they are, and which numbers can be them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bixt3d.datasets.features import (
    FeatureError,
    assumed_features,
    channel_count,
    check_features,
    columns_of,
    log_notes,
    mend_features,
    name_of,
    parse_features,
    width_of,
)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, 3), dim=-1)


def points(*features: Tensor) -> Tensor:
    """A cloud (20, 3 + F) with these features (20, width)."""
    return torch.cat([torch.randn(20, 3), *features], -1)


# Names and widths


@pytest.mark.parametrize(
    ("stated", "written", "widths"),
    [
        ((), (), []),
        (("normal",), ("normal",), [3]),
        (["color", "intensity", "height"], ("color", "intensity", "height"), [3, 1, 1]),
        ("color", ("color",), [3]),
        (("normal:3", ("color", 3), "intensity:1"), ("normal", "color", "intensity"), [3, 3, 1]),
        (("curvature",), ("curvature",), [1]),
        (("curvature:1",), ("curvature",), [1]),
        (("fpfh:33", ("eigen", 2)), ("fpfh:33", "eigen:2"), [33, 2]),
        ((("fpfh", None),), ("fpfh",), [1]),
        (("a_b-c", "Höhe"), ("a_b-c", "Höhe"), [1, 1]),
        ((name for name in ("color", "own:2")), ("color", "own:2"), [3, 2]),
    ],
)
def test_how_features_are_written(stated: Any, written: tuple[str, ...], widths: list[int]) -> None:
    features = parse_features(stated)
    assert features == written and [width_of(feature) for feature in features] == widths
    assert parse_features(features) == features
    assert channel_count(features) == 3 + sum(widths)


def test_where_features_stand() -> None:
    features = parse_features(["color", "fpfh:33", "height"])
    columns = columns_of(features)
    assert list(columns) == [name_of(feature) for feature in features] == ["color", "fpfh", "height"]
    assert columns == {"color": slice(3, 6), "fpfh": slice(6, 39), "height": slice(39, 40)}
    assert columns_of(()) == {}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (("color", "color"), "expected each name once, got color more than once"),
        (("own", "own:2"), "expected each name once, got own more than once"),
        (("",), "expected names such as color, or name:width, got ''"),
        ((" ",), "got ' '"),
        (("my feature",), "got 'my feature'"),
        (("a.b",), "got 'a.b'"),
        (("a/b",), "got 'a/b'"),
        (("_",), "got '_'"),
        ((3,), "got 3"),
        ((None,), "got None"),
        ((("a", 1, 2),), "expected names"),
        ((b"color",), "expected names"),
        (("xyz", "color"), "beside xyz, which is always there, got xyz"),
        (("own:0",), "own: expected a width of at least 1, got 0"),
        (("own:-1",), "own: expected a width of at least 1, got '-1'"),
        (("own:",), "got ''"),
        (("own:two",), "got 'two'"),
        (("own:1:2",), "got '1:2'"),
        ((("own", True),), "got True"),
        ((("own", 2.0),), "got 2.0"),
        (("color:4",), "color: expected the width 3, got 4"),
        (("normal:1",), "normal: expected the width 3, got 1"),
        ((("height", 2),), "height: expected the width 1, got 2"),
        (3, "features: expected names, got 3"),
        (None, "features: expected names, got None"),
    ],
)
def test_wrong_names(stated: Any, message: str) -> None:
    with pytest.raises(ValueError, match="features: ") as caught:
        parse_features(stated)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stated", "channels", "written"),
    [
        (("own",), 8, ("own:5",)),
        (("own",), 4, ("own",)),
        (("color", "own"), 9, ("color", "own:3")),
        (("own", "normal"), 7, ("own", "normal")),
        (("a:2", "own"), 8, ("a:2", "own:3")),
        (("own", "other"), 5, ("own", "other")),
        ((), 3, ()),
    ],
)
def test_the_width_of_one_follows_from_the_channels(
    stated: tuple[str, ...], channels: int, written: tuple[str, ...]
) -> None:
    assert parse_features(stated, channels) == written


@pytest.mark.parametrize(
    ("stated", "channels", "message"),
    [
        (("color",), 7, "expected 6 channels (xyz 3, color 3), got 7"),
        (("color", "own:2"), 6, "expected 8 channels (xyz 3, color 3, own 2), got 6"),
        (("own", "other"), 7, "expected 5 channels (xyz 3, own 1, other 1), got 7"),
        (("own",), 3, "expected 4 channels (xyz 3, own 1), got 3"),
        ((), 6, "expected 3 channels (xyz 3), got 6"),
    ],
)
def test_channels_that_do_not_fit(stated: tuple[str, ...], channels: int, message: str) -> None:
    with pytest.raises(ValueError, match="features: expected") as caught:
        parse_features(stated, channels)
    assert message in str(caught.value)
    assert "name what stands beside xyz: normal, color, intensity, height, or name:width" in str(caught.value)


# What numbers can be


def test_six_channels_of_which_nothing_is_said() -> None:
    assert assumed_features(torch.randn(2, 20, 3)) == ()
    assert assumed_features(points(unit(20))[None]) == ("normal",)
    assert assumed_features(points(unit(20) * 1.04)) == ("normal",)  # printed with few digits
    some = unit(20)
    some[3:9] = 0  # unknown
    assert assumed_features(points(some)) == ("normal",)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (torch.full((20, 3), 0.5), "got numbers such as (0.5, 0.5, 0.5), as colours have of length 0.866"),
        (unit(20) * 2, "of length 2"),
        (torch.rand(20, 1), "in 4 channels, such as features=('color',), got none"),
        (torch.rand(20, 7), "in 10 channels"),
    ],
)
def test_channels_that_nobody_names(beside: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match="expected the names of what stands beside xyz") as caught:
        assumed_features(points(beside))
    assert message in str(caught.value)


def test_numbers_that_can_be_features() -> None:
    zero = torch.zeros(20, 3)
    for normals in (unit(20), zero, torch.where(torch.arange(20)[:, None] < 4, zero, unit(20))):
        check_features(points(normals), ("normal",), "a.ply")
    for colors in (torch.rand(20, 3), zero, zero + 1):
        check_features(points(colors, torch.randn(20, 1) * 100), ("color", "intensity"), "a.ply")
    check_features(points(unit(20), torch.rand(20, 3)).expand(2, -1, -1), ("normal", "color"), "a.ply")
    check_features(points(torch.full((20, 5), -1e30)), ("own:5",), "a.ply")
    check_features(points(), (), "a.ply")


@pytest.mark.parametrize(
    ("features", "beside", "message"),
    [
        (
            ("normal",),
            torch.rand(20, 3),
            "feature normal: expected vectors of length 1 (or 0, where unknown)",
        ),
        (("normal",), torch.rand(20, 3), "; name what they are, such as data.features=[color]"),
        (
            ("normal",),
            torch.full((20, 3), 1.0),
            "got numbers such as (1, 1, 1), as colours have of length 1.73",
        ),
        (("normal",), unit(20) * 0.9, "of length 0.9"),
        (("color",), torch.rand(20, 3) - 1, "feature color: expected red, green and blue from 0 to 1, got -"),
        (("color",), torch.full((20, 3), 255.0), "got 255 to 255; divide them by 255"),
        (("color",), torch.full((20, 3), 256.0), "got 256 to 256"),
        (("color",), torch.full((20, 3), 1.01), "got 1.01 to 1.01; divide them by 255"),
        (("own", "color"), torch.full((20, 4), -3.0), "feature color: expected"),
        (("own:2", "normal"), torch.ones(20, 5), "feature normal: expected"),
    ],
)
def test_numbers_that_cannot(features: tuple[str, ...], beside: Tensor, message: str) -> None:
    for shape in ((20, -1), (2, 10, -1)):
        with pytest.raises(FeatureError, match=r"^a\.ply: feature ") as caught:
            check_features(points(beside).reshape(*shape), features, "a.ply")
        assert message in str(caught.value)


# What is mended


def test_normals_of_other_lengths_are_scaled(caplog: pytest.LogCaptureFixture) -> None:
    long = unit(20) * (1 + torch.rand(20, 1) * 5)
    long[7] = 0
    cloud = points(torch.rand(20, 1), long).double()
    before = cloud.clone()
    mended = mend_features(cloud, ("intensity", "normal"), "a.ply")
    assert torch.equal(cloud, before) and mended.dtype == torch.float64
    assert torch.equal(mended[:, :4], cloud[:, :4])
    torch.testing.assert_close(mended[:, 4:], F.normalize(cloud[:, 4:], dim=-1))
    assert not mended[7, 4:].any()
    assert [record.getMessage() for record in caplog.records] == [
        "a.ply: normals of other lengths are scaled to length 1"
    ]


def test_colours_up_to_255_are_divided(caplog: pytest.LogCaptureFixture) -> None:
    colors = torch.randint(0, 256, (20, 3)).float()
    colors[0, 0] = 250
    cloud = points(unit(20), colors)
    before = cloud.clone()
    mended = mend_features(cloud, ("normal", "color"), "a.ply")
    assert torch.equal(cloud, before)
    torch.testing.assert_close(mended[:, 6:], colors / 255)
    assert torch.equal(mended[:, :6], cloud[:, :6])
    (record,) = caplog.records
    assert record.getMessage() == f"a.ply: colours up to {colors.max():g} are divided by 255"


def test_what_needs_no_mending_stays_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cloud = points(unit(20), torch.rand(20, 3), torch.randn(20, 1) * 300)
    assert mend_features(cloud, ("normal", "color", "intensity"), "a.ply") is cloud
    assert mend_features(cloud, ("own:7",), "a.ply") is cloud
    assert not caplog.records


@pytest.mark.parametrize(
    ("features", "beside"),
    [
        (("normal",), torch.rand(20, 3) * 255),  # as colours are
        (("normal",), torch.full((20, 3), 0.2)),
        (("color",), torch.full((20, 3), -0.1)),
        (("color",), torch.full((20, 3), 65535.0)),
        (("color",), torch.full((20, 3), 1.5)),  # neither of 1 nor, by its looks, of 255
    ],
)
def test_what_cannot_be_mended(features: tuple[str, ...], beside: Tensor) -> None:
    with pytest.raises(FeatureError, match=r"^a\.ply: feature"):
        mend_features(points(beside), features, "a.ply")


def test_notes_of_many_files_are_one(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []
    for name in ("a.ply", "b.ply", "c.ply"):
        mend_features(points(unit(20) * 3), ("normal",), name, notes)
    assert not caplog.records and len(notes) == 3
    log_notes(notes)
    log_notes(notes[:1])
    log_notes([])
    first = "a.ply: normals of other lengths are scaled to length 1"
    assert [record.getMessage() for record in caplog.records] == [f"{first} (and 2 more files)", first]
    caplog.clear()
    others = [f"{name}.txt: {count} of 50 points are NaN" for name, count in (("d", 3), ("e", 4))]
    log_notes([others[0], *notes, others[1]])  # each kind is told, whatever its numbers
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{others[0]} (and 1 more file)", f"{first} (and 2 more files)"]
