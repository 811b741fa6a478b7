"""Part IoU under both conventions: hand-computed cases, an obvious twin, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bixt3d.metrics import CONVENTIONS, mask_logits, part_iou, part_miou, shape_iou

TABLE = ((0, 1, 2), (3, 4))


def logits_of(prediction: list[list[int]], num_parts: int = 5) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(prediction), num_parts).float()


def iou_of(
    prediction: list[list[int]], truth: list[list[int]], category: list[int], convention: str
) -> list[float]:
    parts, kinds = torch.tensor(truth), torch.tensor(category)
    return part_iou(logits_of(prediction), parts, kinds, TABLE, convention).tolist()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_all_right_is_one(convention: str) -> None:
    assert iou_of([[0, 1, 2, 2]], [[0, 1, 2, 2]], [0], convention) == [1.0]


def test_part_absent_from_both_counts_one_or_is_skipped() -> None:
    # Parts 0: intersection 2, union 3; 1: 1 of 2; 2: in neither.
    case = ([[0, 0, 0, 1]], [[0, 0, 1, 1]], [0])
    assert iou_of(*case, "pointnet2") == pytest.approx([(2 / 3 + 1 / 2 + 1) / 3])
    assert iou_of(*case, "pointmlp") == pytest.approx([(2 / 3 + 1 / 2) / 2])


def test_part_that_only_the_prediction_holds() -> None:
    # Part 0: 2 of 4; part 1 is not there; part 2 is predicted twice, wrongly.
    case = ([[0, 0, 2, 2]], [[0, 0, 0, 0]], [0])
    assert iou_of(*case, "pointnet2") == pytest.approx([(2 / 4 + 1 + 0) / 3])
    assert iou_of(*case, "pointmlp") == pytest.approx([2 / 4])


def test_the_two_conventions_on_a_chair_without_two_of_its_parts() -> None:
    """Four parts, two of them absent; one point in a hundred goes to an absent one."""
    table = ((0, 1, 2, 3),)
    truth = torch.tensor([[0] * 50 + [1] * 50])
    prediction = [[0] * 49 + [2] + [1] * 50]
    values = {
        c: float(part_iou(logits_of(prediction, 4), truth, torch.tensor([0]), table, c)) for c in CONVENTIONS
    }
    assert values["pointmlp"] == pytest.approx((49 / 50 + 1) / 2)
    assert values["pointnet2"] == pytest.approx((49 / 50 + 1 + 0 + 1) / 4)


def test_parts_of_other_categories() -> None:
    """A point whose best part is another category's takes its own category's best, or is wrong."""
    logits = torch.tensor([[[0.1, 0.5, 0.2, 9.0, 0.0], [0.9, 0.1, 0.0, 0.3, 0.0]]])  # (1, 2, 5)
    truth, category = torch.tensor([[1, 0]]), torch.tensor([0])
    assert part_iou(logits, truth, category, TABLE, "pointnet2").tolist() == [1.0]
    assert part_iou(logits, truth, category, TABLE, "pointmlp").tolist() == [0.5]
    masked = mask_logits(logits, category, TABLE)
    assert torch.equal(masked[..., :3], logits[..., :3]) and masked[..., 3:].isneginf().all()


def test_points_that_do_not_count() -> None:
    truth = torch.tensor([[0, 1, 1, 1]])
    valid = torch.tensor([[True, True, False, False]])
    logits = logits_of([[0, 1, 0, 0]])
    for convention in CONVENTIONS:
        assert part_iou(logits, truth, torch.tensor([0]), TABLE, convention, valid).tolist() == [1.0]
        assert part_iou(logits, truth, torch.tensor([0]), TABLE, convention)[0] < 1


def test_means_over_shapes_and_over_categories() -> None:
    """Three shapes of one category and one of another: the two means weigh them differently."""
    prediction = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [3, 3, 4, 4]]
    truth = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [3, 3, 3, 3]]
    category = torch.tensor([0, 0, 0, 1])
    result = part_miou(logits_of(prediction), torch.tensor(truth), category, (*TABLE, (2,)), "pointmlp")
    assert set(result) == {"instance_miou", "class_miou", "per_category"}
    first = (1 + 1 + 0.5) / 3
    assert result["instance_miou"] == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)
    assert result["class_miou"] == pytest.approx((first + 0.5) / 2)  # the third category does not occur
    per_category = result["per_category"]
    assert isinstance(per_category, list)
    assert per_category[:2] == pytest.approx([first, 0.5]) and math.isnan(per_category[2])


def plain_iou(scores: list[list[float]], truth: list[int], ids: tuple[int, ...], convention: str) -> float:
    """The definition, point by point and part by part."""
    every = range(len(scores[0]))
    candidates = ids if convention == "pointnet2" else every
    prediction = [max(candidates, key=lambda part: row[part]) for row in scores]
    values = []
    for part in candidates:
        there = {i for i, t in enumerate(truth) if t == part}
        said = {i for i, p in enumerate(prediction) if p == part}
        if convention == "pointmlp" and not there:
            continue
        values.append(len(there & said) / len(there | said) if there | said else 1.0)
    return sum(values) / len(values)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_as_the_plain_definition(convention: str) -> None:
    generator = torch.Generator().manual_seed(3)
    category = torch.randint(2, (40,), generator=generator)
    logits = torch.randn(40, 9, 5, generator=generator)
    truth = torch.tensor(
        [
            [TABLE[c][int(i) % len(TABLE[c])] for i in torch.randint(9, (9,), generator=generator)]
            for c in category.tolist()
        ]
    )
    found = part_iou(logits, truth, category, TABLE, convention)
    expected = [
        plain_iou(s, t, TABLE[c], convention)
        for s, t, c in zip(logits.tolist(), truth.tolist(), category.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected)


def test_iou_of_one_shape_is_that_of_many() -> None:
    generator = torch.Generator().manual_seed(5)
    for ids in ((0, 1, 2), (3, 4), (2,)):
        truth, prediction = (
            torch.tensor(ids)[torch.randint(len(ids), (20,), generator=generator)] for _ in range(2)
        )
        logits = logits_of([prediction.tolist()])
        expected = part_iou(logits, truth[None], torch.tensor([0]), (ids,), "pointnet2")
        assert shape_iou(prediction, truth, ids) == pytest.approx(float(expected))
        assert shape_iou(prediction.numpy(), truth.tolist(), list(ids)) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"convention": "pointnet"}, "convention: expected one of pointnet2, pointmlp, got 'pointnet'"),
        ({"logits": torch.rand(2, 5)}, r"logits: expected scores \(S, N, P\)"),
        ({"parts": torch.zeros(1, 3, dtype=torch.int64)}, r"parts: expected int64 of shape \(1, 4\)"),
        ({"parts": torch.zeros(1, 4)}, r"parts: expected int64 of shape \(1, 4\), got torch.float32"),
        ({"category": torch.tensor([0, 1])}, r"category: expected int64 of shape \(1,\)"),
        ({"category": torch.tensor([2])}, "category: expected 0 to 1, got 2 to 2"),
        ({"parts": torch.full((1, 4), 3)}, "parts: expected parts of each shape's own category"),
        ({"parts": torch.full((1, 4), 7)}, "parts: expected parts of each shape's own category"),
        ({"parts_of_category": ((0, 9), (3,))}, "parts_of_category: expected part ids from 0 to 4"),
        ({"parts_of_category": ((0, 1), ())}, "parts_of_category: expected part ids from 0 to 4"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "logits": logits_of([[0, 1, 2, 2]]),
        "parts": torch.tensor([[0, 1, 2, 2]]),
        "category": torch.tensor([0]),
        "parts_of_category": TABLE,
        "convention": "pointnet2",
    }
    with pytest.raises(ValueError, match=message):
        part_miou(**{**arguments, **change})  # type: ignore[arg-type]
