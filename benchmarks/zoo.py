"""Write the pages of shipped weights, docs/weights.md and their table in README, from what is known of them.

    bixt3d benchmark --models modelnet40_cpu psb_cpu --points 512 --mode inference --dtype float32 \
        --threads 2 --out results/weights_cpu.json
    python -m benchmarks.corruption modelnet40_cpu --suite modelnet-c --out results/modelnet-c
    python -m benchmarks.zoo

Scores and cards are those of bixt3d/weights.json, which `benchmarks.ship` writes, as it does these pages;
speeds are those of results/weights_cpu.json, mCE that of any results/*/suite.json. A speed of another network
and an mCE of another file are left out: weights that were replaced show none until they are measured again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import Spec, count_macs
from benchmarks.report import significant
from benchmarks.table import markdown_table
from bixt3d.tasks import metric_titles
from bixt3d.training.files import write_text
from bixt3d.training.weights import read_list

ROOT = Path(__file__).resolve().parents[1]
SPEED = "results/weights_cpu.json"
SUITES = "results/*/suite.json"
SHOWN = (
    "oa",
    "macc",
    "class_miou_pointnet2",
    "class_miou_pointmlp",
    "miou",
)  # of the scores, where it has them
BEGIN, END = "<!-- weights: by python -m benchmarks.zoo -->\n", "<!-- end -->\n"
CPU = torch.device("cpu")
Listed = Mapping[str, Mapping[str, Any]]

PAGE = """# Weights

A name takes the place of a checkpoint's path everywhere. The files travel with the package, in half
precision, each checked against its checksum when it is read.

{table}
Points: how many of a cloud the network sees. Score: of the very file on the test split, which chose nothing,
no voting; `bixt3d evaluate NAME --set data.root=FOLDER` measures it again. mCE: mean corruption error under
ModelNet-C, where DGCNN has 1{mce}. GMAC: multiply-accumulates of a cloud in matrix products. Clouds/s:
inference in float32, batches of {batch}, the network alone, {speed}.

The cards in `weights/README.md` say data, protocol, command, commit, hardware and checksum. All weights have
{megabytes:.1f} MB together. This page is written by `python -m benchmarks.zoo`.

```python
import bixt3d

print(bixt3d.list_weights())
model = bixt3d.load_model("{first}")
print(sum(p.numel() for p in model.parameters()))
```
"""


def main() -> None:
    write()
    print(f"written: {ROOT / 'docs/weights.md'} and the table of weights in {ROOT / 'README.md'}")


def write() -> None:
    """Write docs/weights.md, and the table in README."""
    write_text(ROOT / "docs/weights.md", page(read_list(), ROOT))
    readme = ROOT / "README.md"
    write_text(readme, replaced(readme.read_text(), summary(read_list())))


def page(listed: Listed, root: Path) -> str:
    """Return the page of all weights; ``root``: the checkout that holds results/."""
    speeds = read_speeds(root)
    suites = [json.loads(path.read_text()) for path in sorted(root.glob(SUITES))]
    told = [suite for suite in suites if any(error_of(entry, [suite]) for entry in listed.values())]
    about, batch = speeds["environment"], speeds["settings"]["batch"]
    head = [
        "name",
        "what it is for",
        "points",
        "score, %",
        "mCE",
        "parameters",
        "GMAC",
        "clouds/s",
        "config",
        "log",
    ]
    rows = []
    for name, entry in listed.items():
        card, points = entry["card"], entry["card"]["preprocess"]["num_points"]
        rows.append(
            [
                f"`{name}`",
                card["purpose"],
                points,
                score(entry),
                error_of(entry, suites),
                f"{card['parameters']:,}",
                significant(count_macs(Spec.parse(name), points, CPU), 1e-9),
                speed_of(name, points, speeds),
                f"`{config_of(card['command'])}`",
                f"`{card['log']}`",
            ]
        )
    return PAGE.format(
        table=markdown_table(head, rows) + "\n",
        mce="".join(f", on {suite['shapes']} test shapes by `{suite['command']}`" for suite in told),
        batch=batch,
        speed=f"on {speeds['settings']['threads']} threads of {about['processor']}, by\n`{about['command']}`",
        megabytes=total_bytes(listed) / 1e6,
        first=next(iter(listed)),
    )


def summary(listed: Listed) -> str:
    """Return README's table of the weights."""
    rows = [
        [f"`{name}`", entry["card"]["purpose"], f"{score(entry)} %", f"{entry['card']['parameters']:,}"]
        for name, entry in listed.items()
    ]
    return markdown_table(["weights", "what they are for", "score of the file", "parameters"], rows) + "\n"


def replaced(text: str, table: str) -> str:
    """Return a text with another table between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: expected the marks {BEGIN.strip()} and {END.strip()}, got none")
    return f"{before}{begin}\n{table}\n{end}{after}"


def score(entry: Mapping[str, Any]) -> str:
    """Return the scores of a file that tell most, in per cent."""
    titles, found = metric_titles(), entry["score"]
    chosen = [name for name in SHOWN if name in found] or list(found)
    return ", ".join(f"{titles.get(name, name)} {100 * found[name]:.2f}" for name in chosen)


def total_bytes(listed: Listed) -> int:
    """Return what the files of the listed weights have together."""
    return sum(entry["bytes"] for entry in listed.values())


def config_of(command: str) -> str:
    """Return the file of settings that a training's command names; "" where it names none."""
    found = re.search(r"(?:--cfg[ =]|\bbixt3d train )([^\s-]\S*)", command)
    name = found[1] if found else ""
    if name.endswith((".yaml", ".yml")):
        return name
    return f"configs/{name}.yaml" if name and "/" not in name else ""


def read_speeds(root: Path) -> dict[str, Any]:
    """Return what `bixt3d benchmark` has measured of the weights."""
    found: dict[str, Any] = json.loads((root / SPEED).read_text())
    return found


def speed_of(name: str, points: int, speeds: Mapping[str, Any]) -> str:
    """Return the clouds a second of the very network at its own number of points; "" where none is known."""
    spec = Spec.parse(name)
    wanted = (name, spec.name, json.loads(json.dumps(spec.args)), points)
    for row in speeds["rows"]:
        if (row["model"], row["name"], row["args"], row["num_points"]) == wanted:
            return significant(row["clouds_per_second"])
    return ""


def error_of(entry: Mapping[str, Any], suites: list[dict[str, Any]]) -> str:
    """Return the mCE of the very file; "" where none is known."""
    return next((f"{error:.3f}" for error in errors(entry, suites)), "")


def errors(entry: Mapping[str, Any], suites: list[dict[str, Any]]) -> Iterator[float]:
    for suite in suites:
        for model in suite["models"]:
            if suite["suite"] == "modelnet-c" and model["sha256"] == entry["sha256"]:
                yield model["error"]


if __name__ == "__main__":
    main()
