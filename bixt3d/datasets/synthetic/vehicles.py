"""The geometry of synthetic shapes that move: cars, airplanes, rockets."""

from __future__ import annotations

import numpy as np

from bixt3d.datasets.synthetic.primitives import Pieces, around, lathe, plate, rounded, tube, turned


def car(rng: np.random.Generator) -> Pieces:
    """A body along z, four or six wheels, and a roof (sedan, van or pickup) on all but open cars."""
    width, length, height = rng.uniform(0.6, 1.3), rng.uniform(0.9, 2.0), rng.uniform(0.2, 0.6)
    wheel = rng.uniform(0.14, 0.32)
    floor = wheel * rng.uniform(0.7, 1.2)
    side = rounded(height, length, rng.choice([4.0, 8.0, 20.0]))
    pieces = Pieces()
    pieces.add("body", plate(side, width, 0, (0, floor + height / 2, 0)))
    tread = wheel * rng.uniform(0.25, 0.3)
    for z in (
        (-0.3 * length, 0.3 * length)
        if rng.random() < 0.75
        else (-0.33 * length, 0.12 * length, 0.33 * length)
    ):
        for x in (-width / 2, width / 2):
            pieces.add("wheel", tube([(x - tread, wheel, z), (x + tread, wheel, z)], wheel, 18))
    if rng.random() < 0.85:
        tall, slant = rng.uniform(0.2, 0.75), rng.uniform(0.02, 0.25)
        # sedan, van, pickup: where the cabin begins and ends
        back, front = rng.choice([(-0.38, 0.22), (-0.48, 0.44), (-0.02, 0.36)])
        ends = np.array([[0, back], [0, front], [tall, front - slant * 0.6], [tall, back + slant * 0.4]])
        cabin = plate(ends * (1, length), width * rng.uniform(0.8, 0.98), 0, (0, floor + height - 0.01, 0))
        pieces.add("roof", cabin)
    return pieces


def _wing(root: float, tip: float, span: float, sweep: float) -> np.ndarray:
    """The outline (4, 2) of half a wing: span along the first axis, chord along the second, swept back."""
    return np.array([[0, root / 2], [span, tip / 2 - sweep], [span, -tip / 2 - sweep], [0, -root / 2]])


def airplane(rng: np.random.Generator) -> Pieces:
    """A body along z, wings (straight, swept, delta, or two decks), a tail, and engines on most."""
    length, radius = rng.uniform(1.0, 2.2), rng.uniform(0.07, 0.2)
    level = radius * 3
    zs = np.array([-0.5, -0.4, -0.2, 0.1, 0.35, 0.45, 0.5]) * length
    fullness = np.array([0.15, 0.45, 0.85, 1.0, 1.0, 0.7, 0.2])
    pieces = Pieces()
    pieces.add("body", tube([(0, level, z) for z in zs], radius * fullness, 16))

    span, root = rng.uniform(0.35, 1.2), rng.uniform(0.2, 0.55)
    tip, sweep, thick = root * rng.uniform(0.2, 0.9), rng.uniform(-0.05, 0.5), rng.uniform(0.02, 0.05)
    seat, low = rng.uniform(-0.05, 0.2) * length, level + rng.uniform(-0.7, 0.8) * radius
    short, fin = span * rng.uniform(0.3, 0.45), rng.uniform(0.2, 0.6)
    decks = [low]
    if rng.random() < 0.2:
        decks = [level - 0.8 * radius, level + 0.8 * radius + rng.uniform(0.15, 0.35)]
    for side in (-1, 1):
        outline = _wing(root, tip, span, sweep) * (side, 1)
        pieces.add("wing", *[plate(outline, thick, 1, (0, y, seat)) for y in decks])
        if len(decks) == 2:
            x, z = side * 0.6 * span, seat - 0.6 * sweep
            pieces.add("wing", tube([(x, decks[0], z), (x, decks[1], z)], thick / 2, 6))
        outline = _wing(root * 0.6, tip * 0.6, short, sweep * 0.4) * (side, 1)
        pieces.add("tail", plate(outline, thick * 0.8, 1, (0, level + radius * 0.4, -0.42 * length)))
    outline = _wing(root * 0.7, tip * 0.6, fin, fin * 0.4)
    pieces.add("tail", plate(outline, thick * 0.8, 0, (0, level + radius * 0.3, -0.4 * length)))
    if rng.random() < 0.7:
        bulk, long = radius * rng.uniform(0.35, 0.6), rng.uniform(0.15, 0.3)
        for share in (0.4,) if rng.random() < 0.6 else (0.3, 0.6):
            z, y = seat - share * sweep + 0.1, decks[0] - bulk
            for x in (-share * span, share * span):
                pieces.add("engine", tube([(x, y, z - long), (x, y, z + long / 2)], bulk, 12))
    return pieces


def rocket(rng: np.random.Generator) -> Pieces:
    """An upright body, a nose (cone or ogive), three to five fins, and boosters on some."""
    radius, height = rng.uniform(0.12, 0.38), rng.uniform(0.5, 1.4)
    tall, power = radius * rng.uniform(1.0, 3.0), rng.choice([1.0, 0.6])
    waist = rng.uniform(0.75, 1.1)
    pieces = Pieces()
    levels = np.linspace(0, 1, 6)
    belly = radius * (waist + (1 - waist) * np.sin(levels * np.pi / 2))
    rim = [(float(r), float(height * t)) for r, t in zip(belly, levels, strict=True)]
    pieces.add("body", lathe([(0, 0), *rim, (0, height)]))
    tip = [(float(radius * (1 - t) ** power), float(tall * t)) for t in levels]
    pieces.add("nose", lathe([(0, 0), *tip], (0, height, 0)))

    count, span, root = int(rng.integers(3, 6)), rng.uniform(0.15, 0.6), rng.uniform(0.2, 0.5) * height
    outline = _wing(root, root * rng.uniform(0.2, 0.8), span, rng.uniform(0.0, 0.6) * root)
    phase, thick, rise = rng.uniform(0, 2 * np.pi), 0.02 + 0.03 * radius, root * rng.uniform(0.45, 0.55)
    for x, z in around(count, 1.0, phase):
        pieces.add("fin", turned(plate(outline, thick, 2, (radius * 0.8, rise, 0)), x, z))
    if rng.random() < 0.4:
        slim, high = radius * rng.uniform(0.35, 0.55), height * rng.uniform(0.4, 0.75)
        cone = [(0.0, 0.0), (slim, 0.0), (slim, high), (0.0, high + 2.5 * slim)]
        places = around(count, radius + slim, phase + np.pi / count)
        pieces.add("booster", *[lathe(cone, (x, 0, z), 12) for x, z in places])
    return pieces
