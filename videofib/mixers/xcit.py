"""Cross-covariance attention: channels attend to channels, over all tokens (XCiT, arXiv 2106.09681).

Axes: B batch, n tokens, D width, h heads, d e channels of a head.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.attention import autocast
from videofib.mixers.mixer import Grid, LayerSpec, Mixer
from videofib.mixers.token_sums import TokenSums, at_least_single

EPSILON = 1e-12  # the least length of a channel


class CrossCovarianceAttention(TokenSums):
    """XCA (section 3.2): softmax(temperature · q̂k̂ᵀ) mixes the d channels of each head.

    The rows of q̂ and k̂ are the channels of queries and keys as unit vectors over the tokens, so the d x d products are
    cosines; a learned temperature for each head takes the place of 1/√d. Tokens learn of one another through these
    cosines only. The cost is linear in the number of tokens, of which there may be any. Their order has no effect.

    Parameters are named as published (qkv, temperature, proj); qkv and proj are those of a ViT, too.

    Args:
        layer: the layer it is built for.
        mix_prefix: whether prefix tokens take part; as published they do not.

    Raises:
        ValueError: see :class:`~videofib.mixers.token_sums.TokenSums`.
    """

    def __init__(self, layer: LayerSpec, *, mix_prefix: bool = False):
        super().__init__(layer, mix_prefix)
        self.qkv = nn.Linear(layer.dim, 3 * layer.dim, bias=layer.qkv_bias)
        self.temperature = nn.Parameter(torch.ones(layer.num_heads, 1, 1))
        self.attn_drop = nn.Dropout(layer.attn_drop)
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.temperature)

    def no_weight_decay(self) -> set[str]:
        return {"temperature"}

    def mix(self, x: Tensor, total: int) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h d n", three=3, h=self.num_heads)
        weights = self.attn_drop(self._weights(q, k).to(v.dtype))
        return self.proj_drop(self.proj(rearrange(weights @ v, "b h d n -> b n (h d)")))

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Queries and keys (B, h, d, n) -> weights (B, h, d, e), which sum to 1 over e, in 32 bits or more."""
        with autocast.disabled(q.device.type):
            q, k = at_least_single(q), at_least_single(k)
            squares = torch.stack((q.square().sum(-1), k.square().sum(-1)), dim=-1)  # B h d 2
            sums = self.summed(torch.cat((q @ k.transpose(-2, -1), squares), dim=-1))
            products, squares = sums[..., :-2], sums[..., -2:]
            q_length, k_length = squares.clamp_min(EPSILON**2).sqrt().unbind(-1)
            cosines = products / (q_length[..., :, None] * k_length[..., None, :])
            return (self.temperature * cosines).softmax(-1)

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: four products of the n tokens with D x D weights, and two of n tokens with d x d a head."""
        n, dim = self.num_mixed(grid), self.proj.in_features
        return 4 * n * dim**2 + 2 * n * dim * (dim // self.num_heads)


MIXER = Mixer(
    build=CrossCovarianceAttention,
    paper="arXiv 2106.09681",
    multiply_adds=CrossCovarianceAttention.multiply_adds,
    serves=frozenset({"slices"}),
)
