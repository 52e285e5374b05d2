"""Shunted self-attention: half of the heads see coarse keys, the other half fine ones (arXiv 2111.15193).

Axes: b batch, p prefix tokens, t h w grid of the N patches, n reduced keys, H heads, d width of a head, D = H·d.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.mixer import Grid, LayerSpec, Mixer

NORM_EPS = 1e-5  # of the norms of reduced tokens, whatever the model's other norms have
LOCAL_SIZE = 3  # side of the depth-wise kernels


class ShuntedAttention(nn.Module):
    """Attention of all tokens to keys that strided convolutions aggregate, at two scales.

    With a reduction of r, heads 0 to H/2 - 1 attend to n1 = ⌊h/r⌋·⌊w/r⌋ coarse keys of each frame, the others to n2 =
    ⌊2h/r⌋·⌊2w/r⌋ fine ones; rows and columns that fill no kernel are dropped, as in the published code. A depth-wise
    convolution over the reduced grid is added to the values. With r = 1 attention is dense, and the convolution of the
    values is added to its output, as published.

    Prefix tokens, which the published model does not have, are queries of all heads and are appended to the keys and
    values of both scales as they are. Frames are convolved one by one; ``time_reduction`` consecutive ones are
    aggregated together, at both scales.

    Args:
        layer: the layer it is built for.
        reduction: r, 1 or an even number. The strided convolutions hold about 1.25·r²·D² weights, which is more than
            the rest of the layer from r = 2 on.
        time_reduction: how many frames a key covers; it multiplies these weights.

    Raises:
        ValueError: an odd number of heads, a width that they do not divide, a reduction that leaves no keys.
    """

    def __init__(self, layer: LayerSpec, *, reduction: int = 2, time_reduction: int = 1):
        super().__init__()
        dim, heads, bias = layer.dim, layer.num_heads, layer.qkv_bias
        _check_options(layer, reduction, time_reduction)
        self.num_heads, self.num_prefix_tokens, self.order = heads, layer.num_prefix_tokens, layer.order
        self.reduction, self.time_reduction, self.attn_drop = reduction, time_reduction, layer.attn_drop
        self.q = nn.Linear(dim, dim, bias=bias)
        if reduction == 1:
            self.kv = nn.Linear(dim, 2 * dim, bias=bias)
            self.local_conv = _local(dim)
        else:
            for scale, size in self.kernels().items():
                self.add_module(f"sr{scale}", nn.Conv2d(time_reduction * dim, dim, size, stride=size))
                self.add_module(f"norm{scale}", nn.LayerNorm(dim, eps=NORM_EPS))
                self.add_module(f"kv{scale}", nn.Linear(dim, dim, bias=bias))
                self.add_module(f"local_conv{scale}", _local(dim // 2))
        self.q_norm = nn.Identity() if layer.qk_norm is None else nn.LayerNorm(dim // heads, eps=layer.qk_norm)
        self.k_norm = nn.Identity() if layer.qk_norm is None else nn.LayerNorm(dim // heads, eps=layer.qk_norm)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)
        self.reduced_grids(layer.grid)  # a grid that is too small fails now, not in the first pass
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give the convolutions the published initial weights: normal, with a variance of 2 / fan-out; zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def kernels(self) -> dict[int, int]:
        """The side of the strided kernel of each scale, coarse first; empty where r = 1."""
        return {} if self.reduction == 1 else {1: self.reduction, 2: self.reduction // 2}

    def reduced_grids(self, grid: Grid) -> dict[int, Grid]:
        """(t, h, w) of the keys of each scale.

        Raises:
            ValueError: no keys are left.
        """
        t, h, w = grid
        grids = {scale: (t // self.time_reduction, h // size, w // size) for scale, size in self.kernels().items()}
        if grids and not all(grids[1]):
            raise ValueError(
                f"no keys are left of (t, h, w) = {grid} tokens with reduction={self.reduction}, "
                f"time_reduction={self.time_reduction}; set a smaller reduction, or reduction=1 for attention over time"
            )
        return grids

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(b, p+N, D) -> (b, p+N, D); the state is not used.

        Raises:
            ValueError: no keys are left of this grid.
        """
        q = self.q_norm(rearrange(self.q(x), "b n (H d) -> b H n d", H=self.num_heads))
        if self.reduction == 1:
            out = self._dense(x, q, grid)
        else:
            grids = self.reduced_grids(grid)
            halves = [self._scale(x, q_half, grid, s, grids[s]) for s, q_half in enumerate(q.chunk(2, dim=1), start=1)]
            out = torch.cat(halves, dim=-1)
        return self.proj_drop(self.proj(out)), state

    def _dense(self, x: Tensor, q: Tensor, grid: Grid) -> Tensor:
        """All heads, r = 1: (b, p+N, D), (b, H, p+N, d) -> (b, p+N, D)."""
        k, v = self.kv(x).chunk(2, dim=-1)
        maps = self._maps(v[:, self.num_prefix_tokens :], grid)
        local = rearrange(self.local_conv(maps), f"(b t) D h w -> b ({self.order}) D", t=grid[0])
        return self._attend(q, k, v) + F.pad(local, (0, 0, self.num_prefix_tokens, 0))

    def _scale(self, x: Tensor, q: Tensor, grid: Grid, scale: int, reduced: Grid) -> Tensor:
        """Half of the heads: (b, p+N, D), (b, H/2, p+N, d) -> (b, p+N, D/2)."""
        convolve, norm, kv, local_conv = (
            self.get_submodule(f"{name}{scale}") for name in ("sr", "norm", "kv", "local_conv")
        )
        t, h, w = reduced
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        maps = self._maps(patches, grid)
        maps = rearrange(maps, "(b t) D h w -> b t D h w", t=grid[0])[:, : t * self.time_reduction]
        maps = convolve(rearrange(maps, "b (t frames) D h w -> (b t) (frames D) h w", t=t))
        tokens = F.gelu(norm(rearrange(maps, "(b t) D h w -> b (t h w) D", t=t)))
        k, v = kv(torch.cat([prefix, tokens.to(prefix.dtype)], dim=1)).chunk(2, dim=-1)
        prefix_v, v = v[:, : self.num_prefix_tokens], v[:, self.num_prefix_tokens :]
        local = local_conv(rearrange(v, "b (t h w) D -> (b t) D h w", t=t, h=h, w=w))
        v = v + rearrange(local, "(b t) D h w -> b (t h w) D", t=t)
        return self._attend(q, k, torch.cat([prefix_v, v], dim=1))

    def _maps(self, patches: Tensor, grid: Grid) -> Tensor:
        """The frames of tokens as images: (b, N, D) -> (b t, D, h, w)."""
        t, h, w = grid
        return rearrange(patches, f"b ({self.order}) D -> (b t) D h w", t=t, h=h, w=w)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of some heads: (b, H, p+N, d), (b, p+n, H·d), (b, p+n, H·d) -> (b, p+N, H·d)."""
        k, v = (rearrange(y, "b n (H d) -> b H n d", H=q.shape[1]) for y in (k, v))
        dropout_p = self.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(q, self.k_norm(k), v, dropout_p=dropout_p)
        return rearrange(out, "b H n d -> b n (H d)")

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: products with weights, the two of attention, and all convolutions."""
        dim, patches, prefix = self.proj.in_features, math.prod(grid), self.num_prefix_tokens
        tokens, local = prefix + patches, LOCAL_SIZE**2
        if self.reduction == 1:
            return 4 * tokens * dim**2 + 2 * tokens**2 * dim + local * patches * dim
        total = 2 * tokens * dim**2
        for scale, reduced in self.reduced_grids(grid).items():
            keys = math.prod(reduced)
            total += keys * self.time_reduction * self.kernels()[scale] ** 2 * dim**2  # strided convolution
            total += (prefix + keys) * dim**2 + tokens * (prefix + keys) * dim + local * keys * dim // 2
        return total


def _local(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, LOCAL_SIZE, padding=LOCAL_SIZE // 2, groups=channels)


def _check_options(layer: LayerSpec, reduction: int, time_reduction: int) -> None:
    if layer.num_heads < 2 or layer.num_heads % 2 or layer.dim % layer.num_heads:
        raise ValueError(
            "heads are split in two halves, and dim among all heads, got "
            f"dim={layer.dim}, num_heads={layer.num_heads}; set an even num_heads that divides dim"
        )
    if reduction < 1 or (reduction > 1 and reduction % 2):
        raise ValueError(f"reduction must be 1 or even, as the fine scale has half of it, got reduction={reduction}")
    if time_reduction < 1 or (reduction == 1 and time_reduction > 1):
        raise ValueError(
            f"time_reduction must be at least 1, and 1 where reduction=1, got reduction={reduction}, "
            f"time_reduction={time_reduction}; set reduction=2 or time_reduction=1"
        )


MIXER = Mixer(
    build=ShuntedAttention,
    paper="arXiv 2111.15193",
    multiply_adds=ShuntedAttention.multiply_adds,
    needs=frozenset({"grid"}),
    serves=frozenset({"class_token"}),
)
