"""The page that gpu.sh and gpu_modelnet40.sh end with: what ran, on what, and all tables, for one issue.

python -m benchmarks.page results/gpu
python -m benchmarks.page --runs results/gpu/modelnet40_naive_1 results/gpu/modelnet40_grouping_1
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import environment_line, markdown_table
from bixt3d.ops.autotune import TUNER
from bixt3d.training.device import pick_device

MOST = 60_000  # letters: an issue takes 65,536
LAST = 15  # lines of the log of a step that failed
NAMED = re.compile(r"^(?:ok|failed) +\d+ s  (\w+)", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="that of gpu.sh, or those of runs")
    parser.add_argument("--runs", action="store_true")
    parser.add_argument("--device", help="cuda where there is one, by default")
    args = parser.parse_args()
    device = pick_device(args.device)
    text = runs_page(args.folders, device) if args.runs else steps_page(args.folders[0], device)
    print(text.replace(str(Path.home()), "~"))


def head(device: torch.device) -> list[str]:
    """Return the title, and what the machine is."""
    if device.type != "cuda":
        return ["# bixt3d without a GPU: a trial", environment_line(device)]
    gpu = torch.cuda.get_device_properties(device)
    facts = f"{gpu.total_memory / 2**30:.0f} GiB, {gpu.multi_processor_count} multiprocessors"
    facts += f", CUDA {torch.version.cuda}"
    return [f"# bixt3d on {gpu.name}", f"{environment_line(device)} {TUNER.machine(device)}; {facts}."]


def steps_page(folder: Path, device: torch.device) -> str:
    """Return the page of gpu.sh: the steps, the end of the log of those that failed, and every table."""
    summary = (folder / "summary.txt").read_text()
    parts = [*head(device), f"```text\n{summary.strip()}\n```"]
    for line in summary.splitlines():
        found = NAMED.match(line)
        log = folder / f"{found[1]}.log" if found else None
        if log is not None and line.startswith("failed") and log.is_file():
            ending = log.read_text(errors="replace").splitlines()[-LAST:]
            parts += [f"## The end of {log.name}", "```text\n" + "\n".join(ending) + "\n```"]
    for name in NAMED.findall(summary):
        table = folder / f"{name}.md"
        if table.is_file():
            parts.append(re.sub("^# ", f"## {name}: ", table.read_text().strip(), flags=re.MULTILINE))
    if device.type == "cuda":
        parts += choices(device)
    return shortened(parts)


def choices(device: torch.device) -> list[str]:
    """Return what the automatic choice took on this machine, of all that it was asked."""
    TUNER.load()
    found = TUNER.known.get(TUNER.machine(device), {})
    if not found:
        return []
    rows = [
        [key, one["backend"], *(f"{one['ms'][name]:.3g}" for name in ("torch", "triton"))]
        for key, one in sorted(found.items())
    ]
    return ["## What backend=auto took", markdown_table(["operation", "took", "torch ms", "triton ms"], rows)]


def runs_page(folders: Sequence[Path], device: torch.device) -> str:
    """Return the page of gpu_modelnet40.sh: a row for each run, finished or not."""
    rows = []
    for folder in folders:
        result, epochs = _json(folder / "result.json"), _rows(folder / "metrics.jsonl")
        newest = epochs[-1] if epochs else {}
        scored = result.get("last") if isinstance(result.get("last"), dict) else newest
        shares = [
            f"{name} {value:.1%}"
            for name, value in scored.items()
            if name.rpartition("_")[2] in ("oa", "macc")
        ]
        shares += [f"{name} {value:.1%}" for name, value in scored.items() if "miou" in name]
        speeds = [row["clouds_per_second"] for row in epochs if "clouds_per_second" in row]
        rows.append(
            [
                folder.name,
                "finished" if result else f"epoch {newest.get('epoch', 0)}",
                ", ".join(shares) or "-",
                f"{result['minutes']:.1f}" if "minutes" in result else "-",
                f"{sorted(speeds)[len(speeds) // 2]:.0f}" if speeds else "-",
                _json(folder / "environment.json").get("gpu") or "-",
            ]
        )
    names = ["run", "state", "newest scores", "minutes", "clouds/s", "GPU"]
    return shortened([*head(device), markdown_table(names, rows)])


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def shortened(parts: Sequence[str]) -> str:
    """Return the parts below one another, without the last ones where an issue would not take them."""
    kept, size = [], 0
    for part in parts:
        size += len(part) + 2
        if size > MOST:
            kept.append("The rest is too long for an issue: please attach the folder.")
            break
        kept.append(part)
    return "\n\n".join(kept)


if __name__ == "__main__":
    main()
