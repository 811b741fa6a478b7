"""Pictures of attention: what latents read of points and points of latents, shapes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from bixt3d.tasks.results import Attention
from bixt3d.visualize.pictures import Panel, write_panels
from bixt3d.visualize.scene import LabelledCloud, different_latents, joined, scale


def attention_picture(
    shapes: Mapping[str, Mapping[str, Attention]],
    path: str | Path,
    latents: Sequence[int] | None = None,
    heads_of: int | None = None,
    up: str | None = None,
) -> Path:
    """Draw attention on clouds side by side: a row for each layer, a column for each latent or head.

    Colours show how far the attention to a point is from its mean over all, and the number the most that is
    paid to one, in multiples of that mean. BiXT's figures A2 to A4 show the same of pictures.

    Args:
        shapes: Title of a cloud -> name of a direction -> what `bixt3d.Predictor.attention` returns of it;
            the directions of a layer stand below each other. Names may be empty.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.
        latents: The latents to show, averaged over the heads; those that differ most if None, six of one
            cloud and three of several.
        heads_of: Show the heads of this latent instead.
        up: The axis of the points that points up; as each was looked at if None.

    Raises:
        ValueError: For a latent that the model does not have, or nothing to draw.
    """
    if not shapes or not all(shapes.values()):
        raise ValueError("no attention to draw: give at least one cloud and direction")
    every = [one for directions in shapes.values() for one in directions.values()]
    heads, count, _ = every[0].maps[0].shape
    maps = list(chain.from_iterable(one.maps for one in every))
    chosen = different_latents(maps, 3 if len(shapes) > 1 else 6) if latents is None else list(latents)
    asked = chosen if heads_of is None else [heads_of]
    wrong = [latent for latent in asked if not 0 <= latent < count]
    if wrong or not asked:
        raise ValueError(f"latents: expected numbers from 0 to {count - 1}, got {wrong or 'none'}")
    if heads_of is None:
        columns = [f"latent {latent + 1}" for latent in chosen]
    else:
        columns = [f"latent {heads_of + 1}, head {head + 1}" for head in range(heads)]
    clouds: dict[tuple[str, str], LabelledCloud] = {}
    for title, directions in shapes.items():
        for name, attention in directions.items():
            shown = tuple(
                layer[:, chosen].mean(0) if heads_of is None else layer[:, heads_of]
                for layer in attention.maps
            )  # (latents, N) or (H, N) each
            xyz, stands = attention.points[:, :3], up or attention.up
            clouds[title, name] = LabelledCloud("", xyz, attention=shown, up=stands)
    rows = []
    deepest = max(len(cloud.attention) for cloud in clouds.values())
    lines = [
        (layer, name)
        for layer in range(deepest)
        for name in dict.fromkeys(name for directions in shapes.values() for name in directions)
        if all(layer < len(clouds[title, name].attention) for title in shapes)
    ]
    for layer, name in lines:
        for title in shapes:
            first, last = (layer, name) == lines[0], (layer, name) == lines[-1]
            panels = _panels(clouds[title, name], layer, columns if first else [""] * len(columns), last)
            rows.append((joined(title if len(shapes) > 1 else "", f"layer {layer + 1}", name), panels))
    return write_panels(rows, path, len(shapes), next(iter(shapes)) if len(shapes) == 1 else "")


def _panels(cloud: LabelledCloud, layer: int, titles: Sequence[str], explained: bool) -> list[Panel]:
    """Return a layer's panels, with the colours explained below if asked for."""
    drawn, panels = cloud.thinned(), []
    for column, values in enumerate(cloud.attention[layer]):
        panels.append(
            Panel(
                titles[column],
                drawn,
                drawn.colors("attention", layer, column),
                drawn.legend("attention") if explained else (),
                scale("attention") if explained else (),
                f"most {values.max() / max(values.mean(), np.finfo(np.float64).tiny):.1f}×",
            )
        )
    return panels
