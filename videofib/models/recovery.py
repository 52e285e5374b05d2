"""From soft tokens back to as many as there were, to learn from an unslimmed model (SiT, section 3.3).

Only training needs it ("reverse token slimming", arXiv 2111.12624). It is part of the model, as ``model.recovery``, so
that its gradients are averaged over processes; checkpoints keep it apart from the weights of the model.

Axes: B batch, t frames, K soft tokens, N tokens that are recovered, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from timm.layers import Mlp
from torch import Tensor, nn

from videofib.models.slimming import NORM_EPS, TokenSlimming

if TYPE_CHECKING:
    from videofib.models.timesformer import TimeSformer

TOKEN_RATIO, CHANNEL_RATIO = 4, 4  # hidden widths, over N and over D
PREFIX = "recovery."  # of the names of these parameters in a model


class TokenRecovery(nn.Module):
    """An MLP over the axis of tokens, from K to N, then one over channels: (B, K, D) -> (B, N, D).

    ::

        y = (M2 GELU(M1 LN(x)ᵀ))ᵀ     M1: K -> 4·N, M2: 4·N -> N; nothing is added, since x has other tokens
        z = y + MLP(LN(y))

    Parameters are named as published.

    Args:
        dim: D.
        num_soft, tokens: K and N.
    """

    def __init__(self, dim: int, num_soft: int, tokens: int):
        super().__init__()
        self.dim, self.num_soft, self.tokens = dim, num_soft, tokens
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp1 = Mlp(num_soft, TOKEN_RATIO * tokens, tokens)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp2 = Mlp(dim, CHANNEL_RATIO * dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp1(self.norm1(x).mT).mT
        return y + self.mlp2(self.norm2(y))

    def multiply_adds(self) -> int:
        """Of one sequence: D·(4·K·N + 4·N²) + 8·N·D²."""
        over_tokens = self.dim * TOKEN_RATIO * self.tokens * (self.num_soft + self.tokens)
        return over_tokens + 2 * CHANNEL_RATIO * self.tokens * self.dim**2


class Recoveries(nn.ModuleDict):
    """By the index of a block, the recovery of the tokens after it; those that are not slimmed yet stay as they are.

    Args:
        indices: of blocks, rising.
        frames: t where each frame is recovered by itself; 1 where a clip is.
    """

    def __init__(self, indices: Sequence[int], frames: int):
        super().__init__()
        self.indices, self.frames = list(indices), frames

    def forward(self, kept: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """Patches after each of ``indices``, frame after frame: (B, t·K, D) each -> (B, t·N, D) each."""
        return [
            self._recovered(self[str(index)], patches) if str(index) in self else patches
            for index, patches in zip(self.indices, kept, strict=True)
        ]

    def _recovered(self, recovery: nn.Module, soft: Tensor) -> Tensor:
        soft = rearrange(soft, "b (t k) d -> (b t) k d", t=self.frames)
        return rearrange(recovery(soft), "(b t) n d -> b (t n) d", t=self.frames)


class TokenTeacher(nn.Module):
    """An unslimmed model, frozen and in evaluation mode: clips -> (logits, the tokens after some blocks).

    Args:
        model: a :class:`~videofib.models.TimeSformer`.
        indices: of the blocks.
    """

    def __init__(self, model: TimeSformer, indices: Sequence[int]):
        super().__init__()
        self.model, self.indices = model.eval().requires_grad_(False), list(indices)

    @torch.no_grad()
    def forward(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, T, H, W) -> (B, K), and (B, N, D) of each block, frame after frame."""
        features, tokens = self.model.forward_intermediates(video, self.indices, output_fmt="NLC")
        return self.model.head(features), tokens


def recover_tokens(model: TimeSformer, every: int = 1) -> Recoveries:
    """Give a slimmed TimeSformer what recovers its tokens, as ``model.recovery``, and return that.

    Args:
        every: n, to recover the tokens after every n-th block only, counted from the last. A recovery costs as much as
            some blocks where N is large: D·(4·K·N + 4·N²) + 8·N·D² multiply-adds.

    Raises:
        ValueError: a model that is not slimmed, or a number below 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got every={every}")
    slimmings = {int(index): module for index, module in model.reductions.items() if isinstance(module, TokenSlimming)}
    if not slimmings:
        raise ValueError("only a model with slimming has tokens to recover; give it slimming={'after': [...]}")
    depth, (length, height, width) = len(model.blocks), model.grid
    frames = length if model.single_frames or next(iter(slimmings.values())).frames else 1
    tokens, dim = length * height * width // frames, model.norm.normalized_shape[0]
    indices = list(range(depth - 1, -1, -every))[::-1]
    recoveries, num_soft = Recoveries(indices, frames), None
    for index in range(depth):
        num_soft = slimmings[index].num_soft if index in slimmings else num_soft
        if num_soft is not None and index in indices:
            recoveries[str(index)] = TokenRecovery(dim, num_soft, tokens)
    model.recovery = recoveries
    return recoveries
