"""Ship a finished run: its last epoch in half precision, a stored slice of predictions, and a model card.

    python -m benchmarks.ship runs/modelnet40_cpu --name modelnet40_cpu --log results/modelnet40_cpu \
        --purpose "What it is for." --data "What they are; their licence."
    python -m benchmarks.ship runs/modelnet40_cpu --name modelnet40_cpu --replace   # with the words it has

Of float16 and bfloat16 the one is kept that changes the outputs less, on shapes of the training split. The
file that is kept is evaluated on the test split once, as tools/evaluate.py does it, in float32 arithmetic,
as `Predictor` computes and every machine can, and that chooses nothing.
Into weights/ go NAME.safetensors, NAME.predictions.npz and the cards (README.md), bixt3d/weights.json
lists them, and `benchmarks.zoo` writes its pages; with another folder (--out), the first four go there.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import zoo
from benchmarks.table import environment_line
from benchmarks.zoo import config_of, total_bytes
from bixt3d.commands.endings import one_line_errors
from bixt3d.config import Config, config_from, load_config
from bixt3d.datasets.loader import CloudLoader
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.metrics import mask_logits
from bixt3d.tasks import Task, metric_titles
from bixt3d.training.checkpoint import SUFFIX, load_checkpoint, save_model
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.files import write_atomically, write_text
from bixt3d.training.splits import build_task, open_splits
from bixt3d.training.weights import FOLDER, LIST, checksum

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
MOST_BYTES = 16_000_000  # of all files together: they are inside the package
WORDS = {
    "purpose": "what it is for, a line for the tables of weights",
    "data": "what the data are, and their licence, for the card",
    "log": "folder of results/ with its log",
}
SHAPES = 64  # of the slice, spread over the split
POINTS = 128  # the first ones of each shape, where points are what is labelled
# Of a logit, on other processors and with other versions of torch: they round otherwise.
TOLERANCE = 1e-3

PAGE = """# Trained weights

Each model is one file, `NAME.safetensors`: weights in half precision, read as float32, and the description
that rebuilds the model. `bixt3d.load_model("NAME")`, `bixt3d.Predictor("NAME")` and every tool that takes a
checkpoint take the name, and compare the file with the checksum in `bixt3d/weights.json` first. The files are
inside the package. `NAME.predictions.npz` holds what the model says of some test shapes, which
`tests/test_weights.py` compares with what it says now, where the data are there.
`bixt3d evaluate NAME` measures a score again; `--set data.root=FOLDER` says where the data are.

This page and the list are written by `python -m benchmarks.ship`, from the run and its evaluation.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--name", required=True, help="name of the weights, such as that of the config")
    for key, what in WORDS.items():
        parser.add_argument(f"--{key}", help=f"{what}; what is replaced has one already")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the files (weights)")
    parser.add_argument("--replace", action="store_true", help="weights of that name that are listed")
    parser.add_argument("--root", help="data folder; that of the training by default")
    args = parser.parse_args()
    with one_line_errors():
        listing = list_of(args.out)
        before = (json.loads(listing.read_text()) if listing.exists() else {}).get(args.name)
        if before and not args.replace:
            raise ValueError(f"--name: {args.name} ships already, see {listing}; --replace takes this run")
        had = before["card"] if before else {}
        words = {key: getattr(args, key) or had.get(key) or "" for key in WORDS}
        entry = ship(args.run, args.name, words, args.out, args.root)
        print(f"{args.out / entry['file']}: {entry['bytes']:,} bytes, {entry['card']['half']['kept']}")


def ship(
    run: Path, name: str, words: Mapping[str, str], out: Path = FOLDER, root: str | None = None
) -> dict[str, Any]:
    """Write a run's weights, predictions, entry and card; return the entry. ``words`` are those of `WORDS`.

    Raises:
        ValueError: For a name or a text that is none, an unfinished run, or weights that are too large.
        FileNotFoundError: If the run or its data are missing.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"--name: expected small letters, digits and _, got {name!r}")
    for key, what in WORDS.items():
        if not words[key] or "|" in words[key] or "\n" in words[key]:  # it goes into a table
            raise ValueError(f"--{key}: expected {what}: one line without |, got {words[key]!r:.80}")
    if Path(words["log"]).is_absolute() or not (ROOT / words["log"]).is_dir():
        raise ValueError(f"--log: expected a folder of the checkout, such as results/x, got {words['log']!r}")
    told = {}
    for kind in ("result", "environment"):
        if not (run / f"{kind}.json").is_file():
            raise ValueError(f"{run}: expected a finished run, with {kind}.json; train it to its end first")
        told[kind] = json.loads((run / f"{kind}.json").read_text())
    model, meta = load_checkpoint(run / "last", CPU)
    root = root or meta["config"]["data"]["root"]
    config = config_from(meta["config"], [f"data.root={root}"])
    train = open_splits(config, CPU, (config.data.train_split,))[0][config.data.train_split]
    part, task = train.select(spread(train)), build_task(config)
    task.set_facts(task.facts(train))
    changes = {kind: change(model, part, task, dtype) for kind, dtype in HALVES.items()}
    kept = min(changes, key=lambda kind: changes[kind]["logits"])
    out.mkdir(parents=True, exist_ok=True)
    listing = list_of(out)
    listed = json.loads(listing.read_text()) if listing.exists() else {}
    with TemporaryDirectory() as place:  # an error leaves the folder as it was
        made = {what: Path(place) / f"{name}{what}" for what in (SUFFIX, ".predictions.npz")}
        command = training_command(told["environment"]["command"])
        about = portable(meta, command)
        save_model(made[SUFFIX], halved(model, HALVES[kept]), about)
        others = {key: entry for key, entry in listed.items() if key != name}
        if (size := made[SUFFIX].stat().st_size + total_bytes(others)) > MOST_BYTES:
            raise ValueError(f"{name}: expected at most {MOST_BYTES:,} bytes of all weights, got {size:,}")
        scored = evaluate_checkpoint(
            made[SUFFIX],
            "test",
            overrides=[f"data.root={root}", "train.amp=false"],
            device=CPU,
            out=Path(place) / "test",
        )
        model = load_checkpoint(made[SUFFIX], CPU)[0]
        test = scored.split
        shapes = spread(test)
        stored = predictions(model, test.select(shapes), scored.task)
        np.savez_compressed(made[".predictions.npz"], shapes=shapes.numpy(), of=len(test), **stored)
        files = [describe(path) for path in made.values()]
        for path in made.values():
            write_atomically(out / path.name, lambda target, path=path: shutil.copyfile(path, target))
    entry = {
        **files[0],
        "score": scored.seen.metrics,
        "predictions": files[1],
        "card": {
            "task": meta["task"],
            "model": meta["model"]["name"],
            "parameters": sum(value.numel() for value in model.parameters()),
            "outputs": test.num_parts if test.parts is not None else len(test.classes),
            "preprocess": meta["preprocess"],
            "dataset": meta["dataset"],
            "root": about["config"]["data"]["root"],
            **words,
            "splits": {config.data.train_split: len(train), "test": len(test)},
            "epochs": [meta["metrics"]["epoch"], config.train.epochs],
            "averaged": config.train.ema_decay > 0,
            "full": {key: value for key, value in told["result"]["last"].items() if key in metric_titles()},
            "half": {"kept": kept, "shapes": len(part), **changes},
            "command": command,
            "minutes": told["result"]["minutes"],
            "environment": {key: value for key, value in told["environment"].items() if key != "command"},
            "measured": environment_line(CPU),
        },
    }
    listed = dict(sorted({**listed, name: entry}.items()))
    write_text(listing, json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "README.md", page(listed))
    if listing == LIST:
        zoo.write()
    return entry


def list_of(out: Path) -> Path:
    """Return the list that goes with a folder of weights."""
    return LIST if out.resolve() == FOLDER else out / LIST.name


def describe(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": checksum(path)}


def halved(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model whose weights and statistics are of another type."""
    return copy.deepcopy(model).to(dtype)


def spread(split: Split) -> Tensor:
    """Return the indices of the slice's shapes, spread over a split."""
    return torch.linspace(0, len(split) - 1, min(SHAPES, len(split))).round().long()  # (K,)


def change(model: nn.Module, part: Split, task: Task, dtype: torch.dtype) -> dict[str, float]:
    """Say what storing a model in a type does to outputs: mean change of a logit, and labels that change."""
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(halved(model, dtype).state_dict())  # what no file holds stays exact
    exact, rounded = (answer(one, part, task)["logits"] for one in (model, loaded))
    moved = float((rounded - exact).abs()[exact.isfinite()].mean())  # other categories' parts have -inf
    labels = int((rounded.argmax(-1) != exact.argmax(-1)).sum())
    # float16 ends at 65,504, and what lies beyond is no number
    return {"logits": moved if math.isfinite(moved) else math.inf, "labels": labels}


@torch.no_grad()
def answer(model: nn.Module, part: Split, task: Task) -> dict[str, Tensor]:
    """Return what a model says of some shapes, and what tells these shapes from those of other data.

    Returns:
        ``logits`` and ``truth`` of each shape, (K, C) and (K,); with parts those of its first POINTS points
        among the parts of its category, (K, POINTS, P) and (K, POINTS); ``distance`` (K,), the mean distance
        of its points from the origin.
    """
    found: dict[str, list[Tensor]] = {"logits": [], "truth": [], "distance": []}
    for batch in CloudLoader(part, 16):
        logits, truth = task.forward(model, batch).float(), batch.label
        if batch.parts is not None and batch.category is not None:
            logits = mask_logits(logits, batch.category, part.parts_of_category)[:, :POINTS]
            truth = batch.parts[:, :POINTS]
        found["logits"].append(logits)
        found["truth"].append(truth)
        found["distance"].append(batch.points[..., :3].norm(dim=-1).mean(1))
    return {name: torch.cat(values) for name, values in found.items()}


def predictions(model: nn.Module, part: Split, task: Task) -> dict[str, np.ndarray[Any, Any]]:
    """Return the slice that is stored: of `answer` all but logits, ``labels``, the two ``highest`` logits."""
    found = answer(model, part, task)
    highest, ranked = found["logits"].topk(2)  # (..., 2)
    return {
        "truth": found["truth"].short().numpy(),
        "distance": found["distance"].numpy(),
        "labels": ranked[..., 0].short().numpy(),
        "highest": highest.numpy(),
    }


def training_command(command: str) -> str:
    """Return the command of a training without what is of one machine: its paths, and that it was resumed."""
    program, *rest = command.split()
    name = Path(program).name
    words = ["bixt3d"] if name in ("bixt3d", "__main__.py") else ["python", f"tools/{name}"]
    for word in rest:
        if not word.startswith(("data.root=", "run.dir=", "--resume")):
            key, equals, value = word.rpartition("=")
            if (path := Path(value)).is_absolute():
                value = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
            words.append(key + equals + value)
    return " ".join(words).removesuffix(" --set").replace(" --set --", " --")


def portable(meta: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return a description whose paths are those of the experiment's file, rather than of one machine."""
    meta = copy.deepcopy(dict(meta))
    file = ROOT / config_of(command)
    stated = load_config(file) if file.is_file() else Config()
    meta["config"]["data"]["root"] = stated.data.root
    meta["config"]["run"]["dir"] = stated.run.dir
    if source := meta["config"]["model"]["init_from"]:
        meta["config"]["model"]["init_from"] = Path(source).name
    meta.pop("format")
    return meta


def page(listed: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of model cards."""
    return "\n".join([PAGE, *(card(name, entry) for name, entry in listed.items())])


def card(name: str, entry: Mapping[str, Any]) -> str:
    """Return the card of one model, as markdown."""
    told, preprocess, ran = entry["card"], entry["card"]["preprocess"], entry["card"]["environment"]
    (split, count), (_, tests) = told["splits"].items()
    half, (epoch, epochs) = told["half"], told["epochs"]
    kinds = "parts" if "part" in told["task"] else "classes"
    where = ran["gpu"] or f"{ran['processor']}, {ran['threads']} thread{'s' if ran['threads'] > 1 else ''}"
    features = Preprocess.from_dict(preprocess).features
    sees = f"xyz and {', '.join(features)}" if features else "xyz"
    moved = "; ".join(
        f"{kind} changed a logit by {half[kind]['logits']:.1e} on average, and {half[kind]['labels']} labels"
        for kind in HALVES
    )
    averaged = ", moving average of the weights" if told["averaged"] else ""
    arithmetic = "computed in bfloat16 where autocast does" if ran.get("bfloat16") else "computed in float32"
    rows = {
        "for": told["purpose"],
        "what": f"{told['task'].replace('_', ' ')}: `{told['model']}`, {told['parameters']:,} parameters, "
        f"{told['outputs']} {kinds}",
        "takes": f"{preprocess['num_points']} points, {sees}, order `{preprocess['order']}`, of "
        f"{preprocess['stored_points']} stored",
        "file": f"`{entry['file']}`, {entry['bytes']:,} bytes, {half['kept']}",
        "sha256": f"`{entry['sha256']}`",
        "data": told["data"],
        "protocol": f"trained on `{split}` of `{told['dataset']}`, root `{told['root']}` ({count:,} shapes); "
        f"epoch {epoch} of {epochs}{averaged}; this file evaluated once on `test` ({tests:,} shapes), which "
        "chose nothing; no voting",
        "score": f"{percent(entry['score'])}, computed in float32",
        "score of the run": f"{percent(told['full'])}, before the weights were halved, {arithmetic}",
        "half precision": f"on {half['shapes']} shapes of `{split}`: {moved}",
        "trained by": f"`{told['command']}`",
        "log": f"`{told['log']}`",
        "trained on": f"{where}; torch {ran['torch']}, commit {ran['commit']}; {told['minutes']} minutes",
        "score measured by": f"`python tools/evaluate.py {name} --set train.amp=false`. {told['measured']}",
    }
    lines = [f"| {what} | {text} |" for what, text in rows.items()]
    return "\n".join([f"## {name}", "", "| | |", "|---|---|", *lines, ""])


def percent(score: Mapping[str, float]) -> str:
    return ", ".join(f"{metric_titles()[key]} {100 * value:.2f} %" for key, value in score.items())


if __name__ == "__main__":
    main()
