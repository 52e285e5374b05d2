"""Which values can work together: a table of rules, read from the top. What one key accepts stands at the key.

What a model asks of its clips and processes is the model's to say, when it is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fvcore.common.config import CfgNode

from videofib.config.declare import ConfigError
from videofib.config.defaults import KEYS
from videofib.printable import printable


class Rule(NamedTuple):
    """A combination that cannot work; the message names keys as ``{c.SHARD_ID}`` and totals as ``{groups}``."""

    broken: Callable[[CfgNode], bool]
    message: str


def check_rules(cfg: CfgNode) -> None:
    """Raise ConfigError with the message of the first rule that is broken; each value by itself must be accepted."""
    for rule in RULES:
        if rule.broken(cfg):
            totals = {"processes": processes(cfg), "groups": groups(cfg), "clips": clips(cfg), "batch": _batch(cfg)}
            totals |= {"listed": len(cfg.TRAIN.LISTED_WEIGHTS), "twice": ", ".join(_twice(cfg))}
            raise ConfigError(printable(rule.message.format(c=cfg, **totals)))


def processes(c: CfgNode) -> int:
    """All processes, of all machines."""
    return c.NUM_GPUS * c.NUM_SHARDS


def groups(c: CfgNode) -> int:
    """Groups of processes that get their own clips: processes that share the tokens of clips are one."""
    return max(1, processes(c) // c.TRAIN.CONTEXT_PARALLEL)


def clips(c: CfgNode) -> int:
    """Clips of a training batch in each group."""
    return c.TRAIN.BATCH_SIZE // groups(c) * c.AUG.NUM_SAMPLE


def _batch(c: CfgNode) -> str:
    """What batch sizes must divide by, in words."""
    return f"NUM_GPUS x NUM_SHARDS{' / TRAIN.CONTEXT_PARALLEL' * (c.TRAIN.CONTEXT_PARALLEL > 1)} = {groups(c)}"


_ONE_CLASS = ("top1_acc", "top5_acc", "mean_class_acc")  # figures of videos of one class


def _several_classes(c: CfgNode) -> bool:
    return c.MODEL.LOSS_FUNC == "bce_logit"


def _twice(c: CfgNode) -> list[str]:
    """Options of fibottention that a key of FIBOTTENTION changes, and ATTENTION.OPTIONS gives, too."""
    options = c.ATTENTION.OPTIONS.get("fibottention", {})
    changed = [name for name, value in c.FIBOTTENTION.items() if value != KEYS[f"FIBOTTENTION.{name}"].default]
    return [name.lower() for name in changed if name.lower() in options]


RULES = (
    # processes and batches
    Rule(
        lambda c: c.SHARD_ID >= c.NUM_SHARDS,
        "SHARD_ID {c.SHARD_ID} must be below NUM_SHARDS {c.NUM_SHARDS}; it counts from 0",
    ),
    Rule(
        lambda c: processes(c) % c.TRAIN.CONTEXT_PARALLEL > 0,
        "TRAIN.CONTEXT_PARALLEL {c.TRAIN.CONTEXT_PARALLEL} must divide NUM_GPUS x NUM_SHARDS = {processes}",
    ),
    Rule(
        lambda c: c.TRAIN.BATCH_SIZE % groups(c) > 0,
        "TRAIN.BATCH_SIZE {c.TRAIN.BATCH_SIZE} is the total over processes and must divide by {batch}",
    ),
    Rule(
        lambda c: c.TEST.BATCH_SIZE % groups(c) > 0,
        "TEST.BATCH_SIZE {c.TEST.BATCH_SIZE} is the total over processes and must divide by {batch}",
    ),
    Rule(
        lambda c: c.GLOBAL_BATCH_SIZE > 0 and c.GLOBAL_BATCH_SIZE % c.TRAIN.BATCH_SIZE > 0,
        "GLOBAL_BATCH_SIZE {c.GLOBAL_BATCH_SIZE} must be a multiple of TRAIN.BATCH_SIZE {c.TRAIN.BATCH_SIZE}",
    ),
    Rule(
        lambda c: c.TRAIN.SHARDED_CHECKPOINTS and c.TRAIN.STRATEGY != "fsdp",
        "TRAIN.SHARDED_CHECKPOINTS needs sharded weights; set TRAIN.STRATEGY fsdp",
    ),
    # mixing
    Rule(
        lambda c: c.MIXUP.ENABLE and clips(c) % 2 > 0,
        "MIXUP.ENABLE pairs the clips of each process, so TRAIN.BATCH_SIZE {c.TRAIN.BATCH_SIZE} over {groups} "
        "process(es), times AUG.NUM_SAMPLE {c.AUG.NUM_SAMPLE}, must be even; it is {clips}",
    ),
    Rule(
        lambda c: c.MIXUP.ENABLE and not (c.MIXUP.ALPHA or c.MIXUP.CUTMIX_ALPHA),
        "MIXUP.ENABLE needs MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA above 0",
    ),
    # videos of several classes
    Rule(
        lambda c: _several_classes(c) and c.MIXUP.ENABLE,
        "MIXUP.ENABLE mixes videos of one class each, MODEL.LOSS_FUNC bce_logit is for several; set MIXUP.ENABLE False",
    ),
    Rule(
        lambda c: _several_classes(c) and c.DATA_LOADER.SAMPLER == "class_balanced",
        "DATA_LOADER.SAMPLER class_balanced needs videos of one class each, MODEL.LOSS_FUNC bce_logit is for several; "
        "set DATA_LOADER.SAMPLER shuffle",
    ),
    Rule(
        lambda c: _several_classes(c) and c.MIXUP.LABEL_SMOOTH_VALUE > 0,
        "MODEL.LOSS_FUNC bce_logit has no label smoothing; set MIXUP.LABEL_SMOOTH_VALUE 0",
    ),
    Rule(
        lambda c: _several_classes(c) and c.DISTILL.CONFIG != "",
        "DISTILL compares scores of one class a video; set MODEL.LOSS_FUNC cross_entropy",
    ),
    Rule(
        lambda c: c.CHECKPOINT.METRIC in (_ONE_CLASS if _several_classes(c) else ("mAP",)),
        "validation with MODEL.LOSS_FUNC {c.MODEL.LOSS_FUNC} has no CHECKPOINT.METRIC {c.CHECKPOINT.METRIC}; set "
        "CHECKPOINT.METRIC auto",
    ),
    # what learns, and from what
    Rule(
        lambda c: c.TRAIN.CLASS_WEIGHTS == "listed" and len(c.TRAIN.LISTED_WEIGHTS) != c.MODEL.NUM_CLASSES,
        "TRAIN.CLASS_WEIGHTS listed needs a weight for each class: TRAIN.LISTED_WEIGHTS has {listed}, and "
        "MODEL.NUM_CLASSES is {c.MODEL.NUM_CLASSES}",
    ),
    Rule(
        lambda c: c.TRAIN.CLASS_WEIGHTS == "balanced" and c.DATA_LOADER.SAMPLER == "class_balanced",
        "DATA_LOADER.SAMPLER class_balanced draws each class equally often already, and TRAIN.CLASS_WEIGHTS balanced "
        "would correct that once more; set the first to shuffle, or the other to none",
    ),
    Rule(
        lambda c: (c.DISTILL.CONFIG == "") != (c.DISTILL.CHECKPOINT == ""),
        "DISTILL.CONFIG and DISTILL.CHECKPOINT, a teacher and its weights, go together; set both",
    ),
    Rule(
        lambda c: len(_twice(c)) > 0,
        "ATTENTION.OPTIONS and a key of FIBOTTENTION both set {twice}; set it in one of them",
    ),
    Rule(
        lambda c: c.TRAIN.CHECKPOINT_PART != "" and c.TRAIN.CHECKPOINT_FILE_PATH == "",
        "TRAIN.CHECKPOINT_PART {c.TRAIN.CHECKPOINT_PART} is a part of no file; set TRAIN.CHECKPOINT_FILE_PATH",
    ),
    Rule(
        lambda c: c.DISTILL.CHECKPOINT_PART != "" and c.DISTILL.CHECKPOINT == "",
        "DISTILL.CHECKPOINT_PART {c.DISTILL.CHECKPOINT_PART} is a part of no file; set DISTILL.CHECKPOINT",
    ),
    Rule(
        lambda c: c.TRAIN.LINEAR_PROBE and len(c.TRAIN.FREEZE) > 0,
        "TRAIN.LINEAR_PROBE freezes all but the classifier already; set TRAIN.FREEZE []",
    ),
    Rule(
        lambda c: c.MULTIGRID.LONG_CYCLE and c.MODEL.MODEL_NAME != "TimeSformer",
        "MULTIGRID.LONG_CYCLE needs a model that takes clips of any size, and {c.MODEL.MODEL_NAME} does not; "
        "set MULTIGRID.LONG_CYCLE False",
    ),
    Rule(
        lambda c: c.MULTIGRID.LONG_CYCLE and c.DISTILL.CONFIG != "",
        "the teacher of DISTILL takes clips of one size; set MULTIGRID.LONG_CYCLE False",
    ),
    Rule(
        lambda c: c.SLIMMING.TEACHER != "" and c.DISTILL.CONFIG != "",
        "a model learns from one teacher: set SLIMMING.TEACHER '' or DISTILL.CONFIG ''",
    ),
    Rule(
        lambda c: c.SLIMMING.TEACHER != "" and c.MULTIGRID.LONG_CYCLE,
        "SLIMMING.TEACHER recovers as many tokens as clips of one size have; set MULTIGRID.LONG_CYCLE False",
    ),
    Rule(
        lambda c: c.SLIMMING.TEACHER != "" and _several_classes(c),
        "SLIMMING.TEACHER compares scores of one class a video; set MODEL.LOSS_FUNC cross_entropy",
    ),
    # views
    Rule(
        lambda c: c.DATA.SAMPLING == "uniform" and c.TEST.VIEW_STARTS == "published" and c.TEST.NUM_ENSEMBLE_VIEWS > 1,
        "TEST.VIEW_STARTS published takes the same frames of a video in each of TEST.NUM_ENSEMBLE_VIEWS "
        "{c.TEST.NUM_ENSEMBLE_VIEWS} clips where DATA.SAMPLING is uniform; set TEST.NUM_ENSEMBLE_VIEWS 1",
    ),
    # optimizer
    Rule(
        lambda c: c.SOLVER.OPTIMIZING_METHOD == "sgd" and c.SOLVER.NESTEROV and not c.SOLVER.MOMENTUM,
        "SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0; set it, or SOLVER.NESTEROV False",
    ),
    Rule(
        lambda c: c.SOLVER.LR_POLICY == "one_cycle" and not c.SOLVER.WARMUP_EPOCHS,
        "SOLVER.LR_POLICY one_cycle rises for SOLVER.WARMUP_EPOCHS, which must be above 0; a third of SOLVER.MAX_EPOCH "
        "{c.SOLVER.MAX_EPOCH} is usual",
    ),
    Rule(
        lambda c: len(c.SOLVER.STEPS) != len(c.SOLVER.LRS) or c.SOLVER.STEPS[0] != 0,
        "SOLVER.STEPS {c.SOLVER.STEPS} must start at 0 and have as many entries as SOLVER.LRS {c.SOLVER.LRS}",
    ),
    Rule(
        lambda c: (
            c.SOLVER.LR_POLICY == "steps_with_relative_lrs"
            and not any(lr for step, lr in zip(c.SOLVER.STEPS, c.SOLVER.LRS, strict=True) if step < c.SOLVER.MAX_EPOCH)
        ),
        "SOLVER.LRS {c.SOLVER.LRS} must be above 0 in one of the stages of SOLVER.STEPS {c.SOLVER.STEPS} that begin "
        "before SOLVER.MAX_EPOCH {c.SOLVER.MAX_EPOCH}; now the learning rate is 0 throughout",
    ),
    # crops
    Rule(
        lambda c: c.DATA.TRAIN_JITTER_SCALES[0] < c.DATA.TRAIN_CROP_SIZE,
        "DATA.TRAIN_JITTER_SCALES {c.DATA.TRAIN_JITTER_SCALES} must not be below DATA.TRAIN_CROP_SIZE "
        "{c.DATA.TRAIN_CROP_SIZE}",
    ),
    Rule(
        lambda c: bool(c.DATA.TRAIN_JITTER_SCALES_RELATIVE) != bool(c.DATA.TRAIN_JITTER_ASPECT_RELATIVE),
        "DATA.TRAIN_JITTER_SCALES_RELATIVE {c.DATA.TRAIN_JITTER_SCALES_RELATIVE} and DATA.TRAIN_JITTER_ASPECT_RELATIVE "
        "{c.DATA.TRAIN_JITTER_ASPECT_RELATIVE} go together; set both, or neither",
    ),
)
