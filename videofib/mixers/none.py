"""No mixing: blocks of an MLP alone (LIT, "Less is More: Pay Less Attention in Vision Transformers", arXiv 2105.14217).

A block whose mixer has this name has neither the mixer nor the norm in front of it; see ``models/blocks.py``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from videofib.mixers.mixer import Grid, LayerSpec, Mixer


class NoMixing(nn.Module):
    """Every token receives nothing from the others; it has no options."""

    def __init__(self, layer: LayerSpec):
        super().__init__()

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, P+N, D) -> zeros of the same shape."""
        return x.new_zeros(x.shape), state


MIXER = Mixer(
    build=NoMixing,
    paper="arXiv 2105.14217",
    multiply_adds=lambda mixer, grid: 0,
    serves=frozenset({"class_token", "slices"}),
)
