"""What a viewer of labelled clouds shows, and what keys change of it; knows nothing of windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bixt3d.visualize.browse import FAULTS, is_told, next_category, reason, worst_first
from bixt3d.visualize.gallery import Clouds
from bixt3d.visualize.scene import BESIDE, MODES, LabelledCloud, scale

Array = np.ndarray[Any, Any]

# What a user may do, and the keys for it, as the help shows them.
HELP = (
    ("Right/N, Left/P", "next, previous shape"),
    ("C", "next category"),
    ("1 2 3 4 5 6 7", ", ".join(MODES)),
    ("B", "truth, prediction and error side by side, and back"),
    ("W", "worst prediction first, and back"),
    ("Up, Down", "layer of the attention"),
    (". ,", "latent of the attention"),
    ("+ -", "size of the points"),
    ("mouse", "drag turns, Ctrl + drag moves, wheel zooms"),
    ("R", "view as at the start"),
    ("S", "write a picture"),
    ("H", "this help"),
    ("Q or Esc", "quit"),
)
# GLFW names keys by their place on a US keyboard: + and - of a German one are its ] and /.
KEYS: dict[int, str] = {
    **{ord("B"): "beside", ord("W"): "worst"},
    **{ord("N"): "next", 262: "next", ord("P"): "previous", 263: "previous", ord("C"): "category"},
    **{ord("1") + place: mode for place, mode in enumerate(MODES)},
    **{321 + place: mode for place, mode in enumerate(MODES)},  # of the number pad
    **{265: "layer up", 264: "layer down", ord("."): "latent up", ord(","): "latent down"},
    **{ord("="): "larger", ord("]"): "larger", 334: "larger"},
    **{ord("-"): "smaller", ord("/"): "smaller", 333: "smaller"},
    **{ord("R"): "reset", ord("S"): "picture", ord("H"): "help", ord("Q"): "quit", 256: "quit"},
}
HEIGHT = 760  # of a window, in pixels, for which sizes are stated
MOST = 1_000_000  # points of a cloud in a window: of larger ones a draw is shown, and the headline says so


class ViewerState:
    """What the window shows, and what keys change of it.

    The mode, layer and latent that were chosen last hold for every cloud that has them; others show what they
    have instead.

    Args:
        clouds: What to look through; a `Gallery` labels a cloud when it is shown.

    Attributes:
        index: Which cloud, counted as they are stored.
        beside: Whether truth, prediction and error are shown side by side, where they are known.
        message: What the last action has to say, "" for nothing.
        help: Whether the keys are explained.

    Raises:
        ValueError: If there are no clouds.
    """

    def __init__(self, clouds: Sequence[LabelledCloud]) -> None:
        """Start with the first cloud and its first mode."""
        if not len(clouds):
            raise ValueError("no clouds to look at: give at least one")
        self.clouds = clouds
        self.index, self.message, self.help, self.beside = 0, "", False, False
        self._order, self._sorted = list(range(len(clouds))), False
        self._mode, self._layer, self._latent, self._growth = MODES[0], 0, 0, 0
        self._seen: tuple[int, LabelledCloud | None, str] = (-1, None, "")

    @property
    def cloud(self) -> LabelledCloud | None:
        """The cloud, or None if it cannot be shown: `fault` then says why."""
        if self._seen[0] != self.index:
            try:
                self._seen = (self.index, self.clouds[self.index].thinned(MOST), "")
            except FAULTS as error:
                if not is_told(self.clouds, error):
                    raise
                self._seen = (self.index, None, reason(error))
        return self._seen[1]

    @property
    def fault(self) -> str:
        """Why the cloud cannot be shown, "" if it can."""
        return "" if self.cloud is not None else self._seen[2]

    @property
    def mode(self) -> str:
        """The mode chosen last if the cloud has it, else its first, "" if it cannot be shown."""
        if self.cloud is None:
            return ""
        return self._mode if self._mode in self.cloud.modes else self.cloud.first_mode

    @property
    def columns(self) -> tuple[str, ...]:
        """The modes that are shown side by side: the one, or three."""
        known = self.cloud is not None and self.cloud.error_rate is not None
        return BESIDE if self.beside and known else (self.mode,)

    @property
    def layer(self) -> int:
        """The layer whose attention is shown."""
        return min(self._layer, self._layers - 1) if self._layers else 0

    @property
    def latent(self) -> int:
        """The latent whose attention is shown."""
        return min(self._latent, self._latents - 1) if self._layers else 0

    @property
    def size(self) -> float:
        """Size of a point in pixels of a window `HEIGHT` high: the more points, the smaller."""
        count = len(self.cloud.points) if self.cloud is not None else 1
        return float(np.clip(round(400 / count**0.5) + self._growth, 1, 30))

    @property
    def title(self) -> str:
        """The cloud's name."""
        if isinstance(self.clouds, Clouds):
            return self.clouds.titles[self.index]
        return self.cloud.title if self.cloud is not None else f"cloud {self.index + 1}"

    @property
    def place(self) -> str:
        """Which cloud of how many it is, as they are sorted."""
        return f"{self._order.index(self.index) + 1}/{len(self.clouds)}{' worst first' * self._sorted}"

    @property
    def headline(self) -> str:
        """The line that stands above the cloud."""
        if self.cloud is None:
            return f"{self.title} · cannot be shown"
        if len(self.columns) > 1:
            return f"{self.cloud.caption} · {self.cloud.error_rate:.1%} of the points wrong"
        return self.cloud.headline(self.mode, self.layer, self.latent)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Names and colours that explain what is shown."""
        shown = self.columns[1:] or self.columns  # truth and prediction have the same
        return [] if self.cloud is None else [entry for mode in shown for entry in self.cloud.legend(mode)]

    @property
    def amounts(self) -> tuple[str, ...]:
        """The colours from low to high, where the legend is that of amounts."""
        return scale(self.mode) if self.legend and len(self.columns) == 1 else ()

    @property
    def bars(self) -> list[tuple[str, float, str]]:
        """The most probable classes, as `LabelledCloud.top` gives them."""
        return [] if self.cloud is None else self.cloud.top()

    @property
    def points(self) -> Array:
        """The points (N, 3), y up, centred and scaled to radius one."""
        if self.cloud is None:
            return np.zeros((1, 3))
        points = self.cloud.upright
        points = points - (points.min(0) + points.max(0)) / 2
        radius = float(np.linalg.norm(points, axis=1).max())
        scaled: Array = points / (radius or 1.0)
        return scaled

    @property
    def colors(self) -> Array:
        """Their colours in each of the columns, RGB (columns * N, 3) in [0, 1]."""
        if self.cloud is None:
            return np.ones((1, 3))
        return np.concatenate([self.cloud.colors(mode, self.layer, self.latent) for mode in self.columns])

    def act(self, action: str) -> None:
        """Do what a key asks for: one of the actions in `KEYS`; the window's own change nothing here."""
        self.message = ""
        if action in ("next", "previous"):
            place = self._order.index(self.index) + (1 if action == "next" else -1)
            self.index = self._order[place % len(self._order)]
        elif action == "category":
            self._next_category()
        elif action in MODES:
            self._choose(action)
        elif action.startswith(("layer", "latent")):
            self._step(*action.split())
        elif action in ("larger", "smaller"):
            size = self.size
            self._growth += 1 if action == "larger" else -1
            if self.size == size:  # as large, or as small, as it gets
                self._growth += -1 if action == "larger" else 1
        elif action == "beside":
            self.beside = not self.beside
            if self.beside and len(self.columns) == 1:
                self.message = "this cloud has no truth and prediction of its points to show side by side"
        elif action == "worst":
            self._sorted = not self._sorted
            self._order = worst_first(self.clouds) if self._sorted else list(range(len(self.clouds)))
            self.index = self._order[0]
        elif action == "help":
            self.help = not self.help

    @property
    def _layers(self) -> int:
        return len(self.cloud.attention) if self.cloud is not None else 0

    @property
    def _latents(self) -> int:
        return len(self.cloud.attention[self.layer]) if self.cloud is not None else 0

    def _next_category(self) -> None:
        clouds, order, before = self.clouds, self._order, self.index
        names = clouds.categories if isinstance(clouds, Clouds) else [cloud.category for cloud in clouds]
        self.index = order[next_category([names[place] for place in order], order.index(self.index))]
        if self.index == before:
            self.message = "there is no other category"

    def _choose(self, mode: str) -> None:
        if self.cloud is None or mode in self.cloud.modes:
            self._mode, self.beside = mode, False
        else:
            has = ", ".join(f"{MODES.index(name) + 1} {name}" for name in self.cloud.modes)
            self.message = f"this cloud has no {mode}; it has {has}"

    def _step(self, what: str, way: str) -> None:
        if self.mode != "attention":
            self.message = f"{what}s are those of the attention: press 5"
            return
        step = 1 if way == "up" else -1
        if what == "layer":
            self._layer = (self.layer + step) % self._layers
        else:
            self._latent = (self.latent + step) % self._latents
