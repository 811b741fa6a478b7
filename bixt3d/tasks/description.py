"""What a checkpoint says of its model: enough to rebuild it, and to use it as it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bixt3d.datasets.features import name_of
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.models.factory import MODELS
from bixt3d.suggest import unknown

GIVEN = "clouds given in Python"  # what a checkpoint calls data that no data set holds
CALLED = ("part_names", "part_codes")
OWN = ("task", "model", "preprocess", "dataset", "config", "metrics")
# Names of tasks in older checkpoints.
FORMER = {"part segmentation": "part_segmentation"}


@dataclass(frozen=True)
class Description:
    """A model as a checkpoint describes it.

    Attributes:
        task: Name of its task.
        model: ``{"name": ..., "args": {...}}`` for `bixt3d.create_model`; the name is "" for a model that was
            built elsewhere.
        facts: What its outputs mean, as the task says: ``classes``, and whatever else.
        preprocess: What is done to a cloud before.
        dataset: Name of the data set that it was trained on; `GIVEN` for clouds of the caller's own, "" where
            it is not known, as in checkpoints of others, and of older runs on clouds of the caller's.
        config: The settings of its training.
        metrics: Its scores when it was saved.
    """

    task: str
    model: Mapping[str, Any]
    facts: Mapping[str, Any]
    preprocess: Preprocess
    dataset: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's own kinds, the facts beside the rest."""
        return {
            "task": self.task,
            "model": {"name": self.model["name"], "args": dict(self.model["args"])},
            **self.facts,
            "preprocess": self.preprocess.to_dict(),
            "dataset": self.dataset,
            "config": dict(self.config),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Description:
        """Return what a checkpoint states.

        Raises:
            ValueError: If something of it is missing or of another kind.
        """
        model = stated.get("model")
        classes = stated.get("classes", [] if "task" in stated else None)  # the first task had them
        whole = isinstance(model, Mapping) and isinstance(model.get("name"), str)
        whole = whole and isinstance(model["args"] if "args" in model else None, Mapping)  # type: ignore[index,operator]
        whole = whole and isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        preprocess = stated.get("preprocess")
        if not whole or not isinstance(preprocess, Mapping):
            got = f"{model!r:.80}, {classes!r:.80}, {preprocess!r:.80}"
            raise ValueError(f"expected a whole description: model, classes, preprocess; got {got}")
        built = getattr(MODELS.get(model["name"]), "task", "classification")  # type: ignore[index]
        former = str(stated.get("task", getattr(built, "name", built)))
        facts = {key: value for key, value in stated.items() if key not in (*OWN, "format")}
        rest = {key: stated.get(key) or {} for key in ("config", "metrics")}
        if not all(isinstance(value, Mapping) for value in rest.values()):
            raise ValueError("expected config and metrics with keys and values")
        known = Preprocess.from_dict(preprocess)
        return cls(
            FORMER.get(former, former),
            model,  # type: ignore[arg-type]
            facts,
            replace(known, optional=dropped_features(known.features, rest["config"].get("augment"))),
            str(stated.get("dataset", "")),
            **rest,
        )

    def resized(self, args: Mapping[str, Any], facts: Mapping[str, Any]) -> Description:
        """Return the description of the same model with other sizes and facts, such as a new head's."""
        model = {"name": self.model["name"], "args": {**self.model["args"], **args}}
        loss = self.config.get("loss")
        if isinstance(loss, Mapping):  # its labels and weights are by the numbers of the old head
            loss = {key: value for key, value in loss.items() if key not in ("ignore", "class_weights")}
        config = {**self.config, "loss": loss} if loss is not None else self.config
        return replace(self, model=model, facts={**self.facts, **facts}, config=config, metrics={})

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)


def dropped_features(features: Sequence[str], augment: Any) -> tuple[str, ...]:
    """Return the features that training clouds have lost, by the settings of their augmentation."""
    settings = augment if isinstance(augment, Mapping) else {}
    others = settings.get("feature_dropout")
    lost = {**(others if isinstance(others, Mapping) else {}), "normal": settings.get("normal_dropout")}
    return tuple(feature for feature in features if lost.get(name_of(feature)))


def compare_facts(who: str, known: Mapping[str, Any], found: Mapping[str, Any], name: str) -> None:
    """Raise ValueError if the labels of two sources, such as a checkpoint and a data set, differ.

    Labels are what the facts list; a number of a task's own, such as a mean, may be another for each source,
    and so may be what labels are called (`CALLED`).
    """
    for key, value in found.items():
        other = known.get(key)
        if key not in CALLED and isinstance(value, list) and isinstance(other, list) and value != other:
            named = all(isinstance(one, str) for one in (*value, *other))
            strange = unknown(value, other) if named else ""
            raise ValueError(
                f"{who} knows {len(other)} {key} ({', '.join(map(str, other[:3]))} ...), {name} "
                f"has {len(value)} ({', '.join(map(str, value[:3]))} ...){strange}"
            )
