"""Transformer blocks over space-time tokens (TimeSformer, arXiv 2102.05095, section 3).

Axes: b batch, t frames, h w patch grid, d width. Tokens are (b, 1 + N, d): the class token, then the patches in
``order``, "h w t" (the frames of one patch side by side, as published) or "t h w" (frame after frame).
"""

from __future__ import annotations

from einops import rearrange, reduce, repeat
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from videofib.attention import SelfAttention
from videofib.models.embed import join_class_token

NORM_EPS = 1e-6


class Block(nn.Module):
    """Attention over all the tokens it is given, then an MLP: joint space-time and space-only attention.

    Args:
        attn: the attention layer, over one class token and the patches.
        dim: token width.
        mlp_ratio: hidden width of the MLP over ``dim``.
        drop: dropout within the MLP.
        drop_path: probability of skipping a residual branch, for each sample (stochastic depth).
    """

    def __init__(self, attn: SelfAttention, dim: int, mlp_ratio: float, drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = attn
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(b, 1+N, d) -> (b, 1+N, d); ``grid`` = (t, h, w), which this block has no need of."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DividedBlock(Block):
    """Attention over time (one patch position through all frames), then over space (one frame), then an MLP.

    The class token takes no part in temporal attention; for spatial attention each frame gets a copy of it, and
    the copies' updates are averaged.
    """

    def __init__(
        self,
        attn: SelfAttention,
        temporal_attn: SelfAttention,
        dim: int,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        order: str,
    ):
        super().__init__(attn, dim, mlp_ratio, drop, drop_path)
        self.order = order
        self.temporal_norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.temporal_attn = temporal_attn
        self.temporal_fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(b, 1+N, d) -> (b, 1+N, d) with N = t·h·w for ``grid`` = (t, h, w)."""
        axes = dict(zip("thw", grid, strict=True), b=x.shape[0])
        cls_token, patches = x[:, :1], x[:, 1:]

        lines = rearrange(patches, f"b ({self.order}) d -> (b h w) t d", **axes)
        lines = self.drop_path(self.temporal_attn(self.temporal_norm1(lines)))
        patches = patches + self.temporal_fc(rearrange(lines, f"(b h w) t d -> b ({self.order}) d", **axes))

        frames = rearrange(patches, f"b ({self.order}) d -> (b t) (h w) d", **axes)
        frames = join_class_token(repeat(cls_token, "b 1 d -> (b t) 1 d", t=axes["t"]), frames)
        frames = self.drop_path(self.attn(self.norm1(frames)))
        cls_token = cls_token + reduce(frames[:, :1], "(b t) 1 d -> b 1 d", "mean", t=axes["t"])
        patches = patches + rearrange(frames[:, 1:], f"(b t) (h w) d -> b ({self.order}) d", **axes)

        x = join_class_token(cls_token, patches)
        return x + self.drop_path(self.mlp(self.norm2(x)))
