"""From the config to batches: which process reads which videos, in which order, with how many workers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Dataset, Sampler

from videofib.config import ConfigError
from videofib.data.dataset import ClipDataset, ClipSpec, ViewDataset, collate
from videofib.data.manifest import ManifestError, VideoRecord, load_split
from videofib.data.transforms import TrainTransform, ViewTransform


class EpochSampler(Sampler):
    """This process's keys ``(epoch, index)``: its share of a permutation that all processes agree on.

    Only whole batches are dealt, so every process takes the same number of steps. Step k trains on the same videos
    whatever the number of processes::

        permutation   | batch 0         | batch 1         | ... | too few: left out this epoch
        process       0 1 0 1 0 1 0 1   0 1 0 1 ...
    """

    def __init__(self, num_records: int, batch_size: int, *, seed: int, rank: int, world_size: int):
        self.num_records, self.seed, self.rank, self.world_size = num_records, seed, rank, world_size
        self.num_used = num_records // batch_size * batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.num_records))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        return iter([(self.epoch, index) for index in order[: self.num_used][self.rank :: self.world_size]])

    def __len__(self) -> int:
        return self.num_used // self.world_size


def build_train_loader(cfg: CfgNode, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Shuffled training batches of this process; call ``loader.sampler.set_epoch`` before each epoch.

    Raises:
        ManifestError: no usable train split, or fewer videos than one batch.
        ConfigError: an augmentation that there is not.
    """
    records = _load(cfg, "train")
    batch = cfg.TRAIN.BATCH_SIZE
    if len(records) < batch:
        raise ManifestError(
            f"the train split in {cfg.DATA.PATH_TO_DATA_DIR} has {len(records)} videos, fewer than one batch; "
            f"TRAIN.BATCH_SIZE is {batch}"
        )
    dataset = ClipDataset(
        records, _clip_spec(cfg), _train_transform(cfg), num_views=cfg.AUG.NUM_SAMPLE, seed=cfg.RNG_SEED
    )
    sampler = EpochSampler(len(records), batch, seed=cfg.RNG_SEED, rank=rank, world_size=world_size)
    return _loader(cfg, dataset, sampler, batch // world_size)


def build_eval_loader(cfg: CfgNode, split: str, rank: int = 0, world_size: int = 1) -> DataLoader:
    """The views of this process's videos, ``records[rank::world_size]``, in order and without padding.

    ``val``: one view a video, the centre of its middle clip. ``test``: NUM_ENSEMBLE_VIEWS x NUM_SPATIAL_CROPS views.
    ``loader.dataset.records`` are the videos of the whole split, and the batches' indices are positions in it.

    Raises:
        ManifestError: no usable list or folder for the split.
    """
    clips, crops = (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) if split == "test" else (1, 1)
    size = cfg.DATA.TEST_CROP_SIZE
    # as TimeSformer tests: three crops cover the frame, a single one is cut from a larger one
    short_side = size if crops == 3 else max(size, cfg.DATA.TRAIN_JITTER_SCALES[0])
    transform = ViewTransform(size, short_side, crops, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
    dataset = ViewDataset(_load(cfg, split), _clip_spec(cfg), transform, clips)
    share = range(rank, len(dataset), world_size)
    return _loader(cfg, dataset, share, max(1, cfg.TEST.BATCH_SIZE // world_size // (clips * crops)))


def _load(cfg: CfgNode, split: str) -> list[VideoRecord]:
    return load_split(
        cfg.DATA.PATH_TO_DATA_DIR, split, prefix=cfg.DATA.PATH_PREFIX, separator=cfg.DATA.PATH_LABEL_SEPARATOR
    )


def _clip_spec(cfg: CfgNode) -> ClipSpec:
    return ClipSpec(
        cfg.DATA.NUM_FRAMES,
        cfg.DATA.SAMPLING_RATE,
        cfg.DATA.TARGET_FPS,
        cfg.DATA.DECODING_BACKEND,
        cfg.DATA.SAMPLING,
    )


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
        raise ConfigError(f"AUG describes no augmentation: {error}") from error


def _loader(cfg: CfgNode, dataset: Dataset, sampler: Sampler | Sequence[int], batch_size: int) -> DataLoader:
    workers = cfg.DATA_LOADER.NUM_WORKERS
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        # a generator of its own: by default each pass over a loader would advance torch's global one
        generator=torch.Generator().manual_seed(cfg.RNG_SEED),
    )


def _start_worker(worker_id: int) -> None:
    torch.set_num_threads(1)  # parallel over videos, not within one
    np.random.seed(torch.initial_seed() % 2**32)  # torch seeds itself and random; nothing of ours draws from these
