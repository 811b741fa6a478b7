"""Pictures of attention: where latents look on a cloud, and how alike the two directions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.tasks.results import Attention
from bixt3d.visualize.figure import COLOURS, new_figure, save_figure
from bixt3d.visualize.scene import ramp

Array = np.ndarray[Any, Any]


def attention_picture(
    attention: Attention,
    path: str | Path,
    latents: Sequence[int] | None = None,
    heads_of: int | None = None,
    title: str = "",
) -> Path:
    """Draw where latents look on a cloud: a row for each layer, a column for each latent or head.

    Each small picture has its own scale, from no attention to the most that is paid in it; its number says
    how many times the mean over the points that is. BiXT's figures A2 to A4 show the same of pictures.

    Args:
        attention: What `bixt3d.Predictor.attention` returns.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.
        latents: The latents to show, averaged over the heads; six that differ most if None.
        heads_of: Show the heads of this latent instead.
        title: What stands above all.

    Returns:
        The path written.

    Raises:
        ValueError: For a latent that the model does not have.
        ImportError: If matplotlib is not installed.
    """
    heads, count, _ = attention.maps[0].shape
    chosen = different_latents(attention.maps) if latents is None else list(latents)
    asked = chosen if heads_of is None else [heads_of]
    wrong = [latent for latent in asked if not 0 <= latent < count]
    if wrong or not asked:
        raise ValueError(f"latents: expected numbers from 0 to {count - 1}, got {wrong or 'none'}")
    if heads_of is None:
        columns = [f"latent {latent + 1}" for latent in chosen]
        rows = [layer[:, chosen].mean(0) for layer in attention.maps]  # (latents, N) each
    else:
        columns = [f"latent {heads_of + 1}, head {head + 1}" for head in range(heads)]
        rows = [layer[:, heads_of] for layer in attention.maps]  # (H, N) each
    figure = new_figure()
    figure.set_size_inches(1.7 * len(columns) + 0.4, 1.6 * len(rows) + (0.8 if title else 0.4))
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    for row, values in enumerate(rows):
        for column, weights in enumerate(values):
            axes = figure.add_subplot(
                len(rows), len(columns), row * len(columns) + column + 1, projection="3d"
            )
            _draw_cloud(axes, attention.points[:, :3], weights)
            most = f"{weights.max() / max(weights.mean(), np.finfo(np.float64).tiny):.1f}×"
            axes.set_title(columns[column] if row == 0 else "", fontsize=9, pad=0)
            axes.text2D(0.98, 0.02, most, transform=axes.transAxes, fontsize=8, ha="right", color="0.35")
            if column == 0:
                name, place = f"layer {row + 1}", axes.transAxes
                axes.text2D(-0.06, 0.5, name, transform=place, fontsize=9, rotation=90, va="center")
    return save_figure(figure, Path(path).expanduser())


def different_latents(maps: Sequence[Array], count: int = 6) -> list[int]:
    """Return latents that look at different places, in the order of their numbers.

    The first is the one whose attention is the most concentrated; each next one is the farthest from those
    before, by the square roots of the attention (the Hellinger distance) in all layers.

    Args:
        maps: For each layer the attention (M, N), or (H, M, N), of which the heads are averaged.
        count: How many; all, if there are fewer.
    """
    averages = [layer.reshape(-1, *layer.shape[-2:]).mean(0) for layer in maps]  # (M, N) each
    roots = np.sqrt(np.concatenate(averages, axis=1))  # (M, layers * N)
    chosen = [int(roots.max(1).argmax())]
    distance = np.full(len(roots), np.inf)  # (M,)
    while len(chosen) < min(count, len(roots)):
        distance = np.minimum(distance, np.square(roots - roots[chosen[-1]]).sum(1))
        distance[chosen] = -1.0  # never again, not even where all the others are copies
        chosen.append(int(distance.argmax()))
    return sorted(chosen)


def symmetry_picture(models: Mapping[str, Sequence[Array]], path: str | Path) -> Path:
    """Draw how alike the two directions of attention are in every layer, several models beside each other.

    Args:
        models: Name -> for each layer the correlations of `bixt3d.ops.attention_symmetry`, of any shape: the
            bar is their mean, the line one standard deviation to both sides.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Returns:
        The path written.

    Raises:
        ValueError: If there is no model, or none has a layer with both directions.
        ImportError: If matplotlib is not installed.
    """
    layers = max((len(values) for values in models.values()), default=0)
    if not layers:
        raise ValueError("nothing to draw: no model has a layer in which both directions are attended")
    figure = new_figure()
    figure.set_size_inches(max(5.0, 1.2 * layers * len(models) ** 0.5 + 2), 3.4)
    axes = figure.add_subplot()
    width = 0.8 / len(models)
    for index, (name, values) in enumerate(models.items()):
        place = np.arange(len(values)) + (index - (len(models) - 1) / 2) * width
        means = [float(np.mean(value)) for value in values]
        spreads = [float(np.std(value)) for value in values]
        color = COLOURS[index % len(COLOURS)]
        axes.bar(place, means, 0.92 * width, yerr=spreads, color=color, label=name, capsize=3, ecolor="0.35")
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(layers), [f"layer {layer + 1}" for layer in range(layers)])
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.08)
    axes.set_ylabel("correlation of both directions")
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return save_figure(figure, Path(path).expanduser())


def _draw_cloud(axes: Any, points: Array, weights: Array) -> None:
    x, y, z = points.T
    # Points with the most attention are drawn last, so that they are seen; matplotlib's up axis is z.
    order = weights.argsort()
    colors = ramp(weights[order] / max(float(weights.max()), np.finfo(np.float64).tiny))
    axes.scatter(x[order], -z[order], y[order], c=colors, s=4, linewidths=0, depthshade=False)
    reach = max(float(np.ptp(values)) for values in (x, y, z)) / 2 or 1.0
    for values, limit in ((x, axes.set_xlim), (-z, axes.set_ylim), (y, axes.set_zlim)):
        middle = (float(values.min()) + float(values.max())) / 2
        limit(middle - reach, middle + reach)
    axes.set_box_aspect([1, 1, 1], zoom=1.45)
    axes.view_init(elev=18, azim=-55)
    axes.set_axis_off()
