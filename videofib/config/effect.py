"""Which keys have an effect: a table of the choices that decide whether a key is read.

A key that is changed but not read is an error, since a change is meant to do something: attention stays dense
where ``ATTENTION.JOINT fibottention`` stands beside divided attention. Where the choice was made after the key was
written, as ``AUG.ENABLE False`` on the command line over a file that sets ``AUG.COLOR_JITTER``, it is on purpose: the
key returns to its default, and one line reports it. So it is in files of other projects (``foreign.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from fvcore.common.config import CfgNode

from videofib.config.declare import ConfigError
from videofib.config.defaults import KEYS
from videofib.config.mixing import READ_BY, mixers_used, readers_of
from videofib.printable import printable


class Reader(NamedTuple):
    """What reads some keys.

    Attributes:
        keys: full names; ``SECTION.*`` stands for a section.
        choices: the keys that decide.
        reads: whether the keys are read.
        where: the choices with which they are, in words.
        always_error: also where the choice was made after a key was written.
    """

    keys: Sequence[str]
    choices: Sequence[str]
    reads: Callable[[CfgNode], bool]
    where: str
    always_error: bool = False


_MODEL, _TYPE = ("MODEL.MODEL_NAME",), ("TIMESFORMER.ATTENTION_TYPE",)
_ORDERED = READ_BY["TIMESFORMER.TOKEN_ORDER"]
_MIXERS = ("ATTENTION.SPACE", "ATTENTION.TIME", "ATTENTION.JOINT")


def _is_timesformer(c: CfgNode) -> bool:
    return c.MODEL.MODEL_NAME == "TimeSformer"


def _has_times(c: CfgNode) -> bool:
    """Whether learned embeddings say which frame a token is of."""
    return c.TIMESFORMER.POSITION != "sinusoid" and c.TIMESFORMER.ATTENTION_TYPE != "space_only"


def _uses(c: CfgNode, mixers: Collection[str]) -> bool:
    """Whether one of the mixers of the model is one of these."""
    return not set(mixers).isdisjoint(mixers_used(c))


def _read_by_mixers(key: str) -> Reader:
    """Of a key that some mixers read."""
    names = READ_BY[key]
    where = f"{readers_of(key)} as the ATTENTION.SPACE, TIME or JOINT that TIMESFORMER.ATTENTION_TYPE reads"
    return Reader((key,), (*_MIXERS, *_TYPE), lambda c: _uses(c, names), where)


READERS = (
    # models
    Reader(("TIMESFORMER.*", "ATTENTION.*", "FIBOTTENTION.*"), _MODEL, _is_timesformer, "MODEL.MODEL_NAME TimeSformer"),
    Reader(
        ("SLIMMING.*", "DEFORMABLE_MERGING.*", "MERGING.*"), _MODEL, _is_timesformer, "MODEL.MODEL_NAME TimeSformer"
    ),
    Reader(("SLOWFAST.*",), _MODEL, lambda c: c.MODEL.MODEL_NAME == "SlowFast_R50", "MODEL.MODEL_NAME SlowFast_R50"),
    Reader(
        ("MODEL.DROPOUT_RATE",), _MODEL, lambda c: not _is_timesformer(c), "a MODEL.MODEL_NAME other than TimeSformer"
    ),
    # TimeSformer's attention
    Reader(
        ("ATTENTION.SPACE",),
        _TYPE,
        lambda c: c.TIMESFORMER.ATTENTION_TYPE != "joint_space_time",
        "TIMESFORMER.ATTENTION_TYPE divided_space_time and space_only",
        always_error=True,
    ),
    Reader(
        ("ATTENTION.TIME",),
        _TYPE,
        lambda c: c.TIMESFORMER.ATTENTION_TYPE == "divided_space_time",
        "TIMESFORMER.ATTENTION_TYPE divided_space_time",
        always_error=True,
    ),
    Reader(
        ("ATTENTION.JOINT",),
        _TYPE,
        lambda c: c.TIMESFORMER.ATTENTION_TYPE == "joint_space_time",
        "TIMESFORMER.ATTENTION_TYPE joint_space_time",
        always_error=True,
    ),
    Reader(
        ("FIBOTTENTION.*",),
        (*_MIXERS, *_TYPE),
        lambda c: _uses(c, ["fibottention"]),
        "fibottention as the ATTENTION.SPACE, TIME or JOINT that TIMESFORMER.ATTENTION_TYPE reads",
    ),
    *(_read_by_mixers(key) for key in READ_BY if key != "TIMESFORMER.TOKEN_ORDER"),
    Reader(
        ("TIMESFORMER.TOKEN_ORDER",),
        ("ATTENTION.JOINT", *_TYPE),
        lambda c: c.TIMESFORMER.ATTENTION_TYPE == "joint_space_time" and _uses(c, _ORDERED),
        f"TIMESFORMER.ATTENTION_TYPE joint_space_time and {readers_of('TIMESFORMER.TOKEN_ORDER')} as ATTENTION.JOINT",
    ),
    # the rest of TimeSformer
    Reader(
        ("TIMESFORMER.SIZE",),
        ("TIMESFORMER.EMBED_DIM", "TIMESFORMER.DEPTH", "TIMESFORMER.NUM_HEADS"),
        lambda c: not (c.TIMESFORMER.EMBED_DIM and c.TIMESFORMER.DEPTH and c.TIMESFORMER.NUM_HEADS),
        "one of TIMESFORMER.EMBED_DIM, DEPTH and NUM_HEADS at 0",
    ),
    Reader(
        ("TIMESFORMER.RECOMPUTE", "TIMESFORMER.RECOMPUTE_EVERY"),
        ("TIMESFORMER.GRADIENT_CHECKPOINTING",),
        lambda c: c.TIMESFORMER.GRADIENT_CHECKPOINTING,
        "TIMESFORMER.GRADIENT_CHECKPOINTING True",
    ),
    Reader(
        ("TIMESFORMER.POSITION_RESIZE",),
        ("TIMESFORMER.POSITION",),
        lambda c: c.TIMESFORMER.POSITION.startswith("learned"),
        "TIMESFORMER.POSITION learned and learned_joint",
    ),
    Reader(
        ("TIMESFORMER.POSITION_INIT_STD",),
        ("TIMESFORMER.POSITION", *_TYPE),
        lambda c: c.TIMESFORMER.POSITION.startswith("learned") or _has_times(c),
        "TIMESFORMER.POSITION learned, learned_joint and fourier (this not with space_only attention)",
    ),
    Reader(
        ("TIMESFORMER.TIME_RESIZE",),
        ("TIMESFORMER.POSITION", *_TYPE),
        _has_times,
        "TIMESFORMER.POSITION learned, learned_joint or fourier, and TIMESFORMER.ATTENTION_TYPE divided_space_time or "
        "joint_space_time",
    ),
    Reader(
        ("TIMESFORMER.LOCAL_NORM",),
        ("TIMESFORMER.LOCAL_INTERACTION",),
        lambda c: c.TIMESFORMER.LOCAL_INTERACTION != "none",
        "a TIMESFORMER.LOCAL_INTERACTION",
    ),
    # fewer tokens
    Reader(
        ("SLIMMING.RATIO", "SLIMMING.PER_FRAME", "SLIMMING.TEACHER"),
        ("SLIMMING.AFTER",),
        lambda c: len(c.SLIMMING.AFTER) > 0,
        "blocks in SLIMMING.AFTER",
    ),
    Reader(
        ("SLIMMING.PER_FRAME",),
        _TYPE,
        lambda c: c.TIMESFORMER.ATTENTION_TYPE == "joint_space_time",
        "TIMESFORMER.ATTENTION_TYPE joint_space_time",
    ),
    Reader(
        ("SLIMMING.TOKEN_WEIGHT", "SLIMMING.LOGIT_WEIGHT", "SLIMMING.TEMPERATURE", "SLIMMING.EVERY"),
        ("SLIMMING.TEACHER",),
        lambda c: c.SLIMMING.TEACHER != "",
        "weights in SLIMMING.TEACHER",
    ),
    Reader(("MERGING.PROPORTIONAL",), ("MERGING.TOKENS",), lambda c: c.MERGING.TOKENS > 0, "MERGING.TOKENS above 0"),
    # clips
    Reader(
        ("DATA.SAMPLING_RATE", "DATA.TARGET_FPS"),
        ("DATA.SAMPLING",),
        lambda c: c.DATA.SAMPLING == "dense",
        "DATA.SAMPLING dense",
    ),
    Reader(
        ("AUG.COLOR_JITTER", "AUG.AA_TYPE", "AUG.RE_PROB"), ("AUG.ENABLE",), lambda c: c.AUG.ENABLE, "AUG.ENABLE True"
    ),
    Reader(
        ("AUG.RE_MODE", "AUG.RE_COUNT"),
        ("AUG.ENABLE", "AUG.RE_PROB"),
        lambda c: c.AUG.ENABLE and c.AUG.RE_PROB > 0,
        "AUG.ENABLE True and AUG.RE_PROB above 0",
    ),
    Reader(
        ("MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA", "MIXUP.PROB", "MIXUP.SWITCH_PROB"),
        ("MIXUP.ENABLE",),
        lambda c: c.MIXUP.ENABLE,
        "MIXUP.ENABLE True",
    ),
    Reader(
        ("MIXUP.SWITCH_PROB",),
        ("MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"),
        lambda c: c.MIXUP.ALPHA > 0 and c.MIXUP.CUTMIX_ALPHA > 0,
        "MIXUP.ALPHA and MIXUP.CUTMIX_ALPHA above 0",
    ),
    Reader(
        ("DATA_LOADER.SHARD_WINDOW",),
        ("DATA_LOADER.SAMPLER",),
        lambda c: c.DATA_LOADER.SAMPLER == "shuffle",
        "DATA_LOADER.SAMPLER shuffle",
    ),
    Reader(
        ("DATA_LOADER.TIME_LIMIT",),
        ("DATA_LOADER.NUM_WORKERS",),
        lambda c: c.DATA_LOADER.NUM_WORKERS > 0,
        "DATA_LOADER.NUM_WORKERS above 0",
    ),
    # training
    Reader(
        ("CHECKPOINT.METRIC",),
        ("TRAIN.EVAL_PERIOD",),
        lambda c: c.TRAIN.EVAL_PERIOD > 0,
        "TRAIN.EVAL_PERIOD above 0",
    ),
    Reader(
        ("TRAIN.PATIENCE",),
        ("TRAIN.EVAL_PERIOD", "CHECKPOINT.METRIC"),
        lambda c: c.TRAIN.EVAL_PERIOD > 0 and c.CHECKPOINT.METRIC != "none",
        "TRAIN.EVAL_PERIOD above 0 and a CHECKPOINT.METRIC",
    ),
    Reader(
        ("TRAIN.LISTED_WEIGHTS",),
        ("TRAIN.CLASS_WEIGHTS",),
        lambda c: c.TRAIN.CLASS_WEIGHTS == "listed",
        "TRAIN.CLASS_WEIGHTS listed",
    ),
    Reader(
        ("TRAIN.MIXED_PRECISION_DTYPE",),
        ("TRAIN.MIXED_PRECISION",),
        lambda c: c.TRAIN.MIXED_PRECISION,
        "TRAIN.MIXED_PRECISION True",
    ),
    Reader(
        ("DISTILL.ALPHA", "DISTILL.TEMPERATURE"),
        ("DISTILL.CONFIG",),
        lambda c: c.DISTILL.CONFIG != "",
        "a teacher in DISTILL.CONFIG",
    ),
    Reader(
        ("MULTIGRID.LONG_CYCLE_FACTORS",),
        ("MULTIGRID.LONG_CYCLE",),
        lambda c: c.MULTIGRID.LONG_CYCLE,
        "MULTIGRID.LONG_CYCLE True",
    ),
    Reader(
        ("SOLVER.STEPS", "SOLVER.LRS"),
        ("SOLVER.LR_POLICY",),
        lambda c: c.SOLVER.LR_POLICY == "steps_with_relative_lrs",
        "SOLVER.LR_POLICY steps_with_relative_lrs",
    ),
    Reader(
        ("SOLVER.COSINE_END_LR",),
        ("SOLVER.LR_POLICY",),
        lambda c: c.SOLVER.LR_POLICY != "steps_with_relative_lrs",
        "SOLVER.LR_POLICY cosine, linear or one_cycle",
    ),
    Reader(
        ("SOLVER.WARMUP_START_LR",),
        ("SOLVER.WARMUP_EPOCHS",),
        lambda c: c.SOLVER.WARMUP_EPOCHS > 0,
        "SOLVER.WARMUP_EPOCHS above 0",
    ),
    Reader(
        ("SOLVER.MOMENTUM", "SOLVER.NESTEROV"),
        ("SOLVER.OPTIMIZING_METHOD",),
        lambda c: c.SOLVER.OPTIMIZING_METHOD == "sgd",
        "SOLVER.OPTIMIZING_METHOD sgd",
    ),
    Reader(
        ("SOLVER.BETAS",),
        ("SOLVER.OPTIMIZING_METHOD",),
        lambda c: c.SOLVER.OPTIMIZING_METHOD != "sgd",
        "SOLVER.OPTIMIZING_METHOD adamw, lamb or lion",
    ),
    Reader(
        ("SOLVER.ZERO_WD_1D_PARAM",),
        ("SOLVER.WEIGHT_DECAY",),
        lambda c: c.SOLVER.WEIGHT_DECAY > 0,
        "SOLVER.WEIGHT_DECAY above 0",
    ),
    # testing, and what is written
    Reader(
        ("TEST.MIXED_PRECISION_DTYPE",),
        ("TEST.MIXED_PRECISION",),
        lambda c: c.TEST.MIXED_PRECISION,
        "TEST.MIXED_PRECISION True",
    ),
    Reader(("TEST.SAVE_SECONDS",), ("TEST.RESUME",), lambda c: c.TEST.RESUME, "TEST.RESUME True"),
    Reader(("REPORT.NUM_VIDEOS",), ("REPORT.ENABLE",), lambda c: c.REPORT.ENABLE, "REPORT.ENABLE True"),
    Reader(
        ("REPORT.EXPLAIN",),
        ("REPORT.ENABLE", "REPORT.NUM_VIDEOS"),
        lambda c: c.REPORT.ENABLE and c.REPORT.NUM_VIDEOS > 0,
        "REPORT.ENABLE True and REPORT.NUM_VIDEOS above 0",
    ),
    Reader(("WANDB.PROJECT",), ("WANDB.ENABLE",), lambda c: c.WANDB.ENABLE, "WANDB.ENABLE True"),
    Reader(
        ("MLFLOW.TRACKING_URI", "MLFLOW.EXPERIMENT"),
        ("MLFLOW.ENABLE",),
        lambda c: c.MLFLOW.ENABLE,
        "MLFLOW.ENABLE True",
    ),
)

# read in one stage alone, however the other keys are set
OF_STAGE = {
    "train": (
        *("SOLVER.*", "AUG.*", "MIXUP.*", "DISTILL.*", "MULTIGRID.*", "CHECKPOINT.*"),
        *(
            "SLIMMING.TEACHER",
            "SLIMMING.TOKEN_WEIGHT",
            "SLIMMING.LOGIT_WEIGHT",
            "SLIMMING.TEMPERATURE",
            "SLIMMING.EVERY",
        ),
        *("GLOBAL_BATCH_SIZE", "LOG_PERIOD"),
        *("DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE", "DATA.RANDOM_FLIP"),
        *("DATA_LOADER.SAMPLER", "DATA_LOADER.SHARD_WINDOW"),
        *(key for key in KEYS if key.startswith("TRAIN.") and key not in ("TRAIN.ENABLE", "TRAIN.CONTEXT_PARALLEL")),
    ),
    "test": (
        *("TEST.NUM_ENSEMBLE_VIEWS", "TEST.NUM_SPATIAL_CROPS", "TEST.VIEW_STARTS"),
        *("TEST.CHECKPOINT_FILE_PATH", "TEST.CHECKPOINT_PART"),
        *("TEST.RESUME", "TEST.SAVE_SECONDS"),
        *("TEST.MIXED_PRECISION", "TEST.MIXED_PRECISION_DTYPE", "TEST.COMPILE"),
    ),
}


def reads(cfg: CfgNode, key: str) -> bool:
    """Whether a key is read; one that no row of the table names always is."""
    return all(reader.reads(cfg) for reader in READERS if key in _expanded(reader.keys))


def reset_unread(cfg: CfgNode, written: Mapping[str, int], foreign: Collection[str] = ()) -> list[str]:
    """Return keys that were set on purpose to no effect to their defaults; returns a line for each.

    Args:
        cfg: is changed.
        written: key -> when it was written: the larger, the later. Keys that were not written are absent.
        foreign: keys that a file of PySlowFast or TimeSformer wrote last. These projects set keys for all their models,
            so that one without effect is no mistake.

    Raises:
        ConfigError: a key is changed that nothing reads; the message says what would read it.
    """
    notes = []
    for reader in READERS:
        if reader.reads(cfg):
            continue
        for key in _expanded(reader.keys):
            if _value(cfg, key) == _default(key):
                continue
            chosen = max((written.get(choice, -1) for choice in reader.choices), default=-1)
            if reader.always_error or (chosen <= written.get(key, -1) and key not in foreign):
                raise ConfigError(printable(_message(cfg, key, reader)))
            shown = printable(_value(cfg, key))
            notes.append(f"no effect here: {key} {shown}, which is only read with {reader.where}")
            _set(cfg, key, _default(key))
    return notes + _drop_options(cfg, written, foreign)


def _drop_options(cfg: CfgNode, written: Mapping[str, int], foreign: Collection[str]) -> list[str]:
    """The same for the options of mixers, in ATTENTION.OPTIONS."""
    key, notes = "ATTENTION.OPTIONS", []
    chosen = max((written.get(choice, -1) for choice in (*_MIXERS, *_TYPE)), default=-1)
    for name in [name for name in cfg.ATTENTION.OPTIONS if name not in mixers_used(cfg)]:
        shown = f"{key} {{{name}: {dict(cfg.ATTENTION.OPTIONS[name])}}}"
        where = f"{name} as the ATTENTION.SPACE, TIME or JOINT that TIMESFORMER.ATTENTION_TYPE reads"
        if chosen <= written.get(f"{key}.{name}", -1) and key not in foreign:
            raise ConfigError(printable(f"{shown} has no effect: it is only read with {where}"))
        notes.append(printable(f"no effect here: {shown}, which is only read with {where}"))
        del cfg.ATTENTION.OPTIONS[name]
    return notes


def idle_in(stages: Collection[str], keys: Collection[str]) -> list[str]:
    """Those of the keys that none of these stages (``train``, ``test``) reads."""
    others = [key for stage, own in OF_STAGE.items() if stage not in stages for key in _expanded(own)]
    return [key for key in keys if key in others]


def _message(cfg: CfgNode, key: str, reader: Reader) -> str:
    first = reader.choices[0]
    rows = [other for other in READERS if other.choices == reader.choices and other.reads(cfg)]
    read = [name for row in rows for name in row.keys]
    instead = f"; {first} {_value(cfg, first)} reads {' and '.join(read)}" if read else ""
    return (
        f"{key} {_value(cfg, key)} has no effect: it is only read with {reader.where}{instead}. Set {key} "
        f"{_default(key) or repr(_default(key))}, or change {first}"
    )


def _expanded(keys: Sequence[str]) -> Iterator[str]:
    """The full names of keys, of which some may stand for a section."""
    for key in keys:
        if key.endswith(".*"):
            yield from (name for name in KEYS if name.startswith(key[:-1]))
        else:
            yield key


def _default(key: str) -> object:
    return KEYS[key].read(KEYS[key].default)


def _value(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _set(cfg: CfgNode, key: str, value: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        cfg = cfg[section]
    cfg[last] = value
