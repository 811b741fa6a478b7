"""Classification of images: as of clouds, but for how an image is read, laid out, changed and shown."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from bixt3d.config import Config
from bixt3d.datasets.images import (
    SUFFIXES,
    ImageSplit,
    as_numbers,
    fit_image,
    move_images,
    pixel_clouds,
    read_image,
)
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.ops.validate import describe
from bixt3d.tasks.base import Change, Choose
from bixt3d.tasks.classification import ClassificationTask
from bixt3d.tasks.results import Prediction

logger = logging.getLogger(__name__)

FLOATS = "float32"  # what `facts` calls images that models take as they are
LARGEST = 10  # no normalised colour is so large: white is 2.6
# Settings that say nothing of images.
OF_CLOUDS = {
    "data": ("order", "features", "up", "estimate_normals", "normalization"),
    "augment": (
        *("jitter_std", "dropout", "normal_dropout", "feature_dropout", "feature_jitter", "thin", "mix"),
        *("turn", "lying", "refit", "tilt", "bend", "noise", "missing", "holes", "strays", "clusters"),
    ),
}


class ImageClassificationTask(ClassificationTask):
    """One label an image; ``data.num_points`` are its pixels, a square number such as 50176 = 224 x 224.

    ``augment`` scales, shifts, turns and mirrors images as `move_images` does. An answer's points are the
    pixels that the model saw, so whatever shows clouds shows them.
    """

    name = "image_classification"
    suffixes = SUFFIXES
    axes = 3
    averages = False
    in_dims: int | None = None
    image_size: int | None = None
    pixels: str | None = None  # FLOATS where the training images were floats
    _noted = False

    def configure(self, config: Config) -> None:
        """Take the settings.

        Raises:
            ValueError: For one that says nothing of images.
        """
        super().configure(config)
        for section, names in OF_CLOUDS.items():
            for name in names:
                value, usual = (getattr(getattr(one, section), name) for one in (config, Config()))
                if value and value != usual:
                    raise ValueError(
                        f"{section}.{name}: expected none for images, got {value!r}; leave it out"
                    )

    def facts(self, split: Split) -> dict[str, Any]:
        """Return the classes, and whether the images are floats."""
        floats = {"pixels": FLOATS} if split.points.is_floating_point() else {}
        return {**super().facts(split), **floats}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Take the names of the classes, and what the training images were."""
        super().set_facts(facts)
        self.pixels = facts.get("pixels")

    def bind_model(self, model: nn.Module) -> None:
        """Take from a model its channels, and the size of images where nothing else says it."""
        super().bind_model(model)
        self.in_dims, self.image_size = getattr(model, "in_dims", None), getattr(model, "image_size", None)

    def arrange(self, split: Split, training: bool = False) -> Split:
        """Return the split as it is, once it is one of images of ``data.num_points`` pixels."""
        if not isinstance(split, ImageSplit):
            raise ValueError(f"expected images, a bixt3d.datasets.images.ImageSplit, got {split!r}")
        if self.config is not None and self.config.data.num_points != split.num_points:
            raise ValueError(
                f"data.num_points: expected {split.num_points}, the pixels of the images, got "
                f"{self.config.data.num_points}"
            )
        return split

    def brief(self, splits: Mapping[str, Split]) -> list[str]:
        """Return classes, size and channels of the images, and which classes a split lacks."""
        train = next(iter(splits.values()))
        _, height, width, channels = train.points.shape
        lines = [f"  {len(train.classes)} classes; {height} x {width} pixels of {channels} channels"]
        for name, split in splits.items():
            if split.points.dtype != train.points.dtype:
                kinds = (str(one.points.dtype).removeprefix("torch.") for one in (split, train))
                lines.append("note: {} has {} images, training {}: give both alike".format(name, *kinds))
            present = set(split.label.tolist())
            missing = [one for number, one in enumerate(split.classes) if number not in present]
            if missing:
                lines.append(f"note: {name} has no image of {', '.join(missing[:5])}")
        return lines

    def choose(self) -> Choose:
        """Return what takes all pixels."""
        return lambda points, generator, count: None

    def augmentation(self, split: Split) -> Change:
        """Return what scales, shifts, turns and mirrors a batch by the settings."""
        assert self.config is not None
        stated = self.config.augment
        moves = {
            "scale_low": stated.scale_low,
            "scale_high": stated.scale_high,
            "shift_reach": stated.shift,
            "rotate_degrees": stated.rotate_degrees,
            "mirror_probability": stated.mirror,
        }

        def change(points: Tensor, generator: Generator) -> Tensor:
            return move_images(as_numbers(points), generator, **moves)

        return change

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model on a batch, bytes made numbers."""
        return super().forward(model, replace(batch, points=as_numbers(batch.points)))

    def read(self, sample: Any, preprocess: Preprocess) -> Tensor:
        """Return an image of a file, an array or a tensor, (H, W, C), uint8 or float32; see `Task.read`."""
        if isinstance(sample, (str, Path)):
            return read_image(sample)
        image = torch.from_numpy(np.array(sample)) if isinstance(sample, np.ndarray) else sample
        wanted = f"image: expected (H, W, {self.in_dims or 'C'}), uint8 or floating-point"
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.numel():
            raise ValueError(f"{wanted}, got {describe(image)}")
        numbers = image.dtype == torch.uint8 or image.is_floating_point()
        if not numbers or image.shape[2] != (self.in_dims or image.shape[2]):
            raise ValueError(f"{wanted}, got {describe(image)}")
        if not bool(torch.isfinite(image).all()):
            raise ValueError("image: expected finite numbers, got NaN or infinity")
        if not self._noted and (doubt := self._doubt(image)):
            self._noted = True
            logger.warning("image: %s", doubt)
        return image.detach() if image.dtype == torch.uint8 else image.detach().float()

    def _doubt(self, image: Tensor) -> str | None:
        """Return what is odd about an image's numbers, for a model of this training; None for nothing."""
        if not image.is_floating_point():
            said = "this model was trained on float images, got uint8; give it numbers as in its training"
            return said if self.pixels == FLOATS else None
        low, high = (float(value) for value in torch.aminmax(image))
        kind = "pixels divided by 255" if high <= 1 else "pixels from 0 to 255" if high > LARGEST else ""
        if self.pixels == FLOATS or low < 0 or high > 255 or not kind:
            return None
        return (
            f"expected uint8 from 0 to 255, or floats less the mean and divided by the deviation, got floats "
            f"from {low:.3g} to {high:.3g}, as {kind} are; give it uint8, or the answer is likely wrong"
        )

    def inputs(self, points: Tensor, preprocess: Preprocess, category: Any = None) -> tuple[Tensor, ...]:
        """Return an image (H, W, C) at the training's size, (1, H, W, C)."""
        if preprocess.up is not None:
            raise ValueError(f"up: expected none for images, got {preprocess.up!r}")
        side = math.isqrt(preprocess.num_points) if preprocess.num_points else self.image_size
        return (as_numbers(fit_image(points, side or min(points.shape[:2])))[None],)

    def example(self, model: nn.Module, batch: int, count: int, channels: int) -> dict[str, Tensor]:
        """Raise ValueError: exported files take clouds as they are."""
        raise ValueError(
            "export: expected a model of clouds, got one of images, which torch.onnx.export takes"
        )

    def _named(self, logits: Tensor, clouds: Sequence[Tensor], up: str | None = None) -> list[Prediction]:
        return super()._named(logits, [pixel_clouds(image[None])[0] for image in clouds], up)
