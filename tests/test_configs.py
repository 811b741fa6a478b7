"""Every experiment in configs/ says what it is, loads, builds its model and runs one batch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import bixt3d
from bixt3d.presets import labels_parts

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
HEADER_FIELDS = ("command", "hardware", "minutes", "expected")


def header_faults(text: str, name: str) -> list[str]:
    """What is missing from the comment that opens a config: one `# Field: value` line for each field."""
    header: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if match := re.match(r"#\s*(\w+):\s*(\S.*)", line):
            header[match[1].lower()] = match[2]
    faults = [f"no line '# {field.capitalize()}: ...'" for field in HEADER_FIELDS if field not in header]
    command = rf"python tools/\w+\.py .*--cfg {re.escape(name)}\b"
    if "command" in header and not re.search(command, header["command"]):
        faults.append(f"the command does not run a tool with --cfg {name}")
    if "minutes" in header and not re.search(r"\d", header["minutes"]):
        faults.append("minutes is no number")
    if "expected" in header and not re.search(r"\d", header["expected"]):
        faults.append("expected names no score")
    return faults


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_says_what_to_expect(path: Path) -> None:
    assert header_faults(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_its_model_and_runs_a_batch(path: Path) -> None:
    config = bixt3d.load_config(path)
    points = torch.rand(2, config.data.num_points, 6) * 2 - 1  # (B, N, C)
    if labels_parts(config.model.name):
        args = {"num_parts": 50, "in_dims": 6, **config.model.args}
        inputs, shape = (points, torch.tensor([0, 15])), (2, config.data.num_points, 50)
    else:
        args = {"num_classes": 40, **config.model.args}
        inputs, shape = (points[..., : args.get("in_dims", 3)],), (2, 40)
    model = bixt3d.create_model(config.model.name, **args).eval()
    with torch.inference_mode():
        logits = model(*inputs)
    assert logits.shape == shape
    assert logits.isfinite().all()


GOOD = """# Trains a classifier.
# Command: python tools/train_cls.py --cfg configs/a.yaml
# Hardware: 2 CPU cores
# Minutes: 3
# Expected: test OA 90 %
model: {}
"""


def test_complete_header_passes() -> None:
    assert header_faults(GOOD, "configs/a.yaml") == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# Minutes: 3\n", "", "no line '# Minutes: ...'"),
        ("# Hardware: 2 CPU cores", "# Hardware:", "no line '# Hardware: ...'"),
        ("# Expected: test OA 90 %\nmodel: {}", "model: {}\n# Expected: 90 %", "no line '# Expected: ...'"),
        ("configs/a.yaml", "configs/b.yaml", "the command does not run a tool with --cfg configs/a.yaml"),
        ("Minutes: 3", "Minutes: a few", "minutes is no number"),
        ("OA 90 %", "OA high", "expected names no score"),
    ],
)
def test_faulty_header_is_found(old: str, new: str, fault: str) -> None:
    assert header_faults(GOOD.replace(old, new), "configs/a.yaml") == [fault]
