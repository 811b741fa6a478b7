"""Clouds in files are those in memory, whatever is asked of them, bit for bit; no more of them is read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bixt3d.datasets.augment import augment, choose_points
from bixt3d.datasets.cache import Arrays, cached, parse
from bixt3d.datasets.holdout import cut_train
from bixt3d.datasets.loader import CloudLoader, arrange_split
from bixt3d.datasets.mapped import Mapped, derive, each_cloud, join, lay_out, of_each, reorder
from bixt3d.datasets.normals import estimate_split
from bixt3d.datasets.orientation import turn_split
from bixt3d.datasets.relabel import match_labels
from bixt3d.datasets.rows import Flat
from bixt3d.datasets.spheres import normalize_split
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store
from bixt3d.datasets.survey import count_parts, find_notes, survey_split

SHAPES, WIDTH = 41, 24
ROWS = [5 + (7 * at) % 24 for at in range(SHAPES)]  # points of each: 5 to 28
CLASSES = ("ball", "cup", "ring")


def build(store: Store) -> Arrays:
    draw = np.random.default_rng(0)
    for rows in ROWS:
        xyz = draw.normal(size=(rows, 3)) + 3
        color = draw.uniform(size=(rows, 3))
        store.add(
            points=np.concatenate([xyz, color], 1).astype(np.float32),
            parts=draw.integers(0, 4, rows).astype(np.float32),
        )
    return {"label": np.arange(SHAPES) % 3}


def split_of(arrays: Arrays, folder: Path, width: int = WIDTH) -> Split:
    label = torch.from_numpy(arrays["label"])
    points, parts = (lay_out(arrays, name, width, folder) for name in ("points", "parts"))
    return Split(
        points,
        label,
        CLASSES,
        each_cloud(parts, whole, dtype=torch.int64),
        label,
        CLASSES,
        ((0, 1, 2, 3),) * 3,
        count=torch.from_numpy(arrays["rows"]).clamp(max=width),
        names=tuple(f"shape {at}" for at in range(SHAPES)),
        features=("color",),
    )


def whole(parts: Tensor, _: Tensor | None) -> Tensor:
    return parts.long()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose cache lies in files that are mapped, however small."""
    monkeypatch.setenv("BIXT3D_MEMORY", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/source.txt").write_text("one")
    return tmp_path / "data"


@pytest.fixture
def stored(folder: Path) -> Split:
    return split_of(cached([folder / "source.txt"], "train", build, folder=folder), folder)


@pytest.fixture
def held(folder: Path) -> Split:
    return split_of(parse(build), folder)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the clouds whose points are read."""
    numbers: list[int] = []
    truly = Flat.read

    def recorded(self: Flat, rows: Tensor) -> Tensor:
        numbers.extend(rows.tolist() if self.array.ndim == 2 else [])
        return truly(self, rows)

    monkeypatch.setattr(Flat, "read", recorded)
    return numbers


def assert_same(one: Split, other: Split) -> None:
    assert isinstance(one.points, Mapped) and not isinstance(other.points, Mapped)
    for name in ("points", "label", "parts", "category", "count"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.clone(), b)), name
    assert (one.names, one.features, one.classes) == (other.names, other.features, other.classes)


def test_the_same_numbers(stored: Split, held: Split) -> None:
    assert_same(stored, held)
    assert torch.equal(stored.points[0, ROWS[0] : 2 * ROWS[0]], held.points[0, : ROWS[0]])  # its own again


ASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "one": lambda points: points[7],
    "last": lambda points: points[-1],
    "rows": lambda points: points[torch.tensor([4, 40, 4, -1, 0])],
    "list": lambda points: points[[5, 2]],
    "mask": lambda points: points[torch.arange(SHAPES) % 5 == 1],
    "slice": lambda points: points[3:30:4],
    "of one": lambda points: points[9, 2:5],
    "columns": lambda points: points[..., 3:],
    "xyz of the first": lambda points: points[:, :8, :3],
    "middle": lambda points: points[10:20, 4:9],
    "middle of the first": lambda points: points[:, :9][:, 4:],
    "pieces": lambda points: torch.cat([2 * part for part in torch.split(points[..., :3], 16)]),
    "whole": lambda points: points.mean(1),
    "largest": lambda points: torch.stack(list(torch.aminmax(points))),
    "with others": lambda points: torch.cat([points, torch.ones(SHAPES, WIDTH, 1)], -1),
    "numpy": lambda points: torch.from_numpy(points[..., :3].contiguous().numpy()),
    "one by one": lambda points: torch.stack(list(points)),
}


@pytest.mark.parametrize("what", ASKED)
def test_whatever_is_asked(what: str, stored: Split, held: Split) -> None:
    got, expected = ASKED[what](stored.points), ASKED[what](held.points)
    assert got.shape == expected.shape and torch.equal(got.clone(), expected)


def test_nothing_is_read_before_it_is_asked_for(stored: Split, read: list[int]) -> None:
    train = cut_train(stored, "train").first_points(16).with_features(["height", "color"])
    train = normalize_split(turn_split(train, "z")).to("cpu")
    assert len(train.points[..., :3][2:].contiguous()) == len(train) - 2
    assert repr(train) and repr(train.points).startswith("Mapped((")
    assert read == []
    train.points[torch.tensor([1, 0])]
    assert len(read) == 2


CHANGES: dict[str, Callable[[Split], Split]] = {
    "cut": lambda split: cut_train(split, "val"),
    "select": lambda split: split.select(torch.tensor([30, 2, 9])).select([2, 0]),
    "slice": lambda split: split[5:25:2][:4],
    "few points": lambda split: split.first_points(10).first_points(6),
    "no features": lambda split: split.with_features([]),
    "height": lambda split: cut_train(split, "train").with_features(["height", "color"]),
    "turned": lambda split: turn_split(split.select([1, 0]).with_features(["color", "height"]), "z"),
    "in the sphere": normalize_split,
    "normals": lambda split: estimate_split(cut_train(split, "train")),
    "fps": lambda split: arrange_split(cut_train(normalize_split(split), "train"), 20, "fps"),
    "random": lambda split: arrange_split(split, 12, "random"),
    "first": lambda split: arrange_split(split, 12, "stored").without_parts(),
    "ordered, then cut": lambda split: arrange_split(split, 16, "fps").first_points(5).select([8, 3]),
    "labels": lambda split: match_labels(
        split,
        {
            "classes": ("ring", "ball", "cup"),
            "parts_of_category": [[4, 5, 6, 7], [0, 1, 2, 3], [8, 9, 10, 11]],
        },
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_done_to_a_split(what: str, stored: Split, held: Split) -> None:
    assert_same(CHANGES[what](stored), CHANGES[what](held))


def test_what_is_known_of_each_cloud(stored: Split, held: Split, read: list[int]) -> None:
    assert torch.equal(count_parts(stored), count_parts(held))
    one, other = survey_split(stored), survey_split(held)
    assert torch.equal(one.extent, other.extent) and torch.equal(one.moments, other.moments)
    read.clear()
    again = survey_split(stored)
    assert find_notes({"train": again, "val": again})[0].startswith(f"{SHAPES} val shapes are in train too")
    assert len(read) <= 2 * SHAPES  # those that are compared point by point: the rest is kept


def batches_of(split: Split, **options: Any) -> list[list[Tensor]]:
    loader = CloudLoader(
        split,
        4,
        shuffle=True,
        choose=lambda points, generator, count: choose_points(
            points, generator, count, num_points=9, draw=True
        ),
        augment=lambda points, generator: augment(points, generator, features=("color",)),
        seed=3,
        **options,
    )
    found = []
    for epoch in (0, 1):
        for batch in loader.epoch(epoch):
            assert batch.parts is not None and not isinstance(batch.points, Mapped)
            found.append([batch.points, batch.label, batch.parts])
    return found


@pytest.mark.parametrize(
    "options", [{}, {"drop_last": True}, {"rank": 1, "world_size": 2}, {"balanced": True}]
)
def test_batches_are_the_same(options: dict[str, Any], stored: Split, held: Split) -> None:
    if options.pop("balanced", False):
        options = {"groups": held.label}
    one, other = batches_of(stored, **options), batches_of(held, **options)
    assert len(one) == len(other) > 5
    assert all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_a_batch_is_read_ahead_and_no_more(stored: Split, read: list[int]) -> None:
    batches = CloudLoader(stored.without_parts(), 4, shuffle=True).epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(read) == 8
    whole = [at for batch in CloudLoader(stored.without_parts(), 4) for at in batch.label.tolist()]
    assert whole == stored.label.tolist()


def test_each_process_touches_its_share(folder: Path) -> None:
    """Two processes look at no page of each other's clouds."""
    seen = []
    for rank in (0, 1):
        split = split_of(cached([folder / "source.txt"], "train", build, folder=folder), folder)
        assert isinstance(split.points, Mapped) and isinstance(split.points.source, Flat)
        for _ in CloudLoader(split, 4, shuffle=True, rank=rank, world_size=2).epoch(2):
            pass
        seen.append(split.points.source.seen)
    assert abs(int(seen[0].sum()) - int(seen[1].sum())) <= 1
    assert (seen[0] ^ seen[1]).all()


def test_splits_joined(folder: Path, stored: Split, held: Split) -> None:
    """A list in files and one that is small enough for memory, as train and val may be."""
    few = held.points[:3]
    joined = join([stored.points, few, stored.points[:2]])
    assert isinstance(joined, Mapped) and len(joined) == SHAPES + 5
    index = torch.tensor([SHAPES + 4, 0, SHAPES + 1, SHAPES - 1, SHAPES])
    expected = torch.cat([held.points, few, held.points[:2]])
    assert torch.equal(joined[index], expected[index]) and torch.equal(joined.clone(), expected)
    assert join([few]) is few and torch.equal(join([few, few]), torch.cat([few, few]))


def test_rows_of_each_cloud(stored: Split, held: Split) -> None:
    index = torch.stack([torch.randperm(WIDTH)[:5] for _ in range(SHAPES)])
    one = reorder(stored.points, index)
    assert isinstance(one, Mapped)
    assert torch.equal(one.clone(), reorder(held.points, index))
    assert torch.equal(one[torch.tensor([3])][0], held.points[3, index[3]])


def test_what_is_derived_is_found_once(stored: Split, folder: Path) -> None:
    calls: list[int] = []

    def make(first: int, part: Tensor) -> Tensor:
        calls.append(first)
        return part.sum(1)

    for _ in range(2):
        found = of_each(stored.points, "sums", make)
        torch.testing.assert_close(found, stored.points.clone().sum(1))
    assert calls == [0]
    of_each(stored.points[:5], "sums", make)  # others
    of_each(stored.points[..., :3], "sums", make)
    of_each(stored.points, "other", make)
    assert len(calls) == 4
    (folder / "source.txt").write_text("another")  # what was derived goes with the cache that it is of
    again = split_of(cached([folder / "source.txt"], "train", build, folder=folder), folder)
    assert not list((folder / ".bixt3d_cache").glob("*sums*"))
    of_each(again.points, "sums", make)
    assert len(calls) == 5 and len(list((folder / ".bixt3d_cache").glob("*sums*.npz"))) == 1


def test_derived_of_a_cache_that_could_not_be_kept(stored: Split, folder: Path) -> None:
    assert isinstance(stored.points, Mapped)
    for file in stored.points.files:
        file.unlink()
    found = derive(stored.points, "sums", lambda _, part: part.sum(1), "adding")
    torch.testing.assert_close(found.clone(), stored.points.clone().sum(1))


def test_a_damaged_cloud_is_named_when_it_is_read(stored: Split, held: Split) -> None:
    assert isinstance(stored.points, Mapped)
    (file,) = stored.points.files
    with file.open("r+b") as content:
        content.seek(128 + 24 * sum(ROWS[:6]) + 5)
        content.write(b"\xff")
    assert torch.equal(stored.points[torch.tensor([5, 7])], held.points[[5, 7]])
    with pytest.raises(OSError, match=rf"{file.name}: cloud 6 is damaged, .*: remove the file"):
        list(CloudLoader(stored, 4))


def test_worker_processes_open_the_file_themselves(stored: Split, held: Split) -> None:
    plain, clouds = stored.without_parts(), held.points
    again = pickle.loads(pickle.dumps(plain.select([4, 2])))
    assert isinstance(again.points, Mapped) and torch.equal(again.points.clone(), clouds[[4, 2]])
    loaded = [batch for batch in DataLoader(plain, batch_size=10, num_workers=1)]  # type: ignore[arg-type]
    assert torch.equal(torch.cat([batch.points for batch in loaded]), clouds)


def test_many_clouds_are_read_in_pieces(stored: Split, held: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.datasets.mapped.CHUNK", 5)
    monkeypatch.setattr("bixt3d.datasets.rows.RELEASE", 100)  # pages are let go all the time
    assert torch.equal(stored.points.clone(), held.points)
    assert torch.equal(stored.points[torch.arange(SHAPES).flip(0)], held.points.flip(0))
    assert_same(replace(arrange_split(stored, 12, "random")), arrange_split(held, 12, "random"))


def test_nothing_is_written_to_files(stored: Split) -> None:
    points, before = stored.points, stored.points.clone()
    for write in (
        lambda: points.mul_(2),
        lambda: points[:3].add_(1),
        lambda: points.__setitem__(0, 0.0),
        lambda: torch.add(before, 1, out=points),
    ):
        with pytest.raises(RuntimeError, match=r"got clouds in files"):
            write()
    stored[0].points.zero_()
    assert points.clone().equal(before)


def test_copies_and_shares_read_the_same_files(stored: Split) -> None:
    copied = copy.deepcopy(stored)
    assert isinstance(copied.points, Mapped) and copied.points.clone().equal(stored.points.clone())
    assert stored.points.share_memory_() is stored.points


def test_a_mask_of_another_length_is_refused(stored: Split) -> None:
    with pytest.raises(IndexError, match="expected a mask of 41 clouds, got one of 2"):
        stored.points[torch.tensor([True, False])]


def test_another_process_says_that_a_file_is_gone(stored: Split) -> None:
    content = pickle.dumps(stored.points)
    stored.points.files[0].unlink()  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError, match="is gone: its cache was made again"):
        pickle.loads(content)
