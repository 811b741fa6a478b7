"""What measurements look like: on a terminal, in markdown, as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import environment_line, markdown_table
from bixt3d.training.files import write_text
from bixt3d.training.log import environment

WIDTH = 80
NAME = 22  # columns of a model's name on a terminal
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """Where results go: JSON and markdown files, or nowhere, with the command that was typed."""

    command: str
    out: Path | None = None
    markdown: Path | None = None


ABOUT = (
    "ms: median of a batch, and the middle half of the repeats. MB: the most that memory grew by, from "
    "before the model was built. GMAC: multiply-accumulates of one cloud's forward pass in matrix products, "
    "attention with its plain matrix; sampling, neighbours and gathering do not count. Share: operations, "
    "two for a multiply-accumulate, in training three times those of the forward pass, over those that a "
    "large square matrix product of the same type would have done in the same time, at the rate that it had "
    "just before and after each batch. Rows are measured one after another, while the machine's rate moves: "
    "shares differ by some hundredths for no reason, and the speed of one model over another is measured by "
    "--compare."
)


def device_name(device: torch.device) -> str:
    """Name what is measured on."""
    found = environment(device)
    return found["gpu"] or f"{found['processor']}, {_threads(found['threads'])}"


def heading(mode: str, dtype: str, batch: int) -> str:
    """Return the lines above the rows of one mode and dtype."""
    title = f"{mode}, {dtype}, {_batches(batch)}"
    return f"{title}\n{_columns('model', 'points', 'clouds/s', 'ms', '±%', 'MB', 'GMAC', 'share')}"


def line(row: Row) -> str:
    """Return one row for the terminal, with what is missing in it."""
    # A name with settings is too long for its column and has a line of its own.
    fits = len(row["model"]) <= NAME
    name = row["model"] if fits else ""
    lines = [] if fits else [_wrapped(row["model"])]
    if row["ms"] is None:
        lines.append(_wrapped(f"{name:{NAME}} {row['num_points']:7}  did not run: {row['note']}"))
        return "\n".join(lines)
    ms, (low, high), numbers = row["ms"], row["spread"], _numbers(row)
    cells = [numbers["clouds/s"], significant(ms), f"{50 * (high - low) / ms:.1f}"]
    cells += [numbers["MB"], numbers["GMAC"], numbers["share"]]
    lines.append(_columns(name, row["num_points"], *cells))
    if row["note"]:
        lines.append(_wrapped(f"    {row['note']}"))
    return "\n".join(lines)


def write(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    rates: Mapping[str, Sequence[float]],
    device: torch.device,
    target: Target,
) -> None:
    """Write rows as JSON and as a markdown table, where they are asked for.

    Args:
        rows: The rows.
        settings: What they were measured with.
        rates: For each dtype the matrix product's FLOP/s before all rows, and after all once that is known.
        device: What was measured on.
        target: Where they go.
    """
    if target.out:
        content = {
            "environment": {**environment(device), "command": target.command},
            "settings": dict(settings),
            "matmul_flops": {dtype: list(values) for dtype, values in rates.items()},
            "rows": labelled(rows),
        }
        _write(target.out, json.dumps(content, indent=2) + "\n")
    if target.markdown:
        head = ["model", "points", "batch", "mode", "type"]
        head += ["clouds/s", "ms", "MB", "parameters", "GMAC", "share"]
        noted = any(row["note"] for row in rows)
        cells = [_markdown_cells(row) + ([row["note"] or ""] if noted else []) for row in rows]
        products = "; ".join(
            f"{dtype} {' and '.join(significant(rate, 1e-9) for rate in values)}"
            for dtype, values in rates.items()
        )
        table = markdown_table(head + (["note"] if noted else []), cells)
        about = textwrap.fill(ABOUT, 110)
        _write(
            target.markdown,
            f"# Speed\n\n{table}\n\n{about}\n\nGFLOP/s of a matrix product before the models "
            f"and after: {products}.\n\n`{target.command}`\n\n"
            f"{environment_line(device)}\n",
        )


def pair_heading(pair: Sequence[str], batch: int) -> str:
    """Return the lines above a comparison."""
    names = [_wrapped(f"{letter}: {name}") for letter, name in zip("AB", pair, strict=True)]
    columns = _pair_columns("", "points", "A ms", "B ms", "A / B", "middle half")
    return "\n".join([*names, f"in turn, {_batches(batch)}", columns])


def pair_line(row: Row) -> str:
    """Return the line of one comparison."""
    what = f"{row['mode']}, {row['dtype']}"
    if "ratio" not in row:
        return _wrapped(f"{what:{NAME}} {row['num_points']:>7}  did not run: {row['note']}")
    return _pair_columns(what, row["num_points"], *_pair_cells(row))


def write_pairs(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    device: torch.device,
    target: Target,
) -> None:
    """Write comparisons as JSON and as a markdown table, where they are asked for."""
    if target.out:
        content = {
            "environment": {**environment(device), "command": target.command},
            "settings": dict(settings),
            "comparisons": list(rows),
        }
        _write(target.out, json.dumps(content, indent=2) + "\n")
    if target.markdown:
        head = ["points", "batch", "mode", "type", "A ms", "B ms", "A / B", "its middle half"]
        cells = [
            [
                *(str(row[key]) for key in ("num_points", "batch", "mode", "dtype")),
                *(_pair_cells(row) if "ratio" in row else ["-", "-", "-", row["note"]]),
            ]
            for row in rows
        ]
        names = "\n".join(f"- {x}: `{rows[0][key]}`" for x, key in (("A", "first"), ("B", "second")))
        about = "Medians of runs in turn in one process; the ratio is the median of those of the pairs."
        _write(
            target.markdown,
            f"# Comparison\n\n{names}\n\n{markdown_table(head, cells)}\n\n{about}\n\n`{target.command}`\n\n"
            f"{environment_line(device)}\n",
        )


def labelled(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows with names that tell them apart where a file has several modes or types."""
    varying = [key for key in ("mode", "dtype") if len({row[key] for row in rows}) > 1]
    return [{**row, "model": " ".join([row["model"], *(f"({row[key]})" for key in varying)])} for row in rows]


def _numbers(row: Row) -> dict[str, str]:
    return {
        "clouds/s": significant(row["clouds_per_second"]),
        "MB": significant(row["peak_memory_bytes"], 1e-6),
        "GMAC": significant(row["macs"], 1e-9),
        "share": "-" if row["fraction"] is None else f"{row['fraction']:.2f}",
    }


def significant(value: float | None, factor: float = 1.0) -> str:
    """Return a number with three significant digits and all digits before the point; "-" for None."""
    if value is None:
        return "-"
    scaled = factor * value
    if not scaled:
        return "0"
    return f"{scaled:.{max(0, 2 - math.floor(math.log10(abs(scaled))))}f}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _markdown_cells(row: Row) -> list[str]:
    numbers = _numbers(row)
    ms = "-"
    if row["ms"] is not None:
        low, high = row["spread"]
        ms = f"{significant(row['ms'])} ({significant(low)} to {significant(high)})"
    return [
        *(str(row[key]) for key in ("model", "num_points", "batch", "mode", "dtype")),
        numbers["clouds/s"],
        ms,
        numbers["MB"],
        "-" if row["parameters"] is None else f"{row['parameters']:,}",
        numbers["GMAC"],
        numbers["share"],
    ]


def _columns(name: str, points: object, *cells: str) -> str:
    widths = (9, 9, 5, 7, 7, 6)
    numbers = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{name:{NAME}} {points:>7} {numbers}"


def _pair_cells(row: Row) -> list[str]:
    low, high = row["spread"]
    times = [significant(row["first_ms"]), significant(row["second_ms"])]
    return [*times, f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}"]


def _pair_columns(what: str, points: object, *cells: str) -> str:
    widths = (9, 9, 7, 16)
    numbers = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{what:{NAME}} {points:>7} {numbers}".rstrip()


def _batches(count: int) -> str:
    return f"batches of {count} cloud{'s' if count > 1 else ''}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
