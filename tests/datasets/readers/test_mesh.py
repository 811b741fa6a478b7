"""What a mesh file says of its vertices, at points drawn from its surface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bixt3d.datasets.readers import load_cloud, read_cloud


def ply(path: Path, kind: str, name: str, values: tuple[float, float, float]) -> Path:
    """One triangle with a property of its vertices."""
    head = [
        *("ply", "format ascii 1.0", "element vertex 3"),
        *(f"property double {axis}" for axis in "xyz"),
        *(f"property {kind} {name}", "element face 1", "property list uchar int vertex_indices"),
    ]
    places = ("0 0 0", "1 0 0", "0 1 0")
    rows = [f"{place} {value}" for place, value in zip(places, values, strict=True)]
    path.write_text("\n".join([*head, "end_header", *rows, "3 0 1 2", ""]))
    return path


@pytest.mark.parametrize("kind", ["uchar", "char", "ushort", "short", "uint", "int", "float"])
@pytest.mark.parametrize("name", ["intensity", "scalar_intensity", "heat"])
def test_numbers_of_vertices_lie_in_between(kind: str, name: str, tmp_path: Path) -> None:
    path = ply(tmp_path / "a.ply", kind, name, (10, 20, 100))
    points = read_cloud(path, (name.removeprefix("scalar_"),), 200)
    np.testing.assert_allclose(points[:, 3], 10 + 10 * points[:, 0] + 90 * points[:, 1], atol=1e-9)


@pytest.mark.parametrize("name", ["label", "scalar_Classification", "PART"])
def test_labels_of_vertices_are_those_of_the_nearest(name: str, tmp_path: Path) -> None:
    cloud = load_cloud(ply(tmp_path / "a.ply", "uchar", name, (1, 7, 90)), 200)
    x, y = cloud.xyz[:, 0], cloud.xyz[:, 1]
    assert cloud.labels is not None and cloud.named[name].dtype == np.uint8
    assert cloud.labels.tolist() == np.array([1, 7, 90])[np.stack([1 - x - y, x, y]).argmax(0)].tolist()


@pytest.mark.parametrize(("kind", "most"), [("uchar", 255), ("ushort", 65535)])
def test_colours_of_vertices_are_fractions_of_their_type(kind: str, most: int, tmp_path: Path) -> None:
    """However dark they are."""
    path = ply(tmp_path / "a.ply", kind, f"red\nproperty {kind} green\nproperty {kind} blue", (0, 0, 0))
    text = path.read_text()
    for place, color in (("0 0 0", "2 0 0"), ("1 0 0", f"0 {most} 0"), ("0 1 0", "0 0 1")):
        text = text.replace(f"{place} 0\n", f"{place} {color}\n")
    path.write_text(text)
    points = read_cloud(path, ("color",), 200)
    x, y = points[:, 0], points[:, 1]
    expected = np.stack([2 / most * (1 - x - y), x, y / most], axis=1)
    np.testing.assert_allclose(points[:, 3:], expected, atol=1e-9)
