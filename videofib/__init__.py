"""videofib: video transformers whose attention follows Fibonacci-spaced diagonals (Fibottention).

Nothing heavy is imported here, so that ``import videofib`` costs nothing. ``load`` is the way in for those who have a
model; its parts are in ``videofib.attention``, ``videofib.models``, ``videofib.data`` and ``videofib.engine``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videofib.models.presets import create_model as create_model
    from videofib.models.presets import list_models as list_models
    from videofib.run.load import load as load
    from videofib.run.saved_model import SavedModel as SavedModel

__version__ = "0.1.0"

_WHERE = {
    "load": "videofib.run.load",
    "SavedModel": "videofib.run.saved_model",
    "create_model": "videofib.models.presets",
    "list_models": "videofib.models.presets",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'videofib' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
