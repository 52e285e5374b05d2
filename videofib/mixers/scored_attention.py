"""Self-attention whose scores are computed, a few queries at a time: the base of all that change scores.

Axes: B batch, H heads, S = P+N tokens, n some of the queries, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videofib.attention.autocast import disabled
from videofib.mixers.mixer import Grid, LayerSpec

MOST_NUMBERS = 1 << 27  # that a chunk of queries may hold at a time: half a gigabyte of 32 bits


class ScoredAttention(nn.Module):
    """Softmax attention, with parameters named as timm's; a subclass says what becomes of the scores.

    A query's row of scores depends on no other query. So the rows are computed in chunks of queries, and, where more
    than one chunk is needed, computed again in the backward pass: memory is bounded, for twice the work on scores.
    Scores have 32 bits, also under autocast.

    Args:
        layer: the layer it is built for.

    Raises:
        ValueError: a width not divisible by the number of heads.
    """

    def __init__(self, layer: LayerSpec):
        super().__init__()
        if layer.num_heads < 1 or layer.dim % layer.num_heads:
            raise ValueError(
                f"dim must be divisible by num_heads, got dim={layer.dim}, num_heads={layer.num_heads}; set another "
                "number of heads"
            )
        self.num_heads, self.num_prefix_tokens = layer.num_heads, layer.num_prefix_tokens
        self.attn_drop, self.most_numbers = layer.attn_drop, MOST_NUMBERS
        self.qkv = nn.Linear(layer.dim, 3 * layer.dim, bias=layer.qkv_bias)
        self.q_norm, self.k_norm = (
            nn.Identity() if layer.qk_norm is None else nn.LayerNorm(layer.dim // layer.num_heads, eps=layer.qk_norm)
            for _ in range(2)
        )
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)

    def logits(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        """From q·k / √D of n queries, the first of which is token ``first``, to logits: (B, H, n, S) -> the same."""
        raise NotImplementedError

    def numbers_per_score(self) -> float:
        """How many numbers ``logits`` holds for every score, about."""
        return 2

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, S, H·D) -> (B, S, H·D); the state is not used."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        row = x.shape[0] * self.num_heads * x.shape[1] * self.numbers_per_score()  # numbers of one query
        whole = torch.compiler.is_exporting()  # a graph for every batch size cannot split by it
        chunks = (q,) if whole else q.split(max(1, int(self.most_numbers // max(1, row))), dim=2)
        if len(chunks) == 1:
            out = self._attend(q, k, v, 0, grid)
        else:
            firsts = range(0, x.shape[1], chunks[0].shape[2])
            out = torch.cat(
                [
                    checkpoint(self._attend, some, k, v, first, grid, use_reentrant=False)
                    for some, first in zip(chunks, firsts, strict=True)
                ],
                dim=2,
            )
        return self.proj_drop(self.proj(rearrange(out, "b h n d -> b n (h d)"))), state

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, first: int, grid: Grid) -> Tensor:
        """Attention of n queries: (B, H, n, D), (B, H, S, D), (B, H, S, D) -> (B, H, n, D)."""
        with disabled(q.device.type):
            wide = torch.promote_types(q.dtype, torch.float32)
            scores = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(-2, -1)
            weights = self.logits(scores, first, grid).softmax(-1).to(v.dtype)
        return F.dropout(weights, self.attn_drop, self.training) @ v

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: four products of S tokens with weights, and scores and values of all S² pairs."""
        dim, tokens = self.proj.in_features, self.num_prefix_tokens + grid[0] * grid[1] * grid[2]
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim
