"""Self-attention over a :class:`~videofib.attention.Pattern`, as a mixer: the base of all whose pairs are listed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from videofib.attention import Pattern, check_pattern_backend, pattern_attention
from videofib.mixers.mixer import Grid, LayerSpec


class PatternAttention(nn.Module):
    """Self-attention whose pairs of query and key depend on the grid alone; parameters named as timm's (qkv, proj).

    Args:
        layer: the layer it is built for.
        pattern: a function that returns the pattern for a grid (t, h, w), its tokens in the layer's order.

    Raises:
        ValueError: ``dim`` not divisible by ``num_heads``, no pattern for the layer's grid, a backend that patterns do
            not have.
    """

    def __init__(self, layer: LayerSpec, pattern: Callable[[Grid], Pattern]):
        super().__init__()
        if layer.num_heads < 1 or layer.dim % layer.num_heads:
            raise ValueError(
                f"dim must be divisible by num_heads, got dim={layer.dim}, num_heads={layer.num_heads}; change one"
            )
        check_pattern_backend(layer.backend)
        head_dim = layer.dim // layer.num_heads
        self.num_heads, self.num_prefix_tokens = layer.num_heads, layer.num_prefix_tokens
        self.attn_drop, self.backend = layer.attn_drop, layer.backend
        self.pattern = pattern
        self._patterns: dict[Grid, Pattern] = {}
        self.pattern_for(layer.grid)  # bad options fail now, not in the first pass
        self.qkv = nn.Linear(layer.dim, 3 * layer.dim, bias=layer.qkv_bias)
        self.q_norm, self.k_norm = (
            nn.Identity() if layer.qk_norm is None else nn.LayerNorm(head_dim, eps=layer.qk_norm) for _ in range(2)
        )
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)

    def pattern_for(self, grid: Grid) -> Pattern:
        """The pattern of clips of a grid (t, h, w)."""
        grid = (int(grid[0]), int(grid[1]), int(grid[2]))  # torch.jit traces sizes as tensors
        if grid not in self._patterns:
            with _disable_current_modes():  # the tables are numbers, also where a pass is traced without any
                self._patterns[grid] = self.pattern(grid)
        return self._patterns[grid]

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, P+N, D) -> (B, P+N, D); the state is not used."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        out = pattern_attention(
            self.q_norm(q).to(v.dtype),  # under CUDA's autocast layer norms return 32 bits
            self.k_norm(k).to(v.dtype),
            v,
            self.pattern_for(grid),
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(self.proj(rearrange(out, "b h n d -> b n (h d)"))), state

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: four products of S tokens with D x D weights, and two over the pairs of each head."""
        dim = self.proj.in_features
        tokens = self.num_prefix_tokens + math.prod(grid)
        return 4 * tokens * dim**2 + 2 * self.pattern_for(grid).num_pairs() * (dim // self.num_heads)

    def extra_repr(self) -> str:
        shown = ", ".join(map(repr, self._patterns.values()))
        return f"num_heads={self.num_heads}, {shown}, backend={self.backend!r}"
