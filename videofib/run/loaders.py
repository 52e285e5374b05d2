"""Builds the data loaders from the config: which process reads which videos, in which order, with how many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from videofib.config import ConfigError
from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform
from videofib.data.errors import ManifestError
from videofib.data.lists.record import UNLABELLED, NamedVideo, VideoRecord
from videofib.data.lists.records import InShards, Records
from videofib.data.lists.remote import exists, is_remote
from videofib.data.lists.shard_index import has_shards, read_shards
from videofib.data.lists.splits import has_split, load_split
from videofib.data.loading.loader import VideoLoader
from videofib.data.loading.multigrid import MultigridLoader, MultigridStage, long_cycle
from videofib.data.samplers import (
    EpochSampler,
    EvalSampler,
    Order,
    class_balanced,
    length_bucketed,
    shard_by_shard,
    shuffled,
)
from videofib.data.source import FrameFiles
from videofib.run.class_names import with_labels_of
from videofib.run.lists import is_multi_label, list_options

Target = Callable[[VideoRecord], Tensor | int]


def build_train_loader(
    cfg: CfgNode, rank: int = 0, world_size: int = 1, *, records: Records | None = None
) -> VideoLoader | MultigridLoader:
    """The training batches of this process, shuffled; call ``loader.sampler.set_epoch`` before each epoch.

    With MULTIGRID.LONG_CYCLE the size of clips and batches depends on the epoch.

    Args:
        records: of the train split, where they have been read.

    Raises:
        ManifestError: no usable train split, or fewer videos than one batch.
        ConfigError: an unknown augmentation, or a sampler that these lists cannot serve.
    """
    records = read_records(cfg, "train") if records is None else records
    if not cfg.MULTIGRID.LONG_CYCLE:
        return _train_loader(cfg, records, rank, world_size)
    stages = multigrid_stages(cfg)
    configs = [_stage_config(cfg, stage) for stage in stages]
    return MultigridLoader(stages, [_train_loader(config, records, rank, world_size) for config in configs])


def multigrid_stages(cfg: CfgNode) -> list[MultigridStage]:
    """The stages of training, each with clips of one size, that MULTIGRID describes.

    Raises:
        ConfigError: MULTIGRID.LONG_CYCLE_FACTORS are not pairs from 0 to 1, or more stages than epochs.
    """
    try:
        return long_cycle(
            cfg.MULTIGRID.LONG_CYCLE_FACTORS,
            cfg.SOLVER.MAX_EPOCH,
            cfg.DATA.NUM_FRAMES,
            cfg.DATA.TRAIN_CROP_SIZE,
            tubelet_size=cfg.TIMESFORMER.TUBELET_SIZE,
            patch_size=cfg.TIMESFORMER.PATCH_SIZE,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"MULTIGRID.LONG_CYCLE_FACTORS: {error}") from error


def _stage_config(cfg: CfgNode, stage: MultigridStage) -> CfgNode:
    """The config with the clips and batches of a stage; fewer frames are further apart, so they cover the same time."""
    full, data = cfg.DATA, cfg.DATA.clone()
    data.defrost()
    data.NUM_FRAMES, data.TRAIN_CROP_SIZE = stage.num_frames, stage.crop_size
    data.SAMPLING_RATE = full.SAMPLING_RATE * full.NUM_FRAMES / stage.num_frames
    scale = stage.crop_size / full.TRAIN_CROP_SIZE
    data.TRAIN_JITTER_SCALES = [round(scale * size) for size in full.TRAIN_JITTER_SCALES]
    changed = cfg.clone()
    changed.defrost()
    changed.DATA = data
    changed.TRAIN.BATCH_SIZE = cfg.TRAIN.BATCH_SIZE * stage.batch_factor
    changed.freeze()
    return changed


def _train_loader(cfg: CfgNode, records: Records, rank: int, world_size: int) -> VideoLoader:
    batch = cfg.TRAIN.BATCH_SIZE
    if len(records) < batch:
        raise ManifestError(
            f"the train split in {cfg.DATA.PATH_TO_DATA_DIR} has {len(records)} videos, fewer than one batch; "
            f"TRAIN.BATCH_SIZE is {batch}"
        )
    dataset = ClipDataset(
        records, _clip_spec(cfg), _train_transform(cfg), num_views=cfg.AUG.NUM_SAMPLE, seed=cfg.RNG_SEED
    )
    sampler = EpochSampler(_order(cfg, records), batch, rank=rank, world_size=world_size)
    return _make_loader(cfg, dataset, sampler, batch // world_size)


def build_eval_loader(
    cfg: CfgNode, split: str, rank: int = 0, world_size: int = 1, *, class_names: Sequence[str] | None = None
) -> VideoLoader:
    """The views of this process's videos, ``records[rank::world_size]``, in order and without padding.

    ``val``: one view a video, the centre of its middle clip, whatever TEST says. ``test``: NUM_ENSEMBLE_VIEWS x
    NUM_SPATIAL_CROPS views, which start as VIEW_STARTS says.
    ``loader.dataset.records`` are all videos of the split, and the batches' indices are positions in it.
    A test list may have no labels.
    ``loader.restrict(indices)`` leaves only some videos, such as those that an interrupted test has not finished.

    Args:
        class_names: of the model. Where the split names its classes, too, its labels are mapped to these by name.

    Raises:
        ManifestError: no usable list or folder for the split.
        ConfigError: the split has classes that the model does not.
    """
    records = with_labels_of(cfg, split, read_records(cfg, split, class_names), class_names)
    if split == "test":
        dataset = view_dataset(cfg, records, *testing_views(cfg), view_starts=cfg.TEST.VIEW_STARTS)
    else:
        dataset = view_dataset(cfg, records, 1, 1)
    return _view_loader(cfg, dataset, rank, world_size)


def build_video_loader(
    cfg: CfgNode, videos: Sequence[str | Path | NamedVideo], num_clips: int, num_crops: int
) -> VideoLoader:
    """The views of videos without labels, in order, read as a test with so many views reads them; ids are the names."""
    dataset = view_dataset(cfg, Records.named(videos), num_clips, num_crops, view_starts=cfg.TEST.VIEW_STARTS)
    return _view_loader(cfg, dataset, target=attrgetter("label"))


def view_dataset(
    cfg: CfgNode, records: Records, num_clips: int, num_crops: int, *, view_starts: str = "spread"
) -> ViewDataset:
    """The views of videos as evaluation sees them: ``num_clips`` x ``num_crops`` of each."""
    size = cfg.DATA.TEST_CROP_SIZE
    # as TimeSformer tests: three crops cover the frame, a single crop is taken from a frame scaled to the jitter size
    short_side = size if num_crops == 3 else max(size, cfg.DATA.TRAIN_JITTER_SCALES[0])
    transform = ViewTransform(size, short_side, num_crops, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
    return ViewDataset(records, replace(_clip_spec(cfg), view_starts=view_starts), transform, num_clips)


def describe_input(dataset: ViewDataset) -> dict[str, Any]:
    """How evaluation makes a video the model's input, as plain values for a checkpoint.

    Frames are scaled to ``short_side`` pixels and cropped to ``crop_size`` at the centre.
    """
    spec, transform = dataset.read.spec, dataset.read.transform
    return {
        "num_frames": spec.num_frames,
        "sampling": spec.sampling,
        "sampling_rate": spec.sampling_rate,
        "target_fps": spec.target_fps,
        "short_side": transform.short_side,
        "crop_size": transform.crop_size,
        "mean": list(transform.mean),
        "std": list(transform.std),
    }


def testing_views(cfg: CfgNode) -> tuple[int, int]:
    """(temporal clips, spatial crops) of each video in testing."""
    return cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS


def _view_loader(
    cfg: CfgNode, dataset: ViewDataset, rank: int = 0, world_size: int = 1, *, target: Target | None = None
) -> VideoLoader:
    sampler = EvalSampler(len(dataset), rank=rank, world_size=world_size)
    batch_size = max(1, cfg.TEST.BATCH_SIZE // world_size // dataset.shape[0])
    return _make_loader(cfg, dataset, sampler, batch_size, target)


def read_records(
    cfg: CfgNode, split: str, class_names: Sequence[str] | None = None, *, needs_labels: bool = True
) -> Records:
    """The videos of a split, from its list, folder or shards, with the labels that these give.

    The rows of the train list may be repeated: an epoch takes each as often as it is listed.

    Args:
        class_names: of the model, which a list that names classes is read with; by default those of the data set.
        needs_labels: whether the lists of training and validation must have them; that of a test need not.

    Raises:
        ManifestError: no usable list, folder or shards for the split.
    """
    options = list_options(cfg)
    if has_shards(cfg.DATA.PATH_TO_DATA_DIR, split):
        if options["segments"]:
            raise ManifestError(
                f"{cfg.DATA.PATH_TO_DATA_DIR} has the {split} split in shards, and DATA.SEGMENTS {options['segments']} "
                "is about the rows of lists; set it to none"
            )
        return read_shards(cfg.DATA.PATH_TO_DATA_DIR, split, multi_label=options["multi_label"])
    return load_split(
        cfg.DATA.PATH_TO_DATA_DIR,
        split,
        **options,
        needs_labels=needs_labels and split != "test",
        classes=class_names or (),
        repeats=split == "train",
    )


def validates(cfg: CfgNode) -> bool:
    """Whether training validates: TRAIN.EVAL_PERIOD asks for it, and the data has a val split.

    Raises:
        ManifestError: a server does not say whether it has one.
    """
    folder = cfg.DATA.PATH_TO_DATA_DIR
    if not cfg.TRAIN.EVAL_PERIOD:
        return False
    if not is_remote(folder):
        return has_shards(folder, "val") or has_split(folder, "val")
    try:
        return exists(f"{folder}/val.parquet")
    except OSError as error:
        raise ManifestError(f"no index of shards: {error}") from error


def _is_multi_label(cfg: CfgNode) -> bool:
    return cfg.MODEL.LOSS_FUNC == "bce_logit"


def _multi_hot(num_classes: int, record: VideoRecord) -> Tensor:
    """(K,) float32: 1 for each class of a video, 0 for the others; all 0 where nobody has said its classes."""
    known = [label for label in record.classes if label != UNLABELLED]
    return torch.zeros(num_classes).index_fill(0, torch.tensor(known, dtype=torch.int64), 1.0)


def _order(cfg: CfgNode, records: Records) -> Order:
    """The order of training videos that DATA_LOADER.SAMPLER and SHARD_WINDOW choose."""
    name, seed = cfg.DATA_LOADER.SAMPLER, cfg.RNG_SEED
    if name == "class_balanced":
        return class_balanced(records.labels, seed)
    if name == "length_bucketed":
        uncounted = np.flatnonzero(records.num_frames == 0)
        if len(uncounted):
            raise ConfigError(
                f"DATA_LOADER.SAMPLER length_bucketed needs the number of frames of each video, which is unknown for "
                f"{len(uncounted)} of them, such as {records[uncounted[0]].video_id}; prepare the data set, or set "
                "DATA_LOADER.SAMPLER shuffle"
            )
        return length_bucketed(records.num_frames, cfg.TRAIN.BATCH_SIZE, seed)
    if cfg.DATA_LOADER.SHARD_WINDOW:
        if not isinstance(records.where, InShards):
            raise ConfigError(
                f"DATA_LOADER.SHARD_WINDOW needs shards, and {cfg.DATA.PATH_TO_DATA_DIR} has none; set it to 0"
            )
        return shard_by_shard(records.where.shards, cfg.DATA_LOADER.SHARD_WINDOW, seed)
    return shuffled(len(records), seed)


def _clip_spec(cfg: CfgNode) -> ClipSpec:
    return ClipSpec(
        cfg.DATA.NUM_FRAMES,
        cfg.DATA.SAMPLING_RATE,
        cfg.DATA.TARGET_FPS,
        cfg.DATA.DECODING_BACKEND,
        cfg.DATA.SAMPLING,
        cfg.DATA.READ_SHORT_SIDE,
        most_bytes=round(cfg.DATA.READ_GIB * 2**30),
        frame_files=frame_files(cfg),
    )


def frame_files(cfg: CfgNode) -> FrameFiles:
    """Which files of a folder are the frames of a video.

    Raises:
        ConfigError: DATA.FRAME_PATTERN is no pattern.
    """
    try:
        return FrameFiles(cfg.DATA.FRAME_PATTERN, cfg.DATA.FRAME_RATE)
    except ValueError as error:
        raise ConfigError(f"DATA.FRAME_PATTERN: {error}") from error


def _train_transform(cfg: CfgNode) -> TrainTransform:
    augment = cfg.AUG.ENABLE
    try:
        return TrainTransform(
            cfg.DATA.TRAIN_CROP_SIZE,
            cfg.DATA.TRAIN_JITTER_SCALES,
            relative_areas=cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE,
            relative_aspects=cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE,
            flip=cfg.DATA.RANDOM_FLIP,
            mean=cfg.DATA.MEAN,
            std=cfg.DATA.STD,
            color_strength=cfg.AUG.COLOR_JITTER if augment else 0.0,
            augment=cfg.AUG.AA_TYPE if augment else "",
            erase_prob=cfg.AUG.RE_PROB if augment else 0.0,
            erase_mode=cfg.AUG.RE_MODE,
            erase_count=cfg.AUG.RE_COUNT,
        )
    except ValueError as error:
        raise ConfigError(f"the AUG keys do not describe an augmentation: {error}") from error


def _make_loader(
    cfg: CfgNode,
    dataset: ClipDataset | ViewDataset,
    sampler: Iterable,
    batch_size: int,
    target: Target | None = None,
) -> VideoLoader:
    return VideoLoader(
        dataset,
        sampler,
        batch_size,
        target=target or (partial(_multi_hot, cfg.MODEL.NUM_CLASSES) if is_multi_label(cfg) else attrgetter("label")),
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        time_limit=cfg.DATA_LOADER.TIME_LIMIT,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and torch.cuda.is_available(),
    )
