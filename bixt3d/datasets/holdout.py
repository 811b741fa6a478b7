"""Names of splits, and how a val split is cut from train where a data set has none."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.split import Split
from bixt3d.ops.validate import describe

SPLITS = ("train", "val", "test", "trainval")


class NoValError(ValueError):
    """A training set has no shapes to spare for a val split."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "cannot cut a val split: no class has two or more shapes; ask for split='trainval', which is "
            "data.train_split=trainval"
        )


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


def hold_out_fold(label: Tensor, fold: int, folds: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cuts shapes into train and val, where val is one of so many folds of each class.

    Folds differ by one shape of a class at most; over all of them every shape is in val once.

    Args:
        label: (S,) int64 class of each shape.
        fold: Which, from 1 to ``folds``.
        folds: How many.
        seed: Another seed gives other folds.

    Returns:
        Train and val positions, as `hold_out`.

    Raises:
        ValueError: The fold is out of range, or holds no shape.
    """
    if not 1 <= fold <= folds:
        raise ValueError(f"fold: expected 1 to {folds}, got {fold}")
    draw, labels = np.random.RandomState(seed), label.cpu().numpy()
    place, before = np.zeros(len(labels), dtype=int), 0
    for one_class in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == one_class))
        # Going on where the class before ended, small classes do not all fill the first folds.
        place[members] = (before + np.arange(len(members))) % folds
        before += len(members)
    held = place == fold - 1
    if not held.any():
        raise ValueError(f"fold: expected at most as many folds as shapes, got {folds} and {len(labels)}")
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def cut_train(whole: Split, split: str, seed: int = 0, fold: tuple[int, int] | None = None) -> Split:
    """Cuts train or val from an official train set that has no val split of its own; "trainval" is all of it.

    Where the tenth that is drawn of clouds in their own unit, as scenes are, holds more points than the rest,
    val is as many of the smallest instead.

    Args:
        whole: All of it.
        split: train, val or trainval.
        seed: Another seed cuts others.
        fold: Which fold is val, from 1, and of how many; None: a tenth of each class.

    Raises:
        ValueError: `split` is another name.
        NoValError: No class has the two shapes that a val split needs.
    """
    if split == "trainval":
        return whole
    if split not in ("train", "val"):
        raise ValueError(f"split: expected train, val or trainval, got {split!r}")
    train_index, val_index = (
        hold_out(whole.label, seed=seed) if fold is None else hold_out_fold(whole.label, *fold, seed)
    )
    if val_index.numel() == 0:
        raise NoValError
    if fold is None and not whole.normalized and whole.count is not None:
        train_index, val_index = _smaller(whole.count.cpu(), train_index, val_index)
    return whole.select(train_index if split == "train" else val_index)


def _smaller(count: Tensor, train: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    """Returns positions of train and val, of so many points a cloud (S,), so that val does not hold most."""
    if count[val].sum() <= count[train].sum():
        return train, val
    order = count.argsort(stable=True)
    return order[len(val) :].sort().values, order[: len(val)].sort().values


def check_request(split: str, num_points: int | None, known: tuple[str, ...] = SPLITS) -> None:
    """Checks what every reader is asked for.

    Raises:
        ValueError: `split` is none of the ``known``, or `num_points` neither None nor a whole number above 0.
    """
    if split not in known:
        raise ValueError(f"split: expected one of {', '.join(known)}, got {split!r}")
    if num_points is not None and (
        not isinstance(num_points, (int, np.integer)) or isinstance(num_points, bool) or num_points < 1
    ):
        raise ValueError(
            f"num_points: expected a whole number above 0, or None for all stored points, got {num_points!r}"
        )
