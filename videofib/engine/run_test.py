"""The test stage: multi-view accuracy of a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from videofib import distributed
from videofib.checkpoint import CheckpointError, latest_checkpoint
from videofib.data.loader import build_eval_loader
from videofib.engine.evaluate import write_results
from videofib.engine.parts import bring_weights, evaluate_from_config, model_from_config
from videofib.engine.preflight import check_split, read_class_names
from videofib.logging import log_stats
from videofib.models.source import read_source

logger = logging.getLogger(__name__)


def test_from_config(cfg: CfgNode) -> dict:
    """Multi-view accuracy of a checkpoint on the test split, written to OUTPUT_DIR; returns the figures."""
    checkpoints = Path(cfg.OUTPUT_DIR) / "checkpoints"
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        source = read_source(cfg.TEST.CHECKPOINT_FILE_PATH)
    elif found := latest_checkpoint(checkpoints):
        source = replace(read_source(found[1]), name=str(found[0]))
    else:
        raise CheckpointError(f"no checkpoint in {checkpoints}; train first, or set TEST.CHECKPOINT_FILE_PATH")
    loader = build_eval_loader(cfg, "test", distributed.rank(), distributed.world_size())
    class_names = read_class_names(cfg)
    check_split(cfg, loader, "test")
    model = model_from_config(cfg)
    report = bring_weights(cfg, model, source)
    if report.untrained:
        raise CheckpointError(f"{source.name} lacks what this model needs to be tested: {', '.join(report.untrained)}")
    logger.info("testing %s (epoch %s) on %d videos", source.name, source.epoch, len(loader.dataset.records))

    model = model.to(distributed.device())
    options = {"num_crops": cfg.TEST.NUM_SPATIAL_CROPS}
    results, scores = evaluate_from_config(cfg, model, loader, class_names, None, "test", **options)
    results = {**results, "checkpoint": source.name, "epoch": source.epoch}
    if distributed.is_main():
        write_results(cfg.OUTPUT_DIR, results, scores)
        log_stats({"_type": "test_final", **results})
        logger.info("results are in %s", Path(cfg.OUTPUT_DIR) / "test_results.json")
    return results
