"""Metrics: cases computed by hand, scikit-learn, classes that do not occur, clear errors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from sklearn import metrics as reference

from bixt3d import metrics
from bixt3d.metrics import classification, confusion_matrix


class TestConfusionMatrix:
    def test_rows_are_the_truth(self) -> None:
        label, prediction = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 1, 2, 0, 0])
        counts = confusion_matrix(prediction, label, 3)
        assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [2, 0, 1]]
        assert counts.dtype == torch.int64

    def test_agrees_with_scikit_learn(self) -> None:
        label, prediction = torch.randint(6, (2, 500))
        expected = reference.confusion_matrix(label.numpy(), prediction.numpy(), labels=range(6))
        assert confusion_matrix(prediction, label, 6).tolist() == expected.tolist()

    def test_counts_of_batches_add_up(self) -> None:
        label, prediction = torch.randint(4, (2, 60))
        batches = zip(prediction.split(25), label.split(25), strict=True)
        parts = [confusion_matrix(*batch, 4) for batch in batches]
        assert sum(parts, torch.zeros(4, 4)).equal(confusion_matrix(prediction, label, 4).float())

    def test_any_shape(self) -> None:
        label, prediction = torch.randint(4, (2, 3, 20))
        counts = confusion_matrix(prediction, label, 4)
        assert counts.equal(confusion_matrix(prediction.flatten(), label.flatten(), 4))
        assert counts.sum() == 60

    def test_nothing_to_count(self) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        assert confusion_matrix(none, none, 3).equal(torch.zeros(3, 3, dtype=torch.int64))

    def test_one_label_for_each_prediction(self) -> None:
        with pytest.raises(ValueError, match=r"same shape, got .*\(4,\), .*\(5,\)"):
            confusion_matrix(torch.zeros(4, dtype=torch.int64), torch.zeros(5, dtype=torch.int64), 3)

    @pytest.mark.parametrize("which", ["label", "prediction"])
    @pytest.mark.parametrize("bad", [-1, 3])
    def test_classes_that_do_not_exist(self, which: str, bad: int) -> None:
        given = {"label": torch.tensor([0, 1, 1]), "prediction": torch.tensor([1, 1, 0])}
        given[which] = torch.tensor([0, bad, 1])
        with pytest.raises(ValueError, match="0 to 2|num_classes"):
            confusion_matrix(**given, num_classes=3)


class TestClassification:
    def test_computed_by_hand(self) -> None:
        found = classification(torch.tensor([[3, 1], [0, 1]]))
        assert found["oa"] == pytest.approx(4 / 5)
        assert found["macc"] == pytest.approx((3 / 4 + 1) / 2)
        assert found["per_class"] == pytest.approx([3 / 4, 1])

    @pytest.mark.parametrize(("classes", "shapes"), [(2, 30), (10, 200), (40, 2468), (40, 30)])
    def test_agrees_with_scikit_learn(self, classes: int, shapes: int) -> None:
        label = torch.randint(classes, (shapes,))
        prediction = torch.where(torch.rand(shapes) < 0.6, label, torch.randint(classes, (shapes,)))
        found = classification(confusion_matrix(prediction, label, classes))
        assert found["oa"] == pytest.approx(reference.accuracy_score(label, prediction))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of predicted classes that do not occur
            assert found["macc"] == pytest.approx(reference.balanced_accuracy_score(label, prediction))
        recalls = reference.recall_score(
            label, prediction, labels=range(classes), average=None, zero_division=float("nan")
        )
        assert found["per_class"] == pytest.approx(recalls.tolist(), nan_ok=True)

    def test_a_class_that_does_not_occur_is_left_out_of_the_mean(self) -> None:
        found = classification(torch.tensor([[2, 2, 0], [0, 0, 0], [0, 0, 4]]))
        assert found["oa"] == pytest.approx(6 / 8)
        assert found["macc"] == pytest.approx((2 / 4 + 1) / 2)
        per_class = found["per_class"]
        assert isinstance(per_class, list)
        assert per_class[0] == 0.5
        assert math.isnan(per_class[1])
        assert per_class[2] == 1

    def test_a_prediction_of_a_class_that_does_not_occur_counts_against_the_others(self) -> None:
        assert classification(torch.tensor([[1, 1], [0, 0]]))["macc"] == pytest.approx(0.5)

    def test_plain_numbers(self) -> None:
        found = classification(torch.eye(3))
        assert list(found) == ["oa", "macc", "per_class"]
        assert type(found["oa"]) is float
        assert type(found["macc"]) is float
        assert found["per_class"] == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
    def test_many_counts_are_exact(self, dtype: torch.dtype) -> None:
        confusion = torch.tensor([[2**24, 1], [0, 2]], dtype=dtype)  # a float32 sum would lose the 1
        assert classification(confusion)["oa"] == (2**24 + 2) / (2**24 + 3)

    @pytest.mark.parametrize(
        ("bad", "came"),
        [
            (torch.ones(3), r"\(3,\)"),
            (torch.ones(3, 4), r"\(3, 4\)"),
            (torch.ones(1, 3, 3), r"\(1, 3, 3\)"),
            ([[1, 0], [0, 1]], "list"),
            (None, "NoneType"),
        ],
    )
    def test_no_square_matrix(self, bad: Any, came: str) -> None:
        with pytest.raises(ValueError, match=rf"confusion: expected counts \(K, K\), got .*{came}"):
            classification(bad)

    @pytest.mark.parametrize("empty", [torch.zeros(3, 3), torch.zeros(0, 0)])
    def test_no_counts(self, empty: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="confusion: expected at least one count, all are zero"):
            classification(empty)


def test_calibration_counts_add_up() -> None:
    confidence, right = torch.tensor([0.0, 0.49, 0.5, 0.51, 1.0]), torch.tensor([0, 0, 1, 1, 1]).bool()
    counts = metrics.calibration(confidence, right, 2)
    assert torch.allclose(counts, torch.tensor([[2, 0.49, 0], [3, 2.01, 3]], dtype=torch.float64))
    halves = metrics.calibration(confidence[:2], right[:2], 2) + metrics.calibration(
        confidence[2:], right[2:], 2
    )
    assert torch.allclose(counts, halves)
    assert metrics.calibration_error(counts) == pytest.approx((0.49 + 0.99) / 5)
    with pytest.raises(ValueError, match="at least one answer"):
        metrics.calibration_error(torch.zeros(2, 3))


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_retrieval_is_the_mean_average_precision(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(11, 4, generator=generator)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 1])  # nothing is like the only 3
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    each, nearest = [], []
    for query in range(11):
        others = sorted((n for n in range(11) if n != query), key=lambda n: -float(unit[query] @ unit[n]))
        hits = [rank for rank, other in enumerate(others, 1) if label[other] == label[query]]
        if hits:
            each.append(sum(number / rank for number, rank in enumerate(hits, 1)) / len(hits))
            nearest.append(hits[0] == 1)
    found = metrics.retrieval(vectors, label, chunk)
    assert len(each) == 10
    assert found == {"map": pytest.approx(sum(each) / 10), "nearest": pytest.approx(sum(nearest) / 10)}


def test_retrieval_needs_two_of_a_class() -> None:
    with pytest.raises(ValueError, match="a class of two clouds"):
        metrics.retrieval(torch.randn(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"expected \(S, D\), \(S,\)"):
        metrics.retrieval(torch.randn(3, 2), torch.tensor([0, 1]))
