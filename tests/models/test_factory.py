"""Every classifier by name: sizes, forward and backward, symmetries, attention maps, the contract, errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d import create_model, list_models
from bixt3d.models import factory, image
from bixt3d.models.bixt import Trunk
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.encoder import PointEncoder
from bixt3d.models.factory import MODELS
from bixt3d.models.grouping import GroupingStage
from bixt3d.models.layers import DropPath
from bixt3d.models.tokenizers import SinusoidalTokenizer
from bixt3d.models.variants import VARIANTS
from tests.models.randomize import randomize

TINY: dict[str, Any] = {"num_classes": 7, "dim": 24, "num_heads": 3, "num_latents": 5}
ARGS: dict[str, dict[str, Any]] = {
    "bixt_ti_cls": {"depth": 3},
    "bixt_ti_cls_grouping": {"depth": 3, "group_layers": (0, 2), "neighbors": 8},
    "bixt_ti_cls_hierarchy": {"embed_dim": 8, "widths": (12, 16), "reductions": (2, 4), "neighbors": 8},
    "bixt_nano_cls_local": {"embed_dim": 8, "widths": (12, 16), "reductions": (2, 4), "neighbors": 2}
    | {"depths": (1, 2), "pool": "latents"},
    "perceiver_ti_cls": {"num_blocks": 3, "self_attends_per_block": 2},
    "sequential_ti_cls": {"depth": 3},
}
NAMES = sorted(ARGS)
CLASSIFIERS = sorted(name for name in VARIANTS if "_cls" in name)
# Points that each step reads, for 128 points.
READS = {name: (64, 16) if "widths" in ARGS[name] else (128, 128, 128) for name in NAMES}

# Parts that every model has at 40 classes: 64 latents, tokenizer, head.
REST = 64 * 192 + (96 * 192 + 192) + (2 * 192 + 192 * 40 + 40)


def tiny(name: str, **changed: Any) -> PointClassifier:
    """A small model whose every parameter matters; nothing is dropped unless asked."""
    model = create_model(name, **{**TINY, "drop_path": 0.0, **ARGS[name], **changed})
    assert isinstance(model, PointClassifier)
    randomize(model)
    return model


def cloud(batch: int = 3, count: int = 128, channels: int = 3) -> Tensor:
    return torch.rand(batch, count, channels) * 2 - 1


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


class TestNames:
    def test_sorted(self) -> None:
        assert list_models() == sorted(list_models())
        assert bixt3d.list_models() == list_models()

    def test_every_classifier_is_tested_here(self) -> None:
        """Those of another size are of a family that is."""
        families = {VARIANTS[name][0] for name in ARGS}
        assert {family for name, (family, _) in VARIANTS.items() if "_cls" in name} == families
        assert set(list_models()) == {*VARIANTS, *image.VARIANTS} == set(MODELS)

    @pytest.mark.parametrize(
        ("wrong", "meant"),
        [
            ("bixt_ti_clas", "bixt_ti_cls"),
            ("bixt_ti_cls_hierachy", "bixt_ti_cls_hierarchy"),
            ("PERCEIVER", "perceiver_ti_cls"),
            ("MLP", None),
        ],
    )
    def test_unknown_name(self, wrong: str, meant: str | None) -> None:
        with pytest.raises(ValueError) as error:
            create_model(wrong)
        assert f"unknown model {wrong!r}" in str(error.value)
        assert ("did you mean" in str(error.value)) == (meant is not None)
        assert f"did you mean '{meant or ''}" in str(error.value) or meant is None
        assert f"known: {', '.join(list_models())}. " in str(error.value)
        assert "bixt3d.register_model" in str(error.value) and "--plugin" in str(error.value)

    def test_unknown_argument(self, name: str) -> None:
        message = (
            f"{name} has no argument 'num_class'; did you mean 'num_classes'\\?; it takes: num_classes, "
        )
        with pytest.raises(ValueError, match=message):
            create_model(name, num_class=10)

    def test_an_argument_of_another_model(self) -> None:
        """It may be the config's, which goes by a setting; a slip is no such thing."""
        with pytest.raises(ValueError, match="perceiver_ti_cls has no argument 'neighbors'.* model.args={}$"):
            create_model("perceiver_ti_cls", neighbors=8)
        with pytest.raises(ValueError, match="'num_latent'; did you mean") as error:
            create_model("perceiver_ti_cls", num_latent=8)
        assert "model.args" not in str(error.value)


class Constant(nn.Module):
    """A model of a user's own."""

    def __init__(
        self, num_classes: int = 2, in_dims: int = 3, *, value: float = 0.5, label: Any = None
    ) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((num_classes,), float(value)))
        self.sizes = (num_classes, in_dims, label)

    def forward(self, points: Tensor) -> Tensor:
        return self.value.expand(len(points), -1)


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(factory, "MODELS", dict(MODELS))


@pytest.mark.usefixtures("own_names")
class TestRegister:
    def test_a_model_of_ones_own_is_like_the_others(self) -> None:
        before = list_models()
        bixt3d.register_model("a_constant", Constant)
        assert list_models() == bixt3d.list_models() == ["a_constant", *before]
        model = create_model("a_constant", num_classes=np.int64(3), value=1)
        assert isinstance(model, Constant) and model.sizes == (3, 3, None)
        assert factory.task_of("a_constant") == "classification"
        assert factory.takes("a_constant", "in_dims") and not factory.takes("a_constant", "num_parts")
        with pytest.raises(
            ValueError, match="'valeu'; did you mean 'value'.*takes: num_classes, in_dims, value"
        ):
            create_model("a_constant", valeu=1)
        assert create_model("a_constant", value="2")(cloud(1)).tolist() == [[2, 2]]  # it checks its own
        with pytest.raises(ValueError, match="unknown model 'a_constnat'; did you mean 'a_constant'"):
            create_model("a_constnat")

    def test_a_name_of_ones_own_is_taken_again(self) -> None:
        for value in (1.0, 2.0):
            bixt3d.register_model("mine", partial(Constant, value=value))
            assert create_model("mine")(cloud(1))[0].tolist() == [value, value]

    def test_a_function_of_any_arguments(self) -> None:
        def build(**args: Any) -> nn.Module:
            return Constant(**args)

        build.task = "part_segmentation"  # type: ignore[attr-defined]
        bixt3d.register_model("mine", build)
        assert factory.takes("mine", "whatever") and factory.task_of("mine") == "part_segmentation"
        model = create_model("mine", num_classes=5, label=["a", np.float32(0.5)])
        assert isinstance(model, Constant) and model.sizes == (5, 3, ["a", 0.5])

    @pytest.mark.parametrize(
        ("name", "builder", "kind", "message"),
        [
            ("bixt_ti_cls", Constant, ValueError, "bixt_ti_cls is a model of the package: expected another"),
            ("", Constant, ValueError, "name: expected a name, got ''"),
            (7, Constant, ValueError, "name: expected a name, got 7"),
            ("mine", "Constant", TypeError, "builder: expected a function that returns a model, got str"),
        ],
    )
    def test_what_cannot_be_registered(
        self, name: Any, builder: Any, kind: type[Exception], message: str
    ) -> None:
        before = list_models()
        with pytest.raises(kind, match=message):
            bixt3d.register_model(name, builder)
        assert list_models() == before

    def test_a_builder_that_gives_no_model(self) -> None:
        bixt3d.register_model("mine", lambda: None)
        with pytest.raises(
            ValueError, match=r"mine: expected its builder to return a torch\.nn\.Module, got NoneT"
        ):
            create_model("mine")


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "trunk"),
        [
            ("bixt_ti_cls", 11 * 1_260_480 + 890_112),
            ("sequential_ti_cls", 15_944_872 - 365_800),
            ("perceiver_ti_cls", 22_164_520 - 365_800),
        ],
    )
    def test_parameters(self, name: str, trunk: int) -> None:
        count = sum(value.numel() for value in create_model(name).parameters())
        assert count == trunk + REST
        if name == "bixt_ti_cls":
            assert count == 14_794_408
        for wider in (1, 3, 4):  # intensity, normals, both
            features = sum(value.numel() for value in create_model(name, in_dims=3 + wider).parameters())
            assert features == count + wider * 32 * 192

    @pytest.mark.parametrize("name", CLASSIFIERS)
    def test_defaults_classify_forty_classes(self, name: str) -> None:
        model = create_model(name).eval()
        with torch.inference_mode():
            logits = model(cloud(2, 256))
        assert logits.shape == (2, 40)
        assert not logits.any()  # the head starts at zero

    def test_the_papers_settings(self) -> None:
        grouping, hierarchy = create_model("bixt_ti_cls_grouping"), create_model("bixt_ti_cls_hierarchy")
        depths = {}
        for model in (grouping, hierarchy):
            assert isinstance(model, PointClassifier)
            depths[id(model)] = model.encoder.trunk.depth
            stages = list(model.encoder.stages.values())
            assert {stage.neighbors for stage in stages} == {24}
            assert {stage.reduction == 1 for stage in stages} == {model is grouping}
        assert list(depths.values()) == [12, 4]


class TestForwardAndBackward:
    def test_shape(self, name: str) -> None:
        logits = tiny(name)(cloud())
        assert logits.shape == (3, 7)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    @pytest.mark.parametrize("training", [False, True])
    def test_every_parameter_gets_a_gradient(self, name: str, training: bool) -> None:
        model = tiny(name).train(training)
        logits = model(cloud())
        (logits * torch.randn_like(logits)).sum().backward()
        gradients = {n: value.grad for n, value in model.named_parameters()}
        assert [n for n, grad in gradients.items() if grad is None] == []
        assert [n for n, grad in gradients.items() if grad is not None and not grad.isfinite().all()] == []
        if not training:  # a batch norm takes the shift out of a grouping's beta
            assert [n for n, grad in gradients.items() if grad is not None and not grad.any()] == []

    @pytest.mark.parametrize("pool", ["latents", "tokens", "both"])
    def test_every_option_has_gradients(self, pool: str) -> None:
        for name in ("bixt_ti_cls_grouping", "bixt_ti_cls_hierarchy"):
            for center in ("anchor", "center"):
                model = tiny(name, pool=pool, center=center, use_xyz=True, group_blocks=0, dropout=0.1)
                model.train()(cloud()).square().sum().backward()
                assert all(value.grad is not None for value in model.parameters())

    def test_logits_depend_on_the_cloud(self, name: str) -> None:
        logits = tiny(name).eval()(cloud())
        assert not logits[0].isclose(logits[1], rtol=1e-3).all()

    def test_order_of_points(self, name: str) -> None:
        model, points = tiny(name).eval(), cloud()
        order = torch.cat([torch.tensor([0]), 1 + torch.randperm(127)])  # sampling starts at the first point
        torch.testing.assert_close(model(points[:, order]), model(points), rtol=1e-4, atol=1e-4)

    def test_clouds_do_not_see_each_other(self, name: str) -> None:
        model, points = tiny(name).eval(), cloud()
        together = model(points)
        for index in range(3):
            alone = model(points[index : index + 1])
            torch.testing.assert_close(alone, together[index : index + 1], rtol=1e-4, atol=1e-4)

    def test_normals(self, name: str) -> None:
        model, points = tiny(name, in_dims=6).eval(), cloud(channels=6)
        assert model.in_dims == 6
        logits = model(points)
        assert logits.shape == (3, 7)
        turned = torch.cat([points[..., :3], -points[..., 3:]], -1)
        assert not model(turned).isclose(logits, rtol=1e-3).all()

    @pytest.mark.parametrize("in_dims", [4, 7, 20])
    def test_any_features(self, name: str, in_dims: int) -> None:
        model, points = tiny(name, in_dims=in_dims).eval(), cloud(channels=in_dims)
        logits = model(points)
        assert model.in_dims == in_dims and logits.shape == (3, 7)
        for channel in (3, in_dims - 1):
            other = points.clone()
            other[..., channel] += 0.5
            assert not model(other).isclose(logits, rtol=1e-3).all()
        with pytest.raises(ValueError, match=rf"\(B, N, {in_dims}\).*\(3, 128, 3\)$"):
            model(points[..., :3])

    def test_close_to_single_precision_with_autocast(self, name: str) -> None:
        model, points = tiny(name).eval(), cloud()
        exact = model(points)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(points)
        assert (rounded.float() - exact).norm() < 0.05 * exact.norm()

    def test_trains_with_autocast(self, name: str) -> None:
        model = tiny(name).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(cloud()).float().square().mean()
        loss.backward()
        assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_points_of_another_dtype(self, name: str, dtype: torch.dtype) -> None:
        # Sixteenths are exact in all of them, and no two distances from one point tie often enough to matter
        # for finiteness, which is all that is asked.
        points = (cloud() * 16).round().div(16).to(dtype)
        logits = tiny(name).eval()(points)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    def test_weights_in_half_precision_leave_geometry_exact(self, name: str) -> None:
        model, points = tiny(name).eval(), 8 * cloud()  # the extent of a room
        exact = model(points)
        rounded = model.bfloat16()(points)
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).norm() < 0.05 * exact.norm()

    def test_backends_agree(self, name: str) -> None:
        models = [tiny(name, backend=backend).eval() for backend in ("torch", "sdpa", "auto")]
        for model in models[1:]:
            model.load_state_dict(models[0].state_dict())
        points = cloud()
        for model in models[1:]:
            torch.testing.assert_close(model(points), models[0](points), rtol=1e-4, atol=1e-4)

    def test_one_cloud_of_few_points_trains(self, name: str) -> None:
        model = tiny(name).train()
        model(cloud(1, 16)).sum().backward()

    def test_state_dict_rebuilds_it(self, name: str) -> None:
        model, other, points = tiny(name).eval(), tiny(name).eval(), cloud()
        assert not other(points).isclose(model(points), rtol=1e-3).all()
        other.load_state_dict(model.state_dict())
        assert other(points).equal(model(points))


class TestOptions:
    def test_drop_path_reaches_the_trunk(self, name: str) -> None:
        model = tiny(name, drop_path=0.3)
        rates = [part.rate for part in model.modules() if isinstance(part, DropPath)]
        assert max(rates) == pytest.approx(0.3)
        assert min(rates) == 0

    def test_drop_path_is_a_tenth_by_default(self, name: str) -> None:
        """None in the small models."""
        args = {key: value for key, value in {**TINY, **ARGS[name]}.items() if key != "drop_path"}
        rates = [part.rate for part in create_model(name, **args).modules() if isinstance(part, DropPath)]
        assert max(rates) == pytest.approx(0.0 if "nano" in name else 0.1)

    def test_dropout_and_scale(self, name: str) -> None:
        model = tiny(name, dropout=0.4, coord_scale=3.0)
        assert model.head.dropout.p == 0.4
        assert model.encoder.tokenizer.frequencies[0] == 3.0

    def test_attention_of_the_naive_model(self) -> None:
        sequential, points = tiny("bixt_ti_cls", attention="sequential").eval(), cloud()
        named = tiny("sequential_ti_cls").eval()
        named.load_state_dict(sequential.state_dict())
        assert named(points).equal(sequential(points))

    def test_sharing_of_the_perceiver(self) -> None:
        for share, crosses in (("all", 1), ("all_but_first", 2)):
            trunk = tiny("perceiver_ti_cls", share=share).encoder.trunk
            assert len(trunk.cross) == crosses

    def test_layers_with_grouping(self) -> None:
        model = tiny("bixt_ti_cls_grouping", group_layers=(1,), group_hidden=10)
        assert list(model.encoder.stages) == ["1"]
        assert model.encoder.stages["1"].linear.out_features == 10

    @pytest.mark.parametrize("name", ["bixt_ti_cls_grouping", "bixt_ti_cls_hierarchy"])
    def test_options_reach_the_grouping(self, name: str) -> None:
        options = {"neighbors": 4, "center": "center", "use_xyz": True, "group_blocks": 2}
        model = tiny(name, group_expansion=0.5, **options)
        assert len(model.encoder.stages) == 2
        for stage in model.encoder.stages.values():
            assert (stage.neighbors, stage.center, stage.use_xyz, len(stage.blocks)) == (4, "center", True, 2)
            hidden = stage.linear.out_features
            assert stage.blocks[0].fc1.out_features == hidden // 2

    def test_reductions_and_widths_are_those_of_each_layer(self) -> None:
        model = tiny("bixt_ti_cls_hierarchy", widths=(12, 16), reductions=(2, 4), mlp_ratio=2.0)
        assert [stage.reduction for stage in model.encoder.stages.values()] == [2, 4]
        assert [stage.out.out_features for stage in model.encoder.stages.values()] == [12, 16]
        assert model.encoder.trunk.token_dims == (12, 16)
        assert model.encoder.trunk.layers[0].among.ffn.mlp.fc1.out_features == 48

    def test_numbers_of_numpy(self) -> None:
        """As they come out of a search over settings."""
        args: dict[str, Any] = {"widths": (12, 16), "reductions": (2, 4), "embed_dim": 8, "neighbors": 8}
        plain = create_model("bixt_ti_cls_hierarchy", **TINY, **args, drop_path=0.25, use_xyz=True)
        numpys: dict[str, Any] = {name: np.int32(value) for name, value in TINY.items()}
        numpys |= {"widths": np.array([12, 16]), "reductions": [np.int64(2), np.uint8(4)]}
        numpys |= {"embed_dim": np.int16(8), "neighbors": np.int64(8)}
        model = create_model(
            "bixt_ti_cls_hierarchy", **numpys, drop_path=np.float32(0.25), use_xyz=np.bool_(True)
        )
        assert str(model) == str(plain)
        sizes = {name: value.shape for name, value in model.state_dict().items()}
        assert sizes == {name: value.shape for name, value in plain.state_dict().items()}
        for key, value in (
            ("depth", np.float64(3.0)),
            ("dim", np.str_("24")),
            ("num_classes", np.bool_(True)),
        ):
            with pytest.raises(ValueError, match=f"bixt_ti_cls: {key}: expected a value like"):
                create_model("bixt_ti_cls", **{key: value})

    def test_prefix_is_fps_on_clouds_in_farthest_point_order(self) -> None:
        by_fps = tiny("bixt_ti_cls_hierarchy").eval()
        by_prefix = tiny("bixt_ti_cls_hierarchy", sampling="prefix").eval()
        by_prefix.load_state_dict(by_fps.state_dict())
        points = cloud()
        ordered = bixt3d.ops.gather_points(points, bixt3d.ops.farthest_point_sample(points, 128))
        torch.testing.assert_close(by_prefix(ordered), by_fps(ordered))
        assert not by_prefix(points).isclose(by_fps(points), rtol=1e-3).all()


class TestAttentionMaps:
    def test_one_per_layer(self, name: str) -> None:
        model, points = tiny(name).eval(), cloud()
        maps = model.attention_maps(points)
        assert [tuple(weights.shape) for weights in maps] == [(3, 3, 5, count) for count in READS[name]]
        for weights in maps:
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3, 5), rtol=0, atol=1e-5)

    def test_differ_between_latents_and_layers(self, name: str) -> None:
        maps = tiny(name).eval().attention_maps(cloud())
        assert not maps[0][:, :, 0].isclose(maps[0][:, :, 1], rtol=1e-3).all()
        assert not maps[0][..., :16].isclose(maps[1][..., :16], rtol=1e-3).all()

    def test_are_located_at_their_tokens(self, name: str) -> None:
        model, points = tiny(name).eval(), cloud()
        located = model.located_attention(points)
        for (xyz, weights), plain in zip(located, model.attention_maps(points), strict=True):
            torch.testing.assert_close(weights, plain)
            assert xyz.shape == (3, weights.shape[-1], 3)
            same = (xyz[:, :, None] == points[:, None, :, :3]).all(-1)  # (B, S, N)
            assert same.any(-1).all()

    def test_directions_are_one_in_a_bidirectional_layer_only(self, name: str) -> None:
        symmetry = tiny(name).eval().attention_symmetry(cloud())
        if name == "perceiver_ti_cls":
            assert symmetry == []  # tokens read nothing there
            return
        assert len(symmetry) == len(READS[name]) - 1  # the last layer is one-sided
        for values in symmetry:
            assert values.shape == (3, 3)
            if name == "sequential_ti_cls":
                assert (values.abs() < 0.9).all() and values.std() > 0
            else:
                torch.testing.assert_close(values, torch.ones(3, 3).double())

    def test_follow_the_points(self) -> None:
        model, points, order = tiny("bixt_ti_cls").eval(), cloud(), torch.randperm(128)
        for found, weights in zip(
            model.attention_maps(points[:, order]), model.attention_maps(points), strict=True
        ):
            torch.testing.assert_close(found, weights[..., order], rtol=1e-3, atol=1e-5)

    def test_are_computed_only_when_asked_for(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model, points = tiny(name).eval(), cloud()

        def asked(self: Trunk, *args: Any) -> Tensor:
            raise AssertionError("asked for a map")

        monkeypatch.setattr(type(model.encoder.trunk), "attention_map", asked)
        model(points), model.forward_features(points)
        with pytest.raises(AssertionError, match="asked for a map"):
            model.attention_maps(points)

    @pytest.mark.parametrize(("backend", "kept"), [("torch", True), ("sdpa", False), ("auto", False)])
    def test_training_keeps_no_map(self, backend: str, kept: bool) -> None:
        batch, num_latents, count = 2, 13, 997  # primes: no other tensor has as many elements
        model = tiny("bixt_ti_cls", backend=backend, num_latents=num_latents).train()
        sizes: list[int] = []

        def pack(saved: Tensor) -> Tensor:
            sizes.append(saved.numel())
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            model(cloud(batch, count))
        assert len(sizes) > 50
        assert (batch * 3 * num_latents * count in sizes) == kept

    def test_bad_points(self, name: str) -> None:
        with pytest.raises(ValueError, match="points: expected"):
            tiny(name).attention_maps(torch.rand(128, 3))


class TestContract:
    def test_features_and_head_compose(self, name: str) -> None:
        model, points = tiny(name).eval(), cloud()
        latents, tokens = model.forward_features(points)
        assert latents.shape == (3, 5, 24)
        assert tokens.shape == (3, READS[name][-1], ARGS[name].get("widths", [24])[-1])
        assert model.forward_head(latents, tokens).equal(model(points))

    @pytest.mark.parametrize("pool", ["latents", "tokens", "both"])
    def test_reset_classifier(self, pool: str) -> None:
        model, points = tiny("bixt_ti_cls_hierarchy", pool=pool, dropout=0.2).eval(), cloud()
        latents, tokens = model.forward_features(points)
        model.reset_classifier(4)
        assert model(points).shape == (3, 4)
        assert not model(points).any()
        assert model.head.pool == pool
        assert model.head.dropout.p == 0.2
        for found, wanted in zip(model.forward_features(points), (latents, tokens), strict=True):
            assert found.equal(wanted)

    def test_reset_classifier_of_every_model(self, name: str) -> None:
        model = tiny(name)
        assert (model.num_outputs, model.task) == (7, "classification")
        model.reset_classifier(4)
        assert model.num_outputs == 4
        model(cloud()).sum().backward()

    def test_reset_classifier_keeps_the_mode(self) -> None:
        model = tiny("bixt_ti_cls", dropout=0.5).eval()
        model.reset_classifier(4)
        randomize(model.head)
        points = cloud()
        assert model(points).equal(model(points))

    def test_reset_classifier_keeps_the_dtype(self) -> None:
        model = tiny("bixt_ti_cls").double()
        model.reset_classifier(4)
        assert model(cloud()).dtype == torch.float64

    @pytest.mark.parametrize("classes", [0, -1])
    def test_reset_classifier_to_nothing(self, classes: int) -> None:
        with pytest.raises(ValueError, match="num_classes: expected at least 1"):
            tiny("bixt_ti_cls").reset_classifier(classes)

    def test_no_weight_decay(self, name: str) -> None:
        model = tiny(name)
        parameters = dict(model.named_parameters())
        spared = model.no_weight_decay()
        assert spared <= set(parameters)
        assert "encoder.trunk.latents" in spared
        decayed = {n: value for n, value in parameters.items() if n not in spared}
        assert all(n.endswith(".weight") and value.ndim == 2 for n, value in decayed.items())
        assert all(parameters[n].ndim == 1 for n in spared - {"encoder.trunk.latents"})


class TestErrors:
    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (torch.rand(128, 3), r"got torch.float32 tensor of shape \(128, 3\)"),
            (
                torch.rand(2, 3, 128),
                r"\(B, N, 3\).*got torch.float32 tensor of shape \(2, 3, 128\): transpose it$",
            ),
            (torch.rand(2, 128, 6), r"\(B, N, 3\).*got torch.float32 tensor of shape \(2, 128, 6\)$"),
            (torch.zeros(2, 128, 3, dtype=torch.int64), "floating-point.*got torch.int64"),
            (torch.rand(0, 128, 3), "B, N > 0"),
            (torch.rand(2, 0, 3), "B, N > 0"),
            (torch.rand(2, 128, 3).numpy(), "got ndarray"),
            (None, "got NoneType"),
        ],
    )
    def test_wrong_points(self, name: str, points: Any, message: str) -> None:
        model = tiny(name)
        calls: tuple[Callable[[Any], Any], ...] = (model, model.forward_features, model.attention_maps)
        for call in calls:
            with pytest.raises(ValueError, match=f"points: expected.*{message}"):
                call(points)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("training", [False, True])
    def test_the_cloud_with_a_bad_value_is_named(self, name: str, bad: float, training: bool) -> None:
        points = cloud()
        points[1, 100, 2] = bad
        with pytest.raises(ValueError, match="points: .*cloud 1 of the batch holds NaN or infinity"):
            tiny(name).train(training)(points)

    def test_xyz_alone_for_a_model_with_normals(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"\(B, N, 6\).*\(2, 128, 3\)"):
            tiny(name, in_dims=6)(cloud(2))

    @pytest.mark.parametrize("name", ["bixt_ti_cls_grouping", "bixt_ti_cls_hierarchy"])
    def test_too_few_points_name_k(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"k: expected 1 to 6 \(each cloud has 6 points\), got 8"):
            tiny(name)(cloud(2, 6))

    @pytest.mark.parametrize(
        ("name", "changed", "message"),
        [
            (
                "bixt_ti_cls",
                {"in_dims": 2},
                "in_dims: expected 3 for xyz, and the widths of the features, got 2",
            ),
            ("bixt_ti_cls", {"num_classes": 0}, "num_classes: expected at least 1, got 0"),
            ("bixt_ti_cls", {"attention": "self"}, "attention: expected one of bidirectional, sequential"),
            ("bixt_ti_cls", {"pool": "mean"}, "pool: expected one of latents, tokens, both"),
            ("bixt_ti_cls", {"coord_scale": 0}, "coord_scale: expected a positive number, got 0"),
            ("bixt_ti_cls", {"dim": 25}, "width divisible by the heads, got dim=25"),
            ("bixt_ti_cls", {"dropout": 2.0}, "dropout"),
            ("bixt_ti_cls_grouping", {"group_layers": (0, 3)}, r"grouping before steps \[3\].*steps 0 to 2"),
            ("bixt_ti_cls_grouping", {"center": "mean"}, "center: expected one of anchor, center"),
            ("bixt_ti_cls_grouping", {"neighbors": 0}, "neighbors=0"),
            ("bixt_ti_cls_hierarchy", {"reductions": (2,)}, "widths and reductions: .* got 2 and 1"),
            ("bixt_ti_cls_hierarchy", {"widths": (), "reductions": ()}, "depth=0"),
            ("bixt_ti_cls_hierarchy", {"sampling": "first"}, "sampling: expected one of fps, prefix"),
            ("perceiver_ti_cls", {"share": "none"}, "share: expected one of all, all_but_first"),
        ],
    )
    def test_values_of_arguments(self, name: str, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny(name, **changed)

    # What a config file can hold in the place of a number or a list.
    @pytest.mark.parametrize(
        ("name", "key", "value"),
        [
            ("bixt_ti_cls", "dim", "24"),
            ("bixt_ti_cls", "dim", 24.0),
            ("bixt_ti_cls", "depth", 3.0),
            ("bixt_ti_cls", "depth", None),
            ("bixt_ti_cls", "num_classes", "7"),
            ("bixt_ti_cls", "drop_path", "a tenth"),
            ("bixt_ti_cls_grouping", "group_layers", 3),
            ("bixt_ti_cls_hierarchy", "widths", 12),
        ],
    )
    def test_types_of_arguments(self, name: str, key: str, value: Any) -> None:
        with pytest.raises(ValueError, match=key):
            tiny(name, **{key: value})

    def test_a_stage_before_a_step_that_is_not_there(self) -> None:
        trunk = tiny("bixt_ti_cls").encoder.trunk
        with pytest.raises(ValueError, match=r"grouping before steps \[-1\]: the trunk has steps 0 to 2"):
            PointEncoder(SinusoidalTokenizer(3, 24), trunk, {-1: GroupingStage(24, 24)})
