"""Video transformers."""

from videofib.models.timesformer import TimeSformer

__all__ = ["TimeSformer"]
