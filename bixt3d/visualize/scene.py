"""A labelled cloud as every view shows it: modes, the colour of each point, legends, scales and headline.

Window, page and picture draw it with other libraries, and all show the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from bixt3d.datasets.orientation import check_up, turn

Array = np.ndarray[Any, Any]

# Okabe and Ito's first colours, made for colour-blind readers, then those farthest from them and `ERROR`, as
# such readers see them, too; the last 38 were chosen by the package glasbey. A part's colour follows from its
# place among its category's parts, so it is the same in every view.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#4B0055"),
    *("#AEEA9A", "#7A0019", "#F0E442", "#2F4F4F", "#332288", "#C5E86C"),
    *("#924500", "#0000F7", "#EF00F7", "#9A357D", "#9E8A75", "#00AA00", "#FF9EFF"),
    *("#712835", "#828AA2", "#A600C2", "#39F3FF", "#FFBA8E", "#00510C", "#698AFF"),
    *("#B2354D", "#4DC675", "#494D75", "#DF20B2", "#007979", "#FF7D8E", "#652851"),
    *("#8EC600", "#A69AE3", "#9610FF", "#927935", "#F3D7FF", "#D28A55", "#00FFCE"),
    *("#007D00", "#695131", "#B2F3C6", "#D76900", "#FFAEDB", "#31B2BA", "#BE71C2"),
    *("#1455FF", "#35E365", "#FFAEB2"),
)
RIGHT, ERROR, TRUE = "#D1D1D1", "#E60026", "#009E73"
PLAIN = ("#46586C", "#8496AA", "#C3CED9")  # points of which nothing is known, from the lowest to the highest
OTHER = "#8496AA"  # bars of other classes than the true one
# From low to high: dark blue over grey to yellow, as lightness alone tells them apart (after cividis).
RAMP = ("#00204D", "#31446B", "#666970", "#958F78", "#CBBA69", "#FFEA46")
# From far below the mean over pale grey to far above: purple and orange, which all readers tell apart.
CONTRAST = ("#542788", "#8073AC", "#B2ABD2", "#E4E4E4", "#FDB863", "#E08214", "#B35806")
OCTAVES = 2.0  # attention is shown from a quarter of its mean to four times as much
MODES = ("prediction", "truth", "error", "confidence", "attention", "color", "shape")
BESIDE = ("truth", "prediction", "error")  # the modes that are shown side by side
DRAWN = 20_000  # points of a cloud in a picture or on a page: a browser cannot hold millions


@dataclass(frozen=True)
class LabelledCloud:
    """One cloud to look at, with what is known and what a model says of its points.

    Attributes:
        title: Its name.
        points: xyz (N, 3).
        category: Name of its class or category.
        ids: The part ids of its category.
        names: Names of all part ids.
        truth: True part of each point (N,), where known.
        prediction: Predicted part of each point (N,); None for a classifier.
        confidence: Probability of the predicted part (N,).
        attention: For each layer the latents' attention over the points (M, N), averaged over the heads.
        verdict: What the model says of the whole cloud, such as ``IoU 91.2%`` or ``predicted chair 98.3%``.
        scores: Probability of each class by its name, of a classifier.
        color: The cloud's own colours, RGB (N, 3) in [0, 1].
        up: The axis that points up, such as ``"z"``; y if None.
        codes: The number by which files say each part id; none: the id itself.

    Raises:
        ValueError: If an array does not have one value a point, or ``up`` is no axis.
    """

    title: str
    points: Array
    category: str = ""
    ids: Sequence[int] = ()
    names: Sequence[str] = ()
    truth: Array | None = None
    prediction: Array | None = None
    confidence: Array | None = None
    attention: Sequence[Array] = ()
    verdict: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    color: Array | None = None
    up: str | None = None
    codes: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] < 3 or not len(self.points):
            raise ValueError(f"{self.title}: expected points (N, 3), got {self.points.shape}")
        check_up(self.up)
        count = len(self.points)
        for name, shape in (("truth", ()), ("prediction", ()), ("confidence", ()), ("color", (3,))):
            value, expected = getattr(self, name), (count, *shape)
            if value is not None and value.shape != expected:
                raise ValueError(f"{self.title}: expected {name} {expected}, got {value.shape}")
        for value in self.attention:
            if value.ndim != 2 or value.shape[1] != count:
                raise ValueError(f"{self.title}: expected attention (M, {count}), got {value.shape}")

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that this cloud has what they need for, of `MODES`; the plain shape if nothing else."""
        labels = (self.prediction, self.truth, self.confidence, self.color)
        has = {
            "prediction": self.prediction is not None,
            "truth": self.truth is not None,
            "error": self.error_rate is not None,
            "confidence": self.confidence is not None,
            "color": self.color is not None,
            "shape": all(value is None for value in labels),
            "attention": len(self.attention) > 0,
        }
        return tuple(mode for mode in MODES if has[mode])

    @property
    def first_mode(self) -> str:
        """The mode to begin with: the labels, the colours or the plain shape, else what there is."""
        return next((mode for mode in self.modes if mode not in ("confidence", "attention")), self.modes[0])

    @property
    def upright(self) -> Array:
        """Its points with y up (N, 3), float64."""
        points = torch.from_numpy(np.asarray(self.points[:, :3], dtype=np.float64))
        turned: Array = turn(points, self.up).numpy()
        return turned

    def coded(self, parts: Any) -> Array:
        """Return the numbers by which files say part ids (N,); of -1, which is none, -1."""
        ids = np.asarray(parts, np.int64)
        return np.array([*self.codes, -1])[ids] if self.codes else ids

    def thinned(self, most: int = DRAWN) -> LabelledCloud:
        """Return the cloud with at most so many of its points, and say so in its verdict.

        They are a draw that is always the same, in their order.
        """
        count = len(self.points)
        if count <= most:
            return self
        kept = np.sort(np.random.default_rng(0).choice(count, most, replace=False))  # (most,)
        values = {name: getattr(self, name) for name in ("truth", "prediction", "confidence", "color")}
        return replace(
            self,
            points=self.points[kept],
            attention=tuple(layer[:, kept] for layer in self.attention),
            verdict=joined(self.verdict, f"{most:,} of {count:,} points"),
            **{name: value[kept] for name, value in values.items() if value is not None},
        )

    @property
    def caption(self) -> str:
        """Name, category and verdict in one line."""
        truth = f"truth {self.category}" if self.category in self.scores else self.category
        return joined(self.title, truth, self.verdict)

    @property
    def error_rate(self) -> float | None:
        """Share of the points with another part than the true one, where both are known."""
        if self.truth is None or self.prediction is None:
            return None
        return float((self.truth != self.prediction).mean())

    @property
    def quality(self) -> float | None:
        """How good the prediction is, from 0 to 1, where the truth is known.

        The share of the points that are right, or the probability of the true class.
        """
        wrong = self.error_rate
        return self.scores.get(self.category) if wrong is None else 1 - wrong

    def top(self, count: int = 3) -> list[tuple[str, float, str]]:
        """Return the most probable classes, best first: name, probability and colour; also the true one.

        The true class is green, and a wrong first one red.
        """
        ranked = sorted(self.scores, key=lambda name: -self.scores[name])
        shown = ranked[:count] + [name for name in ranked[count:] if name == self.category]
        known = self.category in self.scores
        colors = {name: ERROR if known and place == 0 else OTHER for place, name in enumerate(ranked)}
        colors[self.category] = TRUE
        return [(name, self.scores[name], colors[name]) for name in shown]

    def colors(self, mode: str, layer: int = 0, latent: int = 0) -> Array:
        """Return RGB (N, 3) in [0, 1] of the points in a mode.

        Args:
            mode: One of `modes`.
            layer: Of the attention.
            latent: Of the attention, which is shown as `deviation` from its mean.

        Raises:
            ValueError: For a mode, layer or latent that the cloud does not have.
        """
        self._check(mode, layer, latent)
        if mode in ("truth", "prediction"):
            return part_colors(getattr(self, mode), self.ids)
        if mode == "error":
            wrong = np.asarray(self.truth) != self.prediction
            return np.where(wrong[:, None], rgb(ERROR), rgb(RIGHT))  # (N, 3)
        if mode == "confidence":
            return ramp(np.asarray(self.confidence))
        if mode == "attention":
            return ramp(deviation(self.attention[layer][latent]), CONTRAST)
        if mode == "color":
            return np.asarray(self.color)
        height = self.upright[:, 1]  # (N,)
        return ramp((height - height.min()) / max(float(np.ptp(height)), np.finfo(np.float64).tiny), PLAIN)

    def legend(self, mode: str) -> list[tuple[str, str]]:
        """Return names and colours that explain a mode; of one with a `scale`, values at equal distances.

        Raises:
            ValueError: For a mode that the cloud does not have.
        """
        self._check(mode)
        if mode in ("truth", "prediction"):
            return legend(self.ids, self.names)
        if mode == "error":
            return [("right", RIGHT), ("wrong", ERROR)]
        if mode == "confidence":
            return [("0%", RAMP[0]), ("50%", to_hex(ramp(np.array([0.5]))[0])), ("100%", RAMP[-1])]
        if mode == "attention":
            return [("¼×", CONTRAST[0]), ("mean", CONTRAST[3]), ("4×", CONTRAST[-1])]
        return []

    def headline(self, mode: str, layer: int = 0, latent: int = 0) -> str:
        """Return the line that stands above the cloud: name, category, verdict and mode."""
        self._check(mode, layer, latent)
        shown = "" if mode == "shape" else mode
        if mode == "attention":
            shown = f"attention, layer {layer + 1} of {len(self.attention)}, latent {latent + 1}"
            shown += f" of {len(self.attention[layer])}"
        elif mode == "error":
            shown = f"error, {self.error_rate:.1%} of the points"
        return joined(self.caption, shown)

    def _check(self, mode: str, layer: int = 0, latent: int = 0) -> None:
        if mode not in self.modes:
            raise ValueError(f"mode: expected one of {', '.join(self.modes)}, got {mode!r}")
        if mode == "attention":
            for name, value, count in (
                ("layer", layer, len(self.attention)),
                ("latent", latent, len(self.attention[min(max(layer, 0), len(self.attention) - 1)])),
            ):
                if not 0 <= value < count:
                    raise ValueError(f"{name}: expected 0 to {count - 1}, got {value}")


def scale(mode: str) -> tuple[str, ...]:
    """Return the colours from low to high of a mode that shows amounts or heights; () of one of kinds."""
    return {"confidence": RAMP, "attention": CONTRAST, "shape": PLAIN}.get(mode, ())


def joined(*parts: str) -> str:
    """Return those parts of a line that say something."""
    return " · ".join(part for part in parts if part)


def part_colors(parts: Any, ids: Sequence[int]) -> Array:
    """Return the colour of each point: parts (N,) of a category with these part ids -> RGB (N, 3) in [0, 1].

    Raises:
        ValueError: For a part that is not among the ids.
    """
    colors = np.array([rgb(color) for color in PALETTE])  # (P, 3)
    chosen: Array = colors[part_places(parts, ids) % len(PALETTE)]
    return chosen.reshape(-1, 3)  # (N, 3)


def part_places(parts: Any, ids: Sequence[int]) -> Array:
    """Return the place of each part (N,) among the sorted part ids of its category: int64 (N,).

    Raises:
        ValueError: For a part that is not among the ids.
    """
    parts = np.asarray(parts)
    order = np.array(sorted(ids), dtype=np.int64)  # (P,)
    unknown = sorted(set(np.unique(parts).tolist()) - set(ids))
    if unknown:
        raise ValueError(f"parts: expected parts among {order.tolist()}, got {unknown}")
    places: Array = np.searchsorted(order, parts)
    return places


def legend(ids: Sequence[int], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and colour of each part of a category; ``names`` are those of all part ids."""
    return [(names[part], PALETTE[place % len(PALETTE)]) for place, part in enumerate(sorted(ids))]


def deviation(weights: Array) -> Array:
    """Return how far attention (..., N) is from its mean over the points, from 0 over 0.5, the mean, to 1.

    In powers of two: 0 is a quarter of the mean and less, 1 four times the mean and more.
    """
    weights = np.asarray(weights, dtype=np.float64)
    tiny = np.finfo(np.float64).tiny
    mean = np.maximum(weights.mean(axis=-1, keepdims=True), tiny)
    octaves = np.log2(np.maximum(weights / mean, 2.0**-OCTAVES))
    place: Array = np.clip(octaves / (2 * OCTAVES) + 0.5, 0.0, 1.0)
    return place


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


def ramp(values: Array, colors: Sequence[str] = RAMP) -> Array:
    """Return the colours of values from 0 to 1 (N,) on a scale: RGB (N, 3) in [0, 1]."""
    stops = np.array([rgb(color) for color in colors])  # (R, 3)
    place = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(values, place, stops[:, channel]) for channel in range(3)], axis=-1)


def rgb(color: str) -> tuple[float, float, float]:
    """Return ``#rrggbb`` as three numbers in [0, 1]."""
    red, green, blue = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def to_hex(color: Array) -> str:
    """Return three numbers in [0, 1] as ``#rrggbb``."""
    return "#" + "".join(f"{round(255 * float(value)):02X}" for value in color)
