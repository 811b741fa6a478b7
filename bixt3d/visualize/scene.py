"""What every view of a cloud shows alike: its modes, which colour each point has, title and legend.

NumPy only, so that the window, the page and the picture can draw the same thing with other libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Okabe and Ito's palette, made for colour-blind readers, then darker shades of it for categories with more
# parts. A part's colour follows from its place among its category's parts, so it is the same in every view.
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
    "#F0E442",
    "#7A7A7A",
    "#004B75",
    "#8A5F00",
    "#00573F",
)
RIGHT, ERROR = "#D1D1D1", "#D65E00"
PLAIN = "#7A7A7A"  # points of which nothing is known
# From low to high: dark blue over grey to yellow, as lightness alone tells them apart (after cividis).
RAMP = ("#00204D", "#31446B", "#666970", "#958F78", "#CBBA69", "#FFEA46")
MODES = ("prediction", "truth", "error", "confidence", "attention")
DRAWN = 20_000  # points of a cloud in a picture or on a page: a browser cannot hold millions


@dataclass(frozen=True)
class LabelledCloud:
    """One cloud to look at, with what is known and what a model says of its points.

    Attributes:
        title: Its name.
        points: xyz (N, 3), y up.
        category: Name of its class or category.
        ids: The part ids of its category.
        names: Names of all part ids.
        truth: True part of each point (N,), where known.
        prediction: Predicted part of each point (N,); None for a classifier.
        confidence: Probability of the predicted part (N,).
        attention: For each layer the latents' attention over the points (M, N), averaged over the heads.
        verdict: What the model says of the whole cloud, such as ``IoU 91.2%`` or ``chair 98.3%``.

    Raises:
        ValueError: If an array does not have one value a point.
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

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] < 3 or not len(self.points):
            raise ValueError(f"{self.title}: expected points (N, 3), got {self.points.shape}")
        count = len(self.points)
        for name in ("truth", "prediction", "confidence"):
            value = getattr(self, name)
            if value is not None and value.shape != (count,):
                raise ValueError(f"{self.title}: expected {name} ({count},), got {value.shape}")
        for value in self.attention:
            if value.ndim != 2 or value.shape[1] != count:
                raise ValueError(f"{self.title}: expected attention (M, {count}), got {value.shape}")

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that this cloud has what they need for, out of `MODES`."""
        needs = {
            "prediction": self.prediction is not None,
            "truth": self.truth is not None,
            "error": self.truth is not None and self.prediction is not None,
            "confidence": self.confidence is not None,
            "attention": len(self.attention) > 0,
        }
        return tuple(mode for mode in MODES if needs[mode])

    def thinned(self, most: int = DRAWN) -> LabelledCloud:
        """Return the cloud with at most so many of its points, and say so in its verdict.

        They are a draw that is always the same, in their order.
        """
        count = len(self.points)
        if count <= most:
            return self
        kept = np.sort(np.random.default_rng(0).choice(count, most, replace=False))  # (most,)
        values = {name: getattr(self, name) for name in ("truth", "prediction", "confidence")}
        return replace(
            self,
            points=self.points[kept],
            attention=tuple(layer[:, kept] for layer in self.attention),
            verdict=" · ".join(part for part in (self.verdict, f"{most:,} of {count:,} points") if part),
            **{name: value[kept] for name, value in values.items() if value is not None},
        )

    @property
    def caption(self) -> str:
        """Name, category and verdict in one line."""
        return " · ".join(part for part in (self.title, self.category, self.verdict) if part)

    @property
    def error_rate(self) -> float | None:
        """Share of the points with another part than the true one, where both are known."""
        if self.truth is None or self.prediction is None:
            return None
        return float((self.truth != self.prediction).mean())

    def colors(self, mode: str, layer: int = 0, latent: int = 0) -> Array:
        """Return RGB (N, 3) in [0, 1] of the points in a mode.

        Args:
            mode: One of `modes`.
            layer: Of the attention.
            latent: Of the attention; its colours go from no attention to the most that this latent pays.

        Raises:
            ValueError: For a mode, layer or latent that the cloud does not have.
        """
        self._check(mode, layer, latent)
        if mode == "truth":
            return part_colors(self.truth, self.ids)
        if mode == "prediction":
            return part_colors(self.prediction, self.ids)
        if mode == "error":
            wrong = np.asarray(self.truth) != self.prediction
            return np.where(wrong[:, None], rgb(ERROR), rgb(RIGHT))  # (N, 3)
        if mode == "confidence":
            return ramp(np.asarray(self.confidence))
        weights = np.asarray(self.attention[layer][latent], dtype=np.float64)
        return ramp(weights / max(weights.max(), np.finfo(np.float64).tiny))

    def legend(self, mode: str) -> list[tuple[str, str]]:
        """Return names and colours that explain a mode.

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
        return [("no attention", RAMP[0]), ("most", RAMP[-1])]

    def headline(self, mode: str, layer: int = 0, latent: int = 0) -> str:
        """Return the line that stands above the cloud: name, category, verdict and mode."""
        self._check(mode, layer, latent)
        shown = mode
        if mode == "attention":
            shown = f"attention, layer {layer + 1} of {len(self.attention)}, latent {latent + 1}"
            shown += f" of {len(self.attention[layer])}"
        elif mode == "error":
            shown = f"error, {self.error_rate:.1%} of the points"
        return " · ".join(part for part in (self.caption, shown) if part)

    def _check(self, mode: str, layer: int = 0, latent: int = 0) -> None:
        if mode not in self.modes:
            raise ValueError(f"mode: expected one of {', '.join(self.modes) or 'none'}, got {mode!r}")
        if mode == "attention":
            if not 0 <= layer < len(self.attention):
                raise ValueError(f"layer: expected 0 to {len(self.attention) - 1}, got {layer}")
            if not 0 <= latent < len(self.attention[layer]):
                raise ValueError(f"latent: expected 0 to {len(self.attention[layer]) - 1}, got {latent}")


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
    unknown = sorted(set(parts.tolist()) - set(ids))
    if unknown:
        raise ValueError(f"parts: expected parts among {order.tolist()}, got {unknown}")
    places: Array = np.searchsorted(order, parts)
    return places


def legend(ids: Sequence[int], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and colour of each part of a category; ``names`` are those of all part ids."""
    return [(names[part], PALETTE[place % len(PALETTE)]) for place, part in enumerate(sorted(ids))]


def ramp(values: Array) -> Array:
    """Return the colours of values from 0 to 1 (N,) on `RAMP`: RGB (N, 3) in [0, 1]."""
    stops = np.array([rgb(color) for color in RAMP])  # (R, 3)
    place = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(values, place, stops[:, channel]) for channel in range(3)], axis=-1)


def rgb(color: str) -> tuple[float, float, float]:
    """Return ``#rrggbb`` as three numbers in [0, 1]."""
    red, green, blue = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def to_hex(color: Array) -> str:
    """Return three numbers in [0, 1] as ``#rrggbb``."""
    return "#" + "".join(f"{round(255 * float(value)):02X}" for value in color)
