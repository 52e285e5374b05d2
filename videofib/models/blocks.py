"""Transformer blocks over space-time tokens (TimeSformer, arXiv 2102.05095, section 3).

Axes: b batch, t frames (or tubelets), h w patch grid, p prefix tokens, d width. Tokens are (b, p + N, d): the prefix
(class token, registers), then the patches in ``order``, "h w t" (the frames of one patch side by side, as published)
or "t h w" (frame after frame).
"""

from __future__ import annotations

from einops import rearrange, reduce, repeat
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn

from videofib.attention import SelfAttention, TokenShard
from videofib.models.embed import join_prefix


class Block(nn.Module):
    """Attention over all the tokens it is given, then an MLP: joint space-time and space-only attention.

    Args:
        attn: the attention layer, over the prefix and the patches.
        dim: token width.
        mlp_ratio: hidden width of the MLP over ``dim``.
        drop: dropout within the MLP.
        drop_path: probability of skipping a residual branch, for each sample (stochastic depth).
        norm_eps: epsilon of the layer norms.
        layer_scale: what the learned scales of the residual branches start with (CaiT, arXiv 2103.17239, section 2);
            None: no scales.
    """

    def __init__(
        self,
        attn: SelfAttention,
        dim: int,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        norm_eps: float,
        layer_scale: float | None,
    ):
        super().__init__()

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.ls1 = scale()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.ls2 = scale()

    def forward(self, x: Tensor, grid: tuple[int, int, int], shard: TokenShard | None = None) -> Tensor:
        """(b, p+N, d) -> (b, p+N, d); ``grid`` = (t, h, w), which this block has no need of.

        Where several processes share the tokens, x is this process's slice of them, as ``shard`` tells.
        """
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), shard)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class DividedBlock(Block):
    """Attention over time (one patch position through all frames), then over space (one frame), then an MLP.

    The prefix takes no part in temporal attention; for spatial attention each frame gets a copy of it, and the
    copies' updates are averaged. The temporal branch has no scale of its own: ``temporal_fc`` is one.
    """

    def __init__(self, attn: SelfAttention, temporal_attn: SelfAttention, dim: int, *, order: str, **common):
        super().__init__(attn, dim, **common)
        self.order = order
        self.temporal_norm1 = nn.LayerNorm(dim, eps=self.norm1.eps)
        self.temporal_attn = temporal_attn
        self.temporal_fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(b, p+N, d) -> (b, p+N, d) with N = t·h·w for ``grid`` = (t, h, w)."""
        axes = dict(zip("thw", grid, strict=True), b=x.shape[0])
        num_prefix = self.attn.num_prefix_tokens
        prefix, patches = x[:, :num_prefix], x[:, num_prefix:]

        lines = rearrange(patches, f"b ({self.order}) d -> (b h w) t d", **axes)
        lines = self.drop_path(self.temporal_attn(self.temporal_norm1(lines)))
        patches = patches + self.temporal_fc(rearrange(lines, f"(b h w) t d -> b ({self.order}) d", **axes))

        frames = rearrange(patches, f"b ({self.order}) d -> (b t) (h w) d", **axes)
        frames = join_prefix(repeat(prefix, "b p d -> (b t) p d", t=axes["t"]), frames)
        frames = self.drop_path(self.ls1(self.attn(self.norm1(frames))))
        prefix = prefix + reduce(frames[:, :num_prefix], "(b t) p d -> b p d", "mean", t=axes["t"])
        patches = patches + rearrange(frames[:, num_prefix:], f"(b t) (h w) d -> b ({self.order}) d", **axes)

        x = join_prefix(prefix, patches)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
