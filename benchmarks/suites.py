"""Suites of corruptions at five levels, ModelNet-C and ModelNet40-C, and what DGCNN is published to score."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmarks import modelnet40_c, modelnet_c

Damage = Callable[[Tensor, int, Generator], Tensor]
LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Suite:
    """Corruptions by name; ``references``: what DGCNN scores on each, where an mCE is published."""

    title: str
    corruptions: Mapping[str, Damage]
    references: Mapping[str, float] | None = None
    differs: str = ""  # what a page says of the differences

    def damage(self, points: Tensor, name: str, level: int) -> Tensor:
        """Damage xyz (B, N, 3) of the unit sphere on the CPU: (B, M, 3), the same every time."""
        generator = Generator().manual_seed(zlib.crc32(f"{self.title} {name} {level}".encode()))
        # in parts, as tables of distances would be large
        return torch.cat([self.corruptions[name](part, level, generator) for part in points.split(256)])


SUITES = {
    "modelnet-c": Suite(
        "ModelNet-C",
        {
            "scale": modelnet_c.stretch,
            "jitter": modelnet_c.jitter,
            "rotate": modelnet_c.rotate,
            "drop-global": modelnet_c.drop_global,
            "drop-local": modelnet_c.drop_local,
            "add-global": modelnet_c.add_global,
            "add-local": modelnet_c.add_local,
        },
        {
            "scale": 0.906,
            "jitter": 0.684,
            "rotate": 0.785,
            "drop-global": 0.752,
            "drop-local": 0.793,
            "add-global": 0.705,
            "add-local": 0.725,
        },
    ),
    "modelnet40-c": Suite(
        "ModelNet40-C",
        {
            "occlusion": modelnet40_c.occlusion,
            "lidar": modelnet40_c.lidar,
            "density-inc": modelnet40_c.density_inc,
            "density-dec": modelnet40_c.density_dec,
            "cutout": modelnet40_c.cutout,
            "uniform": modelnet40_c.uniform,
            "gaussian": modelnet40_c.gaussian,
            "impulse": modelnet40_c.impulse,
            "upsampling": modelnet40_c.upsampling,
            "background": modelnet40_c.background,
            "rotation": modelnet40_c.tilt,
            "shear": modelnet40_c.shear,
            "free-form": modelnet40_c.free_form,
            "radial": modelnet40_c.radial,
            "radial-inverse": modelnet40_c.radial_inverse,
        },
        differs="Occlusion and lidar are published as views of the meshes; here they are what is seen of the "
        "points, by hidden-point removal. Density-inc is published from twice as many points.",
    ),
}
