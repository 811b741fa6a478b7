"""Part segmentation: loss, counts, metrics, what it says of a cloud, and a small problem learned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from bixt3d import load_model, metrics, open_dataset
from bixt3d.config import Config, config_from
from bixt3d.datasets import Preprocess, Split
from bixt3d.datasets.loader import Batch
from bixt3d.tasks import PartSegmentationTask
from bixt3d.training import Trainer, evaluate
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.experiment import build_model, describe, train
from bixt3d.training.guards import Stopped
from bixt3d.training.resume import load_state
from bixt3d.training.splits import build_task, open_splits
from tests.datasets.parts import write_parts
from tests.training.tiny import assert_same, rows_of, signal_at, weights

CPU = torch.device("cpu")
TABLE = ((0, 1, 2), (3, 4))
SCORES = tuple(
    f"{name}_{convention}"
    for convention in metrics.CONVENTIONS
    for name in ("accuracy", "instance_miou", "class_miou")
)


def make_batch(shapes: int = 6, points: int = 9, ragged: bool = True, seed: int = 0) -> tuple[Tensor, Batch]:
    generator = Generator().manual_seed(seed)
    category = torch.arange(shapes) % 2
    offset = torch.randint(99, (shapes, points), generator=generator)
    parts = torch.where(category[:, None] == 0, offset % 3, 3 + offset % 2)
    count = torch.randint(1, points + 1, (shapes,), generator=generator) if ragged else None
    cloud = torch.randn(shapes, points, 3, generator=generator)
    logits = torch.randn(shapes, points, 5, generator=generator)
    return logits, Batch(cloud, category, parts, category, count)


def test_loss_is_the_mean_over_clouds_of_their_own_points() -> None:
    logits, batch = make_batch()
    assert batch.parts is not None and batch.count is not None
    expected = []
    for i, own in enumerate(batch.count.tolist()):
        chosen = logits[i, :own].log_softmax(-1)[torch.arange(own), batch.parts[i, :own]]
        expected.append(-float(chosen.mean()))
    loss = PartSegmentationTask("ab", TABLE, 9).loss(logits, batch)
    assert float(loss) == pytest.approx(sum(expected) / 6, rel=1e-5)


def test_smoothing_moves_mass_to_the_other_parts() -> None:
    logits, batch = make_batch(ragged=False)
    assert batch.parts is not None
    target = torch.full((6, 9, 5), 0.2 / 4).scatter_(2, batch.parts[..., None], 0.8)
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    loss = PartSegmentationTask("ab", TABLE, 9, label_smoothing=0.2).loss(logits, batch)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("ragged", [True, False])
def test_counts_of_batches_add_up_to_the_metric_of_all(ragged: bool) -> None:
    logits, batch = make_batch(12, ragged=ragged)
    assert batch.parts is not None and batch.category is not None
    task = PartSegmentationTask("ab", TABLE, 9)
    counts = task.start(CPU)
    for at in (slice(0, 5), slice(5, 6), slice(6, 12)):
        own = None if batch.count is None else batch.count[at]
        piece = Batch(batch.points[at], batch.label[at], batch.parts[at], batch.category[at], own)
        counts += task.count(logits[at], piece)
    found = task.metrics(counts)
    assert tuple(found) == SCORES
    valid = None if batch.count is None else torch.arange(9) < batch.count[:, None]
    for convention in metrics.CONVENTIONS:
        means = metrics.part_miou(logits, batch.parts, batch.category, TABLE, convention, valid)
        for name in ("instance_miou", "class_miou"):
            assert found[f"{name}_{convention}"] == pytest.approx(means[name])
        masked = metrics.mask_logits(logits, batch.category, TABLE) if convention == "pointnet2" else logits
        right = masked.argmax(-1) == batch.parts
        share = right.double().mean() if valid is None else right[valid].double().mean()
        assert found[f"accuracy_{convention}"] == pytest.approx(float(share))
    rows = task.table(counts)
    assert rows[0] == ["category", "shapes", "mIoU (pointnet2)", "mIoU (pointmlp)"]
    assert [row[:2] for row in rows[1:]] == [["a", 6], ["b", 6]]
    assert sum(row[2] for row in rows[1:]) / 2 == pytest.approx(found["class_miou_pointnet2"])


def test_table_of_a_category_without_shapes() -> None:
    task = PartSegmentationTask("abc", (*TABLE, (5,)), 9)
    logits, batch = make_batch()
    wide = torch.cat([logits, torch.full((6, 9, 1), -9.0)], -1)
    assert task.table(task.count(wide, batch))[3] == ["c", 0, None, None]


def test_evaluation_asks_for_every_point() -> None:
    """Clouds of 9 points and a model of 4: each of the 9 is labelled, by its own coordinates."""

    class ByPlace(nn.Module):
        def forward(self, points: Tensor, category: Tensor) -> Tensor:
            assert points.shape[1] == 4
            return points.repeat(1, 1, 2)[..., :5]

    _, batch = make_batch(ragged=False)
    logits = PartSegmentationTask("ab", TABLE, 4).forward(ByPlace(), batch)
    assert torch.equal(logits, batch.points.repeat(1, 1, 2)[..., :5])


def told_model(parts: int = 5, categories: int = 2) -> Any:
    model: Any = nn.Identity()
    model.num_outputs, model.num_categories = parts, categories
    return model


FACTS = {"classes": ["Mug", "Table"], "parts_of_category": [[0, 1], [2, 3, 4]], "part_names": list("bhtls")}


def test_facts_name_categories_and_parts() -> None:
    task = PartSegmentationTask()
    task.set_facts(FACTS)
    task.bind_model(told_model())
    assert task.categories == ("Mug", "Table") and task.parts_of_category == ((0, 1), (2, 3, 4))
    assert task.part_names == tuple("bhtls") and task.num_parts == 5 and task.told
    unnamed = PartSegmentationTask()
    unnamed.set_facts({})
    unnamed.bind_model(told_model(3, 2))
    assert unnamed.part_names == ("part 0", "part 1", "part 2")
    assert unnamed.parts_of_category == ((0, 1, 2), (0, 1, 2))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({**FACTS, "parts_of_category": [[0, 1], []]}, "expected parts of a category, whole numbers from 0"),
        ({**FACTS, "parts_of_category": [[0, 1], [-2]]}, "expected parts of a category, whole numbers from"),
        ({**FACTS, "parts_of_category": [[0, 1], ["2"]]}, "expected parts of a category, whole numbers from"),
        ({**FACTS, "parts_of_category": "01"}, "expected parts of a category, whole numbers from 0"),
        ({**FACTS, "parts_of_category": [[0, 1], [2, 5]]}, r"expected parts in 0\.\.4, got"),
        ({**FACTS, "parts_of_category": [[0, 1]]}, "the parts of 2 categories, got 5 names, and parts of 1"),
        ({**FACTS, "part_names": ["a"]}, "expected the names of 5 parts .*, got 1 names"),
        ({**FACTS, "part_names": [1, 2, 3, 4, 5]}, "expected the names of 5 parts"),
        ({**FACTS, "classes": ["Mug"]}, "classes: expected 2 names, one a category, got 1"),
    ],
)
def test_damaged_facts(facts: dict[str, Any], message: str) -> None:
    task = PartSegmentationTask()
    with pytest.raises(ValueError, match=message):
        task.set_facts(facts)
        task.bind_model(told_model())


@pytest.mark.parametrize(
    ("category", "number"), [("Table", 1), (0, 0), (np.int64(1), 1), (torch.tensor(1), 1), ("Mug", 0)]
)
def test_categories_by_name_and_number(category: Any, number: int) -> None:
    task = PartSegmentationTask()
    task.set_facts(FACTS)
    task.bind_model(told_model())
    assert task.category_number(category) == number


@pytest.mark.parametrize("category", ["Mg", 2, -1, 1.0, True, "", [0]])
def test_unknown_category(category: Any) -> None:
    task = PartSegmentationTask()
    task.set_facts(FACTS)
    task.bind_model(told_model())
    with pytest.raises(ValueError, match="^category: expected one of Mug, Table, got ") as error:
        task.category_number(category)
    assert category != "Mg" or "did you mean 'Mug'" in str(error.value)
    with pytest.raises(ValueError, match="^category: this model needs to be told it, one of Mug, Table$"):
        task.category_number(None)
    task.bind_model(told_model(categories=0))
    assert task.category_number(None) is None


def test_prediction_labels_every_point_with_a_part_of_its_category() -> None:
    class ByPlace(nn.Module):
        """Prefers part 4, then that of the point's place along x."""

        num_outputs, num_categories = 5, 2

        def forward(self, points: Tensor, category: Tensor | None = None) -> Tensor:
            assert points.shape[1] == 4
            logits = torch.full((*points.shape[:2], 5), -9.0)
            logits.scatter_(2, (points[..., :1] > 0).long(), 3.0)
            logits[..., 4] = 5.0
            return logits

    task = PartSegmentationTask()
    task.set_facts(FACTS)
    task.bind_model(ByPlace())
    cloud = torch.randn(9, 3, dtype=torch.float64) * 7 + 100
    found = task.predict(ByPlace(), cloud, Preprocess(4, "random", 9), "Mug")
    right = (cloud[:, 0] > cloud[:, 0].mean()).long()
    assert found.parts.tolist() == right.tolist() and found.category == 0
    assert found.names.tolist() == [task.part_names[part] for part in right]
    np.testing.assert_array_equal(found.points, cloud.numpy())
    assert ((0.9 < found.probabilities) & (found.probabilities <= 1)).all()
    whole = task.view(found, right.numpy())
    assert whole["ids"] == [0, 1] and whole["verdict"] == "IoU 100.0%" and whole["names"] == task.part_names
    assert task.view(found)["verdict"] == ""
    assert set(task.predict(ByPlace(), cloud, Preprocess(4, "random", 9), "Table").parts) == {4}
    points, number = task.inputs(cloud, Preprocess(4, "random", 9), 1)
    assert points.shape == (1, 4, 3) and number.tolist() == [1]
    example = task.example(ByPlace(), 3, 4, 3)
    assert example["category"].tolist() == [0, 1, 0] and example["points"].shape == (3, 4, 3)


def test_settings_that_do_not_suit_parts() -> None:
    random = {"data": {"order": "random", "num_points": 7}}
    task = PartSegmentationTask()
    task.configure(config_from(random, ["optim.label_smoothing=0.3"]))
    assert (task.num_points, task.label_smoothing) == (7, 0.3)
    given = PartSegmentationTask(num_points=9, label_smoothing=0.0)
    given.configure(config_from(random))
    assert (given.num_points, given.label_smoothing) == (9, 0.0)
    assert given.wanted_points(True) is None and given.least_points == 1
    for change, message in (
        ("data.order=fps", "data.order: part segmentation .* expected random, got fps"),
        ("augment.mix=0.5", r"augment\.mix: .* expected 0, got 0\.5"),
        ("augment.lying=0.5", r"augment\.lying: .* expected 0, got 0\.5"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            PartSegmentationTask().configure(config_from(random, [change]))


def test_clouds_without_parts_are_refused() -> None:
    split = Split(torch.randn(2, 9, 3), torch.zeros(2).long(), ("a",))
    task = PartSegmentationTask()
    for ask in (task.facts, task.model_args, task.arrange, task.groups, task.point_labels):
        with pytest.raises(ValueError, match="expected data with a part for each point, got a split without"):
            ask(split)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": 12, "val": 3, "test": 4}
    return write_parts(tmp_path_factory.mktemp("parts") / "own", splits=splits, points=(60, 80))


def make_config(data: Path, *overrides: str, encdec: bool = False, **sections: Any) -> Config:
    args: dict[str, Any] = {"dim": 24, "num_heads": 2, "num_latents": 4, "drop_path": 0.1, "dropout": 0.1}
    if encdec:
        args |= {"embed_dim": 16, "widths": [16, 24], "reductions": [4, 2], "neighbors": 8}
        args |= {"decoder_widths": [24, 16], "decoder_blocks": 1, "context_dim": 8, "head_dim": 16}
    else:
        args |= {"depth": 2, "coord_scale": 6.0}
    stated = {
        "data": {"name": "shapenetpart", "root": str(data), "num_points": 48, "order": "random"},
        "augment": {"scale_low": 0.9, "scale_high": 1.1, "normal_dropout": 0.1, "dropout": 0.1},
        "model": {"name": "bixt_ti_partseg" + ("_encdec" if encdec else ""), "args": args},
        "optim": {"lr": 5e-3, "warmup_epochs": 1.0, "label_smoothing": 0.05},
        "train": {"epochs": 3, "batch_size": 8, "ema_decay": 0.8},
        "run": {"tensorboard": False},
        **sections,
    }
    return config_from(stated, overrides)


def make_trainer(config: Config, run_dir: Path, resume: bool = False) -> Trainer:
    splits, stored = open_splits(config, CPU, ("train", "val"), train="train")
    description = describe(config, splits["train"], stored)
    model, task = build_model(config, description), build_task(config)
    task.set_facts(task.facts(splits["train"]))
    train, val = splits["train"], splits["val"]
    return Trainer(config, model, task, train, val, run_dir, description, resume, progress=False)


@pytest.mark.parametrize("encdec", [False, True])
def test_learns_parts_that_are_slices(data: Path, tmp_path: Path, encdec: bool) -> None:
    settings = ["train.epochs=30", "model.args.drop_path=0", f"run.dir={tmp_path / 'run'}"]
    result = train(make_config(data, *settings, encdec=encdec), device=CPU)
    last = result.last
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"]
    assert last["class_miou_pointnet2"] > 0.6 > 0.4 > rows[0]["val_class_miou_pointnet2"]
    assert set(last) == {"epoch", *SCORES} and set(result.to_dict()) == {"last", "best", "minutes"}
    # The checkpoint alone gives the same scores.
    model = load_model(tmp_path / "run" / "last", "cpu")
    test = open_dataset("shapenetpart", data, "test")
    seen = evaluate(model, test, PartSegmentationTask(test.categories, test.parts_of_category, 48), 3)
    assert seen.metrics == pytest.approx({name: last[name] for name in SCORES})
    stated = model.description
    assert stated.facts["part_names"] == ["body", "handle", "top", "leg", "shelf"]
    assert stated.facts["parts_of_category"] == [[0, 1], [2, 3, 4]]
    assert stated.facts["classes"] == ["Mug", "Table"] and stated.task == "part_segmentation"


def test_resumed_run_is_the_straight_one(data: Path, tmp_path: Path) -> None:
    config = make_config(data)
    make_trainer(config, tmp_path / "straight").fit()
    first = make_trainer(config, tmp_path / "resumed")
    signal_at(first, first.steps_per_epoch)
    with pytest.raises(Stopped):
        first.fit()
    assert first.epoch == 1 and first.totals.steps == 1
    make_trainer(config, tmp_path / "resumed", resume=True).fit()
    assert rows_of(tmp_path / "resumed") == rows_of(tmp_path / "straight")
    runs = (tmp_path / name / "last.safetensors" for name in ("resumed", "straight"))
    assert_same(*map(weights, runs))


def test_run_of_an_earlier_version_is_resumed(data: Path, tmp_path: Path) -> None:
    """Which called the task otherwise, and features by their channels."""
    config = make_config(data, "train.epochs=2")
    make_trainer(config, tmp_path / "straight").fit()
    first = make_trainer(config, tmp_path / "resumed")
    signal_at(first, first.steps_per_epoch)
    with pytest.raises(Stopped):
        first.fit()
    state = load_state(tmp_path / "resumed" / "resume.pt")
    described = json.loads(state["description"])
    del described["preprocess"]["features"]
    state["description"] = json.dumps({**described, "task": "part segmentation"})
    torch.save(state, tmp_path / "resumed" / "resume.pt")
    make_trainer(config, tmp_path / "resumed", resume=True).fit()
    assert rows_of(tmp_path / "resumed") == rows_of(tmp_path / "straight")
    # In other features it is another run.
    with pytest.raises(ValueError, match=r"preprocess.features was .'normal'.*, now it would be "):
        make_trainer(make_config(data, "data.features=[]"), tmp_path / "resumed", resume=True)


def test_every_epoch_draws_other_points_and_labels_go_along(data: Path, tmp_path: Path) -> None:
    still = ["augment.scale_low=1", "augment.scale_high=1", "augment.shift=0", "augment.normal_dropout=0"]
    trainer = make_trainer(make_config(data, *still), tmp_path / "run")
    whole = open_dataset("shapenetpart", data, "train")
    assert whole.parts is not None
    place = {
        tuple(p): int(part)
        for p, part in zip(whole.points.flatten(0, 1).tolist(), whole.parts.flatten().tolist(), strict=True)
    }
    drawn = []
    for epoch in (0, 1):
        batch = next(trainer.loader.epoch(epoch))
        assert batch.points.shape == (8, 48, 6) and batch.parts is not None and batch.count is None
        for cloud, parts in zip(batch.points.tolist(), batch.parts.tolist(), strict=True):
            assert [place[tuple(point)] for point in cloud] == parts
        drawn.append({tuple(point) for cloud in batch.points.tolist() for point in cloud})
    assert drawn[0] != drawn[1]


def test_without_normals(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(data, "data.normals=false"), tmp_path / "run")
    assert next(trainer.loader.epoch(0)).points.shape == (8, 48, 3)
    assert trainer.description.model["args"]["in_dims"] == 3
    assert trainer.description.preprocess.features == ()


def test_not_told_the_category(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(data, "model.args.num_categories=0"), tmp_path / "run")
    trainer.fit()
    assert math.isfinite(rows_of(tmp_path / "run")[-1]["val_class_miou_pointnet2"])


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    from bixt3d.datasets.synthetic.shapes import write_shapes

    write_shapes(tmp_path, per_class=3, num_points=64, progress=False)
    with pytest.raises(ValueError, match="expected data with a part for each point, got a split without"):
        open_splits(make_config(tmp_path, "data.name=shapes"), CPU, ("test",))
    with pytest.raises(ValueError, match="model.args.num_parts: expected 5, as the data have, got 4"):
        make_trainer(make_config(data, "model.args.num_parts=4"), tmp_path / "run")
    with pytest.raises(ValueError, match="data.order: .* expected random, got stored"):
        build_task(make_config(data, "data.order=stored"))
    with pytest.raises(ValueError, match=r"^augment\.mix: .* expected 0, got 0\.5"):
        build_task(make_config(data, "augment.mix=0.5"))


def test_a_classifier_takes_the_categories_of_part_data(data: Path, tmp_path: Path) -> None:
    model = {"name": "bixt_ti_cls", "args": {"dim": 24, "depth": 2}}
    result = train(make_config(data, f"run.dir={tmp_path / 'run'}", model=model), device=CPU)
    assert set(result.last) == {"epoch", "oa", "macc"}
    header = json.loads((tmp_path / "run" / "result.json").read_text())
    assert header["last"] == result.last


def test_other_parts_than_the_checkpoint_knows_are_refused(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(data, "train.epochs=1"), tmp_path / "run")
    trainer.fit()
    parts = {"Mug": {"body": 0, "handle": 2}, "Table": {"top": 1, "leg": 3, "shelf": 4}}
    other = write_parts(tmp_path / "other", parts=parts, points=(60, 80))
    same = write_parts(tmp_path / "same", points=(60, 80))
    known, renumbered = (
        evaluate_checkpoint(tmp_path / "run" / "last", overrides=[f"data.root={root}"]).seen.metrics
        for root in (same, other)
    )
    assert renumbered == known  # parts are matched by name
    parts = {"Mug": {"body": 0, "lid": 2}, "Table": {"top": 1, "leg": 3, "shelf": 4}}
    named = write_parts(tmp_path / "named", parts=parts, points=(60, 80))
    with pytest.raises(ValueError, match="Mug: expected the parts .* got body, lid; the model knows body, h"):
        evaluate_checkpoint(tmp_path / "run" / "last", overrides=[f"data.root={named}"])
    with pytest.raises(ValueError, match="cannot resume .* with other settings: parts_of_category was"):
        make_trainer(make_config(other, "train.epochs=2"), tmp_path / "run", resume=True)


def test_evaluating_again_gives_the_same(data: Path, tmp_path: Path) -> None:
    make_trainer(make_config(data, "train.epochs=1", encdec=True), tmp_path / "run").fit()
    first, split, out, _ = evaluate_checkpoint(tmp_path / "run" / "last", "val")
    for batch_size in (1, 5):
        other = [f"train.eval_batch_size={batch_size}"]
        again = evaluate_checkpoint(tmp_path / "run" / "last", "val", overrides=other).seen
        assert again.metrics == pytest.approx(first.metrics, abs=1e-3)
    assert len(split) == 6 and json.loads((out / "result.json").read_text())["shapes"] == 6
