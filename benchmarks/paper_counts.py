"""Count parameters and multiply-accumulates of the models in the paper's image tables, beside its own counts.

Nothing is trained or timed: models are built on torch's meta device and counted, in a few seconds:

    python -m benchmarks.paper_counts --out results/paper_counts.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import count_parameters
from benchmarks.table import command_line, markdown_table
from bixt3d import Perceiver, create_model
from bixt3d.models.attention import BidirectionalCrossAttention
from bixt3d.models.heads import ClassificationHead
from bixt3d.models.image import ImageClassifier, ImageEncoder
from bixt3d.models.tokenizers import PatchTokenizer

NEAR = 0.03  # by which a count may differ and be called the same, beyond the paper's rounding


class Row(NamedTuple):
    """A row of the paper: its name, its G and M as printed, how to build it, the image's side, a remark."""

    name: str
    macs: str
    parameters: str
    model: str
    args: dict[str, Any]
    side: int = 224
    remark: str = ""


def classifier(name: str, macs: str, parameters: str, side: int = 224, remark: str = "", **args: Any) -> Row:
    return Row(name, macs, parameters, "bixt_ti_image_cls", args, side, remark)


def iterative(blocks: str, macs: str, parameters: str, share: str = "all", remark: str = "") -> Row:
    attends, depth = (int(part[2:] if part.startswith("sa") else part[1:]) for part in blocks.split("-"))
    args = {"num_blocks": depth, "self_attends_per_block": attends, "share": share}
    return Row(
        f"{blocks}, {share.replace('_', ' ')} shared", macs, parameters, "perceiver", args, remark=remark
    )


FIRST = "the paper's M is that of all but the first shared"
DENSE = "the paper does not say what else it counts (norms, upsampling)"
TABLES: dict[str, tuple[Row, ...]] = {
    "Ways of attention (ImageNet, 224 x 224, 120 epochs)": (
        iterative("sa5-d8", "1.58", "18.61"),
        iterative("sa6-d7", "1.59", "19.50"),
        iterative("sa6-d8", "1.82", "22.16"),
        iterative("sa4-d12", "1.99", "22.16"),
        iterative("sa1-d22", "1.64", "11.04", remark=FIRST),
        iterative("sa1-d24", "1.79", "11.93", remark=FIRST),
        iterative("sa5-d8", "1.58", "19.05", "all_but_first"),
        iterative("sa6-d7", "1.59", "19.94", "all_but_first"),
        iterative("sa6-d8", "1.82", "22.61", "all_but_first"),
        iterative("sa4-d12", "1.99", "22.61", "all_but_first"),
        classifier("sequential, d11", "1.66", "14.60", attention="sequential", depth=11),
        classifier("sequential, d12", "1.81", "15.94", attention="sequential"),
        classifier("bi-directional, d12", "1.68", "15.12"),
        classifier("bi-directional, d13", "1.82", "16.38", depth=13),
    ),
    "Latents, widths, patches and sequences (ImageNet, 224 x 224)": (
        classifier("32 latents", "1.30", "15.12", num_latents=32),
        classifier("64 latents", "1.68", "15.12"),
        classifier("128 latents", "2.47", "15.13", num_latents=128),
        *(
            classifier(f"width {dim}", macs, parameters, dim=dim, num_heads=dim // 32)
            for dim, macs, parameters in (
                (128, "0.78", "6.82"),
                (160, "1.19", "10.56"),
                (192, "1.68", "15.12"),
            )
        ),
        classifier("width 224", "2.26", "20.49", dim=224, num_heads=7),
        classifier("sequence 196, patch 32", "1.77", "15.56", patch=32, stride=16),
        classifier("sequence 196, patch 16", "1.68", "15.11", remark="15.12 in the other tables"),
        classifier("sequence 784, patch 32", "5.05", "15.56", patch=32, stride=8),
        classifier("sequence 784, patch 16", "4.71", "15.12", stride=8),
        classifier("sequence 784, patch 8", "4.62", "15.01", patch=8, stride=8),
        classifier("sequence 3136, patch 16", "16.81", "15.12", stride=4),
        classifier("sequence 3136, patch 8", "16.46", "15.01", patch=8, stride=4),
        classifier("sequence 3136, patch 4", "16.38", "14.98", patch=4, stride=4),
    ),
    "Classification (ImageNet)": (
        classifier("BiXT-Ti/16", "1.7", "15"),
        Row("BiXT-Ti/16, conv tokenizer", "1.7", "15", "bixt_ti_image_cls_conv", {}),
        classifier("BiXT-Ti/8", "4.7", "15", stride=8),
        classifier("BiXT-Ti/4", "16.8", "15", stride=4),
        classifier("BiXT-Ti/16, 384 x 384", "3.6", "15", 384),
        classifier("BiXT-Ti/8, 384 x 384", "12.5", "15", 384, stride=8),
        classifier("BiXT-Ti/4, 384 x 384", "48.1", "15", 384, stride=4),
    ),
    "Segmentation (ADE20K, 512 x 512, 150 classes)": (
        Row("linear predictor, /16", "6.4", "15", "bixt_ti_image_seg", {}, 512, DENSE),
        Row("linear predictor, /8", "23.2", "15", "bixt_ti_image_seg", {"stride": 8}, 512, DENSE),
        Row(
            "SemFPN, /16",
            "31.8",
            "19",
            "bixt_ti_image_seg_fpn",
            {},
            512,
            "the paper states no widths: XCiT's, 256 and 128; up: as if each output of an up-convolution "
            "took all its taps, as some counters have it",
        ),
        Row(
            "SemFPN, conv tokenizer, LPI",
            "32.4",
            "19",
            "bixt_ti_image_seg_fpn",
            {"tokenizer": "conv", "local_layers": tuple(range(12))},
            512,
            "as above; the paper does not say which layers have LPI: all here",
        ),
    ),
}


def build(row: Row) -> nn.Module:
    """Build a row's model on the meta device, its attention such that torch's counter sees it."""
    with torch.device("meta"):
        if row.model == "perceiver":
            encoder = ImageEncoder(PatchTokenizer(), Perceiver(**row.args))
            model: nn.Module = ImageClassifier(encoder, ClassificationHead(192, 1000))
        else:
            model = create_model(row.model, **row.args)
    for module in model.modules():
        if isinstance(module, BidirectionalCrossAttention):
            module.backend = "torch"
    return model.eval().requires_grad_(False)


def count(model: nn.Module, side: int) -> tuple[int, int]:
    """Return an image's multiply-accumulates, and how many more if up-convolutions took all taps each."""
    more = 0

    def by_outputs(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal more
        weight = module.weight
        assert isinstance(weight, Tensor)
        more += weight.numel() * (output[0, 0].numel() - inputs[0][0, 0].numel())

    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            module.register_forward_hook(by_outputs)
    images = torch.empty(1, side, side, 3, device="meta")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(images)
    return int(counter.get_total_flops()) // 2, more


def is_near(stated: str, found: float) -> bool:
    """Say whether a number as printed is the one that was found, by its rounding or `NEAR`."""
    digits = len(stated.partition(".")[2])
    return abs(float(stated) - found) <= 0.5 * 10**-digits + NEAR * found


def rows_of(table: tuple[Row, ...]) -> Iterator[list[str]]:
    for row in table:
        model = build(row)
        (macs, more), parameters = count(model, row.side), count_parameters(model)
        ours, remarks = macs / 1e9, [row.remark] if row.remark else []
        shown = f"{ours:.2f}" + (f" (up {ours + more / 1e9:.2f})" if more else "")
        if not (is_near(row.macs, ours) or (more and is_near(row.macs, ours + more / 1e9))):
            remarks.insert(0, f"G differs by {ours / float(row.macs) - 1:+.1%}")
        if not is_near(row.parameters, parameters / 1e6):
            remarks.insert(0, f"M differs by {parameters / 1e6 / float(row.parameters) - 1:+.1%}")
        yield [row.name, row.macs, shown, row.parameters, f"{parameters / 1e6:.2f}", "; ".join(remarks)]


def page() -> str:
    """Return the whole page, in markdown."""
    head = ["row", "paper G", "ours G", "paper M", "ours M", "remark"]
    lines = [
        "# The paper's image tables, counted",
        "",
        "G: multiply-accumulates of one image in matrix products and convolutions, 10^9; what the paper",
        "calls FLOPs are these, as its numbers say. M: parameters, 10^6. Norms, activations, softmax and",
        f"upsampling are not counted. A remark names what is not the same within rounding and {NEAR:.0%}.",
        "",
    ]
    for title, table in TABLES.items():
        lines += [f"## {title}", "", markdown_table(head, list(rows_of(table))).rstrip(), ""]
    return "\n".join([*lines, f"By `{command_line('benchmarks.paper_counts')}`.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="markdown file that is written; else the page is printed")
    args = parser.parse_args()
    text = page()
    if args.out is None:
        print(text)
    else:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
