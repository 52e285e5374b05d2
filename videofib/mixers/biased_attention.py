"""Self-attention with a term added to its logits, or a mask of its pairs: the base of mixers that make such a term.

Axes: b batch, n = p+N tokens, prefix first, H heads, d width of a head, D = H·d.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.mixer import Grid, LayerSpec


class BiasedAttention(nn.Module):
    """Multi-head self-attention; parameters named as timm's (qkv, proj).

    Args:
        layer: the layer it is built for.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, layer: LayerSpec):
        super().__init__()
        dim, heads = layer.dim, layer.num_heads
        if heads < 1 or dim % heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim}, num_heads={heads}")
        self.num_heads, self.num_prefix_tokens, self.attn_drop = heads, layer.num_prefix_tokens, layer.attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=layer.qkv_bias)
        self.q_norm = nn.Identity() if layer.qk_norm is None else nn.LayerNorm(dim // heads, eps=layer.qk_norm)
        self.k_norm = nn.Identity() if layer.qk_norm is None else nn.LayerNorm(dim // heads, eps=layer.qk_norm)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)

    def attend(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(b, n, D) -> (b, n, D).

        Args:
            bias: (b or 1, H or 1, n, n), added to the logits q·k/√d; or boolean, True where query (row) sees key.
        """
        q, k, v = rearrange(self.qkv(x), "b n (three H d) -> three b H n d", three=3, H=self.num_heads)
        out = F.scaled_dot_product_attention(
            self.q_norm(q), self.k_norm(k), v, attn_mask=bias, dropout_p=self.attn_drop if self.training else 0.0
        )
        return self.proj_drop(self.proj(rearrange(out, "b H n d -> b n (H d)")))

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence of n tokens: four products with D x D weights, and two over all pairs."""
        dim, tokens = self.proj.in_features, self.num_prefix_tokens + grid[0] * grid[1] * grid[2]
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim
