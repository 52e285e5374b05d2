"""A run of several tasks: the config, the data and the figures of each, and what they are together.

A run without TASKS has one task, whose name is ``ONE``; everything here then is as without tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from fvcore.common.config import CfgNode
from torch import nn

from videofib.config import ConfigError
from videofib.data.loading.task_loader import TaskLoader
from videofib.engine.objective import Objective, Supervised
from videofib.engine.shared_batches import BatchLoader
from videofib.engine.task_losses import TaskLosses
from videofib.models import TimeSformer
from videofib.models.pretrained.weight_files import Weights
from videofib.run.loaders import validates

ONE = ""  # the task of a run that names none
_MEANS = ("top1_acc", "top5_acc", "mean_class_acc", "mAP", "loss")  # figures that tasks have in common
_Part = TypeVar("_Part")


def task_configs(cfg: CfgNode) -> dict[str, CfgNode]:
    """The config of each task: its data and classes where a run of one task has its own; ``{ONE: cfg}`` without tasks.

    Results of a task go into ``OUTPUT_DIR/tasks/<name>``. The workers that read videos are divided over the tasks.
    """
    tasks = cfg.TASKS
    if not tasks.NAMES:
        return {ONE: cfg}
    configs = {}
    for name, folder, num_classes in zip(tasks.NAMES, tasks.DATA_DIRS, tasks.NUM_CLASSES, strict=True):
        own = cfg.clone()
        own.defrost()
        own.DATA.PATH_TO_DATA_DIR, own.MODEL.NUM_CLASSES = folder, num_classes
        own.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "tasks" / name)
        own.DATA_LOADER.NUM_WORKERS = -(-cfg.DATA_LOADER.NUM_WORKERS // len(tasks.NAMES))
        own.freeze()
        configs[name] = own
    return configs


def of_each(configs: Mapping[str, CfgNode], make: Callable[[CfgNode], _Part]) -> dict[str, _Part]:
    """What ``make`` gives for the config of each task."""
    return {name: make(own) for name, own in configs.items()}


def all_validate(configs: Mapping[str, CfgNode]) -> bool:
    """Whether training validates.

    Raises:
        ConfigError: some tasks have a val split and others have none.
    """
    found = of_each(configs, validates)
    if any(found.values()) and not all(found.values()):
        without = ", ".join(configs[name].DATA.PATH_TO_DATA_DIR for name, has in found.items() if not has)
        raise ConfigError(
            f"either all TASKS or none have a val split, by which the best checkpoint is chosen, and there is none in "
            f"{without}; add val.csv or a folder val, or set TRAIN.EVAL_PERIOD 0"
        )
    return all(found.values())


def joined_loader(loaders: Mapping[str, BatchLoader]) -> BatchLoader | TaskLoader:
    """One loader of the training batches of all tasks, the only one where there is one."""
    return loaders[ONE] if ONE in loaders else TaskLoader(loaders)


def joined_objective(cfg: CfgNode, objectives: Mapping[str, Supervised]) -> Objective:
    """One objective of all tasks, the only one where there is one."""
    if ONE in objectives:
        return objectives[ONE]
    weights = dict(zip(cfg.TASKS.NAMES, cfg.TASKS.WEIGHTS or [1.0] * len(cfg.TASKS.NAMES), strict=True))
    return TaskLosses(objectives, weights, judged=cfg.MODEL.LOSS_FUNC == "cross_entropy")


def joined_figures(figures: Mapping[str, dict]) -> dict:
    """The figures of all tasks, each as ``<figure>_<task>``, and the means over tasks of those that a best checkpoint
    may be chosen by, under their own names; those of the only task where there is one."""
    if ONE in figures:
        return figures[ONE]
    joined = {
        f"{key}_{name}": value
        for name, own in figures.items()
        for key, value in own.items()
        if isinstance(value, int | float) and key != "epoch"
    }
    for key in _MEANS:
        values = [own[key] for own in figures.values() if isinstance(own.get(key), int | float)]
        if len(values) == len(figures):
            joined[key] = sum(values) / len(values)
    return joined


def choose_task(model: nn.Module, name: str) -> None:
    """From now on the model gives the logits of this task where none is named; nothing to do where there is one."""
    if name != ONE and isinstance(model, TimeSformer):
        model.task = name


def choose_first_task(model: nn.Module) -> nn.Module:
    """The same of the first of the model's tasks, to measure or try it with; returns the model."""
    if isinstance(model, TimeSformer) and model.tasks:
        model.task = next(iter(model.tasks))
    return model


def weights_of(weights: Weights, name: str) -> Weights:
    """The weights with the classes of one task."""
    return weights if name == ONE else replace(weights, classes=weights.tasks.get(name))


def titled(title: str, name: str) -> str:
    """What an evaluation of a task is called."""
    return title if name == ONE else f"{title}_{name}"


def named_classes(class_names: Mapping[str, Sequence[str] | None]) -> dict[str, Sequence[str] | None] | None:
    """The classes of each task for a checkpoint; None where there is one task."""
    return None if ONE in class_names else dict(class_names)
