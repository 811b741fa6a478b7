"""Every experiment in configs/ says what it is, loads, builds its model and runs one batch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

import bixt3d
from bixt3d.datasets import Split
from bixt3d.datasets.loader import CloudLoader
from bixt3d.training.pretrained import start_from
from bixt3d.training.splits import build_task

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PAPER = [path for path in CONFIGS if path.stem.startswith("paper_")]
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
    task = build_task(config)  # settings and task suit each other
    in_dims = 3 if config.data.features == () or not task.per_point else 6
    split = Split(
        torch.rand(2, config.data.num_points, in_dims).mul(2).sub(1),
        torch.arange(2),
        tuple(map(str, range(40))),
        *(
            (torch.zeros(2, config.data.num_points, dtype=torch.int64), torch.tensor([0, 15]))
            if task.per_point
            else ()
        ),
        **(
            {"categories": tuple(map(str, range(16))), "parts_of_category": ((0, 49),) * 16}
            if task.per_point
            else {}
        ),
        features=() if in_dims == 3 else ("direction:3",),
    )
    args = {"in_dims": in_dims, **task.model_args(split), **config.model.args}
    model = bixt3d.create_model(config.model.name, **args).eval()
    task.set_facts(task.facts(split))
    task.bind_model(model)
    batch = next(iter(CloudLoader(split, 2)))
    with torch.inference_mode():
        logits = task.forward(model, batch)
        assert task.loss(logits, batch).isfinite()
    assert logits.shape == ((2, config.data.num_points, 50) if task.per_point else (2, 40))
    assert logits.isfinite().all()


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_configs_state_pointmlps_recipe(path: Path) -> None:
    """Every setting of the recipe is stated: a default that changes changes no figure of the paper's."""
    config, stated = bixt3d.load_config(path), yaml.safe_load(path.read_text())
    optim, train = config.optim, config.train
    if build_task(config).per_point:
        assert (optim.name, optim.lr, optim.min_lr, optim.weight_decay) == ("adam", 3e-3, 0.9e-5, 0)
        assert (optim.schedule, optim.step_epochs, optim.step_factor) == ("step", 40, 0.5)
        assert (optim.label_smoothing, optim.clip_norm) == (0, 0)
        assert (train.epochs, config.data.num_points, config.data.features) == (350, 2048, ("normal",))
        assert (config.augment.scale_low, config.augment.scale_high, config.augment.shift) == (1, 1, 0)
    else:
        assert (optim.name, optim.lr, optim.min_lr, optim.weight_decay) == ("sgd", 0.1, 0.005, 2e-4)
        assert (optim.schedule, optim.momentum, optim.label_smoothing, optim.clip_norm) == (
            "cosine",
            0.9,
            0.2,
            1,
        )
        assert (train.epochs, config.data.num_points, config.data.features) == (300, 1024, ())
        assert config.model.args.get("pool", "latents") == "latents"
        assert (config.augment.scale_low, config.augment.scale_high) == pytest.approx((2 / 3, 1.5), abs=1e-6)
    assert (optim.schedule_unit, optim.warmup_epochs, optim.decay_all) == ("epoch", 0, True)
    assert (train.batch_size, train.ema_decay, train.amp, train.seed) == (32, 0, False, 42)
    assert config.data.train_split == "trainval"
    recipe = {
        "optim": {
            "name",
            "lr",
            "min_lr",
            "weight_decay",
            "decay_all",
            "warmup_epochs",
            "schedule",
            "schedule_unit",
            "clip_norm",
            "label_smoothing",
        },
        "train": {"epochs", "batch_size", "ema_decay", "amp", "seed"},
    }
    for section, names in recipe.items():
        assert names <= set(stated[section])


def test_every_row_of_the_paper_has_a_config() -> None:
    rows = {"naive", "grouping", "hierarchy", "perceiver", "sequential", "partseg", "partseg_encdec"}
    assert {path.stem.removeprefix("paper_") for path in PAPER} == rows


def test_weights_that_a_config_names_fit_its_model() -> None:
    """Also those that a comment tells to start from."""
    stated = [
        (path, name)
        for path in CONFIGS
        for name in re.findall(r"init_from(?:=|: *)(\w+)", path.read_text(encoding="utf-8"))
        if name != "null"
    ]
    assert stated
    for path, name in stated:
        model = bixt3d.load_config(path).model
        line = start_from(bixt3d.create_model(model.name, **model.args, num_classes=3), name)
        assert line.endswith("new: head.linear.bias, head.linear.weight"), (path, name)


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
