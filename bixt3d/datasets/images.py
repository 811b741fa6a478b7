"""Images: read from files and arrays, brought to a size, changed at random, and whole splits of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bixt3d.datasets.checks import check_index, check_names, whole_numbers
from bixt3d.datasets.split import Split
from bixt3d.ops.validate import describe

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Of ImageNet's colours; other numbers of channels take their means.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False, repr=False)
class ImageSplit(Split):
    """A whole split of images in memory, all of one size; else a `bixt3d.Split`, also in what it raises.

    Attributes:
        points: (S, H, W, C) images: uint8 from 0 to 255, or float32, which models take as they are.
    """

    def __post_init__(self) -> None:
        images: Any = self.points
        if isinstance(images, np.ndarray) and images.dtype.kind in "fu":
            images = torch.from_numpy(
                np.require(images, np.uint8 if images.dtype == np.uint8 else np.float32)
            )
        if (
            not isinstance(images, Tensor)
            or images.ndim != 4
            or images.dtype not in (torch.uint8, torch.float32)
        ):
            raise ValueError(
                f"points: expected images (S, H, W, C), uint8 or float32, got {describe(images)}"
            )
        if not images.numel() or (images.is_floating_point() and not bool(torch.isfinite(images).all())):
            raise ValueError(f"points: expected images of finite numbers, got {describe(images)}")
        object.__setattr__(self, "points", images)
        object.__setattr__(self, "label", whole_numbers(self.label))
        object.__setattr__(self, "normalized", True)
        for key in ("classes", "names", "digests"):
            object.__setattr__(self, key, tuple(map(str, getattr(self, key))))
        check_names("classes", self.classes)
        check_index("label", self.label, (len(self),), len(self.classes), "classes", least=-1)

    @property
    def num_points(self) -> int:
        """Pixels of an image."""
        return self.points.shape[1] * self.points.shape[2]

    @property
    def channels(self) -> int:
        """Channels of a pixel."""
        return self.points.shape[3]


def read_image(path: str | Path) -> Tensor:
    """Read an image of any kind that Pillow knows, upright, in colours: (H, W, 3) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no image, or holds more than 8 bits a channel.
        ImportError: If Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError('images need Pillow: pip install "bixt3d[images]"') from None
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"expected 8 bits a channel, got Pillow's mode {file.mode}; convert it")
            upright = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not read as an image ({str(error).removeprefix(f'{path}: ')})") from None
    return torch.from_numpy(np.array(upright))


def fit_image(image: Tensor, side: int) -> Tensor:
    """Return an image (H, W, C) as a square of that side: scaled by its shorter side, cut to its middle."""
    height, width, _ = image.shape
    if (height, width) == (side, side):
        return image
    factor = side / min(height, width)
    size = max(side, round(height * factor)), max(side, round(width * factor))
    pixels = image.permute(2, 0, 1)[None].float()  # (1, C, H, W)
    scaled = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True)[0]
    down, right = (size[0] - side) // 2, (size[1] - side) // 2
    cut = scaled[:, down : down + side, right : right + side].permute(1, 2, 0)  # (side, side, C)
    return cut if image.is_floating_point() else cut.round().clamp(0, 255).to(image.dtype)


def as_numbers(images: Tensor) -> Tensor:
    """Return images (..., C) as numbers: uint8 by ImageNet's mean and deviation, others as they are."""
    if images.dtype != torch.uint8:
        return images.float()
    count = images.shape[-1]
    mean, std = (
        torch.tensor(values if count == 3 else [sum(values) / 3] * count, device=images.device)
        for values in (MEAN, STD)
    )
    return (images.float() / 255 - mean) / std


def move_images(
    images: Tensor,
    generator: Generator,
    *,
    scale_low: float = 1.0,
    scale_high: float = 1.0,
    shift_reach: float = 0.0,
    rotate_degrees: float = 0.0,
    mirror_probability: float = 0.0,
) -> Tensor:
    """Scale, shift, turn and mirror each image (B, H, W, C) about its middle, as `augment` does clouds.

    Each axis is scaled by a factor from U(low, high), then the image is turned by an angle from U(-degrees,
    degrees), moved by U(-reach, reach) of half its side along each axis, and, with the given probability,
    mirrored from left to right. Beyond its border there are zeros.
    """
    batch, device = len(images), images.device

    def draw(count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, count, generator=generator, device=device)

    scale, offset = draw(2, scale_low, scale_high), draw(2, -shift_reach, shift_reach)
    angle = draw(1, -math.radians(rotate_degrees), math.radians(rotate_degrees))[:, 0]  # (B,)
    sign = torch.where(draw(1, 0, 1)[:, 0] < mirror_probability, -1.0, 1.0)  # (B,)
    sin, cos = angle.sin(), angle.cos()
    # Where each pixel comes from: moved back, turned back, then scaled back.
    turn = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)  # (B, 2, 2)
    back = turn / (scale * torch.stack([sign, torch.ones_like(sign)], -1))[..., None]  # (B, 2, 2)
    theta = torch.cat([back, -(back @ offset[..., None])], -1)  # (B, 2, 3)
    pixels = images.permute(0, 3, 1, 2)  # (B, C, H, W)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False).permute(0, 2, 3, 1)  # (B, H, W, C)


def pixel_clouds(images: Tensor) -> Tensor:
    """Return pixels of images (B, H, W, C) as points (B, H * W, 3 + C): x right, y up, z zero, channels."""
    batch, height, width, count = images.shape
    longest = max(height, width)
    down, right = ((2 * torch.arange(n, device=images.device) + 1 - n) / longest for n in (height, width))
    y, x = torch.meshgrid(-down, right, indexing="ij")  # (H, W) each
    xyz = torch.stack([x, y, torch.zeros_like(x)], -1).expand(batch, -1, -1, -1)  # (B, H, W, 3)
    return torch.cat([xyz, images.float()], -1).flatten(1, 2)  # (B, H * W, 3 + C)
