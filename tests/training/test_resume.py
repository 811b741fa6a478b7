"""The state of a run: whole or the one before, and refused for another run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import bixt3d
from bixt3d.training.resume import load_latest_state, load_state, previous_of, save_state
from tests.training.test_checkpoint import fail_in
from tests.training.tiny import contents, make_config, make_split, make_trainer, rows_of


def test_state_round_trip(tmp_path: Path) -> None:
    state = {
        "epoch": 3,
        "best": -float("inf"),
        "average": None,
        "model": {"w": torch.randn(3, dtype=torch.float64)},
    }
    save_state(tmp_path / "resume.pt", state)
    read = load_state(tmp_path / "resume.pt")
    assert torch.equal(read["model"].pop("w"), state["model"].pop("w"))  # type: ignore[union-attr]
    assert read == state


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_state(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    save_state(path, {"w": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"resume\.pt: cannot resume from it"):
        load_state(path)


def test_state_of_another_kind(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "resume.pt")
    with pytest.raises(ValueError, match="expected the state of a run, got Tensor"):
        load_state(tmp_path / "resume.pt")
    with pytest.raises(FileNotFoundError, match="start without --resume"):
        load_state(tmp_path / "none.pt")


def test_damaged_state_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "resume.pt"
    for number in (1, 2, 3):
        save_state(path, {"number": number})
    assert load_latest_state(path) == ({"number": 3}, True) and not caplog.records
    path.write_bytes(path.read_bytes()[:100])
    assert load_latest_state(path) == ({"number": 2}, False)
    assert "resume.pt: cannot resume from it" in caplog.text and "the state before it" in caplog.text
    save_state(path, {"number": 3}, keep_previous=False)  # the damaged one is not worth keeping
    assert load_state(previous_of(path)) == {"number": 2}
    path.write_bytes(b"damaged")
    previous_of(path).write_bytes(b"damaged too")
    with pytest.raises(ValueError, match=r"resume\.pt\.previous: cannot resume"):
        load_latest_state(path)


def test_damage_inside_a_state_is_noticed(tmp_path: Path) -> None:
    """torch itself reads the changed numbers."""
    path = tmp_path / "resume.pt"
    save_state(path, {"w": torch.full((64,), 7.0)})
    content = path.read_bytes()
    seven = torch.full((64,), 7.0).numpy().tobytes()
    assert seven in content
    path.write_bytes(content.replace(seven, bytes(256)))
    assert torch.load(path)["w"].sum() == 0
    with pytest.raises(ValueError, match=r"resume\.pt: cannot resume from it"):
        load_state(path)


@pytest.mark.parametrize("links", [True, False])
def test_state_before_the_last_is_a_whole_file_at_any_time(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on file systems without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", fail_in("link", OSError(95, "Operation not supported")))
    path, rename, seen = tmp_path / "resume.pt", os.replace, []

    def look(source: Path, target: Path) -> None:
        rename(source, target)
        seen.append({p.name: load_state(p)["number"] for p in tmp_path.glob("resume*")})

    monkeypatch.setattr(os, "replace", look)
    for number in (1, 2, 3):
        save_state(path, {"number": number})
    assert seen == [
        {"resume.pt": 1},
        {"resume.pt": 1, "resume.pt.previous": 1},
        {"resume.pt": 2, "resume.pt.previous": 1},
        {"resume.pt": 2, "resume.pt.previous": 2},
        {"resume.pt": 3, "resume.pt.previous": 2},
    ]


def test_other_clouds_are_not_resumed(tmp_path: Path) -> None:
    """Their epochs have other steps."""
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    with pytest.raises(ValueError, match="other settings: training clouds was 64, now it would be 40"):
        make_trainer(tmp_path, make_config("train.epochs=2"), resume=True, train=make_split(40))


def test_other_clouds_of_the_same_number_are_not_resumed(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    before = contents(tmp_path)
    said = "cannot resume .* with other clouds: 64 of 64 training clouds have changed"
    with pytest.raises(ValueError, match=said):
        make_trainer(tmp_path, make_config("train.epochs=2"), resume=True, train=make_split(seed=3))
    split = make_split()
    split.points[5, 2].add_(0.1)
    with pytest.raises(ValueError, match="other clouds: 1 of 64"):
        make_trainer(tmp_path, make_config("train.epochs=2"), resume=True, train=split)
    assert contents(tmp_path) == before
    rounded = make_split()
    rounded.points.add_(1e-6)  # as another device may
    make_trainer(tmp_path, make_config("train.epochs=2"), resume=True, train=rounded).fit()


def test_state_without_a_fingerprint_is_resumed(tmp_path: Path) -> None:
    """As runs of before saved it."""
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    state = load_state(tmp_path / "resume.pt")
    del state["clouds"]
    torch.save(state, tmp_path / "resume.pt")
    make_trainer(tmp_path, make_config("train.epochs=2"), resume=True).fit()
    assert len(rows_of(tmp_path)) == 2


def test_other_classes_are_not_resumed(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=1")).fit()
    split = make_split()
    other = type(split)(split.points, split.label, ("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="other settings: classes was .*ball"):
        make_trainer(tmp_path, make_config("train.epochs=2"), resume=True, train=other)


def test_settings_of_the_optimizer_hold_after_a_resume(tmp_path: Path) -> None:
    """config.yaml then says 0.3, so 0.3 is what must be applied."""
    make_trainer(tmp_path, make_config("train.epochs=1", "optim.weight_decay=0.01")).fit()
    changed = make_config("train.epochs=2", "optim.weight_decay=0.3")
    trainer = make_trainer(tmp_path, changed, resume=True)
    (optimizer,) = trainer.state.optimizers
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_changed_settings_are_told_and_stay_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.yaml"
    make_trainer(tmp_path, make_config("train.epochs=1", "optim.lr=0.01")).fit()
    plain = path.read_text()
    assert not plain.startswith("#")
    make_trainer(tmp_path, make_config("train.epochs=1", "optim.lr=0.01"), resume=True).fit()
    assert path.read_text() == plain and "other settings" not in caplog.text
    make_trainer(tmp_path, make_config("train.epochs=2", "optim.lr=0.01"), resume=True).fit()
    make_trainer(tmp_path, make_config("train.epochs=3", "optim.lr=0.5"), resume=True).fit()
    marks = [
        "# after epoch 1: train.epochs was 1, now 2",
        "# after epoch 2: optim.lr was 0.01, now 0.5; train.epochs was 2, now 3",
    ]
    assert path.read_text().splitlines()[:3] == [*marks, "task: ''"]
    assert bixt3d.load_config(path).optim.lr == 0.5
    assert all(f"other settings {mark[2:]}" in caplog.text for mark in marks)


def test_a_run_that_is_over_keeps_its_settings(tmp_path: Path) -> None:
    """Nothing is trained, so what is asked for now made nothing."""
    make_trainer(tmp_path, make_config("train.epochs=2", "optim.lr=0.01")).fit()
    before = contents(tmp_path)
    make_trainer(tmp_path, make_config("train.epochs=1", "optim.lr=0.5"), resume=True).fit()
    after = contents(tmp_path)
    assert [after[name] for name in ("config.yaml", "environment.json")] == [
        before[name] for name in ("config.yaml", "environment.json")
    ]


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing to resume from: .*resume\.pt.*without --resume"):
        make_trainer(tmp_path / "run", make_config(), resume=True)
    assert not (tmp_path / "run").exists()  # a refusal leaves no folder behind


def test_foreign_state_is_not_resumed(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "weights": torch.zeros(2)}, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match=r"resume"):
        make_trainer(tmp_path, make_config(), resume=True)


@pytest.mark.parametrize("resume", [False, True], ids=["taken", "empty"])
def test_the_folder_is_looked_at_before_the_data(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(*arguments: Any) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr("bixt3d.training.experiment.open_all", no_data)
    kind, said = (
        (FileNotFoundError, "nothing to resume") if resume else (FileExistsError, "holds a run already")
    )
    if not resume:
        (tmp_path / "last.safetensors").touch()
    with pytest.raises(kind, match=said):
        bixt3d.train(make_config(f"run.dir={tmp_path}"), resume=resume)
