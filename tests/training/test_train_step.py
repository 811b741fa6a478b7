from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

import bixt3d
from bixt3d.datasets.loader import Batch
from bixt3d.ops.validate import check_points
from bixt3d.training import ClassificationTask, evaluate
from bixt3d.training.distributed import Workers
from bixt3d.training.optim import MovingAverage, average_decay
from bixt3d.training.trainer import TrainState
from tests.training.tiny import CLASSES, HIERARCHY, NAIVE, make_config, make_split

GROUPING = {**NAIVE, "neighbors": 6, "group_layers": (0, 1)}
MODELS = {"bixt_ti_cls": NAIVE, "bixt_ti_cls_grouping": GROUPING, "bixt_ti_cls_hierarchy": HIERARCHY}
CPU = torch.device("cpu")
# What a GPU would wait for: a look at a value, or at how many there are.
LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "equal")


class Watch(TorchDispatchMode):
    """Hands every operation's name and result to a function."""

    def __init__(self, see: Callable[[str, Any], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.see(func.name().removeprefix("aten::").partition(".")[0], out)
        return out


def make_state(*settings: str, name: str = "bixt_ti_cls") -> TrainState:
    torch.manual_seed(0)
    model = bixt3d.create_model(name, num_classes=len(CLASSES), **MODELS[name]).train()
    return TrainState(make_config(*settings), model, ClassificationTask(CLASSES), CPU, Workers(), 4)


def make_batch(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(8, 32, 3, generator=random)
    return Batch(points, torch.randint(len(CLASSES), (8,), generator=random))


def train(state: TrainState, steps: int) -> dict[str, Tensor]:
    for step in range(steps):
        parts = range(state.config.train.accumulate)
        state.train_step(iter([make_batch(10 * step + part) for part in parts]), step)
    return state.model.state_dict()


def gradients_of(state: TrainState, batch: Batch) -> list[Tensor]:
    """What the optimiser is given in a step."""
    found: list[Tensor] = []

    def note(*arguments: Any) -> None:
        found.extend(value.grad.clone() for value in state.parameters if value.grad is not None)

    hook = state.optimizers[0].register_step_pre_hook(note)
    state.train_step(iter([batch]), 0)
    hook.remove()
    return found


def test_moving_average_is_that_of_torch() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = MovingAverage(model)
    update = get_ema_multi_avg_fn(0.7)  # type: ignore[no-untyped-call]
    theirs = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    for step in range(4):
        with torch.no_grad():
            model(torch.randn(16, 3))
            for value in model.parameters():
                value.add_(torch.randn_like(value))
        ours.update(0.7 if step else 0.0)
        theirs.update_parameters(model)
        wanted = theirs.module.state_dict()
        for name, value in ours.module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                assert value == step + 1
            else:
                torch.testing.assert_close(value, wanted[name])
    assert set(ours.state_dict()) == set(theirs.state_dict()) - {"n_averaged"}


def test_moving_average_warms_up() -> None:
    """By right values: 1/10, 2/11, 3/12 ... of the average before are kept, until the decay is reached."""
    assert [average_decay(0.999, step) for step in range(3)] == [1 / 10, 2 / 11, 3 / 12]
    assert average_decay(0.9, 79) == pytest.approx(80 / 89) and average_decay(0.9, 80) == 0.9
    assert average_decay(0.999, 8989) < 0.999 == average_decay(0.999, 8990)
    state = make_state("train.ema_decay=0.15")
    start = state.model.head.linear.weight.detach().clone()  # type: ignore[union-attr, operator]
    weights = []
    for step in range(3):
        state.train_step(iter([make_batch(step)]), step)
        weights.append(state.model.head.linear.weight.detach().clone())  # type: ignore[union-attr, operator]
    expected = 0.1 * start + 0.9 * weights[0]  # then 2/11 and 3/12, which are more than 0.15
    for value in weights[1:]:
        expected = 0.15 * expected + 0.85 * value
    assert state.average is not None
    torch.testing.assert_close(state.result.head.linear.weight.detach(), expected)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_step_looks_at_no_value(name: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look makes a GPU wait. Points are checked as on a GPU, by their shapes, and neighbours found so.

    Muon leaves a step out as on a GPU.

    The confusion matrix looks at its labels, on a CPU alone.
    """
    from bixt3d.models import encoder
    from bixt3d.ops import neighbors

    def check_shape(points: Tensor, name: str, channels: tuple[int, ...], finite: bool = True) -> None:
        check_points(points, name, channels, finite=False)

    monkeypatch.setattr(encoder, "check_points", check_shape)
    monkeypatch.setattr(neighbors, "_smallest", neighbors._smallest_of_keys)
    monkeypatch.setattr("bixt3d.training.optim._is_at_hand", lambda value: False)
    monkeypatch.setattr(
        "bixt3d.metrics.confusion_matrix", lambda seen, label, k, ignore: label.new_zeros(k, k)
    )
    state = make_state(f"optim.name={optimizer}", name=name)
    seen: list[str] = []
    with Watch(lambda name, out: seen.append(name)):
        train(state, 2)
    assert len(seen) > 100
    assert not [name for name in seen if name in LOOKS]


def test_the_watch_sees_looks() -> None:
    seen: list[str] = []
    with Watch(lambda name, out: seen.append(name)):
        values = torch.arange(3)
        assert float(values.sum()) == 3
        values.nonzero()
    assert {"_local_scalar_dense", "nonzero"} <= set(seen)


def test_products_of_a_step_are_bfloat16_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else autocast speeds up the forward pass alone."""
    monkeypatch.setattr("bixt3d.training.device.has_bfloat16", lambda device: True)
    state = make_state("train.amp=true")
    seen: list[tuple[str, torch.dtype]] = []

    def see(name: str, out: Any) -> None:
        if name in ("mm", "addmm", "bmm", "baddbmm") or "attention" in name:
            first = out[0] if isinstance(out, tuple) else out
            seen.append((name, first.dtype))

    with Watch(see):
        gradients = gradients_of(state, make_batch())
    assert len(seen) > 40
    assert {dtype for _, dtype in seen} == {torch.bfloat16}
    assert len(gradients) > 20 and {value.dtype for value in gradients} == {torch.float32}


def test_evaluation_casts_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.training.device.has_bfloat16", lambda device: True)
    state = make_state()
    weight = state.model.head.linear.weight  # type: ignore[union-attr]
    seen: list[str] = []

    def see(name: str, out: Any) -> None:
        if name == "_to_copy" and out.shape == weight.shape and out.dtype == torch.bfloat16:
            seen.append(name)

    with Watch(see):
        evaluate(state.model, make_split(24), state.task, batch_size=8, amp=True)
    assert len(seen) == 1


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
@pytest.mark.parametrize("name", MODELS)
def test_compiled_steps_are_the_same(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the graph of each mode, though not its kernels: those take minutes."""
    real = torch.compile
    asked: list[str] = []

    def quick(forward: Any, mode: str, dynamic: bool) -> Any:
        asked.append(mode)
        return real(forward, backend="aot_eager", dynamic=dynamic, fullgraph=True)

    monkeypatch.setattr(torch, "compile", quick)
    settings = ["train.accumulate=2", "optim.name=sgd"]
    plain = train(make_state(*settings, name=name), 2)
    compiled = train(make_state(*settings, "train.compile=true", f"train.compile_mode={mode}", name=name), 2)
    assert asked == [mode]
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, atol=1e-5, rtol=1e-4)


def test_sums_of_gradients_keep_their_place_where_graphs_are_replayed() -> None:
    state = make_state("train.accumulate=2", "train.compile=true", "train.compile_mode=reduce-overhead")
    places = [value.grad for value in state.parameters]
    assert all(place is not None and not place.any() for place in places)
    state.forward = state._forward  # nothing need be compiled for it
    train(state, 1)
    assert all(value.grad is place for value, place in zip(state.parameters, places, strict=True))
    assert all(place is not None and not place.any() for place in places)
