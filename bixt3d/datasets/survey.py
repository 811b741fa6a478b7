"""What a look at data finds: sizes, extents, shapes that two splits share, classes that one lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.features import columns_of, name_of
from bixt3d.datasets.mapped import of_each
from bixt3d.datasets.readers import load_cloud
from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.spheres import check_extent
from bixt3d.datasets.split import Split
from bixt3d.ops import knn
from bixt3d.ops.precision import as_float64

SAME_MOMENTS = 1e-3  # by which the moments of two clouds may differ that are one, but for rounding
SAME_WHOLE = 1e-4  # by which those of whole clouds may, of which only a draw is at hand
SAME_PLACE = 5e-3  # and its points, in mean distances from the centre
PROBES = 256  # points of a cloud that are looked up in another
IMBALANCE = 10  # times as many shapes in the largest class as in the smallest
CHUNK = 256  # clouds at a time
LARGE = 20.0  # a feature beyond it learns badly beside coordinates up to 1
UNLIKE = 100.0  # times as large in one shape as in another: not in one unit


@dataclass(frozen=True)
class Survey:
    """What is known of the shapes of one split.

    Attributes:
        classes: Names of the classes.
        label: Class of each shape (S,).
        names: Name of each shape.
        count: Points of each shape (S,).
        extent: Size along x, y and z of each shape (S, 3), as it is stored.
        moments: Numbers of each shape that neither order, place nor scale of its points change (S, K).
        features: Names of what stands beside xyz.
        cloud: Returns xyz (N, 3) of a shape by its number.
        digests: Equal for shapes whose files are copies; empty where the files are not known.
        whole: Moments of the whole clouds (S, K) that the points were drawn from, NaN where they are not
            known; None if none is.
        reach: Of each feature the largest absolute value in each shape (S,).
        partly: Features that some of the files hold, not all.
    """

    classes: tuple[str, ...]
    label: Tensor
    names: tuple[str, ...]
    count: Tensor
    extent: Tensor
    moments: Tensor
    features: tuple[str, ...]
    cloud: Callable[[int], Tensor]
    digests: tuple[str, ...] = ()
    whole: Tensor | None = None
    reach: Mapping[str, Tensor] = field(default_factory=dict)
    partly: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def select(self, places: list[int]) -> Survey:
        """Return what is known of some of the shapes."""
        return replace(
            self,
            label=self.label[places],
            names=tuple(self.names[place] for place in places),
            count=self.count[places],
            extent=self.extent[places],
            moments=self.moments[places],
            cloud=lambda at: self.cloud(places[at]),
            digests=tuple(self.digests[place] for place in places) if self.digests else (),
            whole=None if self.whole is None else self.whole[places],
            reach={name: values[places] for name, values in self.reach.items()},
        )


def survey_split(split: Split) -> Survey:
    """Look at a split; rows that repeat others count once."""
    device, xyz = split.points.device, split.points[..., :3]
    count = torch.full((len(split),), split.num_points, device=device) if split.count is None else split.count

    def look(first: int, part: Tensor) -> Tensor:
        part, own = as_float64(part), count[first : first + len(part)]
        mask = torch.arange(split.num_points, device=device) < own[:, None]  # (s, N)
        mask = mask[..., None].to(part.device)  # (s, N, 1)
        return torch.cat([part.amax(1) - part.amin(1), moments_of(part, mask)], 1)

    found = of_each(xyz, "survey", look).cpu()  # (S, 3 + K)
    reach = {}
    if split.features:
        most = of_each(split.points, "reach", lambda first, part: part.abs().amax(1)).cpu()  # (S, 3 + F)
        for name, place in columns_of(split.features).items():
            reach[name_of(name)] = most[:, place].amax(1)
    names = split.names or tuple(f"shape {number}" for number in range(len(split)))
    return Survey(
        classes=split.classes,
        label=split.label.cpu(),
        names=names,
        count=count.cpu(),
        extent=found[:, :3],
        moments=found[:, 3:],
        features=tuple(map(name_of, split.features)),
        cloud=lambda at: xyz[at, : int(count[at])].cpu().double(),
        digests=split.digests,
        whole=torch.tensor(split.moments, dtype=torch.float64) if split.moments else None,
        reach=reach,
    )


def count_parts(split: Split) -> Tensor:
    """Return how many points of each shape are of each part, the first those without a label: (S, 1 + P)."""
    assert split.parts is not None

    def count(_: int, parts: Tensor) -> Tensor:
        counts = torch.zeros(len(parts), 1 + split.num_parts, dtype=torch.int32, device=parts.device)
        return counts.scatter_add_(1, parts + 1, torch.ones_like(parts, dtype=torch.int32))

    return of_each(split.parts, f"parts-{split.num_parts}", count, "counting parts")


def survey_files(
    files: Mapping[str, Path],
    classes: Sequence[str],
    label: Sequence[int],
    wanted: Sequence[str] | None = None,
) -> tuple[Survey | None, dict[str, ValueError]]:
    """Look at files, meshes by a sample; also return those that cannot be read, with the reasons.

    Args:
        files: Their places by name.
        classes: Names of the classes.
        label: Class of each file.
        wanted: Features as `parse_features` writes them, which every file must hold; None: what all hold.
    """
    from tqdm import tqdm

    found: dict[str, tuple[Tensor, int, dict[str, float]]] = {}
    bad: dict[str, ValueError] = {}
    features: set[str] | None = None
    some: set[str] = set()
    for name, one in tqdm(
        zip(files, label, strict=True), total=len(files), desc="reading files", unit="file", disable=None
    ):
        try:
            cloud = load_cloud(files[name], notes=[])
            points = torch.from_numpy(cloud.take(wanted or (), files[name], []))
            xyz = points[:, :3]
            check_extent(xyz, files[name])
        except ValueError as error:
            bad[name] = error
            continue
        own = {feature for feature in ("color", "intensity") if cloud.feature(feature) is not None}
        own |= {"normal"} if cloud.has_normals() else set()
        features, some = own if features is None else features & own, some | own
        stats = torch.cat([xyz.amax(0) - xyz.amin(0), moments_of(xyz[None], torch.ones(1, len(xyz), 1))[0]])
        stats = torch.cat([torch.tensor([len(xyz)]), stats])
        found[name] = (stats, one, _reach(cloud, points, wanted))
    if not found:
        return None, bad
    table, kept = torch.stack([stats for stats, *_ in found.values()]), list(found)
    reaches = [reach for *_, reach in found.values()]
    survey = Survey(
        classes=tuple(classes),
        label=torch.tensor([one for _, one, _ in found.values()]),
        names=tuple(kept),
        count=table[:, 0].long(),
        extent=table[:, 1:4],
        moments=table[:, 4:],
        features=tuple(sorted(features or ()) if wanted is None else map(name_of, wanted)),
        partly=tuple(sorted(some - (features or set()))) if wanted is None else (),
        reach={
            feature: torch.tensor([reach[feature] for reach in reaches])
            for feature in reaches[0]
            if all(feature in reach for reach in reaches)
        },
        cloud=lambda at: _xyz_of(files[kept[at]]),
    )
    return survey, bad


def _reach(cloud: FileCloud, points: Tensor, wanted: Sequence[str] | None) -> dict[str, float]:
    """Return the largest absolute value of each feature, as it is read.

    Where none is wanted it is that of intensity: normals and colours are brought to their range.
    """
    if wanted is not None:
        return {name: float(points[:, place].abs().max()) for name, place in columns_of(wanted).items()}
    values = cloud.feature("intensity")
    if values is None or values.dtype.kind not in "fiu":
        return {}
    return {"intensity": float(np.nan_to_num(np.abs(values.astype(np.float64))).max())}


def _xyz_of(path: Path) -> Tensor:
    return torch.from_numpy(load_cloud(path, notes=[]).take((), path, []))


def moments_of(xyz: Tensor, mask: Tensor) -> Tensor:
    """Return means of powers of coordinates, centred and scaled, of clouds (S, N, 3), mask (S, N, 1)."""
    weight = mask.to(xyz) / mask.sum(1, keepdim=True)  # (S, N, 1)
    centred = xyz - (xyz * weight).sum(1, keepdim=True)
    scale = (centred.square().sum(-1, keepdim=True) * weight).sum(1, keepdim=True).sqrt()
    centred = centred / scale.clamp_min(1e-150)
    radius = centred.norm(dim=-1, keepdim=True)
    powers = (torch.square, lambda c: c * c.roll(1, -1), lambda c: c**3, torch.abs)
    means = [(power(centred) * weight).sum(1) for power in powers]  # one after another: they are large
    return torch.cat([*means, (radius * weight).sum(1), (radius**3 * weight).sum(1)], -1)  # (S, K)


def shared_shapes(first: Survey, second: Survey) -> list[tuple[int, int]]:
    """Return pairs of shapes, one of each, with the same points up to order, place, scale and rounding.

    Of large clouds and meshes a training keeps another draw of each: those are found by their files, clouds
    also by the moments of all their points.
    """
    pairs = _near(first.moments, second.moments, SAME_MOMENTS)
    copies = _copies(first.digests, second.digests)
    if first.whole is not None and second.whole is not None:
        # a distance from NaN may be 0
        one, other = (whole.isfinite().all(1).nonzero()[:, 0] for whole in (first.whole, second.whole))
        near = _near(first.whole[one], second.whole[other], SAME_WHOLE)
        copies |= {(int(one[a]), int(other[b])) for a, b in near}
    same = {
        (a, b)
        for a, b in {*pairs} - copies
        if int(first.count[a]) == int(second.count[b]) and _same(first.cloud(a), second.cloud(b))
    }
    return sorted(same | copies, key=lambda pair: pair[::-1])


def _near(first: Tensor, second: Tensor, reach: float) -> list[tuple[int, int]]:
    """Return pairs of rows, one of each table (S, K), whose numbers differ by less than ``reach``."""
    pairs: list[tuple[int, int]] = []
    if not len(first) or not len(second):
        return pairs
    (keys, places), sorted_second = first[:, 0].sort(), second[:, 0].argsort()
    for part in torch.split(sorted_second, CHUNK):  # of one number that is near, so few of the first are
        one = second[part]
        between = torch.stack([one[0, 0] - reach, one[-1, 0] + reach])
        begin, end = torch.searchsorted(keys, between).tolist()
        for some in torch.split(places[begin:end], 16 * CHUNK):
            near = (torch.cdist(one, first[some], p=torch.inf) < reach).nonzero()
            pairs += [(int(some[b]), int(part[a])) for a, b in near]
    return pairs


def _copies(first: Sequence[str], second: Sequence[str]) -> set[tuple[int, int]]:
    """Return pairs of positions of equal digests."""
    places: dict[str, list[int]] = {}
    for at, digest in enumerate(first):
        places.setdefault(digest, []).append(at)
    return {(a, b) for b, digest in enumerate(second) for a in places.get(digest, ())}


def _same(first: Tensor, second: Tensor) -> bool:
    """Tell whether each of some points of a cloud (N, 3) lies where the other has one."""
    first, second = (_scaled(cloud)[None] for cloud in (first, second))
    for one, other in ((first, second), (second, first)):
        probes = one[:, :: max(1, one.shape[1] // PROBES)]
        nearest = other[0][knn(probes, other, 1)[0, :, 0]]
        if float((probes[0] - nearest).norm(dim=-1).max()) > SAME_PLACE:
            return False
    return True


def _scaled(xyz: Tensor) -> Tensor:
    centred = xyz - xyz.mean(0)
    scale: Tensor = centred.square().sum(-1).mean().sqrt()
    return centred / scale.clamp_min(1e-150)


def find_notes(splits: Mapping[str, Survey]) -> list[str]:
    """Return what a user should know of the splits of a data set, a line each; none where all is well."""
    notes = []
    for (one, first), (other, second) in combinations(splits.items(), 2):
        shared = shared_shapes(first, second)
        if shared:
            a, b = shared[0]
            count = len({pair[1] for pair in shared})
            notes.append(
                f"{count} {other} shape{'s are' if count > 1 else ' is'} in {one} too: "
                f"{second.names[b]} = {first.names[a]}"
            )
    present = {name: set(survey.label.tolist()) for name, survey in splits.items()}
    everywhere = set().union(*present.values())
    for name, survey in splits.items():
        missing = [survey.classes[number] for number in sorted(everywhere - present[name])]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            notes.append(f"{name} has no shape of {', '.join(missing[:5])}{more}")
    held = {name: int(survey.count.sum()) for name, survey in splits.items()}
    if held.get("val", 0) > held.get("train", math.inf):
        notes.append(
            f"val holds {held['val']:,} points, and train {held['train']:,}: choose a folder val, or "
            "data.train_split=trainval"
        )
    name, survey = next(iter(splits.items()))
    notes += [*_range_notes(name, survey)]
    counts = torch.bincount(survey.label, minlength=len(survey.classes))
    some = counts[counts > 0]
    if int(some.max()) > IMBALANCE * int(some.min()):
        least = int(torch.where(counts > 0, counts, counts.max()).argmin())
        notes.append(
            f"{name} is out of balance: {int(counts.max()):,} {survey.classes[int(counts.argmax())]}, "
            f"{int(counts[least]):,} {survey.classes[least]}; look at mAcc beside OA"
        )
    return notes


def _range_notes(name: str, survey: Survey) -> Iterator[str]:
    """Yield what is odd about the numbers of the features."""
    if survey.partly:
        yield f"{name}: some files hold {' and '.join(survey.partly)}, not all"
    for feature, reach in survey.reach.items():
        most = float(reach.max())
        some = reach[reach > 0]
        least = float(some.min()) if len(some) else most
        if most > UNLIKE * least and most > 1:
            yield f"{feature} reaches {least:.3g} in one {name} shape and {most:.3g} in another: one unit?"
        elif most > LARGE:
            setting = f"data.divide.{feature}={most:.0f}"
            yield f"{feature} reaches {most:.3g}: numbers of about 1 learn best, so set {setting}"
