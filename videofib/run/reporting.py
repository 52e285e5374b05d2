"""The report of a run, made at the end of each stage; it never makes a run fail, whose results are written already."""

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
    """Write OUTPUT_DIR/report.html in rank 0, as REPORT says; where that fails, one line of the log says why."""
    if not (cfg.REPORT.ENABLE and processes.is_main()):
        return
    try:
        file = write_report(cfg.OUTPUT_DIR, cost=model_cost(cfg), videos=cfg.REPORT.NUM_VIDEOS)
    except Exception as error:  # whatever it is, the run has done its work
        logger.warning("no report was written: %s: %s", type(error).__name__, " ".join(str(error).split()))
    else:
        logger.info("the report is %s", file)


def cost_of_folder(folder: str | Path) -> dict | None:
    """The model's cost by the config that a run has left in its folder; None where that describes no model now."""
    for name in ("config.yaml", "test_config.yaml"):
        file = Path(folder) / name
        if file.is_file():
            try:
                return model_cost(load_config(file))
            except ConfigError:  # of another version
                return None
    return None


def model_cost(cfg: CfgNode) -> dict:
    """``parameters`` of the config's model, and ``multiply_adds`` of a view of it in testing."""
    with torch.random.fork_rng(devices=[]):  # its weights are drawn, and a run goes on as if they were not
        model = model_from_config(cfg)
    size = cfg.DATA.TEST_CROP_SIZE
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "multiply_adds": forward_multiply_adds(model, (3, cfg.DATA.NUM_FRAMES, size, size)),
    }
