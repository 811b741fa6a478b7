"""Tasks by name, the package's and one's own."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import bixt3d
from bixt3d.config import Config, config_from
from bixt3d.models.factory import task_of
from bixt3d.tasks import (
    ClassificationTask,
    PartSegmentationTask,
    Task,
    find_task,
    list_tasks,
    make_task,
    metric_titles,
    register_task,
)
from bixt3d.training.splits import build_task

pytestmark = pytest.mark.usefixtures("registries")


class Mine(ClassificationTask):
    goal = "macc"
    titles = {"depth": "Depth"}


def test_those_of_the_package() -> None:
    assert list_tasks() == sorted(list_tasks()) and {"classification", "part_segmentation"} <= set(
        list_tasks()
    )
    assert type(find_task("classification")) is ClassificationTask
    assert type(find_task("part_segmentation")) is PartSegmentationTask
    assert find_task("classification") is not find_task("classification")


def test_every_model_is_for_a_task() -> None:
    """But segmenters of images, which take a task, or a loop, of one's own."""
    without = {name for name in bixt3d.list_models() if task_of(name) not in list_tasks()}
    assert without == {"bixt_ti_image_seg", "bixt_ti_image_seg_fpn"}


@pytest.mark.parametrize("form", ["class", "object"])
def test_ones_own(form: str) -> None:
    registered = Mine if form == "class" else Mine(["a", "b"], 0.5)
    bixt3d.register_task("mine", registered)
    assert "mine" in list_tasks() and metric_titles()["depth"] == "Depth"
    found = find_task("mine")
    assert type(found) is Mine and found.name == "mine" and found is not registered
    assert found.classes == (() if form == "class" else ("a", "b"))
    found.set_facts({"classes": ["c"]})
    assert find_task("mine").classes != ("c",)  # type: ignore[attr-defined]
    assert Mine.name == "classification"  # of an object alone, as the class may have several names
    # Again under its name, as a notebook's cell that is run twice does it.
    bixt3d.register_task("mine", registered)


def test_names_that_are_taken_or_none() -> None:
    with pytest.raises(ValueError, match="^name: classification is a task of the package: expected another"):
        register_task("classification", Mine)
    for name in ("", 3, None):
        with pytest.raises(ValueError, match="^name: expected a name, got "):
            register_task(name, Mine)  # type: ignore[arg-type]
    for task in (nn.Linear, 3, "mine", lambda: Mine()):
        with pytest.raises(TypeError, match="^task: expected a subclass of bixt3d.tasks.Task, or an object"):
            register_task("mine", task)  # type: ignore[arg-type]


def test_unknown_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown task 'clasification'; did you mean 'classification'\?; known: "
    ):
        find_task("clasification")


@pytest.mark.parametrize("form", [Mine, Mine(), "mine"], ids=["class", "object", "name"])
def test_made_for_settings(form: Any) -> None:
    register_task("mine", Mine)
    config = config_from({"optim": {"label_smoothing": 0.3}})
    task = make_task(form, config)
    assert type(task) is Mine and task.config == config and task.label_smoothing == 0.3
    assert task is not form
    if isinstance(form, Mine):
        assert form.config is None and form.label_smoothing is None  # a copy knows them
    assert make_task(Mine(label_smoothing=0.0), config).label_smoothing == 0.0  # type: ignore[attr-defined]


def test_which_task_an_experiment_has() -> None:
    """The one that is given, else the settings', else the model's."""

    def of(text: str = "", task: Any = None, model: Any = None, **data: Any) -> Task:
        stated = {"task": text, "data": {"order": "random"}, "model": {"name": "bixt_ti_partseg"}, **data}
        return build_task(config_from(stated), task, model)

    class Own(nn.Module):
        pass

    class Told(nn.Module):
        task = "part_segmentation"

    register_task("mine", Mine)
    assert of().name == "part_segmentation"
    assert of("mine").name == "mine" and of("mine", "classification").name == "classification"
    assert type(of("classification", Mine)) is Mine
    # A model that is given goes before the name of another in the settings.
    assert of(model=Own()).name == "classification" and of(model=Told()).name == "part_segmentation"
    assert of("mine", model=Told()).name == "mine"
    with pytest.raises(ValueError, match="unknown model 'nothing'"):
        build_task(config_from({"model": {"name": "nothing"}}))


def test_builders_say_their_task() -> None:
    def build(num_classes: int, in_dims: int) -> nn.Module:
        return nn.Linear(in_dims, num_classes)

    bixt3d.register_model("plain", build)
    assert type(build_task(config_from({"model": {"name": "plain"}}))) is ClassificationTask
    build.task = "part_segmentation"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="data.order: part segmentation .* expected random, got stored"):
        build_task(config_from({"model": {"name": "plain"}}))


def test_settings_as_they_come() -> None:
    assert Config().task == "" and type(build_task(Config())) is ClassificationTask
