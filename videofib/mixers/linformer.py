"""Linformer: keys and values of all tokens are projected to a few (arXiv 2006.04768).

Axes: B batch, H heads, S = P+N tokens, L of them that are projected, R their number afterwards, D width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videofib.mixers.linear_attention import LinearAttention
from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name

SHARING = ("none", "heads", "kv")
PREFIX = ("projected", "apart")


def linformer_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    proj_k: Tensor,
    proj_v: Tensor,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """softmax(q (Eᵀk)ᵀ / √D) (Fᵀv), equation 7 of the paper.

    Args:
        q, k, v: (B, H, S, D).
        proj_k, proj_v: E and F, (L, R) or (H, L, R). Only the last L tokens are projected; the S - L before them stay
            keys and values of their own.
        scale: of q·k; 1/√D by default.
        dropout_p: of attention weights.

    Returns:
        (B, H, S, D).
    """
    apart = k.shape[2] - proj_k.shape[-2]
    k, v = (
        torch.cat([y[:, :, :apart], projection.to(y.dtype).transpose(-2, -1) @ y[:, :, apart:]], dim=2)
        for y, projection in ((k, proj_k), (v, proj_v))
    )
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=scale)


class Linformer(LinearAttention):
    """Attention to ``rank`` learned mixtures of the tokens.

    The mixtures know every token by its position, so the layer takes only the N that it is built for.

    Args:
        layer: the layer it is built for.
        rank: R, keys and values per head; the paper takes 128 to 256 for 512 to 1024 tokens.
        sharing: ``none``: E and F for each head; ``heads``: one E and one F for all heads; ``kv``: E for both (section
            4 of the paper: headwise and key-value sharing).
        prefix: ``projected``: E and F mix prefix tokens like others; ``apart``: every query sees the prefix tokens
            themselves, and E and F mix the patches.

    Raises:
        ValueError: an unknown name, no rank.
    """

    drops_weights = True

    def __init__(self, layer: LayerSpec, *, rank: int = 64, sharing: str = "heads", prefix: str = "projected"):
        super().__init__(layer)
        check_name("sharing", sharing, SHARING)
        check_name("prefix", prefix, PREFIX)
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got rank={rank}")
        self.rank, self.sharing, self.prefix, self.attn_drop = rank, sharing, prefix, layer.attn_drop
        self.num_tokens = self.sequence(layer.grid)
        projected = self.num_tokens - (self.num_prefix_tokens if prefix == "apart" else 0)
        shape = (self.num_heads, projected, rank) if sharing == "none" else (projected, rank)
        self.proj_k = nn.Parameter(torch.empty(shape))
        self.proj_v = None if sharing == "kv" else nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """E and F uniform in ±1/√R."""
        for projection in (self.proj_k, self.proj_v):
            if projection is not None:
                nn.init.uniform_(projection, -(self.rank**-0.5), self.rank**-0.5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, S, D) -> (B, H, S, D).

        Raises:
            ValueError: another number of tokens than that of the layer.
        """
        if q.shape[2] != self.num_tokens:
            raise ValueError(
                f"Linformer is built for {self.num_tokens} tokens, got {q.shape[2]}; build it for these clips"
            )
        proj_v = self.proj_k if self.proj_v is None else self.proj_v
        return linformer_attention(q, k, v, self.proj_k, proj_v, dropout_p=self.attn_drop if self.training else 0.0)

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: projections, two products with E and F, and two over S queries and R keys (and P apart)."""
        dim, tokens = self.proj.in_features, self.sequence(grid)
        projected = self.proj_k.shape[-2]
        keys = tokens - projected + self.rank
        return self.projections(grid) + 2 * projected * self.rank * dim + 2 * tokens * keys * dim

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, rank={self.rank}, sharing={self.sharing!r}, prefix={self.prefix!r}"


MIXER = Mixer(
    build=Linformer,
    paper="arXiv 2006.04768",
    multiply_adds=Linformer.multiply_adds,
    needs=frozenset({"fixed_tokens"}),
    serves=frozenset({"class_token"}),
)
