"""The trained models that come with videofib itself, in ``weights/``: a folder of ``save_pretrained`` for each name."""

from __future__ import annotations

import difflib
from pathlib import Path

_WEIGHTS = Path(__file__).with_name("weights")
_MOST_NAMED = 3  # names in a message


def packaged_models() -> dict[str, Path]:
    """name -> folder, in order of the names."""
    return {file.parent.name: file.parent for file in sorted(_WEIGHTS.glob("*/config.json"))}


def nearest_packaged(written: str) -> list[str]:
    """The names that may be meant, best first."""
    return difflib.get_close_matches(written.lower(), packaged_models(), _MOST_NAMED, cutoff=0.5)
