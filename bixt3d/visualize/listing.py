"""Predictions as text: a table to read, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bixt3d.tasks.results import Prediction
from bixt3d.visualize.scene import LabelledCloud

Row = dict[str, Any]
FORMATS = ("table", "json", "csv")


def class_row(file: str, seen: Any, classes: Sequence[str] | None, top: int) -> Row:
    """Return what is listed of a classified file: its ``top`` most probable classes, best first.

    Of what another task answers, it is the answer.
    """
    if isinstance(seen, np.generic):
        seen = seen.item()
    if not isinstance(seen, Prediction):
        return {"file": file, "answer": seen if isinstance(seen, (bool, int, float, str)) else str(seen)}
    order = np.argsort(-seen.probabilities, kind="stable")[:top]
    ranked = [
        {"class": classes[i] if classes else str(i), "probability": round(float(seen.probabilities[i]), 6)}
        for i in order.tolist()
    ]
    return {"file": file, "class": seen.label, "classes": ranked}


def part_row(file: str, cloud: LabelledCloud) -> Row:
    """Return what is listed of a file with predicted parts: points and mean confidence, most points first.

    Of a task without such, it is the verdict.
    """
    about = {"file": file, "category": cloud.category or None, "points": len(cloud.points)}
    if cloud.prediction is None:
        return {**about, "answer": cloud.verdict}
    parts, counts = np.unique(cloud.prediction, return_counts=True)
    listed = []
    for place in np.argsort(-counts, kind="stable").tolist():
        part = int(parts[place])
        entry: Row = {"part": part, "name": cloud.names[part], "points": int(counts[place])}
        if cloud.confidence is not None:
            entry["confidence"] = round(float(cloud.confidence[cloud.prediction == part].mean()), 6)
        listed.append(entry)
    return {**about, "parts": listed}


def listing(rows: Sequence[Row], form: str) -> str:
    """Return rows as text.

    Args:
        rows: Those of `class_row` and `part_row`, and ``{"file": ..., "error": ...}`` for what failed.
        form: ``"table"`` has a line a file and leaves failures out; ``"json"`` has all; ``"csv"`` has a line
            a file: its classes and their probabilities, best first, or the points of each part.

    Raises:
        ValueError: For another form.
    """
    if form == "json":
        return json.dumps(rows, indent=2)
    good = [row for row in rows if "error" not in row]
    if form == "table":
        names = [_one_line(row["file"]) for row in good]
        width = max(map(len, names), default=0)
        return "\n".join(f"{name:{width}}  {_shares(row)}" for name, row in zip(names, good, strict=True))
    if form != "csv":
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {form!r}")
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row if name != "error"))
    names += ["error"] if any("error" in row for row in flat) else []
    text = io.StringIO()
    writer = csv.DictWriter(text, names or ["file"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().rstrip("\n")


def _flat(row: Row) -> Row:
    """Return a row in plain cells: class_2 is the second best, and a part's column counts its points."""
    flat = {name: value for name, value in row.items() if name not in ("classes", "parts", "class")}
    for place, entry in enumerate(row.get("classes", ()), start=1):
        ending = "" if place == 1 else f"_{place}"
        flat |= {f"class{ending}": entry["class"], f"probability{ending}": entry["probability"]}
    for entry in row.get("parts", ()):  # two categories may each have a part of that name
        column = f"{entry['name']}_points"
        flat[column] = flat.get(column, 0) + entry["points"]
    return flat


def _one_line(name: str) -> str:
    """Return a file's name with escapes for line breaks, control characters, and bytes that are no text."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def _shares(row: Row) -> str:
    if "answer" in row:
        return str(row["answer"])
    if "classes" in row:
        found = [f"{entry['class']} {100 * entry['probability']:.1f}%" for entry in row["classes"]]
    else:
        found = [f"{row['points']} points"]
        found += [f"{entry['name']} {100 * entry['points'] / row['points']:.1f}%" for entry in row["parts"]]
    return "  ".join(found + ([f"up {row['up']}"] if "up" in row else []))
