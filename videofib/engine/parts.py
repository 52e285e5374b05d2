"""The parts that both stages make of the config: a model, weights brought into it, its evaluation."""

from __future__ import annotations

import logging

import torch
from fvcore.common.config import CfgNode
from torch import nn

from videofib import distributed
from videofib.config import ConfigError, differences
from videofib.engine.evaluate import evaluate
from videofib.engine.tasks import MULTI_LABEL, SINGLE_LABEL
from videofib.models.build import build_model
from videofib.models.source import Source
from videofib.models.weights import LoadReport, load_pretrained
from videofib.scores import Scores

logger = logging.getLogger(__name__)

_MODEL_SECTIONS = ("MODEL", "SLOWFAST", "TIMESFORMER", "ATTENTION", "FIBOTTENTION", "DATA")


def model_from_config(cfg: CfgNode) -> nn.Module:
    """The model the config describes, with its first weights."""
    try:
        return build_model(cfg)
    except ValueError as error:
        raise ConfigError(f"the config describes no model: {error}") from error


def bring_weights(cfg: CfgNode, model: nn.Module, source: Source) -> LoadReport:
    """Bring weights into the model, and log what became of them."""
    report = load_pretrained(
        model,
        source,
        position_resize=cfg.TIMESFORMER.POSITION_RESIZE,
        time_resize=cfg.TIMESFORMER.TIME_RESIZE,
        verbose=False,
    )
    logger.info("%s", report)
    if source.settings and (changed := differences(source.settings, cfg, _MODEL_SECTIONS)):
        logger.warning("%s was trained with other settings: %s", source.name, "; ".join(changed))
    return report


def evaluate_from_config(
    cfg: CfgNode, model: nn.Module, loader, class_names, amp_dtype: torch.dtype | None, title: str, **options
) -> tuple[dict, Scores]:
    """Multi-view figures and scores as the config's TEST and DATA say; unreadable videos are told in the log.

    ``options`` are of ``evaluate``.
    """
    figures, scores = evaluate(
        model,
        loader,
        view_batch_size=max(1, cfg.TEST.BATCH_SIZE // distributed.world_size()),
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
        ensemble_logits=cfg.TEST.ENSEMBLE_LOGITS,
        unreadable=cfg.TEST.UNREADABLE,
        task={"cross_entropy": SINGLE_LABEL, "bce_logit": MULTI_LABEL}[cfg.MODEL.LOSS_FUNC],
        class_names=class_names,
        amp_dtype=amp_dtype,
        title=title,
        **options,
    )
    if figures["skipped"] and distributed.is_main():
        what = "left out" if cfg.TEST.UNREADABLE == "exclude" else "counted as wrong"
        names = "; ".join(f"{entry['video']} ({entry['reason']})" for entry in figures["skipped"])
        logger.warning("%s: %d unreadable videos were %s: %s", title, len(figures["skipped"]), what, names)
    return figures, scores
