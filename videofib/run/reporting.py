"""The report of a run, written at the end of each stage. It never makes the run fail: the results are already saved."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from videofib.config import ConfigError, load_config
from videofib.distributed import processes
from videofib.models.profiling import forward_multiply_adds
from videofib.report.page import write_report
from videofib.run.parts import model_from_config

logger = logging.getLogger(__name__)


def report_from_config(cfg: CfgNode) -> None:
    """Write OUTPUT_DIR/report.html in rank 0, as REPORT says; a failure is logged in one line."""
    if not (cfg.REPORT.ENABLE and processes.is_main()):
        return
    try:
        file = write_report(cfg.OUTPUT_DIR, cost=model_cost(cfg), videos=cfg.REPORT.NUM_VIDEOS)
    except Exception as error:  # of any kind: the run itself has succeeded
        logger.warning("the report could not be written: %s: %s", type(error).__name__, " ".join(str(error).split()))
    else:
        logger.info("wrote the report to %s", file)


def cost_of_folder(folder: str | Path) -> dict | None:
    """The cost of the model by the config in a run's folder; None where there is none, or this version refuses it."""
    for name in ("config.yaml", "test_config.yaml"):
        file = Path(folder) / name
        if file.is_file():
            try:
                return model_cost(load_config(file))
            except ConfigError:  # written by another version
                return None
    return None


def model_cost(cfg: CfgNode) -> dict:
    """``parameters`` of the config's model, and ``multiply_adds`` for a view of testing."""
    with torch.random.fork_rng(devices=[]):  # drawing its weights must not change the run's random state
        model = model_from_config(cfg)
    size = cfg.DATA.TEST_CROP_SIZE
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "multiply_adds": forward_multiply_adds(model, (3, cfg.DATA.NUM_FRAMES, size, size)),
    }
