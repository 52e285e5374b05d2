"""The parts that both stages make from the config: a model, its weights, its evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from videofib.attention import ContextGroup
from videofib.checkpoint.file import CheckpointError
from videofib.config import ConfigError, differences, load_config, value_of
from videofib.distributed import processes
from videofib.distributed.mesh import context_size, data_size
from videofib.engine.evaluate import Scoring, evaluate
from videofib.engine.losses import BinaryCrossEntropy, CrossEntropy
from videofib.engine.resume_cache import ResumeCache
from videofib.engine.shared_batches import BatchLoader
from videofib.metrics.scores import Scores
from videofib.metrics.tasks import MULTI_LABEL, SINGLE_LABEL, without_labels
from videofib.models.pretrained.load import LoadReport, classifier_names, load_pretrained
from videofib.models.pretrained.weight_files import Weights, read_weights
from videofib.printable import printable
from videofib.report.markup.numbers import counted, fixed, number, percent
from videofib.run.models import build_model, share_tokens
from videofib.tracking.log import log_unreadable

logger = logging.getLogger(__name__)

MODEL_SECTIONS = (
    *("MODEL", "SLOWFAST", "TIMESFORMER", "ATTENTION", "FIBOTTENTION", "DATA"),
    *("SLIMMING", "DEFORMABLE_MERGING", "MERGING"),
)
TASKS = {"cross_entropy": SINGLE_LABEL, "bce_logit": MULTI_LABEL}  # by MODEL.LOSS_FUNC
_SAME_PIXELS = 1e-3  # figures are published with as many digits
_MOST_OF_EACH = 4096  # blocks, frames and pixels of a side
_MOST_PARAMETERS = 4_000_000_000  # 16 GB

_SAME_FOR_TEACHER = (
    *("DATA.NUM_FRAMES", "DATA.TRAIN_CROP_SIZE", "DATA.MEAN", "DATA.STD"),
    *("MODEL.NUM_CLASSES", "MODEL.LOSS_FUNC"),
)


def model_from_config(cfg: CfgNode, mesh: DeviceMesh | None = None) -> nn.Module:
    """The model that the config describes, with random weights; processes of ``mesh`` may share its clips."""
    try:
        model = build_model(cfg)
        if context_size(mesh) > 1:
            share_tokens(model, ContextGroup(mesh.get_group("context")))
        return model
    except ValueError as error:
        raise ConfigError(f"the config describes no model: {error}") from error


def check_size(cfg: CfgNode, source: str) -> None:
    """Raise ConfigError if the model that a stranger's config describes would fill the memory."""
    most = max(cfg.TIMESFORMER.DEPTH, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE)
    if most <= _MOST_OF_EACH:
        with torch.device("meta"):
            model = model_from_config(cfg)
        if sum(parameter.numel() for parameter in model.parameters()) <= _MOST_PARAMETERS:
            return
    raise ConfigError(f"the config of {printable(source)} describes a model of unusual size, which is not made")


def teacher_from_config(cfg: CfgNode, class_names: Sequence[str] | None = None) -> nn.Module | None:
    """The model that DISTILL names, with its weights, frozen and in evaluation mode; None where it names none.

    Args:
        class_names: of the model that is trained; the teacher's logits come in this order.

    Raises:
        ConfigError: it takes other clips than the model that is trained, or has other classes.
        CheckpointError: the checkpoint lacks some of its weights.
    """
    if not cfg.DISTILL.CONFIG:
        return None
    own = load_config(cfg.DISTILL.CONFIG)
    for key in _SAME_FOR_TEACHER:
        if value_of(own, key) != value_of(cfg, key):
            raise ConfigError(
                f"the teacher is given the clips of the model that is trained, but {key} is {value_of(own, key)} in "
                f"{cfg.DISTILL.CONFIG} and {value_of(cfg, key)} here; make them the same"
            )
    weights = read_weights(cfg.DISTILL.CHECKPOINT, cfg.DISTILL.CHECKPOINT_PART)
    return load_teacher(own, weights, f"its model of {cfg.DISTILL.CONFIG}", class_names)


def load_teacher(own: CfgNode, weights: Weights, what: str, class_names: Sequence[str] | None = None) -> nn.Module:
    """The model of a config with these weights, frozen and in evaluation mode.

    Args:
        what: the model, for messages.
        class_names: of the model that is trained; the teacher's logits come in this order.

    Raises:
        CheckpointError: the weights lack some that the model has.
    """
    teacher = model_from_config(own)
    report = load_into_model(own, teacher, weights, class_names)
    if report.untrained:
        raise CheckpointError(
            f"{weights.name} lacks what {what} needs: "
            + ", ".join(
                f"{name} ({report.unused[name]})" if name in report.unused else name for name in report.untrained
            )
        )
    return teacher.eval().requires_grad_(False)


def load_into_model(
    cfg: CfgNode, model: nn.Module, source: Weights, class_names: Sequence[str] | None = None
) -> LoadReport:
    """Load weights into the model, and log which were used, resized or left out.

    Args:
        class_names: of the model, whose classifier gets the weights' rows of these names.
    """
    report = load_pretrained(
        model,
        source,
        class_names=class_names,
        position_resize=cfg.TIMESFORMER.POSITION_RESIZE,
        time_resize=cfg.TIMESFORMER.TIME_RESIZE,
    )
    changed = differences(source.settings, cfg, MODEL_SECTIONS)
    if source.settings and not changed:
        report = replace(report, unknown=())  # which weights do not show, but the config of their run does
    for line in str(report).split("\n"):
        logger.info("%s", line)
    if changed:
        logger.warning("%s was trained with other settings: %s", source.name, "; ".join(changed))
    for key, theirs in _other_pixels(cfg, source.preprocessor):
        logger.warning(
            "%s was trained on pixels normalised otherwise; set %s %s (it is %s)",
            source.name, key, theirs, value_of(cfg, key),
        )  # fmt: skip
    if bool(class_names) != bool(source.classes) and classifier_names(model) & set(report.loaded):
        logger.warning(
            "%s not name its classes, so the classifier of %s is loaded as it is: its first class is taken to be %r, "
            "and so on",
            f"{source.name} does" if class_names else "the data set does",
            source.name,
            (class_names or source.classes)[0],
        )
    return report


def _other_pixels(cfg: CfgNode, preprocessor: Mapping[str, object]) -> list[tuple[str, list[float]]]:
    """The keys whose values differ from what a folder's ``preprocessor_config.json`` says, and its values."""
    found = []
    for name, key in (("image_mean", "DATA.MEAN"), ("image_std", "DATA.STD")):
        theirs = preprocessor.get(name)
        if not isinstance(theirs, list) or not all(type(number) in (int, float) for number in theirs):
            continue
        ours: list[float] = list(cfg.DATA[key.partition(".")[2]])
        if len(theirs) != len(ours) or any(abs(a - b) > _SAME_PIXELS for a, b in zip(theirs, ours, strict=True)):
            found.append((key, theirs))
    return found


def evaluate_from_config(
    cfg: CfgNode,
    model: nn.Module,
    loader: BatchLoader,
    class_names: Sequence[str] | None = None,
    amp_dtype: torch.dtype | None = None,
    title: str = "evaluate",
    *,
    num_crops: int = 1,
    view_starts: str = "spread",
    details: bool = False,
    loss: CrossEntropy | BinaryCrossEntropy | None = None,
    cache: ResumeCache | None = None,
    mesh: DeviceMesh | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[dict, Scores | None]:
    """``evaluate`` as the config's TEST and DATA say; unreadable videos are logged."""
    task, has_labels = TASKS[cfg.MODEL.LOSS_FUNC], loader.dataset.records.has_labels
    scoring = Scoring(
        task=task if has_labels else without_labels(task),
        num_crops=num_crops,
        view_starts=view_starts,
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
        ensemble_logits=cfg.TEST.ENSEMBLE_LOGITS,
        unreadable=cfg.TEST.UNREADABLE,
        class_names=class_names,
        details=details,
        loss=loss,
    )
    figures, scores = evaluate(
        model,
        loader,
        view_batch_size=max(1, cfg.TEST.BATCH_SIZE // data_size(mesh)),
        scoring=scoring,
        amp_dtype=amp_dtype,
        title=title,
        cache=cache,
        mesh=mesh,
        stop=stop,
    )
    if figures["skipped"] and processes.is_main():
        counted_as = "counted as wrong" if has_labels else "given no prediction"
        what = "left out" if cfg.TEST.UNREADABLE == "exclude" else counted_as
        videos = {entry["video"]: entry["reason"] for entry in figures["skipped"]}
        log_unreadable(title, what, videos, f"unreadable_{title}.txt")
    if processes.is_main():
        logger.info("%s: %s", title, in_words(figures))
    return figures, scores


def in_words(figures: dict) -> str:
    """Figures of an evaluation as a sentence: ``top-1 93.8 % (90.1–96.6), loss 0.21 of 192 videos, 1 view each``."""
    parts = []
    for key, name in (("top1_acc", "top-1"), ("top5_acc", "top-5"), ("mAP", "mAP")):
        if key in figures:
            bounds = figures.get(f"{key}_interval")
            parts.append(f"{name} {percent(figures[key])}" + (f" ({'–'.join(map(fixed, bounds))})" if bounds else ""))
    if "num_classes_counted" in figures:
        parts[-1] += f" over {counted(figures['num_classes_counted'], 'class', 'classes')}"
    if figures.get("loss") is not None:
        parts.append(f"loss {number(figures['loss'])}")
    of = counted(figures["num_videos"], "video", "videos")
    return (
        f"{', '.join(parts) or 'no labels, predictions'} of {of}, {counted(figures['num_views'], 'view', 'views')} each"
    )
