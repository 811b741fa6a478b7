"""Both segmenters: sizes, gradients, symmetries, the category, attention maps, and labels for every point."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from bixt3d import BiXT, create_model
from bixt3d.models.attention import CrossAttention
from bixt3d.models.bixt import BidirectionalLayer, TokenLayer
from bixt3d.models.factory import MODELS, task_of
from bixt3d.models.official import initialize_from
from bixt3d.models.segmenter import PointSegmenter, segment_all_points
from bixt3d.models.variants import VARIANTS
from tests.models.randomize import randomize

TINY: dict[str, Any] = {
    "num_parts": 7,
    "num_categories": 3,
    "dim": 24,
    "num_heads": 3,
    "num_latents": 5,
    "drop_path": 0.0,
    "dropout": 0.0,
}
ARGS: dict[str, dict[str, Any]] = {
    "bixt_ti_partseg": {"depth": 3},
    "bixt_ti_partseg_encdec": {
        "embed_dim": 8,
        "widths": (12, 16),
        "reductions": (2, 4),
        "neighbors": 8,
        "decoder_widths": (12, 10),
        "decoder_blocks": 1,
        "context_dim": 6,
        "head_dim": 9,
    },
    "bixt_nano_partseg_local": {
        "embed_dim": 8,
        "widths": (10, 12, 16),
        "reductions": (1, 2, 4),
        "depths": (2, 1, 2),
        "neighbors": 8,
        "position_dim": 6,
        "decoder_widths": (14, 12, 10),
        "context_dim": 12,
        "head_dim": 9,
    },
}
CATEGORY = torch.tensor([0, 2, 1])


def tiny(name: str, **changed: Any) -> PointSegmenter:
    model = create_model(name, **{**TINY, **ARGS[name], **changed})
    assert isinstance(model, PointSegmenter)
    randomize(model)
    return model


def cloud(batch: int = 3, count: int = 128, channels: int = 3) -> Tensor:
    return torch.rand(batch, count, channels) * 2 - 1


@pytest.fixture(params=sorted(ARGS))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_naive_parameters() -> None:
    """11 full layers, and of the 12th only the half that updates the tokens."""
    count = sum(value.numel() for value in create_model("bixt_ti_partseg").parameters())
    norm, square, mlp = 2 * 192, 192 * 192, 2 * 4 * 192 * 192 + 5 * 192
    half = 2 * norm + (square + 192) + (2 * square + 2 * 192) + (square + 192) + norm + mlp
    rest = 64 * 192 + (96 * 192 + 192) + 16 * 192 + (2 * 192 + 192 * 50 + 50)
    assert count == 11 * 1_260_480 + half + rest


def test_defaults_are_the_papers_settings() -> None:
    naive, encdec = create_model("bixt_ti_partseg").eval(), create_model("bixt_ti_partseg_encdec").eval()
    assert isinstance(naive, PointSegmenter) and isinstance(encdec, PointSegmenter)
    assert naive.encoder.trunk.depth == 12 and encdec.encoder.trunk.depth == 4
    assert [stage.reduction for stage in encdec.encoder.stages.values()] == [4, 4, 4, 4]
    assert {stage.neighbors for stage in encdec.encoder.stages.values()} == {32}
    with torch.inference_mode():
        for model in (naive, encdec):
            logits = model(cloud(2, 2048), torch.tensor([0, 15]))
            assert logits.shape == (2, 2048, 50) and not logits.any()  # the head starts at zero


def test_which_models_label_parts() -> None:
    """Each builder says what its model is for, and so does the model."""
    for name, build in MODELS.items():
        assert (task_of(name) == "part_segmentation") == ("num_parts" in inspect.signature(build).parameters)
    families = {VARIANTS[name][0] for name in MODELS if task_of(name) == "part_segmentation"}
    assert {VARIANTS[name][0] for name in ARGS} == families
    assert {tiny(name).task for name in ARGS} == {"part_segmentation"}


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_every_parameter_gets_a_gradient(name: str, channels: int, told: bool, training: bool) -> None:
    model = tiny(name, in_dims=channels, num_categories=3 if told else 0).train(training)
    logits = model(cloud(channels=channels), CATEGORY if told else None)
    assert logits.shape == (3, 128, 7) and logits.isfinite().all()
    (logits * torch.randn_like(logits)).sum().backward()
    gradients = {n: value.grad for n, value in model.named_parameters()}
    assert [n for n, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    if not training:  # a batch norm takes the shift out of a grouping's beta
        assert [n for n, grad in gradients.items() if grad is not None and not grad.any()] == []


def test_order_of_points(name: str) -> None:
    model, points = tiny(name).eval(), cloud()
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(127)])  # sampling starts at the first point
    expected = model(points, CATEGORY)[:, order]
    torch.testing.assert_close(model(points[:, order], CATEGORY), expected, rtol=1e-4, atol=1e-4)


def test_clouds_do_not_see_each_other(name: str) -> None:
    model, points = tiny(name).eval(), cloud()
    together = model(points, CATEGORY)
    for i in range(3):
        alone = model(points[i : i + 1], CATEGORY[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-4)


def test_the_category_matters_when_told(name: str) -> None:
    points = cloud()
    model = tiny(name).eval()
    assert not model(points, CATEGORY).isclose(model(points, CATEGORY.flip(0)), rtol=1e-3).all()
    plain = tiny(name, num_categories=0).eval()
    assert torch.equal(plain(points), plain(points, CATEGORY))
    assert "embedding.weight" in model.no_weight_decay() and plain.embedding is None


@pytest.mark.parametrize(
    ("category", "message"),
    [
        (None, r"category: expected int64 of shape \(3,\), one a cloud, got NoneType"),
        (torch.tensor([0.0, 1.0, 2.0]), "category: expected int64"),
        (torch.tensor([0, 1]), "category: expected int64 of shape"),
        (torch.tensor([0, 1, 3]), "category: expected 0 to 2, got 0 to 3"),
        (torch.tensor([0, 1, -1]), "category: expected 0 to 2, got -1 to 1"),
    ],
)
def test_bad_category(name: str, category: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(name).eval()(cloud(), category)


def test_bad_points(name: str) -> None:
    model = tiny(name).eval()
    for points in (cloud(channels=6), cloud()[0], torch.full((3, 128, 3), torch.nan)):
        with pytest.raises(ValueError, match="points: expected"):
            model(points, CATEGORY)


def test_attention_maps(name: str) -> None:
    model = tiny(name).train()
    maps = model.attention_maps(cloud(), CATEGORY)
    reads = {"encdec": (64, 16), "local": (128, 64, 16)}.get(name.split("_")[-1], (128, 128, 128))
    assert [tuple(m.shape) for m in maps] == [(3, 3, 5, n) for n in reads]
    for attention in maps:
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, 3, 5))
    assert model.training


def test_features_and_head_make_the_model(name: str) -> None:
    model, points = tiny(name).eval(), cloud()
    latents, tokens = model.forward_features(points, CATEGORY)
    assert latents.shape == (3, 5, 24) and tokens.shape[:2] == (3, 128)
    assert torch.equal(model.forward_head(latents, tokens), model(points, CATEGORY))
    assert model.num_outputs == 7
    model.reset_classifier(4)
    assert model(points, CATEGORY).shape == (3, 128, 4) and not model(points, CATEGORY).any()
    assert model.num_outputs == 4
    for parts in (0, -1):
        with pytest.raises(ValueError, match=f"num_parts: expected at least 1, got {parts}"):
            model.reset_classifier(parts)


def test_autocast_is_close_and_trains(name: str) -> None:
    model, points = tiny(name).eval(), cloud()
    exact = model(points, CATEGORY)
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(points, CATEGORY).float() - exact).norm() < 0.06 * exact.norm()
        rounded = model.train()(points, CATEGORY)
    rounded.float().square().mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_last_layer_is_the_token_half_of_a_full_one() -> None:
    """Same weights, same tokens and the same attention as a whole bi-directional layer."""
    whole = BidirectionalLayer(24, 24, 3, 4.0, 0.0, "auto")
    half = TokenLayer(24, 24, 3, 4.0, 0.0)
    assert isinstance(half.cross, CrossAttention)
    randomize(whole)
    cross = whole.cross
    with torch.no_grad():
        half.cross.query.weight.copy_(cross.rv_tokens.weight[:24])
        half.cross.query.bias.copy_(cross.rv_tokens.bias[:24])
    for mine, theirs in (
        (half.cross.norm_query, cross.norm_tokens),
        (half.cross.norm_context, cross.norm_latents),
        (half.cross.key_value, cross.rv_latents),
        (half.cross.out, cross.out_tokens),
        (half.cross.ffn, cross.ffn_tokens),
    ):
        mine.load_state_dict(theirs.state_dict())
    latents, tokens = torch.randn(2, 5, 24), torch.randn(2, 11, 24)
    left, updated = half(latents, tokens)
    assert left is latents
    torch.testing.assert_close(updated, whole(latents, tokens)[1])
    torch.testing.assert_close(
        half.cross.attention_map(tokens, latents, of_context=True), cross.attention_map(latents, tokens)
    )


def test_starts_from_a_full_trunk_of_official_names() -> None:
    """A trunk whose last layer is two-sided, written under official names, fills the token half too."""
    whole = BiXT(24, 3, 3, 5, last_layer="full")
    randomize(whole)
    state = official_names(whole)
    model = tiny("bixt_ti_partseg")
    initialize_from(model, state)
    trunk = model.encoder.trunk
    tokens = torch.randn(2, 9, 24)
    torch.testing.assert_close(trunk(tokens)[1], whole(tokens)[1])


def test_a_one_sided_last_layer_has_no_token_half() -> None:
    """Its names and shapes would fit, but it is the latents' half."""
    whole = BiXT(24, 3, 3, 5, last_layer="one_sided")
    state = official_names(whole)
    with pytest.raises(ValueError, match="the checkpoint does not fit this trunk"):
        initialize_from(tiny("bixt_ti_partseg"), state)


def official_names(trunk: BiXT) -> dict[str, Tensor]:
    from bixt3d.models.official import ONE_SIDED, SELF, TWO_SIDED

    state = {}
    for name, value in trunk.state_dict().items():
        if name == "latents":
            state[name] = value
            continue
        _, layer, block, rest = name.split(".", 3)
        table, official = SELF, "self_attention_latents"
        if block == "cross":
            one_sided = f"layers.{layer}.cross.query.weight" in trunk.state_dict()
            table, official = ONE_SIDED if one_sided else TWO_SIDED, "cross_attention_latents_token"
        old = next(o for o, new in table.items() if rest.startswith(f"{new}."))
        state[f"blocks.{layer}.{official}.{old}{rest[len(table[old]) :]}"] = value
    return state


class Spy(torch.nn.Module):
    """Answers with the points themselves, and remembers which it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, points: Tensor, category: Tensor | None) -> Tensor:
        self.seen.append(points[..., 0])
        return points


class TestAllPoints:
    @pytest.mark.parametrize(("total", "size"), [(10, 10), (10, 4), (10, 5), (3, 8), (1, 4), (23, 22)])
    def test_every_point_gets_its_own_answer(self, total: int, size: int) -> None:
        spy, points = Spy(), cloud(2, total)
        assert torch.equal(segment_all_points(spy, points, None, size), points)
        assert len(spy.seen) == -(-total // size)
        assert all(seen.shape == (2, size) for seen in spy.seen)
        assert total < size or all(len(set(row.tolist())) == size for seen in spy.seen for row in seen)

    def test_same_chunks_every_time_and_whatever_the_batch(self) -> None:
        points = cloud(3, 20)
        first, second, alone = Spy(), Spy(), Spy()
        segment_all_points(first, points, None, 8)
        torch.manual_seed(5)
        segment_all_points(second, points, None, 8)
        segment_all_points(alone, points[1:2], None, 8)
        for a, b, c in zip(first.seen, second.seen, alone.seen, strict=True):
            assert torch.equal(a, b) and torch.equal(a[1:2], c)

    def test_own_points_come_before_repeats(self) -> None:
        spy, points = Spy(), cloud(2, 20)
        segment_all_points(spy, points, None, 8, torch.tensor([8, 20]))
        assert set(spy.seen[0][0].tolist()) == set(points[0, :8, 0].tolist())

    @pytest.mark.parametrize("own", [20, 64, 70, 150])
    def test_padding_changes_nothing(self, name: str, own: int) -> None:
        """The same points, alone and repeated in the rows of a wider split, beside a cloud that fills it."""
        model, points = tiny(name).eval(), cloud(1, own)
        wide = torch.cat([points[:, torch.arange(200) % own], cloud(1, 200)])
        with torch.no_grad():
            alone = segment_all_points(model, points, CATEGORY[:1], 64)
            padded = segment_all_points(model, wide, CATEGORY[:2], 64, torch.tensor([own, 200]))
        torch.testing.assert_close(padded[0, :own], alone[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(padded[0], alone[0, torch.arange(200) % own], rtol=1e-4, atol=1e-4)

    def test_with_a_model(self, name: str) -> None:
        model, points = tiny(name).eval(), cloud(3, 150)
        with torch.no_grad():
            logits = segment_all_points(model, points, CATEGORY, 64)
        assert logits.shape == (3, 150, 7) and logits.isfinite().all()


def test_a_level_is_given_its_trees_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.spatial

    sizes = []

    def build(points: Any, **options: Any) -> Any:
        sizes.append(len(points))
        return tree(points, **options)

    tree = scipy.spatial.cKDTree
    monkeypatch.setattr(scipy.spatial, "cKDTree", build)
    monkeypatch.setattr("bixt3d.ops.neighbors.MOST_SCANNED", 0)
    model = tiny("bixt_ti_partseg_encdec").eval()
    model(torch.randn(1, 4096, 3), CATEGORY[:1])
    assert sizes == [4096, 2048, 512]
