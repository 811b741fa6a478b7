"""The table of runs: what is read from each, means over those of one experiment, and its formats."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch

from bixt3d import cli
from bixt3d.training.checkpoint import save_model
from bixt3d.visualize.run_table import folded, run_rows, text_rows, to_json
from bixt3d.visualize.runs import find_runs
from tests.training.tiny import make_config, make_trainer


def write_run(folder: Path, oa: float, seed: int = 0, lr: float = 0.1, epochs: int = 30) -> Path:
    """A finished run whose validation rises by a hundredth an epoch up to ``oa``."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"train: {{seed: {seed}, epochs: {epochs}}}\noptim: {{lr: {lr}}}\nrun: {{dir: {folder.name}}}\n"
    )
    rows = [
        {"epoch": n, "step": n, "val_oa": oa - (epochs - n) / 100, "val_loss": 1.0, "seconds": 6.0}
        for n in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"last": {"epoch": epochs, "oa": oa - 0.1, "macc": 0.5}, "best": {"oa": 0.7}, "minutes": 4.5}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_what_a_run_says(tmp_path: Path) -> None:
    (row,) = run_rows(find_runs([write_run(tmp_path / "a", 0.9)]))
    assert row.name == "a" and not row.runs
    assert row.values == {
        "parameters": None,
        "epochs": 30,
        "val OA": pytest.approx(0.9),
        "val OA, last 20": pytest.approx(0.9 - 0.095),
        "test OA": pytest.approx(0.8),
        "test mAcc": 0.5,
        "test OA, best epoch": 0.7,
        "minutes": 4.5,
    }


def test_a_run_that_is_not_done(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", 0.9, epochs=5)
    (folder / "result.json").unlink()
    values = run_rows(find_runs([folder]))[0].values
    assert values["minutes"] == 0.5 and values["val OA, last 20"] == pytest.approx(0.88)
    assert "test OA" not in values
    (folder / "metrics.jsonl").write_text("")
    assert run_rows(find_runs([folder]))[0].values == {"parameters": None, "epochs": 0, "minutes": None}


def test_runs_that_repeat_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that was stopped, before its end or in a longer one, and one that had other settings at first."""
    found = [write_run(tmp_path / f"s{seed}", 0.8 + seed / 50, seed) for seed in range(5)]
    (found[2] / "result.json").unlink()
    lines = (found[3] / "metrics.jsonl").read_text().splitlines(keepends=True)
    (found[3] / "metrics.jsonl").write_text("".join(lines[:20]))
    config = (found[4] / "config.yaml").read_text()
    (found[4] / "config.yaml").write_text(
        f"# after epoch 9: train.epochs was 9, now 30; optim.lr was 0.3, now 0.1\n{config}"
    )
    (found[1] / "config.yaml").write_text(
        "# after epoch 9: train.epochs was 9, now 30\n" + (found[1] / "config.yaml").read_text()
    )
    mean = run_rows(find_runs(found))[-1]
    assert mean.runs == ("s0", "s1")
    assert caplog.messages == [
        "s2: it has not ended, 30 of 30 epochs, so no mean counts it",
        "s3: it has not ended, 20 of 30 epochs, so no mean counts it",
        "s4: optim.lr changed on the way, so no mean counts it",
    ]
    caplog.clear()
    assert len(run_rows(find_runs(found[2:3]))) == 1 and not caplog.messages


def test_parameters_are_the_models(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", make_config("train.epochs=1", hierarchy=True))
    trainer.fit()
    count = sum(value.numel() for value in trainer.model.parameters())
    assert run_rows(find_runs([tmp_path / "run"]))[0].values["parameters"] == count
    save_model(tmp_path / "run/last.safetensors", torch.nn.BatchNorm1d(7), trainer.description)
    assert run_rows(find_runs([tmp_path / "run"]))[0].values["parameters"] == 14


def test_means_over_seeds_of_one_experiment(tmp_path: Path) -> None:
    found = [write_run(tmp_path / f"s{seed}", 0.8 + seed / 50, seed) for seed in range(3)]
    other = write_run(tmp_path / "other", 0.5, 7, lr=0.2)
    rows = run_rows(find_runs([*found, other]))
    assert [row.name for row in rows] == ["s0", "s1", "s2", "other", "mean of 3: optim.lr=0.1"]
    mean = rows[-1]
    assert mean.runs == ("s0", "s1", "s2")
    assert mean.values["val OA"] == pytest.approx(0.82) and mean.std["val OA"] == pytest.approx(0.02)
    assert mean.values["epochs"] == 30 and "parameters" not in mean.values
    text = text_rows(rows)
    assert text[0][:3] == ["run", "parameters", "epochs"] and text[0][-1] == "minutes"
    assert text[-1][3] == "82.00 ± 2.00%" and text[4][3] == "50.00%"
    stated = json.loads(to_json(rows))
    assert len(stated["runs"]) == 4 and stated["means"][0]["runs"] == ["s0", "s1", "s2"]


def test_copies_of_a_run_are_no_spread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a copied folder, nor a checkpoint of the same training; beside other seeds it counts once."""
    one = write_run(tmp_path / "one", 0.8, 1)
    copied = Path(shutil.copytree(one, tmp_path / "copied"))
    (one / "best.safetensors").touch()
    rows = run_rows(find_runs([one, copied, one / "best"]))
    assert [row.name for row in rows] == ["one", "copied", "one/best"]
    said = "settings, seed and fold of one, so no mean counts it"
    assert [record.getMessage() for record in caplog.records] == [f"copied: {said}", f"one/best: {said}"]
    two = write_run(tmp_path / "two", 0.9, 2)
    assert run_rows(find_runs([one, copied, two]))[-1].runs == ("one", "two")


def test_a_run_of_before_a_setting_belongs_to_those_after(tmp_path: Path) -> None:
    old, new = (write_run(tmp_path / name, 0.8, seed) for seed, name in enumerate(("old", "new")))
    with open(new / "config.yaml", "a") as file:
        file.write("augment: {lying: 0.0}\n")
    assert run_rows(find_runs([old, new]))[-1].runs == ("old", "new")


def test_means_are_named_by_what_differs(tmp_path: Path) -> None:
    found = []
    for seed in range(2):
        for name, args in (("a", "{}"), ("b", "{pool: tokens, widths: [1, 2]}")):
            found.append(write_run(tmp_path / f"{name}{seed}", 0.8, seed))
            with open(found[-1] / "config.yaml", "a") as file:
                file.write(f"model: {{args: {args}}}\n")
    assert [row.name for row in run_rows(find_runs(found)) if row.runs] == [
        "mean of 2: model.args.pool=default, model.args.widths=default",
        "mean of 2: model.args.pool=tokens, model.args.widths=[1, 2]",
    ]
    for folder in found[1::2]:  # too many to name
        with open(folder / "config.yaml", "a") as file:
            file.write("augment: {shift: 0.5, mix: 0.5}\n")
    assert [row.name for row in run_rows(find_runs(found)) if row.runs] == [
        "mean of 2: a0 ...",
        "mean of 2: b0 ...",
    ]


def test_folds_of_one_experiment_belong_together(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"f{fold}", 0.7) for fold in (1, 2)]
    for fold, folder in enumerate(folders, 1):
        with open(folder / "config.yaml", "a") as file:
            file.write(f"data: {{fold: {fold}/2, name: folder}}\n")
    assert run_rows(find_runs(folders))[-1].runs == ("f1", "f2")


def test_the_command_prints_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    runs = [str(write_run(tmp_path / name, oa, seed)) for name, oa, seed in (("a", 0.8, 1), ("b", 0.9, 2))]
    said = {}
    for form in ("table", "markdown", "csv", "json"):
        cli.main(["compare", *runs, "--labels", "one", "two", "--format", form])
        said[form] = capsys.readouterr().out
    assert said["table"].splitlines()[1].split()[:4] == ["one", "-", "30", "80.00%"]
    assert said["markdown"].splitlines()[1].startswith("|---") and "| two " in said["markdown"]
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert [row["run"] for row in rows] == ["one", "two", "mean of 2: one ...", "std of 2: one ..."]
    assert float(rows[3]["val OA"]) == pytest.approx(statistics.stdev([0.8, 0.9]), rel=1e-5)
    assert json.loads(said["json"])["runs"][1]["test OA"] == pytest.approx(0.8)
    cli.main(["compare", *runs, "--format", "json", "--out", str(tmp_path / "t" / "x.json")])
    assert len(json.loads((tmp_path / "t" / "x.json").read_text())["runs"]) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("result.json", "{", "result.json is damaged: no JSON"),
        ("result.json", "[1]", "expected the result of a training"),
        ("config.yaml", "a: [", "config.yaml is damaged: no YAML"),
        ("config.yaml", "3", "expected settings, got 3"),
        ("last.safetensors", "xx", "expected a safetensors file"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl, line 1 is damaged"),
    ],
)
def test_damage_is_named(name: str, content: str, words: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", 0.9)
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        run_rows(find_runs([folder]))


def test_an_evaluation_is_no_training(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("class,shapes,accuracy\na,1,1.0\n")
    with pytest.raises(FileNotFoundError, match="expected the folder of a training"):
        run_rows(find_runs([tmp_path]))


def test_a_wide_table_is_folded() -> None:
    rows = [["run", "first", "second", "third"], ["a_long_name", "1", "2", "3"]]
    whole, (one, two, three) = folded(rows, 100), folded(rows, 10)
    assert whole == [rows] and one == [["run", "first"], ["a_long_name", "1"]]
    assert [two[0], three[0]] == [["run", "second"], ["run", "third"]]
    pair, alone = folded(rows, 26)  # 11 + 2 + 5 + 2 + 6
    assert pair[0] == ["run", "first", "second"] and alone[1] == ["a_long_name", "3"]
    assert len(folded(rows, 25)) == 3


def test_a_folded_table_has_no_empty_rows_and_titles_of_several_lines() -> None:
    rows = [
        ["run", "test OA of all shapes", "epochs", "test class mIoU", "parameters"],
        ["a_classifier", "90%", "3", "-", "-"],
        ["a_segmenter", "-", "4", "80%", "-"],
    ]
    shapes, both, parts = folded(rows, 30)
    assert shapes == [["", "test OA of"], ["run", "all shapes"], ["a_classifier", "90%"]]
    assert both == [["run", "epochs"], ["a_classifier", "3"], ["a_segmenter", "4"]]
    assert parts == [["", "test class"], ["run", "mIoU"], ["a_segmenter", "80%"]]


def test_the_command_keeps_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ["compare", *(str(write_run(tmp_path / f"a_long_name_{n}", 0.8, n)) for n in range(4))]
    cli.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and sum("minutes" in line for line in lines) == 1
    cli.main([*words, "--out", str(tmp_path / "table.txt")])  # a file is no terminal
    assert len((tmp_path / "table.txt").read_text().splitlines()) == 6
