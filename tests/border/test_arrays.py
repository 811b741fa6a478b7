"""Whatever array comes to a predictor ends in probabilities, or in an error that says what is wrong."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from bixt3d import Predictor
from bixt3d.datasets.holdout import hold_out
from bixt3d.datasets.spheres import check_extent, unit_sphere
from bixt3d.datasets.split import Split
from bixt3d.models import create_model
from tests.border import files
from tests.border.settings import many
from tests.markers import slow
from tests.training.tiny import HIERARCHY, NAIVE, awaken

KINDS = ["f2", "f4", "f8", ">f4", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
OTHER_KINDS = ["?", "c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "V4"]


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    """A classifier of the first points, one of farthest points, and one of parts."""
    path = tmp_path_factory.mktemp("model") / "last.safetensors"
    path.write_bytes(files.checkpoint())
    torch.manual_seed(0)
    sampled = awaken(create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY))
    parts = awaken(create_model("bixt_ti_partseg", num_parts=5, num_categories=0, **NAIVE))
    return {
        "stored": Predictor(path, "cpu"),
        "sampled": Predictor(sampled, "cpu", num_points=24),
        "parts": Predictor(parts, "cpu", num_points=24),
    }


def check(predictor: Predictor, cloud: Any, count: int) -> None:
    """Predicts, and looks at what comes, or at the reason why nothing does."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if predictor.labels_parts:
                seen = predictor.segment(cloud)
                assert seen.parts.shape == (count,) == seen.names.shape
                assert ((seen.parts >= 0) & (seen.parts < 5)).all() and np.isfinite(seen.points).all()
            else:
                seen = predictor(cloud)
                assert seen.probabilities.sum() == pytest.approx(1, abs=1e-4)
                assert seen.index == seen.probabilities.argmax()
                radius = np.linalg.norm(seen.points, axis=1)
                assert np.isfinite(seen.points).all() and radius.max() <= 1 + 1e-4
                assert count > 16 or radius.max() > 1 - 1e-4  # all were looked at
            assert np.isfinite(seen.probabilities).all()
        except ValueError as error:
            assert str(error).startswith("cloud: expected"), error


@st.composite
def numbers(draw: st.DrawFn) -> NDArray[Any]:
    """Arrays (N, 3 or more) of every kind of number, with extreme, equal and missing ones among them."""
    shape = (draw(st.integers(1, 40)), draw(st.integers(3, 7)))
    dtype = np.dtype(draw(st.sampled_from(KINDS)))
    if draw(st.integers(0, 2)) == 0:
        return draw(arrays.arrays(dtype, shape, fill=st.nothing() if draw(st.booleans()) else None))
    values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape)
    scale = draw(st.sampled_from([0.0, 1e-320, 1e-160, 1e-30, 1.0, 1e3, 1e30, 1e99, 1e160]))
    offset = draw(st.sampled_from([0.0, 0.1, -7.3, 1e6, 1e80]))
    if draw(st.booleans()):
        values = values[draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=60))]
    with np.errstate(all="ignore"):
        return (values * scale + offset).astype(dtype)


def laid_out(draw: st.DrawFn, values: NDArray[Any]) -> Any:
    """The same values in another layout."""
    how = draw(st.sampled_from(["plain", "reversed", "strided", "columns", "read-only", "offset", "torch"]))
    if how == "reversed":
        return values[::-1, ::-1][:, ::-1]
    if how == "strided":
        return np.repeat(values, 3, axis=0)[::3]
    if how == "columns":
        return np.asfortranarray(values)
    if how == "offset":
        raw = np.zeros(values.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(values.tobytes(), np.uint8)
        return raw[1:].view(values.dtype).reshape(values.shape)
    if (
        how == "torch"
        and values.dtype.kind in "fi"
        and values.dtype.isnative
        and values.dtype != np.longdouble
    ):
        return torch.from_numpy(values.copy()).requires_grad_(values.dtype.kind == "f")
    if how == "read-only":
        values = values.copy()
        values.setflags(write=False)
    return values


@pytest.mark.parametrize("kind", ["stored", "sampled", "parts"])
def test_numbers_of_every_kind_and_layout(predictors: dict[str, Predictor], kind: str) -> None:
    @many(120)
    @given(data=st.data())
    def property_of(data: st.DataObject) -> None:
        values = data.draw(numbers())
        cloud = data.draw(st.composite(laid_out)(values))
        check(predictors[kind], cloud, len(values))

    property_of()


def test_layout_changes_nothing(predictors: dict[str, Predictor]) -> None:
    values = files.points()
    expected = predictors["stored"](values).probabilities

    @many(40)
    @given(data=st.data())
    def property_of(data: st.DataObject) -> None:
        cloud = data.draw(st.composite(laid_out)(values))
        assert np.array_equal(predictors["stored"](cloud).probabilities, expected)

    property_of()


@many(60)
@given(
    kind=st.sampled_from(["stored", "sampled", "parts"]),
    dtype=st.sampled_from(KINDS + OTHER_KINDS),
    shape=st.lists(st.integers(0, 4), max_size=4).map(tuple),
)
def test_shapes_that_are_no_clouds(
    predictors: dict[str, Predictor], kind: str, dtype: str, shape: tuple[int, ...]
) -> None:
    predictor, array = predictors[kind], np.zeros(shape, dtype)
    call = predictor.segment if predictor.labels_parts else predictor
    if len(shape) == 3 and shape[0] == 0:
        assert call(array) == []  # a batch of no clouds
        return
    with pytest.raises(ValueError, match="expected"):
        call(array)


@pytest.mark.parametrize("dtype", OTHER_KINDS)
def test_what_is_no_number(predictors: dict[str, Predictor], dtype: str) -> None:
    with pytest.raises(ValueError, match="cloud: expected numbers, got an array of"):
        predictors["stored"](np.zeros((5, 3), dtype))


@pytest.mark.parametrize(
    "thing",
    [
        torch.zeros(5, 3, dtype=torch.complex64),
        torch.zeros(5, 3, dtype=torch.bool),
        torch.eye(3).to_sparse(),
        torch.zeros(5, 3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.randn(5, 3), 0.1, 0, torch.qint8),
        np.ma.masked_array(files.points(), files.points() > 1),
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        b"bytes",
        {"points": files.points()},
        None,
        3.5,
        object(),
    ],
    ids=lambda thing: type(thing).__name__,
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_other_things(predictors: dict[str, Predictor], thing: Any) -> None:
    cloud = thing() if callable(thing) else thing
    for name, predictor in predictors.items():
        with pytest.raises(ValueError, match="expected"):
            (predictor.segment if name == "parts" else predictor)(cloud)


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
@pytest.mark.parametrize("place", [0.0, 0.1, -7.3, 1e6, 1e99, 1e-300])
def test_points_that_all_coincide(
    predictors: dict[str, Predictor], count: int, place: float, tmp_path: Path
) -> None:
    """Rounding of their mean would make a shape of them."""
    cloud = np.full((count, 3), place) * [1.0, -2.0, 3.0]
    np.save(tmp_path / "still.npy", cloud)
    for name, predictor in predictors.items():
        call = predictor.segment if name == "parts" else predictor
        with pytest.raises(
            ValueError, match=rf"cloud: expected points at two places at least, got {count} at one"
        ):
            call(cloud)
        with pytest.raises(ValueError, match=r"still\.npy: expected points at two places"):
            call(tmp_path / "still.npy")
    for dtype in (torch.float32, torch.float64):
        at_one = torch.full((count, 3), 0.1, dtype=dtype)
        assert not unit_sphere(at_one).any()


def test_two_places_are_enough(predictors: dict[str, Predictor]) -> None:
    """A millimetre on a map, many times over."""
    cloud = np.full((500, 3), 5e6)
    cloud[7, 1] += 1e-3
    check_extent(torch.from_numpy(cloud))
    assert np.isfinite(predictors["stored"](cloud).probabilities).all()
    assert np.isfinite(predictors["parts"].segment(cloud).probabilities).all()


def test_weights_that_are_too_large(predictors: dict[str, Predictor]) -> None:
    model = awaken(create_model("bixt_ti_cls", num_classes=4, **NAIVE))
    with torch.no_grad():
        model.head.linear.weight.fill_(3e38)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="cloud: the model gives NaN or infinity"):
        Predictor(model, "cpu")(files.points())


LABELS = st.one_of(
    st.lists(st.integers(-3, 6), min_size=4, max_size=4).map(torch.tensor),
    st.lists(st.floats(-3, 6), min_size=4, max_size=4).map(torch.tensor),
    st.lists(st.integers(0, 3), max_size=6).map(torch.tensor),
    st.sampled_from([None, [0, 1, 2, 3], torch.zeros(4, 1).long(), torch.tensor(0), torch.zeros(4).bool()]),
)


@many(120)
@given(label=LABELS, parts=LABELS, category=LABELS)
def test_wrong_labels(label: Any, parts: Any, category: Any) -> None:
    points = torch.randn(4, 4, 3)
    parts = parts.expand(4, 4) if isinstance(parts, torch.Tensor) and parts.shape == (4,) else parts
    try:
        split = Split(points, label, ("a", "b", "c", "d"), parts, category, ("x", "y"), ((0, 1), (2, 3)))
    except ValueError as error:
        assert any(word in str(error) for word in ("label", "parts", "category", "part data")), error
        return
    assert -1 <= int(split.label.min()) and int(split.label.max()) < 4  # -1: it does not count
    assert split.category is not None and int(split.category.max()) < 2
    assert split.parts is not None and -1 <= int(split.parts.min()) and int(split.parts.max()) < 4


@many(60)
@given(label=LABELS, fraction=st.floats())
def test_held_out_is_each_once(label: Any, fraction: float) -> None:
    try:
        train, val = hold_out(label, fraction)
    except ValueError as error:
        assert "label: expected" in str(error) or "fraction: expected" in str(error)
        return
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(label)))


@many(100)
@given(
    category=st.one_of(
        st.integers(-3, 5), st.text(max_size=4), st.floats(), st.booleans(), st.none(), st.binary()
    )
)
def test_wrong_categories(category: Any) -> None:
    model = create_model("bixt_ti_partseg", num_parts=5, num_categories=2, **NAIVE)
    predictor = Predictor(model, "cpu", classes=["mug", "table"])
    try:
        number = predictor.category_number(category)
    except ValueError as error:
        assert str(error).startswith("category: ")
        return
    assert number in (0, 1)


MILLIONS = """
import resource, sys
import numpy as np
from bixt3d import Predictor
predictor = Predictor(sys.argv[1], "cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cloud = np.random.default_rng(0).normal(size=(10_000_000, 3)).astype(np.float32)
seen = predictor(cloud)
assert np.isfinite(seen.probabilities).all() and len(seen.points) == 16
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@slow
def test_ten_million_points(tmp_path: Path) -> None:
    """They take 120 MB as they come, and up to 1.5 GB while they are looked at."""
    (tmp_path / "last.safetensors").write_bytes(files.checkpoint())
    command = [sys.executable, "-c", MILLIONS, str(tmp_path / "last.safetensors")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 1500
