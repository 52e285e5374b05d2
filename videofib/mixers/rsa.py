"""Relational self-attention: kernels and features learned from the relations in a neighbourhood (NeurIPS 2021).

Axes: B batch, H heads, K width of a query and a key, V width of a value, E patterns, N patches, (t, h, w) their grid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.attention.autocast import disabled
from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name

TYPES = ("R", "VplusR")  # relations alone, or a query's own vectors besides them
EPSILON = 1e-6  # of the squared norms of queries, keys and values


class RelationalSelfAttention(nn.Module):
    """RSA: no softmax and no projection of the output; queries have heads, keys and values are shared by them.

    With j - i running over the kernel, and zeros beyond the clip::

        relational kernel    κ_i[h, e] = Σ_c q_i[h, c] (Σ_j H1[c, e, j-i] k_j[c] + P1[c, e])
        relations of values  G_i[u, v] = Σ_j G[v, j-i] v_j[u] + I[u, v]
        features             F_i[v, e] = Σ_u G_i[u, v] Σ_j H2[e, j-i] v_j[u]
        output               y_i[v, h] = Σ_e κ_i[h, e] F_i[v, e]

    Output channels have the value's channel outside and the head inside: v·H + h. Prefix tokens receive zeros and
    reach no patch.

    Args:
        layer: the layer it is built for.
        patterns: E.
        kernel: extent (t, h, w) of the neighbourhood; it is 1 along axes on which the layer has a single token.
        key_dim: K, by default V = D / H.
        kernel_type: ``VplusR`` adds P1, ``R`` leaves it out.
        feat_type: ``VplusR`` adds I, initially the identity; ``R`` leaves it out.

    Raises:
        ValueError: a width not divisible by the number of heads, an even kernel, another bad option.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        patterns: int = 8,
        kernel: tuple[int, int, int] = (3, 7, 7),
        key_dim: int | None = None,
        kernel_type: str = "VplusR",
        feat_type: str = "VplusR",
    ):
        super().__init__()
        heads, dim = layer.num_heads, layer.dim
        if heads < 1 or dim % heads:
            raise ValueError(
                f"dim must be divisible by num_heads, got dim={dim}, num_heads={heads}; set another number of heads"
            )
        if len(kernel) != 3 or any(size < 1 or size % 2 == 0 for size in kernel):
            raise ValueError(f"a kernel has three odd extents (t, h, w), got kernel={kernel}; set odd numbers")
        key_dim = dim // heads if key_dim is None else key_dim
        if patterns < 1 or key_dim < 1:
            raise ValueError(f"patterns and key_dim must be positive, got patterns={patterns}, key_dim={key_dim}")
        check_name("kernel_type", kernel_type, TYPES)
        check_name("feat_type", feat_type, TYPES)
        self.num_heads, self.num_prefix_tokens, self.order = heads, layer.num_prefix_tokens, layer.order
        self.key_dim, self.value_dim, self.patterns = key_dim, dim // heads, patterns
        depth, height, width = (size if length > 1 else 1 for size, length in zip(kernel, layer.grid, strict=True))
        window, padding = (depth, height, width), (depth // 2, height // 2, width // 2)
        self.projection = nn.Conv3d(dim, heads * key_dim + key_dim + self.value_dim, 1, bias=False)
        self.H1 = nn.Conv3d(key_dim, key_dim * patterns, window, padding=padding, groups=key_dim, bias=False)
        self.H2 = nn.Conv3d(1, patterns, window, padding=padding, bias=False)
        self.G = nn.Conv3d(1, self.value_dim, window, padding=padding, bias=False)
        self.P1 = nn.Parameter(torch.empty(1, key_dim, patterns)) if kernel_type == "VplusR" else None
        self.I = nn.Parameter(torch.empty(1, self.value_dim, self.value_dim)) if feat_type == "VplusR" else None
        self.proj_drop = nn.Dropout(layer.proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions as torch initialises them, P1 on the same scale, I the identity."""
        for convolution in (self.projection, self.H1, self.H2, self.G):
            convolution.reset_parameters()
        if self.P1 is not None:
            bound = math.prod(self.H1.kernel_size) ** -0.5
            nn.init.uniform_(self.P1, -bound, bound)
        if self.I is not None:
            with torch.no_grad():
                self.I.copy_(torch.eye(self.value_dim))

    def no_weight_decay(self) -> set[str]:
        """I, which is to stay near the identity."""
        return set() if self.I is None else {"I"}

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, P+N, H·V) -> the same; the state is not used."""
        t, h, w = grid
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        clips = rearrange(patches, f"b ({self.order}) c -> b c t h w", t=t, h=h, w=w)
        y = rearrange(self.mix(clips), f"b c t h w -> b ({self.order}) c")
        return torch.cat([torch.zeros_like(prefix, dtype=y.dtype), self.proj_drop(y)], dim=1), state

    def mix(self, x: Tensor) -> Tensor:
        """(B, H·V, t, h, w) -> the same."""
        grid, heads, patterns = x.shape[2:], self.num_heads, self.patterns
        q, k, v = self.projection(x).split([heads * self.key_dim, self.key_dim, self.value_dim], dim=1)
        q = normalised(rearrange(q, "b (heads c) t h w -> b (t h w) heads c", heads=heads), dim=3)
        k, v = normalised(k, dim=1), normalised(v, dim=1)
        keys = rearrange(self.H1(k), "b (c e) t h w -> b (t h w) c e", e=patterns)
        kernels = q @ (keys if self.P1 is None else keys + self.P1)  # (B, N, H, E)
        maps = rearrange(v, "b v t h w -> (b v) 1 t h w")
        features = rearrange(self.H2(maps), "(b u) e t h w -> b (t h w) u e", u=self.value_dim)
        relations = rearrange(self.G(maps), "(b u) v t h w -> b (t h w) v u", u=self.value_dim)
        if self.I is not None:
            relations = relations + self.I.transpose(1, 2)
        y = relations @ features @ kernels.transpose(2, 3)  # (B, N, V, H)
        return rearrange(y, "b (t h w) v heads -> b (v heads) t h w", t=grid[0], h=grid[1], w=grid[2])

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: convolutions and products, all of the N patches."""
        taps, key_dim, value_dim = math.prod(self.G.kernel_size), self.key_dim, self.value_dim
        neighbourhood = taps * (key_dim * self.patterns + value_dim * self.patterns + value_dim**2)
        at_a_token = self.num_heads * self.patterns * (key_dim + value_dim) + value_dim**2 * self.patterns
        return math.prod(grid) * (self.projection.weight.numel() + neighbourhood + at_a_token)


def normalised(x: Tensor, dim: int) -> Tensor:
    """The vectors along an axis, of length 1 unless they are about as short as ``EPSILON``'s root."""
    with disabled(x.device.type):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * (wide.square().sum(dim, keepdim=True) + EPSILON).rsqrt()).to(x.dtype)


MIXER = Mixer(
    build=RelationalSelfAttention,
    paper="arXiv 2111.01673",
    multiply_adds=RelationalSelfAttention.multiply_adds,
    needs=frozenset({"grid"}),
)
