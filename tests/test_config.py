"""Settings: defaults, keys and types, overrides and presets, ranges, files that cannot be read."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from bixt3d.presets import PART_PRESETS, PRESETS

import bixt3d
from bixt3d.config import CHOICES, Config, OptimConfig, check_config, config_from, load_config

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


class TestDefaults:
    @pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
    def test_an_empty_file(self, load: Load, text: str) -> None:
        assert load(text) == Config()

    def test_the_public_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("train: {epochs: 3}")
        assert bixt3d.load_config(str(tmp_path / "a.yaml")).train.epochs == 3

    def test_every_default_can_be_stated(self) -> None:
        stated = dataclasses.asdict(Config())
        assert config_from(stated) == Config()

    def test_every_setting_can_be_overridden(self, load: Load) -> None:
        defaults = leaves(Config())
        assert len(defaults) > 30
        skipped = {"preset", "model.args", *CHOICES}
        for key, value in defaults.items():
            if key in skipped:
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
            ("train.epochs", "many", "Integer"),
            ("train.epochs", "3.5", "Integer"),
            ("train.epochs", "true", "Integer"),
            ("train.epochs", "null", "int"),
            ("train.epochs", "[3]", "Integer"),
            ("optim.lr", "fast", "Float"),
            ("optim.lr", "true", "Float"),
            ("optim.lr", "null", "float"),
            ("optim.lr", "{x: 1}", "Float"),
            ("train.amp", "maybe", "bool"),
            ("data.name", "[shapes]", "string"),
            ("data.name", "null", "str"),
        ],
    )
    def test_wrong_type(self, load: Load, key: str, value: str, kind: str) -> None:
        section, name = key.split(".")
        with pytest.raises(ValueError, match=rf"experiment\.yaml: {key}: .*{kind}"):
            load(f"{section}: {{{name}: {value}}}")
        with pytest.raises(ValueError, match=rf"^override: {key}: .*{kind}"):
            load("", f"{key}={value}")

    @pytest.mark.parametrize("value", ["null", "3", "[1]", ""])
    def test_a_section_holds_keys(self, load: Load, value: str) -> None:
        with pytest.raises(ValueError, match=r"experiment\.yaml: optim: expected keys and values, got"):
            load(f"optim: {value}")

    @pytest.mark.parametrize("value", ["null", "3", "[1]", "{5: 1}"])
    def test_arguments_of_the_model_have_names(self, load: Load, value: str) -> None:
        with pytest.raises(ValueError, match="model"):
            load(f"model: {{args: {value}}}")

    def test_arguments_of_the_model_may_be_anything(self, load: Load) -> None:
        config = load("model: {args: {dim: 96, widths: [1, 2], use_xyz: true, pool: both}}")
        assert config.model.args == {"dim": 96, "widths": [1, 2], "use_xyz": True, "pool": "both"}
        assert type(config.model.args) is dict
        assert type(config.model.args["widths"]) is list

    def test_no_checkpoint_to_start_from(self, load: Load) -> None:
        assert load("model: {init_from: null}").model.init_from is None
        assert load("model: {init_from: a.pth}").model.init_from == "a.pth"


class TestKeys:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("optimm: {}", "unknown key optimm; did you mean 'optim'?; the top level has: preset, data, "),
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


class TestPresets:
    def test_all_of_them_load(self, load: Load) -> None:
        assert set(PRESETS) == {"bixt3d", "pointmlp"}
        for name, preset in PRESETS.items():
            found = dataclasses.asdict(load(f"preset: {name}"))
            assert found["preset"] == name
            for section, settings in preset.items():
                assert {key: found[section][key] for key in settings} == settings

    def test_pointmlps_recipe(self, load: Load) -> None:
        config = load("preset: pointmlp")
        assert (config.optim.name, config.optim.lr, config.optim.min_lr) == ("sgd", 0.1, 0.005)
        assert (config.optim.momentum, config.optim.weight_decay, config.optim.decay_all) == (0.9, 2e-4, True)
        assert (config.optim.schedule_unit, config.optim.warmup_epochs) == ("epoch", 0)
        assert (config.optim.label_smoothing, config.optim.clip_norm) == (0.2, 1)
        assert (config.train.epochs, config.train.batch_size) == (300, 32)
        assert (config.train.ema_decay, config.train.amp) == (0, False)

    @pytest.mark.parametrize("in_file", [True, False])
    @pytest.mark.parametrize("preset", ["preset: pointmlp", "preset=pointmlp"])
    def test_pointmlps_recipe_for_parts(self, load: Load, in_file: bool, preset: str) -> None:
        """It goes with the model's name, wherever that and the preset are stated."""
        names = "model: {name: bixt_ti_partseg}\ndata: {order: random}\n"
        overrides = [] if in_file else ["model.name=bixt_ti_partseg_encdec", "data.order=random"]
        text = names if in_file else ""
        if ":" in preset:
            config = load(text + preset, *overrides)
        else:
            config = load(text + "optim: {schedule: cosine, lr: 3}", preset, *overrides)
        assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adam", 3e-3, 0)
        optim = config.optim
        assert (optim.schedule, optim.step_epochs, optim.step_factor) == ("step", 40, 0.5)
        assert (config.optim.min_lr, config.optim.label_smoothing, config.optim.clip_norm) == (0.9e-5, 0, 0)
        assert (config.train.epochs, config.train.batch_size) == (350, 32)

    def test_presets_state_the_same_settings(self) -> None:
        """Or one that is switched to would leave something of the other behind."""
        stated = [set(preset["optim"]) - {"momentum", "step_epochs", "step_factor"} for preset in (
            *PRESETS.values(), *PART_PRESETS.values())]
        assert all(keys == stated[0] for keys in stated)

    @pytest.mark.parametrize("text", ["preset: pointmlp\noptim: {lr: 5}", "optim: {lr: 5}\npreset: pointmlp"])
    def test_of_a_file_stands_below_its_keys(self, load: Load, text: str) -> None:
        config = load(text)
        assert (config.optim.lr, config.optim.name) == (5, "sgd")

    @pytest.mark.parametrize("order", [1, -1])
    def test_of_an_override_stands_above_the_file_and_below_the_others(self, load: Load, order: int) -> None:
        text = "optim: {lr: 5, momentum: 0.5, min_lr: 0.03}\ndata: {num_points: 7}"
        config = load(text, *["preset=pointmlp", "optim.min_lr=0.02"][::order])
        assert config.preset == "pointmlp"
        assert (config.optim.lr, config.optim.momentum) == (0.1, 0.9)  # the preset's, not the file's
        assert config.optim.min_lr == 0.02
        assert config.data.num_points == 7

    def test_of_an_override_replaces_that_of_the_file(self, load: Load) -> None:
        config = load("preset: bixt3d", "preset=pointmlp")
        assert (config.preset, config.optim.name, config.train.amp) == ("pointmlp", "sgd", False)

    def test_loading_does_not_change_them(self, load: Load) -> None:
        before = copy.deepcopy(PRESETS)
        load("preset: pointmlp\noptim: {lr: 5}", "optim.momentum=0.1").optim.lr = 9
        assert before == PRESETS

    @pytest.mark.parametrize("value", ["pointmpl", "5", "[pointmlp]", "{pointmlp: 1}"])
    def test_unknown(self, load: Load, value: str) -> None:
        with pytest.raises(ValueError, match=r"experiment\.yaml: .*preset") as error:
            load(f"preset: {value}")
        if value == "pointmpl":
            assert "unknown preset 'pointmpl'; did you mean 'pointmlp'?; known: bixt3d, pointmlp" in str(
                error.value
            )

    def test_unknown_override(self, load: Load) -> None:
        with pytest.raises(ValueError, match="^override: unknown preset 'pointmpl'"):
            load("", "preset=pointmpl")


class TestRanges:
    @pytest.mark.parametrize(
        ("key", "known"),
        [
            ("data.order", ("stored", "fps", "random")),
            ("data.train_split", ("train", "trainval")),
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
        with pytest.raises(ValueError, match=f"^{key}: expected one of .*got 'nothing'") as error:
            load("", f"{key}=nothing")
        assert all(value in str(error.value) for value in known)

    def test_every_setting_with_choices_is_tested(self) -> None:
        optim = {"optim.name", "optim.schedule", "optim.schedule_unit"}
        assert set(CHOICES) == {"data.order", "data.train_split", "train.compile_mode", *optim}

    def test_the_nearest_choice_is_named(self, load: Load) -> None:
        with pytest.raises(ValueError, match="got 'muo'; did you mean 'muon'?"):
            load("optim: {name: muo}")

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

    def test_models_of_parts_draw_their_points(self, load: Load) -> None:
        load("", "model.name=bixt_ti_partseg", "data.order=random")
        with pytest.raises(ValueError, match="data.order: models of parts .* expected random, got stored"):
            load("", "model.name=bixt_ti_partseg")

    def test_models_of_parts_do_not_mix_clouds(self, load: Load) -> None:
        parts = ["model.name=bixt_ti_partseg", "data.order=random"]
        load("", *parts, "augment.mix=0")
        with pytest.raises(ValueError, match=r"^augment\.mix: .* expected 0 for models of parts, got 0\.5"):
            load("", *parts, "augment.mix=0.5")

    def test_of_settings_made_in_python(self) -> None:
        check_config(Config())
        with pytest.raises(ValueError, match="optim.lr: expected more than 0, got -1"):
            check_config(Config(optim=OptimConfig(lr=-1)))


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
        "text", ["optim: [", "optim: {lr: 1", "a: b: c", "\t- x", "run: {dir: ???}", "5"]
    )
    def test_invalid_yaml(self, load: Load, text: str) -> None:
        with pytest.raises(ValueError, match=r"experiment\.yaml is not valid YAML: "):
            load(text)

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"a\.yaml is not valid YAML"):
            load_config(tmp_path / "a.yaml")

    def test_a_list(self, load: Load) -> None:
        with pytest.raises(
            ValueError, match=r"experiment\.yaml: expected keys and values at the top, got list"
        ):
            load("- optim")

    @pytest.mark.parametrize("value", ["${nothere}", "${optim.nothere}", "${nothing:x}", "${"])
    def test_what_cannot_be_resolved(self, load: Load, value: str) -> None:
        with pytest.raises(ValueError, match=r"run\.dir|not valid YAML"):
            load(f"run: {{dir: {value!r}}}")

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


class TestConfigFrom:
    def test_a_saved_config(self, load: Load) -> None:
        config = load("preset: pointmlp\noptim: {lr: 5}\nmodel: {args: {dim: 96}}")
        assert config_from(dataclasses.asdict(config)) == config

    def test_overrides(self) -> None:
        config = config_from({"train": {"epochs": 3}}, ["train.batch_size=5"])
        assert (config.train.epochs, config.train.batch_size) == (3, 5)

    def test_what_is_given_is_left_alone(self) -> None:
        stated = {"preset": "pointmlp", "model": {"args": {"widths": [1]}}}
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
