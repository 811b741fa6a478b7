"""What all models share: TorchScript, who is told a category, numbers of NumPy, a head that was replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.invariants.cases import KINDS, ONE_EACH, categories, clouds, small


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return small(ONE_EACH[request.param])


def inputs(model: Any, batch: int, count: int) -> tuple[Tensor, ...]:
    category = categories(model, batch)
    points = clouds(model, batch, count)
    return (points,) if category is None else (points, category)


@pytest.mark.filterwarnings("ignore")  # of torch: TorchScript is deprecated, and traces keep sizes
class TestTorchScript:
    @torch.no_grad()
    def test_trace_works_or_points_to_the_export(self, model: Any) -> None:
        given = inputs(model, 2, 64)
        if len(model.encoder.stages):
            with pytest.raises(
                RuntimeError, match=r"write it with bixt3d\.inference\.export\.export_model$"
            ) as error:
                torch.jit.trace(model, given)
            assert "\n" not in str(error.value)
            return
        traced = torch.jit.trace(model, given)
        for batch, count in ((2, 64), (3, 90), (1, 5)):
            given = inputs(model, batch, count)
            torch.testing.assert_close(traced(*given), model(*given))

    def test_script_points_to_the_export(self, model: Any) -> None:
        with pytest.raises(
            RuntimeError, match=r"write it with bixt3d\.inference\.export\.export_model$"
        ) as error:
            torch.jit.script(model)
        assert "\n" not in str(error.value)


class Center(nn.Module):
    """A stage of a user's own, which says nothing of itself."""

    def forward(self, xyz: Tensor, tokens: Tensor, near: Any = None, trees: Any = None) -> Any:
        return xyz, tokens - tokens.mean(1, keepdim=True), None


def test_fewest_points_with_a_stage_that_does_not_say_its_own() -> None:
    model: Any = small("hierarchy")
    model.encoder.stages["0"].reduction, model.encoder.stages["1"].neighbors = 2, 6
    assert model.least_points == 12
    model.encoder.stages["0"] = Center()
    assert model.least_points == 6
    model.check_points(6)
    with pytest.raises(
        ValueError, match="num_points=5 leaves 5 points .*neighbors is 6: expected .* of 6 or"
    ):
        model.check_points(5)


def test_a_classifier_is_not_told_a_category() -> None:
    model = small("naive")
    with pytest.raises(ValueError, match="category: expected none, as a PointClassifier is not told it"):
        model.attention_maps(clouds(model, 2), torch.tensor([0, 1]))


def test_nan_is_refused_on_a_cpu_in_both_modes(model: Any) -> None:
    points, *told = inputs(model, 2, 64)
    points[1, 3, 0] = torch.nan
    for training in (False, True):
        with pytest.raises(ValueError, match="points: expected finite values, cloud 1"):
            model.train(training)(points, *told)


class Resized:
    """A description that keeps what it is told."""

    facts: dict[str, Any] = {"classes": ("a", "b")}  # noqa: RUF012

    def __init__(self) -> None:
        self.told: list[Any] = []

    def resized(self, args: Any, facts: Any) -> Any:
        self.told = [args, facts]
        return self


def test_a_new_head_of_a_number_of_numpy(model: Any) -> None:
    model.description = description = Resized()
    model.reset_classifier(np.int64(4))
    ((number,), *_) = (args.values() for args in description.told)
    assert type(number) is int and number == model.num_outputs == 4
    given = inputs(model, 2, 64)
    assert model(*given).shape[-1] == 4


def test_outputs_of_a_head_whose_map_was_replaced(model: Any) -> None:
    wide = model.head.linear.in_features
    model.head.linear = nn.Linear(wide, 9)
    assert model.num_outputs == 9
    model.head.linear = nn.Sequential(nn.Linear(wide, 7))  # which says nothing
    assert model.num_outputs == 7
    model.reset_classifier(5)
    assert model.num_outputs == 5 and model(*inputs(model, 2, 64)).shape[-1] == 5
