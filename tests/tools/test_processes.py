"""Training in two processes is training in one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from tests.tools.conftest import TOOLS, Outcome, Workplace
from tests.training.tiny import contents, rows_of, weights

# Augmentation differs between processes by design, so it is off; the model has no BatchNorm.
CALM = [
    "augment.scale_low=1",
    "augment.scale_high=1",
    "augment.shift=0",
    "optim.name=sgd",
    "optim.lr=0.05",
    "train.epochs=2",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def settings_of(workplace: Workplace, run: str, *more: str) -> list[str]:
    return [
        *("--cfg", str(workplace.config), "--device", "cpu", "--set"),
        *(f"run.dir=runs/{run}", f"data.root={workplace.folder / 'data'}", *CALM, *more),
    ]


def train_in_two(workplace: Workplace, program: Path, run: str, *more: str) -> Outcome:
    command = [sys.executable, *TORCHRUN, str(program), *settings_of(workplace, run, *more)]
    return workplace.run("", command=command)


@pytest.fixture(scope="module")
def runs(workplace: Workplace) -> dict[str, tuple[Path, Outcome]]:
    """The same training in one process and in two; uneven shards, as 21 does not divide by 2."""
    alone = workplace.run("train_cls", *settings_of(workplace, "alone")).succeeded()
    both = train_in_two(workplace, TOOLS / "train_cls.py", "both").succeeded()
    folder = workplace.folder / "runs"
    return {"alone": (folder / "alone", alone), "both": (folder / "both", both)}


def test_metrics_are_those_of_one_process(runs: dict[str, tuple[Path, Outcome]]) -> None:
    alone, both = (rows_of(runs[name][0]) for name in ("alone", "both"))
    assert len(alone) == len(both) == 2
    for one, other in zip(alone, both, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("name", ["last", "best"])
def test_weights_are_those_of_one_process(name: str, runs: dict[str, tuple[Path, Outcome]]) -> None:
    alone, both = (weights(runs[run][0] / f"{name}.safetensors") for run in ("alone", "both"))
    assert set(alone) == set(both)
    for key, value in alone.items():
        torch.testing.assert_close(both[key], value, atol=1e-4, rtol=1e-4)
    assert both["head.linear.weight"].abs().max() > 1e-3  # it did learn: the head starts at zero


def test_only_the_first_process_writes(runs: dict[str, tuple[Path, Outcome]]) -> None:
    run_dir, outcome = runs["both"]
    assert set(contents(run_dir)) == set(contents(runs["alone"][0]))
    for line in ("bixt_ti_cls: ", "epoch 1/2 ", "epoch 2/2 ", "everything is in"):
        assert outcome.out.count(line) == 1, outcome.out
    tests = re.findall(r"^test, .*\n.*\n.*$", outcome.out, re.M)
    assert tests == re.findall(r"^test, .*\n.*\n.*$", runs["alone"][1].out, re.M) and len(tests) == 2


def test_slow_disk_of_the_first_process_is_waited_for(workplace: Workplace, tmp_path: Path) -> None:
    """The other must not look for the last weights before they are written."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import runpy, time\n"
        "import bixt3d.training.trainer as trainer\n"
        "save = trainer.save_model\n"
        "def slowly(*arguments):\n"
        "    time.sleep(1.5)\n"
        "    save(*arguments)\n"
        "trainer.save_model = slowly\n"
        f"runpy.run_path({str(TOOLS / 'train_cls.py')!r}, run_name='__main__')\n"
    )
    outcome = train_in_two(workplace, program, "slow", "train.epochs=1").succeeded()
    assert outcome.out.count("test, ") == 2


def test_parts_in_two_processes(workplace: Workplace) -> None:
    """A segmenter with BatchNorm and a decoder: every parameter takes part, and every cloud counts once."""
    config = workplace.folder / "parts_of_two.yaml"
    config.write_text(
        "data: {name: shapenetpart, num_points: 64, order: random}\n"
        "model:\n  name: bixt_ti_partseg_encdec\n"
        "  args: {dim: 12, num_heads: 2, num_latents: 4, embed_dim: 8, widths: [8, 12], reductions: [4, 2],\n"
        "         neighbors: 8, decoder_widths: [12, 8], decoder_blocks: 1, context_dim: 4, head_dim: 8}\n"
        "train: {epochs: 1, batch_size: 14}\nrun: {tensorboard: false}\n"
    )
    program = ["--cfg", str(config), "--device", "cpu", "--set", f"data.root={workplace.folder}/data/shapes"]
    command = [sys.executable, *TORCHRUN, str(TOOLS / "seg_shapenetpart.py"), *program]
    both = workplace.run("", command=command).succeeded()
    read = re.findall(r"^read \d+ (\w+) shapes", both.err, re.M)
    assert sorted(read) == ["test", "train", "val"]  # each said once, not by both
    again = workplace.run(
        "seg_shapenetpart", "--checkpoint", workplace.folder / "runs/parts_of_two/last", "--picture", "0"
    ).succeeded()
    told = both.out.partition("test, last epoch:\n")[2].splitlines()[:6]
    assert len(told) == 6 and all(line in again.out for line in told)


def test_batch_that_does_not_divide_is_refused(workplace: Workplace) -> None:
    outcome = train_in_two(workplace, TOOLS / "train_cls.py", "odd", "train.batch_size=7")
    assert outcome.code != 0
    assert "train.batch_size: expected a multiple of the 2 processes, got 7" in outcome.err
    assert not (workplace.folder / "runs" / "odd").exists()
