"""Training in two processes is training in one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from tests.tools.conftest import TOOLS, Outcome, Workplace
from tests.training.tiny import contents, rows_of, weights

# Augmentation differs between processes by design, so it is off.
CALM = [
    "augment.scale_low=1",
    "augment.scale_high=1",
    "augment.shift=0",
    "optim.name=sgd",
    "optim.lr=0.05",
    "train.epochs=2",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


NAIVE = "dim: 12, depth: 2, num_heads: 2, num_latents: 4, coord_scale: 6.0, drop_path: 0.0"
HIERARCHY = (
    "dim: 12, num_heads: 2, num_latents: 4, embed_dim: 8, widths: [12, 16], reductions: [2, 2], "
    "neighbors: 6, drop_path: 0.0"
)
# Bounds of metrics and weights; the second has batch norms, and sums that differ more by their order.
MODELS = {"bixt_ti_cls": (NAIVE, 1e-5, 1e-4), "bixt_ti_cls_hierarchy": (HIERARCHY, 1e-4, 2e-4)}


def settings_of(workplace: Workplace, run: str, *more: str, model: str = "bixt_ti_cls") -> list[str]:
    config = workplace.folder / f"{model}.yaml"
    text = workplace.config.read_text()
    assert NAIVE in text
    config.write_text(text.replace(NAIVE, MODELS[model][0]).replace("name: bixt_ti_cls", f"name: {model}"))
    return [
        *("--cfg", str(config), "--device", "cpu", "--set"),
        *(f"run.dir=runs/{run}", f"data.root={workplace.folder / 'data'}", *CALM, *more),
    ]


def train_in_two(
    workplace: Workplace, program: Path, run: str, *more: str, model: str = "bixt_ti_cls"
) -> Outcome:
    command = [sys.executable, *TORCHRUN, str(program), *settings_of(workplace, run, *more, model=model)]
    return workplace.run("", command=command)


Runs = dict[str, tuple[Path, Outcome]]


@pytest.fixture(scope="module")
def all_runs(workplace: Workplace) -> dict[str, Runs]:
    """The same training in one process and in two; uneven shards, as 21 does not divide by 2."""
    found: dict[str, Runs] = {}
    for name in MODELS:
        alone = workplace.run("train_cls", *settings_of(workplace, f"{name}1", model=name)).succeeded()
        both = train_in_two(workplace, TOOLS / "train_cls.py", f"{name}2", model=name).succeeded()
        folder = workplace.folder / "runs"
        found[name] = {"alone": (folder / f"{name}1", alone), "both": (folder / f"{name}2", both)}
    return found


@pytest.fixture(scope="module")
def runs(all_runs: dict[str, Runs]) -> Runs:
    return all_runs["bixt_ti_cls"]


@pytest.mark.parametrize("model", MODELS)
def test_metrics_are_those_of_one_process(model: str, all_runs: dict[str, Runs]) -> None:
    alone, both = (rows_of(all_runs[model][name][0]) for name in ("alone", "both"))
    assert len(alone) == len(both) == 2
    for one, other in zip(alone, both, strict=True):
        assert one == pytest.approx(other, abs=MODELS[model][1])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["last", "best"])
def test_weights_are_those_of_one_process(name: str, model: str, all_runs: dict[str, Runs]) -> None:
    """Statistics of batch norms among them."""
    alone, both = (weights(all_runs[model][run][0] / f"{name}.safetensors") for run in ("alone", "both"))
    assert set(alone) == set(both)
    bound = MODELS[model][2]
    for key, value in alone.items():
        torch.testing.assert_close(both[key], value, atol=bound, rtol=bound)
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
        "import bixt3d.training.resume as resume\n"
        "save = resume.save_model\n"
        "def slowly(*arguments):\n"
        "    time.sleep(1.5)\n"
        "    save(*arguments)\n"
        "resume.save_model = slowly\n"
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


COMPARE = """
import torch, torch.distributed as dist
from bixt3d.models.layers import BatchNorm
from bixt3d.training.distributed import leave_workers, share_batchnorm
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(3)
rows = torch.randn(6, 5, 4) * 3 + 20
weight = torch.randn(6, 5, 4)
norm = BatchNorm(4)
torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
shared = torch.nn.Sequential(BatchNorm(4))
shared[0].load_state_dict(norm.state_dict())
names = [name for name, _ in shared.named_parameters()]
share_batchnorm(shared)
assert names == [name for name, _ in shared.named_parameters()]
model = torch.nn.parallel.DistributedDataParallel(shared)
whole, mine = rows.clone().requires_grad_(), rows[rank::2].clone().requires_grad_()
for _ in range(2):
    (norm(whole) * weight).sum().backward()
    out = model(mine)
    (out * weight[rank::2] * 2).sum().backward()  # DistributedDataParallel takes the mean of both
close = torch.testing.assert_close
close(out, norm(whole)[rank::2], atol=1e-5, rtol=1e-5)
close(mine.grad / 2, whole.grad[rank::2], atol=1e-5, rtol=1e-4)
close(shared[0].weight.grad, norm.weight.grad, atol=1e-4, rtol=1e-5)
close(shared[0].bias.grad, norm.bias.grad, atol=1e-4, rtol=1e-5)
close(shared[0].running_mean, shared[0].running_mean)
norm.eval(), shared.eval()
norm.running_mean.copy_(shared[0].running_mean), norm.running_var.copy_(shared[0].running_var)
close(shared(rows), norm(rows))
fresh, seen = BatchNorm(4), torch.nn.Sequential(BatchNorm(4))
share_batchnorm(seen)
fresh(rows), seen(rows[rank::2])
for key, value in fresh.state_dict().items():
    close(seen[0].state_dict()[key], value, atol=1e-5, rtol=1e-5)
low = seen(rows[rank::2].bfloat16())
assert low.dtype == torch.bfloat16
print("the same")
del model
leave_workers()
"""


def test_batch_norm_of_two_is_that_of_all_rows(workplace: Workplace, tmp_path: Path) -> None:
    """Outputs, gradients of rows and weights, and statistics."""
    (tmp_path / "compare.py").write_text(COMPARE)
    command = [sys.executable, *TORCHRUN, str(tmp_path / "compare.py")]
    assert workplace.run("", command=command).succeeded().out.count("the same") == 2


STOP = """
import os, runpy, signal, time
import bixt3d.training.trainer as trainer
from bixt3d.training.guards import StopSignals
take, taken, signals = trainer.TrainState.train_step, [], []
enter = StopSignals.__enter__
StopSignals.__enter__ = lambda self: signals.append(self) or enter(self)
def received():
    return signals[-1].received
def stop_at_the_sixth(self, *arguments, **options):
    taken.append(1)
    if len(taken) == 6 and os.environ.get("RANK", "0") == "0":
        os.kill(os.getppid() if "RANK" in os.environ else os.getpid(), signal.SIGTERM)
    while len(taken) == 6 and not received():
        time.sleep(0.01)  # torchrun hands it on
    return take(self, *arguments, **options)
trainer.TrainState.train_step = stop_at_the_sixth
"""


@pytest.mark.parametrize("first", [1, 2])
def test_stopped_and_resumed_with_another_number_of_processes(
    first: int, workplace: Workplace, all_runs: dict[str, Runs]
) -> None:
    """SIGTERM to torchrun, as a cluster sends it, in the middle of the second epoch."""
    model, run = "bixt_ti_cls_hierarchy", f"across{first}"
    program = workplace.folder / "stop.py"
    program.write_text(f"{STOP}runpy.run_path({str(TOOLS / 'train_cls.py')!r}, run_name='__main__')\n")
    settings = settings_of(workplace, run, model=model)
    launch, other = ([], TORCHRUN) if first == 1 else (TORCHRUN, [])
    stopped = workplace.run("", command=[sys.executable, *launch, str(program), *settings])
    assert stopped.code != 0
    assert "stopped by SIGTERM: the state at step 6 of 10 is saved, continue with --resume\n" in stopped.err
    command = [sys.executable, *other, str(TOOLS / "train_cls.py"), "--resume", *settings]
    workplace.run("", command=command).succeeded()
    rows, wanted = rows_of(workplace.folder / "runs" / run), rows_of(all_runs[model]["alone"][0])
    assert len(rows) == len(wanted) == 2
    assert "Warning" not in stopped.err
    for one, straight in zip(rows, wanted, strict=True):
        assert one == pytest.approx(straight, abs=MODELS[model][1])


def test_failure_of_one_process_ends_all_with_its_error(workplace: Workplace, tmp_path: Path) -> None:
    program = tmp_path / "fail.py"
    program.write_text(
        "import os, runpy\n"
        "import bixt3d.training.trainer as trainer\n"
        "take = trainer.TrainState.train_step\n"
        "def fail(self, *arguments, **options):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise OSError('the second process has lost its disk')\n"
        "    return take(self, *arguments, **options)\n"
        "trainer.TrainState.train_step = fail\n"
        f"runpy.run_path({str(TOOLS / 'train_cls.py')!r}, run_name='__main__')\n"
    )
    outcome = train_in_two(workplace, program, "failed")
    assert outcome.code != 0
    assert "error: OSError: the second process has lost its disk\n  at " in outcome.err
    assert "rank      : 1" in re.sub(r" +:", "      :", outcome.err)  # torchrun names it
