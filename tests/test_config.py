"""Settings: defaults, keys and types, overrides, ranges, older names, files that cannot be read."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bixt3d
from bixt3d.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    check_config,
    config_from,
    load_config,
    override,
    to_dict,
)
from bixt3d.settings import kinds_of

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load what a YAML file of that text says."""

    def from_text(text: str = "", *overrides: str) -> Config:
        path = tmp_path / "experiment.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return from_text


def leaves(given: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(given):
        value, name = getattr(given, field.name), f"{prefix}{field.name}"
        found |= leaves(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def choices() -> dict[str, tuple[str, ...]]:
    """What may be chosen for every setting that has choices, by its dotted name."""
    return {
        f"{section}.{name}": typing.get_args(kind)
        for section, group in kinds_of(Config).items()
        if dataclasses.is_dataclass(group)
        for name, kind in kinds_of(group).items()
        if typing.get_origin(kind) is typing.Literal
    }


class TestDefaults:
    @pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
    def test_an_empty_file(self, load: Load, text: str) -> None:
        assert load(text) == override(Config(), run={"dir": "runs/experiment"})

    def test_results_always_have_a_folder(self, load: Load) -> None:
        """That of the file's name where none is named, and never the one that one stands in."""
        assert Config().run.dir == config_from({}).run.dir == "runs/unnamed"
        assert load("run: {tensorboard: false}").run.dir == "runs/experiment"
        assert load("run: {dir: elsewhere}").run.dir == "elsewhere"
        assert load("run: {dir: elsewhere}", "run.dir=here").run.dir == "here"
        for nothing in ("''", "' '", "null"):
            with pytest.raises(ValueError, match="run.dir: expected"):
                load(f"run: {{dir: {nothing}}}")

    def test_the_public_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("train: {epochs: 3}")
        assert bixt3d.load_config(str(tmp_path / "a.yaml")).train.epochs == 3

    def test_every_default_can_be_stated(self) -> None:
        stated = to_dict(Config())
        assert config_from(stated) == Config()
        assert json.loads(json.dumps(stated)) == stated

    def test_every_setting_can_be_overridden(self, load: Load) -> None:
        defaults = leaves(load(""))
        assert len(defaults) > 30
        others = {
            "data.features": ("color", "intensity"),
            "data.up": "-z",
            "data.fold": "2/3",
            "data.divide": {"intensity": 4095.0},
            "loss.class_weights": "balanced",
            "loss.ignore": (3,),
            "train.freeze": ("encoder",),
            "run.logger": ("tensorboard", "wandb"),
            "augment.feature_dropout": {"color": 0.5},
            "augment.feature_jitter": {"color": 3.0},
            "model.args": {"dim": 5},
            "task_args": {"radius": 5.0},
        }
        for key, value in defaults.items():
            if key in choices() or key in others:
                continue
            new: Any = "other"
            if isinstance(value, bool):
                new = not value
            elif isinstance(value, int):
                new = value + 1
            elif isinstance(value, float):  # half a share is a share; half of scale_high is below scale_low
                new = value * 2 if key == "augment.scale_high" else (value or 0.5) / 2
            assert new != value, key
            changed = leaves(load("", f"{key}={new}"))
            assert changed == {**defaults, key: new}
            assert type(changed[key]) is type(new)
        for key, new in others.items():
            stated = json.dumps(new)
            assert leaves(load("", f"{key}={stated}")) == {**defaults, key: new}

    def test_settings_do_not_share_state(self, load: Load) -> None:
        load().model.args["dim"] = 3
        assert load().model.args == {}


class TestTypes:
    @pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "0.001", "'1e-3'"])
    def test_numbers_in_scientific_notation(self, load: Load, number: str) -> None:
        for config in (load(f"optim: {{lr: {number}}}"), load("optim: {lr: 7}", f"optim.lr={number}")):
            assert config.optim.lr == 0.001
            assert isinstance(config.optim.lr, float)

    def test_whole_numbers_for_fractions(self, load: Load) -> None:
        warmup = load("optim: {warmup_epochs: 2}").optim.warmup_epochs
        assert warmup == 2
        assert isinstance(warmup, float)

    @pytest.mark.parametrize(
        ("key", "value", "kind"),
        [
            ("train.epochs", "many", "a whole number, got 'many'"),
            ("train.epochs", "3.5", "a whole number, got 3.5"),
            ("train.epochs", "1e3", "a whole number, got 1000.0"),
            ("train.epochs", "true", "a whole number, got True"),
            ("train.epochs", "null", "a whole number, got None"),
            ("train.epochs", "[3]", r"a whole number, got \[3\]"),
            ("optim.lr", "fast", "a number, got 'fast'"),
            ("optim.lr", "true", "a number, got True"),
            ("optim.lr", "null", "a number, got None"),
            ("optim.lr", "{x: 1}", "a number, got {'x': 1}"),
            ("train.amp", "maybe", "true or false, got 'maybe'"),
            ("train.amp", "1", "true or false, got 1"),
            ("data.name", "[shapes]", r"text, got \['shapes'\]"),
            ("data.name", "null", "text, got None"),
            ("data.features", "3", "a list, got 3"),
            ("data.features", "[[color]]", r"text, got \['color'\]"),
            ("augment.feature_jitter", "[color]", r"keys and values, got \['color'\]"),
            ("augment.feature_jitter", "{color: much}", "a number, got 'much'"),
        ],
    )
    def test_wrong_type(self, load: Load, key: str, value: str, kind: str) -> None:
        section, name = key.split(".")
        with pytest.raises(ValueError, match=rf"experiment\.yaml: {key}.*: expected {kind}$"):
            load(f"{section}: {{{name}: {value}}}")
        with pytest.raises(ValueError, match=rf"^override: {key}.*: expected {kind}$"):
            load("", f"{key}={value}")

    @pytest.mark.parametrize("value", ["null", "3", "[1]", ""])
    def test_a_section_holds_keys(self, load: Load, value: str) -> None:
        with pytest.raises(ValueError, match=r"experiment\.yaml: optim: expected keys and values, got"):
            load(f"optim: {value}")

    @pytest.mark.parametrize("value", ["3", "[1]", "{5: 1}"])
    def test_arguments_of_the_model_have_names(self, load: Load, value: str) -> None:
        with pytest.raises(ValueError, match="model"):
            load(f"model: {{args: {value}}}")

    def test_arguments_of_the_model_may_be_anything(self, load: Load) -> None:
        config = load("model: {args: {dim: 96, widths: [1, 2], use_xyz: true, pool: both}}")
        assert config.model.args == {"dim": 96, "widths": [1, 2], "use_xyz": True, "pool": "both"}
        assert type(config.model.args) is dict
        assert type(config.model.args["widths"]) is list

    def test_arguments_of_the_model_are_what_files_hold(self) -> None:
        """Or a run could not write them down."""
        given = {
            "a": np.int64(3),
            "b": (1, np.float32(0.5)),
            "c": Path("x"),
            "d": {"e": np.arange(2)},
            "f": None,
        }
        held = ModelConfig(args=given).args
        assert held == {"a": 3, "b": [1, 0.5], "c": "x", "d": {"e": [0, 1]}, "f": None}
        assert json.loads(json.dumps(held)) == held
        for bad in (object(), {1, 2}, b"x", print):
            with pytest.raises(ValueError, match=r"^model\.args\.act: expected a number, text, .*, got \w+$"):
                ModelConfig(args={"act": bad})

    def test_features_are_named(self, load: Load) -> None:
        for text in ("[color, intensity]", "'color,intensity'"):
            assert load(f"data: {{features: {text}}}").data.features == ("color", "intensity")
        assert load("", "data.features=color,intensity").data.features == ("color", "intensity")
        assert load("data: {features: color}").data.features == ("color",)
        assert load("data: {features: []}").data.features == ()
        assert load("data: {features: null}").data.features is load("").data.features is None
        config = load("augment: {feature_jitter: {color: 1}}", "augment.feature_jitter.intensity=0.5")
        assert config.augment.feature_jitter == {"color": 1.0, "intensity": 0.5}

    def test_no_checkpoint_to_start_from(self, load: Load) -> None:
        assert load("model: {init_from: null}").model.init_from is None
        assert load("model: {init_from: a.pth}").model.init_from == "a.pth"


class TestKeys:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("optimm: {}", "unknown key optimm; did you mean 'optim'?; the top level has: task, data, "),
            ("optim: {learning: 1}", "unknown key optim.learning"),
            (
                "optim: {weight_decy: 1}",
                "unknown key optim.weight_decy; did you mean 'weight_decay'?; optim has: name, lr",
            ),
            ("train: {epoch: 1}", "unknown key train.epoch; did you mean 'epochs'?"),
            ("model: {arg: {}}", "unknown key model.arg; did you mean 'args'?"),
            ("5: 3", "unknown key 5"),
            ("zzz: 3", "unknown key zzz; the top level has"),  # nothing is near
        ],
    )
    def test_unknown_key(self, load: Load, text: str, message: str) -> None:
        with pytest.raises(ValueError) as error:
            load(text)
        assert message in str(error.value)
        assert "experiment.yaml: " in str(error.value)

    @pytest.mark.parametrize("override", ["optim.weight_decy=1", "optimm.lr=1", "lr=1", "optim..lr=1", "=1"])
    def test_unknown_key_of_an_override(self, load: Load, override: str) -> None:
        with pytest.raises(ValueError, match="^override: unknown key"):
            load("", override)

    def test_a_key_twice(self, load: Load) -> None:
        with pytest.raises(ValueError, match="(?s)not valid YAML.*duplicate key"):
            load("train: {epochs: 3, epochs: 4}")


class TestOverrides:
    def test_stand_above_the_file(self, load: Load) -> None:
        config = load("optim: {lr: 5, momentum: 0.5}", "optim.lr=7")
        assert (config.optim.lr, config.optim.momentum) == (7, 0.5)

    def test_the_last_one_counts(self, load: Load) -> None:
        assert load("", "optim.lr=5", "optim.lr=7").optim.lr == 7

    def test_of_the_models_arguments(self, load: Load) -> None:
        config = load("model: {args: {dim: 5, depth: 3}}", "model.args.dim=96", "model.args.widths=[1,2]")
        assert config.model.args == {"dim": 96, "depth": 3, "widths": [1, 2]}

    def test_nothing_replaces_the_models_arguments(self, load: Load) -> None:
        """They are of a model that another name replaces."""
        for cleared in ("model.args=null", "model.args={}"):
            config = load("model: {name: a, args: {dim: 5, depth: 3}}", "model.name=b", cleared)
            assert (config.model.name, config.model.args) == ("b", {})
        filled = load("model: {args: {dim: 5}}", "model.args={}", "model.args.depth=3")
        assert filled.model.args == {"depth": 3}
        assert load("run: {}").run.dir == load("").run.dir

    def test_values_may_hold_an_equals_sign(self, load: Load) -> None:
        assert load("", "run.dir=runs/lr=3").run.dir == "runs/lr=3"

    @pytest.mark.parametrize("override", ["optim.lr", "", "optim.lr:3"])
    def test_key_and_value(self, load: Load, override: str) -> None:
        with pytest.raises(ValueError, match="expected key=value, such as optim.lr=1e-3") as error:
            load("", override)
        assert repr(override) in str(error.value)

    def test_invalid_value(self, load: Load) -> None:
        with pytest.raises(ValueError, match=r"overrides optim\.lr=\["):
            load("", "optim.lr=[")

    def test_no_value(self, load: Load) -> None:
        with pytest.raises(ValueError, match=r"override: optim\.lr"):
            load("", "optim.lr=")

    def test_a_section_is_no_value(self, load: Load) -> None:
        with pytest.raises(ValueError, match="override: optim: expected keys and values, got 3"):
            load("", "optim=3")


class TestOlderNames:
    @pytest.mark.parametrize("where", ["file", "override", "dictionary"])
    def test_bundles_of_settings_are_gone(self, load: Load, where: str) -> None:
        """A file that names one would else be trained with other settings than it means."""
        with pytest.raises(ValueError, match="unknown key preset; the top level has: task, data"):
            if where == "file":
                load("preset: pointmlp\noptim: {lr: 5}")
            else:
                load("", "preset=pointmlp") if where == "override" else config_from({"preset": "pointmlp"})

    def test_shipped_weights_name_no_bundle(self) -> None:
        stated = {**to_dict(override(Config(), optim={"name": "sgd", "lr": 0.1})), "preset": ""}
        config = config_from(stated)
        assert (config.optim.name, config.optim.lr) == ("sgd", 0.1)
        assert "preset" in stated  # what is given is left alone

    def test_a_checkpoint_without_a_folder(self) -> None:
        stated = {"run": {"dir": "", "tensorboard": False}}
        config = config_from(stated)
        assert config.run.dir == "runs/unnamed" and not config.run.tensorboard
        assert stated["run"] == {"dir": "", "tensorboard": False}

    @pytest.mark.parametrize(("normals", "features"), [("true", None), ("false", ())])
    def test_normals(self, load: Load, normals: str, features: tuple[str, ...] | None) -> None:
        assert load(f"data: {{normals: {normals}, num_points: 5}}").data.features == features
        assert load("data: {num_points: 5}", f"data.normals={normals}").data.features == features
        assert config_from({"data": {"normals": normals == "true"}}).data.features == features

    def test_features_go_before_normals(self, load: Load) -> None:
        assert load("data: {normals: false, features: [color]}").data.features == ("color",)
        assert load("data: {features: [color]}", "data.normals=false").data.features == ()
        with pytest.raises(ValueError, match="data.normals: expected true or false, got 'some'"):
            load("data: {normals: some}")


class TestPython:
    """Settings that are built or changed in Python are checked as those of a file."""

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: OptimConfig(name="SGD"),
                "optim.name: expected one of adamw, muon, sgd, adam, got 'SGD'",
            ),
            (lambda: OptimConfig(lr=-1), "optim.lr: expected more than 0, got -1"),
            (lambda: TrainConfig(epochs=0), "train.epochs: expected more than 0, got 0"),
            (lambda: TrainConfig(epochs=2.5), "train.epochs: expected a whole number, got 2.5"),
            (lambda: TrainConfig(epochs=True), "train.epochs: expected a whole number, got True"),
            (lambda: TrainConfig(seed=-1), "train.seed: expected 0 to 2.*63 - 1, got -1"),
            (
                lambda: TrainConfig(seed=1 << 63),
                "train.seed: expected 0 to 2.*63 - 1, got 9223372036854775808",
            ),
            (lambda: TrainConfig(ema_decay=1.5), "train.ema_decay: expected 0 <= value < 1, got 1.5"),
            (lambda: TrainConfig(ema_decay=np.float64(1.5)), "train.ema_decay: expected .*, got 1.5"),
            (lambda: DataConfig(order=None), "data.order: expected one of stored, fps, random, got None"),
            (
                lambda: DataConfig(num_points=10**8),
                "data.num_points: expected up to 10,000,000, got 100000000",
            ),
            (
                lambda: AugmentConfig(feature_dropout={"color": 1.0}),
                "augment.feature_dropout: expected 0 <= ",
            ),
            (
                lambda: DataConfig(divide={"intensity": 0.0}),
                "data.divide: expected more than 0 a feature, got ",
            ),
            (
                lambda: AugmentConfig(feature_jitter={3: 1.0}),
                "augment.feature_jitter: expected keys and values",
            ),
            (lambda: TrainConfig(epoch=3), "unknown key train.epoch; did you mean 'epochs'"),
            (lambda: Config(trian=TrainConfig()), "unknown key trian; did you mean 'train'"),
            (lambda: Config(train=OptimConfig()), r"train: expected keys and values, got OptimConfig\("),
            (lambda: Config(train={"epochs": 0}), "train.epochs: expected more than 0, got 0"),
            (lambda: Config(train=3), "train: expected keys and values, got 3"),
            (lambda: override(Config(), train={"epochs": 0}), "train.epochs: expected more than 0, got 0"),
            (
                lambda: override(Config(), train={"epoch": 1}),
                "unknown key train.epoch; did you mean 'epochs'",
            ),
            (lambda: override(Config(), train=3), "train: expected keys and values, got 3"),
            (lambda: override(Config(), trian={}), "unknown key trian; did you mean 'train'"),
            (
                lambda: dataclasses.replace(TrainConfig(), epochs=0),
                "train.epochs: expected more than 0, got 0",
            ),
            (lambda: dataclasses.replace(TrainConfig(), epoch=1), "unknown key train.epoch; did you mean"),
            (
                lambda: setattr(Config().train, "epochs", 3),
                "train.epochs: settings are frozen: expected data",
            ),
            (lambda: setattr(Config().train, "epoch", 3), "unknown key train.epoch; did you mean 'epochs'"),
            (
                lambda: setattr(Config(), "task", "x"),
                "task: settings are frozen: expected dataclasses.replace",
            ),
            (lambda: delattr(Config().train, "epochs"), "train.epochs: settings are frozen"),
        ],
    )
    def test_mistakes_are_refused_at_once(self, make: Callable[[], Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{message}"):
            make()

    def test_numbers_of_numpy_and_paths_are_taken(self) -> None:
        config = Config(
            data=DataConfig(root=Path("a") / "b", num_points=np.int64(5), features=["color"]),
            optim=OptimConfig(lr=np.float32(0.5), warmup_epochs=1),
            train=TrainConfig(epochs=np.int32(3), amp=np.bool_(True)),
            model=ModelConfig(init_from=Path("a.pth")),
            run=RunConfig(dir=Path("~/runs") / "x"),
        )
        assert (config.data.root, config.data.num_points, config.data.features) == ("a/b", 5, ("color",))
        assert (config.model.init_from, config.run.dir) == ("a.pth", "~/runs/x")
        assert (config.optim.lr, config.optim.warmup_epochs) == (0.5, 1.0)
        assert (config.train.epochs, config.train.amp) == (3, True)
        plain = {type(value) for value in leaves(config).values()}
        assert plain <= {str, int, float, bool, dict, tuple, type(None)}
        assert config_from(json.loads(json.dumps(to_dict(config)))) == config

    def test_dictionaries_stand_for_sections(self) -> None:
        assert Config(train={"epochs": 3}) == override(Config(), train={"epochs": 3})
        assert override(Config(), train=TrainConfig(epochs=3)).train.epochs == 3
        assert override(Config(), task="classification", data={"num_points": 5}).task == "classification"
        assert override(Config(), data={"num_points": 5}, train={"epochs": 3}) == config_from(
            Config(), ["data.num_points=5", "train.epochs=3"]
        )

    def test_the_original_stays(self) -> None:
        config = Config()
        assert override(config, train={"epochs": 3}) != config == Config()
        assert load_config(config, ["train.epochs=3"]).train.epochs == 3 and config == Config()

    def test_what_got_around_the_checks_is_found_when_used(self) -> None:
        config = Config()
        assert check_config(config) == config
        object.__setattr__(config.train, "epochs", 0)
        config.model.args[3] = "three"
        with pytest.raises(ValueError, match=r"^model\.args: expected keys and values, got {3: 'three'}"):
            check_config(config)
        del config.model.args[3]
        for use in (check_config, bixt3d.train):
            with pytest.raises(ValueError, match="^train.epochs: expected more than 0, got 0"):
                use(config)

    def test_copies_are_equal(self) -> None:
        config = override(Config(), model={"args": {"widths": [1, 2]}}, data={"features": ["color"]})
        for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
            assert again == config
        deep = copy.deepcopy(config)
        deep.model.args["widths"].append(3)
        assert config.model.args == {"widths": [1, 2]}


class TestRanges:
    @pytest.mark.parametrize(
        ("key", "known"),
        [
            ("data.order", ("stored", "fps", "random")),
            ("data.train_split", ("train", "trainval")),
            ("data.normalization", ("max", "robust")),
            ("augment.turn", ("none", "quarter", "axes")),
            ("optim.name", ("adamw", "muon", "sgd", "adam")),
            ("optim.schedule", ("cosine", "step")),
            ("optim.schedule_unit", ("step", "epoch")),
            ("train.compile_mode", ("default", "reduce-overhead", "max-autotune")),
        ],
    )
    def test_choices(self, load: Load, key: str, known: tuple[str, ...]) -> None:
        for value in known:
            section, name = key.split(".")
            assert getattr(getattr(load("", f"{key}={value}"), section), name) == value
        assert choices()[key] == known
        with pytest.raises(ValueError, match=f"^override: {key}: expected one of .*got 'nothing'") as error:
            load("", f"{key}=nothing")
        assert all(value in str(error.value) for value in known)

    def test_every_setting_with_choices_is_tested(self) -> None:
        optim = {"optim.name", "optim.schedule", "optim.schedule_unit"}
        data = {"data.order", "data.train_split", "data.normalization"}
        assert set(choices()) == {*data, "augment.turn", "train.compile_mode", *optim}

    def test_the_nearest_choice_is_named(self, load: Load) -> None:
        with pytest.raises(ValueError, match=r"got 'muo'; did you mean 'muon'\?$"):
            load("optim: {name: muo}")
        with pytest.raises(ValueError, match="got None$"):
            load("optim: {name: null}")

    @pytest.mark.parametrize(
        ("key", "bad", "good"),
        [
            ("data.num_points", (0, -1), (1,)),
            ("train.epochs", (0, -1), (1,)),
            ("train.batch_size", (0,), (1,)),
            ("train.accumulate", (0,), (1,)),
            ("train.eval_batch_size", (0,), (1,)),
            ("train.eval_every", (0,), (1,)),
            ("optim.lr", (0, -1, ".nan", ".inf"), (1e-5,)),
            ("augment.scale_low", (0, -1), (0.1,)),
            ("train.ema_decay", (-0.1, 1, ".nan"), (0, 0.999)),
            ("optim.label_smoothing", (-0.1, 1), (0, 0.9)),
            ("augment.dropout", (-0.1, 1), (0, 0.9)),
            ("augment.thin", (-0.1, 1), (0, 0.9)),
            ("augment.mix", (-0.1, 1.1, ".nan"), (0, 0.5, 1)),
            ("augment.mirror", (-0.1, 1), (0, 0.9)),
            ("augment.bend", (-0.1, 1), (0, 0.9)),
            ("augment.lying", (-0.1, 1), (0, 0.9)),
            ("train.keep_every", (-1,), (0, 1)),
            ("augment.normal_dropout", (-0.1, 1), (0, 0.9)),
            ("data.divide.intensity", (), (0.5, 4095)),
            ("augment.feature_dropout.color", (), (0, 0.9)),
            ("augment.feature_jitter.color", (), (0, 3)),
            ("train.seed", (-1, 1 << 63), (0, (1 << 63) - 1)),
            ("train.max_skipped", (0,), (1,)),
            ("data.num_points", (10_000_001,), (10_000_000,)),
            ("optim.step_epochs", (0,), (1,)),
            ("optim.step_factor", (0,), (0.5,)),
            ("augment.rotate_degrees", (-0.1, ".nan"), (0, 180)),
            ("optim.momentum", (-0.1, 1), (0, 0.9)),
            ("augment.shift", (-0.1, ".nan", ".inf"), (0, 3)),
            ("augment.jitter_std", (-0.1,), (0, 3)),
            ("augment.jitter_clip", (-0.1,), (0, 3)),
            ("optim.weight_decay", (-0.1,), (0, 3)),
            ("optim.warmup_epochs", (-0.1,), (0, 3)),
            ("optim.clip_norm", (-0.1,), (0, 3)),
            ("optim.min_lr", (-0.1, 3), (0, 1e-3)),
            ("augment.scale_high", (0.5,), (0.7,)),  # scale_low is two thirds
        ],
    )
    def test_numbers(self, load: Load, key: str, bad: Sequence[Any], good: Sequence[Any]) -> None:
        for value in good:
            load("", f"{key}={value}")
        for value in bad:
            with pytest.raises(ValueError, match=f"^{key}: expected .*, got {str(value).strip('.')}"):
                load("", f"{key}={value}")

    @pytest.mark.parametrize("others", [["data.order=fps"], ["augment.shuffle=false"]])
    def test_prefix_sampling_needs_farthest_point_order(self, load: Load, others: list[str]) -> None:
        load("", "model.args.sampling=prefix", "data.order=fps", "augment.shuffle=false")
        with pytest.raises(ValueError, match="prefix .* needs data.order=fps and augment.shuffle=false"):
            load("", "model.args.sampling=prefix", *others)

    @pytest.mark.parametrize(
        ("key", "bad"),
        [("dropout", 1), ("dropout", -0.1), ("jitter", -0.1), ("jitter", ".nan"), ("jitter", ".inf")],
    )
    def test_of_features(self, load: Load, key: str, bad: float) -> None:
        with pytest.raises(
            ValueError, match=f"^augment.feature_{key}: expected .* a feature, got .'color': "
        ):
            load("", f"augment.feature_{key}.color={bad}")

    def test_thinned_clouds_are_not_drawn_again(self, load: Load) -> None:
        load("", "augment.thin=0.5", "data.order=fps")
        with pytest.raises(
            ValueError, match="augment.thin: data.order=random draws other points every epoch"
        ):
            load("", "augment.thin=0.5", "data.order=random")

    def test_clouds_lie_only_where_one_side_is_up(self, load: Load) -> None:
        load("", "augment.lying=0.5", "augment.turn=quarter")
        with pytest.raises(ValueError, match="^augment.lying: expected 0 with augment.turn=axes, .*got 0.5$"):
            load("", "augment.lying=0.5", "augment.turn=axes")

    def test_what_a_task_asks_for_is_left_to_it(self, load: Load) -> None:
        """Settings know no task: it may be the user's own."""
        load("", "model.name=bixt_ti_partseg", "data.order=stored", "augment.mix=0.5")
        assert load("task: whatever\nmodel: {name: my_own}").task == "whatever"


class TestFiles:
    def test_a_missing_file_lists_its_neighbours(self, tmp_path: Path) -> None:
        for name in ("b.yaml", "a.yaml", "notes.txt"):
            (tmp_path / name).write_text("")
        with pytest.raises(FileNotFoundError) as error:
            load_config(tmp_path / "c.yaml")
        assert str(error.value) == f"no config file {tmp_path / 'c.yaml'}; {tmp_path} holds a.yaml, b.yaml"

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no config file .*nowhere.*c.yaml$"):
            load_config(tmp_path / "nowhere" / "c.yaml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no config file"):
            load_config(tmp_path)

    @pytest.mark.parametrize(
        "text", ["optim: [", "optim: {lr: 1", "a: b: c", "\t- x", "? [a, b]\n: 3", "data: !!int ''"]
    )
    def test_invalid_yaml(self, load: Load, text: str) -> None:
        with pytest.raises(ValueError, match=r"experiment\.yaml is not valid YAML: "):
            load(text)

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"a\.yaml is not valid YAML"):
            load_config(tmp_path / "a.yaml")

    @pytest.mark.parametrize(("text", "kind"), [("- optim", "list"), ("5", "int"), ("optim", "str")])
    def test_no_keys(self, load: Load, text: str, kind: str) -> None:
        with pytest.raises(
            ValueError, match=rf"experiment\.yaml: expected keys and values at the top, got {kind}"
        ):
            load(text)

    @pytest.mark.parametrize("value", ["${nothere}", "${optim.lr}", "${oc.env:HOME}", "${nothing:x}", "${"])
    def test_nothing_stands_for_something_else(self, load: Load, value: str) -> None:
        """No variable of the environment is reached, nor another setting."""
        with pytest.raises(
            ValueError, match=r"experiment\.yaml is not valid YAML: run\.dir: expected a value"
        ):
            load(f"run: {{dir: {value!r}}}")
        with pytest.raises(ValueError, match="overrides run.dir="):
            load("", f"run.dir='{value}'")
        for nested in (f"[{value!r}]", f"{{dim: {value!r}}}"):
            with pytest.raises(ValueError, match="model.args.x.*: expected a value"):
                load(f"model: {{args: {{x: {nested}}}}}")

    def test_aliases_are_not_taken(self, load: Load) -> None:
        with pytest.raises(ValueError, match="aliases are not taken"):
            load("data: &d {name: x}\nmodel: {args: {x: *d}}")

    def test_a_large_file(self, load: Load) -> None:
        with pytest.raises(ValueError, match="1,000,000 bytes at most, got a larger file"):
            load("#" * 1_000_001)

    def test_paths_under_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "mine.yaml").write_text("train: {epochs: 3}")
        config = load_config("~/mine.yaml")
        assert config.train.epochs == 3 and config.run.dir == "runs/mine"

    @pytest.mark.parametrize(
        "tag",
        [
            "!!python/object/apply:os.system",
            "!!python/object/new:os.system",
            "!!python/object/apply:subprocess.check_call",
        ],
    )
    def test_nothing_is_executed(self, load: Load, tmp_path: Path, tag: str) -> None:
        trace = tmp_path / "executed"
        value = f"{tag} ['touch {trace}']"
        for text, overrides in (
            (f"run: {value}", []),
            (f"run: {{dir: {value}}}", []),
            (f"model: {{args: {{dim: {value}}}}}", []),
            ("", [f"run.dir={value}"]),
        ):
            with pytest.raises(ValueError, match="could not determine a constructor for the tag"):
                load(text, *overrides)
        assert not trace.exists()


class TestNames:
    def test_the_projects_experiments(self) -> None:
        names = bixt3d.list_configs()
        assert {"modelnet40_cpu", "own_data", "paper_naive"} <= set(names) and names == sorted(names)

    def test_a_name_is_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        config = bixt3d.load_config("modelnet40_cpu", ["train.epochs=3"])
        assert (config.data.num_points, config.train.epochs) == (512, 3)
        assert config.run.dir == "runs/modelnet40_cpu"

    def test_a_file_of_that_name_goes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "modelnet40_cpu").write_text("train: {epochs: 5}")
        assert bixt3d.load_config("modelnet40_cpu").train.epochs == 5

    def test_the_nearest_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match="no config file modelnet40_cpuu.*'modelnet40_cpu'"):
            bixt3d.load_config("modelnet40_cpuu")


class TestConfigFrom:
    def test_a_saved_config(self, load: Load) -> None:
        config = load("data: {features: [color]}\noptim: {lr: 5}\nmodel: {args: {dim: 96, widths: [1]}}")
        assert config_from(to_dict(config)) == config_from(config) == config

    def test_overrides(self) -> None:
        config = config_from({"train": {"epochs": 3}}, ["train.batch_size=5"])
        assert (config.train.epochs, config.train.batch_size) == (3, 5)

    def test_what_is_given_is_left_alone(self) -> None:
        stated = {"preset": "", "model": {"args": {"widths": [1]}}, "run": {"dir": ""}}
        before = copy.deepcopy(stated)
        config_from(stated, ["optim.lr=5", "model.args.widths=[2]"]).model.args["widths"].append(3)
        assert stated == before

    @pytest.mark.parametrize("bad", [None, [], "optim"])
    def test_no_mapping(self, bad: Any) -> None:
        with pytest.raises(ValueError, match="config: expected keys and values at the top"):
            config_from(bad)

    def test_unknown_key(self) -> None:
        with pytest.raises(ValueError, match="config: unknown key optim.lrr; did you mean 'lr'?"):
            config_from({"optim": {"lrr": 1}})
