"""Every picture that some runs have the data for, and words about what they lack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bixt3d.visualize.bars import check_comparable, class_bars
from bixt3d.visualize.plots import confusion_matrix, training_curves
from bixt3d.visualize.runs import ClassScores, Run, read_confusion, read_metrics, read_scores


def plot_runs(
    runs: Sequence[Run], out: str | Path, suffix: str = ".png", convention: str = "pointnet2"
) -> list[str]:
    """Draw training curves, scores of every class, and of a single classifier the confusion matrix.

    A run keeps its colour in all pictures. What a run lacks leaves it out of a picture, and is said.

    Args:
        runs: As `find_runs` gives them.
        out: The folder of the pictures `curves`, `per_class` and `confusion`; made if missing.
        suffix: Their format: .png, .pdf or .svg.
        convention: Which mean IoU of the parts of a category, `pointnet2` or `pointmlp`.

    Returns:
        Sentences: what was written, and what was left out and why.

    Raises:
        ValueError: If a file is damaged, before anything is drawn, or if there is nothing to draw.
        ImportError: If matplotlib is not installed.
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
        elif len(runs) == 1 and not (table and tables[run.name].kind == "category"):
            why = "no confusion matrix without confusion.csv, which bixt3d evaluate writes"
            lacking.setdefault(why, []).append(run.name)
    missing = [f"{reason}: {', '.join(of)}" for reason, of in lacking.items()]

    def count(drawn: int) -> str:
        return f": {drawn} of {len(runs)} runs" if len(runs) > 1 else ""

    out, done = Path(out).expanduser(), []
    if metrics:
        done.append(f"{training_curves(metrics, out / f'curves{suffix}', names)}{count(len(metrics))}")
    reason = _incomparable(tables)
    if reason:
        missing.append(f"no bars: {reason}")
    elif tables:
        done.append(f"{class_bars(tables, out / f'per_class{suffix}', names)}{count(len(tables))}")
    if matrices and len(runs) == 1:
        done.append(str(confusion_matrix(*matrices[names[0]], out / f"confusion{suffix}")))
    elif matrices:
        missing.append(f"no confusion matrix: it shows one run, and {len(runs)} are named")
    if not done:
        raise ValueError(f"nothing to draw; {'; '.join(missing)}")
    return done + missing


def _incomparable(tables: dict[str, ClassScores]) -> str:
    try:
        if tables:
            check_comparable(tables)
    except ValueError as error:
        return str(error)
    return ""
