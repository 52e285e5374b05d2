"""Top-k attention: each query keeps the keys of its k largest logits (a baseline of arXiv 2406.19391).

Axes: B batch, H heads, S = P+N tokens, n some of the queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videofib.mixers.mixer import Grid, LayerSpec, Mixer
from videofib.mixers.scored_attention import ScoredAttention


class TopKAttention(ScoredAttention):
    """Self-attention over the k largest logits of each row, and gradients through those alone.

    A patch looks for its k keys among all tokens, itself and the prefix included, and sees the prefix besides; prefix
    tokens see all. Among equal logits the choice is that of ``torch.topk``. All logits are computed whatever k is,
    so it saves nothing: it is a baseline to compare with.

    Args:
        layer: the layer it is built for.
        k: keys of a query; where a sequence has no more than k tokens, all.

    Raises:
        ValueError: k below 1.
    """

    def __init__(self, layer: LayerSpec, *, k: int = 3):
        super().__init__(layer)
        if int(k) != k or k < 1:
            raise ValueError(f"a query needs at least one key, got k={k}; set k to a positive integer")
        self.k = int(k)

    def logits(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        """(B, H, n, S) -> the same, with -inf where a query has dropped the key."""
        rows, columns = scores.shape[-2:]
        chosen = scores.detach().topk(min(self.k, columns), dim=-1).indices
        is_prefix = torch.arange(columns, device=scores.device) < self.num_prefix_tokens
        kept = is_prefix | is_prefix[first : first + rows, None]
        kept = kept.expand(scores.shape).scatter(-1, chosen, 1)
        return scores.masked_fill(~kept, float("-inf"))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, num_prefix_tokens={self.num_prefix_tokens}, k={self.k}"


MIXER = Mixer(
    build=TopKAttention,
    paper="arXiv 2406.19391",
    multiply_adds=TopKAttention.multiply_adds,
    serves=frozenset({"class_token"}),
)
