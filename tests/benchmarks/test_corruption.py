"""Damaged clouds: each corruption against its obvious twin, what models see, the page that comes of it."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from benchmarks import corruption, damage, suites
from benchmarks.damage import CORRUPTIONS, Corruption
from benchmarks.trained import choose, load, open_clouds
from bixt3d import Predictor, create_model
from bixt3d.datasets.orientation import turn
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.ops import farthest_point_sample
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import find_checkpoint
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.experiment import train
from bixt3d.training.weights import checksum
from tests.training.tiny import make_config, make_split

CPU = torch.device("cpu")
DAMAGE = [kind for kind in CORRUPTIONS if kind.change is not None]
SMALL = (
    Corruption("noise", (0.05,), damage.number, "noise", damage.noise),
    Corruption("missing region", (0.5, 0.9), damage.percent, "a hole", damage.missing_region),
    Corruption("turned", (30,), damage.angle, "turned", damage.rotate, normalized=True),
    Corruption("number of points", (128, 32, 4), damage.number, "fewer"),
    Corruption("repeated", (32, 4), damage.number, "fewer", repeated=True),
)


def seeded(seed: int = 3) -> Generator:
    return Generator().manual_seed(seed)


def clouds(batch: int = 3, count: int = 60, channels: int = 6) -> Tensor:
    points = torch.randn(batch, count, 6, generator=seeded(0))
    xyz = unit_sphere(points[..., :3])
    return torch.cat([xyz, torch.nn.functional.normalize(points[..., 3:], dim=-1)], -1)[..., :channels]


def rows_of(cloud: Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in cloud.tolist()]


# Each corruption against the obvious way


@pytest.mark.parametrize("kind", DAMAGE, ids=lambda kind: kind.name)
@pytest.mark.parametrize("channels", [3, 6])
def test_same_every_time_and_pure(kind: Corruption, channels: int) -> None:
    points = clouds(channels=channels)
    before = points.clone()
    damaged = [kind.apply(points, severity) for severity in kind.severities]
    assert points.equal(before)
    for severity, once in zip(kind.severities, damaged, strict=True):
        torch.manual_seed(len(damaged))
        assert kind.apply(points, severity).equal(once)
        assert once.dtype == torch.float32 and once.shape[::2] == points.shape[::2]
        assert not once.equal(points)
        xyz = once[..., :3]
        if kind.normalized:
            torch.testing.assert_close(xyz.mean(1), torch.zeros(3, 3), atol=1e-6, rtol=0)
            torch.testing.assert_close(xyz.norm(dim=-1).amax(1), torch.ones(3))
        if channels == 6:
            torch.testing.assert_close(once[..., 3:].norm(dim=-1), torch.ones(once.shape[:2]))


def test_every_corruption_and_severity_draws_something_else() -> None:
    drawn = []

    def change(points: Tensor, severity: float, generator: Generator) -> Tensor:
        drawn.append(float(torch.rand((), generator=generator)))
        return points

    for name in ("noise", "hole"):
        for severity in (0.1, 0.2):
            Corruption(name, (0.1, 0.2), damage.number, "", change).apply(clouds(), severity)
    assert len(set(drawn)) == 4


def test_noise_moves_points_and_no_normals() -> None:
    points = clouds(8, 500)
    moved = damage.noise(points, 0.05, seeded())
    noise = torch.randn(8, 500, 3, generator=seeded())
    for cloud in range(8):
        for axis in range(3):
            told = (points[cloud, :, axis] + 0.05 * noise[cloud, :, axis]).clamp(-1, 1)
            torch.testing.assert_close(moved[cloud, :, axis], told)
    assert moved[..., 3:].equal(points[..., 3:])
    far = damage.noise(points, 5.0, seeded())
    assert far[..., :3].abs().max() == 1


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_missing_points_leave_the_others_in_order(share: float) -> None:
    points = clouds(4, 61)
    left = damage.missing(points, share, seeded())
    assert left.shape == (4, 61 - round(61 * share), 6)
    held = [[rows_of(points[cloud]).index(row) for row in rows_of(left[cloud])] for cloud in range(4)]
    assert all(places == sorted(set(places)) for places in held)
    assert len({tuple(places) for places in held}) == 4  # others in each cloud


def test_every_point_is_as_likely_to_be_missing() -> None:
    points = torch.arange(20.0).view(1, 20, 1).repeat(4000, 1, 3)
    left = damage.missing(points, 0.25, seeded())
    share = torch.bincount(left[..., 0].long().flatten(), minlength=20) / 4000
    torch.testing.assert_close(share, torch.full((20,), 0.75), atol=0.03, rtol=0)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_missing_region_is_a_ball_about_a_point(share: float) -> None:
    points = clouds(5)
    left = damage.missing_region(points, share, seeded())
    centres = torch.randint(60, (5, 1), generator=seeded())[:, 0].tolist()
    for cloud in range(5):
        xyz = points[cloud, :, :3].tolist()
        far = sorted(range(60), key=lambda at: math.dist(xyz[at], xyz[centres[cloud]]))[round(60 * share) :]
        assert rows_of(left[cloud]) == [rows_of(points[cloud])[at] for at in sorted(far)]
        assert centres[cloud] not in far


def test_outliers_are_spread_evenly_over_the_ball() -> None:
    points = clouds(50, 400)
    put = damage.outliers(points, 0.1, seeded())
    changed = (put != points).any(-1)
    assert (changed.sum(1) == 40).all()
    radius = put[..., :3].norm(dim=-1)[changed]
    assert radius.max() <= 1
    # of an even ball: the share within r is r cubed, and no direction is preferred
    for within in (0.5, 0.8):
        assert float((radius < within).float().mean()) == pytest.approx(within**3, abs=0.03)
    torch.testing.assert_close(put[..., :3][changed].mean(0), torch.zeros(3), atol=0.04, rtol=0)
    places = changed.float().mean(0)
    assert places[:200].mean() == pytest.approx(0.1, abs=0.01)  # not at one end of the cloud


def test_rotation_about_any_axis() -> None:
    """Rodrigues' formula, cloud by cloud."""
    points = clouds(6)
    turned = damage.rotate(points, 30, seeded())
    generator = seeded()
    axes = torch.randn(6, 3, generator=generator)
    angles = math.radians(30) * (2 * torch.rand(6, 1, generator=generator) - 1)
    assert angles.abs().max() <= math.radians(30) and angles.min() < 0 < angles.max()
    for cloud in range(6):
        axis, angle = axes[cloud] / axes[cloud].norm(), float(angles[cloud])
        for at in range(60):
            for vector, after in zip(points[cloud, at].split(3), turned[cloud, at].split(3), strict=True):
                told = (
                    vector * math.cos(angle)
                    + torch.linalg.cross(axis, vector) * math.sin(angle)
                    + axis * axis.dot(vector) * (1 - math.cos(angle))
                )
                torch.testing.assert_close(after, told, atol=1e-6, rtol=1e-5)


def test_stretching_each_axis() -> None:
    points = clouds(200, 20, 3)
    factors = damage.stretch(points, 2, seeded()) / points
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert 0.5 <= factors.min() < 0.55 and 1.95 < factors.max() <= 2
    assert not torch.allclose(factors[..., 0], factors[..., 1])


# What a model sees


@pytest.mark.parametrize("order", ["fps", "stored"])
@pytest.mark.parametrize("own", [5, 12, 20])
def test_chosen_points_are_those_of_a_prediction(order: str, own: int) -> None:
    split = make_split(4, own)
    split = replace(split, points=unit_sphere(split.points))
    classifier = create_model("bixt_ti_cls", num_classes=4, dim=12, depth=1, num_heads=2, num_latents=2)
    classifier.description = Description(
        "classification", {"name": "", "args": {}}, {}, Preprocess(12, order, stored_points=20)
    )
    chosen = choose(split, 12, order)
    predictions = Predictor(classifier, "cpu")(split.points)
    if order == "fps" or own <= 12:
        told = torch.stack([torch.from_numpy(one.points) for one in predictions])
        torch.testing.assert_close(chosen.points, told, atol=1e-6, rtol=0)
    else:  # a data set's first points are a fair sample, a stranger's may be one corner
        assert chosen.points.equal(split.points[:, :12])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two finished runs, one whose points must stand in farthest-point order."""
    folder = tmp_path_factory.mktemp("corruption")
    write_shapes(folder / "data", per_class=6, num_points=64, progress=False)
    for name, hierarchy, more in (
        ("naive", False, ["data.order=stored"]),
        ("prefix", True, ["data.order=fps", "augment.shuffle=false", "model.args.sampling=prefix"]),
    ):
        settings = ["data.name=shapes", f"data.root={folder / 'data'}", f"run.dir={folder / name}", *more]
        train(make_config(*settings, "train.epochs=1", hierarchy=hierarchy), device=CPU)
    return folder


@pytest.mark.parametrize("kind", CORRUPTIONS, ids=lambda kind: kind.name)
def test_damaged_clouds_stand_in_farthest_point_order_again(kind: Corruption, runs: Path) -> None:
    model = load(str(runs / "prefix"), "prefix", [], CPU)
    split = open_clouds([model]).select(torch.arange(6))
    severity = kind.severities[-1]
    if kind.change is not None:
        split = replace(split, points=kind.apply(split.points, severity))
    else:
        severity = 20
    seen = model.see(split, kind, severity).points
    own = {"missing points": 16, "few points, repeated": 20, "number of points": 20}.get(kind.name, 32)
    assert seen.shape == (6, 20 if kind.name == "number of points" else 32, 3)
    assert farthest_point_sample(seen[:, :own], own).equal(torch.arange(own).expand(6, -1))
    for at in range(own, 32 if kind.repeated else 0):
        assert seen[:, at].equal(seen[:, at % own])


def test_clean_clouds_are_those_of_the_usual_evaluation(runs: Path) -> None:
    models = [load(str(runs / name), name, [], CPU) for name in ("naive", "prefix")]
    split = open_clouds(models)
    for model in models:
        usual = evaluate_checkpoint(runs / model.name)
        assert model.see(split, None, 0).points.equal(usual.split.points)
        assert model.accuracy(model.see(split, None, 0), CPU) == usual.seen.metrics["oa"]


def test_test_shapes_are_turned_as_in_the_training(runs: Path) -> None:
    straight = load(str(runs / "naive"), "naive", [], CPU)
    lying = load(str(runs / "naive"), "lying", ["data.up=z"], CPU)
    assert open_clouds([lying]).points.equal(turn(open_clouds([straight]).points, "z"))
    with pytest.raises(
        ValueError, match="expected models whose data have one axis up, got None for naive and z"
    ):
        open_clouds([straight, lying])


# The command


def command(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.corruption", *map(str, options)])
    corruption.main()


def test_page_table_and_picture(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(corruption, "CORRUPTIONS", SMALL)
    asked = runs / "naive" / "last", runs / "prefix" / "last", "--device", "cpu", "--out"
    command(monkeypatch, *asked, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert (out / "corruption.png").stat().st_size > 10_000
    with open(out / "table.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["corruption", "severity", "naive/last", "prefix/last"]
    cells = {(kind, severity): values for kind, severity, *values in rows}
    assert list(cells) == [
        ("none", ""),
        ("noise", "0.05"),
        ("missing region", "50 %"),
        ("missing region", "90 %"),
        ("turned", "30°"),
        ("number of points", "128"),
        ("number of points", "32"),
        ("number of points", "4"),
        ("repeated", "32"),
        ("repeated", "4"),
        ("mean", ""),
    ]
    for column, name in enumerate(("naive", "prefix")):
        result = json.loads((runs / name / "result.json").read_text())
        assert cells["none", ""][column] == f"{100 * result['last']['oa']:.2f}"
        holes = [float(cells["missing region", severity][column]) for severity in ("50 %", "90 %")]
        kinds = [float(cells["noise", "0.05"][column]), sum(holes) / 2, float(cells["turned", "30°"][column])]
        assert float(cells["mean", ""][column]) == pytest.approx(sum(kinds) / 3, abs=0.02)
    assert cells["number of points", "32"] == cells["repeated", "32"] == cells["none", ""]
    assert cells["number of points", "128"] == ["-", "-"]  # 64 are stored
    assert cells["number of points", "4"][1] == "-"  # six neighbours among four points
    assert "-" not in cells["number of points", "4"][0] and "-" not in cells["repeated", "4"]
    page = (out / "README.md").read_text()
    assert "![Accuracy against the severity of each corruption](corruption.png)" in page
    assert "Measured on" in page and "`python -m benchmarks.corruption " in page
    assert "trial" not in page and all(f"- {kind.name}: {kind.says}." in page for kind in SMALL)
    assert "- naive/last: `bixt_ti_cls`, " in page and "1 epochs on `train`, 32 points" in page
    before = (out / "table.csv").read_bytes()
    command(monkeypatch, *asked, out)
    assert (out / "table.csv").read_bytes() == before


def test_trial_on_some_shapes_says_so(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(corruption, "CORRUPTIONS", SMALL[:1])
    total = len(open_clouds([load(str(runs / "naive"), "naive", [], CPU)]))
    command(monkeypatch, runs / "naive", "--shapes", 7, "--names", "a model", "--out", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert f"a trial on 7 of the {total} test shapes, spread evenly" in page
    assert "| a model |" in page


def test_published_suites(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: suites.SUITES["modelnet-c"].corruptions[name] for name in ("jitter", "rotate")}
    suite = replace(suites.SUITES["modelnet-c"], corruptions=few)
    monkeypatch.setitem(corruption.SUITES, "modelnet-c", suite)
    command(monkeypatch, runs / "naive", "--suite", "modelnet-c", "--names", "a model", "--out", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# ModelNet-C\n") and "- jitter: Move points by normal noise" in page
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows[1:4]] == [["none", ""], ["jitter", "1"], ["jitter", "2"]] and len(
        rows
    ) == 12
    one = load(str(runs / "naive"), "naive", [], CPU)
    split = open_clouds([one])
    seen = one.arrange(replace(split, points=suite.damage(split.points, "jitter", 3)))
    assert float(rows[4][2]) == pytest.approx(100 * one.accuracy(seen, CPU), abs=0.006)
    told = json.loads((tmp_path / "suite.json").read_text())
    (model,) = told["models"]
    assert (told["suite"], told["shapes"], model["name"]) == ("modelnet-c", len(split), "a model")
    assert model["sha256"] == checksum(find_checkpoint(runs / "naive"))
    assert f"| {model['error']:.3f} " in page


def test_robust_models_see_no_strays(runs: Path) -> None:
    one = load(str(runs / "naive"), "naive", ["data.normalization=robust"], CPU)
    split = open_clouds([one])
    points = split.points.clone()
    points[:, 0] = torch.tensor([40.0, 0, 0])
    seen = one.arrange(replace(split, points=points))
    assert float(seen.points.norm(dim=-1).max()) <= 1 + 1e-5
    plain = load(str(runs / "naive"), "naive", [], CPU).arrange(replace(split, points=points))
    assert float(plain.points.norm(dim=-1).median()) < 0.1


def test_mistakes_end_in_one_line(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naive, out = runs / "naive", ["--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match=r"^error: no checkpoint .*gone"):
        command(monkeypatch, runs / "gone", *out)
    with pytest.raises(SystemExit, match="^error: --names: expected 2 different names, .*got naive"):
        command(monkeypatch, naive, naive, *out)
    with pytest.raises(SystemExit, match="^error: --names: expected 1 different names"):
        command(monkeypatch, naive, "--names", "a", "b", *out)
    with pytest.raises(SystemExit, match="^error: .*train.epoch.*epochs"):
        command(monkeypatch, naive, *out, "--set", "train.epoch=3")
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, naive, "--shapes", "0", *out)
    assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


def test_models_of_other_data(runs: Path, tmp_path: Path) -> None:
    naive, prefix = (load(str(runs / name), name, [], CPU) for name in ("naive", "prefix"))
    shutil.copytree(runs / "data", tmp_path / "data")
    moved = load(str(runs / "prefix"), "prefix", [f"data.root={tmp_path / 'data'}"], CPU)
    with pytest.raises(ValueError, match=r"models of one data set, got .* for naive and .* for prefix"):
        open_clouds([naive, moved])
    assert open_clouds([moved]).points.equal(open_clouds([prefix]).points)
    with pytest.raises(ValueError, match="prefix takes normal: expected shapes in .* got xyz alone"):
        open_clouds([replace(prefix, features=("normal",))])
    described: Any = naive.model
    described.description = described.description.resized({}, {"classes": ["other"]})
    with pytest.raises(ValueError, match="naive knows other classes than shapes"):
        open_clouds([naive])


# The results that are kept


def test_kept_results_are_of_what_is_done_today() -> None:
    folder = Path(__file__).parents[2] / "results" / "corruption"
    with open(folder / "table.csv", newline="") as file:
        _, *rows = csv.reader(file)
    shown = [(kind.name, kind.shown(severity)) for kind in CORRUPTIONS for severity in kind.severities]
    assert [tuple(row[:2]) for row in rows] == [("none", ""), *shown, ("mean", "")]
    page = (folder / "README.md").read_text()
    assert all(f"- {kind.name}: {kind.says}." in page for kind in CORRUPTIONS)
    again = ", ".join(kind.name for kind in CORRUPTIONS if kind.normalized)
    assert f"anew for these kinds alone: {again}." in page
