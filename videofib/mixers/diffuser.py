"""Diffuser: values spread over sparse attention in several hops (arXiv 2210.11794).

With A the matrix of a head's attention weights over a support, whose rows sum to 1::

    h_0 = v,  h_{t+1} = (1 - α) A h_t + α v,  t = 0 … T-1;  output h_T

so that h_T = ((1-α)^T A^T + α Σ_{t<T} (1-α)^t A^t) v, a truncated personalised PageRank: tokens that A does not join
reach each other over several hops, and with prefix tokens all do in two. Axes: B batch, P prefix tokens, N patches, D
width, H heads, d = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention import Support, sparse_attention, weighted_rows
from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name
from videofib.mixers.support_attention import SupportAttention

SUPPORTS = ("fibottention", "window", "dense")


def diffused_attention(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    hops: int,
    alpha: float,
    hop_drop: float = 0.0,
) -> Tensor:
    """``hops`` rounds of attention with the same queries and keys, each of which restores a share of the values.

    Memory is that of attention and, for the backward pass, of ``hops`` tensors like v.

    Args:
        attend: from queries, keys and values like q, k and v to A v, where A depends on q and k alone.
        q, k, v: (B, H, P+N, d).
        hops: T; 0 returns v.
        alpha: α, the share of a token's own values that every hop restores; 0 and one hop are plain attention.
        hop_drop: probability of dropping a number after each hop; 0 outside training.

    Returns:
        (B, H, P+N, d).
    """
    h = v
    for _ in range(hops):
        h = (1 - alpha) * attend(q, k, h) + alpha * v
        h = F.dropout(h, hop_drop) if hop_drop else h
    return h


class Diffuser(SupportAttention):
    """Self-attention over a support, diffused over ``hops``; parameters are those of any self-attention.

    The weights of attention are not kept from hop to hop but computed again from the same queries and keys, so that
    every backend serves. There is no ``masking``: keys outside the support are left out of the softmax, since logits of
    zero would join all tokens in one hop.

    Args:
        layer: the layer it is built for.
        support: ``fibottention``; ``window``, patches at most ``window`` apart; or ``dense``.
        window: of ``support="window"``: the largest distance; published blocks of 64 tokens reach 32 to each side.
        hops, alpha, hop_drop: see :func:`diffused_attention`.
        w_min, w_max, variant, head_order: of ``support="fibottention"``; see
            :meth:`videofib.attention.Support.fibottention`.

    Raises:
        ValueError: an unknown support; ``window`` < 0, ``hops`` < 1, ``alpha`` or ``hop_drop`` outside [0, 1); what
            the support refuses.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        support: str = "fibottention",
        window: int = 32,
        hops: int = 5,
        alpha: float = 0.1,
        hop_drop: float = 0.0,
        w_min: int = 5,
        w_max: int | None = None,
        variant: str = "wythoff",
        head_order: str = "none",
    ):
        check_name("support", support, SUPPORTS)
        if window < 0:
            raise ValueError(f"the window must be a distance of 0 or more, got window={window}")
        if hops < 1:
            raise ValueError(f"diffusion needs one hop or more, got hops={hops}")
        if not 0 <= alpha < 1 or not 0 <= hop_drop < 1:
            raise ValueError(f"alpha and hop_drop must lie in [0, 1), got alpha={alpha}, hop_drop={hop_drop}")
        fibottention = partial(
            Support.fibottention,
            w_min=w_min,
            w_max=w_max,
            variant=variant,
            head_order=head_order,
            layer_index=layer.index,
        )
        supports: dict[str, Callable[..., Support]] = {
            "fibottention": fibottention,
            "window": partial(_window, window=window),
            "dense": Support.dense,
        }
        of_patches = partial(supports[support], layer.num_heads, num_prefix_tokens=layer.num_prefix_tokens)
        super().__init__(layer, of_patches, backend=layer.backend)
        self.hops, self.alpha, self.hop_drop = hops, alpha, hop_drop

    def attend(self, q: Tensor, k: Tensor, v: Tensor, support: Support, **options: Any) -> Tensor:
        """Diffusion, in which every hop is :func:`videofib.attention.sparse_attention`: (B, H, P+N, d) -> the same."""

        def hop(q: Tensor, k: Tensor, h: Tensor) -> Tensor:
            return sparse_attention(q, k, h, support, **options)

        hop_drop = self.hop_drop if self.training else 0.0
        return diffused_attention(hop, q, k, v, hops=self.hops, alpha=self.alpha, hop_drop=hop_drop)

    def weighted_rows(self, x: Tensor, weights: Tensor) -> Tensor:
        """As of any self-attention, of the matrix by which values are multiplied: (B, P+N, D) -> (B, H, P+N)."""
        q, k, _ = self._projected(x)
        support = self.support_for(x.shape[1] - self.num_prefix_tokens)
        return torch.cat([self._rows_of_head(weights, q, k, support, head) for head in range(self.num_heads)], dim=1)

    def _rows_of_head(self, weights: Tensor, q: Tensor, k: Tensor, support: Support, head: int) -> Tensor:
        """Weights w (B, P+N) -> α Σ_{t<T} (1-α)^t w A^t + (1-α)^T w A^T, of one head's A: (B, 1, P+N)."""
        only = slice(head, head + 1)
        own = support.for_heads(range(head, head + 1))
        spread, total = weights[:, None], torch.zeros_like(weights[:, None])
        for _ in range(self.hops):
            total = total + self.alpha * spread
            spread = (1 - self.alpha) * weighted_rows(spread[:, 0], q[:, only], k[:, only], own)
        return total + spread

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hops={self.hops}, alpha={self.alpha}, hop_drop={self.hop_drop}"

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: four products of N tokens with D x D weights, and two over the pairs in every hop.

        The paper keeps the weights of attention, and counts the logits once for all hops.
        """
        dim, num_patches = self.proj.in_features, math.prod(grid)
        pairs = self.support_for(num_patches).num_pairs()
        tokens = self.num_prefix_tokens + num_patches
        return 4 * tokens * dim**2 + self.hops * 2 * pairs * (dim // self.num_heads)


def _window(num_heads: int, num_tokens: int, *, window: int, num_prefix_tokens: int) -> Support:
    """Patches at most ``window`` apart see each other."""
    return Support((range(min(window + 1, num_tokens)),) * num_heads, num_tokens, num_prefix_tokens)


MIXER = Mixer(
    build=Diffuser,
    paper="arXiv 2210.11794",
    multiply_adds=Diffuser.multiply_adds,
    serves=frozenset({"class_token", "slices"}),
)
