"""SelfPatch's head (CVPR 2022): a class token that reads all patches, and targets that read a patch's neighbours.

Axes: B clips, N tokens frame after frame, M queries, n keys of each besides itself, k neighbours, D width, h heads.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from timm.layers import Mlp
from torch import Tensor, nn

from videofib.mixers import Grid
from videofib.pretraining.neighbours import NEIGHBOURS, nearest, neighbour_table


class QueryAttention(nn.Module):
    """Projections of class attention with names of their own: ``q``, ``k``, ``v``, ``proj``."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim}, num_heads={num_heads}")
        self.num_heads = num_heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, u: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Each query attends to itself and to its keys.

        Args:
            u: queries (B, M, D).
            keys, values: (B, M, n, D), of each query.
            allowed: (B, M, n) bool, which of them there are; None: all.
        """
        keys = torch.cat((self.k(u)[:, :, None], keys), dim=2)
        values = torch.cat((self.v(u)[:, :, None], values), dim=2)
        q, k, v = (
            rearrange(x, "b m n (h d) -> (b m) h n d", h=self.num_heads) for x in (self.q(u)[:, :, None], keys, values)
        )
        mask = None if allowed is None else rearrange(F.pad(allowed, (1, 0), value=True), "b m n -> (b m) 1 1 n")
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(rearrange(out, "(b m) h 1 d -> b m (h d)", m=u.shape[1]))


class QueryBlock(nn.Module):
    """Class attention, then an MLP; only the queries change: as in CaiT (arXiv 2103.17239), without its scales."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, norm_eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = QueryAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, c: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        c = c + self.attn(self.norm1(c), keys, values, allowed)
        return c + self.mlp(self.norm2(c))


class PatchHead(nn.Module):
    """Backbone tokens (B, N, D) -> class token (B, D) and patches (B, N, D), for a student or a teacher.

    The class token reads all patches through class-attention blocks. A student's patches are the tokens themselves. For
    a teacher's, the class token reads, through the same blocks, the k of a patch's neighbours that are most similar to
    it; the patch itself is not among them. All outputs are normalised by one layer norm.

    Keys and values are computed once for each token, not once for each of the neighbourhoods that it is in.

    Args:
        dim, num_heads: D, h.
        depth, mlp_ratio, norm_eps: of the blocks.
        neighbours: ``space`` or ``space_time``, see :func:`neighbour_table`.
        top_k: k.
        wrap: neighbours wrap around at edges, as in the released code.

    Raises:
        ValueError: sizes that do not divide, an unknown kind, more neighbours than there are.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        depth: int = 2,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        neighbours: str = "space",
        top_k: int = 4,
        wrap: bool = False,
    ):
        super().__init__()
        if neighbours not in NEIGHBOURS or not 0 < top_k <= NEIGHBOURS[neighbours]:
            most = "; ".join(f"{kind} has {count}" for kind, count in NEIGHBOURS.items())
            raise ValueError(
                f"there are no such neighbours of a patch, got neighbours={neighbours!r}, top_k={top_k}: {most}"
            )
        self.neighbours, self.top_k, self.wrap = neighbours, top_k, wrap
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls_blocks = nn.ModuleList(QueryBlock(dim, num_heads, mlp_ratio, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, grid: Grid, *, is_teacher: bool) -> tuple[Tensor, Tensor]:
        count = x.shape[1]
        if is_teacher:
            table = neighbour_table((int(grid[0]), int(grid[1]), int(grid[2])), self.neighbours, self.wrap)
            chosen, exists = nearest(x, table.to(x.device), self.top_k)
            flat = rearrange(chosen, "b n k -> b (n k) 1").expand(-1, -1, x.shape[2])
            patches = repeat(self.cls_token, "1 1 d -> b n d", b=len(x), n=count)
            allowed = None if self.wrap else exists
        c = self.cls_token.expand(len(x), -1, -1)
        for block in self.cls_blocks:
            u = block.norm1(x)
            attn = cast(Any, block.attn)
            keys, values = attn.k(u), attn.v(u)
            c = block(c, keys[:, None], values[:, None])
            if is_teacher:
                near = (rearrange(y.gather(1, flat), "b (n k) d -> b n k d", n=count) for y in (keys, values))
                patches = block(patches, *near, allowed)
        return self.norm(c[:, 0]), self.norm(patches if is_teacher else x)
