"""Bi-directional attention in Triton against the explicit matrix in float64: on a GPU, else interpreted."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels import SHARED
from bixt3d.models.attention import merge_heads, split_heads
from bixt3d.ops import bidirectional_attention, triton_attention
from bixt3d.ops.attention import attention
from bixt3d.ops.backends import require_triton
from bixt3d.ops.triton_attention import Tiles, choose_tiles, split_count
from tests import markers
from tests.markers import needs_cuda

pytestmark = markers.needs_triton

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=needs_cuda)]  # the interpreter has no bfloat16
# How far from the exact result, in roundings of the largest number. Half precision rounds the weights
# and the result; float32 adds up to a hundred products and takes exponentials of their sum.
ROUNDINGS = {torch.float32: 64, torch.bfloat16: 4, torch.float16: 4}


def random_inputs(
    batch: int, heads: int, latents: int, tokens: int, width: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    counts = (latents, latents, tokens, tokens)
    return [torch.randn(batch, heads, count, width, device=DEVICE).to(dtype) for count in counts]


def assert_near(found: Tensor | None, exact: Tensor | None, dtype: torch.dtype, what: str = "") -> None:
    if found is None or exact is None:
        assert found is exact, what
        return
    assert found.dtype == dtype
    far = ROUNDINGS[dtype] * torch.finfo(dtype).eps * max(1.0, exact.abs().max().item())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=far, msg=lambda m: f"{what}: {m}")


def check_against_exact(
    inputs: list[Tensor], scale: float | None = None, pull: list[Tensor] | None = None
) -> None:
    """Both updates and all four gradients, for random gradients of the updates unless they are given."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    exact_leaves = [t.detach().double().requires_grad_() for t in inputs]
    found = bidirectional_attention(*leaves, scale=scale, backend="triton")
    exact = bidirectional_attention(*exact_leaves, scale=scale, backend="torch")
    pull = [torch.randn_like(out) for out in found] if pull is None else pull
    gradients = torch.autograd.grad(found, leaves, pull)
    exact_gradients = torch.autograd.grad(exact, exact_leaves, [p.double() for p in pull])
    names = ("latents", "tokens", "r_lat", "v_lat", "r_tok", "v_tok")
    for name, one, wanted in zip(names, (*found, *gradients), (*exact, *exact_gradients), strict=True):
        assert one.shape == wanted.shape
        assert_near(one, wanted, inputs[0].dtype, name)


@pytest.fixture(params=[1, 1000], ids=["whole", "split"])
def splits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that clouds and heads fill, and as on one that needs a split for every tile of tokens."""
    monkeypatch.setattr(triton_attention, "count_processors", lambda device: request.param)
    monkeypatch.setattr(triton_attention, "PROGRAMS", 1)


@pytest.mark.usefixtures("splits")
class TestAgreesWithTheExplicitMatrix:
    # one of everything; below a tile; a whole one; beyond, by one and by some; padded widths
    @pytest.mark.parametrize(
        "sizes",
        [
            (1, 1, 1, 1, 16),
            (2, 3, 5, 7, 24),
            (1, 2, 16, 32, 32),
            (1, 1, 33, 33, 64),
            (2, 1, 20, 75, 32),
            (1, 1, 1, 40, 1),
            (1, 2, 130, 17, 16),
        ],
    )
    def test_in_float32(self, sizes: tuple[int, ...]) -> None:
        check_against_exact(random_inputs(*sizes))

    @pytest.mark.parametrize("dtype", HALVES)
    def test_in_half_precision(self, dtype: torch.dtype) -> None:
        check_against_exact(random_inputs(1, 2, 6, 70, 32, dtype=dtype))

    def test_padding_beyond_the_range_of_half_precision(self) -> None:
        """Sums of P dP times a weight are 204800 and 409600, and float16 ends at 65504."""
        latents, tokens = torch.randn(2, 1, 2, 8, 8, device=DEVICE).half().unbind(0)
        r_lat, r_tok = F.pad(latents[:, :, :4], (0, 8)), F.pad(tokens, (8, 0))  # all similarities are 0
        values = torch.tensor([384.0, 416.0], device=DEVICE).repeat(4)[:, None].expand(1, 2, 8, 16).half()
        pull = [torch.full_like(one, 256.0) for one in (r_lat, r_tok)]
        check_against_exact([r_lat, values[:, :, :4], r_tok, values], pull=pull)

    @pytest.mark.parametrize("scale", [0.0, 1.3, -0.5])
    def test_with_a_scale(self, scale: float) -> None:
        check_against_exact(random_inputs(1, 2, 5, 40, 16), scale)

    def test_latents_read_again_for_every_tile_and_columns_in_parts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # as for many wide latents
        tiles = {True: Tiles(16, 4, 1, False, 16), False: Tiles(16, 4, 1, False, 64)}
        monkeypatch.setattr(triton_attention, "choose_tiles", lambda *sizes: tiles[sizes[-1]])
        check_against_exact(random_inputs(1, 2, 9, 35, 50))

    def test_heads_of_a_fused_projection(self) -> None:
        lat, tok = (torch.randn(2, count, 2 * 3 * 16, device=DEVICE) for count in (6, 37))
        inputs = [*split_heads(lat, 2, 3), *split_heads(tok, 2, 3)]
        assert not any(t.is_contiguous() for t in inputs)
        check_against_exact(inputs)

    def test_columns_that_are_not_neighbours(self) -> None:
        check_against_exact([t.mT.contiguous().mT for t in random_inputs(1, 2, 5, 40, 16)])

    @pytest.mark.parametrize("used", [0, 1])
    def test_a_loss_of_one_update(self, used: int) -> None:
        inputs = random_inputs(1, 2, 5, 40, 16)
        gradients = []
        for backend, dtype in (("triton", torch.float32), ("torch", torch.float64)):
            leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
            out = bidirectional_attention(*leaves, backend=backend)[used]
            out.square().sum().backward()
            gradients.append([t.grad for t in leaves])
        assert gradients[0][1 if used == 0 else 3] is None
        for found, exact in zip(*gradients, strict=True):
            assert_near(found, exact, torch.float32)

    # queries are the fewer, the more, as many
    @pytest.mark.parametrize(("queries", "keys"), [(5, 40), (40, 5), (9, 9)])
    def test_one_direction(self, queries: int, keys: int) -> None:
        query = torch.randn(1, 2, queries, 16, device=DEVICE)
        key, value = torch.randn(2, 1, 2, keys, 16, device=DEVICE).unbind(0)
        outs = []
        for backend, dtype in (("triton", torch.float32), ("torch", torch.float64)):
            leaves = [t.to(dtype).requires_grad_() for t in (query, key, value)]
            out = attention(*leaves, backend=backend)
            outs.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
        for found, exact in zip(*outs, strict=True):
            assert_near(found, exact, torch.float32)

    @pytest.mark.parametrize("factor", [1e2, 1e4])
    @pytest.mark.parametrize("dtype", [torch.float32, *HALVES[1:]])
    def test_large_similarities_stay_finite(self, factor: float, dtype: torch.dtype) -> None:
        inputs = [t.requires_grad_() for t in random_inputs(1, 2, 5, 40, 16, dtype=dtype)]
        r_lat, v_lat, r_tok, v_tok = inputs
        out = bidirectional_attention(r_lat * factor, v_lat, r_tok * factor, v_tok, backend="triton")
        for one in (*out, *torch.autograd.grad(out, inputs, [torch.ones_like(o) for o in out])):
            assert one.isfinite().all()
        assert all(o.abs().max() <= 5 for o in out)  # averages of values

    def test_every_run_gives_the_same(self) -> None:
        inputs = [t.requires_grad_() for t in random_inputs(1, 1, 5, 70, 16)]
        runs = []
        for _ in range(2):
            out = bidirectional_attention(*inputs, backend="triton")
            runs.append([*out, *torch.autograd.grad(out, inputs, [torch.ones_like(o) for o in out])])
        assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))

    def test_heads_merge_without_a_copy(self) -> None:
        inputs = [t.requires_grad_() for t in random_inputs(1, 2, 5, 40, 16)]
        for out in bidirectional_attention(*inputs, backend="triton"):
            assert merge_heads(out).data_ptr() == out.data_ptr()
        leaf = inputs[2]
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        assert gradient.transpose(1, 2).is_contiguous()


def test_memory_does_not_hold_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_attention, "count_processors", lambda device: 1)
    num_latents, num_tokens, width = 64, 640, 1
    inputs = [t.requires_grad_() for t in random_inputs(1, 1, num_latents, num_tokens, width)]
    largest = {}
    for backend in ("triton", "torch"):
        with torch.profiler.profile(profile_memory=True) as profile:
            sum(out.sum() for out in bidirectional_attention(*inputs, backend=backend)).backward()
        kind = "self_device_memory_usage" if DEVICE == "cuda" else "self_cpu_memory_usage"
        largest[backend] = max(getattr(event, kind) for event in profile.events())
    matrix = 4 * num_latents * num_tokens
    assert largest["torch"] >= matrix
    assert 0 < largest["triton"] <= 4 * num_tokens * width  # a token's reference, value or update


class TestWithTorch:
    """Registered with torch: what torch.compile, autograd and autocast rely on."""

    @pytest.mark.parametrize("without", [None, 1, 3], ids=["both", "to latents", "to tokens"])
    def test_opcheck(self, without: int | None) -> None:
        inputs: list[Any] = [t.requires_grad_() for t in random_inputs(1, 2, 3, 5, 16)]
        if without is not None:
            inputs[without] = None
        torch.library.opcheck(triton_attention._forward, (*inputs, 0.25))

    @pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
    def test_opcheck_of_the_backward(self, used: tuple[int, ...]) -> None:
        inputs = random_inputs(1, 2, 3, 5, 16)
        pulls = [torch.randn_like(inputs[2 * side]) if side in used else None for side in (0, 1)]
        out_lat, _, lse_lat, lse_tok = triton_attention._forward(*inputs, 0.25)
        arguments = (*pulls, *inputs, out_lat, lse_lat, lse_tok, 0.25)
        torch.library.opcheck(triton_attention._backward, arguments)

    def test_compiles_in_one_piece(self) -> None:
        def loss(*tensors: Tensor) -> Tensor:
            latents, tokens = bidirectional_attention(*tensors, backend="triton")
            return merge_heads(latents).square().sum() + merge_heads(tokens).sin().sum()

        inputs = [t.requires_grad_() for t in random_inputs(1, 2, 5, 40, 16)]
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        results = [[out := call(*inputs), *torch.autograd.grad(out, inputs)] for call in (loss, compiled)]
        for found, wanted in zip(*results, strict=True):
            torch.testing.assert_close(found, wanted)

    def test_no_second_derivative(self) -> None:
        inputs = [t.requires_grad_() for t in random_inputs(1, 1, 3, 5, 16)]
        out = bidirectional_attention(*inputs, backend="triton")
        first = torch.autograd.grad(out[0].sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match='no second derivative; use backend="torch"'):
            torch.autograd.grad(first[0].square().sum(), inputs[0])

    def test_import_does_not_load_triton(self) -> None:
        program = (
            "import sys, torch; before = set(sys.modules); import bixt3d.ops;"
            "print(*(name for name in set(sys.modules) - before if name.partition('.')[0] == 'triton'))"
        )
        result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("sizes", "dtype", "instead"),
        [
            ((257, 300, 16), torch.float32, 'up to 256 latents .* got 257 of 16; use backend="sdpa"'),
            ((5, 7, 129), torch.float32, 'up to 128 channels, got 5 of 129; use backend="sdpa"'),
            ((5, 7, 16), torch.float64, 'got torch.float64; use backend="torch"'),
        ],
    )
    def test_beyond_the_limits(self, sizes: tuple[int, int, int], dtype: torch.dtype, instead: str) -> None:
        inputs = random_inputs(1, 1, *sizes, dtype=dtype)
        with pytest.raises(ValueError, match=instead):
            bidirectional_attention(*inputs, backend="triton")
        with pytest.raises(ValueError, match=instead):
            attention(inputs[0], inputs[2], inputs[3], backend="triton")
        with pytest.raises(ValueError, match=instead):
            attention(inputs[2], inputs[0], inputs[1], backend="triton")

    def test_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import triton

        monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
        inputs = torch.randn(4, 1, 1, 3, 16).unbind(0)
        with pytest.raises(RuntimeError, match="needs a CUDA device, got cpu"):
            bidirectional_attention(*inputs, backend="triton")

    def test_rocm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "hip", "6.4")
        with pytest.raises(RuntimeError, match="'triton' supports NVIDIA's GPUs alone, not ROCm; use"):
            require_triton(torch.device("cuda"))
        monkeypatch.setattr(torch.version, "hip", None)
        require_triton(torch.device("cuda"))

    def test_bfloat16_on_a_cpu(self) -> None:
        inputs = torch.randn(4, 1, 1, 3, 16).bfloat16().unbind(0)
        with pytest.raises(RuntimeError, match="cannot multiply bfloat16; give it float32 or float16"):
            bidirectional_attention(*inputs, backend="triton")

    def test_a_gpu_that_is_too_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime.errors import OutOfResources

        from bixt3d.ops import triton_attention_kernels

        class TooLarge:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                def launch(*arguments: Any, **constants: Any) -> None:
                    raise OutOfResources(200000, 100000, "shared memory")

                return launch

        monkeypatch.setattr(triton_attention_kernels, "forward_kernel", TooLarge())
        with pytest.raises(RuntimeError, match=r'3 latents of 16 channels .*shared memory.*backend="sdpa"'):
            bidirectional_attention(*random_inputs(1, 1, 3, 5, 16), backend="triton")


class TestCut:
    """How the work is cut into tiles and splits."""

    @pytest.mark.parametrize(
        ("pairs", "tiles", "processors", "wanted"),
        [
            (132 * 4, 32, 132, 1),  # every multiprocessor has its four programs
            (6, 32, 132, 32),  # one cloud: no more splits than tiles
            (6 * 32, 32, 132, 2),
            (1, 1, 132, 1),
            (10**6, 32, 1, 1),
        ],
    )
    def test_splits(self, pairs: int, tiles: int, processors: int, wanted: int) -> None:
        assert split_count(pairs, tiles, processors) == wanted

    @pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 500, 1024])
    @pytest.mark.parametrize("processors", [1, 2, 5, 132])
    def test_splits_cover_the_tokens_and_none_is_empty(
        self, num_tokens: int, processors: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(triton_attention, "count_processors", lambda device: processors)
        r_lat, r_tok = torch.empty(1, 3, 5, 16), torch.empty(1, 3, num_tokens, 16)
        for backward in (False, True):
            plan = triton_attention._plan(r_lat, r_tok, backward)
            assert plan.split_tokens % plan.tiles.block == 0
            assert (plan.splits - 1) * plan.split_tokens < num_tokens <= plan.splits * plan.split_tokens

    def test_tiles(self) -> None:
        sides = (16, 32, 64, 128, 256)
        for latents, width, dtype in itertools.product(sides, sides[:4], ROUNDINGS):
            for backward in (False, True):
                tiles = choose_tiles(latents, width, dtype, backward)
                assert tiles.block >= 16 and tiles.own >= 16  # what matrix products take
                assert width % tiles.own == 0
                assert backward or tiles.own == width


def check_compiled(
    sizes: tuple[str, ...], kinds: tuple[str, ...], capability: str = "90"
) -> dict[str, tuple[int, int]]:
    """Registers and spilled bytes of kernels compiled for a compute capability whose memory suffices."""
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.kernels", "--only", "attention", "--capability", capability]
    command += ["--sizes", *sizes, "--dtypes", *kinds]
    result = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = {}
    for line in result.stdout.splitlines():
        case, _, told = line.rpartition(": ")
        of, shared, registers, spilled = map(int, told.split())
        assert of == int(capability) and 0 < shared <= SHARED[of] * 1024, line  # what one program may have
        found[case] = registers, spilled
    assert len([case for case in found if "," not in case]) == 2 * len(sizes) * len(kinds)
    return found


def test_kernels_compile_for_a_gpu() -> None:
    """In the models' sizes nothing spills, and a few programs share a multiprocessor's 64 k registers."""
    found = check_compiled(("64x32",), ("bf16", "tf32"))
    assert {case.partition(", ")[2] for case in found} == {"", "split", "latents alone", "tokens alone"}
    for key, (registers, spilled) in found.items():
        assert 0 < registers <= 200 and spilled == 0, key


def test_kernels_compile_for_older_gpus_and_sizes_that_are_no_powers_of_two() -> None:
    found = check_compiled(("50x24",), ("fp16",), "86")
    assert all(0 < registers <= 255 and spilled <= 64 for registers, spilled in found.values())


@markers.slow
def test_kernels_compile_for_a_gpu_up_to_the_limits() -> None:
    check_compiled(("64x128", "128x64", "256x32", "256x64", "256x128"), ("bf16", "tf32", "fp32"))


@needs_cuda
def test_more_numbers_than_32_bits_count() -> None:
    num_tokens = (1 << 31) // 128 + 100
    r_tok = torch.randn(1, 1, num_tokens, 128, device="cuda", dtype=torch.bfloat16)
    r_lat = torch.randn(1, 1, 16, 128, device="cuda", dtype=torch.bfloat16)
    found = attention(r_tok, r_lat, r_lat, backend="triton")[:, :, -50:]
    exact = attention(r_tok[:, :, -50:].double(), r_lat.double(), r_lat.double(), backend="torch")
    assert_near(found, exact, torch.bfloat16)
