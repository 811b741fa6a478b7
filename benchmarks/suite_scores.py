"""Scores of trained classifiers under ModelNet-C and ModelNet40-C: accuracies, mCE, and the page of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.suites import LEVELS, Suite
from benchmarks.table import markdown_table
from benchmarks.trained import Trained
from bixt3d.datasets.split import Split

Accuracies = dict[str, dict[str, list[float]]]  # corruption -> model -> OA of each level


def measure(
    suite: Suite, models: Sequence[Trained], split: Split, device: torch.device
) -> tuple[dict[str, float], Accuracies]:
    """Return each model's accuracy on clean clouds, and under every corruption and level.

    Raises:
        ValueError: If a model takes features: the suites damage xyz alone.
    """
    for trained in models:
        if trained.features:
            raise ValueError(
                f"{trained.name}: expected a model of xyz alone, got {', '.join(trained.features)}"
            )
    split = split.with_features(())
    clean = {trained.name: trained.accuracy(trained.arrange(split), device) for trained in models}
    found: Accuracies = {}
    for name in suite.corruptions:
        rows = found[name] = {trained.name: [] for trained in models}
        for level in LEVELS:
            damaged = replace(split, points=suite.damage(split.points, name, level))
            for trained in models:
                rows[trained.name].append(trained.accuracy(trained.arrange(damaged), device))
        print(name, *(f"{100 * statistics.mean(row):.2f}" for row in rows.values()), sep="  ", flush=True)
    return clean, found


def corruption_error(suite: Suite, found: Accuracies, corruption: str, model: str) -> float:
    """Return the mean error under one corruption, in units of DGCNN's where that is published."""
    error = 1 - statistics.mean(found[corruption][model])
    return error / (1 - suite.references[corruption]) if suite.references else error


def mean_error(suite: Suite, found: Accuracies, model: str) -> float:
    """Return the mean of `corruption_error`: the mCE, or the error rate."""
    return statistics.mean(corruption_error(suite, found, corruption, model) for corruption in found)


def table(suite: Suite, clean: dict[str, float], found: Accuracies) -> list[list[str]]:
    """Return rows, the head first: each corruption's mean OA in per cent, and the mean error."""
    rows = [["corruption", *clean], ["none", *(f"{100 * value:.2f}" for value in clean.values())]]
    for name, row in found.items():
        rows.append([name, *(f"{100 * statistics.mean(row[model]):.2f}" for model in clean)])
    if suite.references:
        rows.append(["**mCE**", *(f"{mean_error(suite, found, model):.3f}" for model in clean)])
    else:
        rows.append(["**error**", *(f"{100 * mean_error(suite, found, model):.2f}" for model in clean)])
    return rows


def levels(clean: dict[str, float], found: Accuracies) -> list[list[str]]:
    """Return every accuracy, the head first: corruption, level, and OA in per cent of each model."""
    rows = [
        ["corruption", "level", *clean],
        ["none", "", *(f"{100 * value:.2f}" for value in clean.values())],
    ]
    for name, row in found.items():
        for place, level in enumerate(LEVELS):
            rows.append([name, str(level), *(f"{100 * row[model][place]:.2f}" for model in clean)])
    return rows


def page(suite: Suite, rows: list[list[str]], part: str, models: Sequence[Trained], about: str) -> str:
    """Return the text of the page; ``part``: which shapes were looked at."""
    trained = "\n".join(model.about() for model in models)
    definitions = "\n".join(
        f"- {name}: {(damage.__doc__ or '').strip()}" for name, damage in suite.corruptions.items()
    )
    measure_ = (
        "The mCE is the mean over corruptions of the error in units of DGCNN's published one (clean 92.6 %)."
        if suite.references
        else "The error is the mean over corruptions of 100 % less the accuracy."
    )
    return f"""# {suite.title}

Overall accuracy in per cent on {part}, each the mean over five levels:

{trained}

{markdown_table(rows[0], rows[1:])}

{measure_} Every level: [table.csv](table.csv).

The corruptions are drawn anew by their published definitions, from the points that the data set stores; the
official files are of other draws. A model sees a damaged cloud as `Predictor` does: centred, scaled and
ordered anew, too few points repeated. {suite.differs}

{definitions}

{about}
"""
