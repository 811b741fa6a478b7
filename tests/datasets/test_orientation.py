"""The up axis: right values for each axis, in data sets, Preprocess and checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bixt3d.datasets import Preprocess, Split, open_dataset, prepare_split
from bixt3d.datasets.orientation import AXES, guess_up, turn, turn_about
from bixt3d.datasets.spheres import heights

BASIS = dict(zip("xyz", torch.eye(3, dtype=torch.float64), strict=True))


def direction(axis: str) -> torch.Tensor:
    return -BASIS[axis[1]] if axis.startswith("-") else BASIS[axis]


@pytest.mark.parametrize("up", AXES)
def test_the_axis_becomes_y_by_a_rotation(up: str) -> None:
    axes = torch.eye(3, dtype=torch.float64)
    turned = turn(axes, up)  # rows: where x, y and z go
    assert float(torch.linalg.det(turned)) == pytest.approx(1.0)  # right-handed still
    torch.testing.assert_close(turned @ turned.T, axes)
    torch.testing.assert_close(turn(direction(up)[None], up)[0], BASIS["y"])


def test_right_values_of_the_usual_axes() -> None:
    point = torch.tensor([[1.0, 2.0, 3.0]])
    turned = {up: turn(point, up)[0].tolist() for up in AXES}
    assert turned == {
        "x": [-2.0, 1.0, 3.0],
        "y": [1.0, 2.0, 3.0],
        "z": [1.0, 3.0, -2.0],
        "-x": [2.0, -1.0, 3.0],
        "-y": [1.0, -2.0, -3.0],
        "-z": [1.0, -3.0, 2.0],
    }


@pytest.mark.parametrize("up", [*AXES, None])
@pytest.mark.parametrize("degrees", [0.0, 25.0, 90.0, 180.0, 270.0, 360.0])
def test_turned_about_the_up_axis(up: str | None, degrees: float) -> None:
    points = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = turn_about(points, up, degrees, ("normal", "own:1"))
    axis = BASIS[(up or "y")[-1]]
    for place in (slice(0, 3), slice(3, 6)):
        before, after = points[..., place], turned[..., place]
        torch.testing.assert_close(after @ axis, before @ axis)
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
        flat, other = before - (before @ axis)[..., None] * axis, after - (after @ axis)[..., None] * axis
        cos = (flat * other).sum(-1) / flat.square().sum(-1)
        torch.testing.assert_close(cos, torch.full_like(cos, np.cos(np.radians(degrees))))
        side = torch.linalg.cross(flat, other) @ axis / flat.square().sum(-1)  # of the axis's own sense
        sense = {"x": 1, "y": -1, "z": 1}[(up or "y")[-1]]
        torch.testing.assert_close(side, torch.full_like(side, sense * np.sin(np.radians(degrees))))
    assert turned[..., 6].equal(points[..., 6])
    if degrees % 90 == 0:  # exact
        assert turned[..., :3].abs().sort(-1).values.equal(points[..., :3].abs().sort(-1).values)


def test_normals_turn_and_other_features_stay() -> None:
    points = torch.tensor([[[1.0, 2.0, 3.0, 0.0, 0.0, 1.0, 0.1, 0.2, 0.3]]])
    turned = turn(points, "z", ("normal", "color"))
    assert turned[0, 0].tolist() == pytest.approx([1, 3, -2, 0, 1, 0, 0.1, 0.2, 0.3])
    assert points[0, 0, 3:6].tolist() == [0.0, 0.0, 1.0]  # the caller's stay


def test_height_is_measured_along_the_new_axis() -> None:
    random = torch.Generator().manual_seed(0)
    xyz = torch.rand(2, 50, 3, generator=random, dtype=torch.float64)
    points = torch.cat([xyz, heights(xyz)], -1)
    turned = turn(points, "z", ("height",))
    radius = (xyz - xyz.mean(1, keepdim=True)).norm(dim=-1).amax(1)
    above = (xyz[..., 2] - xyz[..., 2].amin(1, keepdim=True)) / radius[:, None]
    torch.testing.assert_close(turned[..., 3], above)
    assert turn(points, None, ("height",)) is points and turn(points, "y", ("height",)) is points


def test_unknown_axis() -> None:
    with pytest.raises(ValueError, match="up: expected one of x, y, z, -x, -y, -z, or None, got 'w'"):
        turn(torch.zeros(1, 3), "w")
    with pytest.raises(ValueError, match="up: expected one of .* got 'auto'"):
        Preprocess(up="auto")


def write_folder(root: Path, up: str) -> None:
    """Clouds that are taller along one axis, each point at a height of its own."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("pole", "slab"):
            (root / split / name).mkdir(parents=True)
            for number in range(2):
                xyz = random.normal(size=(80, 3)) * ((1, 9, 2) if name == "pole" else (7, 1, 3))  # y up
                order = {"y": [0, 1, 2], "z": [0, 2, 1]}[up]
                signs = np.array({"y": [1, 1, 1], "z": [1, -1, 1]}[up])
                np.save(root / split / name / f"{number}.npy", xyz[:, order] * signs)


def test_data_set_is_turned_before_height_is_computed(tmp_path: Path) -> None:
    write_folder(tmp_path / "y", "y")
    write_folder(tmp_path / "z", "z")
    wanted = open_dataset("folder", tmp_path / "y", "test", features=["height"])
    turned = open_dataset("folder", tmp_path / "z", "test", features=["height"], up="z")
    torch.testing.assert_close(turned.points, wanted.points, atol=1e-5, rtol=0)
    assert turned.features == ("height",)
    untouched = open_dataset("folder", tmp_path / "z", "test", features=["height"])
    assert not torch.allclose(untouched.points, wanted.points, atol=1e-2)


def test_split_of_ones_own_is_turned_as_well() -> None:
    split = Split(torch.randn(2, 8, 3), torch.tensor([0, 1]), ("a", "b"))
    turned = prepare_split(split, ("height",), "z", False)
    torch.testing.assert_close(turned.points[..., 1], split.points[..., 2])
    torch.testing.assert_close(turned.points[..., 3:], heights(turned.points[..., :3]))
    assert prepare_split(split, None, None, False) is split


def test_preprocess_turns_and_keeps_the_axis() -> None:
    preprocess = Preprocess(32, up="z", estimate_normals=True, features=("normal",))
    again = Preprocess.from_dict(preprocess.to_dict())
    assert again == preprocess and again.up == "z" and again.estimate_normals
    cloud = torch.randn(40, 6, dtype=torch.float64)
    torch.testing.assert_close(
        preprocess.normalize(cloud),
        Preprocess(32, features=("normal",)).normalize(turn(cloud, "z", ("normal",))),
    )


def test_checkpoints_of_before_say_nothing_of_it() -> None:
    stated = {"num_points": 64, "order": "fps", "stored_points": 2048, "channels": 3}
    read = Preprocess.from_dict(stated)
    assert read.up is None and not read.estimate_normals
    with pytest.raises(ValueError, match="up: expected one of"):
        Preprocess.from_dict({**stated, "up": "w"})


def test_guess() -> None:
    random = torch.Generator().manual_seed(0)
    foot = torch.rand(500, 3, generator=random) * torch.tensor([4.0, 0.3, 4.0])
    trunk = torch.rand(200, 3, generator=random) * torch.tensor([0.4, 5.0, 0.4]) + torch.tensor([1.8, 0, 1.8])
    lamp = torch.cat([foot, trunk])
    assert guess_up([lamp]) == "y" and guess_up([lamp[:, [0, 2, 1]]]) == "z"
    ground = torch.rand(900, 3, generator=random) * torch.tensor([50.0, 60.0, 4.0])
    assert guess_up([ground]) == "z"
    ball = torch.randn(4000, 3, generator=random)
    assert guess_up([ball / ball.norm(dim=-1, keepdim=True)]) is None and guess_up([]) is None
