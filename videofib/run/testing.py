"""The test stage: multi-view accuracy of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

import videofib
from videofib.checkpoint.file import CheckpointError, latest_checkpoint, load_checkpoint
from videofib.checkpoint.retention import best_checkpoint
from videofib.distributed import processes
from videofib.distributed.mesh import share_clips
from videofib.engine.evaluate import write_results
from videofib.engine.finished import FinishedVideos, describe
from videofib.engine.shared_batches import shared
from videofib.models.pretrained.weight_files import read_weights
from videofib.run.loaders import build_eval_loader
from videofib.run.parts import MODEL_SECTIONS, bring_weights, evaluate_from_config, model_from_config
from videofib.run.preflight import check_split, read_class_names
from videofib.tracking.log import log_stats

logger = logging.getLogger(__name__)


def test_from_config(cfg: CfgNode) -> dict:
    """Multi-view accuracy of a checkpoint on the test split, written to OUTPUT_DIR; returns the figures."""
    checkpoints = Path(cfg.OUTPUT_DIR) / "checkpoints"
    if cfg.TEST.CHECKPOINT_FILE_PATH == "best":
        path = best_checkpoint(checkpoints)
        source = replace(read_weights(load_checkpoint(path)), name=str(path))
    elif cfg.TEST.CHECKPOINT_FILE_PATH:
        source = read_weights(cfg.TEST.CHECKPOINT_FILE_PATH)
    elif found := latest_checkpoint(checkpoints):
        source = replace(read_weights(found[1]), name=str(found[0]))
    else:
        raise CheckpointError(f"no checkpoint in {checkpoints}; train first, or set TEST.CHECKPOINT_FILE_PATH")
    sharing = share_clips(cfg.TRAIN.CONTEXT_PARALLEL)
    loader = build_eval_loader(cfg, "test", sharing.data_rank, sharing.data_world)
    class_names = read_class_names(cfg)
    check_split(cfg, loader, "test")
    model = model_from_config(cfg, sharing)
    report = bring_weights(cfg, model, source)
    if report.untrained:
        raise CheckpointError(f"{source.name} lacks what this model needs to be tested: {', '.join(report.untrained)}")
    logger.info("testing %s (epoch %s) on %d videos", source.name, source.epoch, len(loader.dataset.records))

    finished = _finished_videos(cfg, model, loader.dataset.records) if cfg.TEST.RESUME else None
    if finished and finished.indices:
        left = [index for index in range(len(loader.dataset.records)) if index not in finished.indices]
        loader.sampler = left[sharing.data_rank :: sharing.data_world]
        logger.info("%d of them were finished by an earlier start, which this one goes on from", len(finished.indices))
    results, scores = evaluate_from_config(
        cfg,
        model.to(processes.device()),
        shared(loader, sharing),
        class_names,
        None,
        "test",
        num_crops=cfg.TEST.NUM_SPATIAL_CROPS,
        details=True,
        finished=finished,
        sharing=sharing,
    )
    results = {**results, "checkpoint": source.name, "epoch": source.epoch}
    if processes.is_main():
        write_results(cfg.OUTPUT_DIR, results, scores)
        if finished:
            finished.remove()
        log_stats({"_type": "test_final", **results})
        logger.info("results are in %s", Path(cfg.OUTPUT_DIR) / "test_results.json")
    return results


def _finished_videos(cfg: CfgNode, model: nn.Module, records: Sequence) -> FinishedVideos:
    """Where the test's finished videos are kept: apart from those of any other weights, settings or videos."""
    settings = {section: cfg[section] for section in MODEL_SECTIONS}
    settings |= {key: cfg.TEST[key] for key in ("NUM_ENSEMBLE_VIEWS", "NUM_SPATIAL_CROPS", "ENSEMBLE_LOGITS")}
    settings["versions"] = {"videofib": videofib.__version__, "torch": torch.__version__}
    about = processes.broadcast(describe(model, records, settings) if processes.is_main() else None)
    return FinishedVideos(Path(cfg.OUTPUT_DIR) / "test_parts", about, cfg.TEST.SAVE_SECONDS)
