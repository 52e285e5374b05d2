"""The weights of classes in the loss, as TRAIN.CLASS_WEIGHTS chooses them. N training videos, K classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from videofib.config import ConfigError
from videofib.data.lists.record import UNLABELLED
from videofib.data.lists.records import Records
from videofib.distributed import processes
from videofib.engine.losses import balanced_positive_weights, balanced_weights
from videofib.printable import printable
from videofib.report.markup.numbers import number

logger = logging.getLogger(__name__)


def class_weights(cfg: CfgNode, records: Records, class_names: Sequence[str] | None = None) -> Tensor | None:
    """(K,) float32: what a class counts in the loss; None: all count the same.

    With videos of one class each, the mean over the training videos is 1, also of weights that are listed, so that
    learning rates mean the same. With several, they are weights of positive labels, and listed ones are taken as
    they are.

    Args:
        records: of the training list.
        class_names: of the model, for the log.

    Raises:
        ConfigError: the listed weights are 0 for all classes that the list has.
    """
    kind, several = cfg.TRAIN.CLASS_WEIGHTS, cfg.MODEL.LOSS_FUNC == "bce_logit"
    if kind == "none":
        return None
    counts = torch.from_numpy(videos_by_class(records, cfg.MODEL.NUM_CLASSES))
    if kind == "balanced":
        weights = balanced_positive_weights(counts, len(records)) if several else balanced_weights(counts)
    else:
        weights = torch.tensor(cfg.TRAIN.LISTED_WEIGHTS, dtype=torch.float64)
        if not several:
            mean = (weights * counts).sum() / counts.sum()
            if not mean:
                raise ConfigError("TRAIN.LISTED_WEIGHTS are 0 for all classes of the training list; raise one of them")
            weights = weights / mean
    if processes.is_main():
        _log(kind, weights, counts, class_names)
    return weights.float()


def videos_by_class(records: Records, num_classes: int) -> np.ndarray:
    """(K,) int64: how many videos have each class; one that is listed twice for a video counts once."""
    rows = np.repeat(np.arange(len(records)), records.counts)
    known = records.classes != UNLABELLED
    pairs = np.unique(np.stack([rows[known], records.classes[known]]), axis=1)
    return np.bincount(pairs[1], minlength=num_classes)


def _log(kind: str, weights: Tensor, counts: Tensor, class_names: Sequence[str] | None) -> None:
    def shown(label: int) -> str:
        name = printable(class_names[label]) if class_names else f"label {label}"
        return f"{number(weights[label].item())} ({name}, {number(counts[label].item())} videos)"

    present = weights.masked_fill(counts == 0, torch.nan)
    if present.isnan().all():
        return
    low, high = (int(present.nan_to_num(nan=fill).argsort()[end]) for fill, end in ((torch.inf, 0), (-torch.inf, -1)))
    logger.info("TRAIN.CLASS_WEIGHTS %s: classes count from %s to %s", kind, shown(low), shown(high))
    if kind == "balanced" and (absent := int((counts == 0).sum())):
        logger.warning("TRAIN.CLASS_WEIGHTS balanced: %d class(es) without training videos have weight 1", absent)
