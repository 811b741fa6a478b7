from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d.datasets.loader import Batch
from bixt3d.tasks import Description, PartSegmentationTask
from bixt3d.training import ClassificationTask, evaluate, load_checkpoint, resume
from bixt3d.training.resume import load_state
from tests.markers import slow
from tests.training.tiny import (
    CALM,
    CLASSES,
    assert_same,
    contents,
    make_config,
    make_split,
    make_trainer,
    rows_of,
    weights,
)


def test_run_folder_holds_what_a_run_is(tmp_path: Path) -> None:
    config = make_config("train.epochs=2", "data.root=somewhere")
    make_trainer(tmp_path / "deep" / "run", config).fit()
    run_dir = tmp_path / "deep" / "run"
    assert set(contents(run_dir)) == {
        ".bixt3d_run",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "last.safetensors",
        "best.safetensors",
        "resume.pt",
        "resume.pt.previous",
    }
    assert bixt3d.load_config(run_dir / "config.yaml") == config
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert {"command", "commit", "python", "numpy", "cuda", "gpu", "processor"} <= set(environment)
    rows = rows_of(run_dir, timed=True)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8)]
    names = {"epoch", "step", "lr", "skipped", "train_loss", "train_oa", "train_macc"}
    names |= {"val_loss", "val_oa", "val_macc", "seconds", "clouds_per_second"}
    assert all(set(row) == names for row in rows)
    assert all(row["clouds_per_second"] > 0 and math.isfinite(row["train_loss"]) for row in rows)


def test_settings_of_every_kind_in_a_run_reload(tmp_path: Path) -> None:
    """Lists, dictionaries, null, and texts that look like something else."""
    odd = ["data.features=[]", "data.root='1e-3'", "model.args.coord_scale=1e-3", "optim.min_lr=1e-30"]
    config = make_config(*odd, "task=classification", "train.epochs=1", hierarchy=True)
    make_trainer(tmp_path, config).fit()
    again = bixt3d.load_config(tmp_path / "config.yaml")
    assert again == config
    assert again.data.features == () and again.model.args["widths"] == [12, 16]


def test_training_learns(tmp_path: Path) -> None:
    config = make_config(*CALM, "train.epochs=8", "optim.lr=1e-2", "optim.label_smoothing=0")
    trainer = make_trainer(tmp_path, config)
    before = trainer.evaluate(make_split(40, seed=2)).metrics["oa"]
    trainer.fit()
    rows = rows_of(tmp_path)
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    assert trainer.evaluate(make_split(40, seed=2)).metrics["oa"] > before + 0.5


def test_rows_tell_the_rate_and_the_mean_loss(tmp_path: Path) -> None:
    """At a rate of almost nothing the weights stay, and the head at zero gives ln K for every cloud."""
    config = make_config("optim.lr=1e-30", "optim.min_lr=0", "train.epochs=1", "train.ema_decay=0")
    make_trainer(tmp_path, config).fit()
    (row,) = rows_of(tmp_path)
    assert row["train_loss"] == pytest.approx(math.log(4), rel=1e-5)
    assert row["val_loss"] == pytest.approx(math.log(4), rel=1e-5)
    assert 0 < row["lr"] <= 1e-30


class Stopping(ClassificationTask):
    """Stops like Ctrl-C or a kill at the given training batch."""

    def __init__(self, at: int, smoothing: float) -> None:
        super().__init__(CLASSES, smoothing)
        self.left = at

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if logits.requires_grad:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().loss(logits, batch)


@pytest.mark.parametrize("batches", [8, 11], ids=["between epochs", "within an epoch"])
@pytest.mark.parametrize("average", [0.8, 0.0], ids=["average", "no average"])
@pytest.mark.parametrize("hierarchy", [False, True], ids=["naive", "hierarchy"])
def test_interrupted_run_ends_as_one_in_one_go(
    hierarchy: bool, average: float, batches: int, tmp_path: Path
) -> None:
    config = make_config(f"train.ema_decay={average}", hierarchy=hierarchy)
    make_trainer(tmp_path / "straight", config).fit()

    task = Stopping(batches, config.optim.label_smoothing)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "stopped", config, task=task).fit()
    assert load_state(tmp_path / "stopped" / "resume.pt")["epoch"] == 2
    torch.manual_seed(77)  # whatever state a new process starts in
    make_trainer(tmp_path / "stopped", config, resume=True).fit()

    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "straight")
    for name in ("last", "best"):
        file = f"{name}.safetensors"
        assert_same(weights(tmp_path / "stopped" / file), weights(tmp_path / "straight" / file))
    first, second = (load_state(tmp_path / run / "resume.pt") for run in ("stopped", "straight"))
    assert_same(first["model"], second["model"])
    assert first["best"] == second["best"] and first["epoch"] == second["epoch"] == 3


@pytest.mark.parametrize("settings", [("sgd", 0.1), ("muon", 3e-3)], ids=lambda settings: settings[0])
def test_interrupted_optimizers_keep_their_momentum(settings: tuple[str, float], tmp_path: Path) -> None:
    name, rate = settings
    config = make_config(f"optim.name={name}", f"optim.lr={rate}", "train.epochs=2", "train.ema_decay=0")
    make_trainer(tmp_path / "straight", config).fit()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "stopped", config, task=Stopping(4, config.optim.label_smoothing)).fit()
    make_trainer(tmp_path / "stopped", config, resume=True).fit()
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "straight")
    last = "last.safetensors"
    assert_same(weights(tmp_path / "stopped" / last), weights(tmp_path / "straight" / last))


@pytest.mark.parametrize("before", ["writing the row", "saving"])
def test_stop_between_saving_and_logging_loses_no_row(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    make_trainer(tmp_path / "straight", config).fit()
    trainer = make_trainer(tmp_path / "stopped", config)
    owner, name = (resume, "save_epoch") if before == "saving" else (trainer.log, "row")
    whole = getattr(owner, name)

    def stop_at_the_second(*given: Any) -> None:
        if trainer.epoch == 2:
            raise KeyboardInterrupt
        whole(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, stop_at_the_second)
        trainer.fit()
    make_trainer(tmp_path / "stopped", config, resume=True).fit()
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "straight")


def test_line_cut_off_by_a_crash_is_dropped(tmp_path: Path) -> None:
    config = make_config("train.epochs=2")
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, config, task=Stopping(4, 0.2)).fit()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "step": 8, "lr"')
    make_trainer(tmp_path, config, resume=True).fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2]


def test_more_epochs_go_on_from_a_finished_run(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    before = contents(tmp_path)
    make_trainer(tmp_path, make_config("train.epochs=1"), resume=True).fit()
    after = contents(tmp_path)
    assert all(before[name] == after[name] for name in before if name != "environment.json")
    make_trainer(tmp_path, make_config("train.epochs=3"), resume=True).fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3]


def test_time_adds_up_over_resumes(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    trainer = make_trainer(tmp_path, make_config("train.epochs=2"), resume=True)
    first = trainer.seconds
    trainer.fit()
    rows = rows_of(tmp_path, timed=True)
    assert first == pytest.approx(rows[0]["seconds"], abs=0.01)
    assert trainer.seconds == pytest.approx(rows[0]["seconds"] + rows[1]["seconds"], abs=0.02)


def test_two_small_batches_are_one_large(tmp_path: Path) -> None:
    settings = (*CALM, "train.epochs=2", "train.ema_decay=0", "optim.name=sgd", "optim.lr=0.1")
    whole = make_trainer(tmp_path / "whole", make_config(*settings, "train.batch_size=16"))
    halves = make_trainer(
        tmp_path / "halves", make_config(*settings, "train.batch_size=8", "train.accumulate=2")
    )
    start = {name: value.clone() for name, value in whole.model.state_dict().items()}
    whole.fit()
    halves.fit()
    moved = halves.model.state_dict()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(
            moved[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert any((value - start[name]).abs().max() > 1e-3 for name, value in moved.items())
    for one, other in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "halves"), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_incomplete_accumulation_is_left_out(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.accumulate=3", "train.epochs=1")).fit()
    assert rows_of(tmp_path)[0]["step"] == 1  # 4 batches: 3 for the step


def test_average_follows_its_definition_and_is_what_is_saved(tmp_path: Path) -> None:
    config = make_config("train.ema_decay=0.3", "train.epochs=2", hierarchy=True)
    trainer = make_trainer(tmp_path, config)
    average = {n: v.clone() for n, v in trainer.model.state_dict().items() if v.is_floating_point()}
    train_step, decays = trainer.state.train_step, []

    def follow(*arguments: Any) -> Any:
        taken = train_step(*arguments)
        decays.append(min(0.3, (1 + len(decays)) / (10 + len(decays))))
        for name, value in average.items():
            now = trainer.model.state_dict()[name]
            average[name] = decays[-1] * value + (1 - decays[-1]) * now
        return taken

    trainer.state.train_step = follow  # type: ignore[method-assign]
    trainer.fit()
    assert decays[:3] == [0.1, 2 / 11, 0.25] and decays[3:] == [0.3] * 5
    saved = weights(tmp_path / "last.safetensors")
    for name, value in average.items():
        torch.testing.assert_close(saved[name], value, atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(saved[n], v) for n, v in trainer.model.named_parameters())
    assert "encoder.stages.0.norm.running_mean" in average  # statistics go with the weights
    assert_same(saved, trainer.result.state_dict())


def test_without_average_the_weights_themselves_are_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config("train.ema_decay=0", "train.epochs=1"))
    trainer.fit()
    assert trainer.result is trainer.model
    assert_same(weights(tmp_path / "last.safetensors"), trainer.model.state_dict())


def test_saved_weights_are_the_evaluated(tmp_path: Path) -> None:
    config = make_config("train.epochs=2", hierarchy=True)
    make_trainer(tmp_path, config).fit()
    model, meta = load_checkpoint(tmp_path / "last", "cpu")
    task = ClassificationTask(CLASSES, config.optim.label_smoothing)
    seen = evaluate(model, make_split(22, seed=1), task)
    row = rows_of(tmp_path)[-1]
    assert seen.loss == pytest.approx(row["val_loss"], rel=1e-6)
    assert seen.metrics == {"oa": row["val_oa"], "macc": row["val_macc"]}
    assert meta["classes"] == list(CLASSES) and meta["metrics"]["epoch"] == 2
    stated: dict[str, Any] = {
        "num_points": 32,
        "order": "stored",
        "stored_points": 32,
        "features": [],
        "channels": 3,
    }
    stated |= {"up": None, "estimate_normals": False, "normalization": "max"}
    assert meta["preprocess"] == stated
    assert model.description == Description.from_dict(meta)


class Scripted(ClassificationTask):
    """Gives validation the scores of a list, one for each look."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__(CLASSES)
        self.scores = scores

    def metrics(self, counts: Tensor) -> dict[str, float]:
        validation = int(counts.sum()) == 22
        return {"oa": self.scores.pop(0) if validation else 0.5, "macc": 0.5}


def epoch_of(path: Path) -> int:
    return int(load_checkpoint(path, "cpu")[1]["metrics"]["epoch"])


def test_best_is_the_epoch_of_the_highest_val_score_and_then_of_the_least_loss(tmp_path: Path) -> None:
    config = make_config("train.epochs=5", "train.patience=4")
    make_trainer(tmp_path, config, task=Scripted([0.1, 0.6, 0.3, 0.6, 0.2])).fit()
    rows = rows_of(tmp_path)
    assert epoch_of(tmp_path / "best") == min((2, 4), key=lambda epoch: rows[epoch - 1]["val_loss"]) == 4
    assert epoch_of(tmp_path / "last") == 5
    assert [row["val_oa"] for row in rows_of(tmp_path)] == [0.1, 0.6, 0.3, 0.6, 0.2]


def test_epochs_are_kept_as_they_were_reported(tmp_path: Path) -> None:
    """Each kept file is the average that the log's row scored, and a run that was stopped has the same."""
    config = make_config("train.epochs=5", "train.keep_every=2")
    trainer = make_trainer(tmp_path / "straight", config)
    trainer.fit()
    kept = ["epoch_0002", "epoch_0004"]
    found = sorted(path.stem for path in (tmp_path / "straight").glob("epoch_*"))
    assert found == kept
    for name, row in zip(kept, rows_of(tmp_path / "straight")[1::2], strict=True):
        model, about = load_checkpoint(tmp_path / "straight" / name, "cpu")
        seen = evaluate(model, make_split(22, seed=1), trainer.task)
        assert about["metrics"]["epoch"] == row["epoch"] == int(name[-1])
        assert (seen.loss, seen.metrics["oa"]) == pytest.approx((row["val_loss"], row["val_oa"]))

    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "stopped", config, task=Stopping(10, 0.2)).fit()
    assert not (tmp_path / "stopped/epoch_0004.safetensors").exists()
    make_trainer(tmp_path / "stopped", config, resume=True).fit()
    for name in ("last", "epoch_0002", "epoch_0004"):
        file = f"{name}.safetensors"
        assert_same(weights(tmp_path / "stopped" / file), weights(tmp_path / "straight" / file))


def test_best_survives_a_resume(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=2"), task=Scripted([0.2, 0.9])).fit()
    longer = make_config("train.epochs=4")
    make_trainer(tmp_path, longer, resume=True, task=Scripted([0.3, 0.8])).fit()
    assert epoch_of(tmp_path / "best") == 2
    make_trainer(tmp_path, make_config("train.epochs=5"), resume=True, task=Scripted([0.95])).fit()
    assert epoch_of(tmp_path / "best") == 5


def test_validation_every_other_epoch_and_at_the_end(tmp_path: Path) -> None:
    config = make_config("train.epochs=5", "train.eval_every=2")
    make_trainer(tmp_path, config, task=Scripted([0.3, 0.2, 0.1])).fit()
    assert [row["epoch"] for row in rows_of(tmp_path) if "val_oa" in row] == [2, 4, 5]
    assert epoch_of(tmp_path / "best") == 2


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=2"), has_val=False).fit()
    assert not (tmp_path / "best.safetensors").exists()
    assert epoch_of(tmp_path) == 2  # the folder stands for its last
    assert not any(name.startswith("val_") for row in rows_of(tmp_path) for name in row)


def test_existing_run_is_not_written_over(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="holds a run already.*--resume.*run.dir"):
        make_trainer(tmp_path, make_config("train.epochs=9"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        ("model.args.dim=16",),
        ("model.name=sequential_ti_cls",),
        ("data.num_points=16",),
        ("train.ema_decay=0",),
        ("optim.name=sgd",),
        ("optim.name=muon",),
        ("optim.decay_all=true",),
        ("train.batch_size=8",),
        ("train.accumulate=2",),
        ("train.seed=7",),
        ("data.train_split=trainval",),
    ],
    ids=lambda change: change[0],
)
def test_run_of_other_settings_is_not_resumed_and_stays_whole(change: tuple[str], tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="resume"):
        make_trainer(tmp_path, make_config("train.epochs=2", *change), resume=True)
    assert contents(tmp_path) == before


def test_update_that_breaks_the_weights_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gradient of the epoch is finite: only the weights after it are not."""
    trainer = make_trainer(tmp_path, make_config("train.ema_decay=0", "optim.name=sgd", "optim.clip_norm=0"))
    monkeypatch.setattr(
        "bixt3d.training.trainer.learning_rate", lambda step, *settings: 3e38 if step == 7 else 1e-3
    )
    head = trainer.model.head.linear  # type: ignore[union-attr]
    head.weight.register_hook(lambda grad: grad + 1e3)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match=r"weights hold NaN or infinity after epoch 2.*smaller optim\.lr"):
        trainer.fit()
    assert epoch_of(tmp_path / "last") == 1
    assert all(value.isfinite().all() for value in weights(tmp_path / "last.safetensors").values())
    assert load_state(tmp_path / "resume.pt")["epoch"] == 1


def test_full_disk_keeps_the_run_of_the_epoch_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, make_config())
    whole, saves = torch.save, []

    def fill(state: object, path: Path) -> None:
        saves.append(path)
        if len(saves) == 3:  # at the start, and after each epoch
            path.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        whole(state, path)

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(OSError, match=r"could not save .*resume\.pt.*No space left.*untouched"):
        trainer.fit()
    monkeypatch.undo()
    assert load_state(tmp_path / "resume.pt")["epoch"] == 1
    assert not list(tmp_path.glob(".*.tmp"))
    make_trainer(tmp_path, make_config(), resume=True).fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3]


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """SGD of rate 1 without momentum moves the weights by the gradient, whose norm is cut."""
    settings = (*CALM, "optim.name=sgd", "optim.lr=1", "optim.momentum=0", "optim.weight_decay=0")
    settings += ("optim.warmup_epochs=0", "train.epochs=1", "train.batch_size=64", "train.ema_decay=0")

    def moved(clip: float) -> float:
        config = make_config(*settings, f"optim.clip_norm={clip}")
        trainer = make_trainer(tmp_path / str(clip), config)
        before = torch.cat([value.detach().flatten().clone() for value in trainer.model.parameters()])
        trainer.fit()
        after = torch.cat([value.detach().flatten() for value in trainer.model.parameters()])
        return float((after - before).norm())

    free = moved(0.0)
    assert free > 0.02
    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(100.0) == pytest.approx(free, rel=1e-4)


def test_amp_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.training.device.has_bfloat16", lambda device: True)
    trainer = make_trainer(tmp_path, make_config("train.amp=true", hierarchy=True))
    seen: list[torch.dtype] = []
    trainer.model.head.linear.register_forward_hook(lambda m, i, out: seen.append(out.dtype))  # type: ignore
    trainer.fit()
    assert set(seen) == {torch.bfloat16}
    saved = weights(tmp_path / "last.safetensors")
    assert all(value.dtype == torch.float32 for value in saved.values() if value.is_floating_point())
    assert all(math.isfinite(row["train_loss"]) for row in rows_of(tmp_path))


@slow
def test_compiled_training_is_the_same(tmp_path: Path) -> None:
    settings = (*CALM, "train.epochs=1", "optim.name=sgd", "optim.lr=0.05", "model.args.depth=1")
    make_trainer(tmp_path / "plain", make_config(*settings)).fit()
    make_trainer(tmp_path / "compiled", make_config(*settings, "train.compile=true")).fit()
    plain, compiled = (weights(tmp_path / name / "last.safetensors") for name in ("plain", "compiled"))
    assert set(plain) == set(compiled)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-4, rtol=1e-3)
    (first,), (second,) = rows_of(tmp_path / "plain"), rows_of(tmp_path / "compiled")
    assert first == pytest.approx(second, abs=1e-3)


@pytest.mark.parametrize(
    ("setting", "size", "accumulate"),
    [("train.batch_size=65", 64, 1), ("train.accumulate=5", 16, 4), ("train.batch_size=400", 64, 1)],
)
def test_step_larger_than_the_set_shrinks_with_a_note(
    setting: str, size: int, accumulate: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, make_config(setting, "train.epochs=2"))
    trainer.fit()
    said = (
        f"the training set has 64 clouds: train.batch_size={size} train.accumulate={accumulate} instead of "
    )
    assert [record.message.startswith(said) for record in caplog.records].count(True) == 1
    stated = bixt3d.load_config(tmp_path / "config.yaml").train  # what was done
    assert (stated.batch_size, stated.accumulate) == (size, accumulate)
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2] and trainer.steps_per_epoch == 1
    make_trainer(tmp_path, make_config(setting, "train.epochs=3"), resume=True).fit()


def notes(tmp_path: Path, caplog: pytest.LogCaptureFixture, *settings: str) -> list[str]:
    """What is said at the start of a training of 2 epochs of 4 steps."""
    caplog.clear()
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, make_config("train.epochs=2", "train.eval_every=2", *settings)).fit()
    return [record.message for record in caplog.records]


def test_average_says_over_how_many_steps_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last decay of 8 steps is at most 8 / 17, which averages over 17 / 9 steps."""
    said = notes(tmp_path / "short", caplog, "train.ema_decay=0.3")
    assert said == ["moving average of the weights: over 1 steps in the end"]
    average, warning = notes(tmp_path / "long", caplog, "train.ema_decay=0.99")
    assert average == "moving average of the weights: over 2 steps in the end"
    assert warning == (
        "train.ema_decay=0.99 averages over 100 steps, and this training has 8: expected a smaller one"
    )
    assert notes(tmp_path / "none", caplog, "train.ema_decay=0") == []


def test_warm_up_longer_than_the_training_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = notes(tmp_path / "run", caplog, "optim.warmup_epochs=10", "train.ema_decay=0")
    assert said == [
        "optim.warmup_epochs=10 is longer than the training of 2 epochs: the learning rate only "
        "reaches 20% of optim.lr"
    ]
    assert rows_of(tmp_path / "run")[-1]["lr"] == pytest.approx(3e-3 * 8 / 41)
    assert notes(tmp_path / "equal", caplog, "optim.warmup_epochs=2", "train.ema_decay=0") == []


def test_task_that_knows_no_settings_is_told_them(tmp_path: Path) -> None:
    config, task = make_config("train.epochs=1", "optim.label_smoothing=0.3"), ClassificationTask(CLASSES)
    make_trainer(tmp_path / "run", config, task=task).fit()
    assert task.config == config and task.label_smoothing == 0.3
    told = ClassificationTask(CLASSES, 0.1)
    told.configure(make_config("data.num_points=16"))
    make_trainer(tmp_path / "told", config, task=told)
    assert told.config.data.num_points == 16 and told.label_smoothing == 0.1
    with pytest.raises(ValueError, match="data.order: part segmentation .* expected random, got stored"):
        make_trainer(tmp_path / "parts", config, task=PartSegmentationTask())
    assert not (tmp_path / "parts").exists()


def test_last_clouds_of_an_epoch_that_fill_no_batch_are_left_out(tmp_path: Path) -> None:
    seen: list[int] = []

    class Counting(ClassificationTask):
        def forward(self, model: nn.Module, batch: Batch) -> Tensor:
            if model.training:
                seen.append(len(batch.label))
            return super().forward(model, batch)

    trainer = make_trainer(
        tmp_path, make_config("train.epochs=1"), train=make_split(60), task=Counting(CLASSES)
    )
    trainer.fit()
    assert seen == [16, 16, 16]


def test_tensorboard_receives_the_rows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path, make_config("run.tensorboard=true", "train.epochs=2")).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = rows_of(tmp_path, timed=True)
    for name in ("train_loss", "val_oa", "lr"):
        points = events.Scalars(name)
        assert [point.step for point in points] == [4, 8]
        assert [point.value for point in points] == pytest.approx([row[name] for row in rows])


def test_tensorboard_shows_each_epoch_once_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch that was logged and not saved is trained, and logged, again."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_config("run.tensorboard=true", "train.epochs=3")
    trainer = make_trainer(tmp_path, config)
    save = resume.save_epoch

    def stop_at_the_second(trainer: Any, row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt
        save(trainer, row)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resume, "save_epoch", stop_at_the_second)
        trainer.fit()
    make_trainer(tmp_path, config, resume=True).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("train_loss")] == [4, 8, 12]
