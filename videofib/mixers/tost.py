"""Token statistics: tokens scaled by second moments of soft groups, without pairs of tokens (ToST, arXiv 2412.17810).

Axes: B batch, n tokens, D width, h heads (groups), d channels of a head.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.attention import ContextGroup, autocast
from videofib.mixers.mixer import Grid, LayerSpec, Mixer
from videofib.mixers.token_sums import TokenSums, at_least_single

SQUARE_EPSILON = 1e-24  # the least sum of squares of a channel: of a length of 1e-12
CAUSAL_SQUARE_EPSILON = 1e-12
MASS_EPSILON = 1e-8  # added to the mass of a group


class TokenStatistics(TokenSums):
    """TSSA (section 3): each head is a group, and each token belongs to the groups in shares.

    The shares are a softmax over the heads of how long the token is in the head's channels, relative to all tokens. A
    head then scales its channels by 1 / (1 + second moment of its group), times the token's share::

        out = -share · w / (1 + Σ share·w² / Σ share)        with sums over the tokens

    Nothing of another token's content is copied. The cost is linear in the number of tokens. Unless ``causal``, their
    order has no effect.

    Parameters are named as published: ``qkv`` is one D x D projection, w; ``to_out.0`` is the last one.

    Args:
        layer: the layer it is built for.
        mix_prefix: whether prefix tokens take part; as published they do not.
        reference_tokens: n₀. The logits of the shares shrink as 1/n, so that with many tokens all shares are equal, and
            weights mean something else at another n. With n₀ they are multiplied by n / n₀, and are then as large as
            those of n₀ tokens. None: as published.
        causal: the form for language: statistics of a token and of those before it in ``layer.order``, with a learned
            bias (``denom_bias``) for each head and position. It takes up to as many tokens as the layer is built for.

    Raises:
        ValueError: ``reference_tokens`` below 1 or with ``causal``, and see
            :class:`~videofib.mixers.token_sums.TokenSums`.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        mix_prefix: bool = False,
        reference_tokens: int | None = None,
        causal: bool = False,
    ):
        super().__init__(layer, mix_prefix)
        if reference_tokens is not None and reference_tokens < 1:
            raise ValueError(f"reference_tokens must be 1 or more, or None, got reference_tokens={reference_tokens}")
        if reference_tokens is not None and causal:
            raise ValueError(
                f"reference_tokens scales by the number of all tokens, and causal=True sees no later ones; got "
                f"reference_tokens={reference_tokens}, causal=True; leave one out"
            )
        self.reference_tokens = reference_tokens
        self.qkv = nn.Linear(layer.dim, layer.dim, bias=layer.qkv_bias)
        self.temp = nn.Parameter(torch.ones(layer.num_heads, 1))
        most = self.num_mixed(layer.grid)
        self.denom_bias = nn.Parameter(torch.zeros(layer.num_heads, most, 1)) if causal else None
        self.attn_drop = nn.Dropout(layer.attn_drop)
        self.to_out = nn.Sequential(nn.Linear(layer.dim, layer.dim), nn.Dropout(layer.proj_drop))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.temp)
        if self.denom_bias is not None:
            nn.init.zeros_(self.denom_bias)

    def no_weight_decay(self) -> set[str]:
        return {"temp"} if self.denom_bias is None else {"temp", "denom_bias"}

    def share_tokens(self, context: ContextGroup) -> None:
        """From now on ``forward`` takes and returns this process's slice of the P+N tokens.

        Raises:
            ValueError: the causal form.
        """
        if self.denom_bias is not None:
            raise ValueError(
                "processes cannot share the tokens of tost with causal=True; set causal=False, or let one process "
                "compute each clip"
            )
        super().share_tokens(context)

    def mix(self, x: Tensor, total: int) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        w = rearrange(self.qkv(x), "b n (h d) -> b h n d", h=self.num_heads)
        gated = (self._gated(w, total) if self.denom_bias is None else self._causal(w, self.denom_bias)).to(w.dtype)
        return self.to_out(rearrange(gated, "b h n d -> b n (h d)"))

    def _gated(self, w: Tensor, total: int) -> Tensor:
        """Scale the tokens of each group by its statistics: (B, h, n, d) -> (B, h, n, d), in 32 bits or more."""
        with autocast.disabled(w.device.type):
            w = at_least_single(w)
            squares = w.square()
            lengths = self.summed(squares.sum(-2)).clamp_min(SQUARE_EPSILON)  # B h d
            logits = self.temp * (squares @ lengths.reciprocal()[..., None]).squeeze(-1)  # B h n
            if self.reference_tokens is not None:
                logits = logits * (total / self.reference_tokens)
            shares = logits.softmax(1)[..., None, :]  # B h 1 n
            sums = self.summed(torch.cat((shares @ squares, shares.sum(-1, keepdim=True)), dim=-1))  # B h 1 d+1
            moments = sums[..., :-1] / (sums[..., -1:] + MASS_EPSILON)
            return -shares.transpose(-2, -1) * w * self.attn_drop(1 / (1 + moments))

    def _causal(self, w: Tensor, bias: Tensor) -> Tensor:
        """The same with the statistics of each token and of those before it."""
        n, most = w.shape[-2], bias.shape[1]
        if n > most:
            raise ValueError(
                f"tost with causal=True is built for up to {most} tokens, got {n}; build it for such clips"
            )
        with autocast.disabled(w.device.type):
            w = at_least_single(w)
            squares = w.square()
            relative = squares / squares.cumsum(-2).clamp_min(CAUSAL_SQUARE_EPSILON)
            logits = self.temp * (relative + bias[:, :n]).sum(-1)  # the bias d times, as published
            shares = logits.softmax(1)[..., None]  # B h n 1
            moments = (shares * squares).cumsum(-2) / (shares.cumsum(-2) + MASS_EPSILON)
            return -shares * w * self.attn_drop(1 / (1 + moments))

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: two products of the n tokens with D x D weights, and two with one number a channel.

        The causal form has cumulative sums in place of the latter, which are not counted.
        """
        n, dim = self.num_mixed(grid), self.qkv.in_features
        return 2 * n * dim**2 + (2 * n * dim if self.denom_bias is None else 0)


MIXER = Mixer(
    build=TokenStatistics,
    paper="arXiv 2412.17810",
    multiply_adds=TokenStatistics.multiply_adds,
    serves=frozenset({"slices"}),
)
