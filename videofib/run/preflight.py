"""Checks before a run begins: mistakes that would otherwise end it after minutes or hours."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode

from videofib.checkpoint.sharded import can_write_sharded
from videofib.config import ConfigError
from videofib.distributed import processes

logger = logging.getLogger(__name__)


def choose_amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """The 16-bit type of mixed precision, None for full precision.

    Raises:
        ConfigError: the device does not support the type.
    """
    if not cfg.TRAIN.MIXED_PRECISION:
        return None
    name = cfg.TRAIN.MIXED_PRECISION_DTYPE
    if name == "fp16" and device.type == "cpu":
        raise ConfigError(
            "TRAIN.MIXED_PRECISION_DTYPE fp16 needs a GPU; set it to bf16, or TRAIN.MIXED_PRECISION False"
        )
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this GPU does not support bf16; set TRAIN.MIXED_PRECISION_DTYPE fp16")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[name]


def check_compiler(cfg: CfgNode, device: torch.device) -> None:
    """Raise ConfigError where TRAIN.COMPILE lacks a C++ compiler, which it needs on a CPU only."""
    compiler = os.environ.get("CXX", "g++")
    if cfg.TRAIN.COMPILE and device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(f"TRAIN.COMPILE True needs a C++ compiler, and {compiler} is not installed; set it to False")


def check_sharded_checkpoints(cfg: CfgNode) -> None:
    """Raise ConfigError where this version of torch cannot write sharded checkpoints."""
    if cfg.TRAIN.SHARDED_CHECKPOINTS and not can_write_sharded():
        raise ConfigError(
            f"TRAIN.SHARDED_CHECKPOINTS True needs a newer torch than {torch.__version__}; set it to False"
        )


def check_split(cfg: CfgNode, loader, split: str) -> None:
    """Raise ConfigError for labels beyond MODEL.NUM_CLASSES, and for a list whose first videos do not exist."""
    records = loader.dataset.records
    label, row = records.highest_label()
    if label >= cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"the {split} split has label {label} ({records[row].video_id}), so MODEL.NUM_CLASSES must be at least "
            f"{label + 1}; it is {cfg.MODEL.NUM_CLASSES}"
        )
    first = records[:20]  # enough to notice a wrong folder without looking for a million files
    if not any(record.seems_there() for record in first):
        raise ConfigError(
            f"none of the first {len(first)} videos of the {split} split exist, such as {first[0].path}; "
            f"check the list, or set DATA.PATH_PREFIX to the folder its paths start from"
        )


def warn_of_flips(cfg: CfgNode, class_names: Sequence[str] | None) -> None:
    """Warn if training mirrors clips although some classes are mirror images of each other."""
    pairs = mirrored_classes(class_names or ())
    if cfg.DATA.RANDOM_FLIP and pairs and processes.is_main():
        first, second = pairs[0]
        logger.warning(
            "DATA.RANDOM_FLIP mirrors half of the clips but not their labels, and %d pair(s) of classes are mirror "
            "images of each other, such as %r and %r; set DATA.RANDOM_FLIP False",
            len(pairs),
            first,
            second,
        )


def mirrored_classes(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of classes whose names differ only in left and right, or in the direction of a rotation."""
    spelled = {name: name.lower().replace("anticlockwise", "counterclockwise") for name in class_names}
    known = {spelling: name for name, spelling in spelled.items()}
    mirrored = ((name, known.get(_SIDES.sub(_other_side, spelling))) for name, spelling in spelled.items())
    return [(name, other) for name, other in mirrored if other is not None and name < other]


_OTHER_SIDE = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}
_SIDES = re.compile("left|right|(?:counter)?clockwise")


def _other_side(side: re.Match) -> str:
    return _OTHER_SIDE[side[0]]
