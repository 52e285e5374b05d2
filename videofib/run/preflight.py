"""Checks before a run begins: mistakes that would otherwise end it after minutes or hours."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from videofib.attention import SelfAttention
from videofib.attention.backends import choose
from videofib.checkpoint.file import CheckpointError
from videofib.checkpoint.sharded import can_write_sharded
from videofib.config import ConfigError
from videofib.data.errors import DecodeError
from videofib.data.lists.extensions import may_be_picture
from videofib.data.lists.manifest import ManifestError
from videofib.data.lists.mistakes import path_hint
from videofib.data.lists.record import VideoRecord
from videofib.data.lists.records import Records
from videofib.data.lists.remote import is_remote
from videofib.data.loading.loader import VideoLoader
from videofib.data.loading.multigrid import MultigridLoader
from videofib.data.source import ByteRange, FrameFolder
from videofib.data.video.decode import estimate
from videofib.data.video.extent import segment_extent
from videofib.distributed import processes
from videofib.mixers.pattern_attention import PatternAttention
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.weight_files import read_weights
from videofib.run.class_names import data_class_names, read_class_names, tested_class_names
from videofib.run.loaders import (
    build_eval_loader,
    build_train_loader,
    frame_files,
    multigrid_stages,
    read_records,
    validates,
)
from videofib.run.models import build_model
from videofib.run.saved_model import PRECISIONS, missing_compiler, unsupported
from videofib.run.tasks import choose_first_task, task_configs, weights_of

logger = logging.getLogger(__name__)

_LOOKED_AT = 20  # videos of a list: enough to notice a wrong folder without looking for a million files
_TRIAL_TOKENS = 196  # of a support whose kind matters, not its size


class Faults(ConfigError):
    """Several mistakes that were found together; ``faults`` has a line for each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


def check_run(cfg: CfgNode, stages: Sequence[str]) -> None:
    """Check what all stages of a run need before the first one begins.

    The model is tried at every size of clips, without computing anything. A run that trains has its lists checked, and,
    where it tests as well, the list and the weights to test: training takes hours before they are needed. A run that
    only tests reads them at once anyway.

    Raises:
        Faults: with all that was found.
    """
    checks: list[Callable[[], None]] = [lambda: check_model(cfg, stages)]
    for name, own in task_configs(cfg).items():
        if "test" in stages:
            checks.append(partial(_check_testing, own))
        if "train" in stages:
            checks += [partial(_check_train_list, own), partial(_check_validation, own)]
            if "test" in stages:
                checks.append(partial(_check_test_inputs, own, name, Path(cfg.OUTPUT_DIR)))
    faults: list[str] = []
    for check in checks:
        try:
            check()
        except Faults as several:
            faults += several.faults
        except (ConfigError, ManifestError, CheckpointError) as error:
            faults.append(str(error))
    if faults:
        raise Faults(list(dict.fromkeys(faults)))  # one mistake may be found in several splits


def check_model(cfg: CfgNode, stages: Sequence[str]) -> None:
    """Try the model at every size of clips of these stages, on the meta device, which computes shapes alone.

    Raises:
        Faults: the config describes no model, or one that does not take some of the clips or run on this device.
    """
    try:
        with torch.device("meta"):
            model = choose_first_task(build_model(cfg)).eval()
    except ValueError as error:
        raise Faults([f"the config describes no model: {error}"]) from error
    faults = _backend_faults(cfg, model)
    for keys, num_frames, size in _clip_sizes(cfg, stages):
        try:
            with torch.no_grad():
                model(torch.empty(1, 3, num_frames, size, size, device="meta"))
        except (ValueError, RuntimeError) as error:
            faults.append(f"{keys}: {cfg.MODEL.MODEL_NAME} does not take these clips: {' '.join(str(error).split())}")
    if faults:
        raise Faults(faults)


def _clip_sizes(cfg: CfgNode, stages: Sequence[str]) -> list[tuple[str, int, int]]:
    """(the keys that decide, T, H = W) of the clips of these stages."""
    data = cfg.DATA
    frames = f"DATA.NUM_FRAMES {data.NUM_FRAMES}"
    sizes = [(f"DATA.TEST_CROP_SIZE {data.TEST_CROP_SIZE} and {frames}", data.NUM_FRAMES, data.TEST_CROP_SIZE)]
    if "train" in stages:
        size = data.TRAIN_CROP_SIZE
        sizes.insert(0, (f"DATA.TRAIN_CROP_SIZE {size} and {frames}", data.NUM_FRAMES, size))
        if cfg.MULTIGRID.LONG_CYCLE:
            for stage in multigrid_stages(cfg):
                what = f"MULTIGRID.LONG_CYCLE with {stage.num_frames} frames of {stage.crop_size} pixels"
                sizes.append((what, stage.num_frames, stage.crop_size))
    return sizes


def _backend_faults(cfg: CfgNode, model: torch.nn.Module) -> list[str]:
    """What ATTENTION.BACKEND cannot do on the device of this process, or with the model's dropout."""
    values = torch.empty(0, device=processes.device())
    faults: dict[str, None] = {}  # in order, each once
    for layer in model.modules():
        if isinstance(layer, SelfAttention) and not (support := layer.support_for(_TRIAL_TOKENS)).is_dense:
            try:
                choose(cfg.ATTENTION.BACKEND, values, support, layer.masking, layer.attn_drop)
            except ValueError as error:
                faults[f"ATTENTION.BACKEND {cfg.ATTENTION.BACKEND}: {error}"] = None
        if isinstance(layer, PatternAttention) and layer.backend == "cpu" and (layer.attn_drop or values.is_cuda):
            faults["ATTENTION.BACKEND cpu: patterns need a CPU for it, and TIMESFORMER.ATTN_DROP_RATE 0; set auto"] = (
                None
            )
    return list(faults)


def _check_train_list(cfg: CfgNode) -> None:
    read_class_names(cfg, "train")
    checked_loader(cfg, "train").close()


def _check_validation(cfg: CfgNode) -> None:
    """Check the val list; where there is none, that no key asks for what validation finds."""
    if validates(cfg):
        _check_eval_list(cfg, "val", read_class_names(cfg, "train"))
        return
    best = cfg.CHECKPOINT.METRIC not in ("auto", "none")
    asked = {
        f"CHECKPOINT.METRIC {cfg.CHECKPOINT.METRIC}": ("CHECKPOINT.METRIC auto", best),
        f"TRAIN.PATIENCE {cfg.TRAIN.PATIENCE}": ("TRAIN.PATIENCE 0", cfg.TRAIN.PATIENCE > 0),
    }
    faults = [
        f"{key} needs validation, and {cfg.DATA.PATH_TO_DATA_DIR} has no val split; add val.csv or a folder val, or "
        f"set {off} to train without it"
        for key, (off, is_set) in asked.items()
        if is_set and cfg.TRAIN.EVAL_PERIOD  # at 0, these keys have no effect, which config/effect.py reports
    ]
    if faults:
        raise Faults(faults)


def _check_eval_list(cfg: CfgNode, split: str, class_names: Sequence[str] | None) -> None:
    if data_class_names(cfg, split) is None:  # nothing to compare, of which the stage itself warns
        class_names = None
    checked_loader(cfg, split, class_names=class_names).close()


def _check_test_inputs(cfg: CfgNode, task: str, run: Path) -> None:
    """Check the test list, and the weights to test unless the training that comes first writes them."""
    path = cfg.TEST.CHECKPOINT_FILE_PATH
    if path == "best" and cfg.CHECKPOINT.METRIC == "none":
        raise ConfigError(
            "TEST.CHECKPOINT_FILE_PATH best needs a best checkpoint, and CHECKPOINT.METRIC none keeps none; set "
            "CHECKPOINT.METRIC auto"
        )
    if path == "best" and not validates(cfg):
        raise ConfigError(
            "TEST.CHECKPOINT_FILE_PATH best needs a best checkpoint, which validation chooses, and this run does not "
            "validate: TRAIN.EVAL_PERIOD is 0 or there is no val split; add one, or test the newest checkpoint"
        )
    faults, names = [], None
    if path in ("", "best") or Path(path).resolve().parent == Path(run, "checkpoints").resolve():
        names = read_class_names(cfg, "train")
    else:
        try:
            weights = weights_of(read_weights(path, cfg.TEST.CHECKPOINT_PART), task)
            names = tested_class_names(cfg, weights) if weights.classes else read_class_names(cfg, "test")
            report = load_pretrained(build_model(cfg), weights, class_names=weights.classes)
            if report.untrained:
                raise CheckpointError(f"{path} lacks weights of the model to test: {', '.join(report.untrained)}")
        except (ConfigError, ManifestError, CheckpointError) as error:
            faults.append(f"TEST.CHECKPOINT_FILE_PATH: {error}")
        except ValueError:  # the config describes no model, which check_model reports
            pass
    try:
        _check_eval_list(cfg, "test", names)
    except (ConfigError, ManifestError) as error:
        faults.append(str(error))
    if faults:
        raise Faults(faults)


def choose_amp_dtype(cfg: CfgNode, device: torch.device, stage: str = "TRAIN") -> torch.dtype | None:
    """The 16-bit type of mixed precision in a stage (TRAIN, TEST), None for full precision.

    Raises:
        ConfigError: the device does not support the type.
    """
    is_on, name = {
        "TRAIN": (cfg.TRAIN.MIXED_PRECISION, cfg.TRAIN.MIXED_PRECISION_DTYPE),
        "TEST": (cfg.TEST.MIXED_PRECISION, cfg.TEST.MIXED_PRECISION_DTYPE),
    }[stage]
    if not is_on:
        return None
    if lacking := unsupported(name, device):
        other = {"fp16": "bf16", "bf16": "fp16"}[name]
        raise ConfigError(
            f"{stage}.MIXED_PRECISION_DTYPE {name} {lacking}; set it to {other}, or {stage}.MIXED_PRECISION False"
        )
    return PRECISIONS[name]


def check_compiler(cfg: CfgNode, device: torch.device, stage: str = "TRAIN") -> None:
    """Raise ConfigError where COMPILE of a stage lacks a C++ compiler, which it needs on a CPU only."""
    is_on = {"TRAIN": cfg.TRAIN.COMPILE, "TEST": cfg.TEST.COMPILE}[stage]
    if is_on and (compiler := missing_compiler(device)):
        raise ConfigError(
            f"{stage}.COMPILE True needs a C++ compiler, and {compiler} is not installed; set it to False"
        )


def _check_testing(cfg: CfgNode) -> None:
    """Check what the test computes with, also before hours of training."""
    choose_amp_dtype(cfg, processes.device(), "TEST")
    check_compiler(cfg, processes.device(), "TEST")


def check_sharded_checkpoints(cfg: CfgNode) -> None:
    """Raise ConfigError where this version of torch cannot write sharded checkpoints."""
    if cfg.TRAIN.SHARDED_CHECKPOINTS and not can_write_sharded():
        raise ConfigError(
            f"TRAIN.SHARDED_CHECKPOINTS True needs a newer torch than {torch.__version__}; set it to False"
        )


def checked_loader(
    cfg: CfgNode, split: str, *, class_names: Sequence[str] | None = None
) -> VideoLoader | MultigridLoader:
    """The batches of a split as ``build_train_loader`` and ``build_eval_loader`` give them, its list checked.

    Raises:
        ManifestError, ConfigError: as these do.
        Faults: as ``check_split``.
    """
    if split == "train":
        records = read_records(cfg, split)
        check_split(cfg, records, split)  # before the size of batches: a wrong list may be a short one
        return build_train_loader(cfg, records=records)
    loader = build_eval_loader(cfg, split, class_names=class_names)
    check_split(cfg, loader.dataset.records, split)
    return loader


def check_split(cfg: CfgNode, records: Records, split: str) -> None:
    """Check that the first videos of a list exist, that segments are within them, and its labels.

    Raises:
        Faults: none of them does, or is; labels beyond MODEL.NUM_CLASSES.
    """
    checks = (_missing_videos, _segments_outside, _wrong_labels)
    if faults := [fault for check in checks if (fault := check(cfg, records, split))]:
        raise Faults(faults)
    if split == "test" and processes.is_main():
        _warn_of_same_clips(cfg, records)


def _warn_of_same_clips(cfg: CfgNode, records: Records) -> None:
    """Warn if several clips are taken from each test video, and those are pictures, which have one."""
    count, first = cfg.TEST.NUM_ENSEMBLE_VIEWS, records[:_LOOKED_AT]
    if count > 1 and all(may_be_picture(Path(record.video_id)) for record in first):
        logger.warning(
            "the test videos are pictures, of which all %d clips of TEST.NUM_ENSEMBLE_VIEWS are the same: set it to 1",
            count,
        )


def _missing_videos(cfg: CfgNode, records: Records, split: str) -> str:
    first = records[:_LOOKED_AT]
    if any(record.seems_there() for record in first):
        return _too_few_frames(cfg, first, split)
    written = first[0].video_id.removesuffix(str(first[0].segment or ""))
    hint = "" if isinstance(first[0].path, ByteRange) else path_hint(written)
    start = "the folder its paths start from" + (f"; it is {cfg.DATA.PATH_PREFIX}" if cfg.DATA.PATH_PREFIX else "")
    return (
        f"none of the first {len(first)} videos of the {split} split exist, such as {first[0].path}{hint}; "
        f"check the list, or set DATA.PATH_PREFIX to {start}"
    )


def _too_few_frames(cfg: CfgNode, first: Sequence[VideoRecord], split: str) -> str:
    """What is wrong with the first folder of frames that has fewer than its list says, or none."""
    for record in first:
        source = frame_files(cfg).of(record.path, record.num_frames)
        if isinstance(source, FrameFolder):
            try:
                estimate(source)
            except DecodeError as error:
                return f"the {split} split: {record.video_id}: {error}"
    return ""


def _segments_outside(cfg: CfgNode, records: Records, split: str) -> str:
    """What is wrong where no segment of the first rows is within its video, as where frames are taken for seconds."""
    found = []
    for record in records[:_LOOKED_AT]:
        if record.segment is None or isinstance(record.path, ByteRange) or is_remote(record.path):
            return ""
        try:
            source = frame_files(cfg).of(record.path, record.num_frames)
            stored = estimate(source)
            length = record.num_frames or stored.num_frames
            segment_extent(source, record.segment, stored, length, record.fps or stored.fps or cfg.DATA.TARGET_FPS)
            return ""
        except DecodeError as error:
            if record.seems_there():
                found.append(str(error))
    if not found:
        return ""
    in_seconds = "#t=" in records.ids.text(0)
    other, columns = ("frames", "start_frame and end_frame") if in_seconds else ("seconds", "start_time and end_time")
    return (
        f"none of the first {len(found)} segments of the {split} split can be read, such as {found[0]}; are they in "
        f"{other}? then set DATA.SEGMENTS {other}, or call the columns of a header {columns}"
    )


def _wrong_labels(cfg: CfgNode, records: Records, split: str) -> str:
    label, row = records.highest_label()
    count = cfg.MODEL.NUM_CLASSES
    if label < count:
        return ""
    said = f"the {split} split has label {label} ({records[row].video_id}), "
    if label == count and records.classes.min() == 1:
        return (
            f"{said}but those of {count} classes run from 0 to {count - 1}; here labels run from 1 to {count}: "
            "subtract 1 from each, in all lists"
        )
    return f"{said}so MODEL.NUM_CLASSES must be at least {label + 1}; it is {count}"


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
