"""Token slimming: few soft tokens instead of many (SiT, arXiv 2111.12624, section 3.2).

Axes: b batch, t frames, h w grid of patches, p prefix tokens, N tokens that are slimmed, K soft tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from videofib.mixers import Grid, LayerSpec
from videofib.models.blocks import GRID, Memory
from videofib.models.reduction import Reduction, Reductions

NORM_EPS = 1e-5  # of the norm in front of the scores, as published


def slim(tokens: Tensor, scores: Tensor) -> Tensor:
    """Convex combinations of tokens: (B, N, D) and scores (B, N, K) -> (B, K, D).

    A soft token's weights are the softmax of its scores over all tokens (section 3.2), not over the soft ones.
    """
    weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=1)
    return einsum(weights.to(tokens.dtype), tokens, "b n k, b n d -> b k d")


class TokenSlimming(Reduction):
    """K soft tokens, each a convex combination of all tokens, which score themselves: (B, P+N, D) -> (B, P+K, D).

    Any N will do. Parameters are named as published.

    Args:
        dim: D.
        num_soft: K, of a clip, or of each frame.
        order, num_prefix_tokens: how tokens lie; the prefix is left as it is.
        frames: whether each frame is slimmed by itself, all with the same weights, so that a soft token is the same
            kind of thing in all of them. The grid is then (t, K, 1), otherwise (1, K, 1).
    """

    keeps_places = False

    def __init__(
        self, dim: int, num_soft: int, *, order: str = "h w t", num_prefix_tokens: int = 0, frames: bool = False
    ):
        super().__init__()
        self.dim, self.num_soft, self.order, self.num_prefix_tokens, self.frames = (
            dim,
            num_soft,
            order,
            num_prefix_tokens,
            frames,
        )
        self.weight = nn.Sequential(
            nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, num_soft)
        )
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)

    def grid_after(self, grid: Grid) -> Grid:
        return (grid[0] if self.frames else 1, self.num_soft, 1)

    def forward(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        """(b, p+N, D) -> (b, p+K, D), or with frames (b, p+t·K, D), and the memory with the grid of the soft tokens."""
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        if self.frames:
            axes = dict(zip("thw", grid, strict=True))
            patches = rearrange(patches, f"b ({self.order}) d -> (b t) (h w) d", **axes)
        soft = slim(patches, self.scale * self.weight(patches))
        if self.frames:
            soft = rearrange(soft, f"(b t) (h w) d -> b ({self.order}) d", t=grid[0], w=1)
        return torch.cat((prefix, soft), dim=1), {**memory, GRID: self.grid_after(grid)}

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: N·D²/2 + N·K·D/2 for the scores, N·K·D for the sums."""
        hidden = self.dim // 2
        return math.prod(grid) * (self.dim * hidden + hidden * self.num_soft + self.dim * self.num_soft)


def token_slimming(
    layer: LayerSpec,
    attention_type: str,
    grid: Grid,
    *,
    after: Sequence[int],
    ratio: float = 0.5,
    per_frame: bool = False,
) -> Reductions:
    """Slimming behind some blocks of a model.

    Args:
        layer: what all blocks have in common.
        grid: (t, h, w) of one sequence of tokens.
        attention_type: of the model. Attention that is not joint keeps frames apart, and so does its slimming.
        after: indices of blocks, from 0.
        ratio: tokens kept at each: behind the i-th of them int(N·ratio^i) are left, as published.
        per_frame: of joint attention, whether each frame keeps tokens of its own, rather than the clip.

    Raises:
        ValueError: blocks that there are not, a ratio that is not between 0 and 1, or one that leaves no token.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio of slimming must be above 0 and below 1, got ratio={ratio}")
    frames = per_frame or attention_type != "joint_space_time"
    tokens = grid[1] * grid[2] if frames else math.prod(grid)
    return Reductions(after, partial(_slimming, layer, tokens, ratio, frames), grid=grid, depth=layer.depth)


def _slimming(layer: LayerSpec, tokens: int, ratio: float, frames: bool, before: int, _: Grid) -> TokenSlimming:
    num_soft = int(tokens * ratio ** (before + 1))
    if num_soft < 1:
        raise ValueError(
            f"slimming {tokens} tokens to {ratio} of them {before + 1} times leaves none; name fewer blocks in after, "
            "or a larger ratio"
        )
    return TokenSlimming(
        layer.dim, num_soft, order=layer.order, num_prefix_tokens=layer.num_prefix_tokens, frames=frames
    )
