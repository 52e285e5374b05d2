"""Training a slimmed model with its unslimmed self as teacher, as SLIMMING says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from fvcore.common.config import CfgNode
from torch import nn

from videofib.config import ConfigError
from videofib.engine.recalibration import Recalibration
from videofib.models import TimeSformer
from videofib.models.pretrained.weight_files import read_weights
from videofib.models.recovery import TokenTeacher, recover_tokens
from videofib.run.parts import load_teacher


def add_recovery(cfg: CfgNode, model: TimeSformer) -> None:
    """Give the model what recovers its tokens, which is trained beside it.

    Raises:
        ConfigError: a model that has no tokens to recover.
    """
    try:
        recovery = recover_tokens(model, cfg.SLIMMING.EVERY)
    except ValueError as error:
        raise ConfigError(f"SLIMMING.TEACHER: {error}") from error
    recovery.to(next(model.patch_embed.parameters()).device)


def recalibration(
    cfg: CfgNode, model: TimeSformer, criterion: nn.Module, device: torch.device, class_names: Sequence[str] | None
) -> Recalibration:
    """What such a model minimises.

    Args:
        model: with its recovery.
        criterion: the loss of labels.
        class_names: of the model; the teacher's logits come in this order.

    Raises:
        CheckpointError: SLIMMING.TEACHER lacks weights of the unslimmed model.
    """
    unslimmed = cfg.clone()
    unslimmed.defrost()
    unslimmed.SLIMMING.AFTER, unslimmed.SLIMMING.TEACHER = [], ""
    assert model.recovery is not None
    teacher = load_teacher(unslimmed, read_weights(cfg.SLIMMING.TEACHER), "the same model unslimmed", class_names)
    return Recalibration(
        criterion,
        TokenTeacher(cast(TimeSformer, teacher.to(device)), model.recovery.indices),
        token_weight=cfg.SLIMMING.TOKEN_WEIGHT,
        logit_weight=cfg.SLIMMING.LOGIT_WEIGHT,
        temperature=cfg.SLIMMING.TEMPERATURE,
    )
