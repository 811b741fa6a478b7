"""What a cloud's answer does not depend on: the order of its points, the clouds beside it, the time.

Where a model samples, the farthest-point sample starts at a cloud's first point, so the answer is the same
for every order that keeps that one in front; the sample itself then comes in the same order, whatever that of
the points. ``sampling="prefix"`` takes the first points as the sample: any order within a level's points,
which come before those that the level passes over, gives the same answer. Of equally far points the one with
the lowest index is taken, that is, by order; random clouds have none.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bixt3d import create_model
from bixt3d.models.encoder import PointModel
from bixt3d.models.segmenter import PointSegmenter
from bixt3d.models.variants import VARIANTS
from tests.invariants.cases import CASES, COUNT, NAMES, ask, assert_near, clouds, small

# Points for models of full size: the coarsest stage of the encoder-decoder looks for 32 neighbours.
FULL = {name: 2048 if "encdec" in name else 512 if "local" in name else 256 for name in VARIANTS}


def levels_of(model: PointModel, count: int) -> list[int]:
    """How many points each stage with a reduction keeps."""
    kept = []
    for stage in model.encoder.stages.values():
        if stage.reduction > 1:
            count = max(1, count // stage.reduction)
            kept.append(count)
    return kept


def allowed_order(model: PointModel, count: int = COUNT) -> Tensor:
    """An order of the points under which the answer is the same."""
    kept = levels_of(model, count)
    if not kept:
        fixed = [0]
    elif any(stage.sampling == "prefix" for stage in model.encoder.stages.values()):
        fixed = [0, *sorted(kept)]
    else:
        fixed = [0, 1]
    ends = [*fixed[1:], count]
    return torch.cat([a + torch.randperm(b - a) for a, b in zip(fixed, ends, strict=True)])


def settled(name: str) -> PointModel:
    """A model of its own size as it starts, but for the head, which would answer zero, and norms in use."""
    model = create_model(name)
    assert isinstance(model, PointModel)
    linear = model.head.linear
    with torch.no_grad():
        linear.weight.normal_(std=linear.in_features**-0.5)
        ask(model.train(), clouds(model, 2, FULL[name]))
    return model.eval()


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_every_model_is_a_case() -> None:
    covered = {VARIANTS[name][0] for name, _ in CASES.values()}
    assert {family for family, _ in VARIANTS.values()} == covered


@torch.no_grad()
def test_order_of_points(case: str) -> None:
    model = small(case)
    points = clouds(model)
    logits = ask(model, points)
    for _ in range(4):
        order = allowed_order(model)
        assert not order.equal(torch.arange(COUNT))
        assert_near(ask(model, points[:, order]), logits[:, order] if logits.ndim == 3 else logits)


@torch.no_grad()
def test_tokens_go_with_their_points(case: str) -> None:
    model = small(case)
    points, order = clouds(model), allowed_order(model)
    told = [torch.tensor([0, 1, 2])] if getattr(model, "num_categories", 0) else []
    latents, tokens = model.forward_features(points, *told)
    other_latents, other_tokens = model.forward_features(points[:, order], *told)
    kept = [] if isinstance(model, PointSegmenter) else levels_of(model, COUNT)
    if kept and "prefix" not in case:
        order = torch.arange(kept[-1])
    assert_near(other_latents, latents)
    assert_near(other_tokens, tokens[:, order[: tokens.shape[1]]])


@torch.no_grad()
def test_another_first_point_is_another_sample() -> None:
    """So that the tests above say what they mean: the order of points is not without any effect."""
    model = small("hierarchy")
    points = clouds(model)
    turned = ask(model, points.roll(1, 1))
    assert (turned - ask(model, points)).abs().max() > 1e-3


def companions(points: Tensor) -> list[Tensor]:
    """The same first cloud beside others: a thousand times as large, all in one place, far away, itself."""
    others = points[1:]
    return [
        torch.cat([points[:1], changed])
        for changed in (
            torch.cat([others[..., :3] * 1000, others[..., 3:]], -1),
            torch.zeros_like(others),
            others + 500,
            points[:1].expand_as(others),
        )
    ]


@torch.no_grad()
def test_other_clouds_change_no_bit(case: str) -> None:
    """The grouping's standard deviation is each cloud's own."""
    model = small(case)
    points = clouds(model)
    expected = ask(model, points)
    for beside in companions(points):
        logits = ask(model, beside)
        assert logits[0].equal(expected[0])
        assert not logits[1].equal(expected[1])


@torch.no_grad()
def test_alone_and_anywhere_in_any_batch(case: str) -> None:
    """Sums of another batch size may be taken in another order, so not to the bit."""
    model = small(case)
    points = clouds(model, 6)
    category = torch.tensor([0, 1, 2, 0, 1, 2]) if getattr(model, "num_categories", 0) else None
    together = ask(model, points, category)
    for index in ([0], [5], [3, 1], [5, 4, 3, 2, 1, 0], [2, 2, 2, 2]):
        some = None if category is None else category[index]
        assert_near(ask(model, points[index], some), together[index])


@torch.no_grad()
def test_twice_is_the_same_to_the_bit(case: str) -> None:
    model = small(case)
    points = clouds(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    logits = ask(model, points)
    ask(model, clouds(model, 5, 200))
    ask(model, points * 100)
    model.train().eval()
    assert ask(model, points).equal(logits)
    assert ask(model, points.clone()).equal(logits)
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_gradients_or_not_is_the_same(case: str) -> None:
    """In evaluation parts are taken by rows where nothing keeps them for gradients."""
    model = small(case)
    points = clouds(model, 4, 1100)  # more rows than go at a time
    with torch.enable_grad():
        expected = ask(model, points).detach()
    assert_near(ask(model, points), expected)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_models_of_full_size(name: str) -> None:
    """Order, company and time, all in one, as building them takes long."""
    model = settled(name)
    points, count = clouds(model, 3, FULL[name]), FULL[name]
    logits = ask(model, points)
    assert ask(model, points).equal(logits)
    order = allowed_order(model, count)
    assert_near(ask(model, points[:, order]), logits[:, order] if logits.ndim == 3 else logits)
    assert_near(ask(model, points[:1]), logits[:1])
    assert ask(model, companions(points)[0])[0].equal(logits[0])
