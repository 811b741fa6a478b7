"""Names of splits, and how a val split is cut from train where a data set has none."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.split import Split
from bixt3d.ops.validate import describe

SPLITS = ("train", "val", "test", "trainval")


def hold_out(label: Tensor, fraction: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cuts shapes into train and val, class by class, the same way every time.

    The draw uses NumPy's frozen legacy stream: it depends on these arguments alone, not on global random
    state or the version of a library.

    Args:
        label: (S,) int64 class of each shape.
        fraction: Share of each class that goes to val; at least one shape of each class that has two or more.
        seed: Another seed gives another cut.

    Returns:
        Train and val positions, int64, each sorted; together every position in 0..S-1 once.

    Raises:
        ValueError: `label` is not an (S,) int64 tensor, or `fraction` is not between 0 and 1.
    """
    if not isinstance(label, Tensor) or label.ndim != 1 or label.dtype != torch.int64 or label.numel() == 0:
        raise ValueError(f"label: expected a tensor (S,) int64, got {describe(label)}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: expected a number between 0 and 1, got {fraction}")
    draw = np.random.RandomState(seed)
    labels = label.cpu().numpy()
    held = np.zeros(len(labels), dtype=bool)
    for one_class in np.unique(labels):
        members = np.flatnonzero(labels == one_class)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[draw.permutation(members)[:count]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def cut_train(whole: Split, split: str) -> Split:
    """Cuts train or val from an official train set that has no val split of its own; "trainval" is all of it.

    Raises:
        ValueError: `split` is another name, or no class has the two shapes that a val split needs.
    """
    if split == "trainval":
        return whole
    if split not in ("train", "val"):
        raise ValueError(f"split: expected train, val or trainval, got {split!r}")
    train_index, val_index = hold_out(whole.label)
    if val_index.numel() == 0:
        raise ValueError("cannot cut a val split: no class has two or more shapes; ask for split='trainval'")
    return whole.select(train_index if split == "train" else val_index)


def check_request(split: str, num_points: int | None) -> None:
    """Checks what every reader is asked for.

    Raises:
        ValueError: `split` is not one of `SPLITS`, or `num_points` neither None nor a whole number above 0.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if num_points is not None and (
        not isinstance(num_points, (int, np.integer)) or isinstance(num_points, bool) or num_points < 1
    ):
        raise ValueError(
            f"num_points: expected a whole number above 0, or None for all stored points, got {num_points!r}"
        )
