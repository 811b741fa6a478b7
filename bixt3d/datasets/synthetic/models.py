"""The geometry of each category of synthetic shapes: pieces from a few primitives, in metres, y up.

A category is one function `rng -> pieces`. Proportions are drawn widely on purpose: chairs can be as tall as
lamps and tables as small as mugs, so that a shape is known by its structure and not by its bounding box.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bixt3d.datasets.synthetic.primitives import (
    Pieces,
    around,
    ball,
    box,
    lathe,
    plate,
    rounded,
    tube,
    turned,
)
from bixt3d.datasets.synthetic.vehicles import airplane, car, rocket

if TYPE_CHECKING:
    import trimesh

PARTS: dict[str, tuple[str, ...]] = {
    "airplane": ("body", "wing", "tail", "engine"),
    "bottle": ("body", "neck", "cap"),
    "car": ("body", "wheel", "roof"),
    "chair": ("seat", "back", "leg", "arm"),
    "guitar": ("body", "neck", "head"),
    "hammer": ("handle", "head", "grip"),
    "lamp": ("base", "pole", "shade"),
    "mug": ("body", "handle", "lid"),
    "rocket": ("body", "nose", "fin", "booster"),
    "table": ("top", "leg", "shelf"),
}


def _legs(rng: np.random.Generator, width: float, depth: float, height: float) -> list[trimesh.Trimesh]:
    """Three or four posts, two panels, or a pedestal: `height` tall, under a top of width x depth."""
    kind = rng.choice(["four", "three", "pedestal", "panels"], p=[0.5, 0.15, 0.25, 0.1])
    thick = rng.uniform(0.025, 0.05) * (width + depth + height) / 2
    if kind == "panels":
        size = (thick, height, depth * 0.9)
        return [box(size, (side * (width / 2 - thick), height / 2, 0)) for side in (-1, 1)]
    if kind == "pedestal":
        wide, deep = rng.uniform(0.28, 0.48) * np.array([width, depth])
        pole = tube([(0, 0.02, 0), (0, height, 0)], thick * rng.uniform(0.9, 1.6))
        if rng.random() < 0.5:
            return [pole, plate(rounded(2 * wide, 2 * deep, 2.0), thick, 1, (0, thick / 2, 0))]
        rise = height * rng.uniform(0.05, 0.2) + thick
        feet = [(x * wide, thick / 2, z * deep) for x, z in around(int(rng.integers(3, 6)), 1.0)]
        return [pole] + [tube([(0, rise, 0), foot], thick / 2) for foot in feet]
    corners = [(x, z) for x in (-0.85, 0.85) for z in (-0.85, 0.85)]
    if kind == "three":
        corners = around(3, 0.8, np.pi / 2)
    splay, taper, sides = rng.uniform(0.9, 1.2), rng.uniform(0.5, 1.0), int(rng.choice([4, 10]))
    inset = rng.uniform(0.8, 1.0)
    tops = [np.array([x * inset * width / 2, height, z * inset * depth / 2]) for x, z in corners]
    return [tube([top * (splay, 0, splay), top], [thick * taper / 1.5, thick / 1.5], sides) for top in tops]


def chair(rng: np.random.Generator) -> Pieces:
    """Seat, back (solid, slats or rungs), legs, and arms on about half of them."""
    width, depth, height = rng.uniform(0.35, 0.8), rng.uniform(0.35, 0.75), rng.uniform(0.2, 0.8)
    thick, rise = rng.uniform(0.03, 0.14), rng.uniform(0.25, 0.85)
    pieces = Pieces()
    outline = rounded(width, depth, rng.choice([2.5, 4.0, 20.0]))
    pieces.add("seat", plate(outline, thick, 1, (0, height + thick / 2, 0)))
    pieces.add("leg", *_legs(rng, width, depth, height))

    foot, lean, slim = height + thick, rng.uniform(0.0, 0.25) * rise, rng.uniform(0.02, 0.05)
    back, kind = -depth / 2 + slim, rng.choice(["solid", "slats", "rungs"])
    if kind == "solid":
        outline = rounded(width * 0.95, rise, rng.choice([2.5, 5.0, 20.0]))
        shear = np.eye(4)
        shear[2, 1] = -lean / rise
        shear[:3, 3] = 0, foot, back
        pieces.add("back", plate(outline, slim * 1.5, 2, (0, rise / 2, 0)).apply_transform(shear))
    else:
        bars = int(rng.integers(3, 6))
        xs = np.linspace(-0.42, 0.42, bars if kind == "slats" else 2) * width
        ys = np.linspace(1.0 if kind == "slats" else 0.3, 1.0, 1 if kind == "slats" else bars)
        rail = (width * 0.95, slim * 2.2, slim * 1.2)
        pieces.add("back", *[tube([(x, foot, back), (x, foot + rise, back - lean)], slim * 0.7) for x in xs])
        pieces.add("back", *[box(rail, (0, foot + y * rise, back - lean * y)) for y in ys])
    if rng.random() < 0.5:
        level, front = rng.uniform(0.15, 0.28) + foot, rng.uniform(0.2, 0.45) * depth
        rail = (slim * 2, slim * 1.4, front - back)
        for x in (-width / 2, width / 2):
            post = [(x, foot - thick / 2, front * 0.9), (x, level, front * 0.9)]
            pieces.add("arm", box(rail, (x, level, (front + back) / 2)), tube(post, slim * 0.8))
    return pieces


def table(rng: np.random.Generator) -> Pieces:
    """Top (round to rectangular), legs, and a shelf under about half of them."""
    width, height = rng.uniform(0.4, 1.5), rng.uniform(0.3, 1.4)
    depth, thick = width * rng.uniform(0.45, 1.1), rng.uniform(0.02, 0.1)
    power = rng.choice([2.0, 4.0, 20.0])
    pieces = Pieces()
    pieces.add("top", plate(rounded(width, depth, power), thick, 1, (0, height + thick / 2, 0)))
    inset = 0.72 if power == 2.0 else 0.95
    pieces.add("leg", *_legs(rng, width * inset, depth * inset, height))
    if rng.random() < 0.5:
        narrower, shallower = inset * rng.uniform(0.6, 0.9, size=2)
        board = rounded(width * narrower, depth * shallower, power)
        pieces.add("shelf", plate(board, thick * 0.7, 1, (0, height * rng.uniform(0.2, 0.6), 0)))
    return pieces


def lamp(rng: np.random.Generator) -> Pieces:
    """Base (disc, dome or tripod), pole (straight or arched), and a shade (frustum, dome or globe)."""
    height, reach = rng.uniform(0.3, 1.3), rng.uniform(0.1, 0.35)
    slim = rng.uniform(0.012, 0.03) * (1 + height)
    kind = rng.choice(["disc", "dome", "tripod"])
    pieces = Pieces()
    if kind == "tripod":
        foot = height * rng.uniform(0.2, 0.5)
        pieces.add("base", *[tube([(0, foot, 0), (x, 0, z)], slim) for x, z in around(3, reach)])
    elif kind == "disc":
        foot = rng.uniform(0.02, 0.06)
        pieces.add("base", lathe([(0, 0), (reach, 0), (reach, foot), (0, foot)]))
    else:
        foot = min(reach * rng.uniform(0.5, 1.2), 0.5 * height)
        pieces.add("base", lathe([(0, 0), *_dome(reach, foot)]))

    lean = rng.uniform(0.2, 0.7) * height if rng.random() < 0.4 else 0.0
    bend = np.linspace(0, np.pi / 2, 9 if lean else 2)
    path = [(lean * (1 - np.cos(t)), foot + (height - foot) * np.sin(t), 0) for t in bend]
    pieces.add("pole", tube(path, slim, flat=(0, 0, 1)))

    wide, tall = rng.uniform(0.12, 0.45), rng.uniform(0.12, 0.4)
    narrow, wall, form = wide * rng.uniform(0.3, 1.0), 0.03 * wide, rng.choice(["frustum", "dome", "globe"])
    at = (lean, height - tall * rng.uniform(0.5, 0.9), 0)
    if form == "globe":
        pieces.add("shade", ball(wide * 0.7, (lean, height + wide * 0.3, 0)))
    elif form == "frustum":
        edge = (wide, 0.0)
        pieces.add(
            "shade", lathe([edge, (narrow, tall), (narrow - wall, tall), (wide - wall, 0.0), edge], at)
        )
    else:
        pieces.add("shade", lathe([*_dome(0.94 * wide, 0.94 * tall)[::-1], *_dome(wide, tall)], at))
    return pieces


def _dome(radius: float, height: float, count: int = 7) -> list[tuple[float, float]]:
    """A quarter of an ellipse as a profile, from the rim up to the axis."""
    turn = np.linspace(0, np.pi / 2, count)
    return [(float(r), float(y)) for r, y in zip(radius * np.cos(turn), height * np.sin(turn), strict=True)]


# ------------------------------------------------------------------ things held


def mug(rng: np.random.Generator) -> Pieces:
    """A hollow cup, a handle (or two), and a lid on some."""
    radius, height = rng.uniform(0.25, 0.5), rng.uniform(0.4, 1.3)
    wall, flare, belly = rng.uniform(0.06, 0.12) * radius, rng.uniform(0.65, 1.15), rng.uniform(-0.05, 0.25)
    levels = np.linspace(0, 1, 7)
    radii = radius * (flare + (1 - flare) * levels + belly * np.sin(np.pi * levels))
    outer = [(float(r), float(y * height)) for r, y in zip(radii, levels, strict=True)]
    inner = [(r - wall, max(y, wall)) for r, y in outer[::-1]]
    pieces = Pieces()
    pieces.add("body", lathe([(0, 0), *outer, *inner, (0, wall)]))

    size, reach = rng.uniform(0.22, 0.36) * height, rng.uniform(0.25, 0.6) * radius + 0.1
    middle, power = rng.uniform(0.45, 0.6) * height, rng.choice([1.0, 0.5])
    turn = np.linspace(-np.pi / 2, np.pi / 2, 11)
    ys = middle + size * np.sin(turn)
    xs = np.interp(ys, levels * height, radii) - wall / 2 + reach * np.abs(np.cos(turn)) ** power
    for side in (1, -1) if rng.random() < 0.2 else (1,):
        path = np.stack([side * xs, ys, np.zeros_like(xs)], axis=1)
        pieces.add("handle", tube(path, rng.uniform(0.035, 0.07), flat=(0, 0, 1)))
    if rng.random() < 0.35:
        edge, knob, rise = float(radii[-1]), rng.uniform(0.04, 0.12), 3 * wall
        rim = [(edge, 0), (edge, wall), (knob, rise), (knob, rise + knob)]
        pieces.add("lid", lathe([(0, 0), *rim, (0, rise + knob)], (0, height, 0)))
    return pieces


def bottle(rng: np.random.Generator) -> Pieces:
    """A round or square body with a shoulder, a neck, and a cap on most."""
    radius, height = rng.uniform(0.2, 0.5), rng.uniform(0.35, 1.4)
    sides = int(rng.choice([4, 24], p=[0.3, 0.7]))
    slim, tall = radius * rng.uniform(0.25, 0.5), rng.uniform(0.15, 0.55) * height
    shoulder, belly = rng.uniform(0.3, 1.2) * radius, rng.uniform(-0.1, 0.15)
    levels = np.linspace(0, 1, 5)
    rim = [(float(radius * (1 + belly * np.sin(np.pi * t))), float(height * t)) for t in levels]
    rim += [(slim + r, height + y) for r, y in _dome(radius - slim, shoulder, 5)[1:]]
    top = height + shoulder
    pieces = Pieces()
    # An eighth of a turn brings the four sides of a square body in line with the axes.
    pieces.add("body", turned(lathe([(0, 0), *rim, (0, top)], sides=sides), 0.5**0.5, 0.5**0.5))
    pieces.add("neck", tube([(0, top, 0), (0, top + tall, 0)], [slim, slim * rng.uniform(0.7, 1.0)], 16))
    if rng.random() < 0.65:
        wide, high = slim * rng.uniform(1.1, 1.5), rng.uniform(0.06, 0.2)
        pieces.add("cap", tube([(0, top + tall - high / 3, 0), (0, top + tall + high, 0)], wide, 16))
    return pieces


def hammer(rng: np.random.Generator) -> Pieces:
    """An upright handle, a head across it (mallet, block, claw or ball), and a grip on about half of them."""
    length, slim = rng.uniform(0.4, 1.3), rng.uniform(0.025, 0.06)
    head, thick = rng.uniform(0.25, 0.9), rng.uniform(0.06, 0.2)
    pieces = Pieces()
    widths, sides = [slim * rng.uniform(0.8, 1.5), slim], int(rng.choice([4, 10]))
    pieces.add("handle", tube([(0, 0, 0), (0, length + thick / 2, 0)], widths, sides))
    kind, near = rng.choice(["mallet", "block", "claw", "ball"]), rng.uniform(0.45, 0.6) * head
    far = near - head
    if kind == "mallet":
        pieces.add("head", tube([(far, length, 0), (near, length, 0)], thick * rng.uniform(1.0, 1.5), 20))
    elif kind == "block":
        size = (head, 2 * thick, 2 * thick * rng.uniform(0.7, 1.3))
        pieces.add("head", box(size, ((near + far) / 2, length, 0)))
    else:
        pieces.add("head", tube([(-slim, length, 0), (near, length, 0)], [thick * 0.7, thick], 16))
    if kind == "ball":
        pieces.add("head", tube([(far, length, 0), (0, length, 0)], thick * 0.5))
        pieces.add("head", ball(thick, (far, length, 0)))
    elif kind == "claw":
        bend = np.linspace(0, 1, 6)
        for side in (-1, 1):
            claw = [(far * t, length - 0.35 * head * t**2, side * thick * (0.3 + 0.6 * t)) for t in bend]
            pieces.add("head", tube(claw, np.linspace(0.5, 0.15, 6) * thick, 6, flat=(0, 0, 1)))
    if rng.random() < 0.5:
        held = length * rng.uniform(0.25, 0.45)
        pieces.add("grip", tube([(0, -0.02, 0), (0, held, 0)], slim * rng.uniform(1.6, 2.2)))
    return pieces


def guitar(rng: np.random.Generator) -> Pieces:
    """An upright flat body (waisted or with two horns), a neck, and a head with or without pegs."""
    width, height, thick = rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.9), rng.uniform(0.06, 0.3)
    waist = rng.uniform(0.25, 0.5)
    if rng.random() < 0.65:
        level = (1 - np.cos(np.linspace(0, np.pi, 22))) / 2
        lobes = (1 - waist * np.exp(-(((level - 0.6) / 0.16) ** 2))) * (1 - 0.2 * level)
        half = np.sqrt(level * (1 - level)) * lobes
        outline = np.stack([np.append(half, -half[-2:0:-1]), np.append(level, level[-2:0:-1])], axis=1)
    else:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        horns = waist * np.exp(-((np.abs(angle - np.pi / 2) - 0.75) ** 2) / 0.06)
        radius = 0.85 - 0.1 * np.sin(angle) + horns
        outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    outline = (outline - outline.min(axis=0)) / np.ptp(outline, axis=0) * (width, height) - (width / 2, 0)
    pieces = Pieces()
    pieces.add("body", plate(outline, thick, 2))

    length, slim = rng.uniform(0.35, 1.1), rng.uniform(0.05, 0.1)
    face, top, bottom = thick / 2, height + length, height * rng.uniform(0.6, 0.8)
    pieces.add("neck", box((slim, top - bottom, slim * 0.6), (0, (top + bottom) / 2, face)))
    tall, wide = rng.uniform(0.14, 0.3), slim * rng.uniform(1.5, 2.6)
    outline = rounded(wide, tall, rng.choice([3.0, 20.0]))
    pieces.add("head", plate(outline, slim * 0.5, 2, (0, top + tall / 2, face)))
    if rng.random() < 0.5:
        for y in (top + tall * np.array([0.25, 0.5, 0.75])).tolist():
            pieces.add("head", tube([(-0.8 * wide, y, face), (0.8 * wide, y, face)], slim * 0.12, 6))
    return pieces


MODELS: dict[str, Callable[[np.random.Generator], Pieces]] = {
    model.__name__: model
    for model in (airplane, bottle, car, chair, guitar, hammer, lamp, mug, rocket, table)
}
