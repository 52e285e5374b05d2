"""What the tested model looked at in its most confident mistakes, for the report. It never makes a test fail."""

from __future__ import annotations

import logging

import torch
from fvcore.common.config import CfgNode
from torch import nn

from videofib.data.errors import DecodeError
from videofib.data.lists.records import Records
from videofib.models.explain import attention_rollout, grad_cam, has_rollout
from videofib.report.analysis import Mistake, confident_mistakes
from videofib.report.browse.clips import read_views
from videofib.report.mistake_heat import MistakeHeat, drawn, write_heat
from videofib.report.scored_videos import read_scored_videos
from videofib.run.loaders import view_dataset

logger = logging.getLogger(__name__)


def write_mistake_heat(cfg: CfgNode, model: nn.Module, records: Records) -> None:
    """Write the heat that REPORT.EXPLAIN asks for, of the mistakes in OUTPUT_DIR's scores; without it, remove old heat.

    Attention rollout where a model has it, otherwise Grad-CAM of the predicted class, over the centre of the middle
    clip. A failure is logged in one line.
    """
    try:
        found: list[MistakeHeat] = []
        scored = read_scored_videos(cfg.OUTPUT_DIR, []) if cfg.REPORT.ENABLE and cfg.REPORT.EXPLAIN else None
        for mistake in confident_mistakes(scored, cfg.REPORT.NUM_VIDEOS) if scored else ():
            try:
                found.append(_heat(cfg, model.eval(), records, mistake))
            except DecodeError as error:
                logger.warning("no heat of a mistake: %s", error)
        write_heat(cfg.OUTPUT_DIR, found)
    except Exception as error:  # of any kind: the test itself has succeeded
        logger.warning(
            "the mistakes could not be explained: %s: %s", type(error).__name__, " ".join(str(error).split())
        )


def _heat(cfg: CfgNode, model: nn.Module, records: Records, mistake: Mistake) -> MistakeHeat:
    dataset = view_dataset(cfg, records, 1, 1, view_starts=cfg.TEST.VIEW_STARTS)
    views, (clip,) = read_views(dataset, mistake.index)
    views = views.to(next(model.parameters()).device)
    if has_rollout(model):
        method, heat = "rollout", attention_rollout(model, views).heat
    else:
        method, heat = "gradcam", grad_cam(model, views, torch.tensor([mistake.predicted]))[0]
    name = records[mistake.index].video_id
    return drawn(mistake.index, name, method, clip.frames, clip.indices, heat[0].float().cpu().numpy())
