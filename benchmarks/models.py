"""What is measured: models by name, ours and peers, clouds for them, and the work on one batch."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.pointmlp import pointmlp, pointmlp_elite
from benchmarks.peers.pointnet import pointnet
from benchmarks.peers.pointnet2 import pointnet2_ssg
from bixt3d import create_model, list_models, list_weights
from bixt3d.config import Config, TrainConfig, override
from bixt3d.datasets.loader import Batch
from bixt3d.models.attention import BidirectionalCrossAttention
from bixt3d.models.factory import takes
from bixt3d.models.segmenter import PointSegmenter
from bixt3d.settings import kinds_of
from bixt3d.suggest import nearest
from bixt3d.tasks import ClassificationTask, PartSegmentationTask, Task
from bixt3d.training.checkpoint import find_checkpoint, read_checkpoint
from bixt3d.training.device import autocast, has_bfloat16
from bixt3d.training.distributed import Workers
from bixt3d.training.trainer import TrainState

PEERS: dict[str, Callable[..., nn.Module]] = {
    "pointmlp": pointmlp,
    "pointmlp_elite": pointmlp_elite,
    "pointnet": pointnet,
    "pointnet2_ssg": pointnet2_ssg,
}
DEFAULT = ("bixt_ti_cls", "bixt_ti_cls_grouping", "bixt_ti_cls_hierarchy", *sorted(PEERS))
MODES = ("inference", "training")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How a model is run, beside what it is: read from the same place as its settings.
WAYS: dict[str, Sequence[str] | None] = {
    "threads": None,
    "dtype": tuple(DTYPES),
    "compile": get_args(kinds_of(TrainConfig)["compile_mode"]),
}


def model_names() -> list[str]:
    """Return the names of all models of clouds: the library's, then the peers."""
    of_clouds = [name for name in list_models() if not takes(name, "patch")]  # images are cut into patches
    return [*of_clouds, *sorted(PEERS)]


@dataclass(frozen=True)
class Spec:
    """A model by name, with settings of its own and `WAYS` to run it; ``label`` is how it was written."""

    label: str
    name: str
    args: dict[str, Any] = field(default_factory=dict)
    ways: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read ``name`` or ``name:key=value:key=value``, with values as in Python; other words are strings.

        A name of shipped weights stands for their network, not for their values.

        Raises:
            ValueError: If the model is unknown, naming the nearest, a setting is not ``key=value``, or a way
                to run it is none of `WAYS`.
        """
        name, *settings = text.split(":")
        args: dict[str, Any] = {}
        if name in list_weights():
            network = read_checkpoint(find_checkpoint(name))[1]["model"]
            name, args = network["name"], dict(network["args"])
        elif name not in model_names():
            known = [*model_names(), *list_weights()]
            raise ValueError(f"unknown model {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not (key and equals and value):
                raise ValueError(f"{text}: expected settings like depth=4 after the colon, got {setting!r}")
            try:
                args[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                args[key] = value
        ways = {key: args.pop(key) for key in WAYS if key in args}
        for key, value in ways.items():
            known_values = WAYS[key]
            if known_values is not None and value not in known_values:
                raise ValueError(f"{text}: {key}: expected one of {', '.join(known_values)}, got {value!r}")
            if known_values is None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{text}: {key}: expected a whole number from 1 up, got {value!r}")
        return cls(text, name, args, ways)

    def build(self) -> nn.Module:
        """Build the model with the weights of a fixed seed.

        Raises:
            ValueError: For a setting that the model does not take.
        """
        torch.manual_seed(0)
        if self.name not in PEERS:
            return create_model(self.name, **self.args)
        known = inspect.signature(PEERS[self.name]).parameters
        for key, value in self.args.items():
            if key not in known:
                raise ValueError(
                    f"{self.name} has no setting {key!r}{nearest(key, known)}; it takes: {', '.join(known)}"
                )
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{self.name}: {key}: expected a whole number from 1 up, got {value!r}")
        return PEERS[self.name](**self.args)


def clouds(batch: int, num_points: int, in_dims: int = 3) -> Tensor:
    """Return points of random ellipsoids in the unit sphere, always the same: (B, N, 3), or (B, N, 6)."""
    random = torch.Generator().manual_seed(0)
    axes = 0.3 + 0.7 * torch.rand(batch, 1, 3, generator=random)  # (B, 1, 3)
    direction = F.normalize(torch.randn(batch, num_points, 3, generator=random), dim=-1)  # (B, N, 3)
    points = direction * axes / axes.amax(-1, keepdim=True)  # (B, N, 3)
    return torch.cat([points, F.normalize(direction / axes, dim=-1)], -1)[..., :in_dims]


class Work:
    """One batch of a model: a look at it (inference), or a training step.

    A step is the trainer's own, with the settings that `Config` has by default. Both may be compiled, by the
    ways of the model.

    Args:
        spec: The model.
        mode: ``"inference"`` or ``"training"``.
        dtype: ``"float32"``, or ``"bfloat16"`` by autocast; the ways of the model go before it.
        num_points: Points of a cloud.
        batch: Clouds of the batch.
        device: Where it is done.

    Raises:
        ValueError: For bfloat16 on a device that has no units for it and would only emulate it.
    """

    def __init__(
        self, spec: Spec, mode: str, dtype: str, num_points: int, batch: int, device: torch.device
    ) -> None:
        self.model = spec.build().to(device).train(mode == "training")
        self.device = device
        self.batch, self.task = batch_for(self.model, spec, num_points, batch, device)
        config = override(
            Config(),
            train={
                "amp": spec.ways.get("dtype", dtype) == "bfloat16",
                "compile": "compile" in spec.ways,
                "compile_mode": spec.ways.get("compile", "default"),
            },
        )
        if config.train.amp and not has_bfloat16(device):
            raise ValueError(f"{device} has no units for bfloat16 and would only emulate it: take float32")
        self.config = config
        self.state: TrainState | None = None
        self.look = self.task.forward
        if mode == "training":
            self.state = TrainState(config, self.model, self.task, device, Workers())
        elif config.train.compile:
            self.look = torch.compile(self.task.forward, mode=config.train.compile_mode, dynamic=False)
        self.steps = 0

    def run(self) -> None:
        """Do it once."""
        if self.state is None:
            # Not in inference_mode, where autocast would cast a weight anew for every use.
            with torch.no_grad(), autocast(self.device, self.config.train.amp):
                self.look(self.model, self.batch)
            return
        self.state.train_step(repeat(self.batch), self.steps)
        self.steps += 1


def batch_for(
    model: nn.Module, spec: Spec, num_points: int, batch: int, device: torch.device
) -> tuple[Batch, Task]:
    """Return made clouds with labels, and the task that calls this model."""
    points = clouds(batch, num_points, getattr(model, "in_dims", 3)).to(device)
    random = torch.Generator().manual_seed(1)

    def labels(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=random).to(device)

    smoothing = Config().optim.label_smoothing
    if isinstance(model, PointSegmenter):
        # One that is told no category, such as one of scenes, has one of all its labels.
        count = max(1, model.num_categories)
        shares = torch.linspace(0, model.num_outputs, count + 1).round().int().tolist()
        parts = [range(first, last) for first, last in pairwise(shares)]
        own = labels(model.num_outputs, batch, num_points)
        category = labels(count, batch)
        labelled = Batch(points, category, own, category)
        names = [str(number) for number in range(count)]
        return labelled, PartSegmentationTask(names, parts, num_points, smoothing)
    classes = spec.args.get("num_classes", 40)
    task = ClassificationTask([str(label) for label in range(classes)], smoothing)
    return Batch(points, labels(classes, batch)), task


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(value.numel() for value in model.parameters())


def count_macs(spec: Spec, num_points: int, device: torch.device) -> int:
    """Count the multiply-accumulates of one cloud's forward pass that are parts of matrix products.

    torch's counter counts matrix products and convolutions, 2 operations for each multiply-accumulate; it
    does not see sampling, the search for neighbours, gathering, norms, or activations. Nor does it know the
    CPU's fused attention or kernels of our own, so attention is counted in its plain form: the explicit
    matrix for the bi-directional attention, torch's own decomposition for all other.
    """
    model = spec.build().to(device).eval().requires_grad_(False)  # the counter trips over views of parameters
    for module in model.modules():
        if isinstance(module, BidirectionalCrossAttention):
            module.backend = "torch"
    batch, task = batch_for(model, spec, num_points, 1, device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        task.forward(model, batch)
    return int(counter.get_total_flops()) // 2
