"""Every picture that some runs have the data for, and words about what they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bixt3d.visualize.bars import class_bars
from bixt3d.visualize.pictures import file_name
from bixt3d.visualize.plots import confusion_matrix, training_curves
from bixt3d.visualize.runs import ClassScores, Run, read_confusion, read_metrics, read_scores


def plot_runs(
    runs: Sequence[Run], out: str | Path, suffix: str = ".png", convention: str = "pointnet2"
) -> list[str]:
    """Draw training curves, scores of every class, and of each classifier the confusion matrix.

    A run keeps its colour in all pictures. Runs whose scores cannot be compared have bars apart, as
    those of other tasks. What a run lacks leaves it out of a picture, and is said.

    Args:
        runs: As `find_runs` gives them.
        out: The folder of the pictures `curves`, `per_class` and `confusion`, the last two with the name of a
            run behind where there are several; made if missing.
        suffix: Their format: .png, .pdf or .svg.
        convention: Which mean IoU of the parts of a category, `pointnet2` or `pointmlp`.

    Returns:
        Sentences: what was written, and what was left out and why.

    Raises:
        ValueError: If a file is damaged, before anything is drawn, or if there is nothing to draw.
    """
    names = [run.name for run in runs]
    metrics, tables, matrices = {}, {}, {}
    lacking: dict[str, list[str]] = {}
    for run in runs:
        rows = read_metrics(run.training) if run.training else []
        table = next((path for path in run.tables if path.is_file()), None)
        if any("epoch" in row for row in rows):
            metrics[run.name] = rows
        else:
            why = "no epoch is finished" if run.training else "an evaluation has none"
            lacking.setdefault(f"no curves, as {why}", []).append(run.name)
        if table:
            tables[run.name] = read_scores(table, convention)
        else:
            why = f"no bars without {run.tables[0].name}, which bixt3d evaluate can replace"
            lacking.setdefault(why, []).append(run.name)
        if run.confusion.is_file():
            matrices[run.name] = read_confusion(run.confusion)
        elif table and tables[run.name].kind == "class" and tables[run.name].measure == "accuracy":
            place = run.confusion.parent.name
            of = f" RUN/{place.removesuffix('_test')}" if run.training else ""
            why = f"no confusion matrix without {place}/confusion.csv, which bixt3d evaluate{of} writes"
            lacking.setdefault(why, []).append(run.name)
    missing = [f"{reason}: {', '.join(of)}" for reason, of in lacking.items()]

    def count(drawn: int) -> str:
        return f": {drawn} of {len(runs)} runs" if len(runs) > 1 else ""

    out, done = Path(out).expanduser(), []
    if metrics:
        done.append(f"{training_curves(metrics, out / f'curves{suffix}', names)}{count(len(metrics))}")
    groups = _comparable(tables)
    for group in groups:
        ending = "" if len(groups) == 1 else f"_{file_name(next(iter(group)))}"
        done.append(f"{class_bars(group, out / f'per_class{ending}{suffix}', names)}{count(len(group))}")
    for name, matrix in matrices.items():
        ending = "" if len(runs) == 1 else f"_{file_name(name)}"
        done.append(str(confusion_matrix(*matrix, out / f"confusion{ending}{suffix}")))
    if not done:
        raise ValueError(f"nothing to draw; {'; '.join(missing)}")
    return done + missing


def _comparable(tables: Mapping[str, ClassScores]) -> list[dict[str, ClassScores]]:
    """Return the tables in groups that measure the same of the same classes, in the order of their firsts."""
    groups: dict[tuple[str, frozenset[str]], dict[str, ClassScores]] = {}
    for name, table in tables.items():
        groups.setdefault((table.measure, frozenset(table.names)), {})[name] = table
    return list(groups.values())
