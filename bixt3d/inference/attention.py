"""Where a model's latents look: the part of a Predictor that asks for attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.preprocess import Preprocess
from bixt3d.inference.clouds import Cloud
from bixt3d.models.encoder import Attended
from bixt3d.ops import attention_diversity, attention_freedom, knn
from bixt3d.tasks import Attention, Task

Category = str | int | None
Direction = Literal["latents", "tokens"]

# What `Predictor` asks of a model beside its answer, and what that returns.
METHODS = {
    "forward_features": "latents (B, M, D), whose mean is a cloud's vector, and tokens (B, N, D)",
    "located_attention": "for each layer the tokens' xyz (B, N, 3) and the attention on them (B, H, M, N)",
    "attention_symmetry": "for each layer how alike its two directions are, (B, H)",
    "attention_similarities": "for each layer what both directions of attention come from",
}


def require(model: Any, method: str) -> None:
    """Raise ValueError, which says what the method is for, if a model does not have it."""
    if not hasattr(model, method):
        name, returned = type(model).__name__, METHODS[method]
        raise ValueError(f"expected a model with {method}(points), got {name}; it returns {returned}")


class Attentive:
    """What `Predictor` says of attention."""

    model: Any
    device: torch.device
    task: Task
    preprocess: Preprocess

    def attention_maps(self, cloud: Cloud, category: Category = None) -> list[Tensor]:
        """Return the latents' attention over the tokens for one cloud, one (H, M, N) per layer."""
        attended: list[Attended] = self._look("located_attention", cloud, category)[0]
        return [attention[0].cpu() for _, attention in attended]

    def attention(
        self,
        cloud: Cloud,
        category: Category = None,
        direction: Direction = "latents",
        up: str | None = None,
    ) -> Attention:
        """Return where the latents look on one cloud, for each layer and head, on every point.

        Args:
            cloud: An array or tensor (N, C), or a file's path.
            category: As for `segment`.
            direction: ``"latents"``: how much a latent reads of each token. ``"tokens"``: how much each token
                reads of a latent; layers in which the tokens read nothing are left out.
            up: The axis that points up, such as an answer found it; the predictor's own, asked for again with
                ``up="auto"``, if None. Of several looks (``turns``) this is the first.

        Raises:
            ValueError: For a wrong shape, NaN, a category that is missing or unknown, or a model of scenes.
            FileNotFoundError: If the file is missing.
        """
        if self.task.axes != 2:
            raise ValueError(f"attention: expected a model of clouds, got one for {self.task.name}")
        if self.task.reach(self.preprocess) is not None:
            raise ValueError("expected a model of whole clouds, got one that looks at scenes piece by piece")
        said = {} if direction == "latents" else {"direction": direction}
        attended, points, preprocess = self._look("located_attention", cloud, category, up, **said)
        if not attended:
            raise ValueError(f"direction={direction!r}: no layer of this model has it")
        everywhere = preprocess.normalize(points)[None, :, :3].to(self.device)  # (1, N, 3)
        maps, searched, nearest_token = [], None, everywhere
        for xyz, attention in attended:
            if xyz is not searched:  # several layers look at the same tokens
                searched, nearest_token = xyz, knn(everywhere, xyz, 1)[0, :, 0]  # (N,)
            maps.append(attention[0][..., nearest_token].float().cpu().numpy())  # (H, M, N)
        return Attention(tuple(maps), points.cpu().numpy(), preprocess.up)

    def attention_symmetry(self, cloud: Cloud, category: Category = None) -> list[np.ndarray[Any, Any]]:
        """Return how alike the two directions of attention are on one cloud, (H,) per layer that has both.

        See `bixt3d.ops.attention_symmetry`; arguments and errors are those of `attention`.
        """
        layers = self._look("attention_symmetry", cloud, category)[0]
        return [layer[0].cpu().numpy() for layer in layers]

    def attention_diversity(self, cloud: Cloud, category: Category = None) -> list[np.ndarray[Any, Any]]:
        """Return how alike the latents' maps are and how even, (2, H) per layer.

        See `bixt3d.ops.attention_diversity`; arguments and errors are those of `attention`.
        """
        maps = self.attention_maps(cloud, category)
        return [torch.cat(attention_diversity(layer[None])).numpy() for layer in maps]

    def attention_freedom(self, cloud: Cloud, category: Category = None) -> list[np.ndarray[Any, Any]]:
        """Return the fields of `bixt3d.ops.attention_freedom` on one cloud, (6, H) per layer that has both.

        Arguments and errors are those of `attention`.
        """
        layers = self._look("attention_similarities", cloud, category)[0]
        return [torch.cat(attention_freedom(*pair)).cpu().numpy() for pair in layers]

    def _look(
        self, method: str, cloud: Cloud, category: Category, up: str | None = None, **options: str
    ) -> tuple[Any, Tensor, Preprocess]:
        """Return what a method of the model says of a cloud, the cloud's points, and how they stand."""
        require(self.model, method)
        points = self._read(cloud)
        preprocess = replace(self.preprocess, up=up) if up else self._standing(cloud, category)
        inputs = [one.to(self.device) for one in self.task.inputs(points, preprocess, category)]
        said = getattr(self.model, method)(*inputs, **options)
        return said, points, preprocess

    def _read(self, cloud: Any) -> Tensor:
        raise NotImplementedError

    def _standing(self, cloud: Cloud, category: Category) -> Preprocess:
        raise NotImplementedError
