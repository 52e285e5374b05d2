"""Dense self-attention: every token sees every token (arXiv 1706.03762; 2010.11929 for images)."""

from __future__ import annotations

from functools import partial

from videofib.attention import Support
from videofib.mixers.mixer import LayerSpec, Mixer
from videofib.mixers.support_attention import SupportAttention


class DenseAttention(SupportAttention):
    """Self-attention over all pairs of tokens; it has no options."""

    def __init__(self, layer: LayerSpec):
        super().__init__(layer, partial(Support.dense, layer.num_heads, num_prefix_tokens=layer.num_prefix_tokens))


MIXER = Mixer(
    build=DenseAttention,
    paper="arXiv 1706.03762",
    multiply_adds=DenseAttention.multiply_adds,
    serves=frozenset({"class_token", "slices"}),
)
