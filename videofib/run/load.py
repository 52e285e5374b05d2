"""Loads a saved model: all that using it takes comes from where it is saved, and from nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from videofib.checkpoint.file import CheckpointError, load_checkpoint
from videofib.checkpoint.manager import best_checkpoint, latest_checkpoint
from videofib.classes import ClassesError, check_names
from videofib.config import ConfigError, load_config, saved_config
from videofib.models.pretrained.hub import locate
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.weight_files import Weights, read_weights
from videofib.printable import printable
from videofib.report.run_files import Unusable, read_object
from videofib.run.parts import check_size, model_from_config
from videofib.run.published import settings_of
from videofib.run.saved_model import PRECISIONS, SavedModel, missing_compiler, unsupported
from videofib.run.tasks import ONE, choose_task, task_configs

_CHECKPOINTS = "checkpoints"  # the folder of a run that has them
_RESULTS = ("top1_acc", "top5_acc", "mAP", "num_videos", "num_views")
_MOST_RESULTS = 64 << 20  # bytes of a file of results
_ANY_MACHINE = ("ATTENTION.BACKEND", "auto")  # that of the machine that trained need not be here


def load(
    source: str | Path,
    *,
    checkpoint: str = "newest",
    part: str | None = None,
    task: str | None = None,
    config: str | Path | None = None,
    classes: Sequence[str] | None = None,
    options: Mapping[str, object] | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> SavedModel:
    """Load a saved model with all that using it takes.

    Args:
        source: the folder of a run; a checkpoint of ours; a folder that ``save_pretrained`` wrote; a TimeSformer of
            Hugging Face; with ``config`` any weights that :func:`load_pretrained` reads; the name of a model that comes
            with videofib (``list_models(pretrained=True)``); or ``owner/model`` on the Hugging Face Hub.
        checkpoint: of a run's folder: ``newest``, which is what a test takes, or ``best``.
        part: of a file that holds several models, which one.
        task: of a model of several tasks, which one; the others are not computed.
        config: a config file or the name of one of videofib's, in place of the one that is saved.
        classes: the names of the classes, where the weights do not have them.
        options: keys of the config and their values, over those of the saved one.
        device: by default a GPU where there is one.
        precision: in which the model computes: ``fp32``, ``bf16`` or, on a GPU, ``fp16``.
        compiled: compile the model (``torch.compile``); its first views then take minutes.
        revision: of a repository: branch, tag or commit.
        token: of the Hub, for repositories that are not public; by default the stored one.

    Raises:
        CheckpointError: there is no such model, it is damaged, or lacks what using it takes; the message says what.
        ConfigError: options that cannot be used, or a saved config that cannot be read.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    target = _device(device)
    if lacking := unsupported(precision, target):
        raise ConfigError(f"precision {precision} {lacking}; take another one")
    if compiled and (compiler := missing_compiler(target)):
        raise ConfigError(f"compiling the model needs a C++ compiler, and {compiler} is not installed")
    path = locate(source, revision, token)
    weights = _weights(path, checkpoint, part)
    cfg = _config(weights, config, options or {})
    cfg = _of_task(cfg, weights.name, task)
    names = _class_names(weights, cfg, classes, task)
    check_size(cfg, weights.name)
    model = model_from_config(cfg)
    choose_task(model, task or ONE)
    report = load_pretrained(
        model,
        weights,
        class_names=weights.classes,
        position_resize=cfg.TIMESFORMER.POSITION_RESIZE,
        time_resize=cfg.TIMESFORMER.TIME_RESIZE,
    )
    if report.untrained:
        raise CheckpointError(
            f"{printable(weights.name)} lacks weights of the model that its config describes: "
            f"{printable(', '.join(report.untrained[:8]))}"
        )
    try:
        model = model.eval().to(target)
        if compiled:
            model.compile(dynamic=False)  # in place: weights keep their names
    except (RuntimeError, AssertionError, ImportError) as error:  # how torch refuses depends on the device
        raise ConfigError(f"the device {device} cannot be used: {str(error).splitlines()[0]}") from error
    results = {} if task else _results(path, weights)  # those of a run of several tasks are means over them
    return SavedModel(model, names, cfg, weights.name, weights.epoch, results, precision, compiled, task)


def _of_task(cfg: CfgNode, name: str, task: str | None) -> CfgNode:
    """The config of a task of the model, or of its only one.

    Raises:
        ConfigError: a model of several tasks of which ``task`` names none, or one that has no tasks.
    """
    if not cfg.TASKS.NAMES and task is None:
        return cfg
    if task not in cfg.TASKS.NAMES:
        known = f"has the tasks {', '.join(cfg.TASKS.NAMES)}" if cfg.TASKS.NAMES else "has one task without a name"
        asked = f"no task {task!r}" if task else "name one (task=..., --task)"
        raise ConfigError(printable(f"{name} {known}: {asked}"))
    return task_configs(cfg)[task]


def _device(name: str | torch.device | None) -> torch.device:
    try:
        return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"the device {name} cannot be used: {str(error).splitlines()[0]}") from error


def _weights(path: Path, checkpoint: str, part: str | None) -> Weights:
    if checkpoint not in ("newest", "best"):
        raise ConfigError(f"unknown checkpoint {checkpoint!r}; it must be newest or best")
    folder = path / _CHECKPOINTS
    if not folder.is_dir():
        return read_weights(path, part)
    if checkpoint == "best":
        path = best_checkpoint(folder)
        return read_weights(load_checkpoint(path), part, name=str(path))
    newest = latest_checkpoint(folder)
    if newest is None:
        raise CheckpointError(f"no checkpoint in {printable(folder)}; has the run trained?")
    path, content = newest
    return read_weights(content, part, name=str(path))


def _results(path: Path, weights: Weights) -> dict[str, float]:
    """What is known of the accuracy of these weights: in a run's folder, of a test of this checkpoint."""
    note = weights.described.get("videofib")
    found = note.get("results") if isinstance(note, dict) else None
    if (path / _CHECKPOINTS).is_dir():
        try:
            found = read_object(path, "test_results.json", _MOST_RESULTS)
        except Unusable:  # the report of the run says why
            return {}
        if found is None or Path(str(found.get("checkpoint"))).name != Path(weights.name).name:
            return {}
    if not isinstance(found, dict):
        return {}
    kept = {name: value for name, value in found.items() if name in _RESULTS and isinstance(value, int | float)}
    measured = {"num_videos", "num_views"} <= kept.keys() and len(kept) > 2  # nothing is, without labels
    return kept if measured else {}


def _config(weights: Weights, config: str | Path | None, options: Mapping[str, object]) -> CfgNode:
    """The config that describes the model and its input."""
    pairs = [word for pair in options.items() for word in pair]
    if config is not None:
        return load_config(config, pairs, notes=[])
    if weights.settings:
        return saved_config(weights.settings, printable(weights.name), [*_ANY_MACHINE, *pairs], notes=[])
    if (settings := settings_of(weights)) is None:
        raise CheckpointError(
            f"{printable(weights.name)} does not say which model its weights are of, or how videos become its input; "
            "name the config that describes it (config=..., --cfg)"
        )
    if "DATA.SAMPLING_RATE" not in options:
        raise CheckpointError(
            f"{printable(weights.name)} does not say how far the frames of a clip are apart; set DATA.SAMPLING_RATE, "
            "such as 32 for TimeSformer's own models of Kinetics (options={'DATA.SAMPLING_RATE': 32}, "
            "--opts DATA.SAMPLING_RATE 32)"
        )
    return load_config(None, [*settings, *pairs], notes=[])


def _class_names(weights: Weights, cfg: CfgNode, given: Sequence[str] | None, task: str | None) -> list[str]:
    """Raises CheckpointError where the names are not as many as the model's classes."""
    saved = weights.classes if task is None else weights.tasks.get(task)
    names, count = saved if given is None else given, cfg.MODEL.NUM_CLASSES
    if names is None:
        return [str(number) for number in range(count)]
    try:
        names = check_names(list(names))
    except ClassesError as error:
        raise CheckpointError(f"the given classes {error}") from error
    if len(names) != count:
        raise CheckpointError(f"{printable(weights.name)} is a model of {count} classes, and {len(names)} are named")
    return names
