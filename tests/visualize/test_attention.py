"""Pictures of attention: a panel for each layer, latent and direction, shapes side by side."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bixt3d.inference import Attention
from bixt3d.visualize.attention import attention_picture
from bixt3d.visualize.scene import CONTRAST
from tests.visualize.clouds import like, read


def attention(layers: int = 2, heads: int = 2, latents: int = 8, count: int = 300) -> Attention:
    rng = np.random.default_rng(0)
    maps = [rng.random((heads, latents, count), dtype=np.float32) ** 8 for _ in range(layers)]
    points = rng.uniform(-1, 1, (count, 6))
    return Attention(tuple(layer / layer.sum(-1, keepdims=True) for layer in maps), points)


def test_title_that_is_no_text(tmp_path: Path) -> None:
    """The name of a file of another time: Latin-1, as UTF-8 cannot read it."""
    path = attention_picture({"caf\udce9": {"": attention(1)}}, tmp_path / "a.svg", latents=[1])
    assert "<!-- caf\\udce9 -->" in path.read_text()


def test_picture_has_a_cell_for_each_layer_and_latent(tmp_path: Path) -> None:
    from matplotlib.image import imread

    one = attention_picture({"": {"": attention(1)}}, tmp_path / "a" / "one.png", latents=[3])
    more = attention_picture({"$a_b$": {"": attention(3)}}, tmp_path / "more.svg")
    text = more.read_text()
    assert [text.count(f"<!-- layer {layer} -->") for layer in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert text.count("<!-- latent ") == 6 and text.count("<!-- mean -->") == 1 and "<!-- $a_b$ -->" in text
    heads = attention_picture({"": {"": attention(1, heads=5)}}, tmp_path / "heads.png", heads_of=0)
    assert imread(heads).shape[1] > 3 * imread(one).shape[1]


def test_the_latent_that_is_asked_for_is_drawn(tmp_path: Path) -> None:
    points = attention().points
    maps = np.zeros((1, 2, 300), np.float32)
    maps[0, 0, :] = 1 / 300  # latent 1 looks everywhere alike, latent 2 at a single point
    maps[0, 1, 0] = 1
    made = {"": {"": Attention((maps,), points)}}
    everywhere = read(attention_picture(made, tmp_path / "a.png", latents=[0]))[60:280]
    one_point = read(attention_picture(made, tmp_path / "b.png", latents=[1]))[60:280]
    assert all(like(everywhere, color) == 0 for color in (CONTRAST[0], CONTRAST[-1]))  # grey: the mean
    assert like(one_point, CONTRAST[0]) > 20 * like(one_point, CONTRAST[-1]) > 0


def test_clouds_stand_as_they_were_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from bixt3d.visualize import attention as module

    ups: list[str | None] = []
    cloud = module.LabelledCloud
    monkeypatch.setattr(module, "LabelledCloud", lambda *a, **k: ups.append(k["up"]) or cloud(*a, **k))
    shapes = {"a": {"": replace(attention(1), up="z")}, "b": {"": attention(1)}}
    attention_picture(shapes, tmp_path / "a.png")
    attention_picture(shapes, tmp_path / "a.png", up="x")
    assert ups == ["z", None, "x", "x"]


@pytest.mark.parametrize("latents", [[8], [-1], []])
def test_latent_that_is_not_there(latents: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="latents: expected numbers from 0 to 7"):
        attention_picture({"": {"": attention()}}, tmp_path / "a.png", latents)
    with pytest.raises(ValueError, match="latents: expected numbers from 0 to 7"):
        attention_picture({"": {"": attention()}}, tmp_path / "a.png", heads_of=8)


def test_shapes_stand_side_by_side_with_both_directions(tmp_path: Path) -> None:
    shape = {"down": attention(2), "up": attention(1)}  # a last layer of one direction
    text = attention_picture({"a": shape, "b": shape}, tmp_path / "s.svg").read_text()
    rows = [f"layer {row}" for row in ("1 · down", "1 · up", "2 · down")]
    assert re.findall(r"<!-- (\w · layer .*) -->", text) == [
        f"{name} · {row}" for row in rows for name in "ab"
    ]
    assert text.count("<!-- latent ") == 6 and text.count("<!-- mean -->") == 2  # three of each
    alone = read(attention_picture({"a": {"down": attention(2)}}, tmp_path / "a.png", latents=[0, 1, 2]))
    both = read(attention_picture({"a": shape, "b": shape}, tmp_path / "b.png", latents=[0, 1, 2]))
    assert both.shape[1] == 2 * alone.shape[1]
    for nothing in ({}, {"a": {}}):
        with pytest.raises(ValueError, match="no attention to draw"):
            attention_picture(nothing, tmp_path / "a.png")
