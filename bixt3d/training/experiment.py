"""`train`: an experiment from settings to result: open the data, build the model, train, evaluate on test."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bixt3d.config import Config, check_config, load_config
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.models.encoder import PointModel
from bixt3d.models.factory import create_model, is_own, takes
from bixt3d.tasks import Description, Task
from bixt3d.tasks.description import GIVEN, OWN, dropped_features
from bixt3d.training.checkpoint import load_checkpoint
from bixt3d.training.device import kept_random, pick_device
from bixt3d.training.distributed import Workers, join_workers
from bixt3d.training.evaluate import evaluate, scores
from bixt3d.training.files import write_csv, write_result
from bixt3d.training.folder import take_folder
from bixt3d.training.guards import StopSignals
from bixt3d.training.pretrained import find_start, start_from
from bixt3d.training.resume import check_opened
from bixt3d.training.splits import build_task, open_all
from bixt3d.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a training gives.

    Attributes:
        model: The last epoch's weights (their moving average, if there is one), in evaluation mode.
        task: The task, which knows what the outputs mean.
        last: Epoch and test metrics of the last epoch; without a test split the metrics of its training.
        best: Those of the best epoch by validation; None where nothing was chosen.
        minutes: The whole run's, over every time it was resumed.
        run_dir: Where everything is.
    """

    model: nn.Module
    task: Task
    last: dict[str, float]
    best: dict[str, float] | None
    minutes: float
    run_dir: Path

    def to_dict(self) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        best = {} if self.best is None else {"best": self.best}
        return {"last": self.last, **best, "minutes": self.minutes}


def train(
    config: Config | str | Path,
    *,
    train: Split | None = None,
    val: Split | None = None,
    test: Split | None = None,
    model: nn.Module | None = None,
    task: Task | type[Task] | str | None = None,
    device: torch.device | str | None = None,
    resume: bool = False,
    numbered: bool = False,
) -> Result:
    """Train a model, then evaluate its last and its best epoch once on the test split.

    What is not given comes from the settings. Beside a training split of one's own, a val or test split of
    theirs is used if it has the same classes and features; a val split is else cut from the training split
    where ``data.train_split`` is ``train``, and nothing is tested without a test split.

    Args:
        config: The settings, or a file of them; ``run.dir`` says where results go, and nothing is written
            elsewhere.
        train: Clouds to train on.
        val: Clouds that choose the best epoch.
        test: Clouds that are evaluated once, at the end.
        model: A model, which is trained in place.
        task: A task's name, its class, or an object of it; that of the model if None.
        device: Where to compute; CUDA where there is one if None.
        resume: Go on with the run in ``run.dir``.
        numbered: Where ``run.dir`` holds a run already, take the next free name, ``dir_2`` and so on; with
            ``resume``, the last one there.

    Returns:
        The trained model, and its scores.

    Raises:
        ValueError: For settings that are wrong, or do not fit the data, the model or the task.
        FileNotFoundError: If data or a checkpoint are missing.
        FileExistsError: If ``run.dir`` holds a run already, and ``resume`` is not set; if another run is in
            it; or if it holds files under a run's names that no run wrote.
    """
    start = time.perf_counter()
    given = {"train": train, "val": val, "test": test}
    for key, value, kind in (
        *((key, split, Split) for key, split in given.items()),
        ("model", model, nn.Module),
    ):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{key}: expected a {kind.__name__}, got {type(value).__name__}")
    config = check_config(config) if isinstance(config, Config) else load_config(config)
    where = pick_device(device if device is None else str(device))
    workers = join_workers(where)
    config, lock = take_folder(config, resume, workers, numbered)
    try:
        result = _train(config, given, model, task, where, workers, resume, start)
    finally:
        if lock is not None:
            lock.release()
    return result


def _train(
    config: Config,
    given: Mapping[str, Split | None],
    model: nn.Module | None,
    task: Task | type[Task] | str | None,
    where: torch.device,
    workers: Workers,
    resume: bool,
    start: float,
) -> Result:
    """Train in a folder that is taken; see `train`."""
    run_dir = Path(config.run.dir)
    made = build_task(config, task, model)
    check_points(config, model)
    if model is None and config.model.init_from is not None and not resume:
        find_start(config.model.init_from)  # before the data are read
    own = {key: split for key, split in given.items() if split is not None}
    if resume and "train" not in own:
        check_opened(run_dir)
    splits, stored_points = open_all(config, where, made, own)
    chosen = next(iter(splits))
    made.set_facts(made.facts(splits[chosen]))
    named = GIVEN if "train" in own else None
    description = describe(config, splits[chosen], stored_points, made, model, named)
    say = print if workers.first else lambda line: None
    net = build_model(config, description, resume, say) if model is None else model
    if model is not None and config.model.init_from is not None:
        say(f"model.init_from={config.model.init_from} is not used: a model was given")
    odd = [name for name, value in net.state_dict().items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"model: expected tensors alone in its state_dict, which is saved, got {odd[0]}")
    made.bind_model(net)
    if workers.first:
        count = sum(value.numel() for value in net.parameters())
        sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
        source = "given clouds" if own else config.data.name
        name = description.model["name"] or type(net).__name__
        print(f"{name}: {count:,} parameters on {where}\n{source}: {sizes}", *made.brief(splits), sep="\n")
    if workers.first and config.train.keep_every > config.train.epochs:
        logger.warning(
            "train.keep_every=%s keeps no epoch of train.epochs=%s: expected as many or fewer, or 0",
            *(config.train.keep_every, config.train.epochs),
        )
    asked = [(value, value.requires_grad) for value in net.parameters()]
    trainer = Trainer(config, net, made, splits[chosen], splits.get("val"), run_dir, description, resume)
    before, finished = trainer.seconds, trainer.is_over
    if finished:
        say(f"nothing is left to train: epoch {trainer.epoch} of {config.train.epochs}")
    try:
        trainer.fit()
    finally:
        for weights, gradient in asked:  # a model that was given is as free as before
            weights.requires_grad_(gradient)
    with StopSignals() as signals, signals.at_once(workers.world_size == 1):
        trained, scored = _test(config, where, splits.get("test"), made, workers, run_dir, model)
    minutes = round((before + time.perf_counter() - start) / 60, 2)
    if finished and (run_dir / "result.json").is_file():  # to look again takes no time of the run's
        minutes = json.loads((run_dir / "result.json").read_text(encoding="utf-8")).get("minutes", minutes)
    result = Result(trained, made, scored["last"], scored.get("best"), minutes, run_dir)
    if workers.first:
        write_result(run_dir / "result.json", result.to_dict())
        print(f"{minutes} minutes; everything is in {run_dir}")
    return result


def describe(
    config: Config,
    split: Split,
    stored_points: int,
    task: Task | None = None,
    model: nn.Module | None = None,
    dataset: str | None = None,
) -> Description:
    """Describe a model of this experiment: what its checkpoint needs to be used without settings.

    Args:
        config: The settings.
        split: The training split.
        stored_points: From how many points clouds were chosen.
        task: The task; that of the settings if None.
        model: A model that was built elsewhere; the settings' if None.
        dataset: What the data are called; as the settings do if None.

    Raises:
        ValueError: If the settings give the model a size that is not the data's.
    """
    task = build_task(config) if task is None else task
    if model is None:
        built = {"name": config.model.name, "args": _arguments(config, split, task)}
    else:  # what a checkpoint has described can be built again
        known = getattr(model, "description", None)
        built = {"name": "", "args": {}}
        if isinstance(known, Description):  # its head may have been changed by hand since
            sizes = {**known.model["args"], **task.model_args(split)}
            built = {
                "name": known.model["name"],
                "args": {key: sizes[key] for key in known.model["args"]},
            }
    data = config.data
    preprocess = Preprocess(
        *(data.num_points, data.order, stored_points, split.features, data.up, data.estimate_normals),
        normalization=data.normalization,
        optional=dropped_features(split.features, vars(config.augment)),
        divide=data.divide,
    )
    facts = task.facts(split)
    _check_facts(facts)
    dataset = config.data.name if dataset is None else dataset
    return Description(task.name, built, facts, preprocess, dataset)


def _check_facts(facts: dict[str, Any]) -> None:
    """Raise ValueError for facts of a task that a checkpoint cannot keep beside its own."""
    taken = set(facts) & {*OWN, "format"}
    if taken:
        raise ValueError(
            f"facts: expected other names than {', '.join(sorted(taken))}, which checkpoints have"
        )
    try:
        json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"facts: expected JSON's own kinds, such as numbers and lists ({error})") from None


def _arguments(config: Config, split: Split, task: Task) -> dict[str, Any]:
    """Return the arguments of the settings' model, with the sizes that follow from the data."""
    name, stated = config.model.name, config.model.args
    sizes = {"in_dims": split.channels, **task.model_args(split)}
    given = {key: value for key, value in sizes.items() if takes(name, key)}
    for key, value in given.items():
        if stated.get(key, value) not in (value, *task.optional_args.get(key, ())):
            raise ValueError(
                f"model.args.{key}: expected {value}, as the data have, got {stated[key]}; leave it out"
            )
    return {**given, **stated}


def build_model(
    config: Config,
    description: Description,
    resume: bool = False,
    say: Callable[[str], object] = logger.info,
) -> nn.Module:
    """Build the experiment's model from its seed, and start it from other weights if some are named.

    Args:
        config: The settings.
        description: Says which model.
        resume: Whether its weights come from the run's state, and not from ``model.init_from``.
        say: Is told what was taken from there.

    Raises:
        ValueError: For an unknown model or argument, or a checkpoint that does not fit.
        FileNotFoundError: If the checkpoint is missing.
    """
    with kept_random():
        torch.manual_seed(config.train.seed)
        model = create_model(description.model["name"], **description.model["args"])
    check_points(config, model)
    if config.model.init_from is not None and not resume:
        say(start_from(model, config.model.init_from, description.facts, description.preprocess))
    return model


def check_points(config: Config, model: nn.Module | None = None) -> None:
    """Check that clouds of the settings' size are large enough for the model, before the data are read.

    Args:
        config: The settings.
        model: A model that is given; that of the settings if None.

    Raises:
        ValueError: If they are too small, or the settings' model is unknown or does not take its arguments.
    """
    if model is None and is_own(config.model.name):
        with kept_random():  # what follows from the data changes nothing here
            model = create_model(config.model.name, **config.model.args)
    if isinstance(model, PointModel):
        model.check_points(config.data.num_points)


def _test(
    config: Config,
    device: torch.device,
    test: Split | None,
    task: Task,
    workers: Workers,
    run_dir: Path,
    own: nn.Module | None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Evaluate a finished run's checkpoints on the test split, and write their tables."""
    trained: nn.Module | None = None
    result: dict[str, Any] = {}
    for name in ("last", "best"):
        if not (run_dir / f"{name}.safetensors").is_file():
            continue  # without a validation split no epoch is best
        model, meta = load_checkpoint(run_dir / name, device, copy.deepcopy(own))
        trained = trained or model
        if test is None:
            result[name] = dict(meta["metrics"])
            continue
        size, amp = config.train.eval_batch_size, config.train.amp
        seen = evaluate(model, test, task, size, amp, workers, what=f"testing the {name} epoch")
        result[name] = {"epoch": meta["metrics"]["epoch"], **seen.metrics}
        if workers.first:
            why = "last epoch" if name == "last" else f"epoch {meta['metrics']['epoch']}, best on val"
            print(f"test, {why}:\n{scores(seen, task)}")
            write_csv(task.table(seen.counts), run_dir / f"{name}_test.csv")
    assert trained is not None  # a finished run has its last epoch
    return trained, result
