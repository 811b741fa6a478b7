"""Trained models with their preprocessing as files that run elsewhere: ONNX, torch's programs."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from bixt3d.inference.graph import RawModel, least_points
from bixt3d.inference.loading import Loaded, open_model
from bixt3d.tasks import Task

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 18
TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order, over a dozen layers
METADATA = "bixt3d"

logger = logging.getLogger(__name__)

Example = Callable[[int, int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked.

    Attributes:
        path: The file.
        inputs: Name, shape and type of each input.
        output: Those of the output.
        least_points: The fewest points that a cloud may have.
        difference: The largest difference from the model, as a fraction of the largest logit.
    """

    path: Path
    inputs: tuple[str, ...]
    output: str
    least_points: int
    difference: float


def export_model(model_or_path: nn.Module | str | Path, path: str | Path, format: str = "onnx") -> Exported:
    """Write a model for other programs, and check that the file gives what the model gives.

    The file does what `Predictor` does: inputs are ``points`` (batch, points, 3 + F) float32, xyz and the
    features as a file has them (colours from 0 to 1), of any place, size, order and number from
    ``least_points`` up, and for a segmenter that is told it ``category`` (batch,) int64. It turns,
    centres, scales, orders and cuts them itself, see `bixt3d.inference.graph.RawModel`. The output is
    ``logits``, (batch, K) or (batch, points, P) float32. Classes, parts, features and up axis travel as
    JSON: in ONNX's metadata, or in the file ``bixt3d.json`` of the program.

    Args:
        model_or_path: A classifier, a segmenter or a checkpoint.
        path: Where to write.
        format: ``"onnx"`` (opset 18), or ``"torch"``, which `torch.export.load` reads.

    Raises:
        ValueError: For an unknown format or kind of model, or a file that differs from its model; nothing is
            left then.
        FileNotFoundError: If there is no such checkpoint.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    loaded = open_model(model_or_path, torch.device("cpu"), share=True)
    task, channels = loaded.task, loaded.preprocess.channels
    if task.reach(loaded.preprocess) is not None:
        raise ValueError(
            "expected a model of whole clouds, got one that looks at scenes piece by piece, which an "
            "exported file cannot do: label scenes by bixt3d predict, or Predictor.segment"
        )
    model = RawModel(loaded.model, loaded.preprocess, task.per_point).eval()
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    least = least_points(loaded.model, loaded.preprocess)
    names = tuple(task.example(loaded.model, 2, least, channels))
    about = _metadata(loaded, names, least)
    example = partial(_example, task, loaded.model, channels)
    with torch.no_grad():
        width = model(*example(1, least)).shape[-1]
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    if temporary.suffix != FORMATS[format]:
        temporary = temporary.with_name(temporary.name + FORMATS[format])
    logger.info("tracing the model, which can take minutes")
    try:
        with _quiet():
            program = _program(model, example, names, least)
            run = (_write_onnx if format == "onnx" else _write_torch)(program, temporary, names, about)
        logger.info("comparing the file with the model")
        difference = _difference(model, run, example, least)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the exported file differs from the model by {difference:.1e} of its largest logit, more "
                f"than {TOLERANCE:.0e}; nothing was written. Try another format: {', '.join(FORMATS)}"
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    output = "(batch, points, {})" if task.per_point else "(batch, {})"
    inputs = tuple(map(_about_input, names, example(2, least)))
    return Exported(path, inputs, f"logits {output.format(width)} float32", least, difference)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch's exporters say of themselves."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _about_input(name: str, value: Tensor) -> str:
    free = ("batch", "points") if name == "points" else ("batch",)
    sizes = ", ".join([*free, *map(str, value.shape[len(free) :])])
    return f"{name} ({sizes}{',' if value.ndim == 1 else ''}) {str(value.dtype).removeprefix('torch.')}"


def _program(model: nn.Module, example: Example, names: Sequence[str], least: int) -> ExportedProgram:
    batch, points = Dim("batch", min=1), Dim("points", min=least)
    inputs = example(2, max(2 * least, 128))
    told = tuple({0: batch} for _ in names[1:])
    shapes = ({0: batch, 1: points}, *((told,) if told else ()))
    with torch.no_grad():
        # torch compiles the loop of `scan`, and would compare the sizes of an earlier export with these.
        torch.compiler.reset()
        program = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    for module in program.graph_module.modules():  # the body of farthest-point sampling is one of its own
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # a third of a file, with the paths of this machine
    return program


def _write_onnx(
    program: ExportedProgram, path: Path, names: Sequence[str], about: Mapping[str, Any]
) -> Callable[..., Tensor]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401, torch's exporter is written in it
    except ImportError as error:
        install = 'pip install "bixt3d[export]"'
        raise ImportError(f"ONNX files need onnx, onnxscript and onnxruntime ({error}): {install}") from None
    written = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=list(names),
        output_names=["logits"],
        external_data=False,
        # onnxscript's optimiser takes the 1e-8 of an inverse distance for 0 and removes it; ONNX Runtime
        # optimises what it loads by itself
        optimize=False,
    )
    assert written is not None
    written.save(str(path), external_data=False)
    file = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    _tidy(file.graph, names)
    shown = {name: json.dumps(about[name]) for name in ("classes", "features", "up") if name in about}
    onnx.helper.set_model_props(file, {METADATA: json.dumps(about), **shown})
    onnx.checker.check_model(file)
    onnx.save(file, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _tidy(graph: Any, names: Sequence[str]) -> None:
    """Name the free axes of a graph, and leave out what its exporter says of itself.

    A CastLike becomes the Cast that it is: ONNX Runtime warns of each that it cannot work out beforehand.
    """
    import onnx

    of_points = next(value for value in graph.input if value.name == "points")
    free = (axis.dim_param for axis in of_points.type.tensor_type.shape.dim[:2])
    axes = dict(zip(free, ("batch", "points"), strict=True))
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = axes.get(axis.dim_param, axis.dim_param)
    graphs = [graph]
    for inner in graphs:
        values = (*inner.input, *inner.output, *inner.value_info)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {value.name: value.data_type for value in inner.initializer}
        for part in (*values, *inner.node, *inner.initializer):
            del part.metadata_props[:]
        for node in inner.node:
            graphs += [one.g for one in node.attribute if one.HasField("g")]
            if node.op_type == "CastLike" and node.input[1] in types:
                node.attribute.append(onnx.helper.make_attribute("to", types[node.input.pop()]))
                node.op_type = "Cast"
        del inner.value_info[:], inner.metadata_props[:]


def _write_torch(
    program: ExportedProgram, path: Path, names: Sequence[str], about: Mapping[str, Any]
) -> Callable[..., Tensor]:
    torch.export.save(program, path, extra_files={f"{METADATA}.json": json.dumps(about)})
    run: Callable[..., Tensor] = torch.export.load(path).module()
    return run


@torch.no_grad()
def _difference(model: nn.Module, run: Callable[..., Tensor], example: Example, least: int) -> float:
    """Compare on batches and numbers of points other than those of the export."""
    worst = 0.0
    for batch, count in ((1, least), (3, 2 * least + 57)):
        inputs = example(batch, count)
        expected = model(*inputs)
        gap = (run(*inputs) - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
        worst = max(worst, float(gap)) if torch.isfinite(gap) else math.inf
    return worst


def _example(task: Task, model: nn.Module, channels: int, batch: int, count: int) -> tuple[Tensor, ...]:
    return tuple(task.example(model, batch, count, channels).values())


def _metadata(loaded: Loaded, inputs: Sequence[str], least: int) -> dict[str, Any]:
    description: Any = getattr(loaded.model, "description", None)
    about = {} if description is None else description.to_dict()
    kept = {key: value for key, value in about.items() if key not in ("model", "config", "metrics")}
    seen = loaded.preprocess
    told = {"features": list(seen.features), "up": seen.up, "preprocess": seen.to_dict()}
    return {"inputs": list(inputs), "output": "logits", "least_points": least, **kept, **told}
