from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray

import bixt3d
from bixt3d import Predictor
from bixt3d.datasets.loader import arrange
from bixt3d.datasets.orientation import AXES, turn_about
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.inference import Prediction
from bixt3d.inference.looks import Looks
from bixt3d.models import create_model
from bixt3d.ops import attention_diversity
from bixt3d.tasks import ClassificationTask, Description, Task
from bixt3d.training.checkpoint import save_model
from tests.models.randomize import randomize
from tests.training.tiny import CLASSES, HIERARCHY, NAIVE, awaken

POINTS, STORED = 32, 200


def save(path: Path, in_dims: int = 3, order: str = "stored", **changes: Any) -> Path:
    torch.manual_seed(0)
    name, args = "bixt_ti_cls", {"num_classes": 4, "in_dims": in_dims, **NAIVE}
    if order == "fps":
        name, args = "bixt_ti_cls_hierarchy", {**args, **HIERARCHY, "sampling": "prefix"}
        del args["depth"]
    meta = {
        "model": {"name": name, "args": args},
        "classes": list(CLASSES),
        "preprocess": {"num_points": POINTS, "order": order, "channels": in_dims, "stored_points": STORED},
        **changes,
    }
    save_model(path, awaken(create_model(name, **args)), meta)
    return path


def describe(model: Any, preprocess: Preprocess, task: str = "classification", facts: Any = None) -> None:
    """Let a model that was built elsewhere say what it is."""
    model.description = Description(
        task, {"name": "", "args": {}}, facts or {"classes": list(CLASSES)}, preprocess
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "best.safetensors")


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, "cpu")


def some_cloud(count: int = POINTS, seed: int = 0, channels: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, channels)).astype(np.float32)


def assert_equal(first: Prediction, second: Prediction, tolerance: float = 0.0) -> None:
    assert first.label == second.label and first.index == second.index
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=tolerance, rtol=0)
    np.testing.assert_allclose(first.points, second.points, atol=tolerance, rtol=0)


def test_prediction_says_what_it_is(predictor: Predictor) -> None:
    seen = predictor(some_cloud(50))
    assert isinstance(seen, Prediction)
    assert seen.probabilities.shape == (4,) and seen.probabilities.dtype == np.float32
    assert seen.probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    assert seen.index == seen.probabilities.argmax() and type(seen.index) is int
    assert seen.label == CLASSES[seen.index]
    assert seen.points.shape == (POINTS, 3) and seen.points.dtype == np.float32
    assert predictor.classes == CLASSES
    others = [predictor(some_cloud(seed=seed)).probabilities for seed in range(1, 4)]
    assert all(np.abs(other - seen.probabilities).max() > 1e-4 for other in others)  # it looks at the cloud


def test_probabilities_are_those_of_the_model(checkpoint: Path, predictor: Predictor) -> None:
    cloud = torch.from_numpy(some_cloud())
    with torch.no_grad():
        logits = bixt3d.load_model(checkpoint, "cpu")(unit_sphere(cloud)[None])[0]
    np.testing.assert_allclose(predictor(cloud).probabilities, logits.softmax(0), atol=1e-6)


def test_points_are_normalised_and_the_first_ones(predictor: Predictor) -> None:
    """As the training took them, from a cloud of as many points as were stored."""
    cloud = some_cloud(STORED)
    expected = unit_sphere(torch.from_numpy(cloud))[:POINTS]
    np.testing.assert_allclose(predictor(cloud).points, expected, atol=1e-6)


def test_points_of_another_cloud_come_from_all_over_it(predictor: Predictor) -> None:
    """A scan stored line by line: its first points are one corner."""
    cloud = some_cloud(1000)
    cloud = cloud[cloud[:, 0].argsort()]
    whole = unit_sphere(torch.from_numpy(cloud)).numpy()
    seen = predictor(cloud).points
    distance, nearest = (torch.from_numpy(seen)[:, None] - torch.from_numpy(whole)).norm(dim=-1).min(1)
    assert distance.max() < 1e-5 and len(set(nearest.tolist())) == POINTS
    assert nearest.min() < 150 and nearest.max() > 850
    np.testing.assert_array_equal(predictor(cloud).points, seen)


@pytest.mark.usefixtures("threads")
def test_farthest_points_of_the_whole_cloud(tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", order="fps"), "cpu")
    cloud = torch.from_numpy(some_cloud(100))
    normal = unit_sphere(cloud)
    chosen = bixt3d.ops.farthest_point_sample(normal[None], POINTS)[0]
    np.testing.assert_allclose(predictor(cloud).points, normal[chosen], atol=1e-6)


def test_farthest_points_of_a_scan_come_from_as_many_as_training_chose_among(tmp_path: Path) -> None:
    """Of millions they would be its outliers, which training has seen one in thousands of."""
    predictor = Predictor(save(tmp_path / "m.safetensors", order="fps"), "cpu")
    cloud = some_cloud(40 * STORED)
    cloud = cloud[cloud[:, 0].argsort()]
    whole = unit_sphere(torch.from_numpy(cloud))
    seen = torch.from_numpy(predictor(cloud).points)
    distance, nearest = (seen[:, None] - whole).norm(dim=-1).min(1)
    assert distance.max() < 1e-5 and len(set(nearest.tolist())) == POINTS
    extreme = whole[bixt3d.ops.farthest_point_sample(whole[None], POINTS)[0]].norm(dim=-1).mean()
    assert seen.norm(dim=-1).mean() < 0.9 * extreme
    assert seen[:, 0].min() < -0.2 and seen[:, 0].max() > 0.2  # of all of the scan
    np.testing.assert_array_equal(predictor(cloud).points, seen)


@pytest.mark.parametrize("order", ["stored", "fps", "random"])
@pytest.mark.parametrize("count", [2, 5, POINTS - 1])
def test_few_points_are_repeated_as_in_training(order: str, count: int, tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", order=order), "cpu")
    cloud = some_cloud(count)
    rows = np.resize(unit_sphere(torch.from_numpy(cloud)).numpy(), (POINTS, 3))  # repeats its rows in order
    own = torch.tensor([count])
    index = arrange(torch.from_numpy(rows)[None], POINTS, order, count=own)[0]
    seen = predictor(cloud)
    np.testing.assert_allclose(seen.points, rows[index], atol=1e-6)
    _, often = np.unique(seen.points, axis=0, return_counts=True)
    assert len(often) == count and np.isfinite(seen.probabilities).all()
    if order != "random":
        assert often.max() - often.min() <= 1  # all of them equally often
    assert [layer.shape[-1] for layer in predictor.attention(cloud).maps] == [count] * len(
        predictor.attention_maps(cloud)
    )


def test_every_form_of_a_cloud_gives_the_same(predictor: Predictor, tmp_path: Path) -> None:
    cloud = some_cloud(60)
    np.save(tmp_path / "cloud.npy", cloud)
    expected = predictor(cloud)
    assert_equal(predictor(torch.from_numpy(cloud)), expected)
    assert_equal(predictor(tmp_path / "cloud.npy"), expected)
    assert_equal(predictor(str(tmp_path / "cloud.npy")), expected)


@pytest.mark.usefixtures("threads")
def test_several_clouds_give_a_list(predictor: Predictor, tmp_path: Path) -> None:
    first, second = some_cloud(60, 1), some_cloud(60, 2)
    alone = [predictor(first), predictor(second)]
    np.save(tmp_path / "first.npy", first)
    batch = np.stack([first, second])
    mixed = [tmp_path / "first.npy", torch.from_numpy(second)]
    for several in (batch, torch.from_numpy(batch), [first, second], (first, second), mixed):
        seen = predictor(several)
        assert isinstance(seen, list) and len(seen) == 2
        for one, other in zip(seen, alone, strict=True):
            assert_equal(one, other)
    assert len(predictor([first])) == 1 and len(predictor(batch[:1])) == 1
    sizes = [seen.points.shape for seen in predictor([some_cloud(40), some_cloud(300)])]
    assert sizes == [(POINTS, 3)] * 2


@pytest.mark.usefixtures("threads")
def test_same_input_gives_the_same_output(checkpoint: Path, tmp_path: Path) -> None:
    trimesh.creation.torus(1.0, 0.3).export(tmp_path / "torus.off")
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        predictor = Predictor(checkpoint, "cpu")
        seen += [predictor(tmp_path / "torus.off"), predictor(tmp_path / "torus.off")]
    for other in seen[1:]:
        assert_equal(other, seen[0])


@pytest.mark.parametrize("order", ["stored", "fps"])
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 3.0), (1e-3, 0.0), (250.0, 0.0), (20.0, -60.0)])
def test_place_and_size_do_not_matter(order: str, factor: float, offset: float, tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", order=order), "cpu")
    cloud = some_cloud(80).astype(np.float64)
    moved = cloud * factor + offset * np.array([1.0, -2.0, 0.5])
    assert_equal(predictor(moved), predictor(cloud), tolerance=1e-3)


def test_coordinates_of_a_map_keep_their_precision(predictor: Predictor) -> None:
    """A scan in metres east and north: float32 holds such numbers to half a metre only."""
    cloud = some_cloud(80).astype(np.float64)
    moved = cloud + np.array([500_000.0, 5_400_000.0, 300.0])
    assert_equal(predictor(moved), predictor(cloud), tolerance=1e-3)
    assert_equal(predictor(torch.from_numpy(moved)), predictor(cloud), tolerance=1e-3)


FORMS: dict[str, Callable[[NDArray[np.float32]], Any]] = {
    "float64": lambda cloud: cloud.astype(np.float64),
    "big endian": lambda cloud: cloud.astype(">f4"),
    "every other row": lambda cloud: np.repeat(cloud, 2, axis=0)[::2],
    "negative strides": lambda cloud: cloud[::-1].copy()[::-1],
    "fortran order": np.asfortranarray,
    "more columns": lambda cloud: np.concatenate([cloud, np.full((len(cloud), 4), np.nan)], axis=1),
    "float64 tensor": lambda cloud: torch.from_numpy(cloud).double(),
    "transposed tensor": lambda cloud: torch.from_numpy(cloud.T.copy()).T,
    "tensor with gradient": lambda cloud: torch.from_numpy(cloud).requires_grad_(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_arrays_of_every_make(form: Callable[[NDArray[np.float32]], Any], predictor: Predictor) -> None:
    cloud = some_cloud(40)
    given = form(cloud.copy())
    assert_equal(predictor(given), predictor(cloud), tolerance=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint8, np.uint16, np.float16])
def test_numbers_of_every_kind(dtype: Any, predictor: Predictor) -> None:
    cloud = (20 * np.abs(some_cloud(40))).astype(dtype)
    expected = predictor(cloud.astype(np.float32))
    assert_equal(predictor(cloud), expected, tolerance=1e-6)
    assert_equal(predictor(torch.from_numpy(cloud)), expected, tolerance=1e-6)


def test_read_only_array_is_taken_without_a_warning(
    predictor: Predictor, recwarn: pytest.WarningsRecorder
) -> None:
    cloud = some_cloud(40)
    expected = predictor(cloud)
    cloud.setflags(write=False)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else torch tells only the first of them
    try:
        assert_equal(predictor(cloud), expected)
    finally:
        torch.set_warn_always(always)
    assert [str(warning.message) for warning in recwarn] == []


def test_input_stays_as_it_is(predictor: Predictor) -> None:
    cloud = some_cloud(40)
    before = cloud.copy()
    seen = predictor(cloud)
    predictor(torch.from_numpy(cloud))
    seen.points[:] = 7.0
    assert np.array_equal(cloud, before)


def with_value(value: float) -> NDArray[np.float32]:
    cloud = some_cloud(40)
    cloud[3, 1] = value
    return cloud


NO_CLOUDS: dict[str, tuple[Any, str]] = {
    "NaN": (with_value(np.nan), "finite"),
    "infinity": (with_value(np.inf), "finite"),
    "none": (np.zeros((0, 3)), "expected"),
    "squares overflow": (some_cloud(40).astype(np.float64) * 1e200, r"coordinates up to 1e\+100"),
    "two columns": (some_cloud(40)[:, :2], r"expected points \(N, 3\), got .*\(40, 2\)"),
    "one point": (some_cloud(40)[0], r"cloud \(N, 3\) or a batch \(B, N, 3\), got an array of shape \(3,\)"),
    "four axes": (np.zeros((2, 2, 40, 3)), r"\(2, 2, 40, 3\)"),
    "numpy scalar": (np.float32(1.0), "expected"),
    "bool": (np.ones((40, 3), dtype=bool), "bool"),
    "bool tensor": (torch.ones(40, 3, dtype=torch.bool), "bool"),
    "complex": (np.ones((40, 3), dtype=complex), "complex"),
    "complex tensor": (torch.ones(40, 3, dtype=torch.complex64), "complex"),
    "text": (np.full((40, 3), "a"), "expected numbers"),
    "objects": (np.full((40, 3), None), "expected numbers"),
    "lists of numbers": ([[0.0, 0.0, 0.0]] * 40, "expected an array, a tensor or a path, got list"),
    "list with None": ([some_cloud(40), None], "got NoneType"),
    "list with two columns": ([some_cloud(40), some_cloud(40)[:, :2]], r"\(40, 2\)"),
    "None": (None, "expected"),
    "a number": (3, "expected"),
}


@pytest.mark.parametrize(("clouds", "message"), NO_CLOUDS.values(), ids=NO_CLOUDS.keys())
def test_what_is_no_cloud_is_refused(clouds: Any, message: str, predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=message):
        predictor(clouds)


def test_bad_file_is_named(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.off"):
        predictor(tmp_path / "gone.off")
    (tmp_path / "bad.off").write_text("hello")
    with pytest.raises(ValueError, match=r"bad\.off"):
        predictor(tmp_path / "bad.off")
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"none\.npy: expected points"):
        predictor([str(tmp_path / "none.npy")])


def test_mesh_is_sampled_as_the_training_set_was(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "torus.off"
    trimesh.creation.torus(1.0, 0.3).export(path)
    sampled = bixt3d.datasets.readers.read_cloud(path, num_samples=STORED)
    assert_equal(predictor(path), predictor(sampled))


def test_normals_pass_and_are_not_scaled(tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", in_dims=6), "cpu")
    trimesh.creation.box().export(tmp_path / "box.ply")
    seen = predictor(tmp_path / "box.ply")
    assert seen.points.shape == (POINTS, 6)
    np.testing.assert_allclose(np.linalg.norm(seen.points[:, 3:], axis=1), 1.0, atol=1e-5)
    cloud = some_cloud(POINTS, channels=6)
    cloud[:, 3:] /= np.linalg.norm(cloud[:, 3:], axis=1, keepdims=True)
    cloud[5, 3:] = 0  # not known
    cloud[:, :3] *= 50
    np.testing.assert_array_equal(predictor(cloud).points[:, 3:], cloud[:, 3:])
    with pytest.raises(ValueError, match=re.escape("expected points (N, 6)")):
        predictor(some_cloud(40))


@pytest.mark.parametrize("count", [POINTS, 90])
def test_attention_maps_of_the_naive_model(count: int, predictor: Predictor) -> None:
    maps = predictor.attention_maps(some_cloud(count))
    assert [tuple(one.shape) for one in maps] == [(2, 4, POINTS)] * 2  # (H, M, N) for each layer
    for one in maps:
        torch.testing.assert_close(one.sum(-1), torch.ones(2, 4))
        assert one.min() >= 0 and not one.requires_grad


def test_attention_maps_of_a_hierarchy_lie_on_fewer_tokens(tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", order="fps"), "cpu")
    np.save(tmp_path / "cloud.npy", some_cloud(90))
    maps = predictor.attention_maps(tmp_path / "cloud.npy")
    assert [tuple(one.shape) for one in maps] == [(2, 4, POINTS // 2), (2, 4, POINTS // 4)]
    with pytest.raises(ValueError, match="finite"):
        predictor.attention_maps(with_value(np.nan))


def test_attention_on_every_point_is_that_of_its_token(tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", order="fps"), "cpu")
    cloud = 50 * some_cloud(90) + 7
    seen = predictor.attention(cloud)
    np.testing.assert_array_equal(seen.points, cloud.astype(np.float64))
    assert [layer.shape for layer in seen.maps] == [(2, 4, 90)] * 2  # (H, M, N) for each layer
    for layer, tokens in zip(seen.maps, predictor.attention_maps(cloud), strict=True):
        values = {tuple(column) for column in tokens.reshape(8, -1).T.tolist()}
        found = [tuple(column) for column in layer.reshape(8, -1).T.tolist()]
        assert set(found) == values  # every token is the nearest of some point: itself


PERCEIVER = {"dim": 12, "num_blocks": 2, "self_attends_per_block": 1, "num_heads": 2, "num_latents": 4}


def test_symmetry_of_one_cloud(predictor: Predictor) -> None:
    (layer,) = predictor.attention_symmetry(some_cloud(90))
    np.testing.assert_allclose(layer, np.ones(2))
    assert len(predictor.attention_symmetry(some_cloud(5))) == 1


def test_attention_of_the_other_direction(predictor: Predictor) -> None:
    """Shares of the latents at each point: both directions are softmaxes of one similarity."""
    cloud = some_cloud(90)
    (read,) = predictor.attention(cloud, direction="tokens").maps[:1]  # (H, M, N)
    np.testing.assert_allclose(read.sum(1), 1.0, rtol=1e-5)
    latents = predictor.attention(cloud).maps[0]
    difference = np.log(latents) - np.log(read)  # a constant of each latent, and one of each point
    difference -= difference.mean(1, keepdims=True)
    np.testing.assert_allclose(difference, difference.mean(2, keepdims=True) + 0 * difference, atol=1e-3)
    perceiver = Predictor(create_model("perceiver_ti_cls", num_classes=4, **PERCEIVER), "cpu")
    with pytest.raises(ValueError, match="direction='tokens': no layer of this model has it"):
        perceiver.attention(cloud, direction="tokens")


def test_diversity_of_one_cloud(predictor: Predictor) -> None:
    maps = predictor.attention_maps(some_cloud(90))
    layers = predictor.attention_diversity(some_cloud(90))
    assert len(layers) == len(maps)
    for layer, of_layer in zip(layers, maps, strict=True):
        correlation, entropy = attention_diversity(of_layer[None])
        np.testing.assert_array_equal(layer, np.stack([correlation[0], entropy[0]]))


def test_freedom_of_one_cloud(predictor: Predictor) -> None:
    (layer,) = predictor.attention_freedom(some_cloud(90))
    latents, tokens = predictor.attention_maps(some_cloud(90))[0].shape[-2:]
    separate, most_separate, shared, most_shared = layer[:4]
    assert (most_separate == 2 * latents * tokens - latents - tokens).all()
    assert (most_shared == latents * tokens - 1).all()
    assert (separate == most_separate).all() and (shared == most_shared).all()  # untrained: no map vanishes
    np.testing.assert_array_equal(layer[4], layer[5])  # one similarity


def test_what_kind_of_model_it_is(predictor: Predictor) -> None:
    assert not predictor.labels_parts
    assert predictor.part_names == () and predictor.parts_of_category == []
    assert predictor.category_number("anything") is None
    np.testing.assert_array_equal(predictor.read(some_cloud(40)), some_cloud(40).astype(np.float64))


def test_model_without_a_checkpoint() -> None:
    model = awaken(create_model("bixt_ti_cls", num_classes=4, **NAIVE)).train()
    numbered = Predictor(model, "cpu")
    seen = numbered(some_cloud(50))
    assert seen.label == str(seen.index) and len(seen.points) == 50
    named = Predictor(model, "cpu", classes=CLASSES, num_points=20)(some_cloud(50))
    assert named.label == CLASSES[named.index] and len(named.points) == 20


def test_names_must_be_as_many_as_the_classes() -> None:
    model = create_model("bixt_ti_cls", num_classes=4, **NAIVE)
    with pytest.raises(ValueError, match="classes"):
        Predictor(model, "cpu", classes=("one", "two"))(some_cloud(50))


def test_forms_of_a_checkpoint(checkpoint: Path, predictor: Predictor, tmp_path: Path) -> None:
    expected = predictor(some_cloud())
    for form in (str(checkpoint), checkpoint.with_suffix(""), checkpoint.parent):
        assert_equal(Predictor(form, "cpu")(some_cloud()), expected)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Predictor(tmp_path / "nothing", "cpu")


@pytest.mark.parametrize("key", ["classes", "preprocess"])
def test_checkpoint_that_does_not_say_enough(key: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", **{key: None})
    with pytest.raises(ValueError, match=r"m\.safetensors.*description"):
        Predictor(path, "cpu")


def test_loaded_model_predicts_as_its_checkpoint(checkpoint: Path, predictor: Predictor) -> None:
    loaded = Predictor(bixt3d.load_model(checkpoint, "cpu"), "cpu")
    assert loaded.classes == predictor.classes
    assert_equal(loaded(some_cloud(90)), predictor(some_cloud(90)))
    renamed = Predictor(checkpoint, "cpu", classes=("w", "x", "y", "z"))(some_cloud(90))
    assert renamed.label == "wxyz"[renamed.index]


@pytest.mark.parametrize("count", [0, -3, 2.5])
def test_numbers_of_points_that_are_none(count: Any, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=f"num_points: expected a whole number of at least 1, got {count}"):
        Predictor(checkpoint, "cpu", num_points=count)


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a checkpoint, a model with a description .* got Linear"):
        Predictor(torch.nn.Linear(3, 4), "cpu")


class TestSegment:
    @pytest.fixture
    def predictor(self) -> Predictor:
        torch.manual_seed(3)
        model = bixt3d.create_model(
            "bixt_ti_partseg", num_parts=5, num_categories=2, dim=12, depth=2, num_heads=2, num_latents=4
        )
        randomize(model)
        facts = {
            "classes": ["mug", "table"],
            "parts_of_category": [[0, 1], [2, 3, 4]],
            "part_names": ["body", "handle", "top", "leg", "shelf"],
        }
        describe(model, Preprocess(32, "random", 64), "part_segmentation", facts)
        return Predictor(model, "cpu")

    @pytest.mark.parametrize("count", [2, 20, 32, 33, 200])
    def test_every_point_gets_a_part_of_its_category(self, predictor: Predictor, count: int) -> None:
        cloud = np.random.default_rng(0).normal(size=(count, 3)) * 50 + 1000
        seen = predictor.segment(cloud, "table")
        assert seen.parts.shape == seen.names.shape == seen.probabilities.shape == (count,)
        assert set(seen.parts.tolist()) <= {2, 3, 4} and set(seen.names) <= {"top", "leg", "shelf"}
        assert np.array_equal(seen.points, cloud)  # its own coordinates and scale
        assert (seen.probabilities >= 1 / 3 - 1e-6).all() and (seen.probabilities <= 1).all()
        again = predictor.segment(torch.from_numpy(cloud), 1)
        assert np.array_equal(again.parts, seen.parts)

    def test_place_and_scale_do_not_matter(self, predictor: Predictor) -> None:
        cloud = np.random.default_rng(0).normal(size=(90, 3))
        seen, moved = predictor.segment(cloud, "mug"), predictor.segment(cloud * 7 - 3, "mug")
        assert np.array_equal(seen.parts, moved.parts)

    @pytest.mark.parametrize(
        ("category", "message"),
        [
            (None, "category: this model needs to be told it, one of mug, table"),
            ("mugg", "category: expected one of mug, table, got 'mugg'; did you mean 'mug'?"),
            (2, "category: expected one of mug, table, got 2"),
            (True, "category: expected one of mug, table, got True"),
        ],
    )
    def test_bad_category(self, predictor: Predictor, category: object, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            predictor.segment(np.zeros((40, 3)) + np.arange(40)[:, None], category)  # type: ignore[arg-type]

    def test_the_other_kind_of_model(self, predictor: Predictor) -> None:
        with pytest.raises(ValueError, match="labels parts: call predictor.segment"):
            predictor(np.random.default_rng(0).normal(size=(64, 3)))
        classifier = Predictor(bixt3d.create_model("bixt_ti_cls", dim=12, depth=2, num_heads=2), "cpu")
        with pytest.raises(ValueError, match="classifies whole clouds"):
            classifier.segment(np.random.default_rng(0).normal(size=(64, 3)), "mug")

    def test_attention_maps(self, predictor: Predictor) -> None:
        maps = predictor.attention_maps(np.random.default_rng(0).normal(size=(64, 3)), "mug")
        assert [tuple(m.shape) for m in maps] == [(2, 4, 32), (2, 4, 32)]

    def test_several_clouds(self, predictor: Predictor) -> None:
        clouds = [np.random.default_rng(seed).normal(size=(40 + seed, 3)) for seed in range(3)]
        first = predictor.segment(clouds[1], "mug")
        several = predictor.segment(clouds, "mug")
        assert [len(one.parts) for one in several] == [40, 41, 42]
        np.testing.assert_array_equal(several[1].probabilities, first.probabilities)
        batch = predictor.segment(np.stack([clouds[0], clouds[0] + 1]), ["mug", "mug"])
        np.testing.assert_array_equal(batch[0].parts, several[0].parts)
        with pytest.raises(ValueError, match="category: expected one, or 3, one for each cloud, got 2"):
            predictor.segment(clouds, ["mug", "mug"])

    def test_attention_on_every_point(self, predictor: Predictor) -> None:
        cloud = np.random.default_rng(0).normal(size=(64, 3))
        seen = predictor.attention(cloud, "mug")
        assert [layer.shape for layer in seen.maps] == [(2, 4, 64)] * 2
        assert predictor.labels_parts and len(predictor.part_names) > 1


def parts_predictor(preprocess: Preprocess | None = None, **options: Any) -> Predictor:
    torch.manual_seed(3)
    sizes = {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4}
    model = bixt3d.create_model("bixt_ti_partseg", num_parts=5, num_categories=2, **sizes)
    randomize(model)
    facts = {
        "classes": ["Mug", "table"],
        "parts_of_category": [[0, 1], [2, 3, 4]],
        "part_names": ["body", "handle", "top", "leg", "shelf"],
    }
    describe(model, preprocess or Preprocess(32, "random", 64), "part_segmentation", facts)
    return Predictor(model, "cpu", **options)


class TestSeveral:
    """Clouds of different sizes in one pass, each answered as if it were alone."""

    SIZES = (40, 2, 33, 500, 32, 64, 40, 7)

    @pytest.mark.parametrize("order", ["stored", "fps", "random"])
    @pytest.mark.parametrize("batch_size", [2, 3, 8, 50])
    def test_classes(self, order: str, batch_size: int, tmp_path: Path) -> None:
        path = save(tmp_path / "m.safetensors", order=order)
        clouds = [some_cloud(count, seed) for seed, count in enumerate(self.SIZES)]
        together = Predictor(path, "cpu", batch_size=batch_size)(clouds)
        alone = Predictor(path, "cpu")
        assert len(together) == len(clouds)
        for cloud, seen in zip(clouds, together, strict=True):
            assert_equal(seen, alone(cloud), 1e-5)

    def test_bare_model_takes_all_points(self) -> None:
        model = awaken(create_model("bixt_ti_cls", num_classes=4, **NAIVE))
        clouds = [some_cloud(count, seed) for seed, count in enumerate(self.SIZES)]
        for cloud, seen in zip(clouds, Predictor(model, "cpu", batch_size=8)(clouds), strict=True):
            assert seen.points.shape == cloud.shape
            assert_equal(seen, Predictor(model, "cpu")(cloud), 1e-5)

    @pytest.mark.parametrize("preprocess", [Preprocess(32, "random", 64), Preprocess(None, "random")])
    def test_parts(self, preprocess: Preprocess) -> None:
        clouds = [some_cloud(count, seed) for seed, count in enumerate(self.SIZES)]
        categories = [seed % 2 for seed in range(len(clouds))]
        together = parts_predictor(preprocess, batch_size=5).segment(clouds, categories)
        alone = parts_predictor(preprocess)
        for cloud, category, seen in zip(clouds, categories, together, strict=True):
            expected = alone.segment(cloud, category)
            np.testing.assert_array_equal(seen.parts, expected.parts)
            np.testing.assert_array_equal(seen.points, expected.points)
            np.testing.assert_allclose(seen.probabilities, expected.probabilities, atol=1e-5)
            assert seen.category == category

    def test_bad_clouds_do_not_end_the_others(self, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "empty.xyz").touch()
        clouds = [some_cloud(), tmp_path / "empty.xyz", with_value(np.nan), some_cloud(seed=1), "gone.off"]
        predictor = Predictor(checkpoint, "cpu", batch_size=4)
        seen = list(predictor.answers(clouds))
        assert_equal(seen[0], predictor(clouds[0]), 1e-5)
        assert_equal(seen[3], predictor(clouds[3]), 1e-5)
        assert [type(one) for one in seen[1:3]] == [ValueError, ValueError]
        assert "empty.xyz" in str(seen[1]) and isinstance(seen[4], FileNotFoundError)
        with pytest.raises(ValueError, match="empty"):
            predictor(clouds)

    def test_memory_that_runs_out_for_one_cloud(self, checkpoint: Path) -> None:
        """Batches that are too large are answered one by one; a cloud that is too large is told."""
        predictor = Predictor(checkpoint, "cpu", batch_size=4, num_points=300)
        clouds = [some_cloud(300, 0), some_cloud(300, 1), some_cloud(300, 2)]
        expected = [Predictor(checkpoint, "cpu", num_points=300)(cloud) for cloud in clouds]
        forward = predictor.model.forward

        def greedy(points: torch.Tensor) -> torch.Tensor:
            if len(points) > 1 or torch.equal(points[0], torch.from_numpy(expected[1].points)):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nand more")
            return forward(points)

        predictor.model.forward = greedy
        seen = list(predictor.answers(clouds))
        assert_equal(seen[0], expected[0])
        assert_equal(seen[2], expected[2])
        assert isinstance(seen[1], RuntimeError) and "cloud ran out of memory (CUDA out" in str(seen[1])

    def test_scans_that_are_large_together_go_alone(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bixt3d.inference.predictor.MOST_TOGETHER", 90)
        predictor = Predictor(checkpoint, "cpu", batch_size=4)
        clouds, seen = [some_cloud(50, seed) for seed in range(3)], []
        predictor.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        alone = Predictor(checkpoint, "cpu")
        for cloud, answer in zip(clouds, predictor(clouds), strict=True):
            assert_equal(answer, alone(cloud), 1e-6)
        predictor([some_cloud(), some_cloud(seed=1)])
        assert seen == [1, 1, 1, 2]

    def test_damaged_weights_are_told(self, checkpoint: Path) -> None:
        predictor = Predictor(checkpoint, "cpu", batch_size=2)
        with torch.no_grad():
            next(predictor.model.parameters()).fill_(torch.inf)
        for seen in predictor.answers([some_cloud(), some_cloud(seed=1)]):
            assert isinstance(seen, ValueError) and "weights are damaged" in str(seen)

    def test_own_predict_answers_batches_too(self) -> None:
        class Loud(bixt3d.tasks.ClassificationTask):
            name = "loud"

            def predict(self, *arguments: Any, **named: Any) -> Any:
                seen = super().predict(*arguments, **named)
                return seen.label.upper()

        task, model = Loud(CLASSES), awaken(create_model("bixt_ti_cls", num_classes=4, **NAIVE)).eval()
        clouds = [torch.from_numpy(some_cloud(40, seed)).double() for seed in range(2)]
        with torch.no_grad():
            said = task.predict_batch(model, clouds, Preprocess(POINTS), [None, None])
            assert said == [task.predict(model, cloud, Preprocess(POINTS)) for cloud in clouds]
        assert all(one.isupper() for one in said)


class TestFolder:
    def test_clouds_by_their_place(self, predictor: Predictor, tmp_path: Path, caplog: Any) -> None:
        (tmp_path / "in").mkdir()
        np.save(tmp_path / "in/b.npy", some_cloud(50))
        np.save(tmp_path / "a.npy", some_cloud(60, 1))
        (tmp_path / "bad.xyz").write_text("0 0\n")
        (tmp_path / "read.me").write_text("no cloud")
        seen = predictor(tmp_path)
        assert list(seen) == ["a.npy", "in/b.npy"]
        assert_equal(seen["in/b.npy"], predictor(some_cloud(50)))
        assert "left out" in caplog.text and "bad.xyz" in caplog.text
        (tmp_path / "none").mkdir()
        with pytest.raises(FileNotFoundError, match="none: expected meshes or clouds"):
            predictor(tmp_path / "none")

    def test_below_home(self, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / "scans").mkdir()
        np.save(tmp_path / "scans/a.npy", some_cloud(60))
        seen = predictor("~/scans")
        assert list(seen) == ["a.npy"]
        assert_equal(seen["a.npy"], predictor("~/scans/a.npy"))

    def test_among_clouds_it_is_refused(self, predictor: Predictor, tmp_path: Path) -> None:
        said = r"expected a file, got a folder: give its files as a list, or ask predictor\(folder\)"
        for ask in (predictor.embed, predictor.answer, predictor.read, lambda one: predictor([one])):
            with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(tmp_path))}: {said}"):
                ask(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"or ask segment\(folder\)"):
            parts_predictor().segment([tmp_path], "mug")

    def test_parts(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", some_cloud(60))
        seen = parts_predictor().segment(tmp_path, "mug")
        assert list(seen) == ["a.npy"] and len(seen["a.npy"].parts) == 60


class TestUp:
    def test_cloud_with_another_axis_up(self, checkpoint: Path, predictor: Predictor) -> None:
        cloud = some_cloud(50)
        lying = cloud[:, [0, 2, 1]] * np.array([1, -1, 1], dtype=np.float32)  # its z was y
        seen = Predictor(checkpoint, "cpu", up="z")(lying)
        assert_equal(seen, predictor(cloud), 1e-6)
        assert seen.up == "z" and predictor(cloud).up is None
        assert np.abs(predictor(lying).probabilities - seen.probabilities).max() > 1e-4

    def test_axis_of_the_training_is_kept(self, tmp_path: Path) -> None:
        stated = {"num_points": POINTS, "order": "stored", "channels": 3, "stored_points": STORED, "up": "-x"}
        trained = Predictor(save(tmp_path / "m.safetensors", preprocess=stated), "cpu")
        assert trained.up == "-x" and not trained.auto_up
        given = Predictor(save(tmp_path / "n.safetensors"), "cpu", up="-x")
        assert_equal(trained(some_cloud()), given(some_cloud()))
        assert Predictor(tmp_path / "m.safetensors", "cpu", up="y")(some_cloud()).up == "y"

    def test_auto_takes_the_most_confident(self, checkpoint: Path) -> None:
        clouds = [some_cloud(50, seed) for seed in range(6)]
        found = Predictor(checkpoint, "cpu", up="auto", batch_size=4)(clouds)
        for cloud, seen in zip(clouds, found, strict=True):
            every = {axis: Predictor(checkpoint, "cpu", up=axis)(cloud) for axis in AXES}
            best = max(every, key=lambda axis: every[axis].probabilities.max())
            assert seen.up == best
            assert_equal(seen, every[best], 1e-5)
        assert len({seen.up for seen in found}) > 1

    def test_auto_of_parts_and_attention(self) -> None:
        cloud = some_cloud(60)
        auto = parts_predictor(up="auto")
        seen = auto.segment(cloud, "table")
        every = {axis: parts_predictor(up=axis) for axis in AXES}
        best = max(every, key=lambda axis: every[axis].segment(cloud, "table").probabilities.mean())
        assert seen.up == best and auto.auto_up and auto.up is None
        np.testing.assert_array_equal(seen.parts, every[best].segment(cloud, "table").parts)
        np.testing.assert_array_equal(seen.points, cloud.astype(np.float64))  # its own coordinates
        for layer, expected in zip(
            auto.attention(cloud, "table").maps, every[best].attention(cloud, "table").maps, strict=True
        ):
            np.testing.assert_allclose(layer, expected)

    def test_attention_of_an_axis_that_an_answer_found(self, checkpoint: Path) -> None:
        cloud, auto = some_cloud(50), Predictor(checkpoint, "cpu", up="auto")
        asked, told = auto.attention(cloud), auto.attention(cloud, up=auto(cloud).up)
        other = auto.attention(cloud, up=next(axis for axis in AXES if axis != auto(cloud).up))
        for first, second, third in zip(asked.maps, told.maps, other.maps, strict=True):
            np.testing.assert_array_equal(first, second)
            assert np.abs(first - third).max() > 0

    def test_unknown_axis(self, checkpoint: Path) -> None:
        with pytest.raises(ValueError, match="up: expected one of x, y, z, -x, -y, -z, auto, or None, got"):
            Predictor(checkpoint, "cpu", up="up")
        with pytest.raises(ValueError, match="batch_size: expected a whole number of at least 1, got 0"):
            Predictor(checkpoint, "cpu", batch_size=0)


def turned(cloud: NDArray[Any], axis: str, degrees: float) -> NDArray[Any]:
    return turn_about(torch.from_numpy(cloud).double(), axis, degrees).numpy()


class TestTurns:
    def test_mean_of_the_looks(self, checkpoint: Path) -> None:
        cloud = some_cloud(50)
        plain, found = (Predictor(checkpoint, "cpu", up="z", turns=turns) for turns in (1, 3))
        looks = [plain(turned(cloud, "z", 120 * number)) for number in range(3)]
        mean = np.mean([look.probabilities for look in looks], 0)
        seen = found(cloud)
        np.testing.assert_allclose(seen.probabilities, mean, atol=1e-6)
        assert seen.index == mean.argmax() and seen.label == CLASSES[seen.index] and seen.up == "z"
        np.testing.assert_array_equal(seen.points, plain(cloud).points)
        assert np.abs(mean - plain(cloud).probabilities).max() > 1e-4
        several = Predictor(checkpoint, "cpu", up="z", turns=3, batch_size=2)([cloud, cloud])
        assert_equal(several[1], seen, 1e-5)

    @pytest.mark.parametrize(
        ("augment", "even"), [({}, False), ({"tilt": 15}, False), ({"lying": 0.2}, True)]
    )
    @pytest.mark.parametrize("turns", [1, 2])
    def test_looks_suit_the_training(
        self, augment: dict[str, Any], even: bool, turns: int, tmp_path: Path
    ) -> None:
        path, cloud = save(tmp_path / "m.safetensors", config={"augment": augment}), some_cloud(50)
        auto = Predictor(path, "cpu", up="auto", turns=turns)
        assert auto.looks == Looks(turns, True, even) and Predictor(path, "cpu").looks == Looks(even=even)
        every = {axis: Predictor(path, "cpu", up=axis, turns=turns)(cloud) for axis in AXES}
        entropy = {
            axis: -(one.probabilities * np.log(one.probabilities)).sum() for axis, one in every.items()
        }
        best = min(AXES, key=entropy.get if even else lambda axis: -every[axis].confidence)  # type: ignore[arg-type]
        assert_equal(auto(cloud), every[best])
        assert auto(cloud).up == best
        assert every[best].certainty == pytest.approx(1 - entropy[best] / np.log(4), abs=1e-6)

    @pytest.mark.parametrize(("even", "up"), [(True, "z"), (False, "-x")])
    def test_the_surest_axis(self, even: bool, up: str) -> None:
        """One of two classes is surer than one class of many that are as likely, though less probable."""

        class Told(ClassificationTask):
            def predict_batch(self, model: Any, clouds: Any, preprocess: Any, categories: Any) -> Any:
                shares = {"z": [0.5, 0.5, 0, 0], "-x": [0.55, 0.15, 0.15, 0.15]}.get(
                    preprocess.up, [0.25] * 4
                )
                found = Prediction("a", 0, np.array(shares, np.float32), clouds[0].numpy(), preprocess.up)
                return [found] * len(clouds)

        clouds = [torch.zeros(4, 3)] * 2
        found = Looks(1, True, even).answer(Told(), torch.nn.Identity(), clouds, Preprocess(), [None] * 2)
        assert [one.up for one in found] == [up, up]

    def test_answers_that_are_confident_alone(self) -> None:
        class Named(ClassificationTask):
            def predict(self, model: Any, points: Any, preprocess: Any, category: Any = None) -> Any:
                return SimpleNamespace(confidence=float(preprocess.up == "-z"), up=preprocess.up)

        looks = Looks.of(1, True, Named(), {"lying": 0.2})
        (found,) = looks.answer(Named(), torch.nn.Identity(), [torch.zeros(4, 3)], Preprocess(), [None])
        assert found.up == "-z"

    def test_who_has_no_mean(self, checkpoint: Path) -> None:
        with pytest.raises(
            ValueError, match="turns: expected a task whose answers have a mean, .* got part_seg"
        ):
            parts_predictor(turns=2)
        with pytest.raises(ValueError, match="turns: expected a whole number of at least 1, got 0"):
            Predictor(checkpoint, "cpu", turns=0)

    def test_a_task_that_answers_otherwise_has_none(self) -> None:
        def predict(self: Any, *_: Any) -> str:
            return "a name"

        def made(**own: Any) -> Any:
            return type("Own", (ClassificationTask,), own)

        assert ClassificationTask.averages and made().averages
        assert not made(predict=predict).averages and not made(predict_batch=predict).averages
        assert made(predict=predict, averages=True).averages
        assert made(predict_batch=predict, average=predict).averages
        with pytest.raises(TypeError, match="Whole must define average"):
            type("Whole", (Task,), {"averages": True})().average([])


def test_certainty() -> None:
    def sure(*shares: float) -> float:
        return Prediction("a", 0, np.array(shares, np.float32), np.zeros((1, 3), np.float32)).certainty

    assert sure(0.25, 0.25, 0.25, 0.25) == pytest.approx(0, abs=1e-6)
    assert sure(0, 1, 0, 0) == sure(1) == 1
    assert sure(0.5, 0.5, 0, 0) == pytest.approx(0.5)


def test_note_of_few_points(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    predictor(some_cloud(4))
    assert not caplog.text
    predictor(some_cloud(3))
    assert "cloud: it has 3 points, the model looks at 32" in caplog.text


@pytest.mark.parametrize("up", [None, "auto"])
def test_note_of_few_points_that_are_embedded(
    checkpoint: Path, up: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor(checkpoint, "cpu", up=up)
    caplog.clear()
    predictor.embed([some_cloud(3), some_cloud(4)])
    notes = [record.getMessage() for record in caplog.records]
    assert notes == ["cloud: it has 3 points, the model looks at 32"]


def test_auto_of_a_model_that_knows_no_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "m.safetensors", config={"augment": {"tilt": 180.0}})
    assert Predictor(path, "cpu", up="z") and not caplog.text
    assert Predictor(path, "cpu", up="auto")(some_cloud()).up in AXES
    assert "up='auto': this model was trained on clouds turned about every axis" in caplog.text


class TestEmbed:
    def test_mean_of_the_latents(self, checkpoint: Path, predictor: Predictor) -> None:
        clouds = [some_cloud(50, seed) for seed in range(3)]
        vectors = predictor.embed(clouds)
        assert vectors.dtype == np.float32 and vectors.shape == (3, 12)
        seen = torch.from_numpy(predictor(clouds[1]).points)[None]
        with torch.no_grad():
            latents, _ = bixt3d.load_model(checkpoint, "cpu").forward_features(seen)  # type: ignore[operator]
        np.testing.assert_allclose(vectors[1], latents.mean(1)[0], atol=1e-6)
        np.testing.assert_array_equal(predictor.embed(clouds[1]), vectors[1:2])
        assert np.abs(vectors[0] - vectors[1]).max() > 1e-3

    def test_of_no_clouds(self, predictor: Predictor) -> None:
        for one in (predictor, parts_predictor()):
            vectors = one.embed([])
            assert vectors.dtype == np.float32 and vectors.shape == (0, 12)
        assert predictor([]) == []

    def test_mean_of_several_looks(self, checkpoint: Path) -> None:
        cloud = some_cloud(50)
        plain = Predictor(checkpoint, "cpu", up="x")
        looks = plain.embed([turned(cloud, "x", 180 * number) for number in range(2)])
        found = Predictor(checkpoint, "cpu", up="x", turns=2).embed(cloud)
        np.testing.assert_allclose(found[0], looks.mean(0), atol=1e-6)
        assert np.abs(found[0] - looks[0]).max() > 1e-4

    def test_of_a_segmenter(self) -> None:
        vectors = parts_predictor().embed([some_cloud(90), some_cloud(20)], ["mug", "table"])
        assert vectors.shape == (2, 12) and np.isfinite(vectors).all()

    def test_axis_that_auto_finds(self, checkpoint: Path) -> None:
        cloud = some_cloud(50)
        auto = Predictor(checkpoint, "cpu", up="auto")
        up = auto(cloud).up
        np.testing.assert_array_equal(auto.embed(cloud), Predictor(checkpoint, "cpu", up=up).embed(cloud))


def test_category_in_any_case() -> None:
    predictor = parts_predictor()
    assert predictor.category_number("MUG") == predictor.category_number("Mug") == 0
    assert predictor.category_number("Table") == 1
