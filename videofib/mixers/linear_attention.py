"""Attention without an N x N matrix: the base of mixers that compute something cheaper from queries, keys and values.

Axes: B batch, S = P+N tokens, C their width, H heads, D and E the widths of a head's keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.mixer import Grid, LayerSpec


class LinearAttention(nn.Module):
    """Multi-head attention with parameters named as timm's (qkv, proj); a subclass says how values are mixed.

    Args:
        layer: the layer it is built for.
        key_width, value_width: H·D and H·E, the widths of all heads' keys and values; by default that of tokens, so
            that weights of softmax attention load.

    Raises:
        ValueError: a width not divisible by the number of heads, or dropout of attention weights where there are none.
    """

    drops_weights = False  # whether there are attention weights to drop

    def __init__(self, layer: LayerSpec, *, key_width: int | None = None, value_width: int | None = None):
        super().__init__()
        key_width, value_width = key_width or layer.dim, value_width or layer.dim
        for name, width in {"dim": layer.dim, "key_width": key_width, "value_width": value_width}.items():
            if layer.num_heads < 1 or width < 1 or width % layer.num_heads:
                raise ValueError(
                    f"{name} must be divisible by num_heads, got {name}={width}, num_heads={layer.num_heads}"
                )
        if layer.attn_drop and not self.drops_weights:
            raise ValueError(
                f"{type(self).__name__} has no matrix of attention weights to drop from, got "
                f"attn_drop={layer.attn_drop}; set attn_drop=0"
            )
        self.num_heads, self.num_prefix_tokens = layer.num_heads, layer.num_prefix_tokens
        self.widths = [key_width, key_width, value_width]
        self.qkv = nn.Linear(layer.dim, sum(self.widths), bias=layer.qkv_bias)
        self.q_norm, self.k_norm = (
            nn.Identity() if layer.qk_norm is None else nn.LayerNorm(key_width // layer.num_heads, eps=layer.qk_norm)
            for _ in range(2)
        )
        self.proj = nn.Linear(value_width, layer.dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries and keys (B, H, S, D) and values (B, H, S, E) -> (B, H, S, E)."""
        raise NotImplementedError

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, S, C) -> (B, S, C); the state is not used."""
        q, k, v = (rearrange(y, "b s (h d) -> b h s d", h=self.num_heads) for y in self._projected(x))
        # under CUDA's autocast layer norms return 32 bits, and v has 16
        out = self.attend(self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v)
        return self.proj_drop(self.proj(rearrange(out, "b h s e -> b s (h e)"))), state

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(x).split(self.widths, dim=-1)

    def sequence(self, grid: Grid) -> int:
        """S, the prefix tokens and the patches of a grid."""
        return self.num_prefix_tokens + math.prod(grid)

    def projections(self, grid: Grid) -> int:
        """Multiply-adds of ``qkv`` and ``proj`` for one sequence."""
        return self.sequence(grid) * (self.qkv.weight.numel() + self.proj.weight.numel())


def working_dtype(x: Tensor) -> torch.dtype:
    """32 bits for what has 16, and the tensor's own otherwise."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
