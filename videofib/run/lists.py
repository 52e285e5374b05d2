"""How the lists of a run are to be read, from its config."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode


def list_options(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of ``splits.load_split`` and ``split_class_names`` that the config gives."""
    return {
        "prefix": cfg.DATA.PATH_PREFIX,
        "separator": cfg.DATA.PATH_LABEL_SEPARATOR.replace(r"\t", "\t"),  # as a shell passes on what it does not expand
        "segments": "" if cfg.DATA.SEGMENTS == "none" else cfg.DATA.SEGMENTS,
        "multi_label": is_multi_label(cfg),
        "frame_counts": cfg.DATA.FRAME_COUNTS,
    }


def is_multi_label(cfg: CfgNode) -> bool:
    """Whether a video may have several classes."""
    return cfg.MODEL.LOSS_FUNC == "bce_logit"
