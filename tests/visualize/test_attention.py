"""Pictures of attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bixt3d.inference import Attention
from bixt3d.visualize.attention import attention_picture, different_latents, symmetry_picture
from bixt3d.visualize.scene import RAMP, rgb


def attention(layers: int = 2, heads: int = 2, latents: int = 8, count: int = 300) -> Attention:
    rng = np.random.default_rng(0)
    maps = [rng.random((heads, latents, count), dtype=np.float32) ** 8 for _ in range(layers)]
    points = rng.uniform(-1, 1, (count, 6))
    return Attention(tuple(layer / layer.sum(-1, keepdims=True) for layer in maps), points)


def shares_of_color(path: Path) -> tuple[float, float]:
    """Share of a picture's pixels that have the lowest and the highest colour."""
    from matplotlib.image import imread

    pixels = imread(path)[..., :3].reshape(-1, 3)
    low, high = (float((np.abs(pixels - rgb(color)).max(1) < 0.02).mean()) for color in (RAMP[0], RAMP[-1]))
    return low, high


def test_title_that_is_no_text(tmp_path: Path) -> None:
    """The name of a file of another time: Latin-1, as UTF-8 cannot read it."""
    path = attention_picture(attention(1), tmp_path / "a.svg", latents=[1], title="caf\udce9")
    assert "<!-- caf\\udce9 -->" in path.read_text()


def test_picture_has_a_cell_for_each_layer_and_latent(tmp_path: Path) -> None:
    from matplotlib.image import imread

    one = attention_picture(attention(1), tmp_path / "a" / "one.png", latents=[3])
    low, high = shares_of_color(one)
    assert low > 0.003 and high > 0
    more = attention_picture(attention(3), tmp_path / "more.svg", title="$a_b$")
    text = more.read_text()
    assert [text.count(f"<!-- layer {layer} -->") for layer in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert text.count("<!-- latent ") == 6 and "<!-- $a_b$ -->" in text
    heads = attention_picture(attention(1, heads=5), tmp_path / "heads.png", heads_of=0)
    assert imread(heads).shape[1] > 3 * imread(one).shape[1]


def test_the_latent_that_is_asked_for_is_drawn(tmp_path: Path) -> None:
    points = attention().points
    maps = np.zeros((1, 2, 300), np.float32)
    maps[0, 0, :] = 1 / 300  # latent 1 looks everywhere alike, latent 2 at a single point
    maps[0, 1, 0] = 1
    made = Attention((maps,), points)
    everywhere = shares_of_color(attention_picture(made, tmp_path / "a.png", latents=[0]))
    one_point = shares_of_color(attention_picture(made, tmp_path / "b.png", latents=[1]))
    assert everywhere[0] == 0 and everywhere[1] > 0.02
    assert one_point[0] > 0.02 and 0 < one_point[1] < everywhere[1] / 20


@pytest.mark.parametrize("latents", [[8], [-1], []])
def test_latent_that_is_not_there(latents: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="latents: expected numbers from 0 to 7"):
        attention_picture(attention(), tmp_path / "a.png", latents)
    with pytest.raises(ValueError, match="latents: expected numbers from 0 to 7"):
        attention_picture(attention(), tmp_path / "a.png", heads_of=8)


def test_different_latents_leave_out_copies() -> None:
    maps = np.full((1, 6, 100), 1e-6, np.float32)
    for latent, place in enumerate([10, 10, 10, 50, 50, 90]):
        maps[0, latent, place] = 1.0
    chosen = different_latents([maps], 3)
    assert sorted([10, 10, 10, 50, 50, 90][latent] for latent in chosen) == [10, 50, 90]
    assert different_latents([maps], 20) != []
    assert len(set(different_latents([maps], 20))) == 6


def test_symmetry_picture(tmp_path: Path) -> None:
    models = {"both_$x": [np.ones((4, 2))] * 3, "one": [np.zeros((4, 2)), np.full((4, 2), 0.5)]}
    text = symmetry_picture(models, tmp_path / "s.svg").read_text()
    assert "<!-- both_$x -->" in text and "<!-- layer 3 -->" in text and "<!-- layer 4 -->" not in text
    with pytest.raises(ValueError, match="nothing to draw"):
        symmetry_picture({"perceiver": []}, tmp_path / "s.png")
