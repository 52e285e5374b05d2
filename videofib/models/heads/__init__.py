"""What single attention heads do: their outputs, what a model is without them, and how alike their maps are."""

from videofib.models.heads.layers import HeadLayer, head_layers, pair_overlap
from videofib.models.heads.maps import MapDivergence, has_maps
from videofib.models.heads.outputs import Ablated, HeadOutputs, without_heads

__all__ = [
    "Ablated",
    "HeadLayer",
    "HeadOutputs",
    "MapDivergence",
    "has_maps",
    "head_layers",
    "pair_overlap",
    "without_heads",
]
