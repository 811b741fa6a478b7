"""List the models, weights, configs and data sets that have names.

Models are listed with their parameters, weights with their scores and configs
with what they are for, and data sets with where they are, or how to get them.

Examples:
  bixt3d list models
  bixt3d list data --root ~/data
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from bixt3d.commands.options import place
from bixt3d.shipped import shipped

Row = tuple[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d list``."""
    parser.add_argument(
        "what", nargs="?", choices=tuple(LISTS), metavar="|".join(LISTS), help="one of them (default: all)"
    )
    parser.add_argument(
        "--root", type=place, default="data", metavar="FOLDER", help="data folder to look in (default: data)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the lists, each name with what is said of it; what is long goes on in lines that are set in."""
    for number, what in enumerate([args.what] if args.what else LISTS):
        if args.what is None:
            print(f"{chr(10) if number else ''}{what}:")
        rows = sorted(LISTS[what](args.root))
        width = 2 + max(len(name) for name, _ in rows)
        for name, about in rows:
            print(f"{name:{width}}" + about.replace("\n", "\n" + " " * width))
        if what in ("weights", "configs"):
            print(f"in {shipped(what)}")


def list_models(root: Path) -> Iterator[Row]:
    """Yield the models, each with its task and its parameters at its own default sizes."""
    from bixt3d.models import factory

    for name in factory.list_models():
        task = factory.task_of(name)
        about = str(getattr(task, "name", task)).replace("_", " ")
        if factory.is_own(name):
            parameters = sum(value.numel() for value in factory.create_model(name).parameters())
            yield name, f"{about}, {parameters:,} parameters"
        else:
            yield name, f"registered by a plug-in, {about}"


def list_weights(root: Path) -> Iterator[Row]:
    """Yield the weights that ship, each with its model, its score and its data."""
    from bixt3d.tasks import find_task, metric_titles
    from bixt3d.training import weights

    titles = metric_titles()
    for name, stated in weights.read_list().items():
        card = stated["card"]
        goal = find_task(card["task"].replace(" ", "_")).goal
        score = f"{titles.get(goal, goal)} {stated['score'][goal]:.2%}"
        yield name, textwrap.fill(f"{score}; {card['purpose']}", 60, break_on_hyphens=False)


def list_configs(root: Path) -> Iterator[Row]:
    """Yield the configs that ship, each with the sentence at its top."""
    from bixt3d.config import list_configs
    from bixt3d.shipped import find_config

    for name in list_configs():
        about = []
        for line in find_config(name).read_text(encoding="utf-8").splitlines():
            if not line.startswith("#") or line.startswith("# Command:"):
                break
            about.append(line.removeprefix("#").strip())
        yield name, textwrap.shorten(" ".join(about), 55, placeholder=" ...", break_on_hyphens=False)


def list_data(root: Path) -> Iterator[Row]:
    """Yield the data sets, each with where it is, or how to get it."""
    from bixt3d.commands.located import locate
    from bixt3d.datasets import list_datasets
    from bixt3d.datasets.acquire import SOURCES

    for name in list_datasets():
        if name not in {*SOURCES, "shapes"}:
            yield name, "your own files, in any folder: data.root of a config"
            continue
        folder, get = locate(name, root)
        yield name, f"in {folder}" if folder else f"not in {root}: {get}"


LISTS = {"models": list_models, "weights": list_weights, "configs": list_configs, "data": list_data}
