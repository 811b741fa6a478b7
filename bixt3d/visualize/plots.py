"""Plots of trainings: confusion matrix, curves of loss, score and learning rate, accuracy under damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from bixt3d.visualize.figure import legend_below, new_figure, plain_axes, save_figure, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

COUNTS_UP_TO = 12  # classes: with more of them a number no longer fits its cell
WIDTH = 13.0  # inches, of the curves
PANELS, PANEL_WIDTH = 3, 3.6  # corruptions in a row, and inches of each
SCORES = (
    ("oa", "overall accuracy"),
    ("class_miou_pointnet2", "class mIoU (pointnet2)"),
    ("macc", "mean class accuracy"),
)


def confusion_matrix(confusion: Tensor | NDArray[Any], classes: Sequence[str], path: str | Path) -> Path:
    """Draw which classes a classifier takes for which.

    Colour is the share of the true class (each row sums to one) on a square-root scale, so that confusions
    of a few per cent stay visible; up to 12 classes the counts are written into the cells. A class without
    a sample is hatched, and does not count in mAcc.

    Args:
        confusion: Counts (K, K), rows = truth, columns = prediction.
        classes: Names of the K classes, in the order of the rows.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Raises:
        ValueError: If `confusion` is not a square table of counts with one name per row, or the suffix is
            unknown.
    """
    counts = _counts(confusion, classes)
    figure = new_figure()
    from matplotlib.colors import PowerNorm

    size = len(classes)
    side = max(3.2, 0.62 * size) if size <= COUNTS_UP_TO else max(7.5, 0.24 * size)  # inches, as is all here
    font = 10.0 if size <= 25 else 9.0
    longest = 0.09 * max(map(len, classes))
    rotation = 90 if size > COUNTS_UP_TO else 45 if longest > side / size else 0
    figure.set_size_inches(side + 3.2, side + 2.2)
    axes = figure.add_subplot()

    per_class = counts.sum(axis=1)
    share = counts / np.maximum(per_class, 1)[:, None]
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(gamma=0.5, vmin=0, vmax=1))
    for row in np.flatnonzero(per_class == 0):
        axes.axhspan(row - 0.5, row + 0.5, facecolor="0.93", edgecolor="0.7", hatch="////", linewidth=0)
    axes.set_xticks(range(size), classes, rotation=rotation, parse_math=False)
    axes.set_yticks(range(size), classes, parse_math=False)
    if rotation == 45:
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.tick_params(labelsize=font, length=2)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class", fontsize=font + 2)
    axes.set_ylabel("true class", fontsize=font + 2)
    if size <= COUNTS_UP_TO:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if share[row, column] > 0.35 else "black"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=font)

    recall = np.diag(counts)[per_class > 0] / per_class[per_class > 0]
    accuracy = np.trace(counts) / counts.sum()
    axes.set_title(
        f"OA {accuracy:.2%}   mAcc {recall.mean():.2%}   ({counts.sum():.0f} samples)",
        fontsize=font + 3,
        pad=12,
    )
    ticks = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.0%}" for tick in ticks], fontsize=font)
    bar.set_label("share of the true class", fontsize=font + 1)
    return save_figure(figure, Path(path).expanduser())


def training_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path, order: Sequence[str] = ()
) -> Path:
    """Draw loss, score and learning rate against the epoch, several runs over each other.

    Dashed lines are measured on the training split, solid ones on the validation split. The score is
    the one of overall accuracy, class mIoU and mean class accuracy that most runs log; the legend marks runs
    that log another. Where an epoch was logged twice (a resumed run), the later row counts.

    Args:
        runs: Name -> rows as `read_metrics` gives them, with `epoch` and any of `train_loss`, `val_loss`,
            `lr`, `train_<score>` and `val_<score>`, scores being fractions of one.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.
        order: All names of a comparison whose runs are not all drawn here, so that each keeps its colour.

    Raises:
        ValueError: If there is no run, a run has no row with an epoch, or the suffix is unknown.
    """
    if not runs:
        raise ValueError("no runs to draw: give at least one, as {name: rows of its metrics.jsonl}")
    for name, rows in runs.items():
        if not any("epoch" in row for row in rows):
            raise ValueError(f"run {name!r}: none of its {len(rows)} rows has an 'epoch', nothing to draw")
    looks = styles(list(runs), order)
    figure = new_figure()
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    loss, score, rate = figure.subplots(1, 3)
    scored = {
        key: [name for name, rows in runs.items() if any(_has_score(row, key) for row in rows)]
        for key, _ in SCORES
    }
    score_key, score_title = max(SCORES, key=lambda entry: len(scored[entry[0]]))  # the first of equals
    entries: dict[str, Line2D] = {}
    for name, rows in runs.items():
        colour, marker, _ = looks[name]
        for axes, key, dashed in (
            (loss, "train_loss", True),
            (loss, "val_loss", False),
            (score, f"train_{score_key}", True),
            (score, f"val_{score_key}", False),
            (rate, "lr", False),
        ):
            _draw(axes, rows, key, colour, marker, dashed)
        other = name not in scored[score_key] and any(name in names for names in scored.values())
        label = f"{name} (other score)" if other else name
        entries[label] = Line2D([], [], color=colour, marker=marker, linewidth=2.5)

    titles = ("loss", score_title, "learning rate")
    for axes, title in zip((loss, score, rate), titles, strict=True):
        axes.set_title(title, fontsize=13)
        axes.set_xlabel("epoch", fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        plain_axes(axes)
        if not axes.lines:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes, color="0.4")
    score.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    if rate.lines:
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    drawn = {line.get_linestyle() for line in (*loss.lines, *score.lines)}
    kinds = [
        Line2D([], [], color="0.3", linestyle="--" if dashed else "-", linewidth=1.7, label=split)
        for split, dashed in (("train", True), ("validation", False))
        if ("--" if dashed else "-") in drawn
    ]
    if kinds:
        figure.legend(handles=kinds, loc="outside upper right", ncols=2, fontsize=10, frameon=False)
    height = legend_below(figure, entries, WIDTH)
    figure.set_size_inches(WIDTH, 4.2 + height)
    return save_figure(figure, Path(path).expanduser())


def robustness_curves(
    clean: Mapping[str, float],
    scores: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    path: str | Path,
    order: Sequence[str] = (),
) -> Path:
    """Draw overall accuracy against severity, one panel for each corruption, a line for each model.

    Every line begins with the clean clouds. Severities stand at equal distances, in their order.

    Args:
        clean: Name of a model -> its accuracy on clean clouds, a fraction of one.
        scores: Corruption -> model -> severity, as it is written below the axis -> accuracy, None where there
            is none. All models of a corruption have the same severities.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.
        order: All names of a comparison whose models are not all drawn here, so that each keeps its colour.

    Raises:
        ValueError: If there is no model or corruption, a corruption lacks a model or a severity that another
            has, or the suffix is unknown.
    """
    if not scores or not clean:
        raise ValueError("nothing to draw: give at least one model and one corruption")
    for corruption, found in scores.items():
        kinds = {tuple(severities) for severities in found.values()}
        if set(found) != set(clean) or len(kinds) != 1:
            raise ValueError(
                f"{corruption}: expected the same severities for each of {', '.join(clean)}, got "
                f"{ {name: list(severities) for name, severities in found.items()} }"
            )
    looks = styles(list(clean), order)
    figure = new_figure()
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    columns = min(PANELS, len(scores))
    lines = -(-len(scores) // columns)
    panels = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    entries: dict[str, Line2D] = {}
    for axes, (corruption, found) in zip(panels, scores.items(), strict=False):
        for name, look in looks.items():
            values = [clean[name], *(np.nan if v is None else v for v in found[name].values())]
            line: dict[str, Any] = {"color": look.colour, "marker": look.marker or "o", "linewidth": 1.9}
            line |= {"markersize": 5, "markerfacecolor": "white" if look.marker else look.colour}
            axes.plot(range(len(values)), values, **line)
            entries[name] = Line2D([], [], **line)
        shown = ["clean", *next(iter(found.values()))]
        axes.set_xticks(range(len(shown)), shown, parse_math=False)
        axes.set_title(corruption, fontsize=13, parse_math=False)
        axes.set_xlim(-0.25, len(shown) - 0.75)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        plain_axes(axes)
    for axes in panels[len(scores) :]:
        axes.set_visible(False)
    figure.supylabel("overall accuracy", fontsize=12)
    width = max(5.0, PANEL_WIDTH * columns)
    height = legend_below(figure, entries, width)
    figure.set_size_inches(width, 2.5 * lines + height)
    return save_figure(figure, Path(path).expanduser())


def _has_score(row: Mapping[str, float], score: str) -> bool:
    return any(row.get(f"{split}_{score}") is not None for split in ("train", "val"))


def _counts(confusion: Tensor | NDArray[Any], classes: Sequence[str]) -> NDArray[np.float64]:
    array = confusion.detach().cpu().numpy() if isinstance(confusion, Tensor) else np.asarray(confusion)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        raise ValueError(f"confusion must be a square (K, K) table of counts, got shape {array.shape}")
    if len(classes) != array.shape[0]:
        raise ValueError(f"confusion has {array.shape[0]} classes, and {len(classes)} names were given")
    counts = array.astype(np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts != counts.round()).any():
        raise ValueError("confusion must hold counts, whole numbers from 0 up, before any normalisation")
    if counts.sum() == 0:
        raise ValueError("confusion is all zero: no sample was counted")
    return counts


def _draw(
    axes: Axes, rows: Sequence[Mapping[str, float]], key: str, colour: str, marker: str, dashed: bool
) -> None:
    values = {row["epoch"]: row[key] for row in rows if "epoch" in row and row.get(key) is not None}
    if not values:
        return
    epochs = sorted(values)
    only = "o" if len(epochs) == 1 else marker  # one value makes no line
    axes.plot(
        epochs,
        [values[epoch] for epoch in epochs],
        color=colour,
        marker=only,
        markersize=5,
        markevery=max(1, len(epochs) // 10),
        linestyle="--" if dashed else "-",
        linewidth=1.2 if dashed else 1.9,
        alpha=0.75 if dashed else 1.0,
    )
