"""Models by name, clouds, the work on a batch, and the operations that are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import MODES, Spec, Work, clouds, count_macs, count_parameters, model_names

CPU = torch.device("cpu")
TINY = {
    "bixt_ti_cls": ":dim=12:depth=2:num_heads=2:num_latents=4",
    "bixt_ti_cls_grouping": ":dim=12:depth=2:num_heads=2:num_latents=4:group_layers=[0]:neighbors=4",
    "bixt_ti_cls_hierarchy": ":dim=12:num_heads=2:num_latents=4:embed_dim=6:widths=[12]:reductions=[2]",
    "bixt_ti_partseg": ":dim=12:depth=2:num_heads=2:num_latents=4:num_categories=0:in_dims=6",
    "bixt_ti_partseg_encdec": ":dim=12:num_heads=2:num_latents=4:embed_dim=6:neighbors=3",
    "bixt_nano_cls_local": ":neighbors=8",
    "bixt_nano_partseg_encdec": ":neighbors=8",
    "bixt_ti_sceneseg": ":dim=12:depth=2:num_heads=2:num_latents=4",
    "bixt_ti_sceneseg_encdec": ":dim=12:num_heads=2:num_latents=4:embed_dim=6:neighbors=3",
    "bixt_nano_sceneseg_encdec": ":neighbors=3",
    "perceiver_ti_cls": ":dim=12:num_blocks=2:self_attends_per_block=1:num_heads=2:num_latents=4",
    "sequential_ti_cls": ":dim=12:depth=2:num_heads=2:num_latents=4",
}


def test_settings_are_read_as_python_and_other_words_as_strings() -> None:
    spec = Spec.parse("bixt_ti_cls:depth=4:coord_scale=2.5:backend=sdpa")
    assert spec.args == {"depth": 4, "coord_scale": 2.5, "backend": "sdpa"}
    assert spec.name == "bixt_ti_cls" and spec.label.startswith("bixt_ti_cls:depth")
    assert Spec.parse("bixt_ti_cls_hierarchy:widths=[8, 16]").args == {"widths": [8, 16]}
    ways = Spec.parse("pointnet:threads=2:num_classes=3:dtype=bfloat16:compile=default")
    assert ways.args == {"num_classes": 3}
    assert ways.ways == {"threads": 2, "dtype": "bfloat16", "compile": "default"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pointnt", "unknown model 'pointnt'; did you mean 'pointnet'\\?; known: .*bixt_ti_cls.*pointmlp"),
        ("bixt_ti_cls:depth", "expected settings like depth=4 after the colon, got 'depth'"),
        ("bixt_ti_cls:deph=3", "no argument 'deph'; did you mean 'depth'"),
        ("pointnet:num_clases=3", "no setting 'num_clases'; did you mean 'num_classes'"),
        ("pointnet:num_classes=0", "num_classes: expected a whole number from 1 up, got 0"),
        ("pointnet:threads=0", "pointnet:threads=0: threads: expected a whole number from 1 up, got 0"),
        ("pointnet:compile=fast", "compile: expected one of default, reduce-overhead, .*, got 'fast'"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Spec.parse(text).build()


def test_weights_are_the_same_every_time() -> None:
    first, second = (Spec.parse("pointnet").build().state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_clouds_are_ellipsoids_of_their_own_with_normals() -> None:
    points, normals = clouds(4, 2000, 6).split(3, -1)
    assert torch.equal(points, clouds(4, 2000))
    assert points.norm(dim=-1).max() <= 1 + 1e-6
    reach = points.abs().amax(1)  # (B, 3), close to the axes
    on_surface = (points / reach[:, None]).square().sum(-1)
    assert 0.98 < on_surface.min() and on_surface.max() < 1.05
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(4, 2000))
    outward = torch.nn.functional.normalize(points / reach.square()[:, None], dim=-1)
    assert (outward * normals).sum(-1).min() > 0.99
    assert (reach[0] - reach[1]).abs().max() > 0.01


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", model_names())
def test_every_model_works(name: str, mode: str) -> None:
    spec = Spec.parse(name + TINY.get(name, ""))
    work = Work(
        spec, mode, "float32", 512 if name in ("pointnet2_ssg", "bixt_nano_partseg_local") else 192, 2, CPU
    )
    before = {key: value.clone() for key, value in work.model.named_parameters()}
    work.run()
    after = dict(work.model.named_parameters())
    changed = [key for key, value in before.items() if not torch.equal(value, after[key])]
    assert bool(changed) == (mode == "training")
    assert work.model.training == (mode == "training")
    assert all(value.isfinite().all() and value.grad is None for value in after.values())


def test_a_step_is_the_trainer_s_and_lowers_the_loss() -> None:
    work = Work(Spec.parse("pointnet:num_classes=4"), "training", "float32", 128, 8, CPU)
    assert work.state is not None and work.state.average is not None
    (optimizer,) = work.state.optimizers
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["fused"]

    def loss() -> float:
        return work.task.loss(work.task.forward(work.model, work.batch), work.batch).item()

    before = loss()
    for _ in range(12):
        work.run()
    assert loss() < before - 0.1


def test_bfloat16_is_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("benchmarks.models", "bixt3d.training.device"):
        monkeypatch.setattr(f"{module}.has_bfloat16", lambda device: True)
    work = Work(Spec.parse("pointnet"), "inference", "bfloat16", 64, 2, CPU)
    seen = []
    work.model.head.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    work.run()
    assert seen == [torch.bfloat16]
    assert next(work.model.parameters()).dtype == torch.float32


def test_autocast_may_keep_what_it_casts() -> None:
    work = Work(Spec.parse("pointnet"), "inference", "float32", 64, 2, CPU)
    seen = []
    work.model.head.register_forward_hook(
        lambda *given: seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    work.run()
    assert seen == [(False, False)]


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.models.has_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match="cpu has no units for bfloat16"):
        Work(Spec.parse("pointnet"), "inference", "bfloat16", 64, 2, CPU)


@pytest.mark.parametrize("mode", MODES)
def test_compiled_work_is_the_same_work(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    asked = []

    def quick(run: Any, mode: str, dynamic: bool) -> Any:
        asked.append(mode)
        return real(run, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", quick)
    name = "bixt_ti_cls:drop_path=0.0:dropout=0.0" + TINY["bixt_ti_cls"]
    work = Work(Spec.parse(f"{name}:compile=reduce-overhead"), mode, "float32", 32, 2, CPU)
    plain = Work(Spec.parse(name), mode, "float32", 32, 2, CPU)
    for _ in range(2):
        work.run()
        plain.run()
    assert asked == ["reduce-overhead"]
    for value, other in zip(work.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "giga"), [("bixt_ti_cls", 5.77), ("pointmlp", 15.60), ("pointnet", 0.44)])
def test_operations_are_those_published(name: str, giga: float) -> None:
    assert count_macs(Spec.parse(name), 1024, CPU) / 1e9 == pytest.approx(giga, rel=0.03)


@pytest.mark.parametrize("backend", ["auto", "torch", "sdpa"])
def test_operations_are_those_of_the_layers_whatever_the_backend(backend: str) -> None:
    n, m, d = 256, 64, 192
    maps = n * 96 * d + 11 * (n * 11 + m * (11 + 12)) * d * d  # tokenizer, full layers
    maps += (n * 2 + m * (2 + 8 + 12)) * d * d + 40 * d  # the one-sided layer, the head
    attention = 11 * (3 * n * m + 2 * m * m) * d + (2 * n * m + 2 * m * m) * d
    found = count_macs(Spec.parse(f"bixt_ti_cls:backend={backend}"), n, CPU)
    assert found == pytest.approx(maps + attention, rel=2e-3)


@pytest.mark.parametrize("name", ["bixt_ti_cls:depth=2:backend=torch", "pointnet2_ssg", "pointmlp_elite"])
def test_a_training_step_has_three_times_the_operations_of_the_forward_pass(name: str) -> None:
    work = Work(Spec.parse(name), "training", "float32", 512, 2, CPU)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work.run()
    macs = counter.get_total_flops() / 2 / 2  # of two clouds
    assert macs == pytest.approx(3 * count_macs(Spec.parse(name), 512, CPU), rel=0.03)


def test_parameters() -> None:
    assert count_parameters(Spec.parse("bixt_ti_cls").build()) == 14_794_408
