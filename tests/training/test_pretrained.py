from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bixt3d
from bixt3d.config import OptimConfig
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.models.layers import BatchNorm
from bixt3d.tasks import ClassificationTask, Description
from bixt3d.training.checkpoint import save_model
from bixt3d.training.distributed import Workers
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.optim import build_optimizers
from bixt3d.training.pretrained import freeze, start_from
from bixt3d.training.trainer import TrainState
from tests.training.test_train_step import make_batch
from tests.training.tiny import (
    CLASSES,
    HIERARCHY,
    assert_same,
    awaken,
    make_config,
    make_split,
    make_trainer,
    rows_of,
    weights,
)

OTHER = ("cone", "cube", "tube")


def few_classes(count: int = 24) -> Split:
    split = make_split(count)
    return Split(split.points, split.label % len(OTHER), OTHER)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint of a model with grouping, of the four classes, whose every tensor is its own."""
    config = make_config("train.seed=9", hierarchy=True)
    description = describe(config, make_split(), 32)
    model = awaken(build_model(config, description))
    with torch.no_grad():
        for value in model.buffers():
            value.add_(1)
    save_model(tmp_path / "old.safetensors", model, description)
    return tmp_path / "old.safetensors"


def started(path: Path, split: Split, *settings: str) -> tuple[nn.Module, list[str]]:
    config = make_config(f"model.init_from={path}", *settings, hierarchy=True)
    said: list[str] = []
    return build_model(config, describe(config, split, 32), say=said.append), said


def test_the_same_classes_take_everything(trained: Path) -> None:
    model, said = started(trained, make_split())
    assert_same(dict(model.state_dict()), weights(trained))
    count = len(model.state_dict())
    assert said == [
        f"start: {count} of {count} tensors from {trained} (trained on modelnet40); nothing is new"
    ]


def test_other_classes_get_a_new_head(trained: Path) -> None:
    """Also as many of other names: what the old head says would be of other classes."""
    renamed = Split(make_split().points, make_split().label, ("a", "b", "c", "d"))
    for split in (few_classes(), renamed):
        model, said = started(trained, split)
        old, new = weights(trained), dict(model.state_dict())
        fresh = {name for name in new if name.startswith("head.linear")}
        assert fresh == {"head.linear.weight", "head.linear.bias"}
        assert all(bool((new[name] == 0).all()) for name in fresh)
        assert_same(*({n: v for n, v in of.items() if n not in fresh} for of in (new, old)))
        (line,) = said
        assert f"{len(new) - 2} of {len(new)} tensors" in line
        assert line.endswith("new: head.linear.bias, head.linear.weight")


def test_a_run_and_a_shipped_name(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", make_config("train.epochs=1", hierarchy=True))
    trainer.fit()
    model, _ = started(tmp_path / "run", make_split())
    assert_same(dict(model.state_dict()), weights(tmp_path / "run" / "best.safetensors"))
    shipped = bixt3d.load_model("modelnet40_cpu", "cpu")
    other = bixt3d.create_model(
        shipped.description.model["name"], **{**shipped.description.model["args"], "num_classes": 5}
    )
    line = start_from(other, "modelnet40_cpu", {"classes": list("abcde")})
    assert torch.equal(other.encoder.trunk.latents, shipped.encoder.trunk.latents)
    assert "from modelnet40_cpu (trained on modelnet40); new: head.linear.bias, head.linear.weight" in line


@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ("model.args.embed_dim=4", "encoder.stages.0"),
        ("model.args.num_latents=5", r"encoder.trunk.latents is \(1, 4, 12\) there, \(1, 5, 12\) here"),
    ],
)
def test_everything_else_has_to_fit(trained: Path, setting: str, first: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.init_from: .*old.safetensors .*does not fit .*: {first}"):
        started(trained, make_split(), setting)


def test_the_network_of_the_weights_is_named() -> None:
    other = bixt3d.create_model("bixt_nano_cls_hierarchy", num_classes=3)
    with pytest.raises(
        ValueError, match=r"trained with model\.name=bixt_nano_cls_local model\.args\.sampling=prefix$"
    ):
        start_from(other, "modelnet40_cpu")


def test_other_features_are_named(trained: Path) -> None:
    split = make_split()
    six = Split(torch.cat([split.points] * 2, -1), split.label, CLASSES, features=("direction:3",))
    with pytest.raises(ValueError, match=r"encoder\.tokenizer.* it was trained with data\.features=\[\]$"):
        started(trained, six)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"model\.init_from: no checkpoint .*did you mean 'modelnet40_cpu'"
    ):
        started(Path("modelnet40_gpu"), make_split())
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"model\.init_from: .*bad.safetensors is not a whole checkpoint"):
        started(tmp_path / "bad.safetensors", make_split())


def test_a_part_model_takes_all_but_parts_and_categories(tmp_path: Path) -> None:
    def build(parts: int, categories: int) -> nn.Module:
        return bixt3d.create_model(
            "bixt_ti_partseg",
            num_parts=parts,
            num_categories=categories,
            dim=12,
            depth=2,
            num_heads=2,
            num_latents=4,
        )

    about = {
        "task": "part_segmentation",
        "model": {
            "name": "bixt_ti_partseg",
            "args": {
                "num_parts": 5,
                "num_categories": 2,
                "dim": 12,
                "depth": 2,
                "num_heads": 2,
                "num_latents": 4,
            },
        },
        "classes": ["a", "b"],
        "parts_of_category": [[0, 1, 2], [3, 4]],
        "part_names": list("vwxyz"),
        "preprocess": {"num_points": 32, "order": "random", "stored_points": 32, "features": []},
    }
    old, new = build(5, 2), build(7, 3)
    save_model(tmp_path / "parts.safetensors", old, about)
    line = start_from(new, tmp_path / "parts", {"classes": ["a", "b", "c"]})
    assert torch.equal(old.encoder.trunk.latents, new.encoder.trunk.latents)
    assert line.endswith("parts; new: embedding.weight, head.linear.bias, head.linear.weight")


def test_features_of_the_same_width_are_told(tmp_path: Path) -> None:
    """They fit, and mean something else."""
    args = {"num_classes": 2, "in_dims": 4, "dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4}
    model = bixt3d.create_model("bixt_ti_cls", **args)
    there = Preprocess(32, features=("intensity",), divide={"intensity": 4095})
    facts = {"classes": ["a", "b"]}
    about = Description("classification", {"name": "bixt_ti_cls", "args": args}, facts, there)
    save_model(tmp_path / "old.safetensors", model, about)
    line = start_from(model, tmp_path / "old", facts, replace(there, features=("own",), divide={}))
    assert line.endswith(
        "nothing is new; it was trained with data.features=[intensity], here it is [own]; "
        "it was trained with data.divide={intensity: 4095}, here it is {}"
    )
    assert start_from(model, tmp_path / "old", facts, there).endswith("nothing is new")


def test_a_given_model_is_not_started_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config("model.init_from=gone.pth", "train.epochs=1", f"run.dir={tmp_path / 'run'}")
    model = build_model(make_config(), describe(make_config(), make_split(), 32))
    bixt3d.train(config, train=make_split(), test=make_split(8), model=model, device="cpu")
    assert "model.init_from=gone.pth is not used: a model was given" in capsys.readouterr().out


def make_state(*settings: str) -> TrainState:
    torch.manual_seed(0)
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=len(CLASSES), **HIERARCHY)
    state = TrainState(
        make_config(*settings, hierarchy=True),
        model,
        ClassificationTask(CLASSES),
        torch.device("cpu"),
        Workers(),
        4,
    )
    state.train_mode()
    return state


def copied(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_what_is_frozen_stays_to_the_last_bit() -> None:
    state = make_state("train.freeze=[encoder]")
    before = copied(state.model)
    for step in range(3):
        state.train_step(iter([make_batch(step)]), step)
    changed = {n for n, v in state.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"head.norm.weight", "head.norm.bias", "head.linear.weight", "head.linear.bias"}
    assert any(isinstance(module, BatchNorm) for module in state.model.encoder.modules())
    assert not any(module.training for module in state.model.encoder.modules())
    assert state.model.head.training and state.model.training
    held = {id(value) for one in state.optimizers for group in one.param_groups for value in group["params"]}
    assert held == {id(value) for value in state.model.head.parameters()}


def test_a_frozen_trunk_keeps_no_graph() -> None:
    for settings, kept in (((), True), (("train.freeze=encoder",), False)):
        state, seen = make_state(*settings), []
        state.model.head.register_forward_pre_hook(
            lambda module, given, seen=seen: seen.append(given[0].grad_fn)
        )
        state.train_step(iter([make_batch()]), 0)
        assert (seen[0] is not None) == kept


def test_a_part_of_it_frozen() -> None:
    state = make_state("train.freeze=[encoder.trunk.layers.0, encoder.trunk.latents]")
    before = copied(state.model)
    state.train_step(iter([make_batch()]), 0)
    state.train_step(iter([make_batch(1)]), 1)
    still = {n for n, v in state.model.state_dict().items() if torch.equal(v, before[n])}
    wanted = {n for n in before if n.startswith("encoder.trunk.layers.0.")} | {"encoder.trunk.latents"}
    assert wanted <= still
    assert "encoder.trunk.layers.1.among.ffn.mlp.fc1.weight" not in still


def test_names_that_nothing_has() -> None:
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY)
    with pytest.raises(
        ValueError, match=r"train\.freeze: the model has no 'encodr'; did you mean 'encoder'\?; .*head"
    ):
        freeze(model, ["encodr"])
    with pytest.raises(ValueError, match=r"train\.freeze: encoder, head leave nothing to train"):
        freeze(model, ["encoder", "head"])


def test_a_given_model_is_free_again(tmp_path: Path) -> None:
    config = make_config("train.freeze=[encoder]", "train.epochs=1", f"run.dir={tmp_path / 'run'}")
    model = build_model(make_config(), describe(make_config(), make_split(), 32))
    bixt3d.train(config, train=make_split(), test=make_split(8), model=model, device="cpu")
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "adam"])
def test_the_body_learns_at_its_own_rate(optimizer: str) -> None:
    state = make_state(
        "optim.body_lr_factor=0.1", f"optim.name={optimizer}", "optim.lr=1.0", "optim.warmup_epochs=0"
    )
    state.train_step(iter([make_batch()]), 0)
    names = {id(value): name for name, value in state.model.named_parameters()}
    rates = {
        names[id(value)]: group["lr"]
        for one in state.optimizers
        for group in one.param_groups
        for value in group["params"]
    }
    assert set(rates) == set(names.values())
    assert all(
        rate == pytest.approx(1.0 if name.startswith("head.") else 0.1) for name, rate in rates.items()
    )


def test_a_factor_of_one_changes_nothing_of_the_groups() -> None:
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY)
    plain = [group for one in build_optimizers(model, OptimConfig()) for group in one.param_groups]
    assert len(plain) == 2 and all(group["lr_factor"] == 1.0 for group in plain)
    assert sum(len(group["params"]) for group in plain) == len(list(model.parameters()))
    with pytest.raises(ValueError, match=r"optim\.body_lr_factor: .*got Linear"):
        build_optimizers(nn.Linear(2, 2), OptimConfig(body_lr_factor=0.5))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_of_it_resumes_exactly(trained: Path, tmp_path: Path, optimizer: str) -> None:
    tune = [f"model.init_from={trained}", "train.freeze=[encoder.tokenizer]", "optim.body_lr_factor=0.2"]
    config = make_config(*tune, f"optim.name={optimizer}", hierarchy=True)

    def trainer(folder: str, resume: bool = False) -> Any:
        return make_trainer(tmp_path / folder, config, resume=resume, train=few_classes(), has_val=False)

    trainer("whole").fit()
    parted = trainer("parted")
    parted._train_epoch(_Quiet())
    trainer("parted", resume=True).fit()
    assert_same(*(weights(tmp_path / name / "last.safetensors") for name in ("whole", "parted")))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parted")
    other = make_config(*tune[:1], f"optim.name={optimizer}", hierarchy=True)
    with pytest.raises(ValueError, match=r"train\.freeze was \['encoder.tokenizer'\]"):
        make_trainer(tmp_path / "parted", other, resume=True, train=few_classes(), has_val=False)


class _Quiet:
    """No signal."""

    received = 0
