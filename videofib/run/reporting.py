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
from videofib.run.parts import check_size, model_from_config
from videofib.run.tasks import choose_first_task

logger = logging.getLogger(__name__)


def report_from_config(cfg: CfgNode, *, tested: bool) -> None:
    """Write OUTPUT_DIR/report.html in rank 0, as REPORT says; a failure is logged in one line.

    ``tested``: this process has just tested, and so has read the videos whose frames are shown.
    """
    if not (cfg.REPORT.ENABLE and processes.is_main()):
        return
    try:
        file = write_report(
            cfg.OUTPUT_DIR,
            cost=model_cost(cfg),
            videos=cfg.REPORT.NUM_VIDEOS,
            data=[name for name in (cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX) if name],
            own_test=tested,
        )
    except Exception as error:  # of any kind: the run itself has succeeded
        logger.warning("the report could not be written: %s: %s", type(error).__name__, " ".join(str(error).split()))
    else:
        logger.info("wrote the report to %s", file)


def cost_of_folder(folder: str | Path) -> dict | None:
    """The cost of the model by the config in a run's folder; None where there is none, or this version refuses it.

    The folder may be anyone's: a model that would fill the memory is not made.
    """
    for name in ("config.yaml", "test_config.yaml"):
        file = Path(folder) / name
        if file.is_file():
            try:
                cfg = load_config(file, notes=[])
                check_size(cfg, str(file))
                return model_cost(cfg)
            except (ConfigError, RuntimeError, ValueError, OverflowError, MemoryError):  # written by another version
                return None
    return None


def model_cost(cfg: CfgNode) -> dict:
    """``parameters`` of the config's model, and ``multiply_adds`` for a view of testing."""
    with torch.random.fork_rng(devices=[]):  # drawing its weights must not change the run's random state
        model = choose_first_task(model_from_config(cfg))
    size = cfg.DATA.TEST_CROP_SIZE
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "multiply_adds": forward_multiply_adds(model, (3, cfg.DATA.NUM_FRAMES, size, size)),
    }
