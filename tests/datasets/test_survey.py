"""Shapes that two splits share are found whatever their order and rounding; what is odd is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bixt3d.datasets import Split
from bixt3d.datasets.survey import find_notes, shared_shapes, survey_files, survey_split


def clouds(count: int, seed: int, points: int = 200) -> torch.Tensor:
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(seed))


def split(
    points: torch.Tensor, label: Any = None, classes: tuple[str, ...] = ("a", "b"), **fields: Any
) -> Split:
    label = torch.arange(len(points)) % len(classes) if label is None else torch.tensor(label)
    return Split(points, label, classes, **fields)


@pytest.mark.parametrize("change", ["order", "rounding", "place", "scale", "all"])
def test_shapes_of_the_same_points_are_found(change: str) -> None:
    train, test = clouds(20, 0), clouds(8, 1)
    copy = train[13]
    if change in ("order", "all"):
        copy = copy[torch.randperm(200, generator=torch.Generator().manual_seed(2))]
    if change in ("rounding", "all"):
        copy = (copy * 1000).round() / 1000
    if change in ("scale", "all"):
        copy = copy * 12.0
    if change in ("place", "all"):
        copy = copy + torch.tensor([3.0, -2.0, 1.0])
    test[5] = copy
    assert shared_shapes(survey_split(split(train)), survey_split(split(test))) == [(13, 5)]


def test_alike_is_not_the_same() -> None:
    train = clouds(20, 0)
    turned = train[:4, :, [0, 2, 1]] * torch.tensor([1.0, -1.0, 1.0])
    noisy = train[4:8] + 0.05 * clouds(4, 3)
    fewer = train[8:9, :150]
    known = survey_split(split(train))
    assert shared_shapes(known, survey_split(split(torch.cat([turned, noisy])))) == []
    assert shared_shapes(known, survey_split(split(fewer))) == []


def test_repeated_rows_count_once() -> None:
    whole = clouds(2, 0, 60)
    padded = whole[:, torch.arange(200) % 60]
    survey = survey_split(split(padded, count=torch.tensor([60, 60])))
    assert survey.count.tolist() == [60, 60]
    assert shared_shapes(survey, survey_split(split(whole))) == [(0, 0), (1, 1)]
    torch.testing.assert_close(survey.extent[0], (whole[0].amax(0) - whole[0].amin(0)).double())


def test_notes() -> None:
    train = split(clouds(34, 0), [0] * 31 + [1, 1, 1], names=tuple(f"t{i}" for i in range(34)))
    test = split(torch.cat([train.points[7:8], clouds(2, 1)]), [0, 0, 0], names=("x", "y", "z"))
    assert find_notes({"train": survey_split(train), "test": survey_split(test)}) == [
        "1 test shape is in train too: x = t7",
        "test has no shape of b",
        "train is out of balance: 31 a, 3 b; look at mAcc beside OA",
    ]
    fine = split(clouds(10, 5))
    assert find_notes({"train": survey_split(fine), "test": survey_split(split(clouds(4, 6)))}) == []
    (said,) = find_notes({"train": survey_split(fine), "val": survey_split(split(clouds(11, 6)))})
    assert said.startswith("val holds 2,200 points, and train 2,000: ") and said.endswith(
        "choose a folder val, or data.train_split=trainval"
    )


def test_copies_of_a_file_are_one_shape_whatever_is_drawn_of_them() -> None:
    train = split(clouds(6, 0), digests=("a", "b", "c", "d", "e", "f"))
    test = split(clouds(3, 1), digests=("x", "d", "y"))
    assert shared_shapes(survey_split(train), survey_split(test)) == [(3, 1)]
    some = survey_split(train.select([3, 5]))
    assert shared_shapes(some, survey_split(test)) == [(0, 1)]
    assert shared_shapes(some.select([1]), survey_split(test)) == []
    with pytest.raises(ValueError, match="digests: expected one for each of the 6 shapes"):
        split(clouds(6, 0), digests=("a",))


def test_clouds_that_are_drawn_from_the_same_are_one_shape() -> None:
    """Of meshes nothing is known: no number is no other's."""
    known = torch.randn(6, 14).double()
    known[2] = torch.nan
    few = torch.stack([known[2], known[4] + 5e-5, known[5] + 5e-4])
    moments = [tuple(map(tuple, table.tolist())) for table in (known, few)]
    train, test = split(clouds(6, 0), moments=moments[0]), split(clouds(3, 1), moments=moments[1])
    assert shared_shapes(survey_split(train), survey_split(test)) == [(4, 1)]
    some = survey_split(train.select([2, 4])), survey_split(test.select([1, 0]))
    assert shared_shapes(*some) == [(1, 0)]
    for meshes in ([0], [0, 0]):  # nothing but meshes in one of them, or in both
        assert shared_shapes(some[0].select(meshes), some[1]) == []
        assert shared_shapes(some[1], some[0].select(meshes)) == []
        assert shared_shapes(some[0].select(meshes), some[1].select([1])) == []


def test_files(tmp_path: Path) -> None:
    cloud = clouds(1, 0)[0].double().numpy()
    np.savetxt(tmp_path / "a.xyz", cloud * 7 + 5e5)
    np.save(tmp_path / "b.npy", cloud[::-1])
    (tmp_path / "c.xyz").write_text("1 2\n")
    files = {name: tmp_path / name for name in ("a.xyz", "b.npy", "c.xyz")}
    survey, bad = survey_files(files, ["one", "two"], [0, 1, 1])
    assert survey is not None and survey.names == ("a.xyz", "b.npy") and survey.label.tolist() == [0, 1]
    assert list(bad) == ["c.xyz"] and "c.xyz" in str(bad["c.xyz"])
    np.testing.assert_allclose(survey.extent[0], np.ptp(cloud, axis=0) * 7, rtol=1e-6)
    assert shared_shapes(survey.select([0]), survey.select([1])) == [(0, 0)]
    assert survey_files({"c.xyz": files["c.xyz"]}, ["one"], [0])[0] is None
