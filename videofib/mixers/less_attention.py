"""LaViT's less-attention (arXiv 2406.00427): scores of an earlier block, transformed, instead of queries and keys.

With A the scores q·k/√D of a head before the softmax, N x N, and biases beside the weights ::

    attention           A_l = q k^T / √D                             out = softmax(A_l) v
    less attention      A_l = (Psi(Theta(A_l-1)^T))^T                out = softmax(A_l) v

Theta is linear along keys and Psi along queries, both N x N and shared by heads: Psi(Theta(A)^T)^T is W_Psi A W_Theta^T
and biases. So N is that of the clips which the layer is built for, prefix tokens included.

There is no official code; this is written from the paper's equations. Theta and Psi start as the identity with a little
noise, so that a layer starts by using the scores as they are; the paper does not say how they start.

Both layers are mixers whose state is the scores, (B, H, N, N). They have no row in the table of mixers, as which block
computes scores and which transforms them is not the choice of one block; see ``models/less_attention.py``.

Axes: B batch, H heads, N tokens with the prefix, D width of a head, C = H·D.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.attention.autocast import disabled
from videofib.mixers.dense_attention import DenseAttention
from videofib.mixers.mixer import Grid, LayerSpec

NOISE = 0.02  # standard deviation, around the identity


class HandingAttention(DenseAttention):
    """Dense attention that hands on its scores: the same parameters and outputs."""

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
        """(B, N, C) -> (B, N, C), and scores (B, H, N, N) of 32 bits at least."""
        q, k, v = self._projected(x)
        with disabled(x.device.type):
            scores = (_wide(q) * q.shape[-1] ** -0.5) @ _wide(k).mT
        return self.proj_drop(self.proj(_weighted(scores, v, self.attn_drop, self.training))), scores


class LessAttention(nn.Module):
    """Attention with the scores of the block before, transformed.

    Args:
        layer: the layer it is built for; its number of tokens is fixed.

    Raises:
        ValueError: a width not divisible by the number of heads.
    """

    def __init__(self, layer: LayerSpec):
        super().__init__()
        if layer.num_heads < 1 or layer.dim % layer.num_heads:
            raise ValueError(
                f"dim must be divisible by num_heads, got dim={layer.dim}, num_heads={layer.num_heads}; set another "
                "number of heads"
            )
        self.num_heads, self.num_prefix_tokens = layer.num_heads, layer.num_prefix_tokens
        self.attn_drop = layer.attn_drop
        tokens = layer.num_prefix_tokens + math.prod(layer.grid)
        self.v = nn.Linear(layer.dim, layer.dim, bias=layer.qkv_bias)
        self.theta, self.psi = nn.Linear(tokens, tokens), nn.Linear(tokens, tokens)
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Theta and Psi near the identity; the other layers as the model does."""
        for layer in (self.theta, self.psi):
            with torch.no_grad():
                layer.weight.normal_(std=NOISE)
                layer.weight.diagonal().add_(1)
            nn.init.zeros_(layer.bias)

    def no_weight_decay(self) -> set[str]:
        """Theta and Psi, which decay would take from the identity to nothing."""
        return {"theta.weight", "psi.weight"}

    def scores(self, before: Tensor) -> Tensor:
        """The scores of the block before -> those of this one: (B, H, N, N) -> (B, H, N, N)."""
        with disabled(before.device.type):
            before = _wide(before)
            mixed = F.linear(before, self.theta.weight.to(before), self.theta.bias.to(before))  # along keys
            return F.linear(mixed.mT, self.psi.weight.to(before), self.psi.bias.to(before)).mT  # along queries

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, N, C) -> (B, N, C), and its scores.

        Raises:
            ValueError: the state holds no scores of these tokens.
        """
        if state is None or state.shape[-1] != x.shape[1] or x.shape[1] != self.theta.in_features:
            found = "none" if state is None else f"those of {state.shape[-1]} tokens"
            raise ValueError(
                f"less attention is built for {self.theta.in_features} tokens and transforms the scores of as many; "
                f"got {x.shape[1]} tokens, and scores: {found}"
            )
        scores = self.scores(state)
        v = rearrange(self.v(x), "b n (h d) -> b h n d", h=self.num_heads)
        return self.proj_drop(self.proj(_weighted(scores, v, self.attn_drop, self.training))), scores

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: values and output, weights times values, and Theta and Psi in every head."""
        dim, tokens = self.proj.in_features, self.theta.in_features
        return less_attention_multiply_adds(tokens, dim, self.num_heads)


def less_attention_multiply_adds(num_tokens: int, dim: int, num_heads: int) -> int:
    """Multiply-adds of :class:`LessAttention` for a sequence of N tokens."""
    return 2 * num_tokens * dim**2 + num_tokens**2 * dim + 2 * num_heads * num_tokens**3


def diagonality(maps: Tensor, *, printed: bool = False) -> Tensor:
    """How far attention maps are from symmetric with a strong diagonal, for each map: (..., N, N) -> (...).

    The diagonality-preserving loss, Σ_ij |A_ij - A_ji| ± Σ_i ((N-1) A_ii - Σ_{j≠i} A_ij). The paper prints a plus, with
    which a smaller loss has a *weaker* diagonal, although the text wants it stronger; by default the sign is minus.

    Args:
        maps: A. Rows of a softmax bound the loss; raw scores do not.
        printed: the sign as printed.
    """
    asymmetry = (maps - maps.mT).abs().sum(dim=(-2, -1))
    diagonal = maps.diagonal(dim1=-2, dim2=-1).sum(-1) * maps.shape[-1] - maps.sum(dim=(-2, -1))
    return asymmetry + diagonal if printed else asymmetry - diagonal


def _wide(x: Tensor) -> Tensor:
    """With 32 bits at least: 16-bit floats overflow after a few linear layers along scores."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _weighted(scores: Tensor, v: Tensor, drop: float, training: bool) -> Tensor:
    """softmax(scores) v: (B, H, N, N) and (B, H, N, D) -> (B, N, H·D), in the dtype of v."""
    weights = F.dropout(scores.softmax(-1).to(v.dtype), drop, training)
    return rearrange(weights @ v, "b h n d -> b n (h d)")
