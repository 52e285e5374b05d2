"""Which values of the config can work, each by itself and together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fvcore.common.config import CfgNode


class ConfigError(ValueError):
    """A config file or override that cannot be used; the message names the key and the mend."""


def value_of(cfg: CfgNode, key: str) -> object:
    """The value at a full key name, such as ``SOLVER.BASE_LR``."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


_ACCURACIES = ("top1_acc", "top5_acc", "mean_class_acc")  # what validation tells where a video is of one class
_CHOICES = {
    "TRAIN.STRATEGY": ("ddp", "fsdp"),
    "TRAIN.MIXED_PRECISION_DTYPE": ("bf16", "fp16"),
    "CHECKPOINT.METRIC": ("auto", *_ACCURACIES, "mAP", "none"),
    "TEST.NUM_SPATIAL_CROPS": (1, 3),
    "TEST.UNREADABLE": ("wrong", "exclude"),
    "DATA.DECODING_BACKEND": ("auto", "decord", "pyav", "torchcodec"),
    "DATA.SAMPLING": ("dense", "uniform"),
    "DATA.ENSEMBLE_METHOD": ("sum", "max"),
    "DATA_LOADER.SAMPLER": ("shuffle", "class_balanced", "length_bucketed"),
    "MODEL.LOSS_FUNC": ("cross_entropy", "bce_logit"),
    "TIMESFORMER.SIZE": ("tiny", "small", "base", "large"),
    "TIMESFORMER.RECOMPUTE": ("block", "cheap"),
    "TIMESFORMER.POSITION_RESIZE": ("bicubic", "nearest"),
    "TIMESFORMER.TIME_RESIZE": ("nearest", "linear"),
    "SOLVER.OPTIMIZING_METHOD": ("sgd", "adamw", "lamb", "lion"),
    "SOLVER.LR_POLICY": ("steps_with_relative_lrs", "cosine", "linear", "one_cycle"),
}
_POSITIVE = (
    "NUM_GPUS",
    "NUM_SHARDS",
    "LOG_PERIOD",
    "TRAIN.BATCH_SIZE",
    "TRAIN.CONTEXT_PARALLEL",
    "TRAIN.EVAL_PERIOD",
    "TRAIN.CHECKPOINT_PERIOD",
    "TEST.BATCH_SIZE",
    "TEST.NUM_ENSEMBLE_VIEWS",
    "DATA.NUM_FRAMES",
    "DATA.SAMPLING_RATE",
    "DATA.TARGET_FPS",
    "DATA.TRAIN_CROP_SIZE",
    "DATA.TEST_CROP_SIZE",
    "AUG.NUM_SAMPLE",
    "MODEL.NUM_CLASSES",
    "TIMESFORMER.RECOMPUTE_EVERY",
    "SLOWFAST.ALPHA",
    "SOLVER.MAX_EPOCH",
    "SOLVER.MAX_SKIPPED_STEPS",
    "SOLVER.BASE_LR",
    "DISTILL.ALPHA",
    "DISTILL.TEMPERATURE",
)
_NOT_NEGATIVE = (
    "RNG_SEED",
    "SHARD_ID",
    "GLOBAL_BATCH_SIZE",
    "TRAIN.CHECKPOINT_STEPS",
    "CHECKPOINT.KEEP",
    "TEST.SAVE_SECONDS",
    "AUG.COLOR_JITTER",
    "DATA.READ_SHORT_SIDE",
    "DATA_LOADER.NUM_WORKERS",
    "DATA_LOADER.SHARD_WINDOW",
    "DATA_LOADER.TIME_LIMIT",
    "REPORT.NUM_VIDEOS",
    "TIMESFORMER.EMBED_DIM",
    "TIMESFORMER.DEPTH",
    "TIMESFORMER.NUM_HEADS",
    "TIMESFORMER.LAYER_SCALE",
    "SOLVER.BASE_LR_BATCH_SIZE",
    "SOLVER.WARMUP_EPOCHS",
    "SOLVER.WARMUP_START_LR",
    "SOLVER.COSINE_END_LR",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.CLIP_GRAD_L2NORM",
)
_BELOW_ONE = ("TRAIN.EMA_DECAY", "MODEL.DROPOUT_RATE", "MIXUP.LABEL_SMOOTH_VALUE", "SOLVER.MOMENTUM")

# what makes sense only where a video is of one class, and what to set instead
_ONE_CLASS_A_VIDEO = (("MIXUP.ENABLE", True, False), ("DATA_LOADER.SAMPLER", "class_balanced", "shuffle"))


def check_config(cfg: CfgNode) -> None:
    """Raise ConfigError where values are out of range or contradict each other."""
    for key, allowed in _CHOICES.items():
        if value_of(cfg, key) not in allowed:
            raise ConfigError(f"{key} is {value_of(cfg, key)!r}; it must be one of {', '.join(map(str, allowed))}")
    for key in _POSITIVE:
        if value_of(cfg, key) <= 0:
            raise ConfigError(f"{key} is {value_of(cfg, key)}; it must be above 0")
    for key in _NOT_NEGATIVE:
        if value_of(cfg, key) < 0:
            raise ConfigError(f"{key} is {value_of(cfg, key)}; it must not be negative")
    for key in _BELOW_ONE:
        if not 0 <= value_of(cfg, key) < 1:
            raise ConfigError(f"{key} is {value_of(cfg, key)}; it must be at least 0 and below 1")
    if not 0 < cfg.SOLVER.LAYER_DECAY <= 1:
        raise ConfigError(f"SOLVER.LAYER_DECAY is {cfg.SOLVER.LAYER_DECAY}; it must be above 0 and at most 1")
    if cfg.SHARD_ID >= cfg.NUM_SHARDS:
        raise ConfigError(f"SHARD_ID {cfg.SHARD_ID} must be below NUM_SHARDS {cfg.NUM_SHARDS}; it counts from 0")
    world, shares = _check_sharing(cfg)
    for key in ("TRAIN.BATCH_SIZE", "TEST.BATCH_SIZE"):
        if value_of(cfg, key) % shares:
            shared = " / TRAIN.CONTEXT_PARALLEL" if shares < world else ""
            raise ConfigError(
                f"{key} {value_of(cfg, key)} is the total over processes and must divide by "
                f"NUM_GPUS x NUM_SHARDS{shared} = {shares}"
            )
    if cfg.GLOBAL_BATCH_SIZE and (
        cfg.GLOBAL_BATCH_SIZE < cfg.TRAIN.BATCH_SIZE or cfg.GLOBAL_BATCH_SIZE % cfg.TRAIN.BATCH_SIZE
    ):
        raise ConfigError(
            f"GLOBAL_BATCH_SIZE {cfg.GLOBAL_BATCH_SIZE} must be a multiple of TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE}"
        )
    if cfg.TRAIN.SHARDED_CHECKPOINTS and cfg.TRAIN.STRATEGY != "fsdp":
        raise ConfigError("TRAIN.SHARDED_CHECKPOINTS needs sharded weights: set TRAIN.STRATEGY fsdp")
    clips = cfg.TRAIN.BATCH_SIZE // shares * cfg.AUG.NUM_SAMPLE
    if cfg.MIXUP.ENABLE and clips % 2:
        raise ConfigError(
            f"MIXUP.ENABLE pairs the clips of each process, so TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE} over {shares} "
            f"process(es), times AUG.NUM_SAMPLE {cfg.AUG.NUM_SAMPLE}, must be even; it is {clips}"
        )
    if cfg.MIXUP.ENABLE and not (cfg.MIXUP.ALPHA > 0 or cfg.MIXUP.CUTMIX_ALPHA > 0):
        raise ConfigError("MIXUP.ENABLE needs MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA above 0")
    if cfg.MODEL.LOSS_FUNC == "bce_logit":
        for key, value, mend in _ONE_CLASS_A_VIDEO:
            if value_of(cfg, key) == value:
                raise ConfigError(
                    f"{key} {value} is for videos of one class, MODEL.LOSS_FUNC bce_logit for several; set {key} {mend}"
                )
        if cfg.MIXUP.LABEL_SMOOTH_VALUE:
            raise ConfigError("MODEL.LOSS_FUNC bce_logit has no label smoothing; set MIXUP.LABEL_SMOOTH_VALUE 0")
    if not all(isinstance(pattern, str) for pattern in cfg.TRAIN.FREEZE):
        raise ConfigError(f"TRAIN.FREEZE is {cfg.TRAIN.FREEZE}; it must be a list of patterns of names")
    if bool(cfg.DISTILL.CONFIG) != bool(cfg.DISTILL.CHECKPOINT):
        raise ConfigError("DISTILL.CONFIG and DISTILL.CHECKPOINT, a teacher and its weights, go together; set both")
    if cfg.DISTILL.ALPHA > 1:
        raise ConfigError(f"DISTILL.ALPHA is {cfg.DISTILL.ALPHA}; it must be above 0 and at most 1")
    if cfg.DISTILL.CONFIG and cfg.MODEL.LOSS_FUNC == "bce_logit":
        raise ConfigError("DISTILL compares scores of one class a video; set MODEL.LOSS_FUNC cross_entropy")
    if cfg.MULTIGRID.LONG_CYCLE and cfg.MODEL.MODEL_NAME != "TimeSformer":
        raise ConfigError(
            f"MULTIGRID.LONG_CYCLE needs a model that takes clips of any size; {cfg.MODEL.MODEL_NAME} is none"
        )
    if cfg.MULTIGRID.LONG_CYCLE and cfg.DISTILL.CONFIG:
        raise ConfigError("DISTILL's teacher takes clips of one size; set MULTIGRID.LONG_CYCLE False")
    if cfg.TRAIN.FREEZE and cfg.TRAIN.LINEAR_PROBE:
        raise ConfigError("TRAIN.LINEAR_PROBE freezes all but the classifier already; set TRAIN.FREEZE []")
    if cfg.CHECKPOINT.METRIC in {"bce_logit": _ACCURACIES, "cross_entropy": ("mAP",)}[cfg.MODEL.LOSS_FUNC]:
        raise ConfigError(
            f"CHECKPOINT.METRIC {cfg.CHECKPOINT.METRIC} is no figure of MODEL.LOSS_FUNC {cfg.MODEL.LOSS_FUNC}; set "
            "CHECKPOINT.METRIC auto"
        )
    if cfg.SOLVER.OPTIMIZING_METHOD == "sgd" and cfg.SOLVER.NESTEROV and not cfg.SOLVER.MOMENTUM:
        raise ConfigError("SOLVER.NESTEROV needs SOLVER.MOMENTUM above 0")
    if cfg.SOLVER.LR_POLICY == "one_cycle" and not 0 < cfg.SOLVER.WARMUP_EPOCHS < cfg.SOLVER.MAX_EPOCH:
        raise ConfigError(
            f"SOLVER.LR_POLICY one_cycle rises for SOLVER.WARMUP_EPOCHS {cfg.SOLVER.WARMUP_EPOCHS}, which must be "
            f"above 0 and below SOLVER.MAX_EPOCH {cfg.SOLVER.MAX_EPOCH}; a third of it is usual"
        )
    if list(cfg.SOLVER.STEPS) != sorted(cfg.SOLVER.STEPS):
        raise ConfigError(f"SOLVER.STEPS {cfg.SOLVER.STEPS} must ascend")
    if len(cfg.SOLVER.STEPS) != len(cfg.SOLVER.LRS) or cfg.SOLVER.STEPS[:1] != [0]:
        raise ConfigError(
            f"SOLVER.STEPS {cfg.SOLVER.STEPS} must start at 0 and have as many entries as SOLVER.LRS {cfg.SOLVER.LRS}"
        )
    low, high = cfg.DATA.TRAIN_JITTER_SCALES
    if not cfg.DATA.TRAIN_CROP_SIZE <= low <= high:
        raise ConfigError(
            f"DATA.TRAIN_JITTER_SCALES {[low, high]} must be ordered and not below "
            f"DATA.TRAIN_CROP_SIZE {cfg.DATA.TRAIN_CROP_SIZE}"
        )
    areas, aspects = cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE, cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE
    _check_range("DATA.TRAIN_JITTER_SCALES_RELATIVE", areas, most=1)
    _check_range("DATA.TRAIN_JITTER_ASPECT_RELATIVE", aspects)
    if bool(areas) != bool(aspects):
        raise ConfigError(
            f"DATA.TRAIN_JITTER_SCALES_RELATIVE {areas} and DATA.TRAIN_JITTER_ASPECT_RELATIVE {aspects} go together; "
            "set both, or neither"
        )


# what processes that share a clip's tokens ask of the model
_SHARED_CLIPS = {
    "MODEL.MODEL_NAME": "TimeSformer",
    "TIMESFORMER.ATTENTION_TYPE": "joint_space_time",
    "TIMESFORMER.DROP_RATE": 0.0,
    "TIMESFORMER.ATTN_DROP_RATE": 0.0,
}


def _check_sharing(cfg: CfgNode) -> tuple[int, int]:
    """The number of processes, and of shares of the data: processes that share clips are one."""
    world, ranks = cfg.NUM_GPUS * cfg.NUM_SHARDS, cfg.TRAIN.CONTEXT_PARALLEL
    if world % ranks:
        raise ConfigError(f"TRAIN.CONTEXT_PARALLEL {ranks} must divide NUM_GPUS x NUM_SHARDS = {world}")
    for key, needed in _SHARED_CLIPS.items() if ranks > 1 else ():
        if value_of(cfg, key) != needed:
            raise ConfigError(f"TRAIN.CONTEXT_PARALLEL {ranks} needs {key} {needed}; it is {value_of(cfg, key)}")
    return world, world // ranks


def _check_range(key: str, values: Sequence[float], most: float = math.inf) -> None:
    numbers = len(values) == 2 and all(isinstance(value, int | float) for value in values)
    if values and not (numbers and 0 < values[0] <= values[1] <= most):
        limit = "" if most == math.inf else f" <= {most}"
        raise ConfigError(f"{key} is {values}; it must be [low, high] with 0 < low <= high{limit}, or []")
