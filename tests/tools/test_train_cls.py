from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

import bixt3d
from bixt3d.datasets.synthetic.shapes import CATEGORIES
from bixt3d.training.folder import LOCK
from tests.tools.conftest import Trained, Workplace
from tests.training.tiny import contents, rows_of


def test_training_leaves_a_run_and_says_how_it_went(trained: Trained) -> None:
    out, run_dir = trained.outcome.out, trained.run_dir
    assert re.search(r"bixt_ti_cls: [\d,]+ parameters on cpu\nshapes: 70 train, 10 val, 20 test", out)
    shown = r"^epoch (\d)/3  loss \d\.\d+  val oa [\d.]+%  val macc [\d.]+%  \d+ clouds/s$"
    assert re.findall(shown, out, re.M) == list("123")
    assert all(len(line) <= 80 for line in out.splitlines() if line.startswith("epoch"))
    told = r"^test, (last epoch|epoch \d, best on val):\nOA    [\d.]+%\nmAcc  [\d.]+%$"
    assert len(re.findall(told, out, re.M)) == 2
    assert {"last.safetensors", "best.safetensors", "resume.pt", "result.json"} <= set(contents(run_dir))
    assert [row["epoch"] for row in rows_of(run_dir)] == [1, 2, 3]
    assert rows_of(run_dir)[0]["step"] == 5
    result = json.loads((run_dir / "result.json").read_text())
    assert result["last"]["epoch"] == 3 and result["best"]["epoch"] in (1, 2, 3)
    assert all(0 <= result[name][score] <= 1 for name in ("last", "best") for score in ("oa", "macc"))
    assert f"OA    {100 * result['last']['oa']:.2f}%" in out
    with open(run_dir / "last_test.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == list(CATEGORIES)
    assert "train_cls.py --cfg" in json.loads((run_dir / "environment.json").read_text())["command"]


def test_settings_of_the_command_line_go_before_the_files(trained: Trained) -> None:
    config = bixt3d.load_config(trained.run_dir / "config.yaml")
    assert config.run.dir == "runs/trained" and config.train.epochs == 3 and config.data.num_points == 48


def test_interrupt_says_how_to_go_on_and_resume_does(workplace: Workplace) -> None:
    """Ctrl-C in a long run."""
    run_dir = workplace.folder / "runs" / "stopped"
    settings = [f"run.dir={run_dir}", f"data.root={workplace.folder / 'data'}", "train.epochs=100000"]
    process = subprocess.Popen(
        workplace.command("train_cls", "--cfg", workplace.config, "--set", *settings),
        cwd=workplace.folder,
        env=workplace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert re.search(r"stopped by SIGINT: the state at step \d+ of 500,000 is saved, continue with", err)
    assert "Traceback" not in err, err
    epochs = len(rows_of(run_dir))
    assert epochs >= 2

    done = workplace.train("stopped", f"train.epochs={epochs + 1}", resume=True).succeeded()
    assert re.findall(r"^epoch (\d+)/", done.out, re.M)[-1] == str(epochs + 1)
    assert [row["epoch"] for row in rows_of(run_dir)] == list(range(1, epochs + 2))


def test_existing_run_is_kept(workplace: Workplace, trained: Trained) -> None:
    before = contents(trained.run_dir)
    workplace.train("trained").refused("runs/trained holds a run already", "--resume", "run.dir=")
    assert contents(trained.run_dir) == before


def test_resuming_with_another_model(workplace: Workplace, trained: Trained) -> None:
    before = contents(trained.run_dir)
    outcome = workplace.train("trained", "model.args.dim=16", resume=True)
    outcome.refused("cannot resume runs/trained", "model.args.dim was 12, now it would be 16")
    # but for who held the lock last
    assert {**contents(trained.run_dir), LOCK: before[LOCK]} == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.epoch=3"], ["unknown key train.epoch", "did you mean 'epochs'?"]),
        (["model.name=bixt_ti_clas"], ["unknown model 'bixt_ti_clas'", "did you mean 'bixt_ti_cls'?"]),
        (["data.name=modelnet40", "data.root=nowhere"], ["modelnet40_ply_hdf5_2048", "nowhere"]),
        (["data.num_points=300"], ["300", "256"]),
    ],
    ids=["key", "model", "data set", "points"],
)
def test_wrong_setting_ends_with_one_line(
    settings: list[str], words: list[str], workplace: Workplace
) -> None:
    workplace.train("refused", *settings).refused(*words)
    assert not (workplace.folder / "runs" / "refused").exists()


def test_missing_config_names_those_there(workplace: Workplace) -> None:
    workplace.run("train_cls", "--cfg", "tyni.yaml").refused("no config file tyni.yaml", "tiny.yaml")


def test_device_that_is_not_there(workplace: Workplace) -> None:
    outcome = workplace.run("train_cls", "--cfg", workplace.config, "--device", "cuda:9")
    outcome.refused("device 'cuda:9' cannot be used here", "--device cpu")


def test_nothing_to_resume(workplace: Workplace) -> None:
    outcome = workplace.train("never", resume=True)
    outcome.refused("nothing to resume from", "runs/never/resume.pt")
    assert not (workplace.folder / "runs" / "never").exists()


def test_every_set_counts(workplace: Workplace) -> None:
    outcome = workplace.run(
        "train_cls", "--cfg", workplace.config, "--set", "train.epochs=0", "--set", f"run.dir={Path('x')}"
    )
    outcome.refused("train.epochs: expected", "got 0")
