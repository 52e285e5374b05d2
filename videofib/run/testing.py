"""The test stage: multi-view accuracy of a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

import videofib
from videofib.checkpoint.file import CheckpointError, load_checkpoint
from videofib.checkpoint.manager import best_checkpoint, latest_checkpoint
from videofib.distributed import processes
from videofib.distributed.mesh import data_rank, data_size, make_mesh
from videofib.engine.evaluate import write_results
from videofib.engine.resume_cache import ResumeCache, describe
from videofib.engine.shared_batches import shared
from videofib.files import replacing
from videofib.models.pretrained.weight_files import Weights, read_weights
from videofib.run.class_names import tested_class_names
from videofib.run.loaders import build_eval_loader
from videofib.run.mistake_heat import write_mistake_heat
from videofib.run.parts import MODEL_SECTIONS, evaluate_from_config, load_into_model, model_from_config
from videofib.run.preflight import check_compiler, check_split, choose_amp_dtype
from videofib.run.tasks import ONE, choose_task, joined_figures, task_configs, titled, weights_of
from videofib.tracking.log import log_stats

logger = logging.getLogger(__name__)

# keys of TEST on which the scores of a video depend
_SCORING = (
    *("NUM_ENSEMBLE_VIEWS", "NUM_SPATIAL_CROPS", "VIEW_STARTS", "ENSEMBLE_LOGITS"),
    *("MIXED_PRECISION", "MIXED_PRECISION_DTYPE", "COMPILE"),
)


def evaluate_run(
    cfg: CfgNode, accepted: Callable[[], None] = lambda: None, stop: Callable[[], bool] = lambda: False
) -> dict:
    """Multi-view accuracy of a checkpoint on the test split, written to OUTPUT_DIR; returns the figures.

    With TASKS each is tested on its own data, and its results are written to ``OUTPUT_DIR/tasks/<name>``; those of all
    tasks together, with means over tasks, are in ``OUTPUT_DIR/test_results.json``.

    ``accepted`` is called in all processes once all checks have passed. Once ``stop`` returns True, finished videos are
    kept, with TEST.RESUME, and ``InterruptedRun`` is raised.
    """
    weights, tasks = _checkpoint(cfg), task_configs(cfg)
    results = {
        name: _evaluate_task(own, name, weights_of(weights, name), accepted, stop) for name, own in tasks.items()
    }
    if ONE in results:
        return results[ONE]
    joined = {**joined_figures(results), "checkpoint": weights.name, "epoch": weights.epoch, "tasks": list(tasks)}
    if processes.is_main():
        with replacing(Path(cfg.OUTPUT_DIR) / "test_results.json") as partial:
            partial.write_text(json.dumps(joined, indent=2) + "\n", encoding="utf-8")
        log_stats({"_type": "test_final", **joined})
    return joined


def _evaluate_task(
    cfg: CfgNode, name: str, weights: Weights, accepted: Callable[[], None], stop: Callable[[], bool]
) -> dict:
    mesh, device = make_mesh(cfg.TRAIN.CONTEXT_PARALLEL), processes.device()
    amp_dtype = choose_amp_dtype(cfg, device, "TEST")
    check_compiler(cfg, device, "TEST")
    class_names = tested_class_names(cfg, weights)
    with build_eval_loader(cfg, "test", data_rank(mesh), data_size(mesh), class_names=class_names) as loader:
        records = loader.dataset.records
        check_split(cfg, records, "test")
        model = model_from_config(cfg, mesh)
        _load_all(cfg, model, weights)
        choose_task(model, name)
        model.to(device)
        if cfg.TEST.COMPILE:
            model.compile(dynamic=False)  # in place: weights keep their names
        accepted()
        logger.info("testing %s (epoch %s) on %d videos", weights.name, weights.epoch, len(records))
        cache = _resume_cache(cfg, model, records) if cfg.TEST.RESUME else None
        if cache and cache.indices:
            loader.restrict([index for index in range(len(records)) if index not in cache.indices])
            logger.info("resuming: an earlier start has finished %d of them", len(cache.indices))
        figures, scores = evaluate_from_config(
            cfg,
            model,
            shared(loader, mesh),
            class_names,
            amp_dtype,
            title=titled("test", name),
            num_crops=cfg.TEST.NUM_SPATIAL_CROPS,
            view_starts=cfg.TEST.VIEW_STARTS,
            details=True,
            cache=cache,
            mesh=mesh,
            stop=stop,
        )
    results = {**figures, "checkpoint": weights.name, "epoch": weights.epoch}
    if processes.is_main():
        write_results(cfg.OUTPUT_DIR, results, scores)
        write_mistake_heat(cfg, model, records)
        if cache:
            cache.remove()
        if name == ONE:
            log_stats({"_type": "test_final", **results})
        logger.info("wrote the results to %s", Path(cfg.OUTPUT_DIR) / "test_results.json")
    return results


def _checkpoint(cfg: CfgNode) -> Weights:
    """The weights that TEST.CHECKPOINT_FILE_PATH names (a file, or ``best``), by default the newest in OUTPUT_DIR.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    checkpoints, wanted = Path(cfg.OUTPUT_DIR) / "checkpoints", cfg.TEST.CHECKPOINT_FILE_PATH
    part = cfg.TEST.CHECKPOINT_PART
    if wanted == "best":
        path = best_checkpoint(checkpoints)
        return read_weights(load_checkpoint(path), part, name=str(path))
    if wanted:
        return read_weights(wanted, part)
    if newest := latest_checkpoint(checkpoints):
        path, content = newest
        return read_weights(content, part, name=str(path))
    raise CheckpointError(f"no checkpoint in {checkpoints}; train first, or set TEST.CHECKPOINT_FILE_PATH")


def _load_all(cfg: CfgNode, model: nn.Module, weights: Weights) -> None:
    """Load the weights, with the classes that they have.

    Raises:
        CheckpointError: some of the model's are missing.
    """
    report = load_into_model(cfg, model, weights, weights.classes)
    if report.untrained:
        raise CheckpointError(f"{weights.name} lacks weights of the model to test: {', '.join(report.untrained)}")


def _resume_cache(cfg: CfgNode, model: nn.Module, records: Sequence) -> ResumeCache:
    """The finished videos of this test, apart from those of tests with other weights, settings or videos."""
    settings = {section: cfg[section] for section in MODEL_SECTIONS}
    settings |= {key: cfg.TEST[key] for key in _SCORING}
    settings["versions"] = {"videofib": videofib.__version__, "torch": torch.__version__}
    about = processes.broadcast(describe(model, records, settings) if processes.is_main() else None)
    return ResumeCache(Path(cfg.OUTPUT_DIR) / "test_parts", about, cfg.TEST.SAVE_SECONDS, len(records))
